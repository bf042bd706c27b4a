/** Every word the page says about its state: what is going on, and what to do. Pure. */

/** @typedef {import("./machine.js").State} State */
/** @typedef {import("./machine.js").Problem} Problem */
/** @typedef {import("./streamgen.js").Params} Params */
/** @typedef {import("./streamgen.js").Quality} Quality */
/** @typedef {import("./streamgen.js").Plan} Plan */
/** @typedef {"start" | "camera" | "pattern" | "file" | "resume" | "token" | "leave"} Action */
/** @typedef {{pill: string, title: string, text: string, actions: Action[], waiting?: boolean}} Notice */

/** @type {Record<Action, string>} */
export const ACTION_LABELS = {
  start: "Try again",
  camera: "Use the camera",
  pattern: "Use the test scene",
  file: "Use a video file",
  resume: "Resume",
  token: "Save and connect",
  leave: "Leave the queue",
};

/** @type {Record<string, {title: string, text: string, actions: Action[]}>} by problem code */
const PROBLEMS = {
  "camera-refused": {
    title: "The camera was refused",
    text: "Allow the camera for this site (the icon beside the address), then try again.",
    actions: ["start", "file", "pattern"],
  },
  "camera-missing": {
    title: "No camera found",
    text: "Plug one in and try again, or go on without a camera.",
    actions: ["start", "file", "pattern"],
  },
  "camera-in-use": {
    title: "The camera is in use",
    text: "Another app or tab holds it. Close that one, then try again.",
    actions: ["start", "file", "pattern"],
  },
  "camera-lost": {
    title: "The camera went away",
    text: "It was unplugged, or another app took it. Connect it again, then try again.",
    actions: ["start", "file", "pattern"],
  },
  "insecure-origin": {
    title: "The browser hides the camera here",
    text: "Cameras work only over https, or on localhost. Open this page that way, or go on without a camera.",
    actions: ["file", "pattern"],
  },
  "bad-file": {
    title: "This file does not play",
    text: "The browser cannot read it as a video. Choose an MP4 or WebM file.",
    actions: ["file", "camera", "pattern"],
  },
  unauthorized: {
    title: "This server asks for a token",
    text: "Enter the token that it was started with.",
    actions: ["token"],
  },
  connect_failed: {
    title: "The server cannot be reached",
    text: "Check that it is running and that you are online, then try again.",
    actions: ["start"],
  },
  no_media: {
    title: "No media connection",
    text: "The server answers, but video does not get through: a firewall or VPN may block UDP. Try another network.",
    actions: ["start"],
  },
  engine_down: {
    title: "The engine does not run",
    text: "The server is up, but its model could not be started. The server's log says why.",
    actions: ["start"],
  },
  ended: { title: "The server ended the session", text: "Start again when you like.", actions: ["start"] },
  unsupported: {
    title: "This browser has no WebRTC",
    text: "Use a current Chrome, Edge, Firefox or Safari.",
    actions: [],
  },
};

/** @type {Record<string, string>} problem codes by the name of the browser's error */
const CAMERA_ERRORS = {
  NotAllowedError: "camera-refused",
  SecurityError: "camera-refused",
  NotFoundError: "camera-missing",
  OverconstrainedError: "camera-missing",
  NotReadableError: "camera-in-use",
  AbortError: "camera-in-use",
};

/** What went wrong, as a code that has a text here. @param {any} error @returns {Problem} */
export function problemOf(error) {
  const message = typeof error?.message === "string" ? error.message : undefined;
  if (error?.status === 401) return { code: "unauthorized" };
  if (typeof error?.code === "string") return { code: error.code, message };
  return { code: CAMERA_ERRORS[error?.name] ?? "error", message };
}

