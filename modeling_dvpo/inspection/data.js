// The numbers of the page: decoded once, read by state. State s is the one after token s, state 0 the one before any.

const data = JSON.parse(document.getElementById("data").textContent);

function decode(text, Numbers) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Numbers(bytes.buffer);
}

for (const response of data.responses) {
  for (const name of ["value", "cvar", "spread", "disagreement", "chance", "headValues"])
    response[name] = decode(response[name], Float32Array);
  for (const name of ["fan", "headFans", "bandQuantiles"]) response[name] = decode(response[name], Uint16Array);
  response.states = 1 + response.tokens.filter((token) => !token.aside).length;
}

const unpack = (place) => data.low + data.step * place;

function known(response, state) {
  return state >= 0 && state < response.known;
}

// A number of the state, or null where it is not known.
function measure(response, name, state) {
  if (!known(response, state)) return null;
  if (name === "change") return state ? response.value[state] - response.value[state - 1] : null;
  if (name === "chance") return chanceAbove(response, state);
  return response[name][state];
}

// The distribution's quantiles at data.levels.
function fan(response, state) {
  const size = data.levels.length;
  return Array.from(response.fan.subarray(state * size, (state + 1) * size), unpack);
}

function headFan(response, state, head) {
  const size = data.headLevels.length;
  const first = (state * data.heads + head) * size;
  return Array.from(response.headFans.subarray(first, first + size), unpack);
}

function band(response, state) {
  const size = data.bands.length;
  return Array.from(response.bandQuantiles.subarray(state * size, (state + 1) * size), unpack);
}

let threshold = data.threshold;
const everyQuantile = data.levels.length === data.quantiles;
// For the threshold that came with the page, and for critics of few quantiles, the chance is exact.
const chanceIsExact = () => threshold === data.threshold || everyQuantile;

function chanceAbove(response, state) {
  if (threshold === data.threshold) return response.chance[state];
  const quantiles = fan(response, state);
  const above = quantiles.findIndex((quantile) => quantile > threshold);
  if (everyQuantile) return above < 0 ? 0 : 1 - above / quantiles.length;
  if (above < 0) return 0;
  if (above === 0) return 1;
  const [low, high] = [quantiles[above - 1], quantiles[above]];
  const [from, to] = [data.levels[above - 1], data.levels[above]];
  return 1 - (from + ((to - from) * (threshold - low)) / (high - low));
}
