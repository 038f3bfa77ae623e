// The page of one perturbation: what it does, to whom, how it stands among the others, in every run.
import { $, ask, draw, element, fill, options, plain, short, url } from "./parts.js";
import { address, go } from "./state.js";

const FEW = 20; // cells of which no density is drawn: their points and their mean say all

const link = (changes, text) => element("a", { href: address(changes) }, text);

export async function showGene({ run, quantity, state, about, wanted }) {
  if (!state.gene) return nothing(run);
  const asked = { run: run.name, gene: state.gene, quantity: quantity.name };
  const by = state.by in run.groups ? state.by : "";
  options($("by"), [["", "all cells"], ...Object.keys(run.groups).map((name) => [name, name])], by);
  const found = await ask("/api/gene", { ...asked, by });
  if (!wanted()) return;
  const row = found.row;
  for (const id of ["plot-gene", "gene-links", "own", "numbers"]) $(id).hidden = false;
  $("gene-title").textContent = row.symbols;
  $("gene-lead").textContent = sentence(found, run, quantity);
  links(row);
  $("gene-map").href = address({ view: "cells", colour: null });
  $("gene-save").href = url("/download/gene.csv", asked);
  violin(found, by, quantity, about.colours);
  $("gene-caption").textContent = found.sample.cell.length < found.total ? `${found.sample.cell.length} of its ${found.total.toLocaleString("en")} cells, a fixed sample, are drawn; groups and numbers are of all.` : `All ${found.total.toLocaleString("en")} cells.`;
  fill($("groups"), { ...found.groups, label: found.groups.label.map((label) => label || "all cells") }, [["label", by || "Cells", "text"], ["cells", "n", "number"], ["mean", "Mean", "number"], ["sd", "SD", "number"], ["low", "Quartile 1", "number"], ["median", "Median", "number"], ["high", "Quartile 3", "number"]]);
  arms(found.arms, row);
  own(found.own, about);
  numbers(row, run);
  await Promise.all([moved(asked, wanted), near(asked, quantity, wanted)]);
}

function nothing(run) {
  $("gene-title").textContent = "One gene";
  $("gene-lead").textContent = `Search a gene above, or choose one of the table. ${run.name} has ${run.perturbations.toLocaleString("en")} perturbations.`;
  for (const id of ["plot-gene", "gene-links", "own", "numbers"]) $(id).hidden = true;
  $("gene-caption").textContent = "";
  for (const id of ["groups", "arms", "neighbours", "effects"]) $(id).replaceChildren();
}

function sentence(found, run, quantity) {
  const { row, place, of } = found;
  const mean = row[quantity.name];
  if (row.state === "untested") return `${row.symbols} is in too few cells: this adaptive screen measured nothing of it and says nothing.`;
  if (row.state === "estimated") return `${row.symbols} is estimated by this adaptive screen: the 95 % interval of the mean that was ranked is ${short(row.estimated_low)} to ${short(row.estimated_high)}. Its cells were measured in part and are not shown.`;
  const pair = row.symbols.includes("+") ? "together " : "";
  const spread = row[`${quantity.name}_sd`] === null ? "" : `, SD between cells ${short(row[`${quantity.name}_sd`])}`;
  const verb = { delete: "Deleting", overexpress: "Overexpressing", activate: "Activating", inhibit: "Inhibiting" }[row.kind] ?? "Perturbing";
  return `${verb} ${row.symbols} ${pair}in ${short(row.cells)} cells: ${quantity.title} is ${short(mean)} on average${spread}. From the largest down it is number ${short(place)} of ${short(of)}.`;
}

function links(row) {
  $("gene-links").replaceChildren(element("span", { className: "quiet" }, `${row.gene_ids}  `), ...geneLinks(row.gene_ids, row.symbols));
}

