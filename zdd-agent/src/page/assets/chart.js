// The split of new flows over time: what was asked, and what has come.

import { h, clock, percent } from "/dom.js";

/** How far back it shows, ms. */
export const SPAN = 15 * 60 * 1000;
/** New flows are counted over this time for each place of a line, ms: few of them make a line that says nothing. */
const WINDOW = 30 * 1000;

/** What came to each version in the time before `at`, as shares; null where nothing has begun. */
export function observed(points, at, versions, window = WINDOW) {
  const last = points[at];
  let first = at;
  while (first > 0 && last.t - points[first - 1].t <= window) first -= 1;
  if (first === at) return null;
  const begun = versions.map((name) => {
    const [then, now] = [points[first].v.get(name), last.v.get(name)];
    // A counter that fell belongs to other maps: from then on it is counted from nothing.
    return now === undefined ? 0 : Math.max(0, now[2] - (then && then[2] <= now[2] ? then[2] : 0));
  });
  const all = begun.reduce((sum, n) => sum + n, 0);
  return all > 0 ? begun.map((n) => n / all) : null;
}

/** Draws `points` ({t, v: version -> [asked, share, new flows]}, oldest first) `width` pixels wide; `marks`: times of events. */
export function chart(points, versions, colours, width, marks) {
  const [height, left, right, top, bottom] = [176, 44, 96, 8, 24];
  const end = points.length ? points[points.length - 1].t : Date.now();
  // A young chart is not squeezed to its right edge.
  const span = Math.min(SPAN, Math.max(2 * 60000, points.length ? end - points[0].t : 0));
  const x = (t) => left + (width - left - right) * Math.max(0, 1 - (end - t) / span);
  const y = (share) => top + (height - top - bottom) * (1 - share);
  const shown = points.filter((point) => end - point.t <= SPAN);
  const parts = [];
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    parts.push(h("line", { class: "grid", x1: left, x2: width - right, y1: y(share), y2: y(share) }));
    parts.push(h("text", { x: left - 6, y: y(share) + 4, "text-anchor": "end" }, `${100 * share} %`));
  }
  const step = [30, 60, 120, 300].find((seconds) => span / seconds / 1000 <= (width > 480 ? 4 : 2)) ?? 450;
  for (let ago = 0; ago * 1000 <= span; ago += step) {
    const told = ago === 0 ? clock(end) : ago % 60 === 0 ? `${ago / 60} min ago` : `${ago} s ago`;
    parts.push(h("text", { x: x(end - ago * 1000), y: height - 6, "text-anchor": ago === 0 ? "end" : "middle" }, told));
  }
  for (const mark of marks.filter((t) => end - t <= span && t <= end)) {
    parts.push(h("line", { class: "mark", x1: x(mark), x2: x(mark), y1: top, y2: height - bottom }));
  }
  const seen = shown.map((_, at) => observed(shown, at, versions));
  const told = [];
  const labels = [];
  versions.forEach((name, place) => {
    let [asked, line, down] = ["", "", false];
    let before = null;
    shown.forEach((point, at) => {
      const value = point.v.get(name);
      if (!value) { before = null; return; }
      const [px, py] = [x(point.t).toFixed(1), y(value[0]).toFixed(1)];
      // A weight changes at once: a step, not a slope.
      asked += before === null ? `M${px} ${py}` : `H${px}V${py}`;
      before = value;
      if (seen[at] === null) { down = false; return; }
      line += `${down ? "L" : "M"}${px} ${y(seen[at][place]).toFixed(1)}`;
      down = true;
    });
    const colour = `k${colours.get(name)}`;
    parts.push(h("path", { class: `asked ${colour}`, d: asked || "M0 0" }));
    parts.push(h("path", { class: `seen ${colour}`, d: line || "M0 0" }));
    const last = shown.length ? shown[shown.length - 1].v.get(name) : null;
    if (last) {
      const share = seen[seen.length - 1]?.[place] ?? null;
      told.push(`${name}: asked ${percent(last[0])}, ${share === null ? "no new flows" : `${percent(share)} of new flows`}`);
      labels.push({ name, colour, at: y(share ?? last[0]) });
    }
  });
  // Names beside the ends of their lines, pushed apart where those meet.
  labels.sort((a, b) => a.at - b.at);
  labels.forEach((label, at) => {
    label.at = Math.max(label.at, top + 6, at > 0 ? labels[at - 1].at + 14 : 0);
    const short = label.name.length > 12 ? `${label.name.slice(0, 11)}…` : label.name;
    parts.push(h("text", { class: `name ${label.colour}`, x: width - right + 6, y: label.at + 4 }, short));
  });
  const label = `Split of new flows over the last ${Math.round(span / 60000)} minutes. ${told.join("; ") || "No data yet"}.`;
  return h("svg", { role: "img", "aria-label": label, viewBox: `0 0 ${width} ${height}`, height }, parts);
}
