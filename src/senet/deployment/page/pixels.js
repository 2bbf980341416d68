// Pixels as Pillow has them: decoding, gray, and the resize with antialiasing, equal to the last bit.

const BAND = 256; // rows read at once: some browsers have no canvas of more than 16 million pixels

class PictureError extends Error {}

/** Read a picture: its size, and a function that gives rows of it; `blended` where a canvas has changed its colors. */
async function readPicture(file) {
  const start = new Uint8Array(await file.slice(0, 8).arrayBuffer());
  if (PNG.every((byte, i) => start[i] === byte)) {
    const exact = await readPNG(new Uint8Array(await file.arrayBuffer())).catch(() => null);
    if (exact) return exact;
  }
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new PictureError("is not a picture that this browser can decode; choose a JPEG, PNG, WebP or GIF file");
  }
  return bitmapRows(bitmap);
}

function bitmapRows(bitmap) {
  const { width, height } = bitmap;
  const canvas = document.createElement("canvas");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const picture = { width, height, blended: false, close: () => bitmap.close() };
  picture.rows = (first, count) => {
    canvas.width = width;
    canvas.height = count;
    context.imageSmoothingEnabled = false;
    context.drawImage(bitmap, 0, first, width, count, 0, 0, width, count);
    const { data } = context.getImageData(0, 0, width, count);
    for (let i = 3; i < data.length && !picture.blended; i += 4) picture.blended = data[i] < 255;
    return data;
  };
  return picture;
}

/** Throw if the browser changes the pixels that a page reads from a canvas, as some do against fingerprinting. */
function checkCanvas() {
  const side = 64;
  const context = Object.assign(document.createElement("canvas"), { width: side, height: side }).getContext("2d");
  const image = context.createImageData(side, side);
  for (let i = 0; i < image.data.length; i++) image.data[i] = i % 4 === 3 ? 255 : (i * 37) % 256;
  context.putImageData(image, 0, 0);
  const read = context.getImageData(0, 0, side, side).data;
  if (image.data.some((value, i) => value !== read[i])) {
    throw new Error(
      "This browser's protection against fingerprinting changes the pixels that pages read from pictures; allow this page to read them",
    );
  }
}

/** Return the colors of RGBA pixels, (N, 4) -> (N, channels); a weighted sum for one channel, as Pillow computes it. */
function toChannels(pixels, channels) {
  const count = pixels.length / 4;
  const out = new Uint8Array(count * channels);
  for (let i = 0, from = 0, to = 0; i < count; i++, from += 4) {
    const red = pixels[from], green = pixels[from + 1], blue = pixels[from + 2];
    if (channels === 3) {
      out[to++] = red;
      out[to++] = green;
      out[to++] = blue;
    } else out[to++] = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16; // ITU-R 601-2 in 16 bits
  }
  return out;
}

const FILTERS = {
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    at: (x) => {
      const a = -0.5, d = Math.abs(x);
      if (d < 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
      return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
    },
  },
};
const PRECISION = 22; // bits after the point of Pillow's weights for 8-bit pixels
const HALF = 1 << (PRECISION - 1);

/** Return for each of `count` outputs from `first` on the first input and the weights of the inputs, as integers. */
function weightsOf(inputs, outputs, first, count, filter) {
  const scale = inputs / outputs, width = Math.max(scale, 1), support = filter.support * width;
  return Array.from({ length: count }, (_, i) => {
    const center = (first + i + 0.5) * scale;
    const low = Math.max(0, Math.trunc(center - support + 0.5));
    const high = Math.min(inputs, Math.trunc(center + support + 0.5));
    const values = Float64Array.from({ length: high - low }, (_, k) => filter.at((k + low - center + 0.5) * (1 / width)));
    const total = values.reduce((sum, value) => sum + value, 0);
    const weights = Int32Array.from(values, (value) => {
      const fixed = (value / total) * 2 ** PRECISION;
      return Math.trunc(fixed < 0 ? fixed - 0.5 : fixed + 0.5);
    });
    return { low, weights };
  });
}

