"""What a tokenizer does, in a few short strings, so that two can be compared without having both."""

import hashlib
import json
from pathlib import Path

from transformers import AutoTokenizer

from .errors import UnreadableTokenizerError
from .model_files import files_in, is_tokenizer

# Text in which tokenizers differ: case, numbers, spaces, lines, code, accents, scripts, rare characters.
PROBES = (
    "The answer is 12,345.678; is it?",
    "don't  stop\n\n\tat line 10000 ",
    "def f(x): return x**2 != 3e-5",
    "Ünïcödé naïve ﬁ ½ É",
    "中文 日本語 العربية हिन्दी 한국어 🙂🏽",
    "8+4-9=\\frac{1}{2}<end></s><|im_start|>",
)


def tokenizer_fingerprint(tokenizer) -> dict[str, str | int]:
    """What a tokenizer does, whatever files it is saved in.

    Returns:
        `vocabulary`: digest of tokens and ids; `encoding`: digest of the ids of some difficult texts, with and
        without special tokens, which differs where merges or normalisation do; `chat_template`: its digest;
        `begin_token_id` and `end_token_id`. What the tokenizer has not is absent.
    """
    encodings = [
        tokenizer(text, add_special_tokens=special)["input_ids"] for text in PROBES for special in (False, True)
    ]
    template = tokenizer.chat_template
    known = {
        "vocabulary": _digest(sorted(tokenizer.get_vocab().items())),
        "encoding": _digest(encodings),
        "chat_template": _digest(template) if template else None,
        "begin_token_id": tokenizer.bos_token_id,
        "end_token_id": tokenizer.eos_token_id,
    }
    return {name: value for name, value in known.items() if value is not None}


def directory_fingerprint(directory: Path) -> dict[str, str | int] | None:
    """Of the tokenizer in a directory; None where there is none.

    Raises:
        UnreadableTokenizerError: its files cannot be read.
    """
    if not any(is_tokenizer(path) for path in files_in(directory)):
        return None
    try:
        return tokenizer_fingerprint(AutoTokenizer.from_pretrained(directory))
    except Exception as error:  # of any kind, by what is wrong with the files
        raise UnreadableTokenizerError(f"The tokenizer in {directory} cannot be read: {error!r}") from error


def fingerprint_difference(one: dict, other: dict) -> list[str]:
    """In what two fingerprints differ, by name."""
    return [name for name in {**one, **other} if one.get(name) != other.get(name)]


def _digest(data) -> str:
    return hashlib.sha256(json.dumps(data, ensure_ascii=False).encode()).hexdigest()
