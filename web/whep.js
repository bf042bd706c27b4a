/** Watches one stream by WHEP: connects, comes back by itself, and says what it waits for. No page of its own. */

import { preferH264 } from "./streamgen.js";

const SDP = "application/sdp";
const GATHER_MS = 1000;
const CONNECT_MS = 10000;
/** A "disconnected" peer often comes back by itself; only after this long it counts as lost. */
const DISCONNECT_GRACE_MS = 2500;
const BACKOFF_MS = [500, 1000, 2000, 4000, 5000];

/**
 * @typedef {"connecting" | "live" | "waiting" | "ended" | "closed"} WatchState waiting: for a picture, or for room
 * @typedef {{setTimeout: (run: () => void, ms: number) => any, clearTimeout: (timer: any) => void}} Timers
 */

/** Watches until it is closed, or the stream has ended. Event: `state`, its `detail` a {state, reason}. */
export class WhepViewer extends EventTarget {
  /** @type {RTCPeerConnection | undefined} */ #peer;
  /** @type {URL | undefined} */ #resource;
  /** @type {any} */ #timer;
  #attempts = 0;
  /** @type {RTCIceServer[]} */ #iceServers = [];
  /** @type {WatchState} */ #state = "connecting";

  /**
   * @param {{url: URL, token?: string, fetch?: typeof fetch, RTCPeerConnection?: typeof RTCPeerConnection,
   *   MediaStream?: typeof MediaStream, timers?: Timers}} options `url` is the stream's WHEP address
   */
  constructor({ url, token, timers = globalThis, ...options }) {
    super();
    this.url = url;
    this.token = token;
    this.fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    this.RTCPeerConnection = options.RTCPeerConnection ?? globalThis.RTCPeerConnection;
    this.timers = timers;
    /** What is watched. Stays the same object over reconnects. */
    this.stream = new (options.MediaStream ?? globalThis.MediaStream)();
  }

