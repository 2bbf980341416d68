"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
// Plotly interprets tags and entities in any text, and a class name may look like one.
const shown = (name) => name.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const byId = (id) => document.getElementById(id);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
let chosen = data.first;

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function layout(figure, title, block) {
  const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line") };
  const own = figure.layout;
  return {
    ...own,
    template: undefined,
    title: { text: shown(title), font: { size: 15 } },
    font: { color: color("--ink"), family: "system-ui, sans-serif" },
    paper_bgcolor: color("--paper"),
    plot_bgcolor: color("--paper"),
    xaxis: { ...own.xaxis, ...axis, title: block ? { text: `channel (of ${block.channels})` } : own.xaxis?.title },
    yaxis: { ...own.yaxis, ...axis, range: block ? [block.low, block.high] : own.yaxis?.range },
  };
}

const options = { responsive: true, displaylogo: false, displayModeBar: false };

function trace(like, block, y, name, lineColor) {
  return { ...like, x: block.channel, y, name: shown(name), line: { ...like.line, color: lineColor ?? like.line.color } };
}

function checkedClasses() {
  return [...document.querySelectorAll("input[name=class]:checked")].map((box) => Number(box.value));
}

// A figure as a table: for screen readers, and for exact numbers.
function tabulate(id, channels, columns) {
  const table = document.createElement("table");
  const cell = (row, kind, text, scope) => {
    const made = row.appendChild(document.createElement(kind));
    made.textContent = text;
    if (scope) made.scope = scope;
  };
  const head = table.createTHead().insertRow();
  for (const name of ["channel", ...columns.map(([title]) => title)]) cell(head, "th", name, "col");
  const body = table.createTBody();
  channels.forEach((channel, i) => {
    const row = body.insertRow();
    cell(row, "th", channel, "row");
    for (const [, values] of columns) cell(row, "td", values[i].toFixed(3));
  });
  byId(id).replaceChildren(table);
}

function drawByClass(block) {
  const figure = data.figures.byClass;
  const [all, one] = [figure.data[0], figure.data[1] ?? figure.data[0]];
  const lines = checkedClasses().map((k, i) =>
    trace(one, block, block.mean[k], data.classes[k], data.colors[i % data.colors.length]));
  Plotly.react("by-class", [trace(all, block, block.allMean, "all images"), ...lines],
    layout(figure, `${block.name}: mean gate by class`, block), options);
  const names = checkedClasses().map((k) => data.classes[k]).join(", ");
  byId("by-class-text").textContent = `${block.channel.length} channels at equal distances of ${block.channels}; ` +
    (names ? `the mean gate of ${names}, and of all images in gray.` : "the mean gate of all images.") +
    " The paper's Figure 6.";
  tabulate("by-class-table", block.channel,
    [["all images", block.allMean], ...checkedClasses().map((k) => [data.classes[k], block.mean[k]])]);
}

function drawWithin(block) {
  const figure = data.figures.within;
  const select = byId("within");
  const k = select && select.value !== "" ? Number(select.value) : null;
  const mean = k === null ? block.allMean : block.mean[k];
  const deviation = k === null ? block.allDeviation : block.deviation[k];
  const name = k === null ? "all images" : data.classes[k];
  const [upper, lower, middle] = figure.data;
  const up = mean.map((m, i) => m + deviation[i]);
  const down = mean.map((m, i) => m - deviation[i]);
  Plotly.react("within-class", [
    trace(upper, block, up, upper.name), trace(lower, block, down, lower.name),
    trace(middle, block, mean, `${name}: mean, with one standard deviation`)],
  layout(figure, `${block.name}: gates within ${name}`, block), options);
  byId("within-class-text").textContent =
    `The mean gate of ${name}, with a band of one standard deviation from image to image. The paper's Figure 7.`;
  tabulate("within-class-table", block.channel, [["mean", mean], ["standard deviation", deviation]]);
}

function drawCurves() {
  for (const id of data.curves) {
    const figure = data.figures[id];
    Plotly.react(id, figure.data, layout(figure, figure.layout.title.text), options);
  }
}

function showExamples(block) {
  for (const item of document.querySelectorAll("[data-example]")) {
    const found = data.examples[Number(item.dataset.example)][block.name];
    const list = (pairs) => pairs.map(([channel, by]) => `${channel} (${by > 0 ? "+" : "−"}${Math.abs(by).toFixed(2)})`);
    item.querySelector(".raised").textContent = list(found.raised).join(", ");
    item.querySelector(".lowered").textContent = list(found.lowered).join(", ");
  }
}

function draw() {
  const block = data.blocks[chosen];
  drawByClass(block);
  drawWithin(block);
  showExamples(block);
}

function choose(index) {
  chosen = index;
  const block = data.blocks[index];
  for (const button of document.querySelectorAll("button[data-block]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.block) === index));
  }
  for (const row of document.querySelectorAll("tr[data-block]")) {
    row.classList.toggle("chosen", Number(row.dataset.block) === index);
  }
  for (const name of document.querySelectorAll(".chosen-block")) name.textContent = block.name;
  byId("block-text").textContent = block.text;
  draw();
}

for (const button of document.querySelectorAll("button[data-block]")) {
  button.addEventListener("click", () => choose(Number(button.dataset.block)));
}
for (const box of document.querySelectorAll("input[name=class]")) {
  box.addEventListener("change", () => drawByClass(data.blocks[chosen]));
}
byId("within")?.addEventListener("change", () => drawWithin(data.blocks[chosen]));
dark.addEventListener("change", () => { draw(); drawCurves(); });
choose(chosen);
drawCurves();
byId("js-plotly-tester")?.setAttribute("aria-hidden", "true"); // where plotly measures text
document.documentElement.dataset.drawn = "true";
