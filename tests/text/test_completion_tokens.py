"""Prompts to tokens, and completions to text; completions with their prompts are tested with what reads them."""

import pytest

from modeling_dvpo.text.completion_tokens import completion_of, prompt_tokens
from modeling_dvpo.text.problems import DataError, RowProblem

CHAT = [{"role": "user", "content": "hello", "tool_calls": None}]  # Arrow adds keys without a value


def test_a_text_and_a_chat_up_to_the_assistants_turn(tiny_tokenizer):
    assert prompt_tokens(tiny_tokenizer, "hello") == tiny_tokenizer("hello").input_ids
    assert tiny_tokenizer.decode(prompt_tokens(tiny_tokenizer, CHAT)) == "<s>user: hello<end>\n<s>assistant: "


def test_tools_reach_the_template_and_none_of_them_are_no_tools(tiny_tokenizer):
    tiny_tokenizer.chat_template = "{% if tools is none %}no tools{% else %}{{ tools[0].type }}{% endif %}"
    texts = [
        tiny_tokenizer.decode(prompt_tokens(tiny_tokenizer, CHAT, tools)) for tools in (None, [], [{"type": "a"}])
    ]
    assert texts == ["no tools", "no tools", "a"]


@pytest.mark.parametrize(
    ("prompt", "kind", "found"),
    [
        ("", "empty", "'' has no tokens"),
        (["hello"], "not text", "not a list of messages"),
        (CHAT, "chat template", "TemplateError: no users"),
    ],
)
def test_prompts_that_cannot_be_read(tiny_tokenizer, prompt, kind, found):
    tiny_tokenizer.bos_token = None
    tiny_tokenizer.chat_template = "{{ raise_exception('no users') }}"
    with pytest.raises(RowProblem, match=found) as raised:
        prompt_tokens(tiny_tokenizer, prompt)
    assert raised.value.kind == kind


def test_a_chat_needs_a_template(tiny_tokenizer):
    tiny_tokenizer.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        prompt_tokens(tiny_tokenizer, CHAT)


def test_a_completion_has_no_end_token(tiny_tokenizer):
    ids, end = tiny_tokenizer(" world").input_ids, tiny_tokenizer.eos_token_id
    turn = [{"role": "assistant", "content": " world"}]
    for written in (ids, [*ids, end]):
        assert completion_of(tiny_tokenizer, "hello", written, [end]) == " world"
        assert completion_of(tiny_tokenizer, CHAT, written, [end]) == turn
    # an end token that is not special is left out, too
    assert completion_of(tiny_tokenizer, "hello", [*ids, ids[-1]], [7, ids[-1]]) == " world"
