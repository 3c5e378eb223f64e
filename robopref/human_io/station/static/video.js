// The cameras: the newest picture, drawn as soon as it is decoded, and acknowledged so that the next one comes.

import { Line } from "./connection.js";

const HEADER_BYTES = 12;
const KEPT_AGES = 50_000;

export class Camera {
  #canvas = document.createElement("canvas");
  #line;
  #clock;
  #drawn = 0; // number of the picture on the screen
  capturedMs = NaN;
  ages = []; // of the pictures shown since someone last took them, for measurements

  constructor(index, name, clock) {
    this.#clock = clock;
    this.figure = document.createElement("figure");
    const caption = document.createElement("figcaption");
    caption.textContent = name;
    this.#canvas.setAttribute("role", "img");
    this.#canvas.setAttribute("aria-label", `Camera ${name}`);
    this.#canvas.width = this.#canvas.height = 480;
    this.figure.append(this.#canvas, caption);
    this.#line = new Line(`/video/${index}`, { message: (data) => this.#receive(data) });
  }

  /** How old the picture on the screen is, in milliseconds; NaN without one. */
  get age() {
    return this.#clock.since(this.capturedMs);
  }

  /** Breaks the line, as a network does. For tests. */
  cut() {
    this.#line.cut();
  }

  async #receive(data) {
    const header = new DataView(data, 0, HEADER_BYTES);
    const number = header.getUint32(0, true);
    const captured = header.getFloat64(4, true);
    let bitmap = null;
    try {
      bitmap = await createImageBitmap(new Blob([new Uint8Array(data, HEADER_BYTES)], { type: "image/jpeg" }));
      if (number > this.#drawn) this.#draw(bitmap, number, captured);
    } finally {
      bitmap?.close();
      const age = this.#clock.known ? this.#clock.since(captured) : -1;
      this.#line.send({ type: "shown", frame: number, age_ms: age });
    }
  }

  #draw(bitmap, number, captured) {
    if (this.#canvas.width !== bitmap.width || this.#canvas.height !== bitmap.height) {
      this.#canvas.width = bitmap.width;
      this.#canvas.height = bitmap.height;
    }
    this.#canvas.getContext("2d", { alpha: false }).drawImage(bitmap, 0, 0);
    this.#drawn = number;
    this.capturedMs = captured;
    // What is drawn now is on the screen with the browser's next frame.
    requestAnimationFrame(() => {
      if (this.ages.length >= KEPT_AGES) this.ages.length = 0;
      if (this.#clock.known) this.ages.push(this.#clock.since(captured));
    });
  }
}
