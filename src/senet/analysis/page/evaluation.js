let chosen = data.reports[0];
const sorting = { column: null, descending: false };
const COLUMNS = ["class", "images", "predictions", "precision, %", "recall, %", "F1, %"];

const percent = (value) => (value === null ? "none" : value.toFixed(2));

// The counts of a confusion matrix by row: Map(row -> Map(column -> count)).
function byRow(report) {
  const rows = new Map();
  for (const [i, j, count] of report.confusion) {
    if (!rows.has(i)) rows.set(i, new Map());
    rows.get(i).set(j, count);
  }
  return rows;
}

// What is taken for another, the most frequent first.
function mistaken(report) {
  return report.confusion.filter(([i, j]) => i !== j).sort((a, b) => b[2] - a[2]);
}

// The classes in the matrix: all if they are few, else those of the most frequent confusions, of all or of one class.
function inMatrix(report, about) {
  if (report.classes.length <= data.matrix) return report.classes.map((_, i) => i);
  const found = new Set(about === null ? [] : [about]);
  for (const [i, j] of mistaken(report)) {
    if (about !== null && i !== about && j !== about) continue;
    if (found.size + !found.has(i) + !found.has(j) > data.matrix) break;
    found.add(i).add(j);
  }
  return [...found].sort((a, b) => a - b);
}

// Mistakes are few in good networks: the square root lets them be seen.
function shade(made, of, right) {
  const share = right ? of : Math.sqrt(of);
  made.style.background = `color-mix(in srgb, var(${right ? "--accent" : "--mistake"}) ${Math.round(45 * share)}%, var(--paper))`;
}

function drawMatrix() {
  const select = byId("about");
  const about = select && select.value !== "" ? Number(select.value) : null;
  const places = inMatrix(chosen, about);
  const within = new Set(places);
  const rows = byRow(chosen);
  const hasRest = places.length < chosen.classes.length;
  const table = document.createElement("table");
  table.className = "matrix";
  const head = table.createTHead().insertRow();
  cell(head, "th", "class", "col");
  for (const j of places) cell(head, "th", chosen.classes[j][0], "col").className = "upright";
  if (hasRest) cell(head, "th", "another", "col").className = "upright";
  const body = table.createTBody();
  for (const i of places.filter((place) => chosen.classes[place][1] > 0)) {
    const row = body.insertRow();
    cell(row, "th", chosen.classes[i][0], "row");
    const counts = rows.get(i) ?? new Map();
    const support = chosen.classes[i][1];
    for (const j of places) {
      const count = counts.get(j) ?? 0;
      const made = cell(row, "td", count || "·");
      if (count) shade(made, count / support, i === j);
    }
    if (hasRest) {
      const rest = [...counts].reduce((sum, [j, count]) => sum + (within.has(j) ? 0 : count), 0);
      const made = cell(row, "td", rest || "·");
      if (rest) shade(made, rest / support, false);
    }
  }
  byId("matrix").replaceChildren(table);
  byId("matrix-text").textContent = hasRest
    ? `${places.length} of ${chosen.classes.length} classes: ` + (about === null
      ? "those that are confused most." : `${chosen.classes[about][0]} and those that it is confused with most.`)
    : "";
}

function drawOverview() {
  if (!byId("overview")) return;
  const n = chosen.classes.length;
  const z = Array.from({ length: n }, () => new Array(n).fill(null));
  for (const [i, j, count] of chosen.confusion) z[i][j] = (100 * count) / Math.max(1, chosen.classes[i][1]);
  const names = chosen.classes.map(([name]) => shown(name));
  const trace = { type: "heatmap", z, zmin: 0, zmax: 100, colorscale: [[0, color("--soft")], [1, color("--accent")]],
    text: names, hovertemplate: "%{customdata[0]} → %{customdata[1]}: %{z:.1f} %<extra></extra>",
    customdata: z.map((row, i) => row.map((value, j) => (value === null ? null : [names[i], names[j]]))),
    colorbar: { ticksuffix: " %", thickness: 12 } };
  const layout = themed({ margin: { l: 50, r: 10, t: 50, b: 45 }, xaxis: { title: { text: "predicted class, in order" } },
    yaxis: { title: { text: "class, in order" }, autorange: "reversed" } }, "All classes");
  Plotly.react("overview", [trace], layout, options);
  byId("overview-text").textContent = `All ${n} classes in the order of the table below, rows and columns; ` +
    "a dark cell off the diagonal is a class that is taken for another.";
}

function drawPairs() {
  const wrong = mistaken(chosen).slice(0, data.pairs);
  tabulate("pairs", ["class", "taken for", "images", "of the class, %"], wrong.map(([i, j, count]) =>
    [chosen.classes[i][0], chosen.classes[j][0], count, percent((100 * count) / chosen.classes[i][1])]));
}

