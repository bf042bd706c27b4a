/**
 * The JavaScript SDK of streamgen: a camera's MediaStream in, the restyled MediaStream out.
 *
 *     import { StreamgenClient } from "https://your-server/sdk/streamgen.js";
 *     const client = new StreamgenClient({ url: "https://your-server/" });
 *     const session = await client.open(await navigator.mediaDevices.getUserMedia({ video: true }), { prompt: "neon" });
 *     video.srcObject = session.stream;
 *     const { frame } = await session.update({ prompt: "pencil drawing" });
 */

/**
 * @typedef {{prompt?: string, negative_prompt?: string, steps?: number, noise?: number, seed?: number, width?: number,
 *   height?: number, fit?: "cover" | "contain", fps?: number, slo_ms?: number, max_kbps?: number,
 *   late?: "show" | "drop", vae?: "full" | "light", keep?: string, priority?: "live" | "batch", stamp?: boolean}} Params
 *   Without width and height the result has the shape of the source; with one of them the other follows. `keep` names what
 *   may not be lowered under load, as "steps,size" (of steps, fps, size, vae)
 * @typedef {{fps_in: number, fps_out: number, latency_ms: {p50: number, p95: number, max: number}, frames_in: number,
 *   frames_out: number, deadline_misses: number, drops: Record<string, number>, plan: Plan,
 *   state: string, network?: Record<string, number>, stages_ms?: Record<string, number>}} Stats
 *   `stages_ms` says where a frame's time goes: fill, queue, transfer, encode, denoise, decode, pace
 * @typedef {{rung?: number, rungs?: number, steps?: number, fps?: number, width?: number, height?: number, vae?: string}
 *   & Record<string, unknown>} Plan what runs now, and more about the last chunk
 * @typedef {{position: number, estimateS: number | null}} Place
 *   In the queue: 1 is the next; seconds until its turn, null where the service cannot tell
 * @typedef {{rung: number, rungs: number, steps: number, fps: number, width: number, height: number, vae: string,
 *   reason: string}} Quality
 *   What runs from the next chunk on. Rung 0 of the `rungs` is what was asked for, each further one is lighter. The reason is
 *   load (too much is asked of the device), room (there is room again) or asked (this client wishes something else)
 * @typedef {{type?: string, default?: any, minimum?: number, maximum?: number, maxLength?: number, enum?: string[]}} ParamSchema
 * @typedef {{name: string, title: string, loaded: boolean, native_fps: number, width: number, height: number,
 *   params: {properties: Record<string, ParamSchema>}, styles: {name: string, prompt: string}[]}} Preset
 * @typedef {"connecting" | "queued" | "warming" | "live" | "paused" | "reconnecting" | "closed"} SessionState
 * @typedef {{state: SessionState, attempt?: number, retryInMs?: number, reason?: string}} StateDetail
 * @typedef {{state: StateDetail, stats: Stats, applied: {seq: number, frame: number},
 *   rejected: {seq: number, error: StreamgenError}, restarted: {reason: string},
 *   moved: {reason: string}, queue: Place, quality: Quality, closing: {reason: string}, error: StreamgenError, track: MediaStreamTrack}} SessionEvents
 * @typedef {{setTimeout: (run: () => void, ms: number) => any, clearTimeout: (timer: any) => void}} Timers
 */

const CHANNEL = "control";
const GATHER_MS = 1500;
const CONNECT_MS = 15000;
/** A "disconnected" peer often comes back by itself; only after this long it counts as lost. */
const DISCONNECT_GRACE_MS = 2500;
/** States that the service tells of without asking for anything: who hears of them is not away, and `closing` says why. */
const NOT_FOR_ITS_CLIENT = new Set(["away", "closed"]);
/** States in which a session may still have a place in the queue. */
const NOT_ADMITTED = new Set(["connecting", "queued", "reconnecting"]);
/** Up to this share is added to a wait: those who were refused together must not come back together. */
const JITTER = 0.2;
const SHORTEST_WAIT_MS = 250;
const BACKOFF_MS = [250, 1000, 2000, 4000, 8000, 10000, 10000, 10000];

