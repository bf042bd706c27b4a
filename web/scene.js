/** The built-in test scene: hills under a wandering sun, with things that move at different speeds. */

/** @typedef {CanvasRenderingContext2D} Context */

/** @type {{colour: string, base: number, height: number, waves: number, speed: number}[]} far to near, heights as shares */
const HILLS = [
  { colour: "#5f7f9e", base: 0.62, height: 0.1, waves: 3.1, speed: 0.05 },
  { colour: "#3f6a6b", base: 0.72, height: 0.08, waves: 4.3, speed: 0.12 },
  { colour: "#2c4a3a", base: 0.84, height: 0.06, waves: 6.1, speed: 0.3 },
];

/** @param {Context} context @param {number} t seconds */
export function drawScene(context, t) {
  const { width: w, height: h } = context.canvas;
  drawSky(context, w, h, t);
  drawBirds(context, w, h, t);
  HILLS.forEach((hill) => drawHill(context, w, h, t, hill));
  drawBall(context, w, h, t);
}

/** @param {Context} context @param {number} w @param {number} h @param {number} t */
function drawSky(context, w, h, t) {
  const sky = context.createLinearGradient(0, 0, 0, h * 0.8);
  sky.addColorStop(0, "#37598c");
  sky.addColorStop(0.6, "#c98f86");
  sky.addColorStop(1, "#f4c98a");
  context.fillStyle = sky;
  context.fillRect(0, 0, w, h);
  const [x, y] = [w * (0.5 + 0.34 * Math.sin(t * 0.4)), h * (0.36 - 0.14 * Math.cos(t * 0.8))];
  const glow = context.createRadialGradient(x, y, h * 0.05, x, y, h * 0.4);
  glow.addColorStop(0, "rgba(255, 240, 200, 0.9)");
  glow.addColorStop(1, "rgba(255, 220, 160, 0)");
  context.fillStyle = glow;
  context.fillRect(0, 0, w, h);
  disc(context, x, y, h * 0.09, "#fff3cf");
}

/** @param {Context} context @param {number} w @param {number} h @param {number} t @param {typeof HILLS[number]} hill */
function drawHill(context, w, h, t, { colour, base, height, waves, speed }) {
  context.fillStyle = colour;
  context.beginPath();
  context.moveTo(0, h);
  for (let x = 0; x <= w; x += 8) {
    const phase = (x / w) * waves + t * speed * waves;
    context.lineTo(x, h * (base - height * (Math.sin(phase) + 0.4 * Math.sin(2.7 * phase + 1))));
  }
  context.lineTo(w, h);
  context.fill();
}

/** @param {Context} context @param {number} w @param {number} h @param {number} t */
function drawBirds(context, w, h, t) {
  context.strokeStyle = "#22304a";
  context.lineWidth = h * 0.012;
  context.lineCap = "round";
  for (let i = 0; i < 4; i++) {
    const x = (((t * 0.07 + i * 0.29) % 1.2) - 0.1) * w;
    const y = h * (0.16 + 0.06 * i + 0.03 * Math.sin(t * 1.3 + i));
    const [span, beat] = [h * 0.05, h * 0.03 * Math.sin(t * 7 + i)];
    context.beginPath();
    context.moveTo(x - span, y - beat);
    context.quadraticCurveTo(x - span * 0.3, y - span * 0.3, x, y);
    context.quadraticCurveTo(x + span * 0.3, y - span * 0.3, x + span, y - beat);
    context.stroke();
  }
}

/** @param {Context} context @param {number} w @param {number} h @param {number} t */
function drawBall(context, w, h, t) {
  const x = w * (0.5 + 0.38 * Math.sin(t * 0.9));
  const y = h * (0.84 - 0.42 * Math.abs(Math.sin(t * 2.2)));
  const r = h * 0.1;
  disc(context, x, y, r, "#e4572e");
  context.save();
  context.translate(x, y);
  context.rotate(t * 2.4);
  context.fillStyle = "#fbe9d0";
  context.fillRect(-r, -r * 0.16, 2 * r, r * 0.32);
  context.restore();
  context.lineWidth = h * 0.008;
  context.strokeStyle = "#7d2b14";
  context.beginPath();
  context.arc(x, y, r, 0, 2 * Math.PI);
  context.stroke();
}

/** @param {Context} context @param {number} x @param {number} y @param {number} r @param {string} colour */
function disc(context, x, y, r, colour) {
  context.fillStyle = colour;
  context.beginPath();
  context.arc(x, y, r, 0, 2 * Math.PI);
  context.fill();
}
