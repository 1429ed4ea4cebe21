"""Prompts: how they are read and tokenised, what is refused, and the order they come in."""

import logging

import pytest
from tiny_models import tiny_config
from tokenizers.processors import TemplateProcessing

from modeling_dvpo.text.problems import DataError
from modeling_dvpo.training.data.arguments import PromptArguments
from modeling_dvpo.training.data.prompts import PromptSampler, load_prompts
from modeling_dvpo.training.errors import ConfigError, RewardDataError
from modeling_dvpo.training.run.config import parse_config

USER = {"role": "user", "content": "hello"}
SYSTEM = {"role": "system", "content": "First add"}
ASKED = "<s>user: hello<end>\n<s>assistant: "


@pytest.fixture
def load(write, tiny_tokenizer):
    """Write these rows to a file and load them."""

    def load(*rows, model_config=None, max_completion_length=8, **settings):
        args = PromptArguments(dataset=write(*rows), **settings)
        options = {"model_config": model_config, "max_completion_length": max_completion_length}
        return load_prompts(args.dataset, "train", args, tiny_tokenizer, **options)

    return load


def test_a_text_prompt_with_its_columns(load, tiny_tokenizer):
    (prompt,) = load({"prompt": "What is 2 + 3?", "answer": 5})
    assert (prompt.index, prompt.prompt, prompt.columns) == (0, "What is 2 + 3?", {"answer": 5})
    assert prompt.input_ids == tiny_tokenizer("What is 2 + 3?", add_special_tokens=False).input_ids


def test_a_begin_token_comes_first_where_the_tokenizer_puts_one(load, tiny_tokenizer):
    tiny_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A <end>", special_tokens=[("<s>", 1), ("<end>", 2)]
    )
    (prompt,) = load({"prompt": "hello"})
    # the end token that this tokenizer appends would tell the policy that there is nothing more to say
    assert prompt.input_ids == [1, *tiny_tokenizer("hello", add_special_tokens=False).input_ids]


@pytest.mark.parametrize(
    ("row", "settings", "text", "messages"),
    [
        ({"prompt": [USER]}, {}, ASKED, [USER]),
        ({"prompt": "hello"}, {"chat": True}, ASKED, [USER]),
        ({"prompt": "hello"}, {"system_prompt": "First add"}, f"<s>system: First add<end>\n{ASKED}", [SYSTEM, USER]),
        # its own system message stays the only one
        (
            {"prompt": [SYSTEM, USER]},
            {"system_prompt": "other"},
            f"<s>system: First add<end>\n{ASKED}",
            [SYSTEM, USER],
        ),
        ({"messages": [USER], "answer": 1}, {}, ASKED, [USER]),
    ],
)
def test_chats_go_through_the_template_once(load, tiny_tokenizer, row, settings, text, messages):
    (prompt,) = load(row, **settings)
    assert prompt.prompt == messages
    assert prompt.input_ids == tiny_tokenizer(text, add_special_tokens=False).input_ids
    assert not {"prompt", "messages"} & set(prompt.columns)


def test_tools_reach_the_template(load, tiny_tokenizer):
    tiny_tokenizer.chat_template = "{% for tool in tools or [] %}[{{ tool.name }}]{% endfor %}" + (
        tiny_tokenizer.chat_template
    )
    with_tools, without = load(
        {"prompt": [USER], "tools": [{"name": "add"}]},
        {"prompt": [USER], "tools": []},
    )
    assert tiny_tokenizer.decode(with_tools.input_ids).startswith("[add]<s>user")
    assert tiny_tokenizer.decode(without.input_ids).startswith("<s>user")


def test_keys_that_only_other_messages_have_are_not_in_a_message(load):
    first, second = load({"prompt": [USER]}, {"prompt": [{**USER, "name": "Ada"}]})
    assert first.prompt == [USER]
    assert second.prompt == [{**USER, "name": "Ada"}]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompts": "hello"}], r"No column 'prompt'.*set `prompt_column=prompts`"),
        (
            [{"prompt": ""}, {"prompt": "hello"}, {"prompt": None}],
            r"2 of 3 prompts .* are empty \(rows 0, 2; the first: ''\)",
        ),
        ([{"prompt": 3}], "neither text nor chat messages .*row 0; the first: 3"),
        (
            [{"prompt": [USER]}, {"prompt": [USER, {"role": "assistant", "content": "hi"}]}],
            "end with an assistant message .*row 1.*cut off the last message",
        ),
        ([{"prompt": "hello", "completions": "hello"}], "has a column 'completions'.*rename or remove"),
    ],
)
def test_what_cannot_be_a_prompt_is_refused(load, rows, message):
    with pytest.raises(RewardDataError, match=message):
        load(*rows)


