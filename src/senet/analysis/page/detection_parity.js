const MEASURES = [
  ["corners, pixels", 1, "the largest distance of a corner of the two boxes, in pixels"],
  ["scores", 2, "the difference of the two scores"],
];
const COLUMNS = ["found by", "class", "score", "picture", "box: x1, y1, x2, y2"];
const sorting = { column: null, descending: false };

function drawDifferences() {
  if (!byId("measure")) return;
  const [label, column, meaning] = MEASURES[byId("measure").selectedIndex];
  const pairs = data.differences;
  const trace = { type: "scatter", mode: "markers", x: pairs.map((each) => each[0]),
    y: pairs.map((each) => each[column]), marker: { color: color("--accent"), size: 6, opacity: 0.6 },
    hovertemplate: "score %{x:.3f}: %{y:.3g}<extra></extra>" };
  const layout = themed({ margin: { l: 70, r: 15, t: 50, b: 45 }, xaxis: { title: { text: "score of the original" } },
    yaxis: { title: { text: label }, rangemode: "tozero", exponentformat: "power" } }, "Pairs of boxes");
  Plotly.react("differences", [trace], layout, options);
  const largest = data[["", "largest_pixels", "largest_score"][column]];
  const few = pairs.length < data.pairs ? `, of which the ${pairs.length.toLocaleString("en")} with the largest differences are shown` : "";
  byId("differences-text").textContent = `Each of ${data.pairs.toLocaleString("en")} pairs${few}: ${meaning}; ${precise(largest)} at most.`;
}

function drawLone() {
  if (!byId("lone")) return;
  const rows = data.lone.map((each) => [each.found_by, each.class_name, each.score, each.image, each.box]);
  const cells = (row) => [row[0], row[1], row[2].toFixed(3), row[3], row[4].map((value) => value.toFixed(1)).join(", ")];
  tabulateSorted("lone", COLUMNS, rows, cells, sorting, drawLone);
}

function drawImages() {
  byId("images")?.replaceChildren(...data.pictures.map((each) => {
    const item = document.createElement("li");
    const image = item.appendChild(document.createElement("img"));
    image.src = each.picture;
    image.alt = `boxes that only one found in ${each.image}`;
    const text = item.appendChild(document.createElement("p"));
    text.textContent = each.image;
    text.className = "file";
    return item;
  }));
}

function draw() {
  drawDifferences();
  drawLatency();
}

byId("measure")?.replaceChildren(...MEASURES.map(([name]) => new Option(name)));
byId("measure")?.addEventListener("change", drawDifferences);
dark.addEventListener("change", draw);
draw();
drawLone();
drawImages();
ready();
