
// The map of cells: drawn on a canvas, coloured by what is chosen. Names go through textContent and fillText only.
(function () {
  const block = document.getElementById("map-data"), app = document.getElementById("cell-map");
  if (!block || !app) return;
  const data = JSON.parse(block.textContent);
  if (!data.spaces || !data.n) return;
  app.hidden = false;

  const $ = (selector) => app.querySelector(selector);
  const root = document.documentElement;
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const groups = new Map(data.groups.map((g) => [g.key, Object.assign(g, { codes: celboNumbers.codes(g.codes, g.wide) })]));
  const amounts = data.amounts.map((a) => Object.assign(a, { values: celboNumbers.amounts(a.values) }));
  const genes = new Map();
  data.genes.forEach((gene) => { for (const name of [gene.id, gene.name]) if (name) genes.set(name.toLowerCase(), gene); });
  const clusters = groups.get("cluster") || groups.get("label");
  const order = shuffled(data.n);
  const BINS = 64, NAMES = "600 12.5px ";

  function make(tag, kind, text) {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text;
    if (tag === "button") node.type = "button";
    return node;
  }
  function shuffled(n) {
    const out = Uint32Array.from({ length: n }, (_, i) => i);
    let seed = 1;
    for (let i = n - 1; i > 0; i--) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      const j = seed % (i + 1);
      [out[i], out[j]] = [out[j], out[i]];
    }
    return out;
  }
  function number(value, whole) {
    return whole ? Math.round(value).toLocaleString("en") : value.toLocaleString("en", { maximumFractionDigits: 2 });
  }
  function tone(name) { return getComputedStyle(root).getPropertyValue(name).trim(); }
  function nameOf(group, code) { return group.names[code].filter(Boolean).join(" \u00b7 "); }

  // ---------------------------------------------------------------------------------------------- what is coloured by
  // A view is {kind, title, ...}: "group" with codes, or "amount" with values and the ends of its scale.

  let view = null;
  const off = new Set();
  let lifted = -1, liftedGroup = null;

  function quantile(values, q) {
    const sorted = Float32Array.from(values).sort();
    return sorted.length ? sorted[Math.min(sorted.length - 1, Math.round(q * (sorted.length - 1)))] : 0;
  }
  function amountView(amount) {
    const values = amount.values, scale = amount.log ? Math.log1p : (v) => v;
    return { kind: "amount", key: amount.title, title: amount.title, unit: amount.unit, whole: amount.log, about: amount.about, values, scale,
      low: quantile(values, 0.01), high: quantile(values, 0.99) };
  }
  function geneView(gene) {
    const values = celboNumbers.gene(gene.values, data.n, gene.top);
    const positive = values.filter((v) => v > 0);
    return { kind: "amount", key: "gene", gene, title: gene.name, unit: "", whole: false, values, scale: (v) => v,
      low: 0, high: Math.max(quantile(positive, 0.99), 1e-6) };
  }
  function binOf(v, value) {
    const low = v.scale(v.low), high = v.scale(v.high);
    return Math.max(0, Math.min(BINS - 1, Math.floor((BINS * (v.scale(value) - low)) / Math.max(high - low, 1e-9))));
  }
  function choose(next) {
    view = next;
    off.clear();
    lifted = -1;
    view.bins = view.kind === "amount" ? Uint8Array.from(view.values, (value) => binOf(view, value)) : null;
    view.order = view.kind === "amount" ? order.slice().sort((a, b) => view.values[a] - view.values[b]) : order;
    app.querySelectorAll(".switch button").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.key === view.key)));
    legend();
    paint();
  }

  // ---------------------------------------------------------------------------------------------------------- colours

  let stops = [], ghost = "", ink = "", paper = "", muted = "";
  function readTones(tone) {
    stops = Array.from({ length: 16 }, (_, i) => tone("--h" + i)).map((hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16)));
    [ghost, ink, paper, muted] = ["--ghost", "--ink", "--paper", "--muted"].map(tone);
  }
  function heat(share) {
    const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1), i = Math.min(Math.floor(at), stops.length - 2);
    return "rgb(" + stops[i].map((c, k) => Math.round(c + (at - i) * (stops[i + 1][k] - c))).join(",") + ")";
  }
  function colourOf(i, tones) {
    if (view.kind === "amount") {
      if (liftedGroup && lifted >= 0 && liftedGroup.codes[i] !== lifted) return ghost;
      return view.gene && view.values[i] === 0 ? ghost : tones[view.bins[i]];
    }
    const code = view.codes[i];
    if (lifted >= 0 ? code !== lifted : code < 0 || off.has(code)) return ghost;
    return tones[code];
  }
  function seen(i) { return view.kind === "amount" || (view.codes[i] >= 0 && !off.has(view.codes[i])); }

  // -------------------------------------------------------------------------------------------------------- the maps

  const main = { canvas: $("canvas.cells"), over: $("canvas.over"), space: data.spaces.length - 1, zoom: 1, x: 0.5, y: 0.5, names: true };
  const small = data.spaces.slice(0, -1).map((_, i) => ({ space: i, zoom: 1, x: 0.5, y: 0.5, names: false }));
  data.spaces.forEach((space) => { space.places = celboNumbers.places(space.xy); space.frame = frameOf(space.places); });

  function frameOf(places) {
    const frame = [1, 0, 1, 0];
    for (let i = 0; i < places.length; i += 2) {
      frame[0] = Math.min(frame[0], places[i]); frame[1] = Math.max(frame[1], places[i]);
      frame[2] = Math.min(frame[2], places[i + 1]); frame[3] = Math.max(frame[3], places[i + 1]);
    }
    return { wide: Math.max(frame[1] - frame[0], 1e-6), high: Math.max(frame[3] - frame[2], 1e-6) };
  }
  function fit(map) {
    const box = map.canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    map.width = box.width; map.height = box.height;
    for (const canvas of [map.canvas, map.over]) {
      canvas.width = Math.round(box.width * ratio); canvas.height = Math.round(box.height * ratio);
      canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    const frame = data.spaces[map.space].frame, margin = map.names && box.width > 560 ? 0.82 : 0.93;
    map.scale = margin * Math.min(map.width / frame.wide, map.height / frame.high);
  }
  function pixel(map, i) {
    const at = data.spaces[map.space].places, size = map.scale * map.zoom;
    return [map.width / 2 + (at[2 * i] - map.x) * size, map.height / 2 - (at[2 * i + 1] - map.y) * size];
  }
  function radius(map) {
    const base = 0.26 * Math.sqrt((map.width * map.height) / data.n);
    return Math.max(0.8, Math.min(base, map.names ? 4.2 : 2.6)) * Math.pow(map.zoom, 0.4);
  }
  function sprite(colour, r, ratio) {
    const side = Math.ceil(2 * r * ratio) + 2, canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    const pen = canvas.getContext("2d");
    pen.fillStyle = colour;
    pen.beginPath();
    pen.arc(side / 2, side / 2, r * ratio, 0, 7);
    pen.fill();
    return canvas;
  }
  function points(map, colours) {
    const pen = map.canvas.getContext("2d"), ratio = window.devicePixelRatio || 1, r = radius(map), sprites = new Map();
    pen.clearRect(0, 0, map.width, map.height);
    const at = data.spaces[map.space].places, size = map.scale * map.zoom, left = map.width / 2 - map.x * size, top = map.height / 2 + map.y * size;
    for (const layer of [true, false]) {  // grey cells lie below all others
      pen.globalAlpha = layer ? 0.75 : data.n < 5000 ? 0.9 : 0.75;
      for (const i of view.order) {
        const colour = colours[i];
        if ((colour === ghost) !== layer) continue;
        const x = left + at[2 * i] * size, y = top - at[2 * i + 1] * size;
        if (x < -9 || y < -9 || x > map.width + 9 || y > map.height + 9) continue;
        if (!sprites.has(colour)) sprites.set(colour, sprite(colour, r, ratio));
        const dot = sprites.get(colour), side = dot.width / ratio;
        pen.drawImage(dot, x - side / 2, y - side / 2, side, side);
      }
    }
    pen.globalAlpha = 1;
  }

  // ------------------------------------------------------------------------------------------- names beside the cells

  function anchors(map) {
    const bins = 40, out = [], at = data.spaces[map.space].places, count = new Map();
    for (let i = 0; i < data.n; i++) {
      const code = view.codes[i];
      if (code < 0) continue;
      if (!count.has(code)) count.set(code, new Map());
      const tally = count.get(code), bin = Math.min(bins - 1, Math.floor(at[2 * i] * bins)) * bins + Math.min(bins - 1, Math.floor(at[2 * i + 1] * bins));
      const was = tally.get(bin) || [0, 0, 0];
      tally.set(bin, [was[0] + 1, was[1] + at[2 * i], was[2] + at[2 * i + 1]]);
    }
    for (const [code, tally] of count) {
      let best = null;
      for (const bin of tally.keys()) {
        const sum = [0, 0, 0];
        for (const step of [-bins - 1, -bins, -bins + 1, -1, 0, 1, bins - 1, bins, bins + 1]) {
          const part = tally.get(bin + step);
          if (part) part.forEach((v, k) => { sum[k] += v; });
        }
        if (!best || sum[0] > best[0]) best = sum;
      }
      out[code] = [best[1] / best[0], best[2] / best[0]];
    }
    return out;
  }
  function crowd(map) {  // sums of cells over squares of 6 pixels, so that the cells under a name are four look-ups
    const step = 6, nx = Math.ceil(map.width / step) + 1, ny = Math.ceil(map.height / step) + 1, sums = new Float64Array((nx + 1) * (ny + 1));
    for (let i = 0; i < data.n; i++) {
      const [x, y] = pixel(map, i);
      if (x >= 0 && y >= 0 && x < map.width && y < map.height) sums[(Math.floor(y / step) + 1) * (nx + 1) + Math.floor(x / step) + 1]++;
    }
    for (let y = 1; y <= ny; y++) for (let x = 1; x <= nx; x++)
      sums[y * (nx + 1) + x] += sums[(y - 1) * (nx + 1) + x] + sums[y * (nx + 1) + x - 1] - sums[(y - 1) * (nx + 1) + x - 1];
    const cut = (v, n) => Math.max(0, Math.min(n, v));
    return function (left, top, right, bottom) {
      const a = cut(Math.floor(left / step), nx), b = cut(Math.floor(top / step), ny);
      const c = cut(Math.ceil(right / step), nx), d = cut(Math.ceil(bottom / step), ny);
      return sums[d * (nx + 1) + c] - sums[b * (nx + 1) + c] - sums[d * (nx + 1) + a] + sums[b * (nx + 1) + a];
    };
  }
  function nameOnMap(code) {
    const parts = view.names[code];
    const word = view.key === "cluster" ? [parts[0], (parts[1] || (parts[2] || "").split(" ")[0]).split(" / ")[0]].filter(Boolean).join(" ") : parts[0];
    const most = main.width > 700 ? 28 : 16;
    return word.length > most ? word.slice(0, most - 1).trimEnd() + "\u2026" : word;
  }
  function crosses(x, y, toX, toY, box) {  // whether a line passes through a name
    for (let step = 0; step <= 20; step++) {
      const a = x + ((toX - x) * step) / 20, b = y + ((toY - y) * step) / 20;
      if (Math.abs(a - box.x) < box.w && Math.abs(b - box.y) < box.h) return true;
    }
    return false;
  }
  function placed(map, pen) {
    const at = map.anchors, under = crowd(map), taken = [], out = [], size = map.scale * map.zoom, dot = radius(map) - 1;
    const reach = 30 + 0.3 * Math.min(map.width, map.height);
    const codes = Object.keys(at).map(Number).filter((c) => view.known[c] && !off.has(c)).sort((a, b) => view.sizes[b] - view.sizes[a]);
    for (const code of codes) {
      const x = map.width / 2 + (at[code][0] - map.x) * size, y = map.height / 2 - (at[code][1] - map.y) * size;
      if (x < 0 || y < 0 || x > map.width || y > map.height) continue;
      const word = nameOnMap(code), w = pen.measureText(word).width / 2 + 5, h = 10;
      let best = null;
      for (let ring = 0; ring < 24; ring++) {
        const far = ring * 11;
        if (far > reach || (best && far > best.cost)) break;
        for (let turn = 0; turn < (ring ? 20 : 1); turn++) {
          const angle = (turn / 20) * 2 * Math.PI, cx = x + far * Math.cos(angle) * 1.25, cy = y + far * Math.sin(angle);
          if (cx - w < 3 || cx + w > map.width - 3 || cy - h < 30 || cy + h > map.height - 3) continue;
          if (taken.some((t) => Math.abs(t.x - cx) < t.w + w + 2 && Math.abs(t.y - cy) < t.h + h)) continue;
          const crossed = taken.some((t) => crosses(cx, cy, x, y, t) || crosses(t.x, t.y, t.fromX, t.fromY, { x: cx, y: cy, w, h }));
          if (crossed) continue;
          const cost = far + 60 * Math.min(under(cx - w, cy - h - dot, cx + w, cy + h + dot), 12);
          if (!best || cost < best.cost) best = { x: cx, y: cy, w, h, cost, word, code, fromX: x, fromY: y };
        }
      }
      if (!best || best.cost >= 60 * 6) continue;  // it would cover cells: the legend and the pointer tell
      taken.push(best);
      out.push(best);
    }
    return out;
  }
  function names(map, moving) {
    if (view.kind !== "group" || view.key === "batch") return;
    const pen = map.canvas.getContext("2d");
    pen.font = NAMES + getComputedStyle(app).fontFamily;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    if (moving) return;
    for (const t of placed(map, pen)) {
      const dx = t.fromX - t.x, dy = t.fromY - t.y;
      if (Math.abs(dx) > t.w || Math.abs(dy) > t.h) {
        const cut = Math.min(Math.abs(dx) > 0 ? t.w / Math.abs(dx) : 9, Math.abs(dy) > 0 ? t.h / Math.abs(dy) : 9);
        for (const [colour, wide] of [[paper, 3], [muted, 1.1]]) {
          pen.strokeStyle = colour; pen.lineWidth = wide;
          pen.beginPath(); pen.moveTo(t.x + dx * cut, t.y + dy * cut); pen.lineTo(t.fromX, t.fromY); pen.stroke();
        }
        pen.fillStyle = ink;
        pen.beginPath(); pen.arc(t.fromX, t.fromY, 2, 0, 7); pen.fill();
      }
      pen.lineJoin = "round"; pen.lineWidth = 4; pen.strokeStyle = paper;
      pen.strokeText(t.word, t.x, t.y);
      pen.globalAlpha = lifted >= 0 && lifted !== t.code ? 0.35 : 1;
      pen.fillStyle = ink;
      pen.fillText(t.word, t.x, t.y);
      pen.globalAlpha = 1;
    }
  }

  let asked = 0;
  function paint(moving) {
    if (asked) cancelAnimationFrame(asked);
    asked = requestAnimationFrame(function () {
      asked = 0;
      const tones = view.kind === "amount" ? Array.from({ length: BINS }, (_, b) => heat((b + 0.5) / BINS)) : view.colours;
      const colours = Array.from({ length: data.n }, (_, i) => colourOf(i, tones));
      for (const map of [main, ...small]) if (map === main || !moving) points(map, colours);
      main.anchors = view.kind === "group" && !moving ? anchors(main) : main.anchors;
      names(main, moving);
      ring(-1);
    });
  }
  let settle = 0;
  function moved() {
    paint(true);
    clearTimeout(settle);
    settle = setTimeout(paint, 120);
  }

  // ------------------------------------------------------------------------------------------------------ the pointer

  function nearest(map, x, y) {
    let best = -1, reach = Math.pow(Math.max(9, radius(map) + 3), 2);
    for (let i = 0; i < data.n; i++) {
      const [a, b] = pixel(map, i), far = (a - x) * (a - x) + (b - y) * (b - y) + (seen(i) ? 0 : 16);
      if (far < reach) { reach = far; best = i; }
    }
    return best;
  }
  function ring(i) {
    for (const map of [main, ...small]) {
      const pen = map.over.getContext("2d");
      pen.clearRect(0, 0, map.width, map.height);
      if (i < 0) continue;
      const [x, y] = pixel(map, i);
      for (const [colour, wide] of [[paper, 4], [ink, 2]]) {
        pen.strokeStyle = colour; pen.lineWidth = wide;
        pen.beginPath(); pen.arc(x, y, radius(map) + 3, 0, 7); pen.stroke();
      }
    }
  }
  const tip = $(".tip");
  function tell(i, map, x, y) {
    tip.hidden = i < 0;
    ring(i);
    if (i < 0) return;
    const rows = [];
    if (view.kind === "amount") rows.push([view.title, number(view.values[i], view.whole) + (view.unit ? (view.unit === "%" ? "" : " ") + view.unit : "")]);
    for (const key of ["label", "cluster", "batch"]) {
      const group = groups.get(key);
      if (group) rows.push([key === "cluster" ? "cluster" : group.title, group.codes[i] < 0 ? "\u2013" : nameOf(group, group.codes[i])]);
    }
    for (const amount of amounts) if (amount.title !== view.title) rows.push([amount.title, number(amount.values[i], amount.log) + (amount.unit === "%" ? "%" : "")]);
    const list = make("dl");
    rows.forEach(function ([title, value]) { list.append(make("dt", "", title), make("dd", "", value)); });
    tip.replaceChildren(...(data.cells.length ? [make("p", "", data.cells[i])] : []), list);
    const home = $(".map-main").getBoundingClientRect(), from = map.canvas.getBoundingClientRect();
    const left = x + from.left - home.left, top = y + from.top - home.top, wide = tip.offsetWidth, high = tip.offsetHeight;
    tip.style.left = Math.max(4, Math.min(left + 14 + wide > home.width ? left - wide - 14 : left + 14, home.width - wide - 4)) + "px";
    tip.style.top = Math.max(4, Math.min(top - high / 2, home.height - high - 4)) + "px";
  }
  function listen(map) {
    const canvas = map.canvas, held = new Map();
    let apart = 0;
    const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    canvas.addEventListener("pointerdown", function (event) {
      held.set(event.pointerId, at(event));
      if (map === main && (event.pointerType === "mouse" || map.zoom > 1)) canvas.setPointerCapture(event.pointerId);
      tell(nearest(map, ...at(event)), map, ...at(event));
    });
    canvas.addEventListener("pointermove", function (event) {
      const here = at(event), was = held.get(event.pointerId);
      if (!was || map !== main) { if (event.pointerType === "mouse") tell(nearest(map, ...here), map, ...here); return; }
      if (Math.hypot(here[0] - was[0], here[1] - was[1]) < 2) return;
      held.set(event.pointerId, here);
      tell(-1);
      if (held.size === 2) {
        const [p, q] = Array.from(held.values()), now = Math.hypot(p[0] - q[0], p[1] - q[1]);
        if (apart) zoomTo(main.zoom * (now / apart), (p[0] + q[0]) / 2, (p[1] + q[1]) / 2);
        apart = now;
      } else if (event.pointerType === "mouse" || map.zoom > 1) {
        move((here[0] - was[0]), (here[1] - was[1]));
      }
    });
    const drop = function (event) { held.delete(event.pointerId); apart = 0; };
    canvas.addEventListener("pointerup", drop);
    canvas.addEventListener("pointercancel", drop);
    canvas.addEventListener("pointerleave", function (event) { if (event.pointerType === "mouse") tell(-1); });
  }
  function move(dx, dy) {
    const size = main.scale * main.zoom, near = (v) => Math.max(-0.1, Math.min(1.1, v));
    main.x = near(main.x - dx / size);
    main.y = near(main.y + dy / size);
    moved();
  }
  function zoomTo(zoom, x = main.width / 2, y = main.height / 2) {
    const before = main.scale * main.zoom;
    main.zoom = Math.max(1, Math.min(40, zoom));
    const after = main.scale * main.zoom;
    main.x += (x - main.width / 2) * (1 / before - 1 / after);
    main.y -= (y - main.height / 2) * (1 / before - 1 / after);
    if (main.zoom === 1) { main.x = main.y = 0.5; }
    main.canvas.classList.toggle("zoomed", main.zoom > 1);
    moved();
  }
  main.canvas.addEventListener("wheel", function (event) {
    if (!event.ctrlKey && !event.metaKey && document.activeElement !== main.canvas) return;  // the page scrolls
    event.preventDefault();
    const box = main.canvas.getBoundingClientRect();
    zoomTo(main.zoom * Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.002)), event.clientX - box.left, event.clientY - box.top);
  }, { passive: false });
  main.canvas.addEventListener("dblclick", function (event) {
    const box = main.canvas.getBoundingClientRect();
    zoomTo(main.zoom * 2, event.clientX - box.left, event.clientY - box.top);
  });
  main.canvas.addEventListener("keydown", function (event) {
    const act = { "+": () => zoomTo(main.zoom * 1.5), "=": () => zoomTo(main.zoom * 1.5), "-": () => zoomTo(main.zoom / 1.5),
      "0": () => zoomTo(1), ArrowLeft: () => move(60, 0), ArrowRight: () => move(-60, 0), ArrowUp: () => move(0, 60),
      ArrowDown: () => move(0, -60), Escape: () => tell(-1) }[event.key];
    if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    act();
  });
  app.querySelectorAll(".zoom button").forEach(function (button) {
    button.addEventListener("click", function () {
      const how = button.dataset.zoom;
      if (how === "svg" || how === "png") save(how);
      else zoomTo(how === "in" ? main.zoom * 1.5 : how === "out" ? main.zoom / 1.5 : 1);
    });
  });
  // ------------------------------------------------------------------------------------------------- the map as a file

  function tag(name, values, words) {
    const escape = (text) => String(text).replace(/[&<>"\u0000-\u001f]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c] || " ");
    const head = "<" + name + Object.entries(values).map(([key, value]) => " " + key + '="' + escape(value) + '"').join("");
    return head + (words === undefined ? "/>" : ">" + escape(words) + "</" + name + ">");
  }
  function words(x, y, text, size = 12, more = {}) { return tag("text", { x, y, "font-size": size, "font-family": celboFiles.FONT, fill: ink, ...more }, text); }
  function dots(colours) {  // dots of one colour are one path; in twenty turns, so that no colour lies above all others
    const r = radius(main), out = [], at = data.spaces[main.space].places, size = main.scale * main.zoom;
    const left = main.width / 2 - main.x * size, top = main.height / 2 + main.y * size;
    for (const layer of [true, false]) for (let turn = 0; turn < 20; turn++) {
      const paths = new Map(), from = Math.floor((turn * data.n) / 20), to = Math.floor(((turn + 1) * data.n) / 20);
      for (let k = from; k < to; k++) {
        const i = view.order[k], colour = colours[i], x = left + at[2 * i] * size, y = top - at[2 * i + 1] * size;
        if ((colour === ghost) !== layer || x < 0 || y < 0 || x > main.width || y > main.height) continue;
        if (!paths.has(colour)) paths.set(colour, []);
        paths.get(colour).push("M" + x.toFixed(1) + " " + y.toFixed(1) + "h0");
      }
      for (const [colour, places] of paths)
        out.push(tag("path", { d: places.join(""), stroke: colour, "stroke-width": (2 * r).toFixed(1), "stroke-linecap": "round", fill: "none" }));
    }
    return '<g opacity="' + (data.n < 5000 ? 0.9 : 0.75) + '">' + out.join("") + "</g>";
  }
  function key(x, high) {  // the legend beside the map: its parts, and how wide and high it is
    const out = [words(x, 20, view.title, 13, { "font-weight": 600 })];
    if (view.kind === "amount") {
      const stop = (_, i) => tag("stop", { offset: (i / (stops.length - 1)).toFixed(3), "stop-color": heat(i / (stops.length - 1)) });
      out.push('<linearGradient id="scale">' + stops.map(stop).join("") + "</linearGradient>", tag("rect", { x, y: 32, width: 140, height: 10, rx: 5, fill: "url(#scale)" }));
      out.push(words(x, 58, number(view.low, view.whole)), words(x + 140, 58, number(view.high, view.whole) + (view.unit ? " " + view.unit : ""), 12, { "text-anchor": "end" }));
      if (view.gene) out.push(words(x, 76, "log1p of counts per 10,000", 11));
      return { out, wide: 170, high: 90 };
    }
    const codes = view.names.map((_, i) => i).filter((i) => view.sizes[i] > 0 && !off.has(i)), rows = Math.max(1, Math.floor((high - 44) / 18));
    const pen = main.canvas.getContext("2d");
    pen.font = "12px " + celboFiles.FONT;
    let at = x;
    for (let first = 0; first < codes.length; first += rows) {
      const column = codes.slice(first, first + rows).map((code) => [code, nameOnMap(code)]);
      column.forEach(([code, name], k) => out.push(tag("circle", { cx: at + 5, cy: 38 + 18 * k, r: 5, fill: view.colours[code] }), words(at + 16, 42 + 18 * k, name)));
      at += 34 + Math.max(...column.map(([, name]) => pen.measureText(name).width));
    }
    return { out, wide: Math.max(at - x, 60 + 7 * view.title.length), high: 44 + 18 * Math.min(rows, codes.length) };
  }
  function figure() {
    const gap = 16, pen = main.canvas.getContext("2d");
    readTones((name) => celboFiles.light[name]);
    const tones = view.kind === "amount" ? Array.from({ length: BINS }, (_, b) => heat((b + 0.5) / BINS)) : view.colours;
    const colours = Array.from({ length: data.n }, (_, i) => colourOf(i, tones)), parts = [dots(colours)];
    pen.font = NAMES + celboFiles.FONT;
    if (view.kind === "group" && view.key !== "batch") for (const t of placed(main, pen)) {
      const line = { x1: t.x, y1: t.y, x2: t.fromX, y2: t.fromY, stroke: muted }, middle = { "text-anchor": "middle", "font-weight": 600 };
      if (Math.abs(t.fromX - t.x) > t.w || Math.abs(t.fromY - t.y) > t.h) parts.push(tag("line", line));
      parts.push(words(t.x, t.y + 4, t.word, 12.5, { ...middle, stroke: paper, "stroke-width": 4, "stroke-linejoin": "round" }), words(t.x, t.y + 4, t.word, 12.5, middle));
    }
    const side = key(main.width + gap, main.height), wide = Math.ceil(main.width + side.wide + 2 * gap), high = Math.ceil(Math.max(main.height, side.high));
    const space = "http:" + "//www.w3.org/2000/svg";  // a name, but a page without any address is plain to see
    const text = '<svg xmlns="' + space + '" width="' + wide + '" height="' + high + '" viewBox="0 0 ' + wide + " " + high + '">'
      + tag("rect", { width: "100%", height: "100%", fill: "#ffffff" }) + parts.join("") + side.out.join("") + "</svg>";
    readTones(tone);
    return { text, wide, high };
  }
  function save(kind) {
    const name = celboFiles.stem(document.title).slice(0, 40) + "_map_" + celboFiles.stem(view.title).slice(0, 40) + "." + kind;
    (kind === "svg" ? celboFiles.giveSvg : celboFiles.givePng)(figure(), name);
  }

  // ------------------------------------------------------------------------------------------------------- the legend

  function lift(group, code) {
    liftedGroup = group; lifted = code;
    paint();
  }
  function row(group, code, extra) {
    const line = make("div", "entry"), button = make("button", "name"), parts = group.names[code];
    const words = make("bdi");
    words.append(make("b", "", parts[0]));
    parts.slice(1).filter(Boolean).forEach((part, k) => words.append(make("span", k || !parts[1] ? "genes" : "", part)));
    button.append(words);
    button.title = nameOf(group, code);
    line.append(button, extra);
    line.addEventListener("mouseenter", () => lift(group, code));
    line.addEventListener("mouseleave", () => lift(null, -1));
    return [line, button];
  }
  function legend() {
    const box = $(".map-legend"), title = $(".map-title");
    title.textContent = data.spaces[main.space].title;
    box.replaceChildren(view.kind === "group" ? categoryLegend() : amountLegend());
  }
  function categoryLegend() {
    const out = make("div"), head = make("div", "legend-head"), all = make("button", "all", "Show all");
    head.append(make("span", "", view.key === "cluster" ? "Clusters" : view.title), all);
    out.append(head);
    const codes = view.names.map((_, i) => i).filter((i) => view.sizes[i] > 0);
    const lines = codes.map(function (code) {
      const [line, button] = row(view, code, make("small", "", view.sizes[code].toLocaleString("en")));
      const dot = make("i"), only = make("button", "only", "only");
      dot.style.background = view.colours[code];
      button.prepend(dot);
      line.append(only);
      button.addEventListener("click", function () { off.has(code) ? off.delete(code) : off.add(code); state(); });
      only.setAttribute("aria-label", "Show only " + view.names[code][0]);
      only.addEventListener("click", function () { codes.forEach((c) => (c === code ? off.delete(c) : off.add(c))); state(); });
      return { code, line, button };
    });
    function state() {
      if (off.size === codes.length) off.clear();
      lines.forEach(function (l) {
        l.line.classList.toggle("off", off.has(l.code));
        l.button.setAttribute("aria-pressed", String(!off.has(l.code)));
      });
      all.hidden = off.size === 0;
      paint();
    }
    all.addEventListener("click", function () { off.clear(); state(); });
    const list = make("div", "entries");
    list.append(...lines.map((l) => l.line));
    out.append(list);
    state();
    return out;
  }
  function amountLegend() {
    const out = make("div"), head = make("div", "legend-head"), ramp = make("div", "scale"), bar = make("i");
    head.append(make("span", "", view.title + (view.gene && view.gene.id ? " \u00b7 " + view.gene.id : "")));
    bar.style.background = "linear-gradient(90deg," + stops.map((_, i) => heat(i / (stops.length - 1))).join(",") + ")";
    ramp.append(make("span", "", number(view.low, view.whole)), bar, make("span", "", number(view.high, view.whole)));
    const positive = view.values.reduce((sum, v) => sum + (v > 0), 0);
    const what = view.gene
      ? "log1p of counts per 10,000. Grey: no count. Found in " + ((100 * positive) / data.n).toFixed(positive < data.n / 100 ? 1 : 0) + "% of cells."
      : view.about;
    out.append(head, ramp, make("p", "note", what));
    if (clusters) out.append(byCluster());
    return out;
  }
  function byCluster() {  // the mean of a gene and the share of cells with a count, or the median of an amount
    const held = clusters.names.map(() => []);
    view.values.forEach((v, i) => { if (clusters.codes[i] >= 0) held[clusters.codes[i]].push(v); });
    const level = held.map((v) => (v.length === 0 ? 0 : view.gene ? v.reduce((a, b) => a + b, 0) / v.length : quantile(v, 0.5)));
    const share = held.map((v) => v.filter((x) => x > 0).length / Math.max(v.length, 1));
    const top = Math.max(...level, 1e-9), list = make("div", "entries levels");
    list.append(...level.map((_, i) => i).filter((i) => held[i].length).sort((a, b) => level[b] - level[a]).map(function (code) {
      const bar = make("span", "bar-cell"), fill = make("i");
      fill.style.width = (100 * level[code]) / top + "%";
      fill.style.background = heat((binOf(view, level[code]) + 0.5) / BINS);
      bar.append(fill);
      const value = make("small", "", view.gene ? (100 * share[code]).toFixed(0) + "%" : number(level[code], view.whole));
      const [line, button] = row(clusters, code, bar);
      button.tabIndex = -1;
      line.append(value);
      return line;
    }));
    const out = make("div");
    out.append(make("p", "sub-head", view.gene ? "Mean by " + clusters.key + ", and share of cells with a count" : "Median by " + clusters.key), list);
    return out;
  }

  // ----------------------------------------------------------------------------------------------------- the controls

  function controls() {
    const bar = $(".switch");
    function button(title, key, view) {
      const node = make("button", "", title);
      node.dataset.key = key;
      node.addEventListener("click", function () { $("#map-gene").value = ""; tellCount(""); choose(view()); });
      bar.append(node);
    }
    for (const key of ["label", "cluster", "batch"]) {
      const group = groups.get(key);
      if (!group || group.names.length < 2) continue;
      const plain = key === "cluster" ? "Cluster" : group.title.length > 24 ? key : group.title;
      button(plain, key, () => Object.assign({ kind: "group" }, group));
    }
    for (const amount of amounts) button(amount.title, amount.title, () => amountView(amount));
    const input = $("#map-gene"), list = $("#map-genes");
    $(".find").hidden = genes.size === 0;
    list.append(...data.genes.map(function (gene) {
      const option = make("option");
      option.value = gene.name;
      if (gene.id) option.label = gene.id;
      return option;
    }));
    input.placeholder = genes.size ? "Gene, such as " + data.genes[0].name : "";
    input.addEventListener("input", () => find(input.value, false));
    input.addEventListener("change", () => find(input.value, true));
    document.addEventListener("click", function (event) {  // any button of the page with data-gene shows its gene here
      const from = event.target.closest("[data-gene]");
      if (!from || !genes.has(from.dataset.gene.toLowerCase())) return;
      input.value = from.dataset.gene;
      find(input.value, true);
      document.getElementById("maps").scrollIntoView();
    });
  }
  function tellCount(words) { $(".map-tools .count").textContent = words; }
  function find(words, done) {
    const wanted = words.trim().toLowerCase();
    const exact = genes.get(wanted), begin = exact ? [] : data.genes.filter((g) => wanted && g.name.toLowerCase().startsWith(wanted));
    const gene = exact || (done && begin.length === 1 ? begin[0] : null);
    if (!wanted) tellCount("");
    else if (gene) { tellCount(""); choose(geneView(gene)); }
    else if (begin.length) tellCount(begin.length + (begin.length === 1 ? " gene begins" : " genes begin") + " so");
    else tellCount("Not among the " + data.genes.length + " genes of this page");
  }

  function build() {
    small.forEach(function (map) {
      const frame = make("figure"), box = make("div", "small-map");
      map.canvas = make("canvas"); map.over = make("canvas", "over");
      box.append(map.canvas, map.over);
      frame.append(box, make("figcaption", "", data.spaces[map.space].title));
      $(".map-small").append(frame);
      listen(map);
    });
    $(".map-small").hidden = !small.length;
    listen(main);
  }
  function refit() {
    [main, ...small].forEach(fit);
    paint();
  }
  readTones(tone);
  controls();
  build();
  [main, ...small].forEach(fit);
  const first = $(".switch button");
  if (first) first.click();
  else choose({ kind: "group", key: "all", title: "cells", names: [["all cells"]], known: [0], colours: [tone("--accent")], sizes: [data.total], codes: new Int32Array(data.n) });
  new ResizeObserver(refit).observe($(".map-main"));
  dark.addEventListener("change", function () { readTones(tone); legend(); paint(); });
})();
