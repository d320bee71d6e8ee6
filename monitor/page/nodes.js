// The table of nodes: one row of figures and one row of processes each. Rows are made once and then only changed.

import { h, set, text } from "./dom.js";
import { NONE, bytes, decimal, duration, integer, percent } from "./format.js";

const FIGURES = [
  ["Term", (node) => integer(node.status?.term)],
  ["Commit", (node) => integer(node.status?.commit_index), "Commit index: the last log entry known to be on a quorum"],
  ["Applied", (node) => integer(node.status?.applied_index), "Applied index: the last entry in this node's storage"],
  ["Lag", (node) => integer(node.lag), "Entries committed by the leader and not yet applied here"],
  ["Revision", (node) => integer(node.status?.revision), "Commands applied that changed something"],
  ["Writes/s", (node) => decimal(node.writes_per_s), "Writes that this node's clients asked for"],
  ["Reads/s", (node) => decimal(node.reads_per_s), "Reads that this node's clients asked for"],
  ["Keys", (node) => integer(node.status?.keys_estimate), "RocksDB's estimate"],
  ["Cache hits", (node) => percent(hitShare(node.status)), "Share of reads answered from memory since the start"],
  ["CPU", (node) => percent(node.status?.cpu_percent), "All processes of the node, of one core"],
  ["Memory", (node) => bytes(node.status?.memory_bytes), "All processes of the node"],
  ["Restarts", (node) => integer(node.status?.restarts), "Of its processes, since its supervisor started"],
];
const COLUMNS = 2 + FIGURES.length;

export class NodeTable {
  #table;
  #rows = new Map();

  constructor(table) {
    this.#table = table;
    set(table, { role: "table" });
    const heads = FIGURES.map(([name, , meaning]) => h("th", { scope: "col", role: "columnheader", class: "number", title: meaning ?? null }, name));
    table.append(h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, h("th", { scope: "col", role: "columnheader" }, "Node"), h("th", { scope: "col", role: "columnheader" }, "State"), ...heads)));
  }

  /** `sinceMs`: how long ago the report arrived; ages grow by it. */
  update(nodes, sinceMs, pollMs) {
    for (const [name, row] of this.#rows) {
      if (!nodes.some((node) => node.name === name)) {
        row.body.remove();
        this.#rows.delete(name);
      }
    }
    nodes.forEach((node, index) => {
      if (!this.#rows.has(node.name)) {
        this.#rows.set(node.name, makeRow(node));
        this.#table.append(this.#rows.get(node.name).body);
      }
      const row = this.#rows.get(node.name);
      const place = this.#table.tBodies[index] ?? null;
      if (place !== row.body) this.#table.insertBefore(row.body, place);
      set(row.head, { class: `node-name hue-${index % 7}` }); // as in the charts
      fillRow(row, node, sinceMs, pollMs);
    });
  }
}

function makeRow(node) {
  const link = h("a", { href: node.status_url, title: `${node.name} listens on ${node.http_address}; its full status as JSON` }, node.name);
  const badge = h("span", { class: "badge" });
  const condition = h("span", { class: "condition" });
  const cells = FIGURES.map(([name]) => h("td", { role: "cell", class: "number", "data-label": name }));
  const head = h("th", { scope: "row", role: "rowheader" }, link);
  const processes = h("ul", { class: "processes", "aria-label": `Processes of ${node.name}` });
  const body = h("tbody", { role: "rowgroup", "data-node": node.name },
    h("tr", { role: "row", class: "figures" }, head, h("td", { role: "cell", class: "state" }, badge, condition), ...cells),
    h("tr", { role: "row", class: "process-row" }, h("td", { role: "cell", colspan: COLUMNS }, processes)));
  return { body, head, link, badge, condition, cells, processes };
}

function fillRow(row, node, sinceMs, pollMs) {
  set(row.body, { "data-contact": node.contact, "data-leads": node.leads && node.contact !== "down" });
  set(row.link, { href: node.status_url });
  const [badge, kind] = badgeOf(node);
  text(row.badge, badge);
  set(row.badge, { "data-kind": kind });
  text(row.condition, conditionOf(node, sinceMs, pollMs));
  set(row.condition, { title: node.reason });
  FIGURES.forEach(([, figure], index) => text(row.cells[index], figure(node)));
  set(row.cells[3], { "data-notable": node.lag > 1000 });
  fillProcesses(row.processes, node, sinceMs);
}

function badgeOf(node) {
  if (node.contact === "down") return ["✕ down", "bad"];
  if (node.contact === "unknown") return ["… asking", "plain"];
  if (node.leads) return ["★ leader", "leader"];
  const role = node.status?.role;
  return role ? [role, role === "follower" || role === "learner" ? "plain" : "warn"] : ["no role", "warn"];
}

function conditionOf(node, sinceMs, pollMs) {
  const ageMs = node.age_ms === null ? null : node.age_ms + sinceMs;
  const parts = [];
  if (node.contact === "down") parts.push(`down for ${duration(node.contact_ms + sinceMs)}`);
  if (ageMs === null && node.contact !== "unknown") parts.push("never answered");
  if (ageMs !== null && (node.contact !== "up" || ageMs > 2500 + pollMs)) parts.push(`data is ${duration(ageMs)} old`);
  if (node.contact === "late") parts.push(node.reason);
  if (node.contact === "up" && node.status?.degraded.length) parts.push(`degraded: ${node.status.degraded.join(", ")}`);
  return parts.join(" · ");
}

function fillProcesses(list, node, sinceMs) {
  const processes = node.status?.processes ?? [];
  while (list.children.length > Math.max(1, processes.length)) list.lastElementChild.remove();
  if (!processes.length) {
    list.replaceChildren(h("li", { class: "process-none" }, "no process is known"));
    return;
  }
  list.querySelector(".process-none")?.remove();
  processes.forEach((process, index) => {
    if (!list.children[index]) list.append(makeProcess());
    fillProcess(list.children[index], process, node.contact === "up" ? sinceMs : 0);
  });
}

function makeProcess() {
  const parts = ["name", "pid", "cpu", "memory", "restarts", "uptime"].map((part) => h("span", { class: `process-${part}` }));
  return h("li", { class: "process" }, h("div", {}, ...parts.slice(0, 2)), h("div", {}, ...parts.slice(2)));
}

function fillProcess(item, process, sinceMs) {
  const [name, pid, cpu, memory, restarts, uptime] = item.querySelectorAll("span");
  const runs = process.state === null || process.state === "running";
  text(name, process.name);
  text(pid, process.pid === null ? "no pid" : `pid ${process.pid}`);
  text(cpu, `CPU ${percent(process.cpu_percent)}`);
  set(cpu, { title: "of one core" });
  text(memory, bytes(process.memory_bytes));
  set(memory, { title: "memory, shared pages divided among their users" });
  text(restarts, process.restarts === 1 ? "1 restart" : `${integer(process.restarts)} restarts`);
  set(restarts, { title: process.last_exit ? `last end: ${process.last_exit}` : null });
  text(uptime, runs ? (process.uptime_s === null ? NONE : `up ${duration(1000 * process.uptime_s + sinceMs)}`) : process.state);
  set(item, { "data-runs": runs ? null : "no", "data-restarted": process.restarts ? "yes" : null });
}

function hitShare(status) {
  const reads = (status?.cache_hits ?? 0) + (status?.cache_misses ?? 0);
  return reads ? (100 * status.cache_hits) / reads : null;
}
