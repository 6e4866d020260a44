// Many services: an index of all, found by what is typed, and those of them in full that were asked for.

import { h, percent, rate } from "/dom.js";

/** Up to so many are shown in full; beyond, there is an index. */
export const MANY = 8;
/** So many that are found are shown in full without being asked for. */
const FEW = 3;

/** What one would look at first: trouble, then change; empty when there is neither. */
function state(row, rollout) {
  const ill = row.versions.flatMap((version) => version.backends).filter((backend) => backend.health === "unhealthy").length;
  const told = [];
  if (row.alarm) told.push(["bad", row.alarm]);
  if (ill > 0) told.push(["bad", `${ill} unhealthy`]);
  if (rollout && rollout.phase !== "promoted" && rollout.phase !== "rolled-back") {
    told.push([rollout.phase === "running" ? "warn" : "bad", `rollout ${rollout.phase}, ${percent(rollout.weight)} to ${rollout.candidate}`]);
  }
  if (row.versions.some((version) => version.draining)) told.push(["warn", "draining"]);
  if (row.dirty_cells > 0) told.push(["warn", "not settled"]);
  return told;
}

function matches(row, words) {
  const text = [row.name, ...row.vips, ...row.versions.flatMap((version) => [version.name, ...version.backends.map((backend) => backend.address)])]
    .join(" ").toLowerCase();
  return words.every((word) => text.includes(word));
}

/** Which services are listed, with their states, and which are shown in full: the one that was followed to, or those found if few. */
export function chosen({ status, rollouts }, text, notable, followed) {
  const words = text.toLowerCase().split(/\s+/).filter(Boolean);
  const listed = status.services
    .filter((row) => matches(row, words))
    .map((row) => ({ row, told: state(row, rollouts.find((rollout) => rollout.service === row.name)) }))
    .filter(({ told }) => !notable || told.length > 0);
  const few = (words.length > 0 || notable) && listed.length <= FEW;
  const open = status.services.filter((row) => row.name === followed || (few && listed.some((one) => one.row === row)));
  return { listed, open };
}

/** One line for each service that is listed. */
export function index({ listed, open }, rates, colours) {
  if (listed.length === 0) return h("p", {}, "No service is like that.");
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Services that were found" },
    h("table", {},
      h("thead", {}, h("tr", {}, ["Service", "Healthy", "State", "Split asked", "New flows/s"]
        .map((title, at) => h("th", { scope: "col", class: at === 1 || at === 4 ? null : "left" }, title)))),
      h("tbody", {}, listed.map(({ row, told }) => line(row, told, open.includes(row), rates, colours.get(row.name))))));
}

function line(row, told, open, rates, colours) {
  const backends = row.versions.flatMap((version) => version.backends);
  const healthy = backends.filter((backend) => backend.health !== "unhealthy").length;
  const key = `index/${row.name}`;
  return h("tr", { "data-key": key, "data-index": row.name },
    h("th", { scope: "row", class: "left" },
      h("a", { href: open ? "#" : `#s-${row.name}`, "aria-expanded": String(open) }, row.name), " ", h("span", { class: "quiet wide" }, row.vips.join(", "))),
    h("td", { class: healthy < backends.length ? "bad" : null },
      h("span", { "data-num": `${key}/healthy`, "data-value": healthy }, `${healthy} of ${backends.length}`)),
    h("td", { class: "left why" }, told.length === 0 ? h("span", { class: "quiet" }, "settled")
      : told.map(([kind, text], at) => [at > 0 && ", ", h("span", { class: kind }, text)])),
    h("td", { class: "left" }, row.versions.filter((version) => version.asked > 0 || version.draining).map((version) => [
      h("span", { class: `swatch k${colours.get(version.name)}`, "aria-hidden": "true" }),
      `${version.name} `, h("span", { "data-num": `${key}/${version.name}/asked`, "data-value": version.asked }, percent(version.asked)), " "])),
    h("td", {}, rate(rates(`${row.name}/counters/new_flows`, row.counters.new_flows))));
}