/** Root of all errors of the SDK. `code` is stable and meant for programs, `message` is meant for people. */
export class StreamgenError extends Error {
  /** @param {string} code @param {string} message @param {ErrorOptions} [options] */
  constructor(code, message, options) {
    super(message, options);
    this.name = new.target.name;
    this.code = code;
  }
}

/** The service could not be reached, or the media connection did not come up. */
export class ConnectError extends StreamgenError {}

/** The session is closed; what was asked of it cannot happen any more. */
export class ClosedError extends StreamgenError {}

/** The service answered with an error. */
export class ServiceError extends StreamgenError {
  /** @param {string} code @param {string} message @param {number} status HTTP status, 0 where it came by data channel */
  constructor(code, message, status) {
    super(code, message);
    this.status = status;
  }
}

/** No valid token (HTTP 401). */
export class UnauthorizedError extends ServiceError {}

/** A parameter was refused; `field` names it where the service did. */
export class ParamsError extends ServiceError {
  /** @param {string} code @param {string} message @param {number} status @param {string} [field] */
  constructor(code, message, status, field) {
    super(code, message, status);
    this.field = field;
  }
}

/** No room, or not ready (HTTP 503): ask again after `retryAfterS` seconds. */
export class BusyError extends ServiceError {
  /** @param {string} code @param {string} message @param {number} status @param {number} retryAfterS */
  constructor(code, message, status, retryAfterS) {
    super(code, message, status);
    this.retryAfterS = retryAfterS;
  }
}

/**
 * The typed error for a JSON error body.
 * @param {number} status @param {any} body @param {string | null} [retryAfter] the Retry-After header
 * @returns {ServiceError}
 */
export function serviceError(status, body, retryAfter = null) {
  const error = body?.error ?? {};
  const code = String(error.code ?? "service_error");
  const message = String(error.message ?? `the service answered with HTTP ${status}`);
  if (status === 401) return new UnauthorizedError(code, message, status);
  if (status === 503) return new BusyError(code, message, status, Math.max(1, Number(retryAfter) || 5));
  if (code === "bad_params") return new ParamsError(code, message, status, error.field);
  return new ServiceError(code, message, status);
}

/** Speaks to one service. Everything it needs from its surroundings can be handed in. */
export class StreamgenClient {
  /**
   * @param {{url: string | URL, token?: string, fetch?: typeof fetch, RTCPeerConnection?: typeof RTCPeerConnection,
   *   MediaStream?: typeof MediaStream, timers?: Timers, now?: () => number, random?: () => number,
   *   iceServers?: RTCIceServer[]}} options
   *   `url` is the service's root; `iceServers` is used until the service names its own; `now` counts milliseconds.
   */
  constructor({ url, token, iceServers = [], timers = globalThis, random = Math.random, ...options }) {
    this.url = new URL(url);
    this.token = token;
    this.iceServers = iceServers;
    this.fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    this.RTCPeerConnection = options.RTCPeerConnection ?? globalThis.RTCPeerConnection;
    this.MediaStream = options.MediaStream ?? globalThis.MediaStream;
    this.now = options.now ?? (() => performance.now());
    this.random = random;
    this.timers = {
      /** @param {() => void} run @param {number} ms */
      setTimeout: (run, ms) => timers.setTimeout(run, ms),
      /** @param {any} timer */
      clearTimeout: (timer) => timers.clearTimeout(timer),
    };
  }

  /** What the service can run. @returns {Promise<{presets: Preset[], current: string}>} */
  presets() {
    return this.request("GET", "api/presets");
  }

  /** Whether the engine takes work now. @returns {Promise<{ready: boolean, status: string}>} */
  async readiness() {
    try {
      const body = await this.request("GET", "readyz");
      return { ready: true, status: String(body?.status ?? "ready") };
    } catch (error) {
      if (error instanceof BusyError) return { ready: false, status: error.message };
      throw error;
    }
  }

