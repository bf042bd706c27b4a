/** The viewer's page: one stream, full-bleed, nothing else. A link to share, and a browser source for OBS. */

import { WhepViewer } from "./whep.js";

const video = /** @type {HTMLVideoElement} */ (document.getElementById("video"));
const note = /** @type {HTMLElement} */ (document.getElementById("note"));

/** @type {Record<import("./whep.js").WatchState, string>} */
const TEXTS = {
  connecting: "Connecting …",
  live: "",
  waiting: "Waiting for the picture …",
  ended: "This stream has ended.",
  closed: "",
};

/** `/base/watch/{stream}` to `/base/whep/{stream}`. */
function address() {
  const [, base, stream] = location.pathname.match(/^(.*)\/watch\/([^/]+)\/?$/) ?? ["", "", ""];
  return new URL(`${base}/whep/${stream}`, location.origin);
}

/** A token may come with a link to a name (`#token=...`, which never reaches the server's logs). */
const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? undefined;
const viewer = new WhepViewer({ url: address(), token });

viewer.addEventListener("state", (event) => {
  const { state, reason } = /** @type {CustomEvent<{state: import("./whep.js").WatchState, reason: string}>} */ (event).detail;
  document.body.dataset.state = state;
  note.textContent = TEXTS[state];
  note.title = reason;
});
video.srcObject = viewer.stream;
document.addEventListener("click", () => { video.muted = !video.muted; });
addEventListener("pagehide", () => viewer.close());
void viewer.watch();