function drawClasses() {
  tabulateSorted("classes", COLUMNS, chosen.classes, ([name, images, predictions, ...shares]) =>
    [name, images, predictions, ...shares.map(percent)], sorting, drawClasses);
}

function drawReliability() {
  const [confidence, accuracy] = [chosen.bins.map((bin) => bin[3]), chosen.bins.map((bin) => bin[4])];
  const curve = { type: "scatter", mode: "lines+markers", x: confidence, y: accuracy, name: "this network",
    line: { color: color("--accent") }, marker: { size: chosen.bins.map((bin) => 6 + Math.min(12, Math.log2(bin[2]))) },
    customdata: chosen.bins.map((bin) => bin[2]),
    hovertemplate: "confidence %{x:.1f} %, right %{y:.1f} %, %{customdata} images<extra></extra>" };
  const diagonal = { type: "scatter", mode: "lines", x: [0, 100], y: [0, 100], name: "as it should be",
    line: { color: color("--quiet"), dash: "dot" }, hoverinfo: "skip" };
  const layout = themed({ margin: { l: 55, r: 10, t: 50, b: 45 }, legend: { orientation: "h", y: -0.25 },
    xaxis: { title: { text: "probability of the predicted class, %" }, range: [0, 102] },
    yaxis: { title: { text: "predicted right, %" }, range: [0, 102] } }, "Reliability");
  Plotly.react("reliability", [diagonal, curve], layout, options);
  const gap = chosen.bins.reduce((sum, bin) => sum + bin[2] * (bin[3] - bin[4]), 0) > 0 ? "above" : "below";
  byId("reliability-text").textContent = "How often predictions of a probability are right. " +
    `They are ${chosen.ece.toFixed(2)} points from the diagonal on average (expected calibration error, 15 ranges); ` +
    `the probabilities are on the whole ${gap} the share that is right.`;
  tabulate("reliability-table", ["probability from, %", "to, %", "images", "mean probability, %", "right, %"],
    chosen.bins.map(([low, high, count, mean, right]) =>
      [(100 * low).toFixed(1), (100 * high).toFixed(1), count, percent(mean), percent(right)]));
}

function paragraph(parent, text, className) {
  const made = parent.appendChild(document.createElement("p"));
  made.textContent = text;
  if (className) made.className = className;
}

function drawMistakes() {
  const block = chosen.blocks.length ? byId("block").value : null;
  byId("mistakes").replaceChildren(...chosen.mistakes.map((mistake) => {
    const item = document.createElement("li");
    const picture = data.pictures[mistake.index];
    if (picture) {
      const image = item.appendChild(document.createElement("img"));
      image.src = picture;
      image.alt = `an image of class ${mistake.label}`;
    }
    const text = item.appendChild(document.createElement("div"));
    paragraph(text, mistake.label, "wrong");
    paragraph(text, `taken for: ${mistake.prediction}, ${(100 * mistake.probability).toFixed(1)} %`);
    paragraph(text, `its own class: ${(100 * mistake.own).toFixed(1)} %`);
    paragraph(text, mistake.image, "file");
    if (block && mistake.gates) {
      paragraph(text, `raised: ${channels(mistake.gates[block].raised)}`);
      paragraph(text, `lowered: ${channels(mistake.gates[block].lowered)}`);
    }
    return item;
  }));
  byId("no-mistakes").hidden = chosen.mistakes.length > 0;
}

function fill(select, names) {
  select.replaceChildren(...names.map(([value, name]) => new Option(name, value)));
}

function choose(index) {
  chosen = data.reports[index];
  for (const name of document.querySelectorAll(".chosen-network")) name.textContent = chosen.name;
  if (byId("about")) {
    fill(byId("about"), [["", "the most confused"], ...chosen.classes.map(([name], i) => [i, name])]);
  }
  if (byId("block")) {
    byId("block-choice").hidden = byId("block-text").hidden = !chosen.blocks.length;
    fill(byId("block"), chosen.blocks.map((name) => [name, name]));
    byId("block").value = chosen.blocks.at(-1) ?? "";
  }
  draw();
}

function draw() {
  drawMatrix();
  drawOverview();
  drawPairs();
  drawClasses();
  drawReliability();
  drawMistakes();
}

byId("network")?.addEventListener("change", (event) => choose(Number(event.target.value)));
byId("about")?.addEventListener("change", drawMatrix);
byId("block")?.addEventListener("change", drawMistakes);
dark.addEventListener("change", () => { drawOverview(); drawReliability(); });
choose(0);
ready();
