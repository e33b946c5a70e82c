
// The cards of the clusters: ten genes each, those that pass the filters. The table below has the same filters.
(function () {
  const cards = Array.from(document.querySelectorAll(".marker-card")), block = document.getElementById("marker-data");
  const inputs = Array.from(document.querySelectorAll(".marker-filters input"));
  if (!cards.length || !block || !inputs.length) return;
  const data = JSON.parse(block.textContent), most = 10;
  const at = (key) => data.keys.indexOf(key);
  const byGroup = new Map();
  data.rows.forEach(function (row) {
    const group = row[data.group];
    if (!byGroup.has(group)) byGroup.set(group, []);
    byGroup.get(group).push(row);
  });

  function make(tag, kind, text) {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text;
    return node;
  }
  function passes() {
    const asked = inputs.filter((input) => input.value !== "" && Number.isFinite(Number(input.value))).map(function (input) {
      const column = at(input.dataset.column), limit = Number(input.value) / (data.share[column] ? 100 : 1);
      return input.dataset.side === "least" ? (row) => row[column] !== null && row[column] >= limit : (row) => row[column] !== null && row[column] <= limit;
    });
    return (row) => asked.every((test) => test(row));
  }
  function line(row) {
    const out = make("tr"), first = make("td", "gene"), gene = make("button", "", row[data.gene]);
    gene.type = "button";
    gene.dataset.gene = row[data.gene];
    first.append(gene);
    out.append(first);
    const fold = at("lfc_median"), found = ["detection1", "detection2"].map(at).filter((i) => i >= 0);
    if (fold >= 0) out.append(make("td", "number", row[fold] === null ? "\u2013" : row[fold].toFixed(2).replace("-", "\u2212")));
    if (found.length) {
      const cell = make("td", "found"), bars = make("span", "bars");
      found.forEach(function (i) { const bar = make("i"); bar.style.width = Math.round(100 * row[i]) + "%"; bars.append(bar); });
      cell.append(bars, found.map((i) => (100 * row[i]).toFixed(0) + "%").join(" / "));
      out.append(cell);
    }
    return out;
  }
  function draw() {
    const good = passes();
    cards.forEach(function (card) {
      const rows = (byGroup.get(card.dataset.group) || []).filter(good).slice(0, most);
      const body = card.querySelector("tbody"), copy = card.querySelector("button[data-copy]");
      body.replaceChildren(...rows.map(line));
      copy.dataset.copy = JSON.stringify(rows.map((row) => row[data.gene]));
      copy.disabled = !rows.length;
      if (!rows.length) {
        const cell = make("td", "note", "no gene passes");
        cell.colSpan = 3;
        const empty = make("tr");
        empty.append(cell);
        body.append(empty);
      }
    });
    document.dispatchEvent(new CustomEvent("celbo-filter", { detail: good }));
  }
  inputs.forEach((input) => input.addEventListener("input", draw));
})();
