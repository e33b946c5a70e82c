"use strict";
// What thresholds keep together: three numbers, judged on the cells that the page holds. Names go through textContent only.
(function () {
  const box = document.querySelector(".trial");
  if (!box) return;
  const data = JSON.parse(box.dataset.cells);
  const inputs = Array.from(box.querySelectorAll("input[data-rule]"));
  const told = box.querySelector(".kept");
  const flags = box.querySelector(".flags");
  const n = data.values.length ? data.values[0].length : 0;
  const exact = n === data.total;

  function percent(share) {
    if (share >= 0.9995 && share < 1) return ">99.9%";
    if (share > 0 && share < 0.0005) return "<0.1%";
    return (100 * share).toFixed(1).replace(".0", "") + "%";
  }
  function judge() {
    const asked = inputs.filter((input) => input.value !== "" && Number.isFinite(Number(input.value)));
    const keeps = (i) => asked.every(function (input) {
      const rule = Number(input.dataset.rule), value = data.values[rule][i], limit = Number(input.value);
      return data.rules[rule].least ? value >= limit : value <= limit;
    });
    const sizes = data.names.map(() => 0), kept = data.names.map(() => 0);
    let all = 0;
    for (let i = 0; i < n; i++) {
      const good = keeps(i), batch = data.batch[i];
      if (good) all += 1;
      if (batch >= 0) { sizes[batch] += 1; if (good) kept[batch] += 1; }
    }
    flags.hidden = !asked.length;
    flags.textContent = asked.map((input) => data.rules[Number(input.dataset.rule)].option + " " + Number(input.value)).join(" ");
    if (!asked.length) { told.textContent = "All cells are kept."; return; }
    let words = exact
      ? "Keeps " + all.toLocaleString("en") + " of " + n.toLocaleString("en") + " cells (" + percent(all / n) + ")"
      : "Keeps about " + percent(all / n) + " of the " + data.total.toLocaleString("en") + " cells";
    let worst = -1;
    sizes.forEach(function (size, i) { if (size && (worst < 0 || kept[i] / size < kept[worst] / sizes[worst])) worst = i; });
    if (worst >= 0 && data.names.length > 1) words += "; least in " + data.names[worst] + ": " + percent(kept[worst] / sizes[worst]);
    told.textContent = words + ".";
  }
  inputs.forEach((input) => input.addEventListener("input", judge));
  judge();
})();
