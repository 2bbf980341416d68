const chosenRuns = () => [...document.querySelectorAll("input[name=run]:checked")].map((box) => data.runs[Number(box.value)]);

function line(run, key, width, name) {
  return {
    x: run.epochs, y: run.curves[key], name: shown(name), mode: run.epochs.length > 1 ? "lines" : "markers",
    line: { color: run.color, dash: run.dash, width }, marker: { color: run.color }, legendgroup: run.name,
    hovertemplate: `${shown(name)}, epoch %{x}: %{y:.4g}<extra></extra>`,
  };
}

function drawAll() {
  const runs = chosenRuns();
  for (const [key, title] of data.figures) {
    const lines = runs.map((run) => line(run, key, 2, run.name));
    if (key === "loss") lines.push(...runs.map((run) => ({ ...line(run, "train_loss", 0.8, `${run.name}, training`), showlegend: false })));
    const layout = themed({ ...data.layout, showlegend: true }, title);
    if (key === "loss") layout.yaxis.type = "log";
    Plotly.react(`${key}-curve`, lines, layout, options);
    const epochs = [...new Set(runs.flatMap((run) => run.epochs))].sort((a, b) => a - b);
    const value = (run, epoch) => run.curves[key][run.epochs.indexOf(epoch)]?.toPrecision(4) ?? "";
    tabulate(`${key}-table`, ["epoch", ...runs.map((run) => run.name)],
      epochs.map((epoch) => [epoch, ...runs.map((run) => value(run, epoch))]));
  }
}

for (const box of document.querySelectorAll("input[name=run]")) box.addEventListener("change", drawAll);
dark.addEventListener("change", drawAll);
drawAll();
ready();
