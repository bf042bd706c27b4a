/**
 * The page's states, and what leads from one to the next. Pure: decides, and never touches the page or the network.
 *
 *     idle -> asking -> connecting -> queued -> warming -> live <-> paused
 *               |         |  ^  ^        \        \         |        /
 *               |         v  |  |         +--------+-- reconnecting
 *               |      busy -+  +- starting
 *               +-> error <- (from anywhere; start leads out)
 *
 * `stop` leads from every state to idle. An event that means nothing in a state leaves it unchanged.
 */

/**
 * @typedef {"idle" | "asking" | "connecting" | "starting" | "busy" | "queued" | "warming" | "live" | "paused"
 *   | "reconnecting" | "error"} Name
 * @typedef {{code: string, message?: string}} Problem
 * @typedef {{name: Name, problem?: Problem, retryAt?: number, attempt?: number, position?: number,
 *   estimateS?: number | null}} State
 * @typedef {{type: "start"} | {type: "stop"} | {type: "source"} | {type: "retry"} | {type: "starting"}
 *   | {type: "busy", retryAt: number} | {type: "failed", problem: Problem}
 *   | {type: "queue", position: number, estimateS: number | null}
 *   | {type: "session", state: string, attempt?: number}} Event
 */

/** @type {State} */
export const IDLE = Object.freeze({ name: "idle" });

/** @type {Record<string, Name>} States of a session that the page shows, as the service and the SDK call them. */
const SESSION_STATES = {
  connecting: "warming", queued: "queued", warming: "warming", live: "live", paused: "paused", reconnecting: "reconnecting",
};

/** @type {Record<string, Name[]>} Where each event means something, and for `stop` and `failed` see `next`. */
const HEARD_IN = {
  start: ["idle", "error"],
  source: ["asking"],
  starting: ["connecting", "starting", "busy"],
  busy: ["connecting", "starting", "busy"],
  retry: ["starting", "busy"],
  session: ["connecting", "queued", "warming", "live", "paused", "reconnecting"],
  queue: ["connecting", "queued", "warming"],
  failed: ["idle", "asking", "connecting", "starting", "busy", "queued", "warming", "live", "paused", "reconnecting", "error"],
};

/**
 * The state after `event`.
 * @param {State} state @param {Event} event @returns {State} the same object where nothing changes
 */
export function next(state, event) {
  if (event.type === "stop") return state.name === "idle" ? state : IDLE;
  if (!HEARD_IN[event.type]?.includes(state.name)) return state;
  switch (event.type) {
    case "start": return { name: "asking" };
    case "source":
    case "retry": return { name: "connecting" };
    case "starting": return state.name === "starting" ? state : { name: "starting" };
    case "busy": return { name: "busy", retryAt: event.retryAt };
    case "queue": return inQueue(state, event);
    case "failed": return { name: "error", problem: event.problem };
    case "session": return inSession(state, event);
  }
}

/** @param {State} state @param {{state: string, attempt?: number}} event @returns {State} */
function inSession(state, event) {
  const name = SESSION_STATES[event.state];
  if (!name) return state;
  if (name === "reconnecting") return { name, attempt: event.attempt ?? 1 };
  return name === state.name ? state : { name };
}

/** @param {State} state @param {{position: number, estimateS: number | null}} event @returns {State} */
function inQueue(state, { position, estimateS }) {
  const known = state.name === "queued" && state.position === position && state.estimateS === estimateS;
  return known ? state : { name: "queued", position, estimateS };
}

/** Whether the start button now stops. @param {State} state */
export const isActive = (state) => state.name !== "idle" && state.name !== "error";
