// The gates of a picture: a table with a row for each block, its mean and spread, and a strip with a cell a channel.

const COLUMNS = 256; // cells of a line of a strip
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis, from low to high

const number = (value) => value.toFixed(3);

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

/** Return mean, standard deviation, and the channels of the lowest and highest gate. */
function summary(values) {
  let sum = 0, low = 0, high = 0;
  values.forEach((value, i) => {
    sum += value;
    if (value < values[low]) low = i;
    if (value > values[high]) high = i;
  });
  const mean = sum / values.length;
  const variance = values.reduce((total, value) => total + (value - mean) ** 2, 0) / values.length;
  return { mean, spread: Math.sqrt(variance), low, high };
}

function drawStrip(canvas, values, from, to) {
  canvas.width = Math.min(values.length, COLUMNS);
  canvas.height = Math.ceil(values.length / COLUMNS);
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  values.forEach((value, i) => {
    const place = Math.min(1, Math.max(0, (value - from) / (to - from))) * (RAMP.length - 1);
    const k = Math.min(RAMP.length - 2, Math.floor(place)), share = place - k;
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = RAMP[k][c] + share * (RAMP[k + 1][c] - RAMP[k][c]);
    image.data[4 * i + 3] = 255;
  });
  context.putImageData(image, 0, 0);
  canvas.style.height = `${Math.max(14, 4 * canvas.height)}px`;
  return canvas;
}

function drawSpread({ mean, spread }, from, to) {
  const percent = (value) => 100 * Math.min(1, Math.max(0, (value - from) / (to - from)));
  const [low, middle, high] = [mean - spread, mean, mean + spread].map(percent);
  const band = element("span", { className: "spread" }), line = element("span", { className: "mean" });
  Object.assign(band.style, { left: `${low}%`, width: `${high - low}%` });
  line.style.left = `${middle}%`;
  const track = element("div", { className: "track" }, band, line);
  track.setAttribute("aria-hidden", "true");
  return track;
}

function gateRow(block, values) {
  const found = summary(values), size = [block.channels, ...block.side].join(" × ");
  const strip = drawStrip(element("canvas"), values, block.low, block.high);
  strip.setAttribute("role", "img");
  strip.setAttribute(
    "aria-label",
    `${block.name}: lowest gate ${number(values[found.low])} in channel ${found.low}, ` +
      `highest ${number(values[found.high])} in channel ${found.high}`,
  );
  strip.title = strip.getAttribute("aria-label");
  return element(
    "tr",
    {},
    element("th", { scope: "row", textContent: block.name }),
    element("td", { className: "number size", textContent: size }),
    element("td", { className: "number", textContent: number(found.mean) }),
    element("td", { className: "number", textContent: number(found.spread) }),
    element("td", { className: "plot" }, drawSpread(found, block.low, block.high)),
    element("td", { className: "strip" }, strip),
  );
}

/** Return the section about the gates of one picture. */
function gatesOf(blocks, gates, name) {
  const columns = { block: "Block", size: "Channels × height × width", average: "Mean", deviation: "Spread" };
  Object.assign(columns, { plot: "Mean and spread", strip: "Each channel" });
  const heads = Object.entries(columns).map(([className, textContent]) => element("th", { scope: "col", className, textContent }));
  const rows = blocks.map((block, i) => gateRow(block, gates[i]));
  const caption = element("caption", { textContent: "Spread: standard deviation over the channels." });
  const table = element("table", { className: "gates" }, caption, element("thead", {}, element("tr", {}, ...heads)));
  table.append(element("tbody", {}, ...rows));
  const scroll = element("div", { className: "scroll", tabIndex: 0 }, table);
  scroll.setAttribute("role", "region");
  scroll.setAttribute("aria-label", `Gates of ${name}`);
  const count = blocks.length === 1 ? "1 SE block" : `${blocks.length} SE blocks`;
  return element("details", { open: true }, element("summary", { textContent: `Gates of ${count}` }), scroll, legendOf(blocks));
}

function legendOf(blocks) {
  const from = Math.min(...blocks.map(({ low }) => low)), to = Math.max(...blocks.map(({ high }) => high));
  const ramp = drawStrip(element("canvas"), Array.from({ length: 64 }, (_, i) => from + ((to - from) * i) / 63), from, to);
  ramp.setAttribute("aria-hidden", "true");
  return element("p", { className: "legend note" }, `A gate of ${from}`, ramp, `${to}`);
}