/** @param {State} state @param {number} now in ms, the clock of `state.retryAt` @returns {Notice} */
export function notice(state, now) {
  switch (state.name) {
    case "idle":
      return { pill: "Ready", title: "Your picture, restyled live", actions: [],
        text: "Describe a style, then press the round button." };
    case "asking":
      return { pill: "Camera", title: "Waiting for the camera", waiting: true, actions: ["pattern"],
        text: "Your browser asks whether this page may use it. Choose Allow." };
    case "connecting":
      return { pill: "Connecting", title: "Connecting", waiting: true, actions: [],
        text: "Opening a media connection to the server." };
    case "starting":
      return { pill: "Starting", title: "The engine is starting", waiting: true, actions: [],
        text: "The server loads its model. This page connects by itself as soon as it is ready." };
    case "busy": {
      const seconds = Math.max(0, Math.ceil(((state.retryAt ?? now) - now) / 1000));
      return { pill: "Server busy", title: "All places are taken", waiting: true, actions: [],
        text: `Trying again in ${seconds} s. Stop to give up waiting.` };
    }
    case "queued":
      return { pill: "In the queue", title: inLine(state), actions: ["leave"],
        text: "Stay here: your stream begins by itself." };
    case "warming":
      return { pill: "Warming up", title: "Warming up", waiting: true, actions: [],
        text: "The first frames are on their way." };
    case "live":
      return { pill: "Live", title: "", text: "", actions: [] };
    case "paused":
      return { pill: "Paused", title: "Paused", text: "The session keeps its place.", actions: ["resume"] };
    case "reconnecting":
      return { pill: "Reconnecting", title: "Connection lost", waiting: true, actions: [],
        text: `Coming back with the same settings${state.attempt && state.attempt > 1 ? `, attempt ${state.attempt}` : ""}.` };
    case "error":
      return { pill: "Stopped", ...problemText(state.problem ?? { code: "error" }) };
  }
}

/** @param {State} state of a session that waits for room */
function inLine({ position, estimateS }) {
  if (position === undefined) return "You are in the queue";
  const told = estimateS === undefined || estimateS === null ? "" : `, ${about(estimateS)}`;
  return `You are number ${position} in the queue${told}`;
}

/** A time to wait, no more exact than it can be known. @param {number} seconds */
function about(seconds) {
  if (seconds < 90) return `about ${Math.max(5, 5 * Math.round(seconds / 5))} s`;
  return `about ${Math.round(seconds / 60)} min`;
}

/** @type {Record<string, string>} Why a session runs at less than was asked for, by the service's reason. */
const LOWERED = {
  load: "Many are watching",
  room: "There is more room again",
  asked: "Still less than you asked for, as many are watching",
};

/**
 * One line about a quality that is lower than what was asked for; empty where it is not.
 * @param {Quality | undefined} quality @param {Params} params as they were asked for
 */
export function loweredText(quality, params) {
  if (!quality || quality.rung === 0) return "";
  const { steps, fps, width, height, vae } = quality;
  const smaller = width * height < 0.9 * (params.width ?? width) * (params.height ?? height);
  const lighter = params.vae !== "light" ? vae : undefined;
  const now = running({ steps, fps, ...(smaller ? { width, height } : {}), ...(lighter === "light" ? { vae } : {}) });
  return `${LOWERED[quality.reason] ?? LOWERED.load}: running at ${now}`;
}

/** What runs now, as far as it is known. @param {Plan} plan */
export function running({ steps, fps, width, height, vae }) {
  return [
    steps === undefined ? "" : `${steps} ${steps === 1 ? "step" : "steps"}`,
    fps === undefined ? "" : `${Number(fps.toFixed(1))} fps`,
    width && height ? `${width} × ${height}` : "",
    vae === undefined ? "" : `${vae} VAE`,
  ].filter(Boolean).join(", ");
}

/** The rung of the ladder, counted so that all is well at the top: 6/6. @param {Plan} plan */
export const level = ({ rung, rungs }) => (rung === undefined || rungs === undefined ? "" : `${rungs - rung}/${rungs}`);

/** @type {Record<string, string>} Parts of a frame's latency, in the order in which it passes through them. */
export const STAGES = {
  fill: "Fill",
  queue: "Queue",
  transfer: "Transfer",
  encode: "Encode",
  denoise: "Denoise",
  decode: "Decode",
  pace: "Pace",
};

/** @type {Record<string, string>} What each of them is. */
export const STAGE_TITLES = {
  fill: "Waiting for the other frames of its chunk",
  queue: "Waiting for the engine",
  transfer: "On the way to the device and back",
  encode: "From pictures to latents",
  denoise: "The model's steps",
  decode: "From latents to pictures",
  pace: "Waiting for its moment to be shown",
};

/** What a problem means and what to do about it. @param {Problem} problem @returns {{title: string, text: string, actions: Action[]}} */
export function problemText({ code, message }) {
  const known = Object.hasOwn(PROBLEMS, code) ? PROBLEMS[code] : undefined;
  if (!known) return { title: "That did not work", text: message || "Something unexpected happened.", actions: ["start"] };
  return code === "ended" && message ? { ...known, text: `It says: ${message}` } : known;
}
