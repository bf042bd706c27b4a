/** Where the picture comes from: a camera, a video file, or a drawn scene. Each is a MediaStream that can be stopped. */

import { drawScene } from "./scene.js";

/**
 * @typedef {"camera" | "file" | "pattern"} Kind
 * @typedef {{width: number, height: number, fps: number}} Wish what the picture should be like
 * @typedef {{kind: Kind, stream: MediaStream, label: string, facesUser: boolean, stop: () => void}} Source
 */

/** A source that cannot be had; `code` has a text in texts.js. */
export class SourceError extends Error {
  /** @param {string} code @param {string} message */
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

/**
 * The size that a picture of this shape gets to have about as many pixels as was wished for; even, as encoders need it.
 * @param {{width: number, height: number}} shape @param {Wish} wish
 */
export function sizeLike({ width, height }, wish) {
  const scale = Math.sqrt((wish.width * wish.height) / (width * height));
  const even = (/** @type {number} */ side) => Math.max(2, 2 * Math.round((side * scale) / 2));
  return { width: even(width), height: even(height) };
}

/**
 * Asks for a camera. The wished size is a hint at the resolution: the picture comes in the camera's own shape, uncropped.
 * @param {MediaDevices | undefined} devices absent where the page did not come over https or from localhost
 * @param {Wish} wish @param {string} [deviceId] @returns {Promise<Source>}
 * @throws {DOMException | SourceError} as getUserMedia does
 */
export async function openCamera(devices, { width, height, fps }, deviceId) {
  if (!devices?.getUserMedia) throw new SourceError("insecure-origin", "no camera access on this origin");
  const stream = await devices.getUserMedia({
    audio: false,
    video: {
      width: { ideal: width },
      height: { ideal: height },
      // @ts-ignore the compiler does not know it; without it Chromium cuts the picture to exactly the wished shape
      resizeMode: "none",
      frameRate: { ideal: Math.min(30, Math.max(16, fps)), max: 30 },
      ...(deviceId ? { deviceId: { exact: deviceId } } : { facingMode: "user" }),
    },
  });
  const [track] = stream.getVideoTracks();
  track.contentHint = "motion";
  const facesUser = track.getSettings().facingMode !== "environment";
  return { kind: "camera", stream, label: track.label, facesUser, stop: () => track.stop() };
}

/** Cameras that can be chosen. They have names only once the camera was allowed. @param {MediaDevices} [devices] */
export async function listCameras(devices) {
  const all = (await devices?.enumerateDevices?.()) ?? [];
  return all.filter(({ kind, deviceId }) => kind === "videoinput" && deviceId);
}

/**
 * Plays a file from disk in a loop, in its own shape. It never leaves the browser as a file.
 * @param {File} file @param {Wish} wish @returns {Promise<Source>}
 * @throws {SourceError} bad-file
 */
export async function openFile(file, wish) {
  const video = document.createElement("video");
  const url = URL.createObjectURL(file);
  Object.assign(video, { src: url, loop: true, muted: true, playsInline: true });
  try {
    await video.play();
    if (!video.videoWidth) throw new Error("no picture");
  } catch {
    URL.revokeObjectURL(url);
    throw new SourceError("bad-file", `${file.name} does not play`);
  }
  const size = sizeLike({ width: video.videoWidth, height: video.videoHeight }, wish);
  const draw = (/** @type {CanvasRenderingContext2D} */ context) => context.drawImage(video, 0, 0, size.width, size.height);
  const painted = paint("file", file.name, { ...wish, ...size }, draw);
  return { ...painted, stop: () => {
    painted.stop();
    video.pause();
    video.removeAttribute("src");
    URL.revokeObjectURL(url);
  } };
}

/** The built-in moving scene. @param {Wish} wish @returns {Source} */
export function openPattern(wish) {
  return paint("pattern", "Test scene", wish, (context, seconds) => drawScene(context, seconds));
}

/**
 * @param {Kind} kind @param {string} label @param {Wish} wish
 * @param {(context: CanvasRenderingContext2D, seconds: number) => void} draw @returns {Source}
 */
function paint(kind, label, { width, height, fps }, draw) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { alpha: false });
  if (!context) throw new SourceError("error", "this browser cannot draw");
  const began = performance.now();
  const frame = () => draw(context, (performance.now() - began) / 1000);
  frame();
  const stream = canvas.captureStream();
  const timer = setInterval(frame, 1000 / Math.min(30, Math.max(16, fps)));
  return { kind, stream, label, facesUser: false, stop: () => {
    clearInterval(timer);
    stream.getTracks().forEach((track) => track.stop());
  } };
}