def test_chats_need_a_template_that_takes_them(load, tiny_tokenizer):
    tiny_tokenizer.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(RewardDataError, match="refused by the chat template.*no system role"):
        load({"prompt": [USER]})
    tiny_tokenizer.chat_template = None
    with pytest.raises(DataError, match="no chat template"):
        load({"prompt": [USER]})
    with pytest.raises(DataError, match="no chat template"):
        load({"prompt": "hello"}, chat=True)


def test_prompt_and_completion_share_the_context(load, caplog):
    rows = [{"prompt": "a" * length} for length in (10, 20, 21)]
    config = tiny_config("qwen3", vocab_size=320, max_position_embeddings=50)
    kept = load(*rows, model_config=config, max_completion_length=29)
    assert [len(prompt.input_ids) for prompt in kept] == [10, 20, 21]
    needed = r"1 of 3 prompts .* 20 tokens that max_completion_length=30 leaves .*row 2; the longest has 21\).*drop"
    with pytest.raises(RewardDataError, match=needed):
        load(*rows, model_config=config, max_completion_length=30)
    with pytest.raises(RewardDataError, match=r"2 of 3 .*max_prompt_length=15 .*raise max_prompt_length"):
        load(*rows, model_config=config, max_prompt_length=15)
    with pytest.raises(ConfigError, match="max_completion_length is 50, and the model's context has 50"):
        load(*rows, model_config=config, max_completion_length=50)
    with caplog.at_level(logging.WARNING):
        kept = load(rows[2], rows[0], model_config=config, max_completion_length=30, drop_long_prompts=True)
    assert [prompt.index for prompt in kept] == [1]  # numbers of the source stay
    assert "Dropped 1 of 2 prompts" in caplog.text
    with pytest.raises(RewardDataError, match="3 of 3 prompts"):
        load(*rows, max_prompt_length=5, drop_long_prompts=True)


def test_a_tokenizer_of_another_model_is_refused(load):
    with pytest.raises(RewardDataError, match="row 1 has token id .*vocabulary ends at 98"):
        load({"prompt": "@"}, {"prompt": "hello world"}, model_config=tiny_config("qwen3", vocab_size=99))


def test_arguments_are_checked_and_can_be_parsed(tmp_path):
    (args,) = parse_config(
        (PromptArguments,), ["--dataset", "a.jsonl", "--eval_dataset", "b.jsonl", "c.jsonl", "--chat", "true"]
    )
    assert (args.eval_dataset, args.chat, args.system_prompt) == (["b.jsonl", "c.jsonl"], True, None)
    with pytest.raises(ConfigError, match="max_prompt_length is 0"):
        PromptArguments(dataset="a.jsonl", max_prompt_length=0)
    with pytest.raises(ConfigError, match="eval_dataset has the prompts that are trained on"):
        PromptArguments(dataset="org/set", eval_dataset=["org/set"])
    PromptArguments(dataset="org/set", eval_dataset=["org/set"], eval_split="test")


def test_every_epoch_has_every_prompt_once():
    sampler = PromptSampler(7, prompts_per_step=3, seed=0)
    order = [place for step in range(7) for place in sampler.step(step)]  # 21 places: three epochs
    epochs = [order[start : start + 7] for start in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_order_is_a_function_of_seed_and_step():
    steps = [PromptSampler(100, prompts_per_step=10, seed=1).step(step) for step in range(20)]
    resumed = PromptSampler(100, prompts_per_step=10, seed=1)
    assert resumed.step(13) == steps[13]
    assert PromptSampler(100, prompts_per_step=10, seed=2).step(0) != steps[0]


def test_a_step_has_no_more_prompts_than_there_are():
    with pytest.raises(ConfigError, match="takes 4 prompts and the set has 3"):
        PromptSampler(3, prompts_per_step=4, seed=0)
    assert sorted(PromptSampler(3, prompts_per_step=3, seed=0).step(5)) == [0, 1, 2]
