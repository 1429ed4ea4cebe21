"""What ends a turn, asked of templates of many shapes."""

import pytest
from chat_templates import TEMPLATES, with_template
from transformers import GenerationConfig

from modeling_dvpo.text.turn_ends import TurnEnd, end_ids, turn_end


class Policy:
    def __init__(self, *ids):
        self.generation_config = GenerationConfig(eos_token_id=list(ids) or None)


@pytest.mark.parametrize("name", TEMPLATES)
def test_one_token_ends_a_turn(tiny_tokenizer, name):
    """The tokenizer's end token was taken for it everywhere, which is another one for half of these."""
    tokenizer, (_, eos, end) = with_template(tiny_tokenizer, name), TEMPLATES[name]
    found = turn_end(tokenizer)
    assert found.of({"role": "assistant", "content": "hello"}) == end
    assert tokenizer.convert_ids_to_tokens(end_ids(tokenizer))[: 1 + (end != eos)] == list(dict.fromkeys([eos, end]))


def test_where_nothing_closes_a_turn_the_next_role_does(tiny_tokenizer):
    found = turn_end(with_template(tiny_tokenizer, "glm"))
    assert found == TurnEnd(next_roles={"user": "<|user|>", "tool": "<|observation|>"})
    assert found.of({"role": "assistant", "content": "", "tool_calls": [{}]}) == "<|observation|>"


def test_the_generation_config_comes_first_and_none_twice(tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, "chatml")
    eos, end = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    assert end_ids(tokenizer, Policy()) == [eos, end]
    assert end_ids(tokenizer, Policy(7, end)) == [7, end, eos]
    tokenizer.chat_template = None
    assert end_ids(tokenizer) == [eos]


@pytest.mark.parametrize(
    ("template", "end"),
    [
        # words between turns: no one token ends a turn
        ("{% for m in messages %}\n### {{ m.role }}: {{ m.content }}{% endfor %}", TurnEnd()),
        # white space on both sides, as Llama-2's
        (
            "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}"
            "{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}",
            TurnEnd("<end>", before=" ", after=" "),
        ),
        # a template that takes no assistant's turn, or writes none
        ("{{ messages[0].content }}", TurnEnd()),
        ("{{ raise_exception('no') }}", TurnEnd()),
    ],
)
def test_other_shapes(tiny_tokenizer, template, end):
    tiny_tokenizer.chat_template = template
    assert turn_end(tiny_tokenizer) == end


def test_what_is_known_of_a_template_is_not_kept_for_another(tiny_tokenizer):
    tiny_tokenizer.chat_template = "{% for m in messages %}{{ m.content + (end or '<end>') }}{% endfor %}"
    assert turn_end(tiny_tokenizer).closer == turn_end(tiny_tokenizer).closer == "<end>"
    assert turn_end(tiny_tokenizer, chat_template_kwargs={"end": "<s>"}).closer == "<s>"
    tiny_tokenizer.chat_template = tiny_tokenizer.chat_template.replace("<end>", "<pad>")
    assert turn_end(tiny_tokenizer).closer == "<pad>"
