// Elements from descriptions, and a patch that leaves alone what has not changed: focus, selection, open details and what a screen
// reader is reading survive each new snapshot. Text is only ever set as text.

const SVG = "http://www.w3.org/2000/svg";
const DRAWN = new Set(["svg", "path", "line", "text", "g", "rect", "title"]);

/** An element: attributes (functions are listeners), then children; what is null or false is left out. */
export function h(name, attributes = {}, ...children) {
  const element = DRAWN.has(name) ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element[`on${key}`] = value;
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    if (child instanceof Node) element.append(child);
    else element.append(...(DRAWN.has(name) ? [String(child)] : words(String(child))));
  }
  return element;
}

/** A text; what stands between backticks, as the agent writes commands, is code. */
function words(text) {
  return text.split(/`([^`]+)`/).map((part, at) => (at % 2 ? h("code", {}, part) : part)).filter((part) => part !== "");
}

/** Makes the children of `parent` be like `children`. */
export function show(parent, ...children) {
  const wanted = h("div", {}, ...children);
  patchChildren(parent, wanted);
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName
    && (a.nodeType !== Node.ELEMENT_NODE || a.getAttribute("data-key") === b.getAttribute("data-key"));
}

function patchChildren(from, to) {
  const wanted = [...to.childNodes];
  for (const [place, want] of wanted.entries()) {
    let have = from.childNodes[place];
    if (have && !alike(have, want)) {
      // The same thing may have moved: a service that was put before another.
      const rest = [...from.childNodes].slice(place + 1);
      const moved = rest.find((node) => alike(node, want));
      if (moved) from.insertBefore(moved, have);
      else from.insertBefore(want, have);
      have = from.childNodes[place];
    }
    if (!have) from.append(want);
    else if (have !== want) patch(have, want);
  }
  while (from.childNodes.length > wanted.length) from.lastChild.remove();
}

function patch(from, to) {
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
  for (const { name } of [...from.attributes]) {
    // Whether details are open is the reader's own.
    if (!to.hasAttribute(name) && name !== "open") from.removeAttribute(name);
  }
  for (const { name, value } of [...to.attributes]) {
    if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  from.onclick = to.onclick;
  patchChildren(from, to);
}

/** A share, 0 to 1, in percent. */
export const percent = (share) => `${(100 * share).toFixed(2)} %`;

/** A count in full, with spaces. */
export const count = (n) => String(Math.round(n)).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");

/** A rate for people: three digits are enough. */
export function rate(perSecond) {
  if (perSecond === null) return "–";
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) {
    if (perSecond >= size) return `${(perSecond / size).toPrecision(3)} ${unit}`;
  }
  return perSecond === 0 ? "0" : perSecond.toPrecision(perSecond < 1 ? 2 : 3);
}

/** A time of day on this machine. */
export const clock = (unixMs) => new Date(unixMs).toLocaleTimeString([], { hour12: false });
