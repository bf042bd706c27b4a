/** The live page: the controls, the measuring, and what the page knows of the server. The composition root. */

import { StreamgenClient, UnauthorizedError } from "../sdk/streamgen.js";
import { isActive } from "./machine.js";
import { canRecord, Recording, snapshot } from "./recorder.js";
import { Studio } from "./studio.js";
import { element, View } from "./view.js";

/** @typedef {import("./sources.js").Kind} Kind */

const TYPING_PAUSE_MS = 700;
const SLIDING_PAUSE_MS = 150;
const RELOAD_MS = 2000;
const TOKEN_KEY = "streamgen-token";

class Page {
  /** @param {StreamgenClient} client */
  constructor(client) {
    this.client = client;
    this.view = new View((action) => this.act(action));
    this.studio = new Studio(client, this.view);
    this.studio.onEnd = () => this.recording?.stop();
    this.maxPrompt = 2000;
    /** @type {Recording | undefined} */ this.recording = undefined;
  }

  /** @param {import("./texts.js").Action} action */
  act(action) {
    if (action === "start") this.start();
    else if (action === "resume") this.studio.session?.resume();
    else if (action === "leave") this.studio.stop();
    else if (action === "token") /** @type {HTMLFormElement} */ (element("token-form")).requestSubmit();
    else this.studio.choose(action);
  }

  start() { if (this.promptIsGood()) void this.studio.start(); }

  promptIsGood() {
    const { length } = this.view.values.prompt ?? "";
    if (length > 0 && length <= this.maxPrompt) return true;
    this.view.showFeedback(length ? `${length} characters; at most ${this.maxPrompt} are taken.`
      : "Write what it should look like.", "rejected");
    if (!length) this.view.prompt.focus();
    return false;
  }

  /** @param {number} delayMs */
  promptChanged(delayMs) {
    this.view.showValues();
    this.studio.live?.forget("prompt");
    if (!this.studio.live || !this.view.values.prompt) return this.view.showFeedback("");
    if (this.promptIsGood()) this.studio.live.set({ prompt: this.view.values.prompt }, delayMs);
  }

  toggleRecording() {
    if (this.recording) return this.recording.stop();
    if (!this.studio.session) return;
    this.recording = new Recording(this.studio.session.stream, () => {
      this.recording = undefined;
      this.view.showRecording(undefined);
    });
    this.view.showRecording(0);
  }

  /** A link to the result alone, for others, or as a browser source in OBS. */
  async copyLink() {
    const link = await this.studio.session?.viewerLink().catch(() => undefined);
    if (!link) return this.view.showFeedback("The server gave no link.");
    try {
      await navigator.clipboard.writeText(String(link));
      this.view.showFeedback("Link for viewers copied.");
    } catch { // Clipboards are for secure pages, and may be refused.
      this.view.showFeedback(`Link for viewers: ${link}`, "rejected");
    }
  }

  toggleFullscreen() {
    const panel = element("result-view");
    const video = /** @type {HTMLVideoElement & {webkitEnterFullscreen?: () => void}} */ (this.view.result);
    if (document.fullscreenElement) void document.exitFullscreen();
    else if (panel.requestFullscreen) void panel.requestFullscreen();
    else video.webkitEnterFullscreen?.(); // iPhones show only videos in full screen.
  }

  isMirrored() { return element("mirror").getAttribute("aria-pressed") === "true"; }

  // --- Wiring ---

