"""Chats of reward sets and prompts whose template writes other things than their messages say."""

import pytest
from chat_templates import with_template
from reward_rows import TURNS, actions

from modeling_dvpo.training.data.arguments import PromptArguments, RewardDataArguments
from modeling_dvpo.training.data.prompts import load_prompts
from modeling_dvpo.training.errors import ConfigError, RewardDataError
from modeling_dvpo.training.run.config import parse_config

USER = [{"role": "user", "content": "hello"}]
THOUGHT = "<think>\n\n</think>\n\n"


def paid(row, tokenizer):
    """The completion's text up to each reward."""
    first = row["completion_mask"].index(True)
    places = [place for place, reward in enumerate(row["rewards"]) if reward]
    return [tokenizer.decode(row["input_ids"][first : place + 1]) for place in places]


class TestStepEnds:
    def load(self, load, content, ends, prompt=USER):
        row = {"prompt": prompt, "completion": content, "reward": [1.0, 2.0], "step_ends": ends}
        return load(row, {**row, "reward": [2.0, 2.0]})[0]

    def test_count_from_the_content_not_from_a_text_like_it(self, load, tiny_tokenizer):
        """`rfind` found "im" in `<|im_end|>`: both rewards were on the end token."""
        tokenizer = with_template(tiny_tokenizer, "chatml")
        assert paid(self.load(load, "im", [1, 2]), tokenizer) == ["i", "im<|im_end|>"]

    def test_of_a_content_that_the_template_trims(self, load, tiny_tokenizer):
        """It was found in the user's message, which is before all actions: the first reward was on the first token."""
        tokenizer, prompt = with_template(tiny_tokenizer, "gemma"), [{"role": "user", "content": "say  a? b "}]
        assert paid(self.load(load, " a? b ", [3, 6], prompt), tokenizer) == [" a?", " a? b <end_of_turn>"]

    def test_of_a_content_that_begins_in_the_generation_prompt(self, load, tiny_tokenizer):
        tokenizer, content = with_template(tiny_tokenizer, "r1"), "<think>\na?</think>5"
        assert paid(self.load(load, content, [10, len(content)]), tokenizer) == ["a?", "a?</think>5<|end_of_text|>"]


class TestParts:
    parts = [{"type": "text", "text": "The answer"}, {"type": "text", "text": " is 5."}]

    def test_are_read_as_their_text(self, load, tiny_tokenizer):
        """Templates of language models wrote them as Python does: `[{'type': 'text', ...`, as action tokens."""
        rows = load(
            {"messages": [USER[0], {"role": "assistant", "content": self.parts}], "reward": 1.0},
            {"messages": [{**USER[0], "content": [{"type": "text", "text": "hello"}]}, TURNS[4]], "reward": 0.0},
        )
        assert rows[0]["input_ids"] == rows[1]["input_ids"]
        assert actions(rows[0], tiny_tokenizer) == ["The answer is 5.<end>"]

    def test_that_are_no_text_are_refused(self, load):
        image = {"role": "user", "content": [{"type": "image"}]}
        message = "wrong kind .* a part of type 'image' in a message of role 'user'"
        with pytest.raises(RewardDataError, match=message):
            load({"messages": [image, TURNS[1]], "reward": 1.0})


class TestTemplateArguments:
    @pytest.mark.parametrize("given", [{"enable_thinking": False}, '{"enable_thinking": false}'])
    def test_reach_every_rendering(self, load, write, tiny_tokenizer, given):
        tokenizer = with_template(tiny_tokenizer, "qwen3")
        chat = {"prompt": USER, "completion": "5", "reward": 1.0}
        rows = load(chat, {**chat, "reward": 0.0}, chat_template_kwargs=given)
        before = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n" + THOUGHT
        assert tokenizer.decode(rows[0]["input_ids"]) == before + "5<|im_end|>"
        assert actions(rows[0], tokenizer) == ["5<|im_end|>"]

        name = write({"prompt": USER})
        args = PromptArguments(dataset=name, chat_template_kwargs=given)
        prompts = load_prompts(name, "train", args, tokenizer, max_completion_length=9)
        assert tokenizer.decode(prompts[0].input_ids) == before
        assert prompts[0].chat_template_kwargs == {"enable_thinking": False}

    def test_on_the_command_line_and_in_a_recipe(self, tmp_path):
        (tmp_path / "a.yaml").write_text("dataset: a.jsonl\nchat_template_kwargs: {enable_thinking: false}")
        flags = ["--dataset", "a.jsonl", "--chat_template_kwargs", '{"enable_thinking": false}']
        for given in ([str(tmp_path / "a.yaml")], flags):
            for kind in (RewardDataArguments, PromptArguments):
                [args] = parse_config((kind,), given)
                assert args.chat_template_kwargs == {"enable_thinking": False}

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("{enable", "chat_template_kwargs is '{enable': Expecting property name"),
            ("[1]", "it is a list, and must be a mapping"),
            ({"tokenize": True}, "chat_template_kwargs has 'tokenize', which is set by what reads the rows: leave it"),
        ],
    )
    def test_that_are_none_are_refused(self, given, message):
        for kind in (RewardDataArguments, PromptArguments):
            with pytest.raises(ConfigError, match=message):
                kind(dataset="a.jsonl", chat_template_kwargs=given)


class TestRefusals:
    said = "<think>\nso\n</think>\n\n4"

    def test_the_advice_is_not_for_who_follows_it(self, load, tiny_tokenizer):
        """A turn in a row of its own was refused with the advice to give each turn a row of its own."""
        with_template(tiny_tokenizer, "qwen3")
        messages = [*USER, {"role": "assistant", "content": self.said}, *TURNS[3:]]
        message = r"1 of 2 rows .* rewrites once other turns follow, .* .row 0; .* message 1 is .* a row of its own"
        with pytest.raises(RewardDataError, match=message):
            load({"messages": messages, "reward": 1.0}, {"messages": messages[:2], "reward": 0.0})
        rows = load({"messages": messages[:2], "reward": 1.0}, {"messages": messages[2:], "reward": 0.0})
        assert actions(rows[0], tiny_tokenizer) == [self.said + "<|im_end|>"]

    def test_tool_calls_that_the_template_writes_otherwise(self, load, tiny_tokenizer):
        with_template(tiny_tokenizer, "llama3")
        tiny_tokenizer.chat_template = tiny_tokenizer.chat_template.replace(
            "| trim }}", "| trim }}{{ (message.tool_calls or '') | tojson }}"
        )
        turn = {"role": "assistant", "content": " so ", "tool_calls": [{"function": {"name": "add"}}]}
        message = r"row 0; .* message 1's content is not written as it is.* Give all that the policy wrote"
        with pytest.raises(RewardDataError, match=message):
            load({"prompt": USER, "completion": [turn], "reward": 1.0})


def test_a_next_roles_marker_may_be_left_out_of_token_rewards(load, tiny_tokenizer):
    tokenizer = with_template(tiny_tokenizer, "glm")
    count = len(tokenizer("yo").input_ids)
    row = {"prompt": USER, "completion": "yo"}
    rows = load({**row, "token_rewards": [1.0] * count}, {**row, "token_rewards": [1.0] * count + [2.0]})
    assert [row["rewards"][-1] for row in rows] == [0.0, 2.0] and rows[0]["input_ids"] == rows[1]["input_ids"]
    assert actions(rows[0], tokenizer) == ["yo<|user|>"]
