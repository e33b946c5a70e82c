
// What a page makes into files: a name, the tones of the bright page, and an SVG as it is or as a picture of it.
const celboFiles = (function () {
  const WHITE = "#ffffff", FONT = "system-ui, 'Helvetica Neue', Arial, sans-serif";
  const light = {};  // tones of the bright page: what is saved is for a paper, also from a dark screen
  for (const rule of document.styleSheets[0].cssRules) {
    if (rule.selectorText !== ":root") continue;
    for (const name of rule.style) light[name] = light[name] || rule.style.getPropertyValue(name).trim();
    break;
  }
  function stem(words) {
    const plain = words.normalize("NFKD").replace(/[^A-Za-z0-9]+/g, "_").replace(/^_+|_+$/g, "").slice(0, 60);
    return plain || "celbo";
  }
  function give(blob, name) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }
  function giveSvg(drawn, name) {  // drawn is {text, wide, high}
    give(new Blob(['<?xml version="1.0" encoding="UTF-8"?>\n' + drawn.text], { type: "image/svg+xml" }), name);
  }
  function givePng(drawn, name) {
    const image = new Image(), ratio = Math.max(1, Math.min(3, 6000 / Math.max(drawn.wide, drawn.high)));
    image.addEventListener("load", function () {
      const canvas = document.createElement("canvas");
      canvas.width = Math.round(drawn.wide * ratio);
      canvas.height = Math.round(drawn.high * ratio);
      canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
      canvas.toBlob((blob) => give(blob, name), "image/png");
    });
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(drawn.text);
  }
  return { WHITE, FONT, light, stem, give, giveSvg, givePng };
})();
