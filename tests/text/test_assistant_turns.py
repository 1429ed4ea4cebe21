"""Where a conversation's completion begins, and what of its text the policy wrote."""

import pytest
from chat_templates import TEMPLATES, with_template

from modeling_dvpo.text.assistant_turns import ChatTemplate, assistant_turns, split_conversation
from modeling_dvpo.text.problems import DataError, RowProblem

SYSTEM, USER, ASSISTANT = ({"role": role, "content": "hello"} for role in ("system", "user", "assistant"))


@pytest.mark.parametrize(
    ("prompt", "completion"),
    [
        ([SYSTEM, USER], [ASSISTANT]),
        ([USER], [ASSISTANT, USER, ASSISTANT]),  # the first turn, not the last
        ([], [ASSISTANT]),
        ([USER, SYSTEM], []),
        ([], []),
    ],
)
def test_a_completion_begins_with_the_first_assistant_turn(prompt, completion):
    assert split_conversation(prompt + completion) == (prompt, completion)


def said(*contents, **more):
    """A user's "hello", the assistant, the user, and so on."""
    roles = ["assistant", "user"] * len(contents)
    turns = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return [USER, *turns[:-1], {**turns[-1], **more}]


def written(tokenizer, conversation, *, truncated=False, **kwargs):
    """The texts of the policy's turns, and the text before the first."""
    template = ChatTemplate(tokenizer, chat_template_kwargs=kwargs)
    text, turns = assistant_turns(template, conversation, truncated=truncated)
    return [text[turn.start : turn.end] for turn in turns], text[: turns[0].start]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_turn_ends_with_one_token_or_is_cut_off(tiny_tokenizer, name):
    """The "\\n" behind an end token was an action and got the reward, and truncated rows kept their end token, where
    that was not the tokenizer's. {% generation %} blocks that open in the generation prompt lost the first turn."""
    tokenizer, end = with_template(tiny_tokenizer, name), TEMPLATES[name][2]
    assert written(tokenizer, said("yo"))[0] == ["yo" + end]
    assert written(tokenizer, said("yo and th"), truncated=True)[0] == ["yo and th"]
    if name != "r1":
        conversation = said("yo", "again", "yo and th")
        assert written(tokenizer, conversation)[0] == ["yo" + end, "yo and th" + end]
        assert written(tokenizer, conversation, truncated=True)[0] == ["yo" + end, "yo and th"]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    "content", ["4", "<think>\nso\n</think>\n\n4", " 4\n", "<think>\nso", "user\n<think>", "\n\n4"]
)
def test_the_last_turn_is_what_the_message_says(tiny_tokenizer, name, content):
    """Templates left `\\n\\n4` of an answer with its reasoning, put an empty block of thought before one without,
    moved a thought that was cut off, trimmed: what nobody wrote was learnt from."""
    tokenizer, end = with_template(tiny_tokenizer, name), TEMPLATES[name][2]
    [turn], prompt = written(tokenizer, said(content))
    assert prompt == tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    # R1's generation prompt has opened the thought already
    assert turn == (content.removeprefix("<think>\n") if name == "r1" else content) + end


def test_a_generation_prompt_with_a_thought_is_state(tiny_tokenizer):
    """Qwen3 without thinking; whether the message repeats the empty thought or not."""
    tokenizer, thought = with_template(tiny_tokenizer, "qwen3"), "<think>\n\n</think>\n\n"
    for content in ("4", thought + "4"):
        turns, prompt = written(tokenizer, said(content), enable_thinking=False)
        assert turns == ["4<|im_end|>"] and prompt.endswith("assistant\n" + thought)


def test_the_users_last_words_are_not_the_generation_prompts(tiny_tokenizer):
    tiny_tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert written(tiny_tokenizer, said("hello world"))[0] == ["hello world"]
    assert written(tiny_tokenizer, said("yo", "and", "so"))[0] == ["yo", "so"]  # nothing is written between them


def test_two_characters_that_agree_with_the_generation_prompt_are_an_accident(tiny_tokenizer):
    """It ends in "assistant\\n"."""
    assert written(with_template(tiny_tokenizer, "chatml"), said("nt\nso"))[0] == ["nt\nso<|im_end|>"]


