"""What ends a turn of the assistant: asked here by whatever tokenises, samples or scores chats.

It need not be the tokenizer's end token. Chat templates close a turn with a token of their own (`<|im_end|>`,
`<end_of_turn>`, `<|end|>`), or with none at all (GLM's), where the policy ends its turn by writing the marker of whose
turn is next. A template is asked by rendering a small conversation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

# Stands for the policy's turn in a rendered conversation; no template treats it in a way of its own.
TURN = "POLICY-TURN"
NEXT = {"user": "?", "tool": "!"}


@dataclass(frozen=True)
class TurnEnd:
    """How a chat template writes the end of an assistant's turn; texts, each of one token or empty.

    Attributes:
        closer: the first token behind the content of a turn with nothing after it: "<|im_end|>". What the template
            writes behind that ("\\n", a second end token) is nobody's action.
        next_roles: where nothing closes a turn, the marker that begins the next one, by its role: "<|user|>".
        before, after: white space that the template writes between generation prompt and content, and between content
            and end.
    """

    closer: str = ""
    next_roles: Mapping[str, str] = field(default_factory=dict)
    before: str = ""
    after: str = ""

    def texts(self) -> list[str]:
        """All that may end a turn, the likeliest first."""
        return [self.closer] if self.closer else list(dict.fromkeys(self.next_roles.values()))

    def of(self, message: Mapping[str, Any]) -> str:
        """What ends this message where nothing follows it; "" where no token does."""
        role = "tool" if message.get("tool_calls") and "tool" in self.next_roles else "user"
        return self.closer or self.next_roles.get(role, "")


_known: WeakKeyDictionary[Any, dict[tuple, TurnEnd]] = WeakKeyDictionary()


def turn_end(
    tokenizer, *, tools: list | None = None, chat_template_kwargs: Mapping[str, Any] | None = None
) -> TurnEnd:
    """What this tokenizer's chat template writes at the end of an assistant's turn, by a probe that is kept.

    Args:
        tokenizer: with a chat template, or without: then nothing is known.
        tools: only whether there are some counts: tokenizers may have a template of their own for these.
        chat_template_kwargs: what the template is given besides.
    """
    if not tokenizer.chat_template:
        return TurnEnd()
    template = tokenizer.get_chat_template(tools=tools)
    kwargs = dict(chat_template_kwargs or {})
    key = (template, json.dumps(kwargs, sort_keys=True, default=str), len(tokenizer), tokenizer.eos_token)
    ends = _known.setdefault(tokenizer, {})
    if key not in ends:
        ends[key] = _probed(tokenizer, {**kwargs, "chat_template": template})
    return ends[key]


def end_ids(
    tokenizer, policy=None, *, tools: list | None = None, chat_template_kwargs: Mapping[str, Any] | None = None
) -> list[int]:
    """Every id that ends a completion: those of the policy's generation config, the tokenizer's end token, and what
    ends a turn of its chat template."""
    known = [] if policy is None else generation_end_ids(policy)
    own = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    end = turn_end(tokenizer, tools=tools, chat_template_kwargs=chat_template_kwargs)
    return list(dict.fromkeys(known + own + tokenizer.convert_tokens_to_ids(end.texts())))


def generation_end_ids(policy) -> list[int]:
    """The end tokens of a checkpoint's generation config."""
    known = policy.generation_config.eos_token_id
    return [] if known is None else [known] if isinstance(known, int) else list(known)


def _probed(tokenizer, options: dict[str, Any]) -> TurnEnd:
    user, turn = {"role": "user", "content": "?"}, {"role": "assistant", "content": TURN}
    written = _render(tokenizer, [user, turn], options)
    if TURN not in written:
        return TurnEnd()
    head, _, tail = written.partition(TURN)
    prompt = _render(tokenizer, [user], {**options, "add_generation_prompt": True})
    before = head[len(prompt) :] if head.startswith(prompt) else ""
    closer, after = _first_token(tokenizer, tail)
    next_roles = {}
    if not closer:
        for role, content in NEXT.items():
            _, _, tail = _render(tokenizer, [user, turn, {"role": role, "content": content}], options).partition(TURN)
            marker, space = _first_token(tokenizer, tail)
            if marker:
                next_roles[role] = marker
                after = space if role == "user" else after
    return TurnEnd(closer, next_roles, "" if before.strip() else before, "" if after.strip() else after)


def _render(tokenizer, conversation: list[dict], options: dict[str, Any]) -> str:
    """The conversation, or nothing where the template refuses it: it has no tools, say."""
    try:
        return tokenizer.apply_chat_template(conversation, tokenize=False, **options)
    except Exception:  # whatever the template raises
        return ""


def _first_token(tokenizer, text: str) -> tuple[str, str]:
    """The first added token in a text, and what stands before it; words and white space do not end a turn."""
    names = {token.content for token in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    found = [(text.index(name), -len(name), name) for name in names if name.strip() and name in text]
    if not found:
        return "", ""
    place, _, name = min(found)
    return ("", "") if text[:place].strip() else (name, text[:place])
