/** In-memory surroundings for the SDK: a service, peer connections, media streams and time. */

export class FakeStream {
  constructor(tracks = []) { this.tracks = [...tracks]; }
  getTracks() { return [...this.tracks]; }
  getVideoTracks() { return this.tracks.filter(({ kind }) => kind === "video"); }
  addTrack(track) { this.tracks.push(track); }
  removeTrack(track) { this.tracks = this.tracks.filter((other) => other !== track); }
}

export const camera = (id = "camera") => new FakeStream([{ kind: "video", id }]);

class FakeChannel extends EventTarget {
  constructor(label) {
    super();
    Object.assign(this, { label, readyState: "connecting", sent: [] });
  }
  send(text) { this.sent.push(JSON.parse(text)); }
  open() {
    this.readyState = "open";
    this.dispatchEvent(new Event("open"));
  }
  hear(message) {
    const data = typeof message === "string" ? message : JSON.stringify(message);
    this.dispatchEvent(Object.assign(new Event("message"), { data }));
  }
  drop() {
    this.readyState = "closed";
    this.dispatchEvent(new Event("close"));
  }
}

/** A peer that gathers and connects at once, unless told otherwise through `world`. */
class FakePeer extends EventTarget {
  constructor(world, configuration) {
    super();
    Object.assign(this, { world, configuration, iceGatheringState: "new", connectionState: "new", closed: false });
    world.peers.push(this);
  }
  createDataChannel(label) { return (this.channel = new FakeChannel(label)); }
  addTransceiver(track, init) {
    const sender = { track, replaceTrack: async (next) => { sender.track = next; } };
    this.transceiver = { sender, init };
    (this.directions ??= []).push([track.kind ?? track, init.direction]);
    this.world.onTransceiver?.(this.transceiver);
    return this.transceiver;
  }
  async createOffer() { return { type: "offer", sdp: `offer ${this.world.peers.indexOf(this)}` }; }
  async setLocalDescription(description) {
    this.localDescription = description;
    if (this.world.gathers) this.gathered();
  }
  gathered() {
    this.iceGatheringState = "complete";
    this.localDescription = { ...this.localDescription, sdp: `${this.localDescription.sdp} with candidates` };
    this.dispatchEvent(new Event("icegatheringstatechange"));
  }
  async setRemoteDescription(description) {
    if (this.closed) throw new Error("closed");
    this.remoteDescription = description;
    const track = { kind: "video", id: `result ${this.world.peers.indexOf(this)}` };
    this.dispatchEvent(Object.assign(new Event("track"), { track, receiver: { jitterBufferTarget: null } }));
    if (this.world.connects) this.become("connected");
  }
  become(state) {
    this.connectionState = state;
    this.dispatchEvent(new Event("connectionstatechange"));
    if (state === "connected") this.channel?.open();
  }
  getReceivers() { return [{ transport: (this.transport ??= Object.assign(new EventTarget(), { state: "connected" })) }]; }
  /** The other side says goodbye: browsers show that at the transport at once, and at the peer much later. */
  hearGoodbye() {
    this.transport.state = "closed";
    this.transport.dispatchEvent(new Event("statechange"));
  }
  close() { this.closed = true; }
}

/** Time that stands still until `pass` is called. */
class FakeTimers {
  now = 0;
  due = [];
  setTimeout = (run, ms) => {
    const timer = { run, at: this.now + ms };
    this.due.push(timer);
    return timer;
  };
  clearTimeout = (timer) => { this.due = this.due.filter((other) => other !== timer); };
  async pass(ms) {
    const end = this.now + ms;
    for (;;) {
      await settle();
      const next = this.due.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
      if (!next) break;
      this.clearTimeout(next);
      this.now = next.at;
      next.run();
    }
    this.now = end;
  }
}

/** Lets everything run that waits for nothing. */
export const settle = async () => { for (let i = 0; i < 30; i++) await Promise.resolve(); };

/**
 * One service and the browser in front of it. `answers` holds replies to come for POST /api/sessions: a
 * [status, body, headers] each, an Error for a network failure; when it is empty sessions open.
 */
export function makeWorld() {
  const world = { peers: [], requests: [], answers: [], gathers: true, connects: true, forgets: false, opened: 0, state: "connecting", timers: new FakeTimers() };
  world.RTCPeerConnection = class extends FakePeer { constructor(configuration) { super(world, configuration); } };
  world.fetch = async (url, { method, headers, body, signal, keepalive }) => {
    signal?.throwIfAborted();
    const request = { path: url.pathname, method, headers, keepalive, body: body && JSON.parse(body) };
    world.requests.push(request);
    const posted = method === "POST" && url.pathname.includes("/api/sessions");
    const [status, json, extra] = (posted && world.answers.length && reply(world.answers.shift())) || world.usual(request);
    return new Response(status === 204 ? null : JSON.stringify(json), { status, headers: extra });
  };
  world.usual = ({ method, path, body }) => {
    if (method !== "POST") return method === "DELETE" ? [204] : [200, {}];
    const id = path.split("/api/sessions/")[1];
    if (id && world.forgets) return [404, { error: { code: "no_such_session", message: "it may have ended" } }];
    if (id) return [200, { id, sdp: "answer", type: "answer", ice_servers: [], params: world.params }];
    const params = (world.params = { fps: 16, slo_ms: 1000, ...body.params });
    const answer = { id: `s${++world.opened}`, sdp: "answer", type: "answer", ice_servers: [{ urls: "turn:t" }], params };
    return [201, { ...answer, state: world.state }];
  };
  world.options = (more = {}) => ({
    url: "http://host/base/", fetch: world.fetch, RTCPeerConnection: world.RTCPeerConnection, MediaStream: FakeStream,
    timers: world.timers, now: () => world.timers.now, random: () => 0.5, ...more,
  });
  world.made = (method) => world.requests.filter((request) => request.method === method);
  return world;
}

function reply(answer) {
  if (answer instanceof Error) throw answer;
  return answer;
}