def test_a_conversation_without_an_assistant_is_text_alone(tiny_tokenizer):
    text = tiny_tokenizer.apply_chat_template([USER], tokenize=False)
    assert assistant_turns(ChatTemplate(tiny_tokenizer), [USER]) == (text, [])


def test_white_space_that_the_template_writes_around_a_content_belongs_to_the_turn(tiny_tokenizer):
    tiny_tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}"
        "{{ ' ' + m.content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    )
    assert written(tiny_tokenizer, said("yo", "and", " so"))[0] == [" yo <end>", " so <end>"]


@pytest.mark.parametrize(
    ("name", "conversation"),
    [
        ("qwen3", said("<think>\nso\n</think>\n\n4", "and", "5")),  # reasoning is left out later
        ("gemma", said("4\n", "and", "5")),  # trimmed
        ("r1", said("4", "and", "5")),  # the policy read a thought's beginning that the conversation has not
    ],
)
def test_an_earlier_turn_that_is_rewritten_is_refused(tiny_tokenizer, name, conversation):
    with pytest.raises(RowProblem, match="message 1 is rewritten inside the conversation") as raised:
        written(with_template(tiny_tokenizer, name), conversation)
    assert raised.value.kind == "earlier turn"


CALLING = (
    "{% for m in messages %}<|im_start|>{{ m.role + '\\n' }}"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content VERBATIM }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function.name }}</tool_call>{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class TestToolCallsAndReasoning:
    call = {"reasoning_content": "im so", "tool_calls": [{"type": "function", "function": {"name": "add"}}]}

    def test_are_written_by_the_template(self, tiny_tokenizer):
        tokenizer = with_template(tiny_tokenizer, "chatml")
        tokenizer.chat_template = CALLING.replace("VERBATIM", "")
        conversation = said("im", **self.call)
        assert written(tokenizer, conversation)[0] == ["<think>im so</think>im<tool_call>add</tool_call><|im_end|>"]
        cut, _ = written(tokenizer, conversation, truncated=True)
        assert cut == ["<think>im so</think>im<tool_call>add</tool_call>"]
        [turn] = assistant_turns(ChatTemplate(tokenizer), conversation)[1]
        assert turn.content - turn.start == len("<think>im so</think>")

    @pytest.mark.parametrize(("how", "content"), [("| trim", " im"), ("if not m.tool_calls", "\n")])
    def test_with_a_content_that_the_template_changes_or_leaves_out_are_refused(self, tiny_tokenizer, how, content):
        """Also where the text happens to end as the content does."""
        tokenizer = with_template(tiny_tokenizer, "chatml")
        tokenizer.chat_template = CALLING.replace("VERBATIM", how)
        with pytest.raises(RowProblem, match="message 1's content is not written as it is") as raised:
            written(tokenizer, said(content, **self.call))
        assert raised.value.kind == "last turn"

    def test_keys_that_the_template_does_not_write_change_nothing(self, tiny_tokenizer):
        tokenizer = with_template(tiny_tokenizer, "qwen3")
        assert written(tokenizer, said(" 4\n", weight=1))[0] == [" 4\n<|im_end|>"]


def test_turns_that_a_template_does_not_mark_do_not_count(tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, "chatml")
    turn = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>"
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.learn %}{% generation %}"
        + turn
        + "{% endgeneration %}{% else %}"
        + turn
        + "{% endif %}"
        "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
    )
    assert written(tokenizer, said("yo", "and", "so", learn=True))[0] == ["so<|im_end|>"]
    assert written(tokenizer, [*said("yo", learn=True), USER, ASSISTANT])[0] == ["yo<|im_end|>"]


def test_arguments_that_are_not_the_templates_own_are_refused(tiny_tokenizer):
    with pytest.raises(DataError, match="chat_template_kwargs has 'tokenize', which is set by what reads the rows"):
        ChatTemplate(tiny_tokenizer, chat_template_kwargs={"tokenize": True, "enable_thinking": False})
