/** One visitor's studio: the state of the page, the source, the session, and what leads from one to the next. */

import { BusyError, StreamgenError } from "../sdk/streamgen.js";
import { LiveParams } from "./liveparams.js";
import { IDLE, isActive, next } from "./machine.js";
import { RateMeter } from "./meter.js";
import { listCameras, openCamera, openFile, openPattern } from "./sources.js";
import { problemOf, problemText } from "./texts.js";
import { element } from "./view.js";

/** @typedef {import("./sources.js").Source} Source */
/** @typedef {import("./sources.js").Kind} Kind */
/** @typedef {import("../sdk/streamgen.js").StreamgenSession} StreamgenSession */

const POLL_READY_MS = 1000;

/** Resolves after `ms`; rejects when aborted. @param {number} ms @param {AbortSignal} signal @returns {Promise<void>} */
const sleep = (ms, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason); });
});

export class Studio {
  /** @param {import("../sdk/streamgen.js").StreamgenClient} client @param {import("./view.js").View} view */
  constructor(client, view) {
    this.client = client;
    this.view = view;
    this.state = IDLE;
    this.meter = new RateMeter();
    /** @type {Kind} */ this.kind = "camera";
    /** What a source should be like; the preset sets the shape and rate. */
    this.wish = { width: 640, height: 384, fps: 16 };
    /** @type {Source | undefined} */ this.source = undefined;
    /** @type {File | undefined} */ this.file = undefined;
    /** @type {StreamgenSession | undefined} */ this.session = undefined;
    /** @type {LiveParams | undefined} */ this.live = undefined;
    /** @type {Promise<void>} */ this.ending = Promise.resolve();
    /** Told when a session ends, whatever the reason. */
    this.onEnd = () => {};
    /** Ends whatever the current start set going. */
    this.run = new AbortController();
  }

  /** @param {import("./machine.js").Event} event */
  dispatch(event) {
    this.state = next(this.state, event);
    this.view.showState(this.state, performance.now());
  }

  // --- Starting and stopping ---

  async start() {
    if (isActive(this.state)) return;
    if (typeof RTCPeerConnection === "undefined") return this.dispatch({ type: "failed", problem: { code: "unsupported" } });
    this.run = new AbortController();
    const { signal } = this.run;
    this.dispatch({ type: "start" });
    try {
      await this.endSession(); // A session that just ended gives its place back first.
      const source = await this.openSource(signal);
      this.dispatch({ type: "source" });
      const session = await this.connect(source, signal);
      this.follow(session);
    } catch (error) {
      if (!signal.aborted) this.fail(error);
    }
  }

  stop() {
    this.run.abort();
    this.dispatch({ type: "stop" });
    void this.endSession();
    if (this.kind === "camera") this.dropSource(); // The camera's light goes out.
  }

  /** @param {unknown} error */
  fail(error) {
    this.run.abort();
    void this.endSession();
    this.dispatch({ type: "failed", problem: problemOf(error) });
    if (this.kind === "camera") this.dropSource();
  }

  async endSession() {
    const { session } = this;
    this.session = undefined;
    this.live?.close();
    this.live = undefined;
    this.onEnd();
    this.meter.reset();
    this.view.clearStats();
    this.view.showFeedback("");
    if (session) this.ending = session.close();
    await this.ending;
  }

  /**
   * Opens a session, waiting where the server has no room or is not ready.
   * @param {Source} source @param {AbortSignal} signal
   */
  async connect(source, signal) {
    for (;;) {
      try {
        return await this.client.open(source.stream, this.view.values, { signal });
      } catch (error) {
        if (!(error instanceof BusyError) || signal.aborted) throw error;
        if (await this.isReady()) await this.waitForRoom(error.retryAfterS * 1000, signal);
        else await this.waitForEngine(signal);
        this.dispatch({ type: "retry" });
      }
    }
  }

  /** Whether the engine takes work; throws where it never will. */
  async isReady() {
    const { ready, status } = await this.client.readiness();
    if (status === "failed" || status === "stopped") throw new StreamgenError("engine_down", `the engine has ${status}`);
    return ready;
  }

  /** @param {number} ms @param {AbortSignal} signal */
  async waitForRoom(ms, signal) {
    const retryAt = performance.now() + ms;
    this.dispatch({ type: "busy", retryAt });
    while (performance.now() < retryAt) {
      await sleep(Math.min(500, Math.max(1, retryAt - performance.now())), signal);
      this.view.showState(this.state, performance.now());
    }
  }

  /** @param {AbortSignal} signal */
  async waitForEngine(signal) {
    this.dispatch({ type: "starting" });
    do await sleep(POLL_READY_MS, signal); while (!(await this.isReady()));
  }