const halfToEven = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x)); // as Python's round

/**
 * Scale the shorter side, cut the center out: what the evaluation of the network does. -> uint8 (side, side, channels)
 *
 * `vertical_first`: whether rows are weighed before columns where the height shrinks by more than twice what the width
 * does, as Pillow does from 13.0 on; the pixels between are rounded, so the order is seen in the last bit.
 */
function prepare(picture, { image_size: side, resize, interpolation, vertical_first }, channels) {
  const { width, height } = picture, shorter = Math.min(width, height);
  const scaled = (length) => (length === shorter ? resize : Math.trunc((resize * length) / shorter));
  const across = scaled(width), down = scaled(height);
  const left = halfToEven((across - side) / 2), top = halfToEven((down - side) / 2);
  const columns = weightsOf(width, across, left, side, FILTERS[interpolation]);
  const lines = weightsOf(height, down, top, side, FILTERS[interpolation]);
  const isVerticalFirst = vertical_first && height > down && height - down > 2 * (width - across);
  const out = (isVerticalFirst ? rowsFirst : columnsFirst)(picture, columns, lines, channels);
  return new Uint8Array(out.buffer);
}

/** Call `each` with parts of a picture from a row on, in the network's channels. */
function eachBand({ width, rows }, first, end, channels, each) {
  for (let y = first; y < end; y += BAND) {
    const count = Math.min(BAND, end - y);
    each(toChannels(rows(y, count), channels), y, count, width * channels);
  }
}

const rangeOf = (weighted) => [
  Math.min(...weighted.map(({ low }) => low)),
  Math.max(...weighted.map(({ low, weights }) => low + weights.length)),
];

function columnsFirst(picture, columns, lines, channels) {
  const [first, end] = rangeOf(lines), across = columns.length * channels;
  const narrow = new Uint8ClampedArray((end - first) * across);
  eachBand(picture, first, end, channels, (band, y, count, stride) => {
    for (let row = 0; row < count; row++) {
      weigh(band, row * stride, channels, channels, columns, narrow, (y - first + row) * across, channels);
    }
  });
  const out = new Uint8ClampedArray(lines.length * across);
  const shifted = lines.map(({ low, weights }) => ({ low: low - first, weights }));
  for (let x = 0; x < columns.length; x++) {
    weigh(narrow, x * channels, across, channels, shifted, out, x * channels, across);
  }
  return out;
}

function rowsFirst(picture, columns, lines, channels) {
  const stride = picture.width * channels;
  const sums = new Int32Array(lines.length * stride).fill(HALF);
  eachBand(picture, ...rangeOf(lines), channels, (band, y, count) => {
    lines.forEach(({ low, weights }, i) => {
      for (let row = Math.max(low, y); row < Math.min(low + weights.length, y + count); row++) {
        const weight = weights[row - low], from = (row - y) * stride;
        for (let x = 0; x < stride; x++) sums[i * stride + x] += band[from + x] * weight;
      }
    });
  });
  const short = Uint8ClampedArray.from(sums, (sum) => sum >> PRECISION);
  const out = new Uint8ClampedArray(lines.length * columns.length * channels);
  for (let i = 0; i < lines.length; i++) {
    weigh(short, i * stride, channels, channels, columns, out, i * columns.length * channels, channels);
  }
  return out;
}

/** Weigh the pixels of one row or column: those of `source` from `from` on, `step` apart, into `target`. */
function weigh(source, from, step, channels, weighted, target, to, stride) {
  for (let i = 0; i < weighted.length; i++) {
    const { low, weights } = weighted[i];
    for (let c = 0; c < channels; c++) {
      let sum = HALF;
      for (let k = 0, at = from + low * step + c; k < weights.length; k++, at += step) sum += source[at] * weights[k];
      target[to + i * stride + c] = sum >> PRECISION; // clamped to 0..255 by the array
    }
  }
}
