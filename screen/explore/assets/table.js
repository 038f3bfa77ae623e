// The table of perturbations: a grid whose rows, order and filters the server computes.
import { $, NARROW, ask, complain, element, short, url } from "./parts.js";
import { address, keep, read } from "./state.js";

const PAGE = 25;
let grid = null;
let shown = null; // what the grid was built for
let asked = 0;
let fewest = 0; // cells of a row that is not dimmed

function filtersOf(state) {
  try {
    return JSON.parse(state.filters ?? "{}");
  } catch {
    return {};
  }
}

const sortOf = (text) => (text ? { column: text.replace(/^-/, ""), dir: text.startsWith("-") ? "desc" : "asc" } : null);

export async function showTable({ run, quantity, state }) {
  const key = JSON.stringify([run.name, quantity.name, state.filters ?? "", state.sort ?? "", state.page ?? "", NARROW.matches]);
  if (grid && key === shown) return;
  shown = key;
  grid?.destroy();
  const filters = filtersOf(state);
  const sort = sortOf(state.sort);
  await new Promise((resolve) => {
    grid = new window.Tabulator("#grid", {
      layout: NARROW.matches ? "fitColumns" : "fitDataFill",
      maxHeight: "70vh",
      placeholder: "No perturbation is left: clear a filter.",
      columns: columnsOf(run, quantity),
      headerFilterLiveFilterDelay: 250,
      columnDefaults: { titleFormatter: title, minWidth: 90 },
      sortMode: "remote",
      filterMode: "remote",
      pagination: true,
      paginationMode: "remote",
      paginationSize: PAGE,
      paginationInitialPage: Number(state.page) || 1,
      paginationButtonCount: NARROW.matches ? 2 : 5,
      headerSortElement: "",
      initialSort: sort ? [sort] : [],
      initialHeaderFilter: Object.entries(filters).map(([field, value]) => ({ field, value })),
      ajaxURL: "/api/table",
      ajaxRequestFunc: (_, __, parameters) => rows(run, parameters),
      dataLoader: false,
      nestedFieldSeparator: false,
      rowFormatter: (row) => row.getElement().classList.toggle("few", row.getData().cells < fewest),
    });
    grid.on("dataProcessed", resolve);
    grid.on("dataLoadError", resolve);
  });
}

async function rows(run, parameters) {
  const filters = Object.fromEntries((parameters.filter ?? []).map(({ field, value }) => [field, String(value)]).filter(([, v]) => v !== ""));
  const sorter = parameters.sort?.[0];
  const sort = sorter ? `${sorter.dir === "desc" ? "-" : ""}${sorter.field}` : "";
  const text = Object.keys(filters).length ? JSON.stringify(filters) : "";
  const wanted = { run: run.name, filters: text, sort: sorter?.field, falling: sorter?.dir === "desc" ? 1 : "" };
  const mine = ++asked;
  let found;
  try {
    found = await ask("/api/table", { ...wanted, page: parameters.page, size: PAGE });
    complain(null);
  } catch (error) {
    complain(error);
    found = { rows: { perturbation: [] }, n: 0, total: run.perturbations, fewest: 0 };
  }
  fewest = found.fewest;
  if (mine === asked && (read().view ?? "table") === "table") {
    $("table-save").href = url("/download/table.csv", wanted);
    $("table-about").textContent = `${found.n.toLocaleString("en")} of ${found.total.toLocaleString("en")} perturbations of ${run.name}${sort ? "" : `: those of ${found.fewest} cells or more first, the strongest on top`}.`;
    const page = parameters.page > 1 ? parameters.page : "";
    keep({ filters: text, sort, page });
    const state = read();
    shown = JSON.stringify([run.name, state.quantity ?? run.quantities[0].name, state.filters ?? "", state.sort ?? "", state.page ?? "", NARROW.matches]);
  }
  const keys = Object.keys(found.rows);
  const data = found.rows.perturbation.map((_, i) => Object.fromEntries(keys.map((key) => [key, found.rows[key][i]])));
  return { data, last_page: Math.max(1, Math.ceil(found.n / PAGE)), last_row: found.n };
}

function columnsOf(run, quantity) {
  const phone = new Set(["symbols", "cells", quantity.name]);
  const measured = new Set(run.quantities.map((one) => one.name));
  return run.columns
    .filter((column) => column.first && (!NARROW.matches || phone.has(column.key)))
    .filter((column) => column.key !== "gene_ids" || !NARROW.matches)
    .map((column) => ({
      title: column.title,
      field: column.key,
      headerTooltip: column.help,
      hozAlign: column.kind === "number" ? "right" : "left",
      headerHozAlign: column.kind === "number" ? "right" : "left",
      frozen: column.key === "symbols" && !NARROW.matches,
      headerFilter: column.kind === "mark" ? "list" : "input",
      headerFilterParams: column.kind === "mark" ? { values: { "": "all", true: "yes", false: "no" } } : { elementAttributes: { "aria-label": `Filter ${column.title}` } },
      headerFilterPlaceholder: column.kind === "number" ? (measured.has(column.key) ? "|>|0.001" : ">10") : "",
      headerSortStartingDir: column.kind === "number" && !/(fdr|p_value)$/.test(column.key) ? "desc" : "asc",
      headerSortTristate: true,
      formatter: column.key === "symbols" ? name(run) : text,
    }));
}

// A header is a button, so that the keyboard sorts, too; the grid listens to its clicks.
function title(cell) {
  return element("button", { type: "button" }, String(cell.getValue()));
}

const text = (cell) => element("span", {}, short(cell.getValue()));

const name = (run) => (cell) => {
  const row = cell.getRow().getData();
  return element("a", { href: address({ view: "gene", run: run.name, gene: row.gene_ids }), title: row.symbols }, row.symbols);
};

$("clear-filters").addEventListener("click", () => { grid?.clearHeaderFilter(); grid?.clearSort(); grid?.setPage(1); });
