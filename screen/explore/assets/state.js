// The view as it stands in the address: whoever opens the same address sees the same.

let rendering = () => {};

export function read() {
  return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
}

function written(state) {
  const kept = Object.entries(state).filter(([, value]) => value !== null && value !== undefined && value !== "");
  return `#${new URLSearchParams(kept)}`;
}

// The address of the view with these changes.
export const address = (changes) => written({ ...read(), ...changes });

// Go to the view with these changes; the way back leads here.
export function go(changes) {
  const next = address(changes);
  if (next !== location.hash) location.hash = next; // a hashchange follows
  else rendering();
}

// Keep what was changed in the view itself, which shows it already.
export function keep(changes) {
  history.replaceState(null, "", address(changes));
  if (document.body.dataset.shown !== undefined) document.body.dataset.shown = location.hash; // else it is still being drawn
}

export function onChange(render) {
  rendering = render;
  window.addEventListener("hashchange", render);
}
