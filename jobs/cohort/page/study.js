// The page over the data embedded above: a paged table of verdicts, one gene over its donors, and both arms of all genes.
"use strict";
const DATA = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const PAGE = 20;
const COLOURS = { "towards the goal": "#e8590c", "away from the goal": "#2b8ad6" };
const OTHER = "#93a1b0";
const rows = DATA.rows; // arrays in the order of DATA.columns
const at = Object.fromEntries(DATA.columns.map((column, i) => [column.name, i]));

function short(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  const rounded = Number(value.toPrecision(3));
  return rounded !== 0 && Math.abs(rounded) < 1e-3 ? rounded.toExponential().replace("e+", "e") : String(rounded);
}

function svg(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// --- table -------------------------------------------------------------------------------------------------------------

let order = rows.map((_, i) => i);
let sorted = { column: null, falling: false };
let page = 0;
let picked = null;

function head() {
  const row = document.querySelector("#table thead tr");
  DATA.columns.forEach((column, i) => {
    const cell = document.createElement("th");
    cell.title = column.meaning;
    if (column.text) cell.className = "text";
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = column.title;
    button.addEventListener("click", () => {
      sorted = { column: i, falling: sorted.column === i ? !sorted.falling : !column.text };
      for (const other of row.children) other.removeAttribute("aria-sort");
      cell.setAttribute("aria-sort", sorted.falling ? "descending" : "ascending");
      filter();
    });
    cell.append(button);
    row.append(cell);
  });
}

function compare(a, b) {
  const [x, y] = [rows[a][sorted.column], rows[b][sorted.column]];
  if (x === y) return a - b;
  if (x === null) return 1; // what is missing stands last, whichever way
  if (y === null) return -1;
  return (x < y ? -1 : 1) * (sorted.falling ? -1 : 1);
}

function filter() {
  const wanted = $("search").value.trim().toLowerCase();
  const verdict = $("verdict").value;
  order = rows
    .map((_, i) => i)
    .filter((i) => !verdict || rows[i][at.verdict] === verdict)
    .filter((i) => !wanted || [at.symbol, at.gene_id].some((c) => String(rows[i][c] ?? "").toLowerCase().includes(wanted)));
  if (sorted.column !== null) order.sort(compare);
  page = 0;
  draw();
}

function draw() {
  const body = document.querySelector("#table tbody");
  body.replaceChildren();
  for (const i of order.slice(page * PAGE, (page + 1) * PAGE)) {
    const line = document.createElement("tr");
    if (i === picked) line.className = "picked";
    DATA.columns.forEach((column, c) => {
      const cell = document.createElement("td");
      if (column.text) cell.className = "text";
      if (c === 0) {
        const button = document.createElement("button");
        button.type = "button";
        button.textContent = short(rows[i][c]);
        button.addEventListener("click", () => pick(i, true));
        cell.append(button);
      } else {
        cell.textContent = short(rows[i][c]);
      }
      line.append(cell);
    });
    body.append(line);
  }
  const pages = Math.max(1, Math.ceil(order.length / PAGE));
  $("count").textContent = `${order.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")} genes`;
  $("place").textContent = `page ${page + 1} of ${pages}`;
  $("back").disabled = page === 0;
  $("next").disabled = page + 1 >= pages;
}

function csv() {
  const quote = (value) => (value === null ? "" : /[",\n]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value);
  const lines = [DATA.columns.map((column) => column.name), ...order.map((i) => rows[i])].map((line) => line.map(quote).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" }));
  link.download = "verdicts.csv";
  link.click();
}

// --- one gene over its donors ------------------------------------------------------------------------------------------

function pick(i, move) {
  picked = i;
  draw();
  const row = rows[i];
  $("picked").textContent = `${row[at.symbol] ?? row[at.gene_id]} (${row[at.gene_id]}): ${row[at.verdict]}`;
  const box = $("forest");
  box.replaceChildren();
  box.className = "pair";
  DATA.arms.forEach((arm, a) => box.append(forest(arm, DATA.values[row[at.gene_id]]?.[a] ?? [])));
  if (move) $("gene").scrollIntoView({ block: "nearest" });
}

function forest(arm, values) {
  const known = values.filter((value) => value !== null);
  const wide = 480;
  const left = 110;
  const high = 46 + 20 * DATA.donors.length;
  const picture = svg("svg", { viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": `${arm}: shift of every donor` });
  picture.append(svg("text", { x: left, y: 14, "font-weight": 600 }, arm));
  const far = Math.max(...known.map(([shift]) => Math.abs(shift)), 1e-12) * 1.1;
  const x = (value) => left + ((value + far) / (2 * far)) * (wide - left - 16);
  picture.append(svg("line", { class: "zero", x1: x(0), x2: x(0), y1: 22, y2: high - 20 }));
  DATA.donors.forEach(([donor, fold], d) => {
    const y = 34 + 20 * d;
    picture.append(svg("text", { x: 0, y: y + 4 }, `${donor}`.slice(0, 12)));
    picture.append(svg("line", { class: "axis", x1: left, x2: wide - 16, y1: y, y2: y }));
    const value = values[d];
    if (!value) return;
    const [shift, cells] = value;
    const point = svg("circle", {
      cx: x(shift), cy: y, r: 3 + Math.min(4, Math.sqrt(cells) / 3), fill: shift > 0 ? COLOURS["towards the goal"] : COLOURS["away from the goal"],
    });
    point.append(svg("title", {}, `${donor} (fold ${fold}): ${short(shift)} in ${cells} cells`));
    picture.append(point);
  });
  for (const value of [-far, 0, far]) {
    picture.append(svg("text", { x: x(value), y: high - 4, "text-anchor": value < 0 ? "start" : value > 0 ? "end" : "middle" }, short(value)));
  }
  return picture;
}

// --- both arms ---------------------------------------------------------------------------------------------------------

function arms() {
  const points = DATA.cloud; // [number of the row, first arm, second arm]
  if (!points.length) return;
  const size = 520;
  const edge = 44;
  const far = [1, 2].map((k) => Math.max(...points.map((p) => Math.abs(p[k])), 1e-12) * 1.05);
  const x = (value) => edge + ((value + far[0]) / (2 * far[0])) * (size - edge - 8);
  const y = (value) => size - edge - ((value + far[1]) / (2 * far[1])) * (size - edge - 8);
  const picture = svg("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": "Effect of every gene in both arms", style: "max-width: 720px" });
  picture.append(svg("line", { class: "zero", x1: x(0), x2: x(0), y1: 8, y2: size - edge }));
  picture.append(svg("line", { class: "zero", x1: edge, x2: size - 8, y1: y(0), y2: y(0) }));
  const called = (p) => p[0] !== null && rows[p[0]][at.verdict] in COLOURS;
  for (const p of [...points.filter((p) => !called(p)), ...points.filter(called)]) {
    const verdict = p[0] === null ? "control" : rows[p[0]][at.verdict];
    const point = svg("circle", { class: "mark", cx: x(p[1]), cy: y(p[2]), r: called(p) ? 5 : 2.5, fill: COLOURS[verdict] ?? OTHER, "fill-opacity": called(p) ? 1 : 0.6 });
    const name = p[0] === null ? p[3] : (rows[p[0]][at.symbol] ?? rows[p[0]][at.gene_id]);
    point.append(svg("title", {}, `${name}: ${verdict}, ${DATA.arms[0]} ${short(p[1])}, ${DATA.arms[1]} ${short(p[2])}`));
    if (p[0] !== null) point.addEventListener("click", () => pick(p[0], true));
    picture.append(point);
  }
  picture.append(svg("text", { x: size / 2, y: size - 6, "text-anchor": "middle" }, `${DATA.arms[0]} (${short(-far[0])} to ${short(far[0])})`));
  picture.append(svg("text", { x: 14, y: size / 2, "text-anchor": "middle", transform: `rotate(-90 14 ${size / 2})` }, `${DATA.arms[1]} (${short(-far[1])} to ${short(far[1])})`));
  $("arms").append(picture);
}

head();
for (const word of [...new Set(rows.map((row) => row[at.verdict]))]) {
  const option = document.createElement("option");
  option.value = option.textContent = word;
  $("verdict").append(option);
}
$("search").addEventListener("input", filter);
$("verdict").addEventListener("change", filter);
$("csv").addEventListener("click", csv);
$("back").addEventListener("click", () => { page -= 1; draw(); });
$("next").addEventListener("click", () => { page += 1; draw(); });
filter();
if (rows.length) pick(0, false);
arms();
