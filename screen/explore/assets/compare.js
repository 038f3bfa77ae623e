// Two runs side by side, or two quantities of one: every gene that both have, the line through them, who leaves it.
import { $, ask, draw, element, fill, options, plain, short, url } from "./parts.js";
import { address, go } from "./state.js";

const SHOWN = 30;

export async function showCompare({ about, state, wanted }) {
  const sides = about.runs.flatMap((run) => run.quantities.map((one) => [`${run.name} ${one.name}`, `${run.name}: ${one.title}`]));
  const first = about.runs.map((run) => `${run.name} ${run.quantities[0].name}`);
  const chosen = { x: state.x ?? first[0], y: state.y ?? first[1] ?? sides[1]?.[0] ?? sides[0][0] };
  for (const axis of ["x", "y"]) options($(axis), sides, chosen[axis]);
  const fewest = state.fewest ?? "10";
  $("fewest").value = fewest;
  const [x, y] = ["x", "y"].map((axis) => about.runs.flatMap((run) => run.quantities.map((one) => ({ run, one }))).find(({ run, one }) => `${run.name} ${one.name}` === $(axis).value));
  const asked = { x: x.run.name, x_quantity: x.one.name, y: y.run.name, y_quantity: y.one.name, fewest };
  const found = await ask("/api/compare", asked);
  if (!wanted()) return;
  $("compare-save").href = url("/download/compare.csv", asked);
  const { summary, points } = found;
  $("compare-lead").textContent = `${short(summary.n)} perturbations with ${fewest} cells or more in both. Pearson ${short(summary.pearson)}, Spearman ${short(summary.spearman)}; the line has slope ${short(summary.slope)}.`;
  scatter(summary, points, x, y, about.colours);
  const top = Object.fromEntries(Object.entries(points).map(([key, values]) => [key, values.slice(0, SHOWN)]));
  const name = (i) => element("a", { href: address({ view: "gene", gene: top.gene_ids[i] }) }, top.symbols[i]);
  const same = x.run === y.run ? [["cells_x", "Cells", "number"]] : [["cells_x", "Cells across", "number"], ["cells_y", "Cells up", "number"]];
  fill($("residuals"), top, [["symbols", "Gene", name], ["x", `${x.run.name}: ${x.one.title}`, "number"], ["y", `${y.run.name}: ${y.one.title}`, "number"], ["residual", "From the line", "number"], ...same]);
}

function scatter(summary, points, x, y, colours) {
  const marked = Math.min(SHOWN, Math.ceil(points.x.length / 10));
  const far = points.residual.map((_, i) => i < marked);
  const part = (keep) => {
    const rows = points.x.flatMap((_, i) => (far[i] === keep ? [i] : []));
    return {
      type: "scatter", mode: "markers", x: rows.map((i) => points.x[i]), y: rows.map((i) => points.y[i]), customdata: rows.map((i) => points.gene_ids[i]),
      text: rows.map((i) => `${plain(points.symbols[i])}, from the line ${short(points.residual[i])}`), hovertemplate: "%{text}<br>%{x:.3g}, %{y:.3g}<extra></extra>",
      marker: { size: keep ? 7 : 5, opacity: keep ? 0.95 : 0.45, color: keep ? colours.towards : colours.groups[0] }, name: keep ? "farthest from the line" : "the others",
    };
  };
  const ends = points.x.length ? [points.x.reduce((a, b) => Math.min(a, b)), points.x.reduce((a, b) => Math.max(a, b))] : [];
  const line = { type: "scatter", mode: "lines", x: ends, y: ends.map((v) => summary.slope * v + summary.base), line: { color: colours.other, dash: "dash" }, hoverinfo: "skip", name: "least squares" };
  const layout = {
    height: 520, hovermode: "closest", dragmode: "pan", showlegend: true, legend: { orientation: "h", y: 1.08 }, margin: { l: 72, r: 16, t: 32, b: 56 },
    xaxis: { title: { text: plain(`${x.run.name}: ${x.one.title}`) }, zeroline: true }, yaxis: { title: { text: plain(`${y.run.name}: ${y.one.title}`), standoff: 8 }, zeroline: true, automargin: true },
  };
  draw("plot-compare", [part(false), part(true), line], layout);
  const plot = $("plot-compare");
  plot.removeAllListeners("plotly_click");
  plot.on("plotly_click", (event) => {
    const gene = event.points[0]?.customdata;
    if (gene) go({ view: "gene", gene });
  });
}

for (const axis of ["x", "y"]) $(axis).addEventListener("change", () => go({ [axis]: $(axis).value }));
$("fewest").addEventListener("change", () => go({ fewest: String(Math.max(1, Math.round(Number($("fewest").value) || 1))) }));
