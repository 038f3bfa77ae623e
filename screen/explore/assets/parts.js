// What all views share: asking the server, small pieces of the document, numbers, figures in the colours of the theme.

export const $ = (id) => document.getElementById(id);
export const NARROW = window.matchMedia("(max-width: 640px)");
export const MINUS = "−";

let waiting = 0; // answers under way; a test, or a reader of the screen, sees when there are none

export async function ask(path, parameters = {}, options = {}) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(given).toString();
  busy(1);
  try {
    const answer = await fetch(query ? `${path}?${query}` : path, options);
    const found = await answer.json().catch(() => ({ error: `the server says ${answer.status}: open the address that was printed` }));
    if (!answer.ok) throw new Error(found?.error ?? "there is nothing of that name");
    return found;
  } finally {
    busy(-1);
  }
}

export const send = (path, body, options = {}) =>
  ask(path, {}, { ...options, method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } });

export function url(path, parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return `${path}?${new URLSearchParams(given)}`;
}

function busy(change) {
  waiting += change;
  $("main").setAttribute("aria-busy", String(waiting > 0));
}

export function complain(error) {
  $("error").hidden = !error;
  $("error").textContent = error ? error.message.replace("Failed to fetch", "The server does not answer: it was stopped.") : "";
}

// Three digits; small numbers as 6.72e-5.
export function short(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const rounded = Number(value.toPrecision(digits));
  const text = rounded !== 0 && Math.abs(rounded) < 1e-3 ? rounded.toExponential(digits - 1) : Math.abs(rounded) < 10 ** digits ? rounded.toPrecision(digits) : String(rounded);
  return text.replace("-", MINUS).replace("e-", `e${MINUS}`);
}

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child !== null));
  return made;
}

// A table of {column: values}. columns: [key, title, how]; how: text, number (three digits), exact (six), or a function of a
// row's place that makes a node.
export function fill(table, rows, columns, empty = "Nothing.") {
  const count = rows ? Math.max(0, ...Object.values(rows).map((values) => values.length)) : 0;
  const numeric = (how) => how === "number" || how === "exact";
  const head = element("tr");
  for (const [, title, how] of columns) {
    head.append(element("th", { scope: "col", className: numeric(how) ? "" : "text" }, element("span", {}, title)));
  }
  const body = [];
  for (let i = 0; i < count; i++) {
    const tr = element("tr");
    for (const [key, , how] of columns) {
      const td = tr.insertCell();
      td.className = numeric(how) ? "" : "text";
      if (typeof how === "function") td.append(how(i));
      else td.textContent = short(rows[key][i], how === "exact" ? 6 : 3);
      if (!numeric(how) && rows[key]) td.title = String(rows[key][i] ?? "");
    }
    body.push(tr);
  }
  if (!count) body.push(element("tr", {}, element("td", { className: "text quiet", colSpan: columns.length }, empty)));
  table.replaceChildren(element("thead", {}, head), element("tbody", {}, ...body));
}

export function options(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
  select.value = pairs.some(([value]) => value === chosen) ? chosen : (pairs[0]?.[0] ?? "");
}

// --- figures -------------------------------------------------------------------------------------------------------------

// Plotly reads a few tags in its labels; names are no tags.
export const plain = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

const drawn = new Map(); // id of a figure: its data and layout
let templates = { light: {}, dark: {} };
let theme = "light";

export function setTemplates(found) {
  templates = found;
}

export function setTheme(next) {
  theme = next;
  document.documentElement.dataset.theme = theme;
  $("theme").setAttribute("aria-pressed", String(theme === "dark"));
  for (const [id, figure] of drawn) if ($(id).offsetParent !== null) draw(id, figure.data, figure.layout);
}

export const isDark = () => theme === "dark";

export function draw(id, data, layout) {
  drawn.set(id, { data, layout });
  const config = {
    responsive: true,
    displaylogo: false,
    displayModeBar: !NARROW.matches || layout.dragmode === "lasso",
    modeBarButtons: [[...(layout.dragmode === "lasso" ? ["lasso2d", "select2d"] : []), "toImage", "zoom2d", "pan2d", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: id },
  };
  const whole = { autosize: true, margin: { l: 64, r: 16, t: 16, b: 48 }, ...layout, template: templates[theme] };
  if (NARROW.matches && layout.dragmode !== "lasso") whole.dragmode = false; // a finger scrolls the page
  return window.Plotly.react($(id), data, whole, config);
}
