// Curves of one dimension on a canvas: executed, proposed and commanded values over the steps.

const CURVES = {
  commanded: { name: "commanded by the operator", color: "#b36b00", width: 4, dash: [] },
  executed: { name: "executed", color: "#000000", width: 1.5, dash: [] },
  proposed: { name: "proposed by the policy", color: "#0072b2", width: 1.8, dash: [5, 4] },
  reward: { name: "reward", color: "#333333", width: 1.5, dash: [] },
};

function unpack(text) {
  return new Float32Array(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
}

function number(value) {
  if (!Number.isFinite(value)) return "–";
  const text = Math.abs(value) >= 1e5 || (value !== 0 && Math.abs(value) < 1e-4) ? value.toExponential(1)
    : String(Number(value.toPrecision(4)));
  return text.replace("-", "−");
}

function curveLegend(list, names) {
  list.replaceChildren(...names.map((name) => {
    const { color, width, dash, name: told } = CURVES[name];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("width", "36");
    svg.setAttribute("height", "12");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [key, value] of Object.entries({
      x1: 0, x2: 36, y1: 6, y2: 6, stroke: color, "stroke-width": width, "stroke-dasharray": dash.join(" "),
    })) line.setAttribute(key, value);
    svg.append(line);
    return make("li", {}, svg, told);
  }));
}

// A track with the values at the cursor on its left; series: [name, value of a step].
class Plot {
  constructor(title, steps, series, { stairs = false, shaded = [] } = {}) {
    Object.assign(this, { steps, series, stairs, shaded });
    [this.low, this.high] = [Infinity, -Infinity];
    for (const [, at] of series) {
      for (let t = 0; t < steps; t++) {
        const value = at(t);
        if (value < this.low) this.low = value;
        if (value > this.high) this.high = value;
      }
    }
    const known = this.low <= this.high;
    const told = known ? `from ${number(this.low)} to ${number(this.high)} over ${steps} steps` : "no values";
    this.canvas = make("canvas", { role: "img", "aria-label": `${title}: ${told}` });
    this.values = series.map(() => make("dd", {}, "–"));
    const list = make("dl", {}, ...series.flatMap(([name], i) => [make("dt", {}, short(name)), this.values[i]]));
    this.plot = make("div", { class: "plot" }, this.canvas);
    const ends = (known ? [...new Set([this.high, this.low])] : []).map((value) => make("span", {}, number(value)));
    const range = make("div", { class: "range", "aria-hidden": "true" }, ...ends);
    this.element = make("div", { class: "track" }, make("div", {}, make("h3", {}, title), list), this.plot, range);
  }

  at(step) {
    this.series.forEach(([, at], i) => { this.values[i].textContent = number(at(step)); });
  }

  draw() {
    const scale = window.devicePixelRatio || 1;
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    if (!width) return;
    [this.canvas.width, this.canvas.height] = [width * scale, height * scale];
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.fillStyle = "#fafafa";
    pen.fillRect(0, 0, width, height);
    const x = (t) => (t / this.steps) * width;
    pen.fillStyle = "#fbe9c8";
    for (const [start, stop] of this.shaded) pen.fillRect(x(start), 0, Math.max(1, x(stop) - x(start)), height);
    const span = this.high - this.low;
    const y = (v) => (span > 0 ? height - 6 - ((v - this.low) / span) * (height - 12) : height / 2);
    if (this.low < 0 && this.high > 0) {
      pen.strokeStyle = "#999999";
      pen.lineWidth = 1;
      pen.setLineDash([]);
      this.line(pen, [[0, y(0)], [width, y(0)]]);
    }
    for (const [name, at] of this.series) {
      const look = CURVES[name];
      [pen.strokeStyle, pen.lineWidth] = [look.color, look.width];
      pen.setLineDash(look.dash);
      for (const points of this.stretches(at, width)) this.line(pen, points.map(([t, v]) => [x(t), y(v)]));
    }
  }

  // The curve as stretches of [step, value] without gaps; where steps are denser than pixels, their extremes.
  stretches(at, width) {
    const bunch = Math.max(1, Math.floor(this.steps / (2 * width)));
    const found = [];
    let points = [];
    const end = () => {
      // A lone value is still a stretch of its step.
      if (points.length === 1) points = [[points[0][0] - 0.5, points[0][1]], [points[0][0] + 0.5, points[0][1]]];
      if (points.length) found.push(points);
      points = [];
    };
    for (let t = 0; t < this.steps; t += bunch) {
      let [low, high] = [Infinity, -Infinity];
      for (let i = t; i < Math.min(t + bunch, this.steps); i++) {
        const value = at(i);
        if (value < low) low = value;
        if (value > high) high = value;
      }
      if (low > high) end();
      else if (bunch > 1) points.push([t + bunch / 2, low], [t + bunch / 2, high]);
      else if (this.stairs) points.push([t, low], [t + 1, low]);
      else points.push([t + 0.5, low]);
    }
    end();
    return found;
  }

  line(pen, points) {
    pen.beginPath();
    points.forEach(([px, py], i) => (i ? pen.lineTo(px, py) : pen.moveTo(px, py)));
    pen.stroke();
  }
}

function short(name) {
  return { commanded: "operator", proposed: "proposed" }[name] || CURVES[name].name;
}
