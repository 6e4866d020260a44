// What is drawn of one snapshot. Numbers that a test compares carry their exact value in data-value.

import { h, percent, count, rate, clock } from "/dom.js";
import { chart, observed } from "/chart.js";

const num = (key, value, text) => h("span", { "data-num": key, "data-value": value }, text);
const cell = (key, value, text, extra = "") => h("td", { class: extra || null }, num(key, value, text));

/** Everything that somebody should look at now. */
export function attention({ status, rollouts }) {
  const found = [];
  for (const service of status.services) {
    if (service.alarm) found.push(["bad", `${service.name}: ${service.alarm}`]);
    for (const version of service.versions) {
      for (const backend of version.backends) {
        if (backend.health !== "unhealthy") continue;
        found.push(["bad", `${service.name}/${version.name}: ${backend.address} is unhealthy: ${backend.reason ?? "no reason known"}`]);
      }
    }
  }
  for (const rollout of rollouts) {
    if (rollout.phase === "frozen") found.push(["bad", `${rollout.service}: rollout ${rollout.id} is frozen: ${rollout.why ?? ""}`]);
    if (rollout.phase === "rolling-back") found.push(["bad", `${rollout.service}: rollout ${rollout.id} rolls back: ${rollout.why ?? ""}`]);
  }
  for (const device of status.interfaces) {
    if (!device.attached) found.push(["bad", `${device.name} is not attached: ${device.note ?? "no reason known"}`]);
  }
  for (const service of status.services) for (const note of service.notes) found.push(["warn", `${service.name}: ${note}`]);
  if (!found.length) return h("p", { class: "good" }, "Nothing.");
  return h("ul", {}, found.map(([kind, text]) => h("li", { class: kind }, text)));
}