  /** @param {StreamgenSession} session */
  follow(session) {
    this.session = session;
    const { view } = this;
    this.live = new LiveParams({
      send: (params) => session.update(params),
      report: (report) => this.report(report),
      timers: globalThis,
    });
    session.on("state", (detail) => { if (this.session === session) this.dispatch({ type: "session", ...detail }); });
    session.on("queue", (place) => { if (this.session === session) this.dispatch({ type: "queue", ...place }); });
    session.on("quality", (quality) => { if (this.session === session) view.showQuality(quality, session.params); });
    session.on("stats", (stats) => view.extendCurves(stats, this.meter.rate(performance.now())));
    session.on("closing", ({ reason }) => { if (this.session === session) this.fail({ code: "ended", message: reason }); });
    session.on("error", (error) => { if (this.session === session) this.fail(error); });
    session.on("restarted", () => view.showFeedback("The engine restarted; the stream goes on."));
    session.on("moved", () => view.showFeedback("Another machine took the stream over."));
    view.result.srcObject = session.stream;
    view.result.play().catch(() => undefined); // Muted video may play; where it may not, the next frame starts it.
    this.dispatch({ type: "session", state: session.state });
    if (session.queue) this.dispatch({ type: "queue", ...session.queue }); // Told before anybody listened.
    view.showQuality(session.quality, session.params);
    this.live.set(this.changed(session.params));
  }

  /** What the controls say that the session does not have: they may have been moved while it connected. */
  changed(/** @type {Record<string, any>} */ params) {
    return Object.fromEntries(Object.entries(this.view.values).filter(([name, value]) => params[name] !== value));
  }

  /** @param {import("./liveparams.js").Report} report */
  report(report) {
    const { view } = this;
    if (report.status === "waiting") view.showFeedback("…", "waiting");
    if (report.status === "sending") view.showFeedback("Applying…", "waiting");
    if (report.status === "applied") view.showFeedback(`Applied from frame ${report.frame}`, "applied");
    if (report.status === "rejected") view.showFeedback(report.message, "rejected");
  }

  // --- Sources ---

  /** @param {AbortSignal} signal @returns {Promise<Source>} */
  async openSource(signal) {
    if (this.source) return this.source;
    const source = await this.makeSource();
    if (signal.aborted) {
      source.stop();
      throw signal.reason;
    }
    this.takeSource(source);
    return source;
  }

  /** @returns {Promise<Source>} */
  async makeSource() {
    if (this.kind === "pattern") return openPattern(this.wish);
    if (this.kind === "file" && this.file) return openFile(this.file, this.wish);
    return openCamera(navigator.mediaDevices, this.wish, this.view.camera.value || undefined);
  }

  /** @param {Source} source */
  takeSource(source) {
    this.dropSource();
    this.source = source;
    const [track] = source.stream.getVideoTracks();
    track.addEventListener("ended", () => { if (this.source === source) this.fail({ code: "camera-lost" }); });
    this.view.showSource(source);
    this.view.showMirrored(source.kind === "camera" && source.facesUser);
    if (source.kind === "camera") void this.refreshCameras();
  }

  dropSource() {
    const { source } = this;
    this.source = undefined;
    this.view.showSource(undefined);
    source?.stop();
  }

  async refreshCameras() {
    const cameras = await listCameras(navigator.mediaDevices).catch(() => []);
    this.view.showCameras(cameras, this.source?.stream.getVideoTracks()[0]?.getSettings().deviceId);
    this.view.camera.hidden ||= this.kind !== "camera";
  }

  /** Another kind of source; a running session goes on with it, without a cut. @param {Kind} kind @param {File} [file] */
  choose(kind, file) {
    if (kind === "file" && !file) return element("file").click();
    this.file = file;
    this.kind = kind;
    this.view.showKind(kind);
    this.view.camera.hidden = kind !== "camera" || this.view.camera.options.length === 0;
    if (this.session) return void this.switchSource();
    const wanted = this.state.name !== "idle";
    this.stop();
    this.dropSource();
    if (wanted) void this.start();
    else if (kind !== "camera") this.preview();
  }

  preview() {
    this.makeSource().then((source) => this.takeSource(source), (error) => this.fail(error));
  }

  async switchSource() {
    const { session } = this;
    if (this.kind === "camera" && this.source?.kind === "camera") this.dropSource(); // Phones open one camera at a time.
    try {
      const source = await this.makeSource();
      if (session !== this.session) return source.stop();
      await session?.replaceSource(source.stream);
      this.takeSource(source);
    } catch (error) {
      if (session !== this.session || !this.source) return this.fail(error);
      this.kind = this.source.kind; // The stream goes on with what it had.
      this.view.showKind(this.kind);
      this.view.showFeedback(problemText(problemOf(error)).title, "rejected");
    }
  }
}
