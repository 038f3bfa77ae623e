// The page over the data embedded above: figures in the colours of the theme, a paged table, and one perturbation at a time.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PAGE = 20;
const NARROW = window.matchMedia("(max-width: 640px)");
const CONFIG = {
  responsive: true,
  displaylogo: false,
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  toImageButtonOptions: { format: "svg" },
};
const rows = DATA.table;
const count = rows.gene_ids.length;

// Plotly reads a few tags in its labels; names are no tags.
const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

// Three digits; small numbers as 6.72e-5.
function short(value) {
  if (value === null) return "–";
  const rounded = Number(value.toPrecision(3));
  return rounded !== 0 && Math.abs(rounded) < 1e-3 ? rounded.toExponential().replace("e+", "e") : String(rounded);
}

// A text as one word of a POSIX shell. Double quotes read better around SQL, where nothing in it means something to a shell.
function shellWord(text) {
  return /^[\w .,()'=+-]*$/.test(text) ? `"${text}"` : `'${text.replaceAll("'", "'\\''")}'`;
}

// --- theme -------------------------------------------------------------------------------------------------------------

const drawn = new Map(); // name of a plot: its data and layout
let theme = window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";

function show(name, figure) {
  drawn.set(name, figure);
  const layout = { ...figure.layout, template: DATA.templates[theme], autosize: true };
  if (NARROW.matches) layout.dragmode = false; // a finger scrolls the page
  return Plotly.react($(`plot-${name}`), figure.data, layout, CONFIG);
}

function setTheme(next) {
  theme = next;
  document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-pressed", String(theme === "dark"));
  for (const [name, figure] of drawn) show(name, figure);
}

// --- figures -----------------------------------------------------------------------------------------------------------

// A point's hover text comes from the table, so that it is in the file once.
function withRows(figure) {
  for (const trace of figure.data) {
    if (trace.meta?.rows) trace.customdata = trace.meta.rows.map(pointText);
  }
  return figure;
}

function pointText(i) {
  const note = rows.below[i] ? "below the noise floor" : rows.enough[i] ? "" : DATA.untested;
  return [
    plain(rows.symbols[i]), plain(rows.gene_ids[i]), rows.cells[i], short(rows.effect[i]), short(rows.low[i]), short(rows.high[i]),
    short(rows.fdr[i]), note,
  ];
}

function showFigures() {
  for (const [name, widths] of Object.entries(DATA.figures)) {
    show(name, withRows(structuredClone(NARROW.matches ? widths.narrow : widths.wide)));
  }
}

// --- table -------------------------------------------------------------------------------------------------------------

let order = Array.from({ length: count }, (_, i) => i); // rows that the search leaves, sorted
let sorted = { key: null, falling: false };
let page = 0;
let picked = null;

function sortBy(key) {
  const column = DATA.columns.find((c) => c.key === key);
  // first click: what one wants to see on top
  sorted = { key, falling: sorted.key === key ? !sorted.falling : column.falling };
  page = 0;
  arrange();
}

function arrange() {
  const words = $("search").value.trim().toLowerCase();
  const hits = $("hits-only").checked;
  order = [];
  for (let i = 0; i < count; i++) {
    if (hits && !rows.hit[i]) continue;
    if (words && !rows.symbols[i].toLowerCase().includes(words) && !rows.gene_ids[i].toLowerCase().includes(words)) continue;
    order.push(i);
  }
  if (sorted.key !== null) {
    const values = rows[sorted.key];
    const sign = sorted.falling ? -1 : 1;
    order.sort((a, b) => {
      const [x, y] = [values[a], values[b]];
      if (x === y) return a - b;
      if (x === null) return 1; // what is empty stays below, whatever the direction
      if (y === null) return -1;
      return typeof x === "string" ? sign * x.localeCompare(y, "en", { numeric: true }) : sign * (x - y);
    });
  }
  fill();
}

function fill() {
  const pages = Math.max(1, Math.ceil(order.length / PAGE));
  page = Math.min(page, pages - 1);
  for (const th of $("table").tHead.rows[0].cells) {
    const direction = sorted.falling ? "descending" : "ascending";
    th.setAttribute("aria-sort", th.dataset.key === sorted.key ? direction : "none");
  }
  const shown = order.slice(page * PAGE, (page + 1) * PAGE);
  $("table").tBodies[0].replaceChildren(...shown.map(tableRow));
  const none = order.length || !$("search").value.trim() ? "" : ": nothing of this name was perturbed here, or its rows are not in this file";
  $("count").textContent = `${order.length.toLocaleString("en")} of ${count.toLocaleString("en")} perturbations${none}`;
  $("place").textContent = `page ${page + 1} of ${pages}`;
  for (const id of ["first", "back"]) $(id).disabled = page === 0;
  for (const id of ["next", "last"]) $(id).disabled = page === pages - 1;
}

function tableRow(i) {
  const tr = document.createElement("tr");
  tr.classList.toggle("picked", i === picked);
  for (const column of DATA.columns) {
    const td = tr.insertCell();
    td.className = [column.text ? "text" : "", column.extra ? "extra" : ""].join(" ").trim();
    const value = rows[column.key][i];
    if (column.key === "symbols") {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = value;
      button.addEventListener("click", () => pick(i, true));
      td.append(button);
      td.title = value;
    } else if (column.key === "hit") {
      td.textContent = value ? "hit" : rows.below[i] ? "noise" : rows.enough[i] ? "" : "few cells";
      td.classList.toggle("tag", value);
    } else {
      td.textContent = column.text ? value : column.whole && value !== null ? value.toLocaleString("en") : short(value);
    }
  }
  return tr;
}

function makeTable() {
  const head = $("table").tHead.rows[0];
  for (const column of DATA.columns) {
    const th = document.createElement("th");
    th.scope = "col";
    th.dataset.key = column.key;
    th.className = [column.text ? "text" : "", column.extra ? "extra" : ""].join(" ").trim();
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = column.title;
    button.title = column.help;
    button.addEventListener("click", () => sortBy(column.key));
    th.append(button);
    head.append(th);
  }
  $("search").addEventListener("input", () => { page = 0; arrange(); });
  $("hits-only").addEventListener("change", () => { page = 0; arrange(); });
  const turn = { first: () => 0, back: () => page - 1, next: () => page + 1, last: () => Math.ceil(order.length / PAGE) - 1 };
  for (const [id, to] of Object.entries(turn)) $(id).addEventListener("click", () => { page = to(); fill(); });
  $("csv").addEventListener("click", saveCsv);
  arrange();
}

function csv() {
  const quoted = (v) => (v === null ? "" : typeof v === "string" ? `"${v.replaceAll('"', '""')}"` : String(v));
  const keys = Object.keys(rows);
  const lines = order.map((i) => keys.map((k) => quoted(rows[k][i])).join(","));
  return [keys.map((k) => DATA.names[k]).join(","), ...lines].join("\r\n") + "\r\n";
}

function saveCsv() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  link.download = `${DATA.name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// --- one perturbation --------------------------------------------------------------------------------------------------

const called = new Map(); // what can be typed: row
for (let i = count - 1; i >= 0; i--) {
  called.set(rows.gene_ids[i].toLowerCase(), i);
  called.set(rows.symbols[i].toLowerCase(), i);
}

function pick(i, jump) {
  picked = i;
  $("pick").value = rows.symbols[i];
  fill();
  showGene();
  if (jump) $("gene").scrollIntoView({ behavior: "smooth" });
}

function showGene() {
  const values = DATA.genes[picked];
  const name = rows.symbols[picked];
  const gene = rows.gene_ids[picked].replaceAll("'", "''");
  const ask = `rankshift query ${DATA.run} ${shellWord(`SELECT cell_id, ${DATA.effect} AS effect FROM shifts WHERE gene_ids = '${gene}'`)}`;
  $("links").replaceChildren(...geneLinks(rows.gene_ids[picked], name));
  const all = rows.cells[picked].toLocaleString("en");
  $("plot-gene").hidden = !values;
  $("ask").hidden = Boolean(values) && values.effect.length === values.total;
  $("ask").textContent = ask;
  const numbers = `mean ${short(rows.effect[picked])} (95 % interval ${short(rows.low[picked])} to ${short(rows.high[picked])}), ${DATA.decides} ${short(rows.fdr[picked])}`;
  if (!values) {
    $("picked").textContent = `${name}: ${numbers}, ${all} cells. Its single cells are not in this file, which holds those of the ${Object.keys(DATA.genes).length} strongest perturbations. They come with:`;
    return;
  }
  const sampled = values.effect.length < values.total ? `; ${values.effect.length} of them, a fixed sample, are drawn. All come with:` : "";
  $("picked").textContent = `${name}: ${numbers}, ${values.total.toLocaleString("en")} cells${sampled}`;
  const by = DATA.groups[$("by").value];
  const label = values.cell.map((c) => (by ? by.names[by.of_cell[c]] : name));
  const figure = structuredClone(NARROW.matches ? DATA.gene.narrow : DATA.gene.wide);
  const last = figure.data.length - 1;
  Object.assign(figure.data[last], { x: label.map(plain), y: values.effect, name: plain(name) });
  if (by) figure.layout.xaxis = { ...figure.layout.xaxis, categoryorder: "array", categoryarray: [figure.data[0].name, ...by.names.map(plain)] };
  show("gene", figure);
}

function makePicker() {
  const names = Object.keys(DATA.genes).map((i) => rows.symbols[i]);
  $("picks").replaceChildren(...names.map((name) => new Option(name, name)));
  $("by").replaceChildren(new Option(DATA.all, ""), ...Object.keys(DATA.groups).map((name) => new Option(name, name)));
  $("by").disabled = Object.keys(DATA.groups).length === 0;
  $("by").addEventListener("change", showGene);
  $("pick").addEventListener("change", () => {
    const row = called.get($("pick").value.trim().toLowerCase());
    if (row !== undefined) pick(row, false);
    else $("picked").textContent = `No perturbation is called ${$("pick").value}.`;
  });
  pick(DATA.first, false);
}

// --- begin -------------------------------------------------------------------------------------------------------------

document.documentElement.dataset.theme = theme;
$("theme").setAttribute("aria-pressed", String(theme === "dark"));
$("theme").addEventListener("click", () => setTheme(theme === "dark" ? "light" : "dark"));
showFigures();
makeTable();
makePicker();
$("plot-volcano").on?.("plotly_click", (event) => {
  const point = event.points[0];
  if (point.data.meta?.rows) pick(point.data.meta.rows[point.pointNumber], true);
});
NARROW.addEventListener("change", () => { showFigures(); showGene(); });
window.addEventListener("beforeprint", () => setTheme("light"));
