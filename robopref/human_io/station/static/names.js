// What things are called on the screen.

export const MODES = {
  AUTONOMOUS: { name: "Policy drives", icon: "autonomous" },
  TAKEOVER: { name: "You drive", icon: "takeover" },
  HOLD: { name: "Hold: nobody drives", icon: "hold" },
  PAUSED: { name: "Paused", icon: "paused" },
  STOPPED: { name: "Episode over", icon: "stopped" },
  LOST: { name: "No connection", icon: "hold" },
  OVER: { name: "Session over", icon: "stopped" },
  WAITING: { name: "Waiting", icon: "waiting" },
};

export const CONTROLS = {
  take_over: "Take over",
  hand_back: "Hand back",
  success: "Success",
  failure: "Failure",
  discard: "Discard",
  next: "Next",
  pause: "Pause",
  stop: "Stop",
};

const KEYS = {
  ArrowUp: "↑",
  ArrowDown: "↓",
  ArrowLeft: "←",
  ArrowRight: "→",
  Escape: "Esc",
  Delete: "Del",
  ControlLeft: "left Ctrl",
  ControlRight: "right Ctrl",
  ShiftLeft: "left Shift",
  ShiftRight: "right Shift",
};

const PAD_BUTTONS = [
  "A", "B", "X", "Y", "LB", "RB", "LT", "RT", "Back", "Start", "left stick", "right stick",
  "D-pad ↑", "D-pad ↓", "D-pad ←", "D-pad →", "Guide",
]; // prettier-ignore
const PAD_AXES = ["left stick ↔", "left stick ↕", "right stick ↔", "right stick ↕", "left trigger", "right trigger"];

/** Keys are bound by their place, which a browser calls as on a US keyboard; show what is printed there if it tells. */
let layout = null;
navigator.keyboard?.getLayoutMap?.().then((map) => (layout = map), () => {});

export function inputName(source) {
  const indexed = /^(button|axis):(\d+)([+-]?)$/.exec(source);
  if (indexed) {
    const [, kind, index, half] = indexed;
    const known = (kind === "button" ? PAD_BUTTONS : PAD_AXES)[Number(index)];
    return known ? `${known}${half && ` ${half}`}` : `${kind} ${index}${half}`;
  }
  const printed = layout?.get(source);
  if (printed) return printed.toUpperCase();
  return KEYS[source] ?? source.replace(/^(Key|Digit)/, "");
}

export const isKey = (source) => !source.includes(":");

/** Directions and buttons of a game are pressed or not; dimensions of a robot are pushed this way or that. */
export const isGame = (rows) => rows.every((row) => row.kind === "control" || row.scale > 0);
