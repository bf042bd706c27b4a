/** The page's surface: puts state and numbers into the document, as text. Decides nothing. */

import { isActive } from "./machine.js";
import { duration, fps, History, lost, promise, reasons, reshaped, stages } from "./meter.js";
import { ACTION_LABELS, level, loweredText, notice, running, STAGES, STAGE_TITLES } from "./texts.js";

/** @typedef {import("./machine.js").State} State */
/** @typedef {import("./texts.js").Action} Action */
/** @typedef {import("./streamgen.js").Stats} Stats */
/** @typedef {import("./streamgen.js").Params} Params */
/** @typedef {import("./streamgen.js").Preset} Preset */
/** @typedef {import("./streamgen.js").Quality} Quality */
/** @typedef {import("./sources.js").Source} Source */

const CURVE_SECONDS = 30;
const FEEDBACK_MS = 8000;

/** @type {ReadonlySet<string>} */
const WITH_PICTURE = new Set(["warming", "live", "paused"]);

/**
 * The element with an id; the page's markup is ours, so a missing one is our bug.
 * @template {HTMLElement} [T=HTMLElement] @param {string} id @returns {T}
 */
export function element(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element #${id}`);
  return /** @type {T} */ (found);
}

/** @param {string} id @param {string} text */
function say(id, text) {
  const target = element(id);
  if (target.textContent !== text) target.textContent = text;
}

export class View {
  /** @param {(action: Action) => void} act called when a button of the notice is pressed */
  constructor(act) {
    this.act = act;
    /** @type {HTMLVideoElement} */ this.source = element("source");
    /** @type {HTMLVideoElement} */ this.result = element("result");
    /** @type {HTMLTextAreaElement} */ this.prompt = element("prompt");
    /** @type {HTMLInputElement} */ this.noise = element("noise");
    /** @type {HTMLInputElement} */ this.seed = element("seed");
    /** @type {HTMLSelectElement} */ this.camera = element("camera");
    /** @type {State | undefined} */ this.shown = undefined;
    /** @type {ReturnType<typeof setTimeout> | undefined} */ this.feedbackTimer = undefined;
    /** Width / height of the picture that gave the panels theirs; 0 before one did. */
    this.shape = 0;
    this.fpsCurve = new History(CURVE_SECONDS);
    this.latencyCurve = new History(CURVE_SECONDS);
    this.source.addEventListener("resize", () => this.#showShape(this.source));
    this.result.addEventListener("resize", () => {
      // Under load results become smaller, and larger again; their sizes are rounded, and that must not move the page.
      if (reshaped(this.result.videoWidth / this.result.videoHeight, this.shape)) this.#showShape(this.result);
    });
  }

  /** Both panels take the shape of the picture; an upright one would not fit the page, and stands whole in a square. */
  #showShape(/** @type {HTMLVideoElement} */ { videoWidth: width, videoHeight: height }) {
    if (!width || !height) return;
    this.shape = width / height;
    const upright = height > width;
    document.documentElement.style.setProperty("--aspect", upright ? "1" : `${width} / ${height}`);
    for (const id of ["source-view", "result-view"]) element(id).classList.toggle("whole", upright);
  }

  /** @param {State} state @param {number} now ms */
  showState(state, now) {
    const { pill, title, text, actions, waiting } = notice(state, now);
    document.body.dataset.state = state.name;
    document.body.dataset.problem = state.problem?.code ?? "";
    say("pill", pill);
    if (title) say("notice-title", title); // While it fades out the old text stays.
    if (text) say("notice-text", text);
    element("result-view").classList.toggle("waiting", waiting === true);
    if (this.shown === state) return;
    // Who waits in the queue is told of another place, and not of every guess how long it takes.
    const told = state.name === "queued" && this.shown?.name === "queued" && this.shown.position === state.position;
    if (!told) say("announce", [title || pill, text].filter(Boolean).join(". "));
    this.shown = state;
    element("token-form").hidden = !actions.includes("token");
    this.#showActions(actions);
    const active = isActive(state);
    element("start").dataset.active = String(active);
    element("start").setAttribute("aria-label", active ? "Stop" : "Start");
    element("start").title = active ? "Stop" : "Start";
    this.#showPause(state);
    for (const id of ["snapshot", "record", "link", "reset"]) this.#enable(id, state.name === "live" || state.name === "paused");
    if (!WITH_PICTURE.has(state.name)) this.fill("result-view", false); // Else the last frame stays, or black.
  }

