// The page: controls, a card for each response, and what happens between them.

const root = document.documentElement;
const byId = (id) => document.getElementById(id);
const cards = [];
let mode = MODES[0];

function chanceName() {
  return `P(return > ${+threshold.toPrecision(6)})`.replace("-", "−");
}

class Card {
  constructor(response, place, shared) {
    this.response = response;
    this.place = place;
    const card = element("article", byId("responses"), { class: "card", "aria-labelledby": `label-${place}` });
    const top = element("header", card);
    element("h2", top, { id: `label-${place}`, text: response.label, dir: "auto" });
    this.summary = element("p", top, { class: "summary" });
    if (!shared) {
      const prompt = element("div", card, { class: "prompt" });
      writePrompt(prompt, response.prompt);
    }
    this.select = this.select.bind(this);
    this.point = this.point.bind(this);
    const events = { onSelect: this.select, onPoint: this.point };
    this.list = new TokenList(response, card, { label: `Tokens of ${response.label}`, ...events });
    const figure = element("div", card, { class: "figure" });
    const focus = (state) => this.list.focus(state);
    const onPoint = (state) => {
      this.point(state);
      this.list.reveal(state ?? this.list.selected);
    };
    this.chart = new Chart(response, figure, { label: this.description(), onSelect: focus, onPoint });
    this.key(card);
    this.details = element("section", card, { class: "details", "aria-label": "Numbers at the selected token" });
    this.list.colour(mode);
    this.select(this.widestChange());
    requestAnimationFrame(() => this.list.reveal(this.list.selected));
  }

  key(card) {
    const key = element("p", card, { class: "key" });
    const entries = [["mean", "mean"]];
    if (data.quantiles > 1) {
      entries.push(["inner", "middle half"], ["outer", "5–95\u202f%"], ["tail", `CVaR ${percent(data.alpha)}`]);
    }
    entries.push(["ensemble", "after"], ["before", "before"]);
    if (data.heads > 1) entries.push(["head", `${data.heads} heads`]);
    for (const [name, text] of entries) {
      const entry = element("span", key);
      element("i", entry, { class: `swatch ${name}`, "aria-hidden": "true" });
      entry.append(text);
    }
  }

  description() {
    const { response } = this;
    const [first, last] = [response.value[0], response.value[response.known - 1]];
    return `Expected return along ${response.label}: from ${write(first)} to ${write(last)}`;
  }

  widestChange() {
    let [best, most] = [0, -1];
    for (let state = 1; state < this.response.known; state++) {
      const change = Math.abs(measure(this.response, "change", state));
      if (change > most) [best, most] = [state, change];
    }
    return best;
  }

  select(state) {
    this.list.select(state, this.label(state));
    this.show(state);
  }

  // While the pointer is over a token, that one is shown; then the selected one again.
  point(state) {
    this.list.point(state);
    this.show(state ?? this.list.selected);
  }

  label(state) {
    const { response } = this;
    const say = (name, number) => (number === null ? "" : `, ${name} ${write(number, returnDigits, name === "change")}`);
    const unknown = known(response, state) ? "" : ", value not known after the last token";
    const value = say("value", measure(response, "value", state));
    return `${nameOf(this.list.tokens[state])}${value}${say("change", measure(response, "change", state))}${unknown}`;
  }

  show(state) {
    this.chart.show(state);
    this.details.replaceChildren();
    const title = element("h3", this.details);
    element("bdi", title, { class: "quoted", text: nameOf(this.list.tokens[state]) });
    const count = this.response.states - 1;
    title.append(state ? ` token ${state} of ${count}` : ` ${count} tokens to come`);
    this.table(state);
    this.lists(state);
  }

  table(state) {
    const table = element("table", this.details);
    const head = element("tr", element("thead", table));
    for (const text of ["", "before", "after", "change"]) element("th", head, { scope: "col", text });
    const body = element("tbody", table);
    const names = [...MODES.filter(({ name }) => name !== "change")];
    names.splice(data.quantiles > 1 ? 3 : 1, 0, { name: "chance", label: chanceName() });
    for (const row of names) {
      const [before, after] = [state - 1, state].map((at) => measure(this.response, row.name, at));
      const change = before === null || after === null ? null : after - before;
      const line = element("tr", body, { "data-measure": row.name });
      element("th", line, { scope: "row", text: row.name === "disagreement" ? "Head disagreement" : row.label });
      const written = [before, after].map((number) => this.written(row, number));
      const changed = this.written(row, change, true);
      for (const text of [...written, changed]) element("td", line, { text });
    }
  }

