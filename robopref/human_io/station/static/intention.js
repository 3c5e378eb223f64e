// What the policy wants, drawn: a bar for each dimension, an arrow on the picture, or the name of a discrete action.

const DIRECTIONS = { UP: [0, -1], DOWN: [0, 1], LEFT: [-1, 0], RIGHT: [1, 0] };
const CLEAR = 0.04; // shorter than that, an arrow has no direction worth drawing
const ARROW = 78; // its length in the drawing's units at full deflection

export class Intention {
  #bars;
  #rows = [];
  #labels = "";
  #arrow;

  constructor(bars, picture) {
    this.#bars = bars;
    this.#arrow = new Arrow();
    picture.append(this.#arrow.element);
  }

  show(status) {
    const shape = JSON.stringify([status.action_labels, status.discrete]);
    if (shape !== this.#labels) {
      this.#labels = shape;
      this.#rows = status.action_labels.map((label) => (status.discrete ? choiceRow(label) : barRow(label)));
      this.#bars.replaceChildren(...this.#rows.map((row) => row.element));
      this.#bars.classList.toggle("choices", status.discrete);
    }
    const { proposed_action: proposed, executed_action: executed } = status;
    this.#rows.forEach((row, i) => {
      if (status.discrete) row.show(proposed[0] === i, executed[0] === i);
      else row.show(proposed[i] ?? 0, executed[i] ?? 0);
    });
    this.#arrow.show(arrowOf(status, proposed), arrowOf(status, executed));
  }
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function barRow(label) {
  const row = element("div", "bar-row");
  const [policy, executed] = [element("span", "bar policy"), element("span", "bar executed")];
  const track = element("span", "track");
  track.append(policy, executed);
  const number = element("span", "number");
  row.append(element("span", "label", label), track, number);
  return {
    element: row,
    show(proposed, done) {
      place(policy, proposed);
      place(executed, done);
      number.textContent = `${signed(proposed)} / ${signed(done)}`;
    },
  };
}

function choiceRow(label) {
  const row = element("div", "choice");
  const mark = element("span", "marks");
  row.append(element("span", "label", label), mark);
  return {
    element: row,
    show(proposed, done) {
      row.classList.toggle("proposed", proposed);
      row.classList.toggle("done", done);
      const text = [proposed && "policy", done && "executed"].filter(Boolean).join(", ");
      if (mark.textContent !== text) mark.textContent = text;
    },
  };
}

/** A bar from the middle of its track: the scale of the action is that of a device's full deflection, -1 to 1. */
function place(bar, value) {
  const clipped = Math.max(-1, Math.min(1, value));
  bar.style.transform = `scaleX(${clipped})`;
}

function signed(value) {
  const text = value.toFixed(2);
  return Object.is(Number(text), -0) || Number(text) === 0 ? "0.00" : value > 0 ? `+${text}` : text.replace("-", "−");
}

/** [right, down, rise] of an action, each in [-1, 1]; null for one that has no direction. */
function arrowOf(status, action) {
  const labels = status.action_labels;
  if (status.discrete) {
    const name = labels[action[0]] ?? "";
    const parts = Object.keys(DIRECTIONS).filter((part) => name.includes(part));
    const [x, y] = parts.reduce(([a, b], part) => [a + DIRECTIONS[part][0], b + DIRECTIONS[part][1]], [0, 0]);
    return { x, y, rise: null, name };
  }
  const at = (label) => action[labels.indexOf(label)];
  if (at("x") === undefined || at("y") === undefined) return null;
  return { x: at("y"), y: at("x"), rise: at("z") ?? null, name: "" }; // the cameras look the robot in the face
}

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/**
 * The compass in the corner of the picture. It lies as the keys do: the tasks' cameras look the robot in the face, so
 * that its +x comes towards the viewer and its +y goes to the right. Beside it is the rise, +z.
 */
class Arrow {
  #policy = svg("path", { class: "arrow policy" });
  #executed = svg("path", { class: "arrow executed" });
  #rises = [svg("rect", { class: "rise policy", x: 216, width: 10 }), svg("rect", { class: "rise executed", x: 228, width: 10 })];
  #text = svg("text", { x: 110, y: 238, class: "arrow-text" });

  constructor() {
    this.element = svg("svg", { viewBox: "0 0 250 250", class: "compass", "aria-hidden": "true", focusable: "false" });
    this.axes = svg("g", { class: "axes" });
    this.axes.append(svg("circle", { cx: 110, cy: 110, r: 96 }), svg("path", { d: "M14 110H206M110 14V206M227 14V206" }));
    this.names = svg("g", { class: "axis-names" });
    for (const [text, x, y] of [["x", 124, 204], ["y", 196, 102], ["z", 212, 30]]) {
      const name = svg("text", { x, y });
      name.textContent = text;
      this.names.append(name);
    }
    this.element.append(this.axes, this.names, this.#executed, this.#policy, ...this.#rises, this.#text);
  }

  show(policy, executed) {
    this.element.toggleAttribute("hidden", policy === null);
    if (policy === null) return;
    this.#policy.setAttribute("d", arrowPath(policy, 16));
    this.#executed.setAttribute("d", arrowPath(executed, 28));
    [policy, executed].forEach((arrow, i) => {
      const rise = Math.max(-1, Math.min(1, arrow?.rise ?? 0)) * 92;
      this.#rises[i].setAttribute("y", rise > 0 ? 110 - rise : 110);
      this.#rises[i].setAttribute("height", Math.abs(rise));
    });
    this.names.toggleAttribute("hidden", policy.rise === null);
    this.#text.textContent = policy.rise === null ? policy.name : "";
  }
}

function arrowPath(arrow, width) {
  const length = arrow === null ? 0 : Math.hypot(arrow.x, arrow.y);
  if (length < CLEAR) return "";
  const scale = (ARROW * Math.min(1, length)) / length;
  const [tipX, tipY] = [110 + arrow.x * scale * 1.15, 110 + arrow.y * scale * 1.15];
  const [unitX, unitY] = [arrow.x / length, arrow.y / length];
  const [neckX, neckY] = [tipX - unitX * width, tipY - unitY * width];
  const side = width * 0.65;
  const stem = width * 0.18;
  const point = (x, y) => `${x.toFixed(1)} ${y.toFixed(1)}`;
  return (
    `M${point(110 - unitY * stem, 110 + unitX * stem)}L${point(neckX - unitY * stem, neckY + unitX * stem)}` +
    `L${point(neckX - unitY * side, neckY + unitX * side)}L${point(tipX, tipY)}` +
    `L${point(neckX + unitY * side, neckY - unitX * side)}L${point(neckX + unitY * stem, neckY - unitX * stem)}` +
    `L${point(110 + unitY * stem, 110 - unitX * stem)}Z`
  );
}
