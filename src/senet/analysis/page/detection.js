const sorting = { column: null, descending: false };
const COLUMNS = ["class", "objects", "images", "detections", "AP, %", "AP50, %", "AP75, %", "AR, %", "precision, %", "recall, %"];
const LINES = ["solid", "dash", "dot"];
const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
const DASHES = ["solid", "dash", "dot", "dashdot"];
const percent = (value) => (value === null ? "none" : value.toFixed(1));
const number = (value) => (value === null ? "none" : value.toFixed(3));

function fill(select, names) {
  select.replaceChildren(...names.map(([value, name]) => new Option(name, value)));
}

function drawCurves() {
  const chosen = data.curves[Number(byId("curve").value)];
  const names = Object.keys(chosen.lines);
  const recalls = data.recalls.map((recall) => 100 * recall);
  const traces = names.map((name, i) => ({ type: "scatter", mode: "lines", name, x: recalls, y: chosen.lines[name],
    line: { color: [color("--accent"), color("--mistake"), color("--quiet")][i], dash: LINES[i], width: 2.5 },
    hovertemplate: "recall %{x:.0f} %, precision %{y:.1f} %" }));
  const layout = themed({ margin: { l: 55, r: 10, t: 50, b: 45 }, legend: { orientation: "h", y: -0.25 },
    xaxis: { title: { text: "recall: objects found, %" }, range: [0, 101] },
    yaxis: { title: { text: "precision: detections right, %" }, range: [0, 102] } }, chosen.name);
  Plotly.react("curves", traces, layout, options);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;
  byId("curves-text").textContent = `Precision at each recall for ${chosen.name}: the highest that is reached at that recall ` +
    "or more, 0 where none reaches it. The mean of a curve is its average precision: " +
    names.map((name) => `${mean(chosen.lines[name]).toFixed(1)} % (${name})`).join(", ") + ".";
  const rows = recalls.map((recall, i) => [recall.toFixed(0), ...names.map((name) => percent(chosen.lines[name][i]))]);
  tabulate("curves-table", ["recall, %", ...names.map((name) => `precision, %: ${name}`)],
    rows.filter((_, i) => i % data.step === 0));
}

function drawClasses() {
  tabulateSorted("classes", COLUMNS, data.classes, ([name, objects, images, detections, ...shares]) =>
    [name, objects, images, detections, ...shares.map(percent)], sorting, drawClasses);
}

function drawExamples() {
  if (!byId("examples")) return;
  byId("examples").replaceChildren(...data.examples.map((example) => {
    const item = document.createElement("li");
    const counts = `${example.right} right, ${example.missed} missed, ${example.wrong} wrong`;
    const image = item.appendChild(document.createElement("img"));
    image.src = example.picture;
    image.alt = `${example.image} with boxes: ${counts}`;
    for (const [text, className] of [[`${example.why}: ${counts}`, "wrong"], [example.image, "file"]]) {
      const made = item.appendChild(document.createElement("p"));
      made.textContent = text;
      made.className = className;
    }
    return item;
  }));
  byId("no-examples").hidden = data.examples.length > 0;
}

// A box to tick for each class of the objects, the first ones ticked.
function offerClasses() {
  byId("class-boxes").replaceChildren(...data.gates[0].class.map(({ name, objects }, i) => {
    const label = document.createElement("label");
    const box = label.appendChild(document.createElement("input"));
    box.type = "checkbox";
    box.value = i;
    box.checked = i < 4;
    box.addEventListener("change", drawGates);
    label.append(` ${name} (${objects})`);
    return label;
  }));
}

function drawGates() {
  const block = data.gates[Number(byId("block").value)];
  const by = byId("by").value;
  byId("class-choice").hidden = by !== "class";
  const ticked = [...byId("class-boxes").querySelectorAll("input:checked")].map((box) => Number(box.value));
  const lines = by === "class" ? ticked.map((i) => [i, block.class[i]]) : block.size.map((line, i) => [i, line]);
  const trace = (name, y, line) => ({ type: "scatter", mode: "lines", x: block.channels, y, name: shown(name), line,
    hovertemplate: "channel %{x}: %{y:.3f}" });
  const traces = [trace("all objects", block.all, { color: "#808080", width: 3 }), ...lines.map(([i, { name, gates }]) =>
    trace(name, gates, { color: PALETTE[i % PALETTE.length], dash: DASHES[Math.floor(i / PALETTE.length) % DASHES.length] }))];
  const layout = themed({ margin: { l: 55, r: 10, t: 50, b: 45 }, legend: { orientation: "h", y: -0.25 }, showlegend: true,
    xaxis: { title: { text: "channel" } },
    yaxis: { title: { text: "mean gate" }, range: [block.low, block.high] } }, `${block.name}: mean gate by ${by}`);
  Plotly.react("gate-figure", traces, layout, options);
  const [mean, variation, ofClass, ofSize] = block.numbers;
  byId("gate-text").textContent = `The mean gate of ${block.channels.length} channels of ${block.name} over objects of each ${by}. ` +
    `Over all objects and channels it is ${number(mean)}; from object to object it varies by ${number(variation)} of its range. ` +
    `Share of that variance between classes: ${number(ofClass)}; between sizes: ${number(ofSize)}.`;
}

function drawAll() {
  drawCurves();
  if (data.gates) drawGates();
}

fill(byId("curve"), data.curves.map(({ name }, i) => [i, name]));
byId("curve").addEventListener("change", drawCurves);
if (data.gates) {
  fill(byId("block"), data.gates.map(({ name }, i) => [i, name]));
  byId("block").value = data.gates.length - 1;
  offerClasses();
  byId("block").addEventListener("change", drawGates);
  byId("by").addEventListener("change", drawGates);
  tabulate("gate-table", ["block", "mean gate", "variation", "share between classes", "share between sizes", "effect of classes",
    "effect of sizes"], data.gates.map(({ name, numbers }) => [name, ...numbers.map(number)]));
}
dark.addEventListener("change", drawAll);
drawClasses();
drawExamples();
drawAll();
ready();