  written(row, number, signed) {
    if (number === null) return UNKNOWN;
    if (row.name === "chance") {
      const about = chanceIsExact() ? "" : "≈\u202f";
      return `${about}${write(100 * number, 1, signed)}\u202f%`;
    }
    return writeIn(row, number, signed);
  }

  lists(state) {
    if (!known(this.response, state)) {
      element("p", this.details, { class: "hint", text: "After the last token critics are not trained: no numbers." });
      return;
    }
    const list = element("dl", this.details);
    const add = (name, numbers, key) => {
      element("dt", list, { text: name });
      const values = element("dd", list, { "data-list": key });
      for (const number of numbers) element("span", values, { text: write(number) });
    };
    if (data.quantiles > 1) {
      const levels = data.bands.map((level) => +(100 * level).toPrecision(3)).join(" · ");
      add(`Quantiles at ${levels}\u202f%`, band(this.response, state), "bands");
    }
    if (data.heads > 1) {
      const heads = this.response.headValues.subarray(state * data.heads, (state + 1) * data.heads);
      add("Each head’s mean", heads, "heads");
    }
    if (this.list.followed.has(state)) {
      const text = "Another party’s turn follows: “after” is the state in which that has been read, too.";
      element("p", this.details, { class: "hint", text });
    }
  }

  summarise() {
    const last = this.response.known - 1;
    const parts = [`expects ${write(this.response.value[last])} at its end`];
    if (data.quantiles > 1) parts.push(`${MODES.find(({ name }) => name === "cvar").label} ${write(this.response.cvar[last])}`);
    parts.push(`${chanceName()} ${this.written({ name: "chance" }, measure(this.response, "chance", last))}`);
    this.summary.replaceChildren();
    const reward = this.response.reward;
    if (reward !== null) {
      const text = `reward ${+reward.toPrecision(6)}`.replace("-", "−");
      element("strong", element("span", this.summary), { text });
      this.summary.append(" · ");
    }
    parts.forEach((text, i) => {
      if (i) this.summary.append(" · ");
      element("span", this.summary, { text });
    });
  }
}

function writePrompt(parent, pieces) {
  element("span", parent, { class: "prompt-title", text: "Prompt" });
  writePieces(element("div", parent, { class: "prompt-text", dir: "auto", tabindex: 0, role: "region", "aria-label": "Prompt" }), pieces);
}

function setMode(chosen) {
  mode = chosen;
  root.dataset.ramp = mode.ramp;
  byId("scale-title").textContent = mode.title;
  const middle = mode.ramp === "change" ? 0 : (mode.low + mode.high) / 2;
  byId("ticks").replaceChildren();
  for (const number of [mode.low, middle, mode.high]) element("span", byId("ticks"), { text: writeIn(mode, number) });
  const range = `${writeIn(mode, mode.low)} to ${writeIn(mode, mode.high)}`;
  byId("scale").setAttribute("aria-label", `${mode.title}, in the reward’s units, ${range}`);
  for (const card of cards) card.list.colour(mode);
}

function setUpModes() {
  for (const choice of MODES) {
    const label = element("label", byId("modes"), { title: choice.title });
    const radio = element("input", label, { type: "radio", name: "mode", value: choice.name });
    element("span", label, { text: choice.label });
    radio.checked = choice === mode;
    radio.addEventListener("change", () => setMode(choice));
  }
}

function setUpThreshold() {
  const input = byId("threshold");
  input.value = threshold;
  input.addEventListener("input", () => {
    if (!Number.isFinite(input.valueAsNumber)) return;
    threshold = input.valueAsNumber;
    for (const card of cards) {
      card.summarise();
      card.show(card.list.selected);
    }
  });
}

function setUpTheme() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const name = () => (byId("theme").textContent = isDark() ? "Light theme" : "Dark theme");
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
  });
  dark.addEventListener("change", name);
  name();
}

function setUpResponses() {
  const shared = data.responses.every(({ prompt }) => JSON.stringify(prompt) === JSON.stringify(data.responses[0].prompt));
  if (shared) {
    byId("shared-prompt").hidden = false;
    writePrompt(byId("shared-prompt"), data.responses[0].prompt);
  }
  data.responses.forEach((response, place) => cards.push(new Card(response, place, shared)));
  for (const card of cards) card.summarise();
}

setUpModes();
setUpThreshold();
setUpTheme();
setUpResponses();
setMode(mode);
