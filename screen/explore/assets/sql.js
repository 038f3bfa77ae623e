// SQL of the reader: one SELECT, its first rows, all of them as a file.
import { $, complain, element, fill, send } from "./parts.js";
import { keep } from "./state.js";

const FIRST = "SELECT symbols, count(*) AS cells, avg(similarity) AS similarity\nFROM shifts GROUP BY ALL HAVING cells >= 10\nORDER BY similarity LIMIT 20";
let known = null; // the schema is drawn once
let running = null;
let answered = null;

export async function showSql({ about, state }) {
  if (known !== about) schema(about);
  known = about;
  const query = state.sql ?? FIRST;
  if ($("query").value !== query) $("query").value = query;
  if (state.sql && state.sql !== answered) await run();
}

function schema(about) {
  const parts = Object.entries(about.views).map(([view, columns]) =>
    element("details", {}, element("summary", {}, view), element("p", {}, element("code", {}, columns.join(", ")))));
  $("schema").replaceChildren(...parts);
}

async function run() {
  const query = $("query").value;
  running?.abort();
  const mine = (running = new AbortController());
  $("stop").disabled = false;
  $("sql-save").disabled = true;
  $("sql-about").textContent = "Running …";
  complain(null);
  try {
    const found = await send("/api/sql", { query }, { signal: mine.signal });
    answered = query;
    keep({ sql: query });
    const keys = Object.keys(found.rows);
    const count = keys.length ? found.rows[keys[0]].length : 0;
    const number = (type) => /^(u?int|float|double|decimal|half)/.test(type);
    fill($("answer"), found.rows, keys.map((key, i) => [key, key, number(found.types[i]) ? "exact" : "text"]), "No rows.");
    $("sql-about").textContent = `${count.toLocaleString("en")} rows${found.more ? ", the first of more" : ""}, ${found.seconds.toFixed(2)} s.`;
    $("sql-save").disabled = false;
  } catch (error) {
    $("answer").replaceChildren();
    $("sql-about").textContent = mine.signal.aborted ? "Stopped." : error.message;
  } finally {
    if (running === mine) $("stop").disabled = true;
  }
}

$("ask").addEventListener("click", run);
$("stop").addEventListener("click", () => running?.abort());
$("query").addEventListener("input", () => { $("sql-save").disabled = true; });
$("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    run();
  }
});
