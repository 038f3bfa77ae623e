// The map of cells, coloured by a perturbation's shift; perturbations ranked again for the cells of a lasso or of a group.
import { $, NARROW, ask, draw, element, fill, options, plain, send, short } from "./parts.js";
import { address, go } from "./state.js";

const LASSO = "lasso"; // a choice beside the groups
const CORNERS = 60; // of a lasso in the address
const maps = new Map();
let now = null; // what is shown: the context, the map, the colours
let rankedRows = null;

export async function showCells(context) {
  const { run, quantity, state, wanted } = context;
  if (!maps.has(run.name)) maps.set(run.name, await ask("/api/map", { run: run.name }));
  const map = maps.get(run.name);
  const groups = Object.keys(run.groups);
  const colour = groups.includes(state.colour) ? state.colour : state.colour === "mean" || !state.gene ? "mean" : "gene";
  const first = state.gene ? [["gene", `${quantity.title}: ${state.gene}`]] : [];
  options($("colour"), [...first, ["mean", `mean of ${quantity.title}`], ...groups.map((name) => [name, name])], colour);
  options($("choose"), [[LASSO, "a lasso on the map"], ...groups.flatMap((name) => run.groups[name].map((value) => [JSON.stringify([name, value]), `${name}: ${value}`]))], state.choose ?? LASSO);
  $("order").value = state.order ?? "mean";
  let found = null;
  if (!groups.includes(colour)) found = await ask("/api/colours", { run: run.name, quantity: quantity.name, gene: colour === "gene" ? state.gene : "" });
  if (!wanted()) return;
  if (found?.symbols) $("colour").options[0].text = `${quantity.title}: ${found.symbols}`;
  now = { ...context, map, colour, found };
  const drawn = map.cell.length < map.total ? `${map.cell.length.toLocaleString("en")} of ${map.total.toLocaleString("en")} cells, a fixed sample: ` : `${map.total.toLocaleString("en")} cells: `;
  $("map-about").textContent = `${drawn}${map.source}`;
  await drawMap();
  await rank(wanted);
}

function drawMap() {
  const { map, colour, found, quantity, about, state } = now;
  const hover = (i) => plain(map.cell_id[i]);
  let traces;
  if (found === null) {
    const { names, of } = map.groups[colour];
    traces = names.map((name, g) => {
      const rows = of.flatMap((value, i) => (value === g ? [i] : []));
      return points(rows, { color: about.colours.groups[g % about.colours.groups.length] }, rows.map(hover), plain(name));
    });
  } else {
    const bare = found.value.flatMap((value, i) => (value === null ? [i] : []));
    const rows = found.value.flatMap((value, i) => (value === null ? [] : [i]));
    const values = rows.map((i) => found.value[i]);
    const sizes = values.map(Math.abs).sort((a, b) => a - b);
    const most = sizes[Math.floor(0.98 * (sizes.length - 1))] || sizes.at(-1) || 1; // a few extremes do not fade the others
    const signed = values.some((v) => v < 0);
    const scale = signed ? [[0, "#2b8ad6"], [0.5, "#c9d1da"], [1, "#e8590c"]] : [[0, "#c9d1da"], [1, "#e8590c"]];
    const bar = { thickness: 12, title: { text: plain(colour === "mean" ? `mean ${quantity.title}` : quantity.title), side: "right" } };
    traces = [
      points(bare, { color: about.colours.other, opacity: 0.25 }, bare.map(hover), "not in the cell"),
      points(rows, { color: values, colorscale: scale, cmin: signed ? -most : 0, cmax: most, colorbar: bar }, rows.map((i) => `${hover(i)}: ${short(found.value[i])}`), colour === "mean" ? "mean" : "in the cell"),
    ];
  }
  const path = corners(state.lasso);
  const shapes = path.length && !state.choose ? [{ type: "path", path: `M${path.map((p) => p.join(",")).join("L")}Z`, line: { color: about.colours.towards, width: 2, dash: "dot" } }] : [];
  const layout = {
    height: NARROW.matches ? 380 : 560, dragmode: "lasso", hovermode: "closest", shapes, showlegend: found === null, legend: { orientation: "h", y: 1.06 },
    xaxis: { title: { text: plain(map.axes[0]) }, zeroline: false }, yaxis: { title: { text: plain(map.axes[1]), standoff: 8 }, zeroline: false, automargin: true },
    margin: { l: 56, r: 8, t: 24, b: 48 }, uirevision: `${now.run.name}`, selections: [],
  };
  const done = draw("plot-map", traces, layout);
  const plot = $("plot-map");
  plot.removeAllListeners("plotly_selected");
  plot.on("plotly_selected", lassoed);
  return done;

  function points(rows, marker, text, name) {
    return { type: "scatter", mode: "markers", x: rows.map((i) => map.x[i]), y: rows.map((i) => map.y[i]), text, name, marker: { size: map.cell.length > 2000 ? 4 : 7, opacity: 0.85, ...marker }, hovertemplate: "%{text}<extra></extra>" };
  }
}

