r"""Mathematics with a stated answer, as in GSM8K and MATH, verified by the `math-verify` library.

An answer is stated in one of three ways, the first that is there counts:

1. `#### 18` as the last line, which is how GSM8K writes its references;
2. the last `\boxed{...}`, as in MATH;
3. a sentence that announces it, such as "The answer is 18." (in completions only).

A number that merely occurs in the text is no answer, so a completion that lists many is not right by chance. What
stands within `<think>` ... `</think>` is no answer either.
"""

import re
import threading
from functools import lru_cache

_BOX = re.compile(r"\\(?:boxed|fbox)\b\s*")
_LAST_LINE = re.compile(r"(?:^|\n)[ \t]*####[ \t]*([^\n]*)\s*\Z")
_BOLD = re.compile(r"\*\*(.+?)\*\*")
_NUMBER_AND_WORDS = re.compile(r"(-?[\d,]*\.?\d+)\s+[A-Za-z][A-Za-z ]{2,}")
_LATEX_WORDS = re.compile(r"\\(?:text\w*|mathrm|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+")
_SENTENCE = re.compile(r"[A-Za-z]{2,}\s+[A-Za-z]{2,}|\n")


def math_reward(
    prompts: list, completions: list, answer: list | None = None, solution: list | None = None, **columns
) -> list[float | None]:
    r"""1 where the completion's stated answer equals the reference's, otherwise 0.

    Args:
        prompts, completions: text or lists of messages; of messages the last one counts.
        answer: the references, one per row: a whole solution that ends in `#### 18`, or has a `\boxed{...}`, or the
            answer alone, as LaTeX or a number.
        solution: the references where the data set has no column `answer`, as MATH's.
        columns: the data set's other columns, not looked at.

    Returns:
        1.0 or 0.0 a row, and None where the reference is None: rows of another task.

    Raises:
        ValueError: the data set has neither column, or a row's reference states no answer. Such a row is never left
            out silently.
        ImportError: `math-verify` is not installed.

    Answers are equal as mathematics, not as text: 1/2 = 0.5 = 50\%, 2(k+1) = 2k+2, x = 5 is 5. A completion on which
    the comparison takes more than 5 seconds counts as wrong. That limit works through signals, which Python has in the
    main thread only: in another thread there is no limit.
    """
    references = answer if answer is not None else solution
    if references is None:
        raise ValueError(
            "math_reward compares with a reference from the column `answer` or `solution`; the data set has "
            f"{', '.join(sorted(columns)) or 'no columns but the prompt'}: rename the one that holds the reference."
        )
    rows = enumerate(zip(prompts, completions, references, strict=True))
    return [_reward(completion, reference, row, prompt) for row, (prompt, completion, reference) in rows]


def stated_answer(completion: str | list) -> str | None:
    """The answer a completion states, written so that equal numbers are equal strings; None where it states none.

    For majority votes: 18, 18.0, `x = 18` and "18 dollars" are one answer, as are 1/2 and 0.5. Longer expressions are
    not simplified: 2(k+1) and 2k+2 are two answers.
    """
    parsed = _parse_completion(_text(completion))
    if not parsed:
        return None
    expression, text = parsed[0], str(parsed[-1])
    if getattr(expression, "is_Equality", False) and expression.lhs.is_Symbol:
        expression = expression.rhs
    if getattr(expression, "is_Float", False):
        import sympy

        expression = sympy.nsimplify(expression, rational=True)
    try:
        return str(expression)
    except ValueError:  # an integer of more digits than Python prints
        return text


def _reward(completion: str | list, reference: str | int | float | None, row: int, prompt: str | list) -> float | None:
    if reference is None:
        return None
    expected = _parse_reference(str(reference))
    if not expected:
        raise ValueError(
            f"Row {row} of the batch, prompt {_text(prompt)!r:.80}: the reference {str(reference)!r:.80} states no "
            r"answer. It must end in a line `#### 18`, have a `\boxed{...}`, or be the answer alone; correct the row, "
            "or take it out of the data set."
        )
    return float(_library().verify(expected, _parse_completion(_text(completion)), timeout_seconds=_seconds()))


@lru_cache(maxsize=1024)  # every completion of a group has the same reference
def _parse_reference(reference: str) -> list:
    stated = _marked(reference)
    if stated is None and not _SENTENCE.search(_LATEX_WORDS.sub("", reference.strip())):
        stated = reference
    return _parse_answer(stated) if stated else []


def _parse_completion(text: str) -> list:
    _, closed, text = text.rpartition("</think>")
    if not closed and "<think>" in text:
        return []  # cut while it was still thinking
    stated = _marked(text)
    if stated is not None:
        return _parse_answer(stated)
    if _BOX.search(text):
        return []  # cut within its box
    library = _library()
    announced = [
        library.LatexExtractionConfig(try_extract_without_anchor=False),
        library.ExprExtractionConfig(try_extract_without_anchor=False),
    ]
    return library.parse(_BOLD.sub(r"\1", text), extraction_config=announced, parsing_timeout=_seconds())


def _parse_answer(stated: str) -> list:
    """The answer as a sympy expression and as text; only the text where sympy cannot read it; empty where empty."""
    stated = stated.replace("\\$", "").strip(" \t\n*$").rstrip(".")
    number = _NUMBER_AND_WORDS.fullmatch(stated)
    if number:  # as LaTeX the words would be products of letters
        stated = number[1]
    library = _library()
    # Within a box the whole is the answer; of bare text the library would take a part, such as the last number.
    boxed = [library.LatexExtractionConfig(boxed_match_priority=0)]
    return library.parse(rf"\boxed{{{stated}}}", extraction_config=boxed, parsing_timeout=_seconds())


def _marked(text: str) -> str | None:
    """What stands on a last line `#### ...`, otherwise in the last complete box."""
    last_line = _LAST_LINE.search(text)
    if last_line and not _BOX.search(last_line[1]):
        return last_line[1]
    for box in reversed(list(_BOX.finditer(text))):
        content = _box_content(text[box.end() :])
        if content is not None:
            return content
    return None


def _box_content(rest: str) -> str | None:
    """From what follows `\\boxed`: up to the closing brace; without one, as in `\\boxed 2$`, up to the dollar."""
    if not rest.startswith("{"):
        return re.split(r"[$\n]", rest)[0] or None
    depth = 0
    for end, character in enumerate(rest):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return rest[1:end]
    return None


def _text(turns: str | list) -> str:
    """Text as it is; of a chat the last message, whose content may come in parts."""
    if isinstance(turns, str):
        return turns
    content = (turns[-1].get("content") or "") if turns else ""
    return content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)


def _library():
    try:
        import math_verify
    except ImportError as error:
        raise ImportError('Mathematical answers need math-verify: pip install "modeling-dvpo[math]".') from error
    return math_verify


def _seconds() -> int | None:
    """What one call of the library may take; it keeps the time by signals, which other threads cannot receive."""
    return 5 if threading.current_thread() is threading.main_thread() else None
