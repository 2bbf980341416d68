// PNG files that a canvas changes: it multiplies colors by their transparency, and cuts 16 bits in a way of its own.
// Source: W3C, Portable Network Graphics (PNG) Specification (Third Edition), sections 5, 7, 8 and 9.

const PNG = [137, 80, 78, 71, 13, 10, 26, 10];
const CHANNELS = { 0: 1, 2: 3, 3: 1, 4: 2, 6: 4 };
const PASSES = [[0, 0, 8, 8], [4, 0, 8, 8], [0, 4, 4, 8], [2, 0, 4, 4], [0, 2, 2, 4], [1, 0, 2, 2], [0, 1, 1, 2]];

/** Decode a PNG with transparency or 16 bits; null for another, which the browser decodes exactly, and faster. */
async function readPNG(bytes) {
  const header = chunksOf(bytes);
  const { depth, color, width, height } = header;
  const transparent = color === 4 || color === 6 || header.transparency;
  if (header.turned || !(transparent || depth === 16)) return null;
  const inflated = new Blob(header.data).stream().pipeThrough(new DecompressionStream("deflate"));
  const raw = new Uint8Array(await new Response(inflated).arrayBuffer());
  const pixels = new Uint8Array(width * height * 4);
  let at = 0;
  for (const [x, y, dx, dy] of header.interlaced ? PASSES : [[0, 0, 1, 1]]) {
    const columns = Math.ceil((width - x) / dx), lines = Math.ceil((height - y) / dy);
    if (columns <= 0 || lines <= 0) continue;
    const size = Math.ceil((columns * depth * CHANNELS[color]) / 8);
    if (raw.length < at + lines * (size + 1)) throw new PictureError("ends too early; it is damaged");
    const values = unfilter(raw.subarray(at, at + lines * (size + 1)), lines, size, Math.max(1, (depth * CHANNELS[color]) >> 3));
    at += lines * (size + 1);
    for (let line = 0; line < lines; line++) {
      const row = values.subarray(line * size, (line + 1) * size);
      for (let i = 0; i < columns; i++) paint(row, i, header, pixels, 4 * ((y + line * dy) * width + x + i * dx));
    }
  }
  const rows = (first, count) => pixels.subarray(first * width * 4, (first + count) * width * 4);
  return { width, height, rows, blended: false, close: () => {} };
}

function chunksOf(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  const header = { data: [] };
  for (let at = 8; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at), kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    const content = bytes.subarray(at + 8, at + 8 + length);
    if (kind === "IHDR") {
      Object.assign(header, { width: view.getUint32(at + 8), height: view.getUint32(at + 12) });
      [header.depth, header.color, , , header.interlaced] = content.subarray(8, 13);
    } else if (kind === "PLTE") header.palette = content;
    else if (kind === "tRNS") header.transparency = true;
    else if (kind === "eXIf") header.turned = true; // the browser turns it upright
    else if (kind === "IDAT") header.data.push(content);
    else if (kind === "IEND") break;
    at += length + 12;
  }
  return header;
}

/** Undo the filters of the lines, each of which begins with a byte that names its filter. */
function unfilter(raw, lines, size, step) {
  const out = new Uint8Array(lines * size);
  for (let line = 0, from = 0; line < lines; line++) {
    const filter = raw[from++], start = line * size;
    for (let i = 0; i < size; i++) {
      const left = i < step ? 0 : out[start + i - step];
      const up = line === 0 ? 0 : out[start + i - size];
      const corner = i < step || line === 0 ? 0 : out[start + i - size - step];
      out[start + i] = raw[from++] + predicted(filter, left, up, corner);
    }
  }
  return out;
}

function predicted(filter, left, up, corner) {
  if (filter === 0) return 0;
  if (filter === 1) return left;
  if (filter === 2) return up;
  if (filter === 3) return (left + up) >> 1;
  const a = Math.abs(up - corner), b = Math.abs(left - corner), c = Math.abs(left + up - 2 * corner);
  return a <= b && a <= c ? left : b <= c ? up : corner;
}

/** Write pixel `i` of a row as red, green, blue; its transparency is dropped, as Pillow's conversion to RGB does. */
function paint(row, i, { depth, color, palette }, pixels, to) {
  const channels = CHANNELS[color];
  const value = (c) => sample(row, i * channels + c, depth);
  let colors;
  if (color === 3) colors = palette.subarray(3 * value(0), 3 * value(0) + 3);
  else if (color === 2 || color === 6) colors = [value(0), value(1), value(2)].map((x) => (depth === 16 ? x >> 8 : x));
  else colors = Array(3).fill(gray(value(0), depth, color));
  pixels.set(colors, to);
  pixels[to + 3] = 255;
}

function sample(row, at, depth) {
  if (depth === 8) return row[at];
  if (depth === 16) return (row[2 * at] << 8) | row[2 * at + 1];
  const bit = at * depth;
  return (row[bit >> 3] >> (8 - depth - (bit & 7))) & ((1 << depth) - 1);
}

/** A gray value in 8 bits. senet scales 16 bits by their range and rounds; with transparency Pillow takes the high byte. */
function gray(value, depth, color) {
  if (depth < 16) return (value * 255) / ((1 << depth) - 1);
  return color === 4 ? value >> 8 : Math.floor((value * 255 + 32767) / 65535);
}
