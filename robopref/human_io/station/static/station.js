// The operator's page: what the hands do goes to the station, what the station says goes on the screen.

import { ServerClock } from "./clock.js";
import { Line, enter } from "./connection.js";
import { Hands } from "./devices.js";
import { CONTROLS, inputName, isGame, isKey } from "./names.js";
import { RemapDialog } from "./remap.js";
import { StatusView } from "./status_view.js";
import { Camera } from "./video.js";

const ALIVE_MS = 1000;
const REFUSED_AFTER = 5; // failures in a row without ever getting in: the session is not known any more

/** Where nobody says which keys are bound, those that move the focus and those of the browser stay what they are. */
const mayDrive = (code) => code !== "Tab" && !/^F\d+$/.test(code);

const byId = (id) => document.getElementById(id);

class Station {
  #clock = new ServerClock();
  #view = new StatusView();
  #cameras = [];
  #line = null;
  #hands;
  #remap;
  #you = null;
  #lease = { epoch: -1, holder: 0, asking: [], connected: false };
  #seq = 0;
  #lastAlive = 0;
  #mapped = null; // keys that mean something; null where the station does not say
  #takeOverKey = null;
  #stops = new Set(); // keys and buttons that are bound to stop
  #stopping = new Set(); // ... and those of them that are down
  #over = false;