  /** Those that stay are not made anew, which would take the focus from them. @param {Action[]} actions */
  #showActions(actions) {
    const shown = [...element("notice-actions").children].map((button) => /** @type {HTMLElement} */ (button).dataset.action);
    if (String(shown) === String(actions)) return;
    element("notice-actions").replaceChildren(...actions.map((action) => this.#actionButton(action)));
  }

  /** @param {Action} action */
  #actionButton(action) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", textContent: ACTION_LABELS[action] });
    button.dataset.action = action;
    button.addEventListener("click", () => this.act(action));
    return button;
  }

  /** @param {State} state */
  #showPause({ name }) {
    const label = name === "paused" ? "Resume" : "Pause";
    const button = element("pause");
    button.setAttribute("aria-label", label);
    button.title = label;
    button.querySelector("use")?.setAttribute("href", name === "paused" ? "#i-play" : "#i-pause");
    this.#enable("pause", name === "live" || name === "paused");
  }

  /** @param {string} id @param {boolean} enabled */
  #enable(id, enabled) { /** @type {HTMLButtonElement} */ (element(id)).disabled = !enabled; }

  /** Whether a picture shows. @param {"source-view" | "result-view"} id @param {boolean} filled */
  fill(id, filled) { element(id).classList.toggle("filled", filled); }

  /** A frame of the result came; the black ones of a stream that ends are not shown. */
  showFrame() { if (this.shown && WITH_PICTURE.has(this.shown.name)) this.fill("result-view", true); }

  /** @param {Source | undefined} source */
  showSource(source) {
    this.source.srcObject = source?.stream ?? null;
    this.fill("source-view", source !== undefined);
    const { width, height } = source?.stream.getVideoTracks()[0]?.getSettings() ?? {};
    say("source-label", source && source.kind !== "camera" ? source.label : width && height ? `${width} × ${height}` : "");
  }

  /** @param {import("./sources.js").Kind} kind */
  showKind(kind) {
    document.body.dataset.source = kind;
    document.querySelectorAll("[data-kind]").forEach((button) => {
      button.setAttribute("aria-pressed", String(/** @type {HTMLElement} */ (button).dataset.kind === kind));
    });
    element("source-empty").querySelector("use")?.setAttribute("href", `#i-${kind}`);
  }

  /** @param {MediaDeviceInfo[]} cameras @param {string | undefined} chosen */
  showCameras(cameras, chosen) {
    this.camera.replaceChildren(...cameras.map((device, i) => new Option(device.label || `Camera ${i + 1}`, device.deviceId)));
    if (chosen) this.camera.value = chosen;
    this.camera.hidden = cameras.length === 0;
  }

  /** Both pictures, so that they stay comparable. @param {boolean} mirrored */
  showMirrored(mirrored) {
    element("mirror").setAttribute("aria-pressed", String(mirrored));
    for (const id of ["source-view", "result-view"]) element(id).classList.toggle("mirrored", mirrored);
  }

  /** @param {Preset} preset @param {(prompt: string) => void} choose called when a style is pressed */
  showPreset(preset, choose) {
    say("preset", preset.title);
    document.documentElement.style.setProperty("--aspect", `${preset.width} / ${preset.height}`);
    element("styles").replaceChildren(...preset.styles.map(({ name, prompt }) => {
      const chip = document.createElement("button");
      Object.assign(chip, { type: "button", textContent: name, title: prompt });
      chip.dataset.prompt = prompt;
      chip.addEventListener("click", () => choose(prompt));
      return chip;
    }));
    const { noise, steps, seed, keep } = preset.params.properties;
    if (noise) Object.assign(this.noise, { min: noise.minimum ?? 0, max: noise.maximum ?? 1, value: noise.default });
    if (seed) Object.assign(this.seed, { max: seed.maximum ?? 2 ** 31 - 1, value: seed.default });
    element("keep").hidden = !keep;
    this.#keepInputs().forEach((input) => { input.checked = String(keep?.default ?? "").split(",").includes(input.value); });
    this.#stepInputs().forEach((input) => {
      input.checked = Number(input.value) === steps?.default;
      input.disabled = Number(input.value) > (steps?.maximum ?? 4);
    });
    this.showValues();
  }

  /** Parts of the controls that follow from their values. */
  showValues() {
    const { value, min, max } = this.noise;
    say("noise-value", Number(value).toFixed(2));
    this.noise.style.setProperty("--fill", `${(100 * (Number(value) - Number(min))) / (Number(max) - Number(min))}%`);
    for (const chip of /** @type {NodeListOf<HTMLElement>} */ (element("styles").querySelectorAll("button"))) {
      chip.setAttribute("aria-pressed", String(chip.dataset.prompt === this.prompt.value.trim()));
    }
  }

  #stepInputs() { return /** @type {NodeListOf<HTMLInputElement>} */ (element("steps").querySelectorAll("input")); }

  #keepInputs() { return /** @type {NodeListOf<HTMLInputElement>} */ (element("keep").querySelectorAll("input")); }

  /** What the controls say now. @returns {Params} */
  get values() {
    const steps = [...this.#stepInputs()].find((input) => input.checked);
    const seed = Math.trunc(Number(this.seed.value));
    return {
      prompt: this.prompt.value.trim(),
      noise: Number(this.noise.value),
      ...(steps ? { steps: Number(steps.value) } : {}),
      seed: Math.min(Number(this.seed.max), Math.max(0, Number.isFinite(seed) ? seed : 0)),
      ...(element("keep").hidden ? {} : { keep: this.keep }),
    };
  }

  /** What may not be lowered under load, as the service takes it. */
  get keep() { return [...this.#keepInputs()].filter((input) => input.checked).map((input) => input.value).join(","); }

  /** @param {string} text @param {"" | "waiting" | "applied" | "rejected"} [status] */
  showFeedback(text, status = "") {
    clearTimeout(this.feedbackTimer);
    say("feedback", text);
    element("feedback").dataset.status = status;
    if (text && status !== "rejected") this.feedbackTimer = setTimeout(() => this.showFeedback(""), FEEDBACK_MS);
  }

  /** @param {Params} params @param {Stats | undefined} stats @param {number | undefined} measuredFps of the result, here */
  showStats(params, stats, measuredFps) {
    say("fps-out", fps(measuredFps ?? stats?.fps_out));
    say("fps-in", fps(stats?.fps_in));
    say("latency-p50", duration(stats?.latency_ms.p50));
    say("latency-p95", duration(stats?.latency_ms.p95));
    say("misses", stats ? String(stats.deadline_misses) : "–");
    say("drops", stats ? String(lost(stats.drops)) : "–");
    const list = reasons(stats?.drops ?? {}).map(([reason, count]) => `${count} ${reason}`);
    say("drop-reasons", list.length ? list.join("\n") : "No frame was dropped.");
    const { text, kept } = promise(params, stats);
    say("promise-text", text);
    say("promise-kept", kept === undefined ? "" : kept ? "kept" : "not kept");
    element("promise").dataset.kept = kept === undefined ? "" : String(kept);
    this.#showDetails(stats);
  }

  /** @param {Stats | undefined} stats */
  #showDetails(stats) {
    say("level", level(stats?.plan ?? {}) || "–");
    say("running", running(stats?.plan ?? {}) || "–");
    const parts = stages(stats?.stages_ms ?? {}, Object.keys(STAGES));
    element("stages").replaceChildren(...parts.map(({ name, ms, share }) => {
      const part = document.createElement("li");
      Object.assign(part, { title: STAGE_TITLES[name] });
      part.dataset.stage = name;
      part.style.setProperty("--share", String(share));
      part.append(Object.assign(document.createElement("span"), { textContent: STAGES[name] }),
        Object.assign(document.createElement("b"), { textContent: duration(ms) }));
      return part;
    }));
  }

  /** Says that less runs than was asked for, and why; nothing where all is well. @param {Quality | undefined} quality @param {Params} params */
  showQuality(quality, params) {
    const text = loweredText(quality, params);
    const before = element("lowered").textContent ?? "";
    say("lowered", text);
    if (text && !before) say("announce", text); // Once: it may change every few seconds.
  }

  /** One more point on the curves. @param {Stats} stats @param {number | undefined} measuredFps */
  extendCurves(stats, measuredFps) {
    this.fpsCurve.push(measuredFps ?? stats.fps_out);
    this.latencyCurve.push(stats.latency_ms.p95);
    this.#drawCurves();
  }

  clearStats() {
    this.fpsCurve.reset();
    this.latencyCurve.reset();
    this.#drawCurves();
    this.showStats({}, undefined, undefined);
    this.showQuality(undefined, {});
  }

  #drawCurves() {
    document.getElementById("spark-fps")?.setAttribute("points", this.fpsCurve.points(100, 24));
    document.getElementById("spark-latency")?.setAttribute("points", this.latencyCurve.points(100, 24));
  }

  /** @param {number | undefined} seconds undefined when not recording */
  showRecording(seconds) {
    const on = seconds !== undefined;
    element("record").setAttribute("aria-pressed", String(on));
    element("record").setAttribute("aria-label", on ? "Stop recording" : "Record");
    say("record-time", on ? `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}` : "");
  }
}
