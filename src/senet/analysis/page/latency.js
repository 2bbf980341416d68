// The times of a network and its exported form, which the pages of both kinds of networks show.
const precise = (value) => (value === null ? "none" : String(Number(value.toPrecision(3))));

function drawLatency() {
  if (!byId("latency")) return;
  const names = [...new Set(data.latencies.map((each) => each.name))];
  const fills = [color("--quiet"), color("--accent"), color("--mistake")];
  const shapes = ["", "/", "x"];
  const traces = names.map((name, i) => {
    const own = data.latencies.filter((each) => each.name === name);
    return { type: "bar", name, x: own.map((each) => `batch ${each.batch_size}`), y: own.map((each) => each.median_ms / each.batch_size),
      marker: { color: fills[i], pattern: { shape: shapes[i] } },
      error_y: { type: "data", symmetric: false, color: color("--ink"),
        array: own.map((each) => (each.high_ms - each.median_ms) / each.batch_size),
        arrayminus: own.map((each) => (each.median_ms - each.low_ms) / each.batch_size) },
      hovertemplate: `${name}: %{y:.3g} ms an image<extra></extra>` };
  });
  const layout = themed({ margin: { l: 60, r: 10, t: 50, b: 40 }, barmode: "group", legend: { orientation: "h", y: -0.15 },
    yaxis: { title: { text: "ms an image" }, rangemode: "tozero" } }, "Latency");
  Plotly.react("latency", traces, layout, options);
  const others = data.latencies.filter((each) => each.name !== "original");
  byId("latency-text").textContent = "Medians, with the quartiles as bars; all networks in turn, so that a change of the machine's " +
    "speed meets all of them. The original is PyTorch as it is, without compiling. " + others.map((each) =>
    `At batch ${each.batch_size}, ${each.name} takes ${precise(each.ratio)} of the original's time`).join(". ") + ".";
  tabulate("latency-table", ["network", "batch", "rounds", "median, ms", "quartiles, ms", "of the original's time", "quartiles"],
    data.latencies.map((each) => [each.name, each.batch_size, each.rounds, precise(each.median_ms),
      `${precise(each.low_ms)} to ${precise(each.high_ms)}`, precise(each.ratio),
      `${precise(each.ratio_low)} to ${precise(each.ratio_high)}`]));
}

