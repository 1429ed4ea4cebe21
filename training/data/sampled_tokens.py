"""The tokens that a policy sampled, where a row has them: tokenised again, its text may be cut into others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modeling_dvpo.text.completion_tokens import Tokens
from modeling_dvpo.text.problems import RowProblem

LARGEST_ID = 2**31 - 1  # of the column that tokens are kept in


def sampled_tokens(tokenizer, prompt_ids: Any, completion_ids: Any, completion: Any, vocab_size: int | None) -> Tokens:
    """A row's tokens as the policy had them; every one of `completion_ids` is an action, the end token included.

    Args:
        tokenizer: the critic's, which must be the policy's.
        prompt_ids, completion_ids: the row's.
        completion: what they spell: a text, or an assistant's turn as a list of one message. Ids of another tokenizer
            are within the vocabulary, and mean something else; of other completions (with tool calls, say) the ids
            alone count.
        vocab_size: the model's, where it is known.

    Raises:
        RowProblem: one of the two is missing or empty, an id is none of the vocabulary, or they spell another text.
    """
    given = {"prompt_ids": prompt_ids, "completion_ids": completion_ids}
    for name, ids in given.items():
        if not isinstance(ids, list) or not ids:
            raise RowProblem("sampled tokens", f"{name} {ids!r:.40}")
        bound = LARGEST_ID + 1 if vocab_size is None else vocab_size
        if wrong := [token for token in ids if type(token) is not int or not 0 <= token < bound]:
            raise RowProblem("sampled tokens", f"{wrong[0]!r} in {name}; ids are whole numbers from 0 to {bound - 1}")
    text = _text_of(completion)
    if text is not None and text not in (spelt := _spelt(tokenizer, completion_ids)):
        raise RowProblem("other text", f"{spelt[0]!r:.60}, and the completion is {text!r:.60}")
    actions = [False] * len(prompt_ids) + [True] * len(completion_ids)
    return Tokens(prompt_ids + completion_ids, actions)


def _text_of(completion: Any) -> str | None:
    if isinstance(completion, list) and len(completion) == 1 and completion[0].keys() <= {"role", "content"}:
        completion = completion[0].get("content")
    return completion if isinstance(completion, str) else None


def _spelt(tokenizer, ids: Sequence[int]) -> list[str]:
    """As `completion_of` decodes them: what ends the turn need not be a special token, and is left out then, too."""
    return [
        tokenizer.decode(part, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for part in (ids, ids[:-1])
    ]
