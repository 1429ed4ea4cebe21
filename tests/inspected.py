"""Scored completions made by hand, with a tokenizer whose tokens are any texts at all."""

import torch

from modeling_dvpo.inference.scoring import ScoredCompletion


class Words:
    """A tokenizer of words: token i is `words[i]`; the last is the end token."""

    def __init__(self, words):
        self.words = [*words, "<end>"]
        self.all_special_ids = [len(words)]
        self.eos_token_id = len(words)

    def decode(self, ids, **kwargs):
        return "".join(self.words[i] for i in ids)

    def convert_ids_to_tokens(self, i):
        return self.words[i]


def hand_scored(prompt, words, *, heads=3, quantiles=200, seed=0, wander=0.15, asides=()):
    """A completion of these words after the prompt, with the tokenizer that reads it.

    Quantiles are those of a distribution that wanders along the words; `asides` are places among the words that are
    another party's.
    """
    tokenizer = Words([prompt, *words])
    ids = list(range(len(words) + 1)) + [tokenizer.eos_token_id]
    actions = [place for place in range(1, len(ids)) if place - 1 not in asides]
    states = len(actions) + 1
    generator = torch.Generator().manual_seed(seed)
    centre = (torch.randn(states, 1, 1, generator=generator) * wander).cumsum(0).tanh()
    spread = 0.2 + 0.6 * torch.rand(states, 1, 1, generator=generator)
    levels = (torch.arange(quantiles) + 0.5) / quantiles
    shape = 2 * levels - 1 + 0.3 * (2 * levels - 1) ** 3
    of_heads = 0.03 * torch.randn(states, heads, 1, generator=generator)
    return ScoredCompletion(ids, actions, (centre + of_heads + spread * shape).float()), tokenizer


HOSTILE = [
    "</script><img src=x onerror=\"document.title='owned'\">",
    "<!-- <script>",
    "\u2028\u2029",
    "a\ud800b",
    "\x00",
    "\r\n",
    "\t",
    "\u202eevil\u202c",
    "  ",
    "x" * 3000,
    "&lt;&quot;'`${1}\\u003c",
    "]]>",
    "@DATA@ @SCRIPT@",
    "\u200b",
    "e\u0301",
    "👩‍🚀",
]
"""Words that would be markup, control characters, half a character, or wider than any page."""

ARABIC = "الجواب| هو| أرب|عة| لأن| 2| +| 2| =| 4|.|\n|Done|:| 4|\n|ש|לו|ם".split("|")
