// The page: which run, which view, the search. Every view is a module that shows a state; the address holds that state.
import { $, NARROW, ask, complain, element, options, setTemplates, setTheme, isDark } from "./parts.js";
import { address, go, onChange, read } from "./state.js";
import { showCells } from "./cells.js";
import { showCompare } from "./compare.js";
import { showGene } from "./gene.js";
import { showSql } from "./sql.js";
import { showTable } from "./table.js";
import { showAbout } from "./about.js";

const VIEWS = { table: showTable, gene: showGene, cells: showCells, compare: showCompare, sql: showSql, about: showAbout };
let about = null;
let turn = 0; // a view that is no longer wanted when its answer comes is not shown

function context() {
  const state = read();
  const run = about.runs.find((one) => one.name === state.run) ?? about.runs[0];
  const quantity = run.quantities.find((one) => one.name === state.quantity) ?? run.quantities[0];
  const view = state.view in VIEWS ? state.view : "table";
  return { about, state, run, quantity, view };
}

async function render() {
  const mine = ++turn;
  const now = context();
  delete document.body.dataset.shown;
  for (const name of Object.keys(VIEWS)) $(`view-${name}`).hidden = name !== now.view;
  for (const link of $("views").children) {
    link.href = address({ view: link.dataset.view });
    if (link.dataset.view === now.view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  options($("run"), about.runs.map((one) => [one.name, one.name]), now.run.name);
  options($("quantity"), now.run.quantities.map((one) => [one.name, one.title]), now.quantity.name);
  document.title = `${now.state.gene && now.view === "gene" ? `${now.state.gene} · ` : ""}${now.run.name} · rankshift explore`;
  complain(null);
  try {
    await VIEWS[now.view]({ ...now, wanted: () => mine === turn });
  } catch (error) {
    if (mine === turn) complain(error);
  }
  if (mine === turn) document.body.dataset.shown = location.hash;
}

// --- search --------------------------------------------------------------------------------------------------------------

let found = [];
let at = -1;
let asked = 0;

async function search() {
  const words = $("find").value.trim();
  const mine = ++asked;
  if (!words) return offer([]);
  try {
    const rows = await ask("/api/find", { run: context().run.name, words });
    if (mine === asked) offer(rows.symbols.map((symbols, i) => ({ symbols, gene: rows.gene_ids[i], cells: rows.cells[i] })), words);
  } catch (error) {
    complain(error);
  }
}

function offer(rows, words = "") {
  found = rows;
  at = rows.length ? 0 : -1;
  const items = rows.map((row, i) => {
    const about = row.symbols === row.gene ? "" : row.gene;
    const item = element("li", { id: `found-${i}`, role: "option" }, element("b", {}, row.symbols), element("span", {}, `${about} ${row.cells.toLocaleString("en")} cells`));
    item.addEventListener("pointerdown", (event) => { event.preventDefault(); choose(i); });
    return item;
  });
  if (words && !rows.length) items.push(element("li", { role: "option", ariaDisabled: "true" }, `No perturbation of ${context().run.name} is called ${words}.`));
  $("found").replaceChildren(...items);
  $("found").hidden = !items.length;
  $("find").setAttribute("aria-expanded", String(items.length > 0));
  mark();
}

function mark() {
  [...$("found").children].forEach((item, i) => item.setAttribute("aria-selected", String(i === at)));
  if (at >= 0) $("found").children[at].scrollIntoView({ block: "nearest" });
  if (at >= 0) $("find").setAttribute("aria-activedescendant", `found-${at}`);
  else $("find").removeAttribute("aria-activedescendant");
}

function choose(i) {
  const row = found[i];
  asked++; // an answer under way is no longer wanted
  offer([]);
  $("find").value = "";
  const view = ["gene", "cells"].includes(context().view) ? context().view : "gene";
  go({ view, gene: row.gene, run: context().run.name, colour: null });
}

function keys(event) {
  if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    if (!found.length) return;
    event.preventDefault();
    at = (at + (event.key === "ArrowDown" ? 1 : found.length - 1)) % found.length;
    mark();
  } else if (event.key === "Enter" && at >= 0) {
    event.preventDefault();
    choose(at);
  } else if (event.key === "Escape") {
    offer([]);
  }
}

// --- begin ---------------------------------------------------------------------------------------------------------------

const DARK = window.matchMedia("(prefers-color-scheme: dark)");
const saved = sessionStorage.getItem("theme");
setTheme(saved ?? (DARK.matches ? "dark" : "light"));
$("theme").addEventListener("click", () => {
  setTheme(isDark() ? "light" : "dark");
  sessionStorage.setItem("theme", isDark() ? "dark" : "light");
});
$("skip").addEventListener("click", (event) => { event.preventDefault(); $("main").focus(); }); // the address holds the view
$("find").addEventListener("input", search);
$("find").addEventListener("keydown", keys);
$("find").addEventListener("blur", () => offer([]));
$("run").addEventListener("change", () => go({ run: $("run").value, quantity: null, filters: null, sort: null, page: null, lasso: null, choose: null, by: null, colour: null }));
$("quantity").addEventListener("change", () => go({ quantity: $("quantity").value }));
document.addEventListener("keydown", (event) => {
  if (event.key === "/" && !/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName)) {
    event.preventDefault();
    $("find").focus();
  }
});
try {
  about = await ask("/api/about");
  setTemplates(about.templates);
  $("footer").textContent = `rankshift ${about.version}. Served by this machine to you alone; nothing is loaded from elsewhere.`;
  onChange(render);
  NARROW.addEventListener("change", render);
  await render();
} catch (error) {
  complain(error);
}
