"""What a run compares of its data when it goes on."""

import pytest
from reward_rows import text

from modeling_dvpo.training.data.arguments import PromptArguments
from modeling_dvpo.training.data.fingerprints import prompt_facts, require_same_data, reward_set_facts
from modeling_dvpo.training.data.prompts import load_prompts
from modeling_dvpo.training.errors import ConfigError


def test_rows_that_differ_in_anything_differ(load):
    rows = [text(0.0), text(1.0)]
    facts = reward_set_facts(load(*rows), "training")
    assert reward_set_facts(load(*rows), "training") == facts and facts["training rows"] == 2
    tokens, rewards = "tokens of the training rows", "rewards of the training rows"

    def changed(*rows, **settings):
        found = reward_set_facts(load(*rows, **settings), "training")
        return {name for name in facts if found[name] != facts[name]}

    assert changed(text(0.0), text(2.0)) == {rewards}
    assert changed(text(0.0), text(1.0, prompt="What is 2 + two?")) >= {tokens}
    assert changed(text(1.0), text(0.0)) == {rewards}
    assert changed(*rows, text(1.0)) == {"training rows", tokens, rewards}


def test_prompts_that_differ_in_anything_differ(write, tiny_tokenizer):
    def facts(*rows):
        args = PromptArguments(dataset=write(*rows))
        return prompt_facts(load_prompts(args.dataset, "train", args, tiny_tokenizer, max_completion_length=8), "all")

    rows = [{"prompt": "1 + 1?", "answer": "2"}, {"prompt": "2 + 2?", "answer": "4"}]
    first = facts(*rows)
    assert facts(*rows) == first and first["all prompts"] == 2

    def changed(*rows):
        return {name for name, fact in facts(*rows).items() if first[name] != fact}

    assert changed(rows[1], rows[0]) == {"tokens of the all prompts", "other columns of the all prompts"}
    assert changed(rows[0], {**rows[1], "answer": "5"}) == {"other columns of the all prompts"}
    assert changed(rows[0]) == set(first)


def test_what_changed_is_named():
    require_same_data({"rows": 2, "tokens": "ab"}, {"tokens": "ab", "rows": 2}, "out")
    message = r"run in out was started on other data: rows \(was 2, is 3\); held-out \(was 1, is None\)\. Give it"
    with pytest.raises(ConfigError, match=message):
        require_same_data({"rows": 2, "held-out": 1}, {"rows": 3}, "out")
    with pytest.raises(ConfigError, match=r"rows \(was None, is 3\)"):
        require_same_data(None, {"rows": 3}, "out")  # a checkpoint that knows nothing of its data
