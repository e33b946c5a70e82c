"use strict";
// The table of methods: a heading sorts by its column, best first, then last first; "Method" brings the families back.
(function () {
  const table = document.getElementById("methods");
  if (!table) return;
  const homes = Array.from(table.tBodies);
  const rows = homes.map((body) => Array.from(body.rows));
  const all = rows.flat().filter((row) => !row.classList.contains("family"));
  const flat = document.createElement("tbody");
  const buttons = Array.from(table.tHead.querySelectorAll("button[data-column]"));
  const state = { column: -1, first: true };

  function value(row) {
    const given = row.cells[state.column + 1].dataset.value;
    return given === undefined ? null : given === "inf" ? Infinity : given === "-inf" ? -Infinity : Number(given);
  }
  function tell() {
    buttons.forEach(function (button, i) {
      const up = (button.dataset.better === "lower") === state.first;
      button.parentElement.setAttribute("aria-sort", i === state.column ? (up ? "ascending" : "descending") : "none");
    });
  }
  function home() {
    state.column = -1;
    table.classList.remove("sorted");
    flat.remove();
    homes.forEach(function (body, i) { body.append(...rows[i]); table.append(body); });
    tell();
  }
  function sort(button) {
    const column = Number(button.dataset.column);
    state.first = state.column === column ? !state.first : true;
    state.column = column;
    const sign = (button.dataset.better === "lower") === state.first ? 1 : -1;
    flat.append(...all.slice().sort(function (a, b) {
      const x = value(a), y = value(b);
      if (x === null || y === null) return (x === null) - (y === null);
      return x === y ? 0 : x < y ? -sign : sign;
    }));
    table.classList.add("sorted");
    homes.forEach((body) => body.remove());
    table.append(flat);
    tell();
  }
  buttons.forEach((button) => button.addEventListener("click", () => sort(button)));
  table.tHead.querySelector("button[data-home]").addEventListener("click", home);
})();