  /**
   * Opens a session and resolves once its media connection is up. The first result may still be some frames away:
   * see `session.state` and its `state` event.
   * @param {MediaStream} source its first video track is sent
   * @param {Params} [params] the preset's defaults hold for what is left out
   * @param {{signal?: AbortSignal, patience?: number}} [options] for `patience` seconds a service without room is asked
   *   again, whenever its Retry-After says, and once more at the end. One that has room in its queue takes the session at
   *   once: then `session.queue` and the `queue` event tell its place, and frames are dropped meanwhile.
   * @returns {Promise<StreamgenSession>}
   * @throws {StreamgenError} ConnectError, BusyError, UnauthorizedError, ParamsError, ServiceError
   */
  open(source, params = {}, options = {}) {
    return StreamgenSession.open(this, source, params, options);
  }

  /** Resolves after `ms`; rejects when aborted. @param {number} ms @param {AbortSignal} [signal] @returns {Promise<void>} */
  wait(ms, signal) {
    return new Promise((resolve, reject) => {
      const done = () => {
        this.timers.clearTimeout(timer);
        signal?.removeEventListener("abort", done);
        if (signal?.aborted) reject(signal.reason);
        else resolve();
      };
      const timer = this.timers.setTimeout(done, ms);
      signal?.addEventListener("abort", done);
      if (signal?.aborted) done();
    });
  }

  /**
   * One HTTP exchange; resolves to the JSON body (undefined where there is none).
   * @param {string} method @param {string} path relative to the service's root
   * @param {unknown} [body] @param {{signal?: AbortSignal, keepalive?: boolean}} [options] @returns {Promise<any>}
   */
  async request(method, path, body, { signal, keepalive } = {}) {
    /** @type {Record<string, string>} */
    const headers = {};
    if (body !== undefined) headers["Content-Type"] = "application/json";
    if (this.token) headers["Authorization"] = `Bearer ${this.token}`;
    // A fleet leads programs on to the machine that answers, which a page may not follow: it asks for the answer itself.
    if (this.url.origin === globalThis.location?.origin) headers["Prefer"] = "relay";
    let response;
    try {
      response = await this.fetch(new URL(path, this.url), {
        method, headers, signal, keepalive, body: body === undefined ? undefined : JSON.stringify(body),
      });
    } catch (cause) {
      if (signal?.aborted) throw cause;
      throw new ConnectError("connect_failed", "the service cannot be reached", { cause });
    }
    const json = await response.json().catch(() => undefined);
    if (response.ok) return json;
    const status = path === "readyz" && !json?.error ? { error: { message: json?.status } } : json;
    throw serviceError(response.status, status, response.headers.get("Retry-After"));
  }
}

/**
 * H264 says what its colours mean and VP8 cannot: Chromium sends what a page draws by another matrix, in another range than
 * what a camera sees, and in VP8 that comes out 47 levels of 255 off. Where there is no H264, all stays as it was.
 * @param {RTCRtpTransceiver} transceiver
 */
export function preferH264(transceiver) {
  const codecs = globalThis.RTCRtpReceiver?.getCapabilities?.("video")?.codecs ?? [];
  const [first, others] = [true, false].map((wanted) => codecs.filter(({ mimeType }) => /h264$/i.test(mimeType) === wanted));
  if (first.length) transceiver.setCodecPreferences?.([...first, ...others]);
}

/** One peer connection with its control channel and its id on the service. Lives once; a lost one is replaced. */
class Connection {
  /** @param {StreamgenClient} client @param {MediaStream} source */
  constructor(client, source) {
    const [track] = source.getVideoTracks();
    if (!track) throw new ConnectError("no_video", "the source has no video track");
    this.client = client;
    this.peer = new client.RTCPeerConnection({ iceServers: client.iceServers });
    this.channel = this.peer.createDataChannel(CHANNEL);
    const transceiver = this.peer.addTransceiver(track, { direction: "sendrecv", streams: [source] });
    preferH264(transceiver);
    this.sender = transceiver.sender;
    /** Whether nothing is sent for now. */
    this.held = false;
    /** @type {string | undefined} */
    this.id = undefined;
    /** @type {string[]} Messages that wait for the channel to open. */
    this.waiting = [];
    this.closed = false;
    this.channel.addEventListener("open", () => this.waiting.splice(0).forEach((text) => this.channel.send(text)));
  }

