// The tie to the monitor: its stream where possible, polling where the stream breaks, and the knowledge of being cut off.

const STREAM_GRACE_MS = 3000; // a stream that is silent for longer (or for three polls) is given up
const STREAM_RETRY_MS = 10000;
const LOST_AFTER_MS = 3000;
const FETCH_TIMEOUT_MS = 2000;

export class MonitorLink {
  #onReport;
  #position = ""; // what the page has: "incarnation.version"
  #pollMs = 1000;
  #stream = null;
  #streamOpenedAt = 0;
  #heardAt = performance.now();
  #fetchedAt = 0;
  #fetching = false;
  #mode = "connecting";

  constructor(onReport) {
    this.#onReport = onReport;
  }

  start() {
    this.#open();
    setInterval(() => this.#watch(), 250);
  }

  /** Milliseconds since the monitor was last heard. */
  get silentMs() {
    return performance.now() - this.#heardAt;
  }

  /** connecting, live, polling or lost */
  get state() {
    return this.silentMs > Math.max(LOST_AFTER_MS, 3 * this.#pollMs) ? "lost" : this.#mode;
  }

  #url(path) {
    return this.#position ? `${path}?since=${encodeURIComponent(this.#position)}` : path;
  }

  #open() {
    this.#stream?.close();
    this.#streamOpenedAt = performance.now();
    this.#stream = new EventSource(this.#url("/api/stream"));
    this.#stream.onmessage = (message) => this.#deliver(JSON.parse(message.data), "live");
  }

  #watch() {
    const now = performance.now();
    const quiet = Math.max(STREAM_GRACE_MS, 3 * this.#pollMs);
    const streaming = this.#stream && this.#stream.readyState !== EventSource.CLOSED;
    if (streaming && now - Math.max(this.#streamOpenedAt, this.#mode === "live" ? this.#heardAt : 0) < quiet) return;
    if (this.#stream) {
      this.#stream.close();
      this.#stream = null;
    }
    if (!this.#fetching && now - this.#fetchedAt >= this.#pollMs) this.#fetch();
  }

  async #fetch() {
    this.#fetching = true;
    this.#fetchedAt = performance.now();
    try {
      const answer = await fetch(this.#url("/api/state"), { signal: AbortSignal.timeout(FETCH_TIMEOUT_MS) });
      if (!answer.ok) return;
      this.#deliver(await answer.json(), "polling");
      if (performance.now() - this.#streamOpenedAt > STREAM_RETRY_MS) this.#open();
    } catch {
      // Not reachable: `state` says so, and the next watch tries again.
    } finally {
      this.#fetching = false;
    }
  }

  #deliver(report, mode) {
    this.#heardAt = performance.now();
    this.#mode = mode;
    this.#pollMs = report.poll_ms;
    this.#position = `${report.incarnation}.${report.version}`;
    this.#onReport(report);
  }
}
