// What is shown: the runs, what a reader must know of them, the tables beside them.
import { $, element } from "./parts.js";

export async function showAbout({ about }) {
  const runs = about.runs.map((run) => {
    const facts = { ...run.facts, Perturbations: run.perturbations.toLocaleString("en"), Cells: run.cells.toLocaleString("en"), Rows: run.rows.toLocaleString("en") };
    const list = element("dl", { className: "facts wide" }, ...Object.entries(facts).map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))));
    const notes = element("ul", { className: "limits" }, ...run.notes.map((note) => element("li", {}, note)));
    return element("div", {}, element("h2", {}, run.name), notes, list);
  });
  $("about-runs").replaceChildren(...runs);
  $("about-tables").replaceChildren(...about.tables.map((table) => element("p", {}, table.said)));
}
