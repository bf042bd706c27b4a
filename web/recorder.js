/** Keeping the result: a picture, or a recording; both end as a download. */

/**
 * The first that the browser knows. Under load results become smaller while one records: avc3 says anew with each key frame how
 * large it is, avc1 only at the head of the file, and what follows a change is then lost.
 */
const TYPES = [
  "video/mp4;codecs=avc3.42E01E", "video/mp4;codecs=avc1.42E01E", "video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm",
];

/** @param {Blob} blob @param {string} name */
function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

/** A name that sorts by time. @param {string} ending */
const stampedName = (ending) => `streamgen-${new Date().toISOString().slice(0, 19).replaceAll(":", "-")}.${ending}`;

/** Saves the frame that is shown now as a PNG. @param {HTMLVideoElement} video @param {boolean} mirrored as it is shown */
export async function snapshot(video, mirrored) {
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width: video.videoWidth, height: video.videoHeight });
  const context = canvas.getContext("2d");
  if (!context || !video.videoWidth) return;
  if (mirrored) context.setTransform(-1, 0, 0, 1, canvas.width, 0);
  context.drawImage(video, 0, 0);
  /** @type {Blob | null} */
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (blob) download(blob, stampedName("png"));
}

/** Records a stream until stopped. One object a recording. */
export class Recording {
  /** @param {MediaStream} stream @param {() => void} ended called once, when the file was handed over */
  constructor(stream, ended) {
    const mimeType = TYPES.find((type) => MediaRecorder.isTypeSupported(type));
    this.recorder = new MediaRecorder(stream, { mimeType, videoBitsPerSecond: 4_000_000 });
    this.began = performance.now();
    /** @type {Blob[]} */
    const parts = [];
    this.recorder.addEventListener("dataavailable", ({ data }) => { if (data.size) parts.push(data); });
    this.recorder.addEventListener("stop", () => {
      const type = this.recorder.mimeType || "video/webm";
      if (parts.length) download(new Blob(parts, { type }), stampedName(type.includes("mp4") ? "mp4" : "webm"));
      ended();
    });
    this.recorder.start(1000);
  }

  get seconds() { return Math.floor((performance.now() - this.began) / 1000); }

  stop() { if (this.recorder.state !== "inactive") this.recorder.stop(); }
}

export const canRecord = () => typeof MediaRecorder !== "undefined";
