let chosen = data.first;

function layout(figure, title, block) {
  const made = themed(figure.layout, title);
  if (block) {
    made.xaxis.title = { text: `channel (of ${block.channels})` };
    made.yaxis.range = [block.low, block.high];
  }
  return made;
}

function trace(like, block, y, name, lineColor) {
  return { ...like, x: block.channel, y, name: shown(name), line: { ...like.line, color: lineColor ?? like.line.color } };
}

function checkedClasses() {
  return [...document.querySelectorAll("input[name=class]:checked")].map((box) => Number(box.value));
}

// A figure as a table; columns are [title, one number for each channel].
function numbers(id, block, columns) {
  const headings = ["channel", ...columns.map(([title]) => title)];
  tabulate(id, headings, block.channel.map((channel, i) => [channel, ...columns.map(([, y]) => y[i].toFixed(3))]));
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
  numbers("by-class-table", block,
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
  numbers("within-class-table", block, [["mean", mean], ["standard deviation", deviation]]);
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
    for (const kind of ["raised", "lowered"]) item.querySelector(`.${kind}`).textContent = channels(found[kind]);
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
ready();
