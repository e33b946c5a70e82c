
// Numbers of the page: base64 of little-endian arrays, as celbo/report/map.py writes them.
const celboNumbers = {
  bytes(text) {
    return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  },
  places(text) {
    const raw = celboNumbers.bytes(text);
    return Float32Array.from({ length: raw.length / 2 }, (_, i) => (raw[2 * i] + 256 * raw[2 * i + 1]) / 65535);
  },
  codes(text, wide) {
    const raw = celboNumbers.bytes(text);
    return Int32Array.from({ length: wide ? raw.length / 2 : raw.length }, (_, i) => (wide ? raw[2 * i] + 256 * raw[2 * i + 1] : raw[i]) - 1);
  },
  amounts(text) {
    const raw = celboNumbers.bytes(text), view = new DataView(raw.buffer);
    return Float32Array.from({ length: raw.length / 4 }, (_, i) => view.getFloat32(4 * i, true));
  },
  gene(text, n, top) {
    const raw = celboNumbers.bytes(text), out = new Float32Array(n);
    let at = Math.ceil(n / 8);
    for (let i = 0; i < n; i++) if ((raw[i >> 3] >> (i & 7)) & 1) out[i] = (raw[at++] * top) / 255;
    return out;
  },
};
