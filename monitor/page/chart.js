// A line chart of one rate: the cluster's total as an area, each node as a thin line, values read by pointer or keyboard.

import { h, s, set, text } from "./dom.js";
import { clockTime, compact, decimal, minuteTime, perSecond, utc } from "./format.js";

const HEIGHT = 176;
const LEFT = 46;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 22;
const DASHES = ["", "7 3", "2 3", "8 3 2 3", "4 4"]; // with the hue, so that colour is never the only sign

export class RateChart {
  #pick; // (sample) → list of a value per node
  #unit;
  #onCursor;
  #root;
  #frame;
  #plot;
  #when;
  #legend;
  #readout;
  #width = 0;
  #hidden = new Set();
  #cursorMs = null;
  #data = { samples: [], names: [], windowMs: 300000, nowMs: 0, marks: [], pollMs: 1000 };

  constructor(panel, { pick, unit, onCursor }) {
    this.#pick = pick;
    this.#unit = unit;
    this.#onCursor = onCursor;
    this.#when = h("span", { class: "note chart-when" }, "now");
    panel.querySelector("h2").after(this.#when);
    this.#root = s("svg", { class: "plot", height: HEIGHT, "aria-hidden": "true" });
    this.#plot = s("g");
    this.#root.append(this.#plot);
    this.#frame = h("div", { class: "plot-frame", tabindex: "0", role: "group", "aria-roledescription": "line chart" }, this.#root);
    this.#legend = h("ul", { class: "legend" });
    this.#readout = h("div", { class: "hidden", "aria-live": "polite" });
    panel.append(this.#frame, this.#legend, this.#readout);
    this.#frame.addEventListener("pointermove", (event) => this.#point(event));
    this.#frame.addEventListener("pointerleave", () => this.#onCursor(null));
    this.#frame.addEventListener("blur", () => this.#onCursor(null));
    this.#frame.addEventListener("keydown", (event) => this.#key(event));
    new ResizeObserver(([entry]) => {
      this.#width = Math.round(entry.contentRect.width);
      this.#draw();
    }).observe(this.#frame);
  }

  update(data) {
    this.#data = data;
    this.#draw();
  }

  /** Show the values at this instant, or the latest ones with null. */
  showCursor(ms) {
    this.#cursorMs = ms;
    this.#draw();
  }

  focus() {
    this.#frame.focus();
  }

  #visible() {
    const from = this.#data.nowMs - this.#data.windowMs;
    return this.#data.samples.filter((sample) => sample[0] >= from);
  }

  #x(ms) {
    const { nowMs, windowMs } = this.#data;
    return LEFT + (1 - (nowMs - ms) / windowMs) * (this.#width - LEFT - RIGHT);
  }

  #draw() {
    if (this.#width < 80) return;
    set(this.#root, { width: this.#width, viewBox: `0 0 ${this.#width} ${HEIGHT}` });
    const samples = this.#visible();
    const totals = samples.map((sample) => sum(this.#pick(sample)));
    const step = niceStep(Math.max(1, ...totals.map((total) => total ?? 0)) / 4);
    const top = step * Math.max(4, Math.ceil(Math.max(0, ...totals.map((total) => total ?? 0)) / step));
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const at = this.#sampleAt(samples);
    this.#plot.replaceChildren(
      ...this.#axes(step, top, y),
      ...this.#marks(),
      ...this.#lines(samples, totals, y),
      ...this.#crosshair(samples, totals, at, y),
    );
    this.#fillLegend(samples, totals, at);
    this.#describe(totals);
  }

  #axes(step, top, y) {
    const parts = [];
    for (let value = 0; value <= top + step / 2; value += step) {
      const line = y(value);
      parts.push(s("line", { class: value ? "grid" : "base", x1: LEFT, x2: this.#width - RIGHT, y1: line, y2: line }));
      parts.push(s("text", { class: "tick", x: LEFT - 6, y: line + 4, "text-anchor": "end" }, value ? `${compact(value)}` : "0/s"));
    }
    const minutes = this.#data.windowMs / 60000;
    const every = 60000 * (minutes <= 5 ? 1 : 3);
    const from = this.#data.nowMs - this.#data.windowMs;
    for (let ms = Math.ceil(from / every) * every; ms <= this.#data.nowMs; ms += every) {
      const x = this.#x(ms);
      if (x < LEFT + 14 || x > this.#width - RIGHT - 14) continue;
      parts.push(s("line", { class: "grid", x1: x, x2: x, y1: HEIGHT - BOTTOM, y2: HEIGHT - BOTTOM + 4 }));
      parts.push(s("text", { class: "tick", x, y: HEIGHT - 5, "text-anchor": "middle" }, minuteTime(ms)));
    }
    return parts;
  }

  #marks() {
    const from = this.#data.nowMs - this.#data.windowMs;
    return this.#data.marks.filter((ms) => ms >= from).map((ms) => {
      const x = this.#x(ms);
      return s("g", { class: "leader-mark" },
        s("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }),
        s("path", { d: `M${x - 4} ${TOP - 6}h8l-4 6z` }));
    });
  }

  #lines(samples, totals, y) {
    const gapMs = 2.5 * this.#data.pollMs;
    const runs = (value) => {
      const found = [];
      let run = [];
      let lastMs = -Infinity;
      samples.forEach((sample, index) => {
        const here = value(sample, index);
        if (here === null || sample[0] - lastMs > gapMs) {
          if (run.length) found.push(run);
          run = [];
        }
        if (here !== null) run.push(`${this.#x(sample[0]).toFixed(1)} ${y(here).toFixed(1)}`);
        lastMs = sample[0];
      });
      if (run.length) found.push(run);
      return found;
    };
    const path = (found) => found.map((run) => (run.length > 1 ? `M${run.join("L")}` : `M${run[0]}h.1`)).join("");
    const total = runs((_, index) => totals[index]);
    const base = y(0);
    const area = total.map((run) => `M${run[0].split(" ")[0]} ${base}L${run.join("L")}L${run.at(-1).split(" ")[0]} ${base}Z`);
    const parts = [s("path", { class: "area", d: area.join("") })];
    this.#data.names.forEach((name, node) => {
      if (this.#hidden.has(name)) return;
      const d = path(runs((sample) => this.#pick(sample)[node] ?? null));
      parts.push(s("path", { class: `line hue-${node % 7}`, d, "stroke-dasharray": DASHES[node % DASHES.length] || null }));
    });
    parts.push(s("path", { class: "line line-total", d: path(total) }));
    return parts;
  }

  #sampleAt(samples) {
    if (!samples.length) return -1;
    if (this.#cursorMs === null) return samples.length - 1;
    let best = 0;
    samples.forEach((sample, index) => {
      if (Math.abs(sample[0] - this.#cursorMs) < Math.abs(samples[best][0] - this.#cursorMs)) best = index;
    });
    return best;
  }

  #crosshair(samples, totals, at, y) {
    if (this.#cursorMs === null || at < 0) return [];
    const x = this.#x(samples[at][0]);
    const dots = this.#pick(samples[at]).map((value, node) =>
      value === null || this.#hidden.has(this.#data.names[node]) ? null : s("circle", { class: `dot hue-${node % 7}`, cx: x, cy: y(value), r: 3 }));
    if (totals[at] !== null) dots.push(s("circle", { class: "dot dot-total", cx: x, cy: y(totals[at]), r: 4 }));
    return [s("line", { class: "crosshair", x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }), ...dots.filter(Boolean)];
  }

  #fillLegend(samples, totals, at) {
    const { names } = this.#data;
    const wanted = names.join("\n");
    if (this.#legend.dataset.names !== wanted) {
      this.#legend.dataset.names = wanted;
      this.#legend.replaceChildren(this.#legendItem("total", "line-total", null), ...names.map((name, node) => this.#legendItem(name, `hue-${node % 7}`, node)));
    }
    const values = at < 0 ? [] : [totals[at], ...this.#pick(samples[at])];
    [...this.#legend.children].forEach((item, index) => text(item.querySelector(".legend-value"), decimal(values[index] ?? null)));
    const cursor = this.#cursorMs !== null && at >= 0;
    text(this.#when, cursor ? clockTime(samples[at][0]) : "now");
    set(this.#when, { title: cursor ? utc(samples[at][0]) : null });
  }

  #legendItem(name, hue, node) {
    const dash = node === null ? null : DASHES[node % DASHES.length] || null;
    const swatch = s("svg", { class: "swatch", width: 20, height: 8, "aria-hidden": "true" }, s("path", { class: `line ${hue}`, d: "M1 4h18", "stroke-dasharray": dash }));
    const value = h("span", { class: "legend-value" });
    if (node === null) return h("li", { class: "legend-total" }, swatch, h("span", {}, name), value);
    const button = h("button", { type: "button", "aria-pressed": "true", title: `Show or hide the line of ${name}` }, swatch, h("span", {}, name), value);
    button.addEventListener("click", () => {
      if (!this.#hidden.delete(name)) this.#hidden.add(name);
      set(button, { "aria-pressed": String(!this.#hidden.has(name)) });
      this.#draw();
    });
    return h("li", {}, button);
  }

  #describe(totals) {
    const seen = totals.filter((total) => total !== null);
    const minutes = this.#data.windowMs / 60000;
    const label = seen.length
      ? `${this.#unit}, whole cluster: ${perSecond(seen.at(-1))} now, at most ${perSecond(Math.max(...seen))} in ${minutes} minutes. Arrow keys read single values.`
      : `${this.#unit}: no values yet.`;
    set(this.#frame, { "aria-label": label });
  }

  #point(event) {
    const across = (event.clientX - this.#frame.getBoundingClientRect().left - LEFT) / (this.#width - LEFT - RIGHT);
    this.#onCursor(this.#data.nowMs - (1 - Math.min(1, Math.max(0, across))) * this.#data.windowMs);
  }

  #key(event) {
    const samples = this.#visible();
    const at = this.#sampleAt(samples);
    const page = event.shiftKey ? 10 : 1;
    const target = { ArrowLeft: at - page, ArrowRight: at + page, Home: 0, End: samples.length - 1 }[event.key];
    if (event.key === "Escape") this.#onCursor(null);
    else if (target === undefined || !samples.length) return;
    else {
      const sample = samples[Math.min(samples.length - 1, Math.max(0, target))];
      this.#onCursor(sample[0]);
      const nodes = this.#pick(sample).map((value, node) => `${this.#data.names[node]} ${decimal(value)}`);
      text(this.#readout, `${clockTime(sample[0])}: total ${perSecond(sum(this.#pick(sample)))}, ${nodes.join(", ")}`);
    }
    event.preventDefault();
  }
}

/** The sum of what is known; null when nothing is. */
function sum(values) {
  const seen = values.filter((value) => value !== null);
  return seen.length ? seen.reduce((a, b) => a + b, 0) : null;
}

/** The smallest of 1, 2, 2.5, 5 × 10ⁿ that is not below `raw`. */
function niceStep(raw) {
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 2.5, 5, 10].find((factor) => factor * power >= raw * 0.999) * power;
}
