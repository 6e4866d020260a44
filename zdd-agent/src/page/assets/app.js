// The page's life: follow the agent, remember what was seen, draw, and ask before anything is changed.

import { h, show, clock, percent } from "/dom.js";
import { SPAN } from "/chart.js";
import { attention, service, host } from "/views.js";
import { MANY, chosen, index } from "/find.js";

const at = (id) => document.getElementById(id);
/** A snapshot comes each second; after this long without one, what is shown is old, ms. */
const STALE = 4000;
/** Points of the chart are this far apart at the least, but for the last one, ms. */
const APART = 4500;

let snapshot = null;
let previous = null;
let actions = false;
let reached = false;
let heard = 0;
let stream = null;
/** Service -> points, oldest first; the last one is the present. */
const points = new Map();
/** Service -> version -> colour: a version keeps its own as others come and go. */
const colours = new Map();

function follow() {
  stream = new EventSource("/api/v1/events");
  stream.addEventListener("hello", (event) => {
    const hello = JSON.parse(event.data);
    actions = hello.actions;
    for (const point of hello.history) {
      for (const [name, versions] of point.services) remember(name, point.unix_ms, versions, false);
    }
  });
  stream.addEventListener("snapshot", (event) => take(JSON.parse(event.data)));
  stream.onerror = () => {
    // By hand: a browser gives up for good after some answers, and an agent that starts may give one of them.
    stream.close();
    reached = false;
    draw();
    setTimeout(follow, 1000);
  };
}

function remember(name, t, versions, live) {
  const list = points.get(name) ?? [];
  points.set(name, list);
  const point = { t, live, v: new Map(versions.map(([version, ...rest]) => [version, rest])) };
  if (live && list.length > 1 && list[list.length - 1].live && t - list[list.length - 2].t < APART) list.pop();
  if (!live && list.some((other) => Math.abs(other.t - t) < APART / 2)) return;
  list.push(point);
  list.sort((a, b) => a.t - b.t);
  while (list.length && list[list.length - 1].t - list[0].t > SPAN + 60000) list.shift();
}

function take(next) {
  previous = snapshot;
  snapshot = next;
  reached = true;
  heard = Date.now();
  for (const row of next.status.services) {
    remember(row.name, next.unix_ms, row.versions.map((version) => [version.name, version.asked, version.share, version.new_flows]), true);
    const mine = colours.get(row.name) ?? new Map();
    colours.set(row.name, mine);
    for (const version of row.versions) if (!mine.has(version.name)) mine.set(version.name, mine.size % 8);
  }
  draw();
}

/** Per second since the snapshot before; null where that is not known. */
function ratesOf() {
  const before = new Map();
  const seconds = previous ? (snapshot.unix_ms - previous.unix_ms) / 1000 : 0;
  for (const row of previous?.status.services ?? []) {
    for (const [name, n] of Object.entries(row.counters)) before.set(`${row.name}/counters/${name}`, n);
    for (const version of row.versions) {
      before.set(`${row.name}/${version.name}/new_flows`, version.new_flows);
      before.set(`${row.name}/${version.name}/packets`, version.packets);
    }
  }
  for (const [reason, n] of Object.entries(previous?.status.reasons ?? {})) before.set(`reasons/${reason}`, n);
  return (key, now) => (seconds > 0 && before.has(key) && now >= before.get(key) ? (now - before.get(key)) / seconds : null);
}

function draw() {
  const link = at("link");
  const old = reached && Date.now() - heard > STALE;
  const [kind, text] = !reached
    ? ["bad", snapshot ? `no agent since ${clock(heard)}, reconnecting; traffic goes on by itself` : "no agent, reconnecting"]
    : old ? ["warn", `nothing new since ${clock(heard)}`] : ["good", "live"];
  link.className = `pill ${kind}`;
  if (link.textContent !== text) link.textContent = text;
  document.body.classList.toggle("lost", kind !== "good");
  if (!snapshot) return;
  const { status, rollouts, unix_ms } = snapshot;
  show(at("about"), `agent ${status.build}, process `, h("span", { id: "pid", "data-value": status.pid }, status.pid),
    ", as of ", h("time", { id: "as-of", "data-value": unix_ms }, clock(unix_ms)));
  show(at("lock"), actions && (token()
    ? h("button", { type: "button", click: lock }, "Lock")
    : h("button", { type: "button", click: unlock }, "Unlock actions…")));
  show(at("attention-list"), attention(snapshot));
  const rates = ratesOf();
  const width = Math.max(280, Math.floor(at("services").clientWidth) - (innerWidth < 672 ? 26 : 34));
  const many = status.services.length > MANY;
  at("find").hidden = !many;
  const found = many ? chosen(snapshot, at("filter").value, at("notable").checked, location.hash.slice(3)) : null;
  if (many) {
    show(at("found"), `${found.listed.length} of ${status.services.length}`);
    show(at("index"), index(found, rates, colours));
  }
  show(at("services"), (many ? found.open : status.services).map((row) => service(row, {
    rates, width, points: points.get(row.name), colours: colours.get(row.name),
    rollout: rollouts.find((rollout) => rollout.service === row.name),
    acts: actions && token() && reached ? acts : null,
  })));
  show(at("host"), host(snapshot, rates));
}

