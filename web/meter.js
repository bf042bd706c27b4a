/** What the page measures and how it says it. Pure: times come in as arguments. */

/** @typedef {import("./streamgen.js").Stats} Stats */
/** @typedef {import("./streamgen.js").Params} Params */

/** Counts frames over the last `windowMs`. */
export class RateMeter {
  constructor(windowMs = 2000) {
    this.windowMs = windowMs;
    /** @type {number[]} */
    this.times = [];
  }

  /** @param {number} now ms */
  tick(now) {
    this.times.push(now);
    this.forget(now);
  }

  /** Frames a second, or undefined before two frames came. @param {number} now ms */
  rate(now) {
    this.forget(now);
    if (this.times.length < 2) return this.times.length ? 0 : undefined;
    const last = this.times[this.times.length - 1];
    // A stream that stalls shows at once: the open gap counts as soon as it is longer than a usual one.
    const usual = (last - this.times[0]) / (this.times.length - 1);
    const span = Math.max(last - this.times[0], now - this.times[0] - usual);
    return span > 0 ? ((this.times.length - 1) * 1000) / span : undefined;
  }

  reset() { this.times = []; }

  /** @param {number} now ms */
  forget(now) {
    while (this.times.length && this.times[0] < now - this.windowMs) this.times.shift();
  }
}

/** The newest `size` values, for a small curve. */
export class History {
  /** @param {number} size */
  constructor(size) {
    this.size = size;
    /** @type {number[]} */
    this.values = [];
  }

  /** @param {number} value */
  push(value) {
    this.values.push(value);
    if (this.values.length > this.size) this.values.shift();
  }

  reset() { this.values = []; }

  /**
   * Points of an SVG polyline in a box of `width` x `height`; the newest value is at the right edge, 0 at the bottom.
   * @param {number} width @param {number} height
   */
  points(width, height) {
    const top = 1.2 * Math.max(...this.values, 1e-9); // Room above, so that a steady line is not an edge.
    const step = width / (this.size - 1);
    const left = width - (this.values.length - 1) * step;
    return this.values
      .map((value, i) => `${(left + i * step).toFixed(1)},${(height - (value / top) * (height - 2) - 1).toFixed(1)}`)
      .join(" ");
  }
}

/** @param {number | undefined} ms */
export function duration(ms) {
  if (ms === undefined || !Number.isFinite(ms)) return "–";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(2)} s`;
}

/** @param {number | undefined} rate */
export const fps = (rate) => (rate === undefined || !Number.isFinite(rate) ? "–" : rate.toFixed(1));

/** @type {Record<string, string>} Why the service gives a frame up, in words; unknown reasons are shown as they come. */
const REASONS = {
  rate: "above the frame rate",
  overload: "newer frames were there",
  burst: "too many came at once",
  late: "too late to be of use",
  paused: "while paused",
  restart: "at a fresh start",
  error: "the engine failed",
  unwatched: "while nobody watched",
  queued: "while in the queue",
  closed: "at the end",
};

/** Reasons for which dropping is what was asked for, or no part of a stream that runs. */
const ON_PURPOSE = new Set(["rate", "paused", "unwatched", "queued"]);

/** Reasons and their counts, most frequent first. @param {Record<string, number>} drops @returns {[string, number][]} */
export function reasons(drops) {
  return Object.entries(drops)
    .filter(([, count]) => count > 0)
    .sort((a, b) => b[1] - a[1])
    .map(([reason, count]) => [REASONS[reason] ?? reason.replaceAll("_", " "), count]);
}

/** Frames lost that nobody asked to lose. @param {Record<string, number>} drops */
export const lost = (drops) => Object.entries(drops)
  .reduce((sum, [reason, count]) => sum + (ON_PURPOSE.has(reason) ? 0 : count), 0);

/**
 * Where a frame's time goes: the parts of its latency in the order of `names`, with their shares of the whole.
 * @param {Record<string, number>} stagesMs @param {readonly string[]} names
 * @returns {{name: string, ms: number, share: number}[]} without those that take no time worth a mention
 */
export function stages(stagesMs, names) {
  const whole = names.reduce((sum, name) => sum + (stagesMs[name] ?? 0), 0);
  return names.map((name) => ({ name, ms: stagesMs[name] ?? 0, share: whole ? (stagesMs[name] ?? 0) / whole : 0 }))
    .filter(({ ms }) => ms >= 0.5);
}

/** Shapes closer than this are the same, but for the rounding of sizes. */
const ALIKE = 1.12;

/** Whether a picture has clearly another shape than another; not where one has none yet. @param {number} shape @param {number} other width / height */
export const reshaped = (shape, other) => shape > 0 && Math.max(shape / other, other / shape) > ALIKE;

/**
 * What the session was promised and whether it holds now. Under load the promise is what it runs at, which the page
 * says beside it. A source that is slower than the promise cannot break it; who is promised nothing has none to break.
 * @param {Params} params @param {Stats | undefined} stats
 * @returns {{text: string, kept: boolean | undefined}} `kept` is undefined while nothing was measured
 */
export function promise(params, stats) {
  if (params.fps === undefined || params.slo_ms === undefined) return { text: "–", kept: undefined };
  const promised = stats?.plan.fps ?? params.fps;
  const text = `${Number(promised.toFixed(1))} fps in ${duration(params.slo_ms).replace(".00", "")}`;
  if (!stats || stats.frames_out === 0 || stats.plan.promised === false) return { text, kept: undefined };
  const wanted = Math.min(promised, stats.fps_in);
  return { text, kept: stats.fps_out >= 0.9 * wanted && stats.latency_ms.p95 <= params.slo_ms };
}
