"use strict";
// The marker table: sort by a click on a heading, filter by gene and cluster, pages of 25. Names go through textContent only.
(function () {
  const table = document.getElementById("markers");
  const block = document.getElementById("marker-data");
  if (!table || !block) return;
  const data = JSON.parse(block.textContent);
  const size = 25;
  const state = { column: data.sort, down: true, page: 0, gene: "", group: "", passes: null };
  const $ = (id) => document.getElementById(id);

  function make(tag, text, kind) {
    const node = document.createElement(tag);
    node.textContent = text;
    if (kind) node.className = kind;
    return node;
  }
  function write(value, i) {
    if (value === null) return "\u2013";
    if (typeof value === "string") return value;
    if (data.share[i]) return (100 * value).toFixed(0) + "%";
    if (Math.abs(value) >= 1e300) return value < 0 ? "\u2212\u221e" : "\u221e";
    if (data.small[i] && value < 0.0005) return value < 1e-100 ? "<1e-100" : value.toExponential(0);
    if (data.sure[i] && value > 0.9995) return ">0.999";
    return (value < 0 ? "\u2212" : "") + Math.abs(value).toFixed(data.digits[i]);
  }
  function order(a, b) {
    const x = a[state.column], y = b[state.column];
    if (x === y) return 0;
    if (x === null) return 1;
    if (y === null) return -1;
    const less = typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y;
    return state.down ? -less : less;
  }
  const own = new Map(Object.entries(data.own || {}));  // identifiers of genes that are shown by their symbols
  function chosen() {
    const gene = state.gene.toLowerCase();
    return data.rows
      .filter((r) => (!gene || r[data.gene].toLowerCase().includes(gene) || (own.get(r[data.gene]) || "").toLowerCase().includes(gene)) && (!state.group || r[data.group] === state.group) && (!state.passes || state.passes(r)))
      .sort(order);
  }
  function heading(name, i) {
    const cell = make("th", "", data.number[i] ? "number" : "");
    const button = make("button", name);
    button.type = "button";
    button.title = data.help[i];
    button.addEventListener("click", function () {
      state.down = state.column === i ? !state.down : data.number[i];
      state.column = i;
      state.page = 0;
      draw();
    });
    cell.scope = "col";
    cell.setAttribute("aria-sort", state.column === i ? (state.down ? "descending" : "ascending") : "none");
    cell.append(button);
    return cell;
  }
  function line(values) {
    const row = document.createElement("tr");
    values.forEach(function (value, i) {
      const cell = make("td", write(value, i), data.number[i] ? "number" : i === data.gene ? "gene" : "");
      if (typeof value === "string") cell.title = value;
      row.append(cell);
    });
    return row;
  }
  function draw() {
    const rows = chosen();
    const pages = Math.max(1, Math.ceil(rows.length / size));
    state.page = Math.min(Math.max(state.page, 0), pages - 1);
    const head = document.createElement("tr");
    head.append(...data.columns.map(heading));
    const part = rows.slice(state.page * size, (state.page + 1) * size);
    table.tHead.replaceChildren(head);
    table.tBodies[0].replaceChildren(...part.map(line));
    $("marker-count").textContent = rows.length
      ? (state.page * size + 1) + "\u2013" + (state.page * size + part.length) + " of " + rows.length.toLocaleString("en")
      : "no gene matches";
    $("marker-back").disabled = state.page === 0;
    $("marker-next").disabled = state.page >= pages - 1;
  }
  function turn(by) {
    return function () { state.page += by; draw(); };
  }
  $("marker-gene").addEventListener("input", function () { state.gene = this.value.trim(); state.page = 0; draw(); });
  if ($("marker-group")) $("marker-group").addEventListener("change", function () { state.group = this.value; state.page = 0; draw(); });
  document.addEventListener("celbo-filter", function (event) { state.passes = event.detail; state.page = 0; draw(); });
  $("marker-back").addEventListener("click", turn(-1));
  $("marker-next").addEventListener("click", turn(1));
  draw();
})();