  /**
   * Offers, waits for the answer and for the media connection; resolves to the service's reply.
   * @param {Params} params @param {AbortSignal} [signal]
   * @param {string} [before] session to go on with, where the service still has it
   */
  async open(params, signal, before) {
    const { peer, client } = this;
    await peer.setLocalDescription(await peer.createOffer());
    await this.until("icegatheringstatechange", () => peer.iceGatheringState === "complete", GATHER_MS, signal);
    this.id = before;
    const reply = await this.#offer(params, signal);
    this.id = reply.id;
    if (reply.ice_servers?.length) client.iceServers = reply.ice_servers;
    await peer.setRemoteDescription({ type: "answer", sdp: reply.sdp });
    const settled = () => peer.connectionState === "connected" || peer.connectionState === "failed";
    await this.until("connectionstatechange", settled, CONNECT_MS, signal);
    if (peer.connectionState === "connected") return reply;
    throw new ConnectError("no_media", "no media connection to the service came up; a firewall may block UDP");
  }

  /** @param {Params} params @param {AbortSignal} [signal] @returns {Promise<any>} */
  async #offer(params, signal) {
    const offer = { sdp: this.peer.localDescription?.sdp, type: "offer" };
    if (this.id !== undefined) {
      try {
        return await this.client.request("POST", `api/sessions/${encodeURIComponent(this.id)}`, offer, { signal });
      } catch (error) {
        if (!(error instanceof ServiceError && error.status === 404)) throw error;
        this.id = undefined; // It has ended meanwhile: another one takes its parameters up.
      }
    }
    return this.client.request("POST", "api/sessions", { ...offer, params }, { signal });
  }

  /**
   * Resolves when `holds`, or after `ms`; rejects when aborted.
   * @param {string} event of the peer @param {() => boolean} holds @param {number} ms @param {AbortSignal} [signal]
   * @returns {Promise<void>}
   */
  until(event, holds, ms, signal) {
    const { peer, client: { timers } } = this;
    return new Promise((resolve, reject) => {
      const done = () => {
        timers.clearTimeout(timer);
        peer.removeEventListener(event, check);
        signal?.removeEventListener("abort", done);
        if (signal?.aborted) reject(signal.reason);
        else resolve();
      };
      const check = () => { if (holds()) done(); };
      const timer = timers.setTimeout(done, ms);
      peer.addEventListener(event, check);
      signal?.addEventListener("abort", done);
      if (signal?.aborted) done();
      else check();
    });
  }

  /** Calls `lost` once when this connection is gone without having been closed here. @param {(why: string) => void} lost */
  watch(lost) {
    const { peer, client: { timers } } = this;
    /** @type {any} */
    let timer;
    const report = (/** @type {string} */ why) => {
      timers.clearTimeout(timer);
      if (!this.closed) lost(why);
    };
    const check = () => {
      timers.clearTimeout(timer);
      if (peer.connectionState === "failed" || peer.connectionState === "closed") report("media connection failed");
      if (peer.connectionState === "disconnected") {
        timer = timers.setTimeout(() => report("media connection lost"), DISCONNECT_GRACE_MS);
      }
    };
    peer.addEventListener("connectionstatechange", check);
    this.channel.addEventListener("close", () => report("the service closed the connection"));
    check();
    if (this.channel.readyState === "closed") report("the service closed the connection");
  }

  /** @param {object} message */
  send(message) {
    const text = JSON.stringify(message);
    if (this.channel.readyState === "open") this.channel.send(text);
    else this.waiting.push(text);
  }

  /** Ends it here; the session stays on the service for a while. @returns {string | undefined} its id */
  leave() {
    const { id } = this;
    this.id = undefined;
    this.closed = true;
    this.peer.close();
    return id;
  }

  /** Ends it here and on the service; never throws. @returns {Promise<void>} */
  async close() {
    const id = this.leave();
    if (id === undefined) return;
    const path = `api/sessions/${encodeURIComponent(id)}`;
    await this.client.request("DELETE", path, undefined, { keepalive: true }).catch(() => undefined);
  }
}

/**
 * A live stream. Keeps its parameters and comes back by itself when the connection is lost: to the session that it was, or,
 * where the machine that had it is gone or wants to be rid of it, to another that is opened anew; `moved` says so.
 * Events (CustomEvent, see SessionEvents for their `detail`): state, stats, applied, rejected, restarted, moved, queue,
 * quality, closing, error, track. After `error` the session is closed.
 */