  constructor() {
    this.#hands = new Hands(
      (code) => this.#mapped?.has(code) ?? mayDrive(code),
      (input) => this.#stops.has(input),
      (state) => this.#handle(state),
    );
    this.#remap = new RemapDialog((message) => this.#line?.send(message) ?? false);
    this.#wireButtons();
  }

  start() {
    this.#line = new Line("/control", {
      opened: () => this.#connection("open", "Connected"),
      message: (text) => this.#receive(JSON.parse(text)),
      closed: (how, reason, failures) => this.#lost(how, reason, failures),
    });
    new Worker("/static/heartbeat.js").onmessage = () => this.#tick();
    this.#sendState();
  }

  /** For the tests and the benchmark: what a network does to a line, and how old the pictures were when shown. */
  get testing() {
    return { line: this.#line, clock: this.#clock, cameras: this.#cameras, lease: this.#lease };
  }

  get #drives() {
    return this.#you !== null && this.#lease.holder === this.#you;
  }

  #tick() {
    this.#hands.look(); // where no frames are drawn nobody else looks at the gamepad
    if (this.#drives) {
      this.#sendState();
    } else if (performance.now() - this.#lastAlive > ALIVE_MS) {
      this.#lastAlive = performance.now();
      this.#line.send({ type: "alive", sent_ms: this.#lastAlive });
    }
    this.#view.showAge(this.#cameras.length ? Math.max(...this.#cameras.map((camera) => camera.age)) : NaN);
    this.#sayAway();
    const device = this.#hands.device;
    const text = device ? `Keyboard and ${device}.` : "Keyboard. Press a button on a gamepad to use it.";
    if (byId("device").textContent !== text) byId("device").textContent = text;
  }

  #sendState() {
    if (!this.#drives || !this.#line) return;
    const numbered = { epoch: this.#lease.epoch, seq: ++this.#seq, sent_ms: performance.now() };
    const state = this.#hands.state();
    const keys = state.keys.filter((key) => !this.#stops.has(key));
    const buttons = state.buttons.filter((button) => !this.#stops.has(`button:${button}`));
    this.#line.send({ type: "state", ...numbered, ...state, keys, buttons });
  }

  /** Stop is told as the click that counts however late it comes, and so its keys and buttons are in no state. */
  #handle(state) {
    const down = [...state.keys, ...state.buttons.map((button) => `button:${button}`)].filter((it) => this.#stops.has(it));
    const pressed = down.some((input) => !this.#stopping.has(input));
    this.#stopping = new Set(down);
    if (pressed) this.#click("stop");
    this.#sendState();
  }

  #click(control) {
    if (!this.#drives) return;
    const numbered = { epoch: this.#lease.epoch, seq: ++this.#seq, sent_ms: performance.now() };
    const click = { type: "click", ...numbered, control };
    if (!this.#line.send(click, { late: control === "stop" })) this.#alarm("Not sent: there is no connection.");
  }

  #receive(message) {
    switch (message.type) {
      case "status":
        this.#clock.learn(message.clock);
        this.#view.show(message.status);
        break;
      case "welcome":
        this.#you = message.you;
        byId("remap").hidden = !message.remappable;
        this.#showCameras(message.cameras);
        break;
      case "lease":
        this.#showLease(message);
        break;
      case "mapping":
        this.#hands.deadZone = message.dead_zone;
        this.#showMapping(message.rows);
        break;
      case "remap_error":
        this.#remap.say(message.text);
        break;
      case "invitation":
        this.#showInvitation(message.address);
        break;
      case "notice":
        this.#notice(message.text);
        break;
    }
  }

  #showCameras(names) {
    if (this.#cameras.length) return; // connected anew
    this.#cameras = names.map((name, i) => new Camera(i, name, this.#clock));
    byId("cameras").prepend(...this.#cameras.map((camera) => camera.figure));
  }

  #showLease(lease) {
    if (lease.epoch !== this.#lease.epoch) this.#seq = 0;
    const drove = this.#drives;
    const watched = this.#lease.epoch >= 0 && this.#you !== null; // the page knew who had the controls
    this.#lease = lease;
    if (this.#drives && !drove) this.#hands.release();
    if (!this.#drives) this.#remap.close();
    const others = lease.visitors - 1;
    this.#connection("open", others > 0 ? `Connected, ${others} more` : "Connected");
    this.#view.setDriver(this.#drives);
    document.body.classList.toggle("read-only", !this.#drives);
    for (const button of document.querySelectorAll("#controls button, #remap, #invite, #release")) {
      button.disabled = !this.#drives;
    }
    const asks = lease.asking.includes(this.#you);
    byId("ask").disabled = false;
    byId("watching").hidden = this.#drives || this.#you === null;
    byId("watching-text").textContent = lease.holder
      ? "Read only: you are watching; another page has the controls."
      : "Read only: nobody has the controls.";
    byId("ask").textContent = asks ? "Asked. Withdraw" : lease.holder ? "Ask for the controls" : "Take the controls";
    this.#showAsked();
    if (this.#drives) this.#sendState();
    if (drove !== this.#drives && watched) {
      this.#notice(this.#drives ? "You have the controls." : "You no longer have the controls.");
    }
  }

  #showAsked() {
    const asking = this.#drives ? this.#lease.asking : [];
    const banner = byId("asked");
    const key = asking.join();
    if (banner.dataset.key === key) return;
    banner.dataset.key = key;
    banner.hidden = asking.length === 0;
    banner.replaceChildren(
      ...asking.map((visitor) => {
        const row = document.createElement("p");
        row.append(`Visitor ${visitor} asks for the controls. `);
        for (const [type, text] of [["grant", "Hand over"], ["refuse", "Keep"]]) {
          const button = document.createElement("button");
          button.type = "button";
          button.className = "small";
          button.textContent = text;
          button.addEventListener("click", () => this.#line.send({ type, visitor }));
          row.append(button, " ");
        }
        return row;
      }),
    );
  }

  #showMapping(rows) {
    this.#mapped = new Set(rows.map((row) => row.input).filter(isKey));
    this.#takeOverKey = rows.find((row) => row.name === "take_over" && isKey(row.input))?.input ?? null;
    this.#stops = new Set(rows.filter((row) => row.name === "stop").map((row) => row.input));
    this.#remap.show(rows);
    const inputs = (name) => rows.filter((row) => row.name === name).map((row) => row.input);
    for (const button of document.querySelectorAll("#controls button")) {
      const keys = inputs(button.dataset.control).filter(isKey);
      button.querySelector("kbd").textContent = keys.map(inputName).join(" ");
      button.setAttribute("aria-keyshortcuts", keys.map((key) => key.replace(/^(Key|Digit)/, "")).join(" "));
    }
    this.#showKeyHelp(rows);
  }

  #showKeyHelp(rows) {
    const groups = new Map();
    for (const row of rows) {
      const name = CONTROLS[row.name] ?? row.name;
      groups.set(name, [...(groups.get(name) ?? []), row]);
    }
    byId("keys").replaceChildren(
      ...[...groups].map(([name, bound]) => {
        const line = document.createElement("p");
        const label = document.createElement("span");
        label.textContent = name;
        const keys = document.createElement("span");
        for (const row of bound) {
          const key = document.createElement("kbd");
          const sign = row.kind === "action" && isKey(row.input) && !isGame(rows) ? (row.scale < 0 ? "−" : "+") : "";
          key.textContent = `${sign}${sign && " "}${inputName(row.input)}`;
          key.classList.toggle("pad", !isKey(row.input));
          keys.append(key, " ");
        }
        line.append(label, keys);
        return line;
      }),
    );
  }

  #showInvitation(address) {
    const line = byId("invitation");
    line.hidden = false;
    const code = document.createElement("code");
    code.textContent = address;
    line.replaceChildren("For one more visitor, once: ", code);
  }

  #connection(state, text) {
    byId("connection").dataset.state = state;
    byId("connection").textContent = text;
    byId("connection").title = state === "open" ? "This page, and how many others are open" : "";
    if (state === "open") this.#alarm("");
  }

  #lost(how, reason, failures) {
    this.#you = null;
    this.#hands.release();
    if (how === "over" || how === "elsewhere") {
      this.#over = true;
      this.#connection("over", how === "over" ? "Session over" : "Opened elsewhere");
      this.#view.showOver(how === "over" ? "you can close this page" : "it goes on in another tab");
      this.#alarm("");
      this.#disable();
      return;
    }
    this.#disable();
    const refused = failures >= REFUSED_AFTER;
    this.#connection("lost", "No connection");
    this.#view.showLost("the robot holds");
    this.#alarm(
      refused
        ? "The station does not answer, or does not know this page any more: open the newest address that it printed."
        : `Connection lost${reason ? ` (${reason})` : ""}: connecting again. The robot holds.`,
    );
  }

  /** What cannot be sent cannot be pressed. */
  #disable() {
    for (const button of document.querySelectorAll("#side button, #ask")) button.disabled = true;
  }

  #sayAway() {
    if (this.#over) return;
    if (this.#drives && this.#hands.away) this.#notice(`You do not drive: ${this.#hands.away}.`, true);
    else if (byId("notice").dataset.away === "true") this.#notice("");
  }

  #alarm(text) {
    if (byId("alarm").textContent !== text) byId("alarm").textContent = text;
    byId("alarm").hidden = text === "";
  }

  #notice(text, away = false) {
    const line = byId("notice");
    if (line.textContent === text) return;
    line.textContent = text;
    line.hidden = text === "";
    line.dataset.away = String(away);
    clearTimeout(this.noticeTimer);
    if (text && !away) this.noticeTimer = setTimeout(() => this.#notice(""), 6000);
  }

  #wireButtons() {
    for (const button of document.querySelectorAll("#controls button")) {
      const control = button.dataset.control;
      button.disabled = true;
      if (control === "take_over") this.#wireTakeOver(button);
      else button.addEventListener("click", () => this.#click(control));
      // After a click with the mouse the keys are the robot's again: Space would press the button a second time.
      button.addEventListener("click", (event) => event.detail > 0 && button.blur());
    }
    byId("ask").addEventListener("click", () => {
      this.#line.send({ type: this.#lease.asking.includes(this.#you) ? "withdraw" : "ask" });
    });
    byId("remap").addEventListener("click", () => {
      this.#remap.open();
      this.#hands.release();
    });
    byId("remap-stop").addEventListener("click", () => this.#click("stop"));
    byId("invite").addEventListener("click", () => this.#line.send({ type: "invite" }));
    byId("release").addEventListener("click", () => this.#line.send({ type: "release" }));
  }

  /** With hold-to-run the button is a dead man's switch: pressed, it is the key that is bound to it. */
  #wireTakeOver(button) {
    const holds = () => this.#view.status?.hold_to_run && this.#takeOverKey !== null;
    const hold = (down) => {
      if (this.#takeOverKey !== null) this.#hands.hold(this.#takeOverKey, down);
    };
    button.addEventListener("pointerdown", (event) => {
      if (!holds() || event.button !== 0) return;
      button.setPointerCapture(event.pointerId);
      hold(true);
    });
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) {
      button.addEventListener(kind, () => hold(false));
    }
    button.addEventListener("keydown", (event) => {
      if (holds() && ["Space", "Enter"].includes(event.code)) {
        event.preventDefault();
        hold(true);
      }
    });
    button.addEventListener("keyup", (event) => {
      if (["Space", "Enter"].includes(event.code)) hold(false);
    });
    button.addEventListener("click", () => !holds() && this.#click("take_over"));
  }
}

const station = new Station();
const problem = await enter().catch(() => "the station does not answer");
if (problem) {
  byId("connection").dataset.state = "lost";
  byId("connection").textContent = "Not admitted";
  byId("alarm").hidden = false;
  byId("alarm").textContent = `No entry: ${problem}.`;
} else {
  station.start();
  window.station = station;
}
