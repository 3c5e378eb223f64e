// The dialog in which keys, buttons and axes get other meanings.

import { Gamepads } from "./devices.js";
import { CONTROLS, inputName, isGame, isKey } from "./names.js";

const PUSHED = 0.7;

const byId = (id) => document.getElementById(id);

export class RemapDialog {
  #dialog = byId("remap-dialog");
  #rows = [];
  #send;
  #waiting = null; // the row whose new input is awaited
  #gamepads = new Gamepads();
  #atRest = null;

  /** `send(message)` passes a wish on to the station. */
  constructor(send) {
    this.#send = send;
    byId("remap-close").addEventListener("click", () => this.#dialog.close());
    byId("remap-defaults").addEventListener("click", () => this.#ask({ type: "defaults" }));
    this.#dialog.addEventListener("close", () => {
      this.#stopWaiting();
      byId("remap").blur(); // which gets the focus back, and would take Space for itself: it is to drive again
    });
    this.#dialog.addEventListener("keydown", (event) => this.#key(event), { capture: true });
  }

  open() {
    this.say("");
    this.#dialog.showModal();
  }

  close() {
    this.#dialog.close();
  }

  say(text) {
    byId("remap-message").textContent = text;
  }

  show(rows) {
    this.#rows = rows;
    this.#stopWaiting();
    const focused = document.activeElement?.dataset?.row;
    byId("remap-rows").replaceChildren(...rows.map((row, i) => this.#row(row, i)));
    if (focused !== undefined) byId("remap-rows").querySelector(`[data-row="${focused}"]`)?.focus();
  }

  #row(row, i) {
    const line = document.createElement("tr");
    const name = document.createElement("th");
    name.scope = "row";
    const sign = row.kind === "action" && isKey(row.input) && !isGame(this.#rows) ? (row.scale < 0 ? " −" : " +") : "";
    name.textContent = (CONTROLS[row.name] ?? row.name) + sign;
    const input = document.createElement("td");
    const key = document.createElement("kbd");
    key.textContent = inputName(row.input);
    input.append(key, row.scale < 0 && row.input.startsWith("axis:") ? " inverted" : "");
    const buttons = document.createElement("td");
    const what = `${name.textContent}, ${key.textContent}`;
    buttons.append(this.#button("Change", `Change ${what}`, `${i}c`, (event) => this.#await(row, event.currentTarget)));
    if (row.kind === "action") {
      buttons.append(this.#button("Invert", `Invert ${row.name}`, `${i}i`, () => this.#ask({ type: "invert", name: row.name })));
    }
    buttons.append(
      this.#button("Add", `Add an input for ${name.textContent}`, `${i}a`, (event) =>
        this.#await({ ...row, input: "" }, event.currentTarget),
      ),
      this.#button("Remove", `Remove ${what}`, `${i}r`, () =>
        this.#ask({ type: "rebind", kind: row.kind, name: row.name, old: row.input, new: "" }),
      ),
    );
    line.append(name, input, buttons);
    return line;
  }

  #button(text, label, id, clicked) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "small";
    button.textContent = text;
    button.setAttribute("aria-label", label);
    button.dataset.row = id;
    button.addEventListener("click", clicked);
    return button;
  }

  #await(row, button) {
    this.#stopWaiting();
    this.#waiting = { row, button };
    this.#atRest = this.#gamepads.read();
    button.classList.add("waiting");
    this.say(`Press a key or button, or push a stick, for ${CONTROLS[row.name] ?? row.name}. Tab leaves it as it is.`);
    const poll = () => {
      if (!this.#waiting) return;
      this.#pad();
      requestAnimationFrame(poll);
    };
    requestAnimationFrame(poll);
  }

  #stopWaiting() {
    this.#waiting?.button.classList.remove("waiting");
    this.#waiting = null;
  }

  #key(event) {
    if (!this.#waiting || event.repeat) return;
    if (event.code === "Tab") {
      this.#stopWaiting();
      this.say("");
      return;
    }
    event.preventDefault(); // also Escape, which would close the dialog, and Enter, which would press the button
    event.stopPropagation();
    this.#bind(event.code);
  }

  /** A button that went down, or an axis that was pushed, since the waiting began. */
  #pad() {
    const pad = this.#gamepads.read();
    if (!pad) return;
    const rest = this.#atRest ?? { axes: [], buttons: [] };
    const button = pad.buttons.find((index) => !rest.buttons.includes(index));
    if (button !== undefined) this.#bind(`button:${button}`);
    const axis = pad.axes.findIndex((value, i) => Math.abs(value - (rest.axes[i] ?? 0)) > PUSHED);
    if (button === undefined && axis >= 0) {
      const whole = this.#waiting?.row.kind === "action" && this.#waiting.row.input.startsWith("axis:");
      this.#bind(whole && !/[+-]$/.test(this.#waiting.row.input) ? `axis:${axis}` : `axis:${axis}${pad.axes[axis] > 0 ? "+" : "-"}`);
    }
  }

  #bind(input) {
    const { row } = this.#waiting;
    this.#stopWaiting();
    this.#ask({ type: "rebind", kind: row.kind, name: row.name, old: row.input, new: input });
  }

  #ask(message) {
    this.say("");
    if (!this.#send(message)) this.say("There is no connection to the station.");
  }
}
