
// The figures: those of the group that is chosen, or the dots of all; a click on a group in its table chooses it.
(function () {
  const choice = document.getElementById("marker-group");
  if (!choice) return;
  const panels = Array.from(document.querySelectorAll(".compared"));

  function show() {
    panels.forEach(function (panel) { panel.hidden = panel.dataset.group !== choice.value; });
  }
  function choose(group) {
    choice.value = group;
    choice.dispatchEvent(new Event("change"));
    document.getElementById("genes").scrollIntoView();
  }
  choice.addEventListener("change", show);
  document.querySelectorAll("#group-table button").forEach(function (button) {
    button.addEventListener("click", function () { choose(button.dataset.group); });
  });
  choice.dispatchEvent(new Event("change"));
})();