function violin(found, by, quantity, colours) {
  const names = [...new Set(found.sample.label)].sort();
  const traces = names.map((name, i) => {
    const color = by ? colours.groups[i % colours.groups.length] : colours.towards;
    const rows = found.sample.label.flatMap((label, k) => (label === name ? [k] : []));
    const shape = rows.length < FEW ? { line: { color, width: 0 }, fillcolor: "transparent", box: { visible: false }, meanline: { visible: true, color, width: 2 } } : { line: { color }, box: { visible: true }, meanline: { visible: true } };
    return {
      type: "violin", name: plain(name || found.row.symbols), x: rows.map(() => plain(name || found.row.symbols)), y: rows.map((k) => found.sample.value[k]),
      text: rows.map((k) => plain(found.sample.cell_id[k])), points: "all", jitter: 0.5, pointpos: 0, ...shape,
      spanmode: "hard", scalemode: "width", width: 0.7, marker: { color, size: rows.length < FEW ? 8 : 4, opacity: rows.length < FEW ? 0.9 : 0.5 },
      hovertemplate: "%{text}: %{y:.3g}<extra></extra>", hoveron: "points",
    };
  });
  const layout = { height: 420, showlegend: false, yaxis: { title: { text: plain(quantity.title), standoff: 12 }, zeroline: true, automargin: true }, xaxis: { type: "category" }, dragmode: "pan" };
  return draw("plot-gene", traces, layout);
}

function arms(rows, row) {
  const columns = Object.fromEntries(["run", "kind", "quantity", "cells", "mean", "sd"].map((key) => [key, rows.map((one) => one[key])]));
  columns.place = rows.map((one) => `${short(one.place)} of ${short(one.of)}`);
  const name = (i) => link({ view: "gene", run: rows[i].run, quantity: null, gene: row.gene_ids }, rows[i].run);
  fill($("arms"), columns, [["run", "Run", name], ["quantity", "Quantity", "text"], ["mean", "Mean", "number"], ["place", "Place", "text"], ["kind", "Done", "text"], ["cells", "Cells", "number"], ["sd", "SD", "number"]]);
}

async function near(asked, quantity, wanted) {
  $("neighbours").replaceChildren();
  const found = await ask("/api/neighbours", asked);
  if (!wanted()) return;
  $("neighbours-about").textContent = `Perturbations that move the same cells: correlation of ${quantity.title} over shared cells (${found.shared} or more), each less the cell's mean.`;
  const name = (i) => link({ view: "gene", gene: found.rows.gene_ids[i] }, found.rows.symbols[i]);
  fill($("neighbours"), found.rows, [["symbols", "Gene", name], ["correlation", "Correlation", "number"], ["shared", "Shared cells", "number"], ["mean", "Mean", "number"]], "None shares enough cells.");
}

async function moved(asked, wanted) {
  $("effects").replaceChildren();
  const found = await ask("/api/effects", asked);
  if (!wanted()) return;
  if (found.rows === null) {
    $("effects-about").textContent = `Not kept: this run ${found.lacking}.`;
    return;
  }
  $("effects-about").textContent = "Genes whose embedding it turns most: 1 − cosine of before to after, mean and SD.";
  const name = (i) => link({ view: "gene", gene: found.rows.gene[i] }, found.rows.symbol[i]);
  fill($("effects"), found.rows, [["symbol", "Gene", name], ["n", "n", "number"], ["turn", "1 − cosine", "number"], ["sd", "SD", "number"]], "None.");
}

function own(tables, about) {
  const parts = Object.entries(tables).flatMap(([name, rows]) => {
    const table = element("table");
    fill(table, rows, Object.keys(rows).map((key) => [key, key, typeof (rows[key].find((v) => v !== null)) === "number" ? "number" : "text"]), `${name} has no row of it.`);
    return [element("h2", {}, name), element("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: name }, table)];
  });
  $("own").replaceChildren(...parts);
}

function numbers(row, run) {
  const told = run.columns.filter((column) => column.key.startsWith("statistics.") || column.key.endsWith("_sd"));
  $("numbers").replaceChildren(...told.map((column) => element("div", {}, element("dt", { title: column.help }, column.title), element("dd", {}, short(row[column.key])))));
  $("numbers").previousElementSibling.hidden = told.length === 0;
}

$("by").addEventListener("change", () => go({ by: $("by").value }));
