// What tokens can be coloured by, how far each scale reaches, and how numbers are written.

const percent = (share) => `${+(100 * share).toPrecision(3)}\u202f%`;
const MODES = [
  { name: "value", label: "Value", title: "Expected return after the token", ramp: "return" },
  { name: "change", label: "Change", title: "Change of the expected return by the token", ramp: "change" },
  {
    name: "cvar",
    label: `CVaR ${percent(data.alpha)}`,
    title: `Mean of the worst ${percent(data.alpha)} of returns after the token`,
    ramp: "return",
    needs: () => data.quantiles > 1,
  },
  {
    name: "spread",
    label: "Spread",
    title: "Standard deviation of the return after the token",
    ramp: "risk",
    needs: () => data.quantiles > 1,
  },
  {
    name: "disagreement",
    label: "Heads",
    title: "Disagreement of the heads about the expected return",
    ramp: "risk",
    needs: () => data.heads > 1,
  },
].filter((mode) => !mode.needs || mode.needs());

for (const mode of MODES) {
  let [low, high] = [Infinity, -Infinity];
  for (const response of data.responses) {
    for (let state = 0; state < response.known; state++) {
      const number = measure(response, mode.name, state);
      if (number !== null) [low, high] = [Math.min(low, number), Math.max(high, number)];
    }
  }
  if (mode.name === "change") {
    high = Math.max(Math.abs(low), Math.abs(high));
    if (!Number.isFinite(high)) high = 0; // one token: nothing is known after it
    low = -high;
  }
  Object.assign(mode, { low, high });
}

// The share of the ramp's end colour, 0 to 1, and which end.
function tint(mode, number) {
  if (mode.ramp === "change") return { weight: mode.high ? Math.abs(number) / mode.high : 0, negative: number < 0 };
  return { weight: mode.high > mode.low ? (number - mode.low) / (mode.high - mode.low) : 0, negative: false };
}

// Three digits of what the distributions span, so that digits say something and columns align.
function digitsFor(span) {
  return span > 0 ? Math.min(8, Math.max(0, 3 - Math.round(Math.log10(span)))) : 3;
}
const returnDigits = digitsFor(data.step * 65535);
const UNKNOWN = "–";

function write(number, digits = returnDigits, sign = false) {
  if (number === null || Number.isNaN(number)) return UNKNOWN;
  let text = Math.abs(number).toFixed(digits);
  if (Math.abs(number) >= 1e7) text = Math.abs(number).toPrecision(3);
  if (Number(text) === 0) return text;
  return (number < 0 ? "−" : sign ? "+" : "") + text;
}

// Spread and disagreement may be far smaller than what the returns span.
function writeIn(mode, number, sign = mode.name === "change") {
  return write(number, mode.ramp === "risk" ? Math.max(returnDigits, digitsFor(mode.high) - 2) : returnDigits, sign);
}

function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough - 1e-12 * power);
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push(+(i * step).toPrecision(12));
  return found;
}