  listen() {
    const { view } = this;
    /** @param {string} id @param {string} type @param {(event: Event) => void} listener */
    const on = (id, type, listener) => element(id).addEventListener(type, listener);
    on("start", "click", () => (isActive(this.studio.state) ? this.studio.stop() : this.start()));
    on("pause", "click", () => (this.studio.state.name === "paused" ? this.studio.session?.resume() : this.studio.session?.pause()));
    on("reset", "click", () => this.studio.session?.reset());
    on("prompt", "input", () => this.promptChanged(TYPING_PAUSE_MS));
    on("prompt", "keydown", (event) => {
      const key = /** @type {KeyboardEvent} */ (event);
      if (key.key !== "Enter" || key.shiftKey || key.isComposing) return;
      key.preventDefault();
      this.promptChanged(0);
    });
    on("prompt-form", "submit", (event) => event.preventDefault());
    on("noise", "input", () => {
      view.showValues();
      this.studio.live?.set({ noise: view.values.noise }, SLIDING_PAUSE_MS);
    });
    on("steps", "change", () => this.studio.live?.set({ steps: view.values.steps }));
    on("seed", "change", () => {
      view.seed.value = String(view.values.seed);
      this.studio.live?.set({ seed: view.values.seed });
    });
    on("dice", "click", () => {
      view.seed.value = String(Math.floor(Math.random() * (Number(view.seed.max) + 1)));
      this.studio.live?.set({ seed: view.values.seed });
    });
    on("keep", "change", () => this.studio.live?.set({ keep: view.keep }));
    on("mirror", "click", () => view.showMirrored(!this.isMirrored()));
    on("snapshot", "click", () => void snapshot(view.result, this.isMirrored()));
    on("link", "click", () => void this.copyLink());
    on("record", "click", () => this.toggleRecording());
    on("fullscreen", "click", () => this.toggleFullscreen());
    on("camera", "change", () => this.studio.choose("camera"));
    on("file", "change", (event) => {
      const input = /** @type {HTMLInputElement} */ (event.target);
      const [file] = input.files ?? [];
      input.value = ""; // The same file may be chosen again.
      if (file) this.studio.choose("file", file);
    });
    on("token-form", "submit", (event) => {
      event.preventDefault();
      this.client.token = /** @type {HTMLInputElement} */ (element("token")).value;
      sessionStorage.setItem(TOKEN_KEY, this.client.token);
      void this.load().then(() => this.start());
    });
    document.querySelectorAll("[data-kind]").forEach((button) => button.addEventListener("click", () => {
      this.studio.choose(/** @type {Kind} */ (/** @type {HTMLElement} */ (button).dataset.kind));
    }));
    navigator.mediaDevices?.addEventListener("devicechange", () => { if (this.studio.source) void this.studio.refreshCameras(); });
    addEventListener("pagehide", () => { void this.studio.session?.close(); });
    element("record").hidden = !canRecord();
    this.measure();
  }

  /** Counts the frames that are really shown, and refreshes the numbers twice a second. */
  measure() {
    const { result } = this.view;
    const measured = Object.hasOwn(HTMLVideoElement.prototype, "requestVideoFrameCallback");
    const shown = (/** @type {number} */ now) => {
      this.studio.meter.tick(now);
      this.view.showFrame();
      result.requestVideoFrameCallback(shown);
    };
    if (measured) result.requestVideoFrameCallback(shown);
    else result.addEventListener("playing", () => this.view.showFrame());
    setInterval(() => {
      if (this.recording) this.view.showRecording(this.recording.seconds);
      if (!this.studio.session) return;
      const rate = measured ? this.studio.meter.rate(performance.now()) : undefined;
      this.view.showStats(this.studio.session.params, this.studio.session.stats, rate);
    }, 500);
  }

  /** What the server can run: suggestions, ranges and shape. Without it the page still works, with its own defaults. */
  async load() {
    const reply = await this.client.presets().catch((error) => {
      if (error instanceof UnauthorizedError) this.studio.fail(error);
      else setTimeout(() => void this.load(), RELOAD_MS);
    });
    const preset = reply?.presets.find(({ name }) => name === reply.current);
    if (!preset) return;
    const { prompt, fps, width, height } = preset.params.properties;
    const size = { width: width?.default ?? preset.width, height: height?.default ?? preset.height };
    // Small models get twice their size: the server scales down, and the source looks well beside the result.
    const scale = size.width < 480 ? 2 : 1;
    this.studio.wish = { width: size.width * scale, height: size.height * scale, fps: fps?.default ?? preset.native_fps };
    this.maxPrompt = prompt?.maxLength ?? this.maxPrompt;
    this.view.prompt.value ||= prompt?.default || preset.styles[0]?.prompt || "";
    this.view.showPreset({ ...preset, ...size }, (chosen) => {
      this.view.prompt.value = chosen;
      this.promptChanged(0);
    });
  }
}

/** The token may come with a link (`#token=...`, which never reaches the server's logs); then it leaves the address. */
function token() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    sessionStorage.setItem(TOKEN_KEY, given);
    history.replaceState(null, "", location.pathname + location.search);
  }
  return given ?? sessionStorage.getItem(TOKEN_KEY) ?? undefined;
}

const page = new Page(new StreamgenClient({ url: new URL("./", location.href), token: token() }));
page.listen();
void page.load();
