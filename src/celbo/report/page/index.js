
// The index: marks the section in sight, and closes after a choice on a narrow screen.
(function () {
  const bar = document.querySelector("nav.index");
  if (!bar) return;
  const links = Array.from(bar.querySelectorAll("a"));
  const goals = links.map((link) => document.getElementById(link.hash.slice(1)));
  const open = bar.querySelector("input"), now = bar.querySelector("label span");
  let current = -1;

  function mark() {
    const line = bar.getBoundingClientRect().bottom + 120;
    let i = goals.length - 1;
    if (window.innerHeight + window.scrollY < document.documentElement.scrollHeight - 4)
      while (i > 0 && goals[i].getBoundingClientRect().top > line) i--;
    if (i === current) return;
    current = i;
    links.forEach((link, j) => (j === i ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
    now.textContent = links[i].textContent;
    const list = links[i].closest("ul"), item = links[i].parentElement;
    if (list.scrollWidth > list.clientWidth) list.scrollLeft = item.offsetLeft - list.clientWidth / 2 + item.offsetWidth / 2;
  }
  links.forEach((link) => link.addEventListener("click", function () { open.checked = false; }));
  window.addEventListener("scroll", () => requestAnimationFrame(mark), { passive: true });
  window.addEventListener("resize", mark);
  mark();
})();