export class StreamgenSession extends EventTarget {
  /** @type {StreamgenClient} */ #client;
  /** @type {MediaStream} */ #source;
  /** @type {Params} What was asked for, at first or by updates: what another session is asked for, and no more. */ #asked;
  /** @type {Params} */ #params;
  /** @type {Connection | undefined} */ #connection;
  /** @type {Map<number, {params: Params, resolve: (value: {frame: number}) => void, reject: (error: Error) => void}>} */
  #updates = new Map();
  #seq = 0;
  #paused = false;
  /** Whether the stream is to begin anew once it is back. */
  #anew = false;
  /** Whether another connection is being made. */
  #returning = false;
  /** @type {Connection | undefined} One that goes on until there is another elsewhere. */ #leaving;
  #abort = new AbortController();
  /** @type {SessionState} */ #state = "connecting";

  /** Use `client.open`. @param {StreamgenClient} client @param {MediaStream} source @param {Params} params */
  constructor(client, source, params) {
    super();
    this.#client = client;
    this.#source = source;
    this.#asked = { ...params };
    this.#params = { ...params };
    /** The results. Stays the same object over reconnects. */
    this.stream = new client.MediaStream();
    /** @type {Stats | undefined} The newest statistics. */
    this.stats = undefined;
    /** @type {Quality | undefined} What the service said last about how the session runs. */
    this.quality = undefined;
    /** @type {Place | undefined} Its place in the queue, until it is admitted. */
    this.queue = undefined;
  }

  /**
   * See `client.open`.
   * @param {StreamgenClient} client @param {MediaStream} source @param {Params} params
   * @param {{signal?: AbortSignal, patience?: number}} options
   */
  static async open(client, source, params, { signal, patience = 0 }) {
    const session = new StreamgenSession(client, source, params);
    const until = client.now() + patience * 1000;
    for (;;) {
      try {
        await session.#connect(signal);
        return session;
      } catch (error) {
        const left = until - client.now();
        if (!(error instanceof BusyError) || left < SHORTEST_WAIT_MS) throw error;
        const told = Math.round(error.retryAfterS * 1000 * (1 + JITTER * client.random()));
        await client.wait(Math.min(left, Math.max(SHORTEST_WAIT_MS, told)), signal);
      }
    }
  }

