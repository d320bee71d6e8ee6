// The page: keeps what the monitor reported and shows it. Every text goes in as text (dom.js), never as markup.

import { RateChart } from "./chart.js";
import { byId, h, set, text } from "./dom.js";
import { bytes, clockTime, duration, eventTime, integer, percent, perSecond, unbroken, utc } from "./format.js";
import { startKeyboard } from "./keyboard.js";
import { MonitorLink } from "./link.js";
import { NodeTable } from "./nodes.js";
import { remembered } from "./remembered.js";

const EVENTS_MAX = 500;
const SIGNS = { info: "●", good: "✓", warning: "▲", critical: "✕" };

const store = { report: null, incarnation: "", samples: [], events: [] };
const windowMinutes = remembered("vaultdb-window", ["5", "15"]);
const showProcesses = remembered("vaultdb-processes", ["yes", "no"]);

const link = new MonitorLink(receive);
const table = new NodeTable(byId("nodes"));
const charts = [
  new RateChart(byId("chart-writes"), { pick: (sample) => sample[1], unit: "Writes per second", onCursor: moveCursor }),
  new RateChart(byId("chart-reads"), { pick: (sample) => sample[2], unit: "Reads per second", onCursor: moveCursor }),
];

function receive(report) {
  const fresh = report.full || report.incarnation !== store.incarnation;
  const oldest = report.at_ms - report.history_ms;
  store.report = report;
  store.incarnation = report.incarnation;
  store.samples = (fresh ? report.samples : store.samples.concat(report.samples)).filter((sample) => sample[0] >= oldest);
  store.events = (fresh ? report.events : store.events.concat(report.events)).slice(-EVENTS_MAX);
  if (fresh) byId("events").replaceChildren();
  else if (report.events.length) text(byId("announcer"), report.events.map((event) => event.text).join(". "));
  addEvents(report.events);
  showTiles(report.cluster);
  showCharts();
  showAges();
}

function showTiles(cluster) {
  text(byId("cluster-name"), cluster.name);
  text(byId("tile-writes"), perSecond(cluster.writes_per_s));
  text(byId("tile-reads"), perSecond(cluster.reads_per_s));
  text(byId("tile-revision"), integer(cluster.revision));
  text(byId("tile-commit"), integer(cluster.commit_index));
  text(byId("tile-cpu"), percent(cluster.cpu_percent));
  text(byId("tile-memory"), bytes(cluster.memory_bytes));
}

function showCharts() {
  const { report, samples, events } = store;
  if (!report) return;
  const names = report.nodes.map((node) => node.name);
  const marks = events.filter((event) => event.kind === "leader").map((event) => event.at_ms);
  const windowMs = 60000 * Number(windowMinutes.value);
  for (const chart of charts) chart.update({ samples, names, windowMs, marks, nowMs: report.at_ms, pollMs: report.poll_ms });
}

function moveCursor(ms) {
  for (const chart of charts) chart.showCursor(ms);
}

/** What grows by itself between two reports: ages, durations, the clock, the state of the link. */
function showAges() {
  const { report } = store;
  const nowMs = Date.now();
  text(byId("clock"), clockTime(nowMs));
  set(byId("clock"), { datetime: new Date(nowMs).toISOString(), title: utc(nowMs) });
  showLink();
  if (!report) return;
  const sinceMs = link.silentMs;
  showHeadline(report.cluster, sinceMs);
  table.update(report.nodes, sinceMs, report.poll_ms);
  text(byId("foot"), `Asked every ${duration(report.poll_ms)} · last report ${clockTime(report.at_ms)} · ${report.cluster.processes} processes`);
  set(byId("foot"), { title: utc(report.at_ms) });
}

function showLink() {
  const state = link.state;
  const age = duration(link.silentMs);
  const words = { connecting: "connecting", live: "live", polling: "live, by polling", lost: `lost, ${age} old` };
  set(byId("link"), { "data-state": state });
  text(byId("link-text"), words[state]);
  set(document.body, { "data-link": state });
  const lost = byId("lost");
  if (state === "lost") {
    text(lost, store.report ? `This page has lost the monitor; figures are ${age} old.` : `The monitor has not answered for ${age}.`);
  }
  lost.hidden = state !== "lost";
  text(byId("alarm"), state === "lost" ? "This page has lost the monitor." : ""); // once, not at each second
}

function showHeadline(cluster, sinceMs) {
  const parts = [];
  if (cluster.leader) parts.push(`Leader ${cluster.leader}`);
  else if (cluster.leaderless_ms !== null) parts.push(`no leader for ${duration(cluster.leaderless_ms + sinceMs)}`);
  if (cluster.term !== null) parts.push(`term ${integer(cluster.term)}`);
  parts.push(`${cluster.nodes_up} of ${cluster.nodes_total} nodes up`, `quorum ${cluster.quorum}`);
  const lost = link.state === "lost";
  set(byId("headline"), { "data-condition": lost ? "unknown" : cluster.condition });
  text(byId("headline-text"), lost ? `Last known: ${cluster.headline}` : cluster.headline);
  text(byId("headline-detail"), parts.join(" · "));
  const sign = { serving: "✓", impaired: "▲", no_leader: "✕", no_quorum: "✕", starting: "…" }[cluster.condition];
  document.title = `${lost ? "… monitor lost" : `${sign} ${cluster.headline}`} – VaultDB ${cluster.name}`;
}

function addEvents(events) {
  const list = byId("events");
  const nowMs = Date.now();
  for (const event of events) {
    const time = h("time", { datetime: new Date(event.at_ms).toISOString(), title: utc(event.at_ms) }, eventTime(event.at_ms, nowMs));
    const sign = h("span", { class: "event-sign", role: "img", "aria-label": event.level }, SIGNS[event.level] ?? "●");
    list.prepend(h("li", { "data-level": event.level, "data-kind": event.kind }, time, sign, h("span", { class: "event-text" }, unbroken(event.text))));
  }
  while (list.children.length > EVENTS_MAX) list.lastElementChild.remove();
  byId("events-empty").hidden = list.children.length > 0;
  text(byId("events-count"), list.children.length ? `newest first, ${list.children.length} of at most ${EVENTS_MAX}` : "");
}

function chooseWindow(minutes) {
  windowMinutes.value = minutes;
  for (const input of document.querySelectorAll("input[name=window]")) input.checked = input.value === windowMinutes.value;
  showCharts();
}

function chooseProcesses(shown) {
  showProcesses.value = shown;
  set(byId("processes-button"), { "aria-pressed": String(shown === "yes") });
  set(byId("nodes"), { "data-processes": shown });
}

byId("window").addEventListener("change", (event) => chooseWindow(event.target.value));
byId("processes-button").addEventListener("click", () => chooseProcesses(showProcesses.next()));
startKeyboard({
  w: () => chooseWindow(windowMinutes.next()),
  p: () => chooseProcesses(showProcesses.next()),
  c: () => charts[0].focus(),
  n: () => byId("nodes").focus(),
  e: () => byId("events").focus(),
});
chooseWindow(windowMinutes.value);
chooseProcesses(showProcesses.value);
setInterval(showAges, 500);
showAges();
link.start();
