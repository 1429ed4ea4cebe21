"""What an inspection page holds, and what a browser shows of it, read back; and what it must be."""

import base64
import json
import math
import re

import numpy as np
import torch

from modeling_dvpo.inspection.state_numbers import StateNumbers

MEASURES = ["value", "cvar", "spread", "chance", "disagreement"]

# Colours are measured as painted, since `color-mix` computes to a colour in another space.
LEAST_CONTRAST = """
(() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const light = (colours) => {
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    const parts = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const own = (it) => getComputedStyle(it).backgroundColor;
  const grounds = (it) => it ? [...grounds(it.parentElement), own(it)] : ["white"];
  let least = [21, ""];
  for (const it of document.querySelectorAll("body *:not(script):not(style)")) {
    const text = [...it.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!text || !it.getClientRects().length) continue;
    const style = getComputedStyle(it);
    const behind = grounds(it);
    const ink = it instanceof SVGElement ? style.fill : style.color;
    const [a, b] = [light(behind), light([...behind, ink])].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < least[0]) least = [contrast, it.className + ": " + it.textContent.slice(0, 40)];
  }
  return least;
})()
"""


def data_of(page):
    [text] = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def floats(text):
    return torch.from_numpy(np.frombuffer(base64.b64decode(text), "<f4").copy())


def quantiles(text, data):
    places = np.frombuffer(base64.b64decode(text), "<u2").astype(np.float64)
    return torch.from_numpy(data["low"] + data["step"] * places)


def token(state, card=1):
    return f".card:nth-child({card}) [data-state='{state}']"


def cells(page, card=1):
    """The texts of the table: measure -> (before, after, change)."""
    rows = page.evaluate(
        f"[...document.querySelectorAll('.card:nth-child({card}) [data-measure]')].map("
        "row => [row.dataset.measure, [...row.querySelectorAll('td')].map(cell => cell.textContent)])"
    )
    return {name: tuple(texts) for name, texts in rows}


def number(text):
    """None for a dash."""
    return None if text == "–" else float(re.sub(r"[\s≈%]", "", text).replace("−", "-"))


def shows(text, expected):
    """Whether the text is the number, rounded to the digits that it has, or a dash for None."""
    if expected is None or number(text) is None:
        return expected is None and number(text) is None
    digits = re.search(r"\.(\d+)", text)
    return digits is not None and math.isclose(number(text), expected, abs_tol=0.501 * 10 ** -len(digits[1]))


def numbers_of(one, threshold, state):
    """What the table must show of a state, from the critic's own numbers; chances in per cent."""
    numbers = StateNumbers(one)
    if not 0 <= state < len(numbers.value):
        return dict.fromkeys(MEASURES)
    found = {name: getattr(numbers, name)[state].item() for name in MEASURES if name != "chance"}
    return found | {"chance": 100 * numbers.chance(threshold)[state].item()}


def check_table(page, one, threshold, state):
    shown = cells(page)
    before, after = (numbers_of(one, threshold, at) for at in (state - 1, state))
    assert list(shown) == MEASURES
    for name in MEASURES:
        change = None if None in (before[name], after[name]) else after[name] - before[name]
        expected = (before[name], after[name], change)
        assert all(map(shows, shown[name], expected)), f"{name}: {shown[name]} for {expected}"


def colours(page, card=1):
    """Each token's background, by state."""
    return page.evaluate(
        f"[...document.querySelectorAll('.card:nth-child({card}) .token')]"
        ".map(t => getComputedStyle(t).backgroundColor)"
    )
