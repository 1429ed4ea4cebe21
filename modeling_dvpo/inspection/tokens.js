// A response's text, token by token. All text goes in as text nodes: nothing of it is ever markup.

function element(name, parent, { text, ...attributes } = {}) {
  const made = document.createElement(name);
  for (const [key, setting] of Object.entries(attributes)) made.setAttribute(key, setting);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

// Pieces as Python cut them: a string as it is, ["line" | "blank" | "mark", text] made visible.
function writePieces(parent, pieces) {
  for (const piece of pieces) {
    if (typeof piece === "string") parent.append(piece);
    else element("span", parent, { class: piece[0], text: piece[1] });
  }
}

function piecesOf(token) {
  return typeof token === "string" ? [token] : token.special !== undefined ? [token.special] : token.pieces;
}

// The token on one line: for labels and headings.
function nameOf(token) {
  if (token === null) return "start";
  const text = piecesOf(token)
    .map((piece) => (typeof piece === "string" ? piece : piece[0] === "line" ? "⏎" : piece[0] === "blank" ? "␣" : piece[1]))
    .join("")
    .replace(/^ | $/g, "␣");
  const part = token.part ? ` (${token.part[0]}/${token.part[1]} of ${token.whole})` : "";
  return (text.length > 60 ? `${text.slice(0, 60)}…` : text) + part;
}

class TokenList {
  // `onSelect(state)` on click, focus and keys; `onPoint(state or null)` while the pointer is over a token.
  constructor(response, parent, { label, onSelect, onPoint }) {
    this.response = response;
    this.items = [];
    this.tokens = [null];
    this.followed = new Set(); // states that another party's turn comes before
    this.box = element("div", parent, { class: "tokens", role: "listbox", "aria-label": label, dir: "auto" });
    this.add(null);
    for (const token of response.tokens) {
      if (token.aside) {
        const aside = element("span", this.box, { class: "aside", role: "option", "aria-disabled": "true" });
        writePieces(aside, token.aside);
        this.followed.add(this.items.length - 1);
      } else {
        this.tokens.push(token);
        this.add(token);
      }
    }
    this.selected = 0;
    const stateAt = (event) => event.target.closest("[data-state]")?.dataset.state;
    this.box.addEventListener("pointerover", (event) => {
      const state = stateAt(event);
      onPoint(state === undefined ? null : +state);
    });
    this.box.addEventListener("pointerleave", () => onPoint(null));
    this.box.addEventListener("focusin", (event) => stateAt(event) !== undefined && onSelect(+stateAt(event)));
    this.box.addEventListener("keydown", (event) => this.key(event));
  }

  add(token) {
    const state = this.items.length;
    const item = element("span", this.box, { class: "token", role: "option", "data-state": state, tabindex: -1 });
    if (token === null) {
      item.classList.add("special");
      item.textContent = "start";
    } else {
      if (token.special !== undefined) item.classList.add("special");
      writePieces(item, piecesOf(token));
      if (token.part) element("span", item, { class: "mark", text: `${token.part[0]}/${token.part[1]}` });
    }
    this.items.push(item);
  }

  colour(mode) {
    this.items.forEach((item, state) => {
      const number = measure(this.response, mode.name, state);
      item.classList.toggle("unknown", number === null);
      const { weight, negative } = tint(mode, number ?? 0);
      item.classList.toggle("negative", negative);
      item.style.setProperty("--weight", number === null ? 0 : weight.toFixed(4));
    });
  }

  select(state, text) {
    const before = this.items[this.selected];
    before.classList.remove("selected");
    before.removeAttribute("aria-selected");
    before.tabIndex = -1;
    this.selected = state;
    const item = this.items[state];
    item.classList.add("selected");
    item.setAttribute("aria-selected", "true");
    item.setAttribute("aria-label", text);
    item.tabIndex = 0;
  }

  point(state) {
    if (this.pointed !== undefined) this.items[this.pointed].classList.remove("pointed");
    this.pointed = state ?? undefined;
    if (state !== null) this.items[state].classList.add("pointed");
  }

  // Into view within the list, without moving the page.
  reveal(state) {
    const item = this.items[state].getBoundingClientRect();
    const box = this.box.getBoundingClientRect();
    if (item.top < box.top || item.bottom > box.bottom)
      this.box.scrollTop += item.top - box.top - (box.height - item.height) / 2;
  }

  focus(state) {
    this.items[state].focus();
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const last = this.items.length - 1;
    const forward = this.tokens[this.selected]?.rtl || this.tokens[this.selected + 1]?.rtl ? "ArrowLeft" : "ArrowRight";
    const state = {
      ArrowLeft: () => this.selected + (forward === "ArrowLeft" ? 1 : -1),
      ArrowRight: () => this.selected + (forward === "ArrowRight" ? 1 : -1),
      ArrowUp: () => this.otherLine(-1),
      ArrowDown: () => this.otherLine(1),
      Home: () => 0,
      End: () => last,
    }[event.key]?.();
    if (state === undefined) return;
    event.preventDefault();
    this.focus(Math.min(last, Math.max(0, state)));
  }

  // The token of the line above or below that is nearest in the direction of reading.
  otherLine(step) {
    const box = (state) => this.items[state].getClientRects()[0];
    const here = box(this.selected);
    if (!here) return this.selected;
    const middle = (here.left + here.right) / 2;
    let [line, best, distance] = [null, this.selected, Infinity];
    for (let state = this.selected + step; state >= 0 && state < this.items.length; state += step) {
      const there = box(state);
      if (!there || Math.abs(there.top - here.top) < here.height / 2) continue;
      line ??= there.top;
      if (Math.abs(there.top - line) > here.height / 2) break;
      const away = Math.abs((there.left + there.right) / 2 - middle);
      if (away < distance) [best, distance] = [state, away];
    }
    return best;
  }
}
