"use strict";
// What every page needs: its data, colors that follow the reader's preference, figures and their numbers as tables.
const data = JSON.parse(document.getElementById("data").textContent);
// Plotly interprets tags and entities in any text, and a class name may look like one.
const shown = (name) => name.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
const byId = (id) => document.getElementById(id);
const dark = window.matchMedia("(prefers-color-scheme: dark)");
const options = { responsive: true, displaylogo: false, displayModeBar: false };

function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// A figure's layout in the colors of the page, with a title.
function themed(own, title) {
  const axis = { gridcolor: color("--line"), zerolinecolor: color("--line"), linecolor: color("--line") };
  return {
    ...own,
    template: undefined,
    title: { text: shown(title), font: { size: 15 } },
    font: { color: color("--ink"), family: "system-ui, sans-serif" },
    paper_bgcolor: color("--paper"),
    plot_bgcolor: color("--paper"),
    xaxis: { ...own.xaxis, ...axis },
    yaxis: { ...own.yaxis, ...axis },
  };
}

function cell(row, kind, text, scope) {
  const made = row.appendChild(document.createElement(kind));
  made.textContent = text;
  if (scope) made.scope = scope;
  return made;
}

// A table of texts, the first of each row its heading: for screen readers, and for exact numbers.
function tabulate(id, headings, rows) {
  const table = document.createElement("table");
  const head = table.createTHead().insertRow();
  for (const name of headings) cell(head, "th", name, "col");
  const body = table.createTBody();
  for (const [name, ...values] of rows) {
    const row = body.insertRow();
    cell(row, "th", name, "row");
    for (const value of values) cell(row, "td", value);
  }
  byId(id).replaceChildren(table);
}

// A table that is sorted by the column whose heading is clicked, up or down; missing values come last.
// `cells` makes the texts of a row; `sorting` has the column, null for none, and whether it is descending.
function tabulateSorted(id, headings, rows, cells, sorting, draw) {
  const { column, descending } = sorting;
  const sorted = [...rows];
  if (column !== null) {
    const sign = descending ? -1 : 1;
    sorted.sort((a, b) => {
      const [x, y] = [a[column], b[column]];
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (typeof x === "string" ? x.localeCompare(y, undefined, { numeric: true }) : x - y);
    });
  }
  const focused = document.activeElement?.dataset?.column;
  tabulate(id, headings, sorted.map(cells));
  byId(id).querySelectorAll("thead th").forEach((heading, i) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.dataset.column = i;
    button.textContent = headings[i];
    button.addEventListener("click", () => {
      sorting.descending = sorting.column === i && !sorting.descending;
      sorting.column = i;
      draw();
    });
    heading.replaceChildren(button);
    if (i === column) heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    if (focused === String(i)) button.focus();
  });
}

// Channels with how far their gates are from the mean, as [channel, difference].
function channels(pairs) {
  return pairs.map(([channel, by]) => `${channel} (${by > 0 ? "+" : "−"}${Math.abs(by).toFixed(2)})`).join(", ");
}

function ready() {
  byId("js-plotly-tester")?.setAttribute("aria-hidden", "true"); // where plotly measures text
  document.documentElement.dataset.drawn = "true";
}
