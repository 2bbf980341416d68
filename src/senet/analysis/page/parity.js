const MEASURES = [
  ["relative", "relative error, %", (error) => (error.relative === null ? null : 100 * error.relative), "the root of the mean squared difference, as a share of the original's values"],
  ["cosine", "cosine", (error) => error.cosine, "the cosine of the original's values and the exported network's: 1 where both have the same direction"],
  ["largest", "largest difference", (error) => error.largest, "the largest absolute difference of a value"],
];
const INNER = { blocks: ["The end of each block", "block"], gates: ["The gates of each SE block", "gate"] };

function drawAccuracy() {
  if (!byId("accuracy")) return;
  const found = data.accuracy;
  const names = ["original", "exported"];
  const trace = { type: "scatter", mode: "markers", x: names.map((name) => found[name]), y: names,
    marker: { color: [color("--quiet"), color("--accent")], size: 12, symbol: ["circle", "diamond"] },
    error_x: { type: "data", symmetric: false, color: color("--ink"),
      array: names.map((name) => found[`${name}_interval`][1] - found[name]),
      arrayminus: names.map((name) => found[name] - found[`${name}_interval`][0]) },
    hovertemplate: "%{y}: %{x:.2f} %<extra></extra>" };
  const layout = themed({ margin: { l: 80, r: 15, t: 50, b: 45 }, showlegend: false,
    xaxis: { title: { text: "top-1 accuracy, %" } }, yaxis: { autorange: "reversed" } }, "Accuracy");
  Plotly.react("accuracy", [trace], layout, options);
  const [low, high] = found.difference_interval;
  byId("accuracy-text").textContent = `Accuracy of both with 95 % confidence intervals: ${found.original.toFixed(2)} % and ` +
    `${found.exported.toFixed(2)} %. On the same images they differ by ${found.difference.toFixed(2)} points, by ` +
    `${low.toFixed(2)} to ${high.toFixed(2)} with 95 % confidence.`;
}

function fullName({ name, module }) {
  return module && module !== name ? `${name}, ${module}` : name;
}

function drawInner() {
  if (!byId("measure")) return;
  const [, label, value, meaning] = MEASURES[byId("measure").selectedIndex];
  for (const [kind, [title, one]] of Object.entries(INNER)) {
    if (!byId(kind)) continue;
    const errors = data.inner[kind];
    const trace = { type: "scatter", mode: "lines+markers", x: errors.map((_, i) => i), y: errors.map(value),
      text: errors.map((each) => shown(fullName(each))), line: { color: color("--accent") }, marker: { size: 7 },
      hovertemplate: "%{text}: %{y:.4g}<extra></extra>" };
    const ticks = errors.map((_, i) => i).filter((i) => i % Math.ceil(errors.length / 16) === 0);
    const layout = themed({ margin: { l: 65, r: 15, t: 50, b: 90 }, yaxis: { title: { text: label } },
      xaxis: { tickvals: ticks, ticktext: ticks.map((i) => shown(errors[i].name)), tickangle: -45 } }, title);
    Plotly.react(kind, [trace], layout, options);
    const worst = errors.reduce((a, b) => (b.relative > a.relative ? b : a));
    byId(`${kind}-text`).textContent = `${label} from the first ${one} to the last: ${meaning}. The largest relative error is ` +
      `${precise(100 * worst.relative)} %, in ${fullName(worst)}; ${data.inner.num_images} images.`;
    tabulate(`${kind}-table`, [one, ...MEASURES.map((each) => each[1])],
      errors.map((each) => [fullName(each), precise(MEASURES[0][2](each)), each.cosine?.toFixed(5) ?? "none", precise(each.largest)]));
  }
}

function line(parent, text, className) {
  const made = parent.appendChild(document.createElement("p"));
  made.textContent = text;
  if (className) made.className = className;
}

function drawImages() {
  byId("images")?.replaceChildren(...data.disagreements.map((each) => {
    const item = document.createElement("li");
    const picture = data.pictures[each.index];
    if (picture) {
      const image = item.appendChild(document.createElement("img"));
      image.src = picture;
      image.alt = each.class_name === null ? "an image of the data" : `an image of class ${each.class_name}`;
    }
    const text = item.appendChild(document.createElement("div"));
    if (each.class_name !== null) line(text, each.class_name, "wrong");
    line(text, `original: ${each.original}, ${(100 * each.original_probability).toFixed(1)} %`);
    line(text, `exported: ${each.exported}, ${(100 * each.exported_probability).toFixed(1)} %`);
    line(text, each.image, "file");
    return item;
  }));
}

function draw() {
  drawAccuracy();
  drawLatency();
  drawInner();
}

byId("measure")?.replaceChildren(...MEASURES.map(([name, label]) => new Option(label, name)));
byId("measure")?.addEventListener("change", drawInner);
dark.addEventListener("change", draw);
draw();
drawImages();
ready();