  get state() { return this.#state; }

  /** Place in the queue, 1 is the next; undefined once the session was admitted. */
  get queuePosition() { return this.queue?.position; }

  /** The id on the service; changes where a reconnect comes too late for the session. */
  get id() { return this.#connection?.id; }

  /**
   * Parameters that hold now, as the service confirmed them. A width or height that was not asked for is the one from
   * before the first frame: the result's `videoWidth` and `videoHeight` tell what it is, and it may change with the source.
   */
  get params() { return { ...this.#params }; }

  /** The RTCPeerConnection in use, for its getStats(). */
  get peer() { return this.#connection?.peer; }

  /**
   * addEventListener with the event's detail as the argument; returns a function that ends it.
   * @template {keyof SessionEvents} K
   * @param {K} type @param {(detail: SessionEvents[K]) => void} listener @returns {() => void}
   */
  on(type, listener) {
    const heard = (/** @type {Event} */ event) => listener(/** @type {CustomEvent<SessionEvents[K]>} */ (event).detail);
    this.addEventListener(type, heard);
    return () => this.removeEventListener(type, heard);
  }

  /**
   * Changes parameters without a cut. Resolves when they hold, with the id of the first frame made with them.
   * An update made while the connection is away is sent when it is back.
   * @param {Params} params @returns {Promise<{frame: number}>}
   * @throws {ParamsError} where refused (nothing changed); ClosedError
   */
  update(params) {
    if (this.#state === "closed") return Promise.reject(new ClosedError("closed", "the session is closed"));
    const seq = ++this.#seq;
    return new Promise((resolve, reject) => {
      this.#updates.set(seq, { params: { ...params }, resolve, reject });
      if (this.#state !== "reconnecting") this.#connection?.send({ type: "update", seq, params });
    });
  }

  /** Holds the stream; the service keeps its place. */
  pause() { this.#verb("pause", true); }

  resume() { this.#verb("resume", false); }

  /** Forgets the stream's past (caches, positions); parameters stay. */
  reset() {
    this.#anew = this.#state === "reconnecting";
    this.#verb("reset", this.#paused);
  }

  /** Sends another source from now on, without a cut. @param {MediaStream} source */
  async replaceSource(source) {
    this.#source = source;
    if (!this.#connection?.held) await this.#connection?.sender.replaceTrack(source.getVideoTracks()[0] ?? null);
  }

  /** A page that shows the result and nothing else; whoever has the link needs no token. @returns {Promise<URL>} */
  async viewerLink() {
    if (this.id === undefined) throw new ClosedError("closed", "the session is not connected");
    const { watch } = await this.#client.request("GET", `api/sessions/${encodeURIComponent(this.id)}`);
    return new URL(String(watch).replace(/^\//, ""), this.#client.url);
  }

  /** Ends the session. Safe to call twice, and from a pagehide handler. @returns {Promise<void>} */
  async close() {
    const open = [this.#connection, this.#leaving];
    this.#end();
    await Promise.all(open.map((connection) => connection?.close()));
  }

  /** @param {string} type @param {boolean} paused */
  #verb(type, paused) {
    this.#paused = paused;
    if (this.#state !== "reconnecting") this.#connection?.send({ type });
  }

  /** @template {keyof SessionEvents} K @param {K} type @param {SessionEvents[K]} detail */
  #emit(type, detail) { this.dispatchEvent(new CustomEvent(type, { detail })); }

  /** @param {SessionState} state @param {Partial<StateDetail>} [detail] */
  #enter(state, detail = {}) {
    if (this.#state === "closed") return;
    this.#state = state;
    if (!NOT_ADMITTED.has(state)) this.queue = undefined;
    this.#hold(state === "queued");
    this.#emit("state", { state, ...detail });
  }

  /** Frames of a session that waits for room would be sent for nothing. @param {boolean} held */
  #hold(held) {
    const connection = this.#connection;
    if (!connection || connection.held === held) return;
    connection.held = held;
    const track = held ? null : this.#source.getVideoTracks()[0] ?? null;
    connection.sender.replaceTrack(track).catch(() => undefined); // of a connection that has just been closed
  }

  /** @param {AbortSignal} [signal] @param {string} [before] session to go on with */
  async #connect(signal, before) {
    const connection = new Connection(this.#client, this.#source);
    connection.peer.addEventListener("track", (event) => this.#receive(event));
    connection.channel.addEventListener("message", ({ data }) => {
      if (connection === this.#connection) this.#hear(data);
    });
    this.#connection = connection;
    let reply;
    try {
      reply = await connection.open(this.#asked, signal, before);
      this.#params = { ...(reply.id === before ? this.#params : this.#asked), ...reply.params };
    } catch (error) {
      if (before === undefined || connection.id !== before) await connection.close();
      else connection.leave();
      throw error;
    }
    if (this.#state === "connecting" || this.#state === "reconnecting") {
      this.#enter(reply.state === "queued" ? "queued" : "warming");
    }
    this.#updates.forEach(({ params }, seq) => connection.send({ type: "update", seq, params }));
    // The service has kept what held before the loss, whatever was asked for since.
    if (this.#paused || connection.id === before) connection.send({ type: this.#paused ? "pause" : "resume" });
    if (this.#anew) connection.send({ type: "reset" });
    this.#anew = false;
    connection.watch((why) => void this.#reconnect(connection, why));
  }

  /** @param {RTCTrackEvent} event */
  #receive({ track, receiver }) {
    // Live: show a frame as soon as it is there. Browsers without the property keep their own buffer.
    if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
    this.stream.getTracks().forEach((old) => this.stream.removeTrack(old));
    this.stream.addTrack(track);
    this.#emit("track", track);
  }

  /** @param {unknown} text */
  #hear(text) {
    /** @type {any} */
    let message;
    try {
      message = JSON.parse(String(text));
    } catch {
      return; // Not ours: a newer service may speak of things that this SDK does not know.
    }
    switch (message?.type) {
      case "applied": return this.#settle(message);
      case "rejected": return this.#settle(message, serviceError(0, message));
      case "stats":
        this.stats = message;
        return this.#emit("stats", message);
      case "state": return NOT_FOR_ITS_CLIENT.has(message.state) ? undefined : this.#enter(message.state);
      case "queue":
        this.queue = { position: message.position, estimateS: message.estimate_s ?? null };
        return this.#emit("queue", this.queue);
      case "quality": {
        const { type: _, ...quality } = message;
        this.quality = quality;
        return this.#emit("quality", quality);
      }
      case "restarted": return this.#emit("restarted", { reason: message.reason });
      case "moving": return void this.#reconnect(this.#connection, String(message.reason ?? ""), true);
      case "closing": return this.#closing(String(message.reason ?? ""));
    }
  }

  /** @param {{seq: number, frame: number}} answer @param {ServiceError} [error] */
  #settle({ seq, frame }, error) {
    const update = this.#updates.get(seq);
    if (!update) return;
    this.#updates.delete(seq);
    if (error) {
      this.#emit("rejected", { seq, error });
      update.reject(error);
    } else {
      this.#asked = { ...this.#asked, ...update.params };
      this.#params = { ...this.#params, ...update.params };
      this.#emit("applied", { seq, frame });
      update.resolve({ frame });
    }
  }

  /** The service ends the session on purpose: do not come back by ourselves. @param {string} reason */
  #closing(reason) {
    const connection = this.#connection;
    this.#emit("closing", { reason });
    this.#end(reason);
    void connection?.close();
  }

  /**
   * Comes back to the session that was, or to another where it is gone, or `elsewhere` as the service wants to be rid of it:
   * then what there is goes on until another is found.
   * @param {Connection | undefined} lost @param {string} reason
   */
  async #reconnect(lost, reason, elsewhere = false) {
    if (!lost || lost !== this.#connection || this.#returning || this.#state === "closed") return;
    this.#returning = true;
    this.#leaving = elsewhere ? lost : undefined;
    const { signal } = this.#abort;
    /** @type {unknown} */
    let error = new ConnectError("connection_lost", reason);
    const waits = elsewhere ? [0, ...BACKOFF_MS] : BACKOFF_MS;
    this.#enter("reconnecting", { attempt: 1, retryInMs: waits[0], reason });
    this.stats = undefined;
    const before = elsewhere ? lost.id : lost.leave();
    const giveBack = () => (elsewhere ? void lost.close() : this.#giveBack(before));
    for (const [index, backoff] of waits.entries()) {
      const retryInMs = error instanceof BusyError ? error.retryAfterS * 1000 : backoff;
      if (index) this.#enter("reconnecting", { attempt: index + 1, retryInMs, reason });
      await new Promise((resolve) => this.#client.timers.setTimeout(() => resolve(undefined), retryInMs));
      if (signal.aborted) return giveBack();
      try {
        await this.#connect(signal, elsewhere ? undefined : before);
        this.#returning = false;
        if (elsewhere) giveBack();
        if (this.id !== before) this.#emit("moved", { reason });
        return;
      } catch (failure) {
        if (signal.aborted) return giveBack();
        error = failure;
        if (!(failure instanceof ConnectError || (failure instanceof ServiceError && failure.status >= 500))) break;
      }
    }
    const fatal = error instanceof StreamgenError ? error
      : new ConnectError("connect_failed", "the connection could not be restored", { cause: error });
    this.#emit("error", fatal);
    this.#end(fatal.message);
    giveBack();
  }

  /** Nobody comes back to this session. @param {string} [id] */
  #giveBack(id) {
    if (id === undefined) return;
    const path = `api/sessions/${encodeURIComponent(id)}`;
    this.#client.request("DELETE", path, undefined, { keepalive: true }).catch(() => undefined);
  }

  /** @param {string} [reason] */
  #end(reason) {
    this.#enter("closed", reason ? { reason } : {});
    this.#abort.abort();
    this.#updates.forEach(({ reject }) => reject(new ClosedError("closed", "the session is closed")));
    this.#updates.clear();
  }
}