// ---- changing something

const token = () => sessionStorage.getItem("zdd-token");

async function send(action) {
  const answer = await fetch("/api/v1/actions", {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${token()}` },
    body: JSON.stringify(action),
  });
  const report = await answer.json();
  if (answer.status === 403 && report.error === "the token is wrong") sessionStorage.removeItem("zdd-token");
  if (!answer.ok) throw new Error(report.error);
  return report;
}

/** Asks, and does `work` when the answer is yes; a problem is told, and the question stays. */
function ask(title, yes, body, work) {
  const dialog = at("ask");
  at("ask-title").textContent = title;
  at("ask-yes").textContent = yes;
  at("ask-yes").disabled = false;
  at("ask-problem").textContent = "";
  at("ask-body").replaceChildren(...body);
  dialog.querySelector("form").onsubmit = async (event) => {
    if (event.submitter !== at("ask-yes")) return;
    event.preventDefault();
    at("ask-yes").disabled = true;
    try {
      if (await work()) dialog.close();
    } catch (problem) {
      show(at("ask-problem"), problem.message);
    }
    at("ask-yes").disabled = false;
    draw();
  };
  dialog.showModal();
  (at("ask-body").querySelector("input") ?? at("ask-no")).focus();
}

function lock() {
  sessionStorage.removeItem("zdd-token");
  draw();
}

function unlock() {
  const input = h("input", { type: "password", autocomplete: "off", id: "token", required: true });
  ask("Unlock actions", "Unlock", [
    h("p", {}, "The token lies in page-token in the agent's state directory. It is kept until this tab is closed."),
    h("label", {}, "Token ", input),
  ], async () => {
    sessionStorage.setItem("zdd-token", input.value.trim());
    return true;
  });
}

const acts = {
  shift(row) {
    const inputs = row.versions.map((version) =>
      h("input", { type: "number", min: 0, max: 100, step: 0.01, "data-version": version.name, placeholder: (100 * version.asked).toFixed(2) }));
    const told = h("div", { id: "told", role: "status" });
    let confirmed = null;
    ask(`Shift ${row.name}`, "Look what it moves", [
      h("p", {}, "Shares of new flows in percent; what is left empty shares the rest. Live flows stay where they are."),
      ...row.versions.map((version, place) => h("label", {}, version.name, inputs[place])),
      told,
    ], async () => {
      const weights = inputs.filter((input) => input.value !== "").map((input) => [input.dataset.version, Math.round(100 * Number(input.value))]);
      const asked = JSON.stringify(weights);
      if (confirmed === asked) {
        await send({ act: "shift", service: row.name, weights });
        return true;
      }
      const moves = await send({ act: "who-moves", service: row.name, weights });
      told.replaceChildren(
        ...moves.versions.map((version) => h("p", {}, `${version.name}: ${percent(version.asked_before)} → ${percent(version.asked_after)}`)),
        h("p", {}, `It moves ${percent(moves.moved_share)} of new clients; none of the ${moves.live_flows} remembered flows moves.`),
        ...moves.notes.map((note) => h("p", { class: "warn" }, note)));
      confirmed = asked;
      at("ask-yes").textContent = "Shift now";
      return false;
    });
  },
  rollback(row) {
    ask(`Roll back ${row.name}?`, "Roll back now", [
      h("p", {}, `All new flows go to ${row.versions[0]?.name}. Live flows stay where they are.`),
    ], async () => { await send({ act: "rollback", service: row.name }); return true; });
  },
  move(row, act, text) {
    ask(`${text} rollout ${row.id} of ${row.service}?`, `${text} now`, [
      h("p", {}, {
        pause: "No step is taken until it is resumed; analysis goes on.",
        resume: "The plan goes on.",
        promote: "The present waiting ends and the next step is taken.",
        abort: `All new flows go back to ${row.stable}. Live flows stay where they are.`,
        undo: "All new flows go at once to the version that had them before. Live flows stay where they are.",
      }[act]),
    ], async () => { await send({ act, service: row.service, revision: row.revision }); return true; });
  },
};

setInterval(draw, 1000);
addEventListener("resize", draw);
addEventListener("hashchange", draw);
at("filter").addEventListener("input", draw);
at("notable").addEventListener("change", draw);
at("find").querySelector("form").addEventListener("submit", (event) => event.preventDefault());
draw();
follow();