/** One service. `c`: {rates, points, colours, width, rollout, acts}. */
export function service(row, c) {
  const id = `s-${row.name}`;
  const names = row.versions.map((version) => version.name);
  const settled = row.dirty_cells === 0;
  const recent = c.points.length ? observed(c.points, c.points.length - 1, names) : null;
  return h("article", { "data-key": id, "data-service": row.name, "aria-labelledby": id },
    h("div", { class: "head" },
      h("h2", { id }, row.name),
      h("span", {}, row.vips.join(", ")),
      h("span", { class: "quiet" }, `${row.forward}, affinity ${row.affinity}, generation `, num(`${row.name}/generation`, row.generation, row.generation)),
      h("span", { class: `tag ${settled ? "good" : "warn"}` },
        num(`${row.name}/dirty_cells`, row.dirty_cells, settled ? "settled" : `${count(row.dirty_cells)} of ${count(row.cells)} cells not settled`)),
      c.acts && h("span", { class: "acts" },
        h("button", { type: "button", click: () => c.acts.shift(row) }, "Shift…"),
        h("button", { type: "button", class: "danger", click: () => c.acts.rollback(row) }, "Roll back…"))),
    preview(row), cohorts(row),
    h("div", { class: "chart" }, chart(c.points, names, c.colours, c.width, (c.rollout?.log ?? []).map((line) => line.unix_ms))),
    h("p", { class: "key" }, "Solid: what came in the last half minute; dashed: what was asked; dotted: events of the rollout."),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Versions of ${row.name}` },
      h("table", {},
        h("thead", {}, h("tr", {}, ["Version", "Healthy", "Asked", "In table", "Came", "New flows/s", "Flows", "Packets/s", "New flows"]
          .map((title, at) => h("th", { scope: "col", class: at === 0 ? "left" : at > 6 ? "wide" : null }, title)))),
        h("tbody", {}, row.versions.map((version, place) => versionRow(row, version, recent ? recent[place] : null, c))))),
    h("details", {},
      h("summary", {}, `Backends (${row.versions.reduce((n, version) => n + version.backends.length, 0)}) and counters`),
      backends(row, c), counters(row, c), limits(row)),
    c.rollout && rollout(c.rollout, c.acts));
}

function versionRow(row, version, came, c) {
  const key = `${row.name}/${version.name}`;
  const healthy = version.backends.filter((backend) => backend.health !== "unhealthy").length;
  const ill = healthy < version.backends.length;
  return h("tr", { "data-key": key },
    h("th", { scope: "row", class: "left" }, h("span", { class: `swatch k${c.colours.get(version.name)}`, "aria-hidden": "true" }),
      version.name, " ", h("span", { class: "quiet" }, version.role), version.draining && h("span", { class: "tag warn" }, "draining")),
    h("td", { class: ill ? "bad" : null }, `${healthy} of ${version.backends.length}`),
    cell(`${key}/asked`, version.asked, percent(version.asked)),
    cell(`${key}/share`, version.share, percent(version.share)),
    h("td", {}, came === null ? "–" : percent(came)),
    h("td", {}, rate(c.rates(`${key}/new_flows`, version.new_flows))),
    cell(`${key}/flows`, version.flows, count(version.flows)),
    h("td", { class: "wide" }, rate(c.rates(`${key}/packets`, version.packets))),
    cell(`${key}/new_flows`, version.new_flows, count(version.new_flows), "wide"));
}

function backends(row, c) {
  const lines = row.versions.flatMap((version) => version.backends.map((backend) => {
    const key = `${row.name}/${version.name}/${backend.address}`;
    const why = backend.reason ?? backend.next_hop;
    const kind = backend.health === "healthy" ? "good" : backend.health === "unhealthy" ? "bad" : "quiet";
    return h("tr", { "data-key": key },
      h("th", { scope: "row", class: "left" }, h("span", { class: `swatch k${c.colours.get(version.name)}`, "aria-hidden": "true" }), `${version.name} `, backend.address,
        h("div", { class: "narrow why" }, why)),
      h("td", { class: `left ${kind}` }, num(`${key}/health`, backend.health, backend.health), backend.state === "active" ? "" : `, ${backend.state}`),
      cell(`${key}/flows`, backend.flows, count(backend.flows)),
      cell(`${key}/new_flows`, backend.new_flows, count(backend.new_flows)),
      cell(`${key}/packets`, backend.packets, count(backend.packets)),
      h("td", { class: "wide" }, backend.weight),
      h("td", { class: "wide why" }, why));
  }));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `Backends of ${row.name}` },
    h("table", {},
      h("thead", {}, h("tr", {}, ["Backend", "Health", "Flows", "New flows", "Packets", "Weight", "Reason, or next hop"]
        .map((title, at) => h("th", { scope: "col", class: at < 2 ? "left" : at === 6 ? "wide left" : at === 5 ? "wide" : null }, title)))),
      h("tbody", {}, lines)));
}

function counters(row, c) {
  const all = [["packets", "packets"], ["bytes", "bytes"], ["new_flows", "flows begun"], ["learned", "learned in their middle"], ["insert_failed", "could not be remembered"],
    ...[["fallback", "sent as before for want of room"], ["denied", "denied"], ["limited", "over the limit of new connections"], ["no_backend", "without any backend"]]
      .filter(([name]) => row.counters[name] > 0)];
  return h("p", { class: "quiet" }, all.map(([name, title], at) => [
    at > 0 && " · ", num(`${row.name}/counters/${name}`, row.counters[name], count(row.counters[name])), ` ${title}`,
    at < 3 && ` (${rate(c.rates(`${row.name}/counters/${name}`, row.counters[name]))}/s)`]));
}

/** What testers and probes dial, and whom they meet. */
function preview(row) {
  const { preview: at, name } = row;
  return at && h("p", { class: at.alarm ? "warn" : "quiet", "data-key": "preview" },
    `Preview ${at.vips.join(", ")}: new flows go to `, num(`${name}/preview`, at.version ?? "nobody", at.version ?? "nobody"),
    at.alarm && `; ${at.alarm}`);
}

/** Clients who get a version before others do. */
function cohorts(row) {
  const waits = row.cohorts.find((cohort) => cohort.waits)?.waits;
  return row.cohorts.length > 0 && h("ul", { "data-key": "cohorts", "aria-label": `Cohorts of ${row.name}` },
    row.cohorts.map((cohort) => h("li", { "data-key": cohort.name, class: cohort.version ? null : "quiet" },
      `Cohort ${cohort.name} (${count(cohort.prefixes)} ${cohort.prefixes === 1 ? "prefix" : "prefixes"}): new flows go `,
      num(`${row.name}/cohorts/${cohort.name}`, cohort.version ?? "", cohort.version ? `to ${cohort.version}` : "by the weights"))),
    waits && h("li", { class: "warn" }, `Members of cohorts wait: ${waits}`));
}

/** Who may dial, and how often; nothing where everybody may. */
function limits(row) {
  const { access, new_per_source: limit, name } = row;
  return (access || limit) && h("p", { class: "quiet" },
    access && ["access: ", num(`${name}/access/allow`, access.allow, count(access.allow)), " prefixes allowed, ",
      num(`${name}/access/deny`, access.deny, count(access.deny)), " denied"],
    access && limit && " · ",
    limit && ["new connections per source: ", num(`${name}/new_per_source/rate`, limit.rate, count(limit.rate)), "/s, ",
      num(`${name}/new_per_source/burst`, limit.burst, count(limit.burst)), " at once"]);
}

function rollout(row, acts) {
  const over = row.phase === "promoted" || row.phase === "rolled-back";
  const kind = { promoted: "good", running: "good", frozen: "bad", "rolling-back": "bad", "rolled-back": "warn" }[row.phase] ?? "warn";
  const does = (act, text, danger) => h("button", { type: "button", class: danger ? "danger" : null, click: () => acts.move(row, act, text) }, `${text}…`);
  return h("section", { class: "rollout", "data-key": "rollout", "aria-label": `Rollout of ${row.service}` },
    h("div", { class: "head" },
      h("h3", {}, `Rollout ${row.id}: ${row.stable} → ${row.candidate}`),
      h("span", { class: "quiet" }, row.strategy),
      h("span", { class: `tag ${kind}` }, num(`${row.service}/rollout/phase`, row.phase, row.phase)),
      row.paused && h("span", { class: "tag warn" }, `paused ${row.paused}`),
      row.gate_closed && h("span", { class: "tag warn" }, "gate closed"),
      h("span", {}, num(`${row.service}/rollout/weight`, row.weight, percent(row.weight)), ` to ${row.candidate}`),
      acts && h("span", { class: "acts" },
        !over && (row.paused ? does("resume", "Resume") : does("pause", "Pause")),
        !over && does("promote", "Promote"),
        !over && does("abort", "Abort", true),
        over && does("undo", "Undo", true))),
    h("div", { class: "bar", role: "meter", "aria-label": `Share of ${row.candidate}`, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": (100 * row.weight).toFixed(2) },
      h("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none" }, h("rect", { width: 100 * row.weight, height: 1 }))),
    row.why && h("p", { class: kind }, row.why),
    row.waits_for.length > 0 && h("p", {}, `Waits for ${row.waits_for.join("; ")}.`),
    h("div", { class: "split" },
      h("div", {}, h("h3", {}, "Steps"), h("ol", { class: "steps" }, row.steps.map((step) =>
        h("li", { class: step.state, "aria-current": step.state === "now" ? "step" : null }, step.what)))),
      row.analyses.length > 0 && h("div", {}, h("h3", {}, "Analyses"), h("ul", {}, row.analyses.map((run) =>
        h("li", {}, `${run.name}${run.dry_run ? " (dry run)" : ""}: ${run.proven} successes here, ${run.count} needed; ${run.failures} failures, ${run.failure_limit} tolerated`,
          run.last && h("span", { class: "quiet" }, `; last ${run.last}`))))),
      h("div", {}, h("h3", {}, "Events"), h("ol", { class: "log", tabindex: "0", "aria-label": `Events of rollout ${row.id}, newest first` },
        [...row.log].reverse().map((line) => h("li", {}, h("time", { datetime: new Date(line.unix_ms).toISOString() }, clock(line.unix_ms)), h("span", {}, line.text)))))));
}

/** What is not about one service: packets by reason, the flow table, interfaces. */
export function host({ status }, rates) {
  const reasons = Object.entries(status.reasons).filter(([, packets]) => packets > 0).sort((a, b) => b[1] - a[1]);
  const table = status.flow_table;
  return [
    h("section", { "data-key": "reasons", "aria-labelledby": "reasons-title" },
      h("h2", { id: "reasons-title" }, "Packets by reason"),
      reasons.length === 0 && h("p", {}, "None yet."),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "reasons-title" },
        h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col", class: "left" }, "Reason"), h("th", { scope: "col" }, "Packets"), h("th", { scope: "col" }, "per second"))),
          h("tbody", {}, reasons.map(([reason, packets]) => h("tr", { "data-key": reason },
            h("th", { scope: "row", class: `left ${reason.startsWith("drop") ? "bad" : ""}` }, reason),
            cell(`reasons/${reason}`, packets, count(packets)),
            h("td", {}, rate(rates(`reasons/${reason}`, packets))))))))),
    h("section", { "data-key": "table", "aria-labelledby": "table-title" },
      h("h2", { id: "table-title" }, "Flow table"),
      h("p", {}, num("flow_table/entries", table.entries, count(table.entries)), ` of ${count(table.capacity)} entries: `,
        num("flow_table/established", table.established, count(table.established)), " established, ",
        num("flow_table/half", table.half, count(table.half)), " half-open, ",
        num("flow_table/dead", table.dead, count(table.dead)), " wait to be freed."),
      h("p", { class: "quiet" }, Object.entries(table.quotas).map(([name, quota], at) => [at > 0 && " · ", `${name} ${count(quota.used)} of ${count(quota.limit)}`]),
        ` · SYN filter ${percent(status.syn_filter.fill)} full`)),
    status.snat.length > 0 && h("section", { "data-key": "snat", "aria-labelledby": "snat-title" },
      h("h2", { id: "snat-title" }, "Ports for snat"),
      status.snat.map((pool) => {
        const key = `snat/${pool.sources[0]}`;
        return h("p", { "data-key": key }, `${pool.sources.join(", ")} ports ${pool.ports}: `,
          num(`${key}/live`, pool.live, count(pool.live)), " live, ",
          num(`${key}/finished`, pool.finished, count(pool.finished)), " ended, of ",
          num(`${key}/capacity`, pool.capacity, count(pool.capacity)));
      })),
    h("section", { "data-key": "interfaces", "aria-labelledby": "interfaces-title" },
      h("h2", { id: "interfaces-title" }, "Interfaces"),
      h("ul", {}, status.interfaces.map((device) => h("li", { "data-key": device.name },
        `${device.name} (${device.mode}): `, h("span", { class: device.attached ? "good" : "bad" }, device.attached ? "attached" : "not attached"),
        device.note && `, ${device.note}`)))),
  ];
}