// A lasso, or a box, as corners in the address: whoever opens it has the same cells.
function lassoed(event) {
  if (!event) return;
  let path = [];
  if (event.lassoPoints) path = event.lassoPoints.x.map((x, i) => [x, event.lassoPoints.y[i]]);
  else if (event.range) {
    const [[a, b], [c, d]] = [event.range.x, event.range.y];
    path = [[a, c], [b, c], [b, d], [a, d]];
  }
  if (path.length < 3) return;
  const step = Math.max(1, path.length / CORNERS);
  const kept = Array.from({ length: Math.min(path.length, CORNERS) }, (_, i) => path[Math.floor(i * step)]);
  go({ lasso: kept.map((p) => p.map((v) => Number(v.toPrecision(4))).join(",")).join(" "), choose: null });
}

const corners = (text) => (text ?? "").split(" ").map((pair) => pair.split(",").map(Number)).filter((p) => p.length === 2 && p.every(Number.isFinite));

// Cells inside a polygon: a ray to the right crosses its sides an odd number of times.
export function inside(map, path) {
  const cells = [];
  for (let i = 0; i < map.cell.length; i++) {
    const [x, y] = [map.x[i], map.y[i]];
    let odd = false;
    for (let a = 0, b = path.length - 1; a < path.length; b = a++) {
      const [[ax, ay], [bx, by]] = [path[a], path[b]];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) odd = !odd;
    }
    if (odd) cells.push(map.cell[i]);
  }
  return cells;
}

async function rank(wanted) {
  const { run, quantity, state, map } = now;
  const path = corners(state.lasso);
  const asked = { run: run.name, quantity: quantity.name, order: $("order").value };
  $("ranked").replaceChildren();
  $("ranked-save").hidden = true;
  if (state.choose && state.choose !== LASSO) [asked.group, asked.value] = JSON.parse(state.choose);
  else if (path.length > 2) asked.cells = inside(map, path);
  else {
    $("lasso-about").textContent = "Draw a lasso around cells, or choose a group: perturbations are ranked again for these cells alone.";
    return;
  }
  if (asked.cells?.length === 0) {
    $("lasso-about").textContent = "No cell is inside the lasso.";
    return;
  }
  const found = await send("/api/cells", asked);
  if (!wanted()) return;
  rankedRows = found.rows;
  $("lasso-about").textContent = `${found.cells.toLocaleString("en")} cells. Means of ${quantity.title} in these cells and in all others, of perturbations in ${found.fewest} or more of them. Described, not tested: the cells were chosen by eye.`;
  const name = (i) => element("a", { href: address({ gene: found.rows.gene_ids[i], colour: null }) }, found.rows.symbols[i]);
  fill($("ranked"), found.rows, [["symbols", "Gene", name], ["cells_in", "Cells", "number"], ["mean_in", "Mean here", "number"], ["mean_out", "Mean elsewhere", "number"], ["difference", "Difference", "number"]], "No perturbation is in enough of these cells.");
  $("ranked-save").hidden = false;
}

function save() {
  const quoted = (v) => (v === null ? "" : typeof v === "string" ? `"${v.replaceAll('"', '""')}"` : String(v));
  const keys = Object.keys(rankedRows);
  const lines = rankedRows.symbols.map((_, i) => keys.map((key) => quoted(rankedRows[key][i])).join(","));
  const link = element("a", { href: URL.createObjectURL(new Blob([[keys.join(","), ...lines].join("\r\n") + "\r\n"], { type: "text/csv" })), download: "ranked.csv" });
  link.click();
  URL.revokeObjectURL(link.href);
}

$("colour").addEventListener("change", () => go({ colour: $("colour").value }));
$("choose").addEventListener("change", () => go({ choose: $("choose").value === LASSO ? null : $("choose").value }));
$("order").addEventListener("change", () => go({ order: $("order").value }));
$("unlasso").addEventListener("click", () => go({ lasso: null, choose: null }));
$("ranked-save").addEventListener("click", save);