  get state() { return this.#state; }

  /** Connects, now and again whenever the connection is lost. */
  async watch() {
    if (this.#state === "closed") return;
    this.#enter("connecting");
    try {
      await this.#connect();
    } catch (error) {
      this.#leave();
      this.#retry(undefined, error instanceof Error ? error.message : String(error));
    }
  }

  /** Ends it here and at the service; safe in a pagehide handler. */
  close() {
    this.timers.clearTimeout(this.#timer);
    this.#enter("closed");
    this.#leave();
  }

  async #connect() {
    const peer = (this.#peer = new this.RTCPeerConnection({ iceServers: this.#iceServers }));
    preferH264(peer.addTransceiver("video", { direction: "recvonly" })); // As most do: then all share one encoding.
    peer.addTransceiver("audio", { direction: "recvonly" });
    peer.addEventListener("track", ({ track, receiver }) => {
      // Live: show a frame as soon as it is there. Browsers without the property keep their own buffer.
      if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
      this.#receive(track);
    });
    await peer.setLocalDescription(await peer.createOffer());
    await this.#until(peer, "icegatheringstatechange", () => peer.iceGatheringState === "complete", GATHER_MS);
    const response = await this.#request("POST", this.url, peer.localDescription?.sdp);
    if (peer !== this.#peer) return;
    if (response.status !== 201) return this.#refused(response);
    this.#resource = new URL(response.headers.get("Location") ?? "", this.url);
    this.#iceServers = iceServersOf(response.headers.get("Link") ?? ""); // For the next attempt, where this one fails.
    await peer.setRemoteDescription({ type: "answer", sdp: await response.text() });
    await this.#until(peer, "connectionstatechange", () => peer.connectionState === "connected", CONNECT_MS);
    if (peer !== this.#peer) return;
    if (peer.connectionState !== "connected") throw new Error("no media came through; a firewall may block UDP");
    this.#attempts = 0;
    this.#enter("live");
    this.#guard(peer);
  }

  /** @param {MediaStreamTrack} track */
  #receive(track) {
    for (const old of this.stream.getTracks()) if (old.kind === track.kind) this.stream.removeTrack(old);
    this.stream.addTrack(track);
  }

  /** The service has no picture, no room, or no such stream; or a proxy has no service. @param {Response} response */
  async #refused(response) {
    const body = await response.json().catch(() => undefined);
    const reason = String(body?.error?.message ?? `the service answered ${response.status}`);
    this.#leave();
    if ([409, 429, 503].includes(response.status)) {
      this.#enter("waiting", reason);
      return this.#retry((Number(response.headers.get("Retry-After")) || 2) * 1000, reason);
    }
    if (response.status >= 500) return this.#retry(undefined, reason);
    this.#enter("ended", reason);
  }

  /** Comes back when this connection is gone. @param {RTCPeerConnection} peer */
  #guard(peer) {
    /** @type {any} */ let timer;
    const lost = (/** @type {string} */ why) => {
      this.timers.clearTimeout(timer);
      if (peer !== this.#peer) return;
      this.#leave();
      this.#retry(undefined, why);
    };
    peer.addEventListener("connectionstatechange", () => {
      this.timers.clearTimeout(timer);
      if (["failed", "closed"].includes(peer.connectionState)) lost("the connection was lost");
      if (peer.connectionState === "disconnected") {
        timer = this.timers.setTimeout(() => lost("the connection was lost"), DISCONNECT_GRACE_MS);
      }
    });
    // The service's goodbye closes the transport alone: Chromium's peer would notice some nine seconds later.
    const { transport } = peer.getReceivers()[0];
    const goodbye = () => {
      if (transport?.state !== "closed" || peer !== this.#peer) return;
      this.#resource = undefined; // Nothing is left of it.
      lost("the service closed the connection");
    };
    transport?.addEventListener("statechange", goodbye);
    goodbye();
  }

  /** @param {number | undefined} ms @param {string} reason */
  #retry(ms, reason) {
    if (this.#state === "closed") return;
    if (this.#state !== "waiting") this.#enter("connecting", reason);
    const wait = ms ?? BACKOFF_MS[Math.min(this.#attempts++, BACKOFF_MS.length - 1)];
    this.#timer = this.timers.setTimeout(() => void this.watch(), wait);
  }

  /** Closes the connection, and gives its place back. */
  #leave() {
    this.#peer?.close();
    this.#peer = undefined;
    if (this.#resource) this.#request("DELETE", this.#resource).catch(() => undefined);
    this.#resource = undefined;
  }

  /** @param {string} method @param {URL} url @param {string} [body] @returns {Promise<Response>} */
  #request(method, url, body) {
    /** @type {Record<string, string>} */ const headers = {};
    if (body !== undefined) headers["Content-Type"] = SDP;
    if (this.token) headers["Authorization"] = `Bearer ${this.token}`;
    return this.fetch(url, { method, headers, body, keepalive: method === "DELETE" });
  }

  /** @param {WatchState} state @param {string} [reason] */
  #enter(state, reason = "") {
    if (this.#state === "closed") return;
    this.#state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, reason } }));
  }

  /** @param {RTCPeerConnection} peer @param {string} event @param {() => boolean} holds @param {number} ms @returns {Promise<void>} */
  #until(peer, event, holds, ms) {
    return new Promise((resolve) => {
      const done = () => {
        this.timers.clearTimeout(timer);
        peer.removeEventListener(event, check);
        resolve();
      };
      const check = () => { if (holds() || peer.connectionState === "failed") done(); };
      const timer = this.timers.setTimeout(done, ms);
      peer.addEventListener(event, check);
      check();
    });
  }
}

/**
 * The servers in Link headers (RFC 9725, section 4.6).
 * @param {string} header @returns {RTCIceServer[]}
 */
export function iceServersOf(header) {
  return [...header.matchAll(/<((?:stun|turns?):[^>]+)>([^<]*)/g)].map(([, urls, rest]) => {
    const value = (/** @type {string} */ name) => rest.match(new RegExp(`${name}="([^"]*)"`))?.[1];
    return { urls, username: value("username"), credential: value("credential") };
  });
}
