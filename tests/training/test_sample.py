"""Whole runs of the script on a tiny policy: the rows, the ways to interrupt it, and what train_critic.py makes of
them."""

import json
import shutil

import pytest
from conftest import tiny_tokenizer
from scripts import Stop, flags, read_rows, run_on_ranks, write_rows
from tiny_policies import policy_that_ends
from transformers import AutoTokenizer

import modeling_dvpo.training.sample as script
from modeling_dvpo.training import train_critic
from modeling_dvpo.training.data.arguments import RewardDataArguments
from modeling_dvpo.training.data.reward_sets import load_reward_data
from modeling_dvpo.training.errors import ConfigError, RewardDataError
from modeling_dvpo.training.sampling.run import SampleRun

SAMPLING = {
    "reward_funcs": "made_up_rewards:vowels",
    "num_generations": 3,
    "max_completion_length": 10,
    "generation_batch_size": 8,
}
PROMPTS = [{"prompt": "What is " + "2 + " * (i % 4) + f"{i}?", "number": i / 10} for i in range(9)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Flags that name a tiny policy and prompts."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = tiny_tokenizer._get_wrapped_function()()
    policy_that_ends(tokenizer).save_pretrained(folder / "policy")
    tokenizer.save_pretrained(folder / "policy")
    return {
        "model_name_or_path": str(folder / "policy"),
        "dataset": write_rows(folder / "prompts.jsonl", PROMPTS),
        **SAMPLING,
    }


def run(output_dir, *settings, **more):
    script.main(flags(*settings, output_dir=output_dir, **more))
    return read_rows(output_dir / "reward_set.jsonl")


@pytest.fixture(scope="module")
def whole(inputs, tmp_path_factory):
    """Directory and rows of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    return folder, run(folder, inputs)


def stop_at_batch(monkeypatch, number):
    """The run is lost while it samples this batch, counted from 0."""
    original, count = SampleRun.sample, iter(range(100))

    def sample(self, batches, done):
        rows = self.rows

        def stopping(prompts):
            if next(count) == number:
                raise Stop
            return rows(prompts)

        self.rows = stopping
        return original(self, batches, done)

    monkeypatch.setattr(SampleRun, "sample", sample)


def test_rows(whole, inputs):
    folder, rows = whole
    assert [row["group"] for row in rows] == [i for i in range(9) for _ in range(3)]
    tokenizer = AutoTokenizer.from_pretrained(inputs["model_name_or_path"])
    for row in rows:
        prompt = PROMPTS[row["group"]]
        assert row["prompt"] == prompt["prompt"] and row["number"] == prompt["number"]
        assert row["prompt_ids"] == tokenizer(row["prompt"]).input_ids
        ids = row["completion_ids"]
        assert tokenizer.decode(ids, skip_special_tokens=True) == row["completion"]
        assert row["truncated"] == (ids[-1] != tokenizer.eos_token_id) and len(row["logprobs"]) == len(ids)
        assert row["reward"] == row["reward/vowels"] >= prompt["number"]
    assert {row["truncated"] for row in rows} == {True, False}
    assert len({row["seed"] for row in rows}) == len({tuple(row["completion_ids"]) for row in rows}) == len(rows)
    sources = json.loads((folder / "sources.json").read_text())
    assert {row["policy"] for row in rows} == {sources["sources"]["policy"]}
    assert list(sources["policy_files"]) == ["model.safetensors"]
    assert not (folder / "shards").exists()


def test_a_critic_trains_on_them(whole, inputs, tmp_path):
    """And reads the tokens that were sampled, of which the text does not give all again."""
    folder, rows = whole
    tokenizer = AutoTokenizer.from_pretrained(inputs["model_name_or_path"])
    path = str(folder / "reward_set.jsonl")
    found, _ = load_reward_data(RewardDataArguments(dataset=path), tokenizer)
    assert found["input_ids"][:] == [row["prompt_ids"] + row["completion_ids"] for row in rows]
    without = {"completion_ids_column": "none", "prompt_ids_column": "none"}
    filled = write_rows(tmp_path / "filled.jsonl", [row for row in rows if row["completion"]])
    as_text, _ = load_reward_data(RewardDataArguments(dataset=filled, **without), tokenizer)
    assert as_text["input_ids"][:] != [row["prompt_ids"] + row["completion_ids"] for row in rows if row["completion"]]
    settings = {"model_name_or_path": inputs["model_name_or_path"], "dataset": path, "num_quantiles": 4}
    train_critic.main(flags(settings, max_steps=1, output_dir=tmp_path / "critic"))
    assert (tmp_path / "critic" / "last" / "model.safetensors").exists()


def test_batches_do_not_matter(whole, inputs, tmp_path):
    _, rows = whole
    for row, other in zip(rows, run(tmp_path / "run", inputs, generation_batch_size=3), strict=True):
        assert row["logprobs"] == pytest.approx(other["logprobs"], abs=1e-4)
        assert {**row, "logprobs": None} == {**other, "logprobs": None}


@pytest.mark.parametrize("half_a_line", [False, True])
def test_it_goes_on_as_if_never_interrupted(whole, inputs, tmp_path, monkeypatch, half_a_line):
    folder, _ = whole
    with monkeypatch.context() as patch, pytest.raises(Stop):
        stop_at_batch(patch, 2)
        run(tmp_path / "run", inputs)
    shard = tmp_path / "run" / "shards" / "rank-00000.jsonl"
    lines = shard.read_bytes().splitlines(keepends=True)
    assert len(lines) == 3  # of nine prompts, two at a time, the longest came first, alone
    if half_a_line:
        shard.write_bytes(b"".join(lines[:2]) + lines[2][:-20])
    asked = []
    with monkeypatch.context() as patch:
        original = SampleRun.sample
        patch.setattr(
            SampleRun, "sample", lambda self, batches, done: asked.extend(batches) or original(self, batches, done)
        )
        run(tmp_path / "run", inputs, resume=True)
    assert len(asked) == (4 if half_a_line else 3)
    assert (tmp_path / "run" / "reward_set.jsonl").read_bytes() == (folder / "reward_set.jsonl").read_bytes()


def test_ranks_do_not_matter(whole, inputs, tmp_path):
    folder, _ = whole
    run_on_ranks(script.__file__, flags(inputs, output_dir=tmp_path / "run"))
    assert (tmp_path / "run" / "reward_set.jsonl").read_bytes() == (folder / "reward_set.jsonl").read_bytes()
    assert not (tmp_path / "run" / "shards").exists()


def test_a_complete_run_stays_as_it_is(whole, inputs, capsys):
    folder, rows = whole
    assert run(folder, inputs, resume=True) == rows
    assert f"{folder / 'reward_set.jsonl'} is complete." in capsys.readouterr().out
    with pytest.raises(ConfigError, match="holds another run.*--resume.*--overwrite_output_dir"):
        run(folder, inputs)


def test_other_settings_policies_and_prompts_are_refused_by_name(inputs, tmp_path):
    copied = {"model_name_or_path": tmp_path / "policy", "dataset": tmp_path / "prompts.jsonl"}
    shutil.copytree(inputs["model_name_or_path"], copied["model_name_or_path"])
    write_rows(copied["dataset"], PROMPTS[:3])
    inputs = {**inputs, **copied}
    run(tmp_path / "run", inputs)
    with pytest.raises(ConfigError, match="other settings: temperature .was 1.0, is 0.5."):
        run(tmp_path / "run", inputs, temperature=0.5, resume=True)
    write_rows(copied["dataset"], PROMPTS[1:4])
    with pytest.raises(ConfigError, match="other data: tokens of the sampled prompts .* other columns of the sampled"):
        run(tmp_path / "run", inputs, resume=True)
    write_rows(copied["dataset"], PROMPTS[:3])
    policy = policy_that_ends(AutoTokenizer.from_pretrained(copied["model_name_or_path"]))
    policy.lm_head.weight.data += 1
    policy.save_pretrained(copied["model_name_or_path"])
    with pytest.raises(ConfigError, match="other data: policy .was .*, is "):
        run(tmp_path / "run", inputs, resume=True)
    rows = run(tmp_path / "run", inputs, overwrite_output_dir=True)
    assert len(rows) == 9


def test_without_rewards_and_with_an_adapter(inputs, tmp_path):
    """Chats; bfloat16; weights of base and adapter stand for the policy."""
    import peft

    policy = policy_that_ends(AutoTokenizer.from_pretrained(inputs["model_name_or_path"]))
    config = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    policy.add_adapter(config)
    policy.peft_config["default"].base_model_name_or_path = inputs["model_name_or_path"]
    policy.save_pretrained(tmp_path / "adapter")
    settings = {"model_name_or_path": tmp_path / "adapter", "reward_funcs": None, "bf16": True, "chat": True}
    rows = run(tmp_path / "run", inputs, settings)
    assert len(rows) == 27 and "reward" not in rows[0]
    assert rows[0]["prompt"] == [{"role": "user", "content": PROMPTS[0]["prompt"]}]
    assert all(row["completion"][0]["role"] == "assistant" for row in rows)
    record = json.loads((tmp_path / "run" / "sources.json").read_text())
    assert sorted(record["policy_files"]) == ["adapter_model.safetensors", "base/model.safetensors"]


def test_what_is_asked_for_wrongly(inputs, tmp_path):
    with pytest.raises(ConfigError, match="reward_noise corrupts rewards, and there are none"):
        run(tmp_path / "run", inputs, reward_funcs=None, reward_noise="flip=0.2")
    with pytest.raises(ConfigError, match="seed is -1"):
        run(tmp_path / "run", inputs, seed=-1)
    with pytest.raises(RewardDataError, match="scored by no reward function"):
        run(tmp_path / "run", inputs, reward_funcs="made_up_rewards:never")
