
// What the page shows as files: tables as CSV, figures as SVG and PNG, lists of genes on the clipboard. All is made here.
(function () {
  const { WHITE, FONT, light, stem, give, giveSvg, givePng } = celboFiles;

  function textOf(title) { return Array.from(title.childNodes).filter((n) => n.nodeName !== "SMALL").map((n) => n.textContent).join(" ").trim(); }
  function titleOf(card) { return card.querySelector(":scope > figcaption, :scope > h3, :scope > div > h3"); }
  function nameOf(card, kind) {
    const part = card.closest("section"), before = card.previousElementSibling, group = card.closest(".compared");
    const title = titleOf(card) || (before && before.matches("h3") ? before : part && part.querySelector("h2"));
    const which = group && group.dataset.group && group.dataset.group !== "*" ? " " + group.dataset.group : "";
    const again = card.classList.contains("variants") ? " drawn again" : "";
    return stem(document.title).slice(0, 40) + "_" + stem((title ? textOf(title) : "") + again + which) + "." + kind;
  }
  function button(words, title, act) {
    const node = document.createElement("button");
    node.type = "button";
    node.textContent = words;
    node.title = title;
    node.addEventListener("click", act);
    return node;
  }
  function row(card) {
    let box = card.querySelector(":scope > .save");
    if (!box) {
      box = document.createElement("div");
      box.className = "save";
      card.append(box);
    }
    return box;
  }

  // ----------------------------------------------------------------------------------------------------------- tables

  function plain(words) {
    const text = words.replace(/\u00ad/g, "").replace(/\s+/g, " ").trim();
    if (/^\u2013( [a-z])?$/.test(text)) return "";  // none, or none for the reason of a footnote
    const number = text.replace(/\u2212/g, "-");
    return /^-?\d{1,3}(,\d{3})+(\.\d+)?$/.test(number) ? number.replace(/,/g, "") : /^-?[\d.]+(%|e-?\d+)?$/.test(number) ? number : text;
  }
  function field(value) {
    if (value === null || value === undefined) return "";
    let text = String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text) && !/^-?(inf|\d*\.?\d+(e[+-]?\d+)?%?)$/i.test(text)) text = "'" + text;  // a spreadsheet would run it
    return /[",\n\r]/.test(text) ? '"' + text.replace(/"/g, '""') + '"' : text;
  }
  function csv(rows) { return "\ufeff" + rows.map((row) => row.map(field).join(",")).join("\r\n") + "\r\n"; }
  function cellText(cell) {
    if (cell.dataset.value !== undefined) return cell.dataset.value;
    const first = cell.firstElementChild;  // a name with its meaning below
    if (cell.tagName === "TD" && first && first.tagName === "B" && cell.children.length > 1) return plain(first.textContent);
    const left = cell.tagName === "TH" ? ["svg", "SMALL"] : ["svg"];
    const parts = Array.from(cell.childNodes).filter((n) => !left.includes(n.nodeName)).map((n) => n.textContent.trim()).filter(Boolean);
    return plain(parts.join(" "));
  }
  function rowsOf(table) {
    const block = document.getElementById("marker-data");
    if (table.id === "markers" && block) {
      const data = JSON.parse(block.textContent);
      return [data.columns, ...data.rows.map((row) => row.map((v) => (typeof v === "number" && Math.abs(v) >= 1e300 ? (v < 0 ? "-inf" : "inf") : v)))];
    }
    let part = "";
    const found = [];
    const parts = new Set();
    for (const line of table.rows) {
      if (line.hidden) continue;
      if (line.cells.length === 1 && line.cells[0].colSpan > 1) { part = cellText(line.cells[0]); parts.add(part); continue; }
      const wide = [];
      for (const cell of line.cells) wide.push(cellText(cell), ...Array(cell.colSpan - 1).fill(""));
      found.push([part, ...wide]);
    }
    const heads = table.tHead ? table.tHead.rows.length : 1;
    if (heads === 2 && found.length > 1) {  // groups of columns above their names: one heading
      const [groups, names] = found.splice(0, 2);
      let group = "";
      found.unshift(names.map(function (name, i) { group = groups[i] || group; return i > 1 && group ? group + ": " + name : name; }));
    }
    const used = new Set();  // columns that hold drawings alone are left out
    found.slice(1).forEach((line) => line.forEach((value, i) => { if (value !== "") used.add(i); }));
    if (parts.size) found[0][0] = "part";
    if (found.length && found[0][1] === "") found[0][1] = "name";
    const columns = Array.from(used).sort((a, b) => a - b);
    return found.map((line) => columns.map((i) => line[i] ?? ""));
  }
  document.querySelectorAll("main table:not([data-unsaved])").forEach(function (table) {
    const card = table.closest(".card") || table.parentElement;
    row(card).append(button("CSV", "Save this table as CSV", function () {
      give(new Blob([csv(rowsOf(table))], { type: "text/csv;charset=utf-8" }), nameOf(card, "csv"));
    }));
  });

  // ---------------------------------------------------------------------------------------------------------- figures

  let space = "";  // of SVG elements
  function element(name, values, words) {
    const node = document.createElementNS(space, name);
    for (const [key, value] of Object.entries(values)) node.setAttribute(key, value);
    if (words !== undefined) node.textContent = words;
    return node;
  }
  function toned(value) { return value.replace(/var\((--[\w-]+)\)/g, (whole, name) => light[name] || "#000000"); }
  function picture(svg) {  // a copy that needs no style sheet
    const copy = svg.cloneNode(true), [, , wide, high] = svg.getAttribute("viewBox").split(/[ ,]+/).map(Number);
    for (const node of [copy, ...copy.querySelectorAll("*")]) {
      for (const { name, value } of Array.from(node.attributes)) if (value.includes("var(--")) node.setAttribute(name, toned(value));
      if (node.nodeName === "style") node.textContent = toned(node.textContent);
    }
    if (svg.classList.contains("map")) copy.querySelectorAll("text").forEach(function (node) {
      node.setAttribute("style", "font:600 22px " + FONT + ";fill:" + light["--ink"] + ";stroke:" + WHITE
        + ";stroke-width:5px;stroke-linejoin:round;paint-order:stroke;text-anchor:middle;dominant-baseline:central");
    });
    copy.removeAttribute("class");
    return { copy, wide, high };
  }
  const pen = document.createElement("canvas").getContext("2d");
  function widthOf(words, size) { pen.font = size + "px " + FONT; return pen.measureText(words).width; }

  function entries(card) {  // what the legend says: colours with names, and colour scales
    const out = [], part = card.closest("section"), own = card.querySelector(".legend");
    const keys = own || !part || !card.querySelector("svg.map") ? [] : Array.from(part.querySelectorAll(".map-key"))
      .filter((key) => key.compareDocumentPosition(card) & Node.DOCUMENT_POSITION_FOLLOWING);
    (keys.length ? keys[keys.length - 1] : card).querySelectorAll(".legend > span, span.none").forEach(function (item) {
      const dot = item.querySelector("i");
      out.push({ colour: dot ? getComputedStyle(dot).backgroundColor : null, words: item.textContent.trim() });
    });
    card.querySelectorAll(".ramp").forEach(function (ramp) {
      ramp.childNodes.forEach(function (node) {
        if (node.nodeName === "I") {
          const stops = toned(node.getAttribute("style") || "").match(/#[0-9a-f]{6}/gi);
          if (stops) out.push({ stops });
        } else if (node.nodeName === "svg") {
          out.push({ dot: Number(node.getAttribute("width")) });
        } else if (node.textContent.trim()) {
          out.push({ words: node.textContent.trim() });
        }
      });
    });
    return out;
  }
  function write(whole, x, y, words, size, weight) {
    whole.append(element("text", { x, y, "font-size": size, "font-weight": weight || 400, "font-family": FONT, fill: light["--ink"] }, words));
  }
  function legend(whole, items, top, wide) {
    let x = 12, y = top;
    items.forEach(function (item, i) {
      const mark = item.stops ? 110 : item.dot ? item.dot : item.colour ? 12 : 0;
      const size = mark + (item.words ? 6 + widthOf(item.words, 12) : 0);
      if (x > 12 && x + size > wide - 12) { x = 12; y += 20; }
      if (item.stops) {
        const shade = element("linearGradient", { id: "scale" + i });
        item.stops.forEach((colour, k) => shade.append(element("stop", { offset: k / Math.max(item.stops.length - 1, 1), "stop-color": colour })));
        whole.append(shade, element("rect", { x, y: y - 9, width: 110, height: 9, rx: 4, fill: "url(#scale" + i + ")" }));
      } else if (mark) {
        whole.append(element("circle", { cx: x + mark / 2, cy: y - 4, r: item.dot ? item.dot / 2 : 5, fill: item.colour || light["--muted"] }));
      }
      if (item.words) write(whole, x + (mark ? mark + 6 : 0), y, item.words, 12);
      x += size + 14;
    });
    return y + 12;
  }
  function figure(card) {  // title, pictures side by side with what stands below them, legend
    const svgs = Array.from(card.querySelectorAll("svg.plot, svg.map")), gap = 16;
    const found = svgs.map(picture), narrow = Math.min(...found.map((f) => f.wide)) < 200;
    const title = titleOf(card), more = title ? title.querySelector("small") : null;
    const small = more ? more.textContent.trim() : "", words = title ? textOf(title) : "";
    const line = (widths) => widths.reduce((sum, w) => sum + w + gap, gap);
    const perRow = Math.max(1, Math.floor(1400 / (Math.max(...found.map((f) => f.wide)) + gap)));
    const wide = Math.max(line(found.slice(0, perRow).map((f) => f.wide)), narrow ? 0 : 260);
    space = svgs[0].namespaceURI;
    const whole = element("svg", {});
    const ground = element("rect", { width: "100%", height: "100%", fill: WHITE });
    whole.append(ground);
    let top = 12;
    if (words) {
      write(whole, 12, 24, words, 14, 600);
      const beside = 12 + 1.1 * widthOf(words, 14) + 8, fits = beside + widthOf(small, 12) < wide - 12;
      if (small) write(whole, fits ? beside : 12, fits ? 24 : 42, small, 12);
      top = small && !fits ? 54 : 38;
    }
    let x = gap, low = top;
    found.forEach(function (f, i) {
      if (i && i % perRow === 0) { x = gap; top = low + 8; }
      for (const [key, value] of Object.entries({ x, y: top, width: f.wide, height: f.high })) f.copy.setAttribute(key, value);
      whole.append(f.copy);
      const under = svgs.length > 1 ? svgs[i].parentElement.querySelector("p, figcaption") : null;
      if (under && under !== title) write(whole, x + 4, top + f.high + 16, under.textContent.trim(), 12);
      low = Math.max(low, top + f.high + (under ? 22 : 0));
      x += f.wide + gap;
    });
    const items = entries(card);
    const high = items.length ? legend(whole, items, low + 20, wide) : low + 12;
    whole.setAttribute("viewBox", "0 0 " + wide + " " + high);
    whole.setAttribute("width", wide);
    whole.setAttribute("height", high);
    return { text: new XMLSerializer().serializeToString(whole), wide, high };
  }
  document.querySelectorAll("main .card").forEach(function (card) {
    if (card.querySelector(".card") || !card.querySelector("svg.plot, svg.map")) return;
    row(card).append(button("SVG", "Save this figure as SVG", () => giveSvg(figure(card), nameOf(card, "svg"))), button("PNG", "Save this figure as PNG", () => givePng(figure(card), nameOf(card, "png"))));
  });

  // ------------------------------------------------------------------------------------------------------------ genes

  function told(node, words) {
    const was = node.dataset.words || node.textContent;
    node.dataset.words = was;
    node.textContent = words;
    setTimeout(() => { node.textContent = was; }, 1500);
  }
  function fallback(words) {  // pages opened from a file may lack the clipboard
    const area = document.createElement("textarea");
    area.value = words;
    area.className = "offscreen";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
  document.addEventListener("click", function (event) {
    const from = event.target.closest("button[data-copy]");
    if (!from) return;
    const words = JSON.parse(from.dataset.copy).join("\n");
    const report = (done) => told(from, done ? "Copied" : "Not allowed here");
    if (navigator.clipboard && window.isSecureContext) {
      navigator.clipboard.writeText(words).then(() => report(true), () => report(fallback(words)));
    } else report(fallback(words));
  });
})();
