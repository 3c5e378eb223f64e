// Keyboard and gamepad: what is held down now. Whenever in doubt, nothing is.

const RESTING = Object.freeze({ keys: [], axes: [], buttons: [], device: "", away: "" });
const DIALOG = "a dialog is open";
const UNPLUGGED_MS = 300; // for which a pad that was pulled out counts as an absence
const STANDARD_TRIGGERS = [6, 7]; // analog buttons of a standard gamepad; they follow its four stick axes as axes
const MAX_AXES = 32;
const MAX_BUTTONS = 64;
const AXES_MS = 16; // a stick says something new at every frame of a fast display; the station takes 150 messages a second

/** Keys of the element that has the focus are its own: Space and Enter press a button, letters go into a field. */
function belongsToElement(event) {
  const element = event.target;
  if (!(element instanceof Element)) return false;
  if (element.closest("input, select, textarea")) return true;
  return element.closest("button, a[href], summary") !== null && ["Space", "Enter", "NumpadEnter"].includes(event.code);
}

export class Keyboard {
  #held = new Set();
  #isMapped;
  #isStop;
  #changed;

  /**
   * `isMapped(code)` says whether a key means something, and `isStop(code)` whether that is Stop; `changed()` is called
   * whenever what is held changes.
   */
  constructor(isMapped, isStop, changed) {
    this.#isMapped = isMapped;
    this.#isStop = isStop;
    this.#changed = changed;
    window.addEventListener("keydown", (event) => this.#down(event));
    window.addEventListener("keyup", (event) => this.#up(event));
  }

  get held() {
    return [...this.#held];
  }

  clear() {
    if (this.#held.size === 0) return;
    this.#held.clear();
    this.#changed();
  }

  #down(event) {
    if (event.isComposing || belongsToElement(event)) return;
    // A dialog lets Stop through; but Escape, which may mean it, closes the dialog first.
    if (document.querySelector("dialog[open]") && (event.code === "Escape" || !this.#isStop(event.code))) return;
    if (!this.#isMapped(event.code) || this.#isShortcut(event)) return;
    event.preventDefault(); // arrows would scroll the picture away
    if (event.repeat || this.#held.has(event.code)) return;
    this.#held.add(event.code);
    this.#changed(event);
  }

  #up(event) {
    // A Mac does not report keys that are released while its command key is held.
    if (event.key === "Meta") this.clear();
    if (this.#held.delete(event.code)) {
      event.preventDefault();
      this.#changed(event);
    }
  }

  /** Ctrl+R and the like are the browser's, unless that modifier itself drives. */
  #isShortcut(event) {
    const held = (...codes) => codes.some((code) => code === event.code || this.#held.has(code));
    return (
      (event.ctrlKey && !held("ControlLeft", "ControlRight")) ||
      (event.altKey && !held("AltLeft", "AltRight")) ||
      (event.metaKey && !held("MetaLeft", "MetaRight"))
    );
  }
}

/** The gamepad that was touched last, read whenever asked. */
export class Gamepads {
  #index = null;
  #masks = new Map(); // of each pad what was held when nobody listened
  deadZone = 0.1;

  /** The state of the pad now, or null where there is none. */
  read() {
    const pad = this.#choose((candidate) => candidate.buttons.some((button) => button.pressed));
    return pad ? stateOf(pad) : null;
  }

  /**
   * As `read`, but without what was held already when a pad came or after `forget`: a button counts once it was seen
   * released, an axis once it was seen at rest.
   */
  readAnew() {
    const states = new Map(present().map((pad) => [pad.index, stateOf(pad)]));
    for (const index of this.#masks.keys()) if (!states.has(index)) this.#masks.delete(index);
    for (const [index, state] of states) {
      const moved = state.axes.flatMap((value, i) => (Math.abs(value) > this.deadZone ? [i] : []));
      const mask = this.#masks.get(index) ?? { buttons: state.buttons, axes: moved };
      mask.buttons = mask.buttons.filter((button) => state.buttons.includes(button));
      mask.axes = mask.axes.filter((i) => moved.includes(i));
      this.#masks.set(index, mask);
      state.buttons = state.buttons.filter((button) => !mask.buttons.includes(button));
      state.axes = state.axes.map((value, i) => (mask.axes.includes(i) ? 0 : value));
    }
    const pad = this.#choose((candidate) => states.get(candidate.index).buttons.length > 0);
    return pad ? states.get(pad.index) : null;
  }

  /** What the pad that is read calls itself, empty without one. */
  get name() {
    const pads = present();
    const pad = pads.find((candidate) => candidate.index === this.#index) ?? pads[0];
    return pad ? nameOf(pad) : "";
  }

  /** Whatever is held now, and until the next `readAnew`, must be let go before it counts. */
  forget() {
    this.#masks.clear();
  }

  #choose(isTouched) {
    const pads = present();
    const touched = pads.find(isTouched);
    let pad = pads.find((candidate) => candidate.index === this.#index);
    if (touched && !(pad && isTouched(pad))) pad = touched;
    pad ??= pads[0];
    this.#index = pad?.index ?? null;
    return pad;
  }
}

const present = () => [...navigator.getGamepads()].filter((pad) => pad?.connected);

function stateOf(pad) {
  const standard = pad.mapping === "standard";
  const triggers = standard ? STANDARD_TRIGGERS.map((i) => pad.buttons[i]?.value ?? 0) : [];
  const sticks = standard ? pad.axes.slice(0, 4) : pad.axes;
  const axes = [...sticks, ...triggers].slice(0, MAX_AXES);
  return {
    axes: axes.map((value) => Math.round(Math.max(-1, Math.min(1, Number(value) || 0)) * 1000) / 1000),
    buttons: pad.buttons.flatMap((button, i) => (button.pressed && i < MAX_BUTTONS ? [i] : [])),
    device: nameOf(pad),
  };
}

function nameOf(pad) {
  return [...pad.id].filter((letter) => letter >= " " && letter <= "~").join("").slice(0, 100) || "gamepad";
}

/** Everything that the operator's hands are doing, in one state, and none of it when the page is not in front. */
export class Hands {
  #keyboard;
  #gamepads = new Gamepads();
  #padsInDialog = new Gamepads(); // which are heard for Stop alone
  #isStop;
  #extraKeys = new Set(); // keys that stand for buttons held on the screen
  #changed;
  #last = JSON.stringify(RESTING);
  #lastPressed = pressedIn(RESTING);
  #lastMs = -Infinity;
  #later = null; // the timer of an axis that moved too soon after the last change
  #unplugged = false;
  away = document.hasFocus() ? "" : "this window is not in front";

  /** `isStop(input)` says whether a key, or a button as `button:8`, means Stop; see `Keyboard` for the others. */
  constructor(isMapped, isStop, changed) {
    this.#isStop = isStop;
    this.#changed = changed;
    this.#keyboard = new Keyboard(isMapped, isStop, (event) => this.#maybe(event));
    const leave = (why) => () => this.#leave(why);
    window.addEventListener("blur", leave("this window is not in front"));
    window.addEventListener("pagehide", leave("this page was left"));
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) this.#leave("this tab is hidden");
      else this.#comeBack();
    });
    window.addEventListener("focus", () => this.#comeBack());
    window.addEventListener("gamepaddisconnected", () => this.#unplug());
    window.addEventListener("gamepadconnected", () => this.#maybe());
    const poll = () => {
      this.#maybe();
      requestAnimationFrame(poll);
    };
    requestAnimationFrame(poll);
  }

  /** What is held now; while a dialog is open, what of it means Stop. */
  state() {
    const away = this.#whyAway();
    // What is pressed as a new input, or was held before the dialog opened, is no Stop until it is pressed anew.
    if (away !== DIALOG || document.querySelector("dialog[open] .waiting")) this.#padsInDialog.forget();
    if (away) {
      this.#gamepads.forget();
      return { ...RESTING, ...(away === DIALOG ? this.#stopsInDialog() : {}), away };
    }
    const pad = this.#gamepads.readAnew();
    return { ...RESTING, ...pad, keys: [...new Set([...this.#keyboard.held, ...this.#extraKeys])] };
  }

  /** Name of the gamepad, empty without one. */
  get device() {
    return this.#gamepads.name;
  }

  /** How far an axis may be from 0 and is yet at rest. */
  set deadZone(value) {
    this.#gamepads.deadZone = value;
  }

  hold(code, down) {
    if (down) this.#extraKeys.add(code);
    else this.#extraKeys.delete(code);
    this.#maybe();
  }

  /** Tell what has changed. */
  look() {
    this.#maybe();
  }

  /** Let go of everything. */
  release() {
    this.#extraKeys.clear();
    this.#gamepads.forget();
    this.#keyboard.clear();
    this.#maybe();
  }

  #stopsInDialog() {
    const buttons = this.#padsInDialog.readAnew()?.buttons ?? [];
    return {
      keys: this.#keyboard.held.filter((key) => this.#isStop(key)),
      buttons: buttons.filter((button) => this.#isStop(`button:${button}`)),
    };
  }

  #leave(why) {
    this.away = why;
    this.release();
    this.#maybe();
  }

  #unplug() {
    this.#unplugged = true;
    setTimeout(() => {
      this.#unplugged = false;
      this.#maybe();
    }, UNPLUGGED_MS);
    this.#maybe();
  }

  #whyAway() {
    if (this.away) return this.away;
    if (document.hidden) return "this tab is hidden";
    if (document.querySelector("dialog[open]")) return DIALOG;
    return this.#unplugged ? "the gamepad was unplugged" : "";
  }

  #comeBack() {
    if (this.away) this.#gamepads.forget(); // what was pressed since somebody last looked
    if (!document.hidden) this.away = "";
    this.#maybe();
  }

  #maybe(event) {
    const state = this.state();
    const text = JSON.stringify(state);
    if (text === this.#last) return;
    const pressed = pressedIn(state);
    const now = performance.now();
    if (pressed === this.#lastPressed && now - this.#lastMs < AXES_MS) {
      this.#later ??= setTimeout(() => {
        this.#later = null;
        this.#maybe();
      }, AXES_MS - (now - this.#lastMs));
      return;
    }
    this.#last = text;
    this.#lastPressed = pressed;
    this.#lastMs = now;
    this.#changed(state, event);
  }
}

/** All but where the axes are: what is told at once. */
function pressedIn(state) {
  return JSON.stringify({ ...state, axes: state.axes.length });
}
