// Two drawings on one scale of returns: the fan along the response, and the distribution in one state.

const HEIGHT = 220;
const MARGIN = { top: 26, bottom: 36, left: 50, right: 20, between: 52 };

function draw(name, parent, { text, ...attributes } = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, setting] of Object.entries(attributes)) made.setAttribute(key, setting);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

class Chart {
  // `onPoint` and `onSelect` as in TokenList.
  constructor(response, parent, { label, onSelect, onPoint }) {
    this.response = response;
    this.svg = draw("svg", parent, { class: "chart", role: "img", "aria-label": label, height: HEIGHT });
    this.svg.addEventListener("pointermove", (event) => onPoint(this.stateAt(event)));
    this.svg.addEventListener("pointerleave", () => onPoint(null));
    this.svg.addEventListener("click", (event) => {
      const state = this.stateAt(event);
      if (state !== null) onSelect(state);
    });
    const [low, high] = [data.low, data.low + 65535 * data.step];
    const margin = 0.05 * (high - low) || 0.5;
    [this.low, this.high] = [low - margin, high + margin];
    new ResizeObserver(() => this.layout()).observe(parent);
  }

  stateAt(event) {
    const place = event.clientX - this.svg.getBoundingClientRect().left;
    if (place < MARGIN.left - 6 || place > this.along + 6) return null;
    const last = this.response.states - 1;
    const state = Math.round(((place - MARGIN.left) / (this.along - MARGIN.left)) * last);
    return Math.min(last, Math.max(0, state));
  }

  x(state) {
    return MARGIN.left + ((this.along - MARGIN.left) * state) / Math.max(1, this.response.states - 1);
  }

  y(number) {
    const share = (number - this.low) / (this.high - this.low);
    return HEIGHT - MARGIN.bottom - share * (HEIGHT - MARGIN.top - MARGIN.bottom);
  }

  level(share) {
    return this.from + share * (this.width - MARGIN.right - this.from);
  }

  layout() {
    const width = Math.floor(this.svg.parentElement.clientWidth);
    if (!width || width === this.width) return;
    this.width = width;
    const distribution = Math.min(260, Math.max(96, 0.3 * width));
    this.from = width - MARGIN.right - distribution;
    this.along = this.from - MARGIN.between;
    this.svg.replaceChildren();
    this.svg.setAttribute("width", width);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.axes();
    this.bands();
    this.cursor = draw("line", this.svg, { class: "cursor", y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom });
    this.dot = draw("circle", this.svg, { class: "dot", r: 3.5 });
    this.state = draw("g", this.svg);
    if (this.shown !== undefined) this.show(this.shown);
  }

  axes() {
    const bottom = HEIGHT - MARGIN.bottom;
    const found = ticks(this.low, this.high, 4);
    const digits = Math.max(0, ...found.map((number) => (String(number).split(".")[1] ?? "").length));
    for (const number of found) {
      for (const [from, to] of [[MARGIN.left, this.along], [this.from, this.level(1)]])
        draw("line", this.svg, { class: "grid", x1: from, x2: to, y1: this.y(number), y2: this.y(number) });
      const text = write(number, Math.min(digits, 8));
      draw("text", this.svg, { class: "tick end", x: MARGIN.left - 8, y: this.y(number) + 3.5, text });
    }
    const last = this.response.states - 1;
    const spacing = Math.max(2, Math.min(8, Math.floor((this.along - MARGIN.left) / 56)));
    for (const state of ticks(0, last, spacing).filter(Number.isInteger))
      draw("text", this.svg, { class: "tick middle", x: this.x(state), y: bottom + 15, text: state });
    for (const level of [0, 0.5, 1])
      draw("text", this.svg, { class: "tick middle", x: this.level(level), y: bottom + 15, text: percent(level) });
    const middle = (from, to) => ({ x: (from + to) / 2, y: bottom + 31 });
    draw("text", this.svg, { class: "axis middle", ...middle(MARGIN.left, this.along), text: "tokens read" });
    draw("text", this.svg, { class: "axis middle", ...middle(this.from, this.level(1)), text: "share of outcomes" });
    draw("text", this.svg, { class: "heading", x: MARGIN.left, y: 14, text: "Return" });
    this.heading = draw("text", this.svg, { class: "heading", x: this.from, y: 14 });
  }

  bands() {
    const { response } = this;
    const bands = Array.from({ length: response.known }, (_, state) => band(response, state));
    const line = (number) => bands.map((_, state) => [this.x(state), this.y(number(state))]);
    if (data.quantiles > 1) {
      for (const [low, high, name] of [[0, 4, "outer"], [1, 3, "inner"]]) {
        const edge = line((state) => bands[state][high]).concat(line((state) => bands[state][low]).reverse());
        draw("path", this.svg, { class: `band ${name}`, d: `${path(edge)}Z` });
      }
      draw("path", this.svg, { class: "line tail", d: path(line((state) => response.cvar[state])) });
    }
    draw("path", this.svg, { class: "line mean", d: path(line((state) => response.value[state])) });
  }

  show(state) {
    this.shown = state;
    if (!this.cursor) return;
    const value = measure(this.response, "value", state);
    this.cursor.setAttribute("x1", this.x(state));
    this.cursor.setAttribute("x2", this.x(state));
    this.dot.setAttribute("visibility", value === null ? "hidden" : "visible");
    this.dot.setAttribute("cx", this.x(state));
    this.dot.setAttribute("cy", this.y(value ?? 0));
    this.heading.textContent = state ? `after token ${state}` : "before token 1";
    this.state.replaceChildren();
    const curve = (quantiles, levels) => path(quantiles.map((quantile, i) => [this.level(levels[i]), this.y(quantile)]));
    const add = (name, quantiles, levels) => {
      // one quantile has no curve: it is a level line
      if (levels.length === 1) [quantiles, levels] = [[quantiles[0], quantiles[0]], [0, 1]];
      draw("path", this.state, { class: `line ${name}`, d: curve(quantiles, levels) });
    };
    if (known(this.response, state)) {
      for (let head = 0; head < data.heads && data.heads > 1; head++)
        add("head", headFan(this.response, state, head), data.headLevels);
    }
    if (known(this.response, state - 1)) add("before", fan(this.response, state - 1), data.levels);
    if (known(this.response, state)) {
      add("ensemble", fan(this.response, state), data.levels);
      draw("line", this.state, { class: "line mark-mean", x1: this.from, x2: this.level(1), y1: this.y(value), y2: this.y(value) });
    }
  }
}
