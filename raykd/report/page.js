"use strict";
// Sorts and filters the tables of a page, and draws its charts.

const ABSENT = "–";
const SIZES = {k: 1e3, M: 1e6, G: 1e9};

// The number that a cell begins with ("1,200", "−0.3 [−1, 0]", "1.08 M"), or NaN.
function readNumber(text) {
  const found = /^([+-]?[0-9][0-9,]*\.?[0-9]*(?:e[+-]?[0-9]+)?)(?: ([kMG])\b)?/.exec(text.replace(/−/g, "-"));
  return found ? parseFloat(found[1].replace(/,/g, "")) * (SIZES[found[2]] || 1) : NaN;
}

// The order of rows by one column: numbers by size, texts by the alphabet, what is absent last. Cells are texts.
function sortRows(rows, column, ascending) {
  const isAbsent = row => ["", ABSENT].includes(row[column]);
  const known = rows.map((row, at) => at).filter(at => !isAbsent(rows[at]));
  const numeric = known.every(at => !isNaN(readNumber(rows[at][column])));
  const compare = numeric
    ? (a, b) => readNumber(rows[a][column]) - readNumber(rows[b][column])
    : (a, b) => rows[a][column].localeCompare(rows[b][column], undefined, {numeric: true});
  known.sort((a, b) => (ascending ? 1 : -1) * compare(a, b));
  return [...known, ...rows.map((row, at) => at).filter(at => isAbsent(rows[at]))];
}

// Whether some cell holds each word; "-word" wants none to hold it.
function matchesQuery(cells, query) {
  const line = cells.join("\n").toLowerCase();
  return query.toLowerCase().split(/\s+/).filter(Boolean).every(
    word => word.length > 1 && word[0] === "-" ? !line.includes(word.slice(1)) : line.includes(word));
}

const MOST_UNFILTERED = 7;  // rows of a table that a reader sees at a glance

function readCells(row) {
  return [...row.cells].map(cell => cell.textContent.trim());
}

function enableSorting(table) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const ascending = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
      const rows = [...body.rows];
      body.append(...sortRows(rows.map(readCells), column, ascending).map(at => rows[at]));
    });
  });
}

function enableFilter(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length <= MOST_UNFILTERED) return;
  const box = document.createElement("label"), input = document.createElement("input"), count = document.createElement("span");
  box.className = "filter";
  Object.assign(input, {type: "search", placeholder: "filter rows: words, -without"});
  input.setAttribute("aria-label", "filter rows");
  box.append(input, count);
  table.parentElement.before(box);
  input.addEventListener("input", () => {
    rows.forEach(row => { row.hidden = !matchesQuery(readCells(row), input.value); });
    const shown = rows.filter(row => !row.hidden).length;
    count.textContent = shown === rows.length ? "" : `${shown} of ${rows.length} rows`;
  });
}

function drawChart(figure, config, tooltip) {
  const data = figure.querySelector("script"), holder = figure.querySelector(".chart");
  const {spec} = charts.compile(JSON.parse(data.textContent), {config});
  const runtime = charts.parse(spec, null, {ast: true});
  const view = new charts.View(runtime, {
    expr: charts.expressionInterpreter, renderer: "svg", container: holder, hover: true, tooltip, logLevel: 1});
  // The size is known when all panels are laid out, which takes a second pass.
  view.runAsync().then(() => view.runAsync()).then(() => {
    const svg = holder.querySelector("svg");
    svg.style.setProperty("--width", `${svg.viewBox.baseVal.width}px`);
  });
}

// One chart at a time, so that a reader can scroll meanwhile.
function drawCharts() {
  const config = JSON.parse(document.getElementById("chart-config").textContent);
  const tooltip = new charts.Handler({disableDefaultStyle: true}).call;
  const waiting = [...document.querySelectorAll("figure")];
  const drawNext = () => {
    if (waiting.length) { drawChart(waiting.shift(), config, tooltip); setTimeout(drawNext); }
  };
  setTimeout(drawNext);
  addEventListener("beforeprint", () => waiting.splice(0).forEach(figure => drawChart(figure, config, tooltip)));
}

function openForPrint() {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach(part => { part.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach(part => { part.open = false; }));
}

if (typeof document === "undefined") {
  module.exports = {readNumber, sortRows, matchesQuery};
} else {
  document.querySelectorAll("table.sortable").forEach(table => { enableSorting(table); enableFilter(table); });
  openForPrint();
  if (typeof charts !== "undefined") drawCharts();
}
