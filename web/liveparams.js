/** Sends parameter changes of a running session: at most one is under way, newer ones wait merged, old values are skipped. */

/**
 * @typedef {import("./streamgen.js").Params} Params
 * @typedef {import("./streamgen.js").Timers} Timers
 * @typedef {{status: "waiting" | "sending"} | {status: "applied", frame: number} | {status: "rejected", message: string}} Report
 */

export class LiveParams {
  /**
   * @param {{send: (params: Params) => Promise<{frame: number}>, report: (report: Report) => void, timers: Timers}} needs
   */
  constructor({ send, report, timers }) {
    this.send = send;
    this.report = report;
    this.timers = timers;
    /** @type {Params | undefined} */
    this.pending = undefined;
    /** @type {any} */
    this.timer = undefined;
    this.sending = false;
    this.closed = false;
  }

  /** Changes that go out after `delayMs` without another change (0: at once). @param {Params} changes @param {number} [delayMs] */
  set(changes, delayMs = 0) {
    if (this.closed) return;
    this.pending = { ...this.pending, ...changes };
    this.timers.clearTimeout(this.timer);
    if (delayMs > 0) {
      this.report({ status: "waiting" });
      this.timer = this.timers.setTimeout(() => void this.flush(), delayMs);
    } else {
      void this.flush();
    }
  }

  /** Drops a change that still waits for a pause of typing. @param {keyof Params} name */
  forget(name) {
    if (this.pending) delete this.pending[name];
  }

  close() {
    this.closed = true;
    this.timers.clearTimeout(this.timer);
  }

  /** @returns {Promise<void>} */
  async flush() {
    this.timers.clearTimeout(this.timer);
    if (this.sending) return; // The running one looks again when it is done.
    while (this.pending && !this.closed) {
      const params = this.pending;
      this.pending = undefined;
      if (!Object.keys(params).length) return;
      this.sending = true;
      this.report({ status: "sending" });
      const report = await this.send(params).then(
        ({ frame }) => /** @type {Report} */ ({ status: "applied", frame }),
        (error) => /** @type {Report} */ ({ status: "rejected", message: error.message }),
      );
      this.sending = false;
      if (!this.closed) this.report(report);
    }
  }
}
