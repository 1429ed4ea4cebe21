"""Whole runs of the script on tiny critics and a tiny policy."""

import hashlib
import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from conftest import tiny_tokenizer
from scripts import assert_same_tree, flags, read_rows, run_on_ranks, write_rows
from tiny_critics import tiny_critic
from tiny_models import tiny_config
from tiny_policies import policy_that_ends

import modeling_dvpo.training.evaluate_critic as script
from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.inference import sampling
from modeling_dvpo.inference.scoring import score_completions
from modeling_dvpo.metrics.report import critic_report
from modeling_dvpo.metrics.scores import constant_quantiles
from modeling_dvpo.training.errors import ConfigError, RewardDataError, RolloutError
from modeling_dvpo.training.evaluation import evaluator
from modeling_dvpo.training.evaluation.predictions import Predictor

SAMPLING = {
    "reward_funcs": "made_up_rewards:long",
    "num_states": 12,
    "num_continuations": 4,
    "max_completion_length": 8,
    "generation_batch_size": 16,
}


def reward_rows(number, seed):
    draw = random.Random(seed)
    for place in range(number):
        yield {
            "prompt": f"What is {place // 2} + 3?",
            "completion": "First add two and three. " * draw.randint(0, 2) + f"The answer is {draw.randrange(100)}.",
            "reward": float(draw.random() < 0.6),
            "domain": draw.choice(["sums", "words"]),
        }


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Where a critic, a scalar critic, a policy, reward sets and prompts are."""
    folder = tmp_path_factory.mktemp("inputs")
    tokenizer = tiny_tokenizer._get_wrapped_function()()
    size = {"vocab_size": len(tokenizer)}
    models = {
        # with dropout, which evaluation must not see
        "critic": tiny_critic(
            config=tiny_config("qwen3", **size, attention_dropout=0.5), return_mean=0.5, return_scale=0.4
        ),
        "scalar": tiny_critic(config=tiny_config("qwen3", **size), seed=1, num_quantiles=1),
        "other": tiny_critic(config=tiny_config("qwen3", **size), seed=2),
    }
    models["policy"] = policy_that_ends(tokenizer)
    for name, model in models.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write_rows(folder / "held_out.jsonl", reward_rows(24, 0))
    write_rows(folder / "far.jsonl", reward_rows(10, 1))
    write_rows(folder / "train.jsonl", reward_rows(30, 2))
    write_rows(folder / "prompts.jsonl", [{"prompt": f"What is {n}?", "domain": "sums"} for n in range(5)])
    return folder


def rewarded_by(inputs):
    """Settings of a run on reward sets."""
    return {
        "critic": inputs / "critic",
        "scalar_critic": inputs / "scalar",
        "dataset": f"held-out={inputs / 'held_out.jsonl'}",
        "out_of_domain": [inputs / "far.jsonl"],
        "training_dataset": inputs / "train.jsonl",
        "subset_column": "domain",
        "states_per_part": 100,
    }


def sampled_from(inputs):
    """Settings of a run on Monte-Carlo truth."""
    models = {"critic": inputs / "critic", "policy": inputs / "policy"}
    return {**models, "prompts": f"mc={inputs / 'prompts.jsonl'}", **SAMPLING}


def read(folder):
    return json.loads((Path(folder) / "evaluation.json").read_text())


def run(folder, settings, **more):
    script.main(flags(settings, output_dir=folder, **more))
    return read(folder)


@pytest.fixture(scope="module", autouse=True)
def one_figure():
    """Drawing takes seconds, and is tested with what is drawn."""

    def draw(evaluation, folder):
        (folder / "pit.png").write_bytes(b"")
        return {"pit": "pit.png"}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluator, "draw", draw)
        yield


@pytest.fixture(scope="module")
def rewarded(inputs, tmp_path_factory):
    """A run on reward sets, and its directory."""
    folder = tmp_path_factory.mktemp("rewarded") / "run"
    return run(folder, rewarded_by(inputs)), folder


@pytest.fixture(scope="module")
def sampled(inputs, tmp_path_factory):
    """A run on Monte-Carlo truth, and its directory."""
    folder = tmp_path_factory.mktemp("sampled") / "run"
    return run(folder, sampled_from(inputs)), folder


def assert_same(found, expected):
    assert_same_tree(found, expected, rel=1e-4, abs=1e-6)


def by_hand(inputs, critic, name):
    """Quantiles (S, N, M) and returns (S,) by the function that users read completions with."""
    rows = read_rows(inputs / name)
    tokenizer = tiny_tokenizer._get_wrapped_function()()
    critic = AutoModelForDistributionalValue.from_pretrained(inputs / critic)
    scored = score_completions(critic, tokenizer, [row["prompt"] for row in rows], [row["completion"] for row in rows])
    quantiles = [one.quantiles[:-1] for one in scored]  # but for the state after the end
    returns = [torch.full((len(own),), row["reward"]) for own, row in zip(quantiles, rows, strict=True)]
    return torch.cat(quantiles), torch.cat(returns)


class TestRewardSets:
    def test_figures_are_those_of_a_critic_read_by_hand(self, inputs, rewarded):
        for one, name in zip(rewarded[0]["sets"], ("held_out.jsonl", "far.jsonl"), strict=True):
            for who in ("critic", "scalar"):
                quantiles, returns = by_hand(inputs, who, name)
                expected = critic_report(quantiles, returns, tolerance=0.1)
                found = {n: one["metrics"][who][n] for n in expected}
                assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)
            assert one["states"] == len(returns)

    def test_constant_is_the_training_set_s(self, inputs, rewarded):
        _, training = by_hand(inputs, "critic", "train.jsonl")
        _, returns = by_hand(inputs, "critic", "held_out.jsonl")
        constant = constant_quantiles(training, 5).expand(len(returns), 1, 5)
        found = rewarded[0]["sets"][0]["metrics"]["constant"]
        assert found["crps"] == pytest.approx(critic_report(constant, returns, tolerance=0.1)["crps"])
        assert found["bias"] != 0 and rewarded[0]["constant_from"] == str(inputs / "train.jsonl")

    def test_says_what_it_is_about(self, inputs, rewarded):
        found, _ = rewarded
        weights = hashlib.sha256((inputs / "critic" / "model.safetensors").read_bytes()).hexdigest()
        assert found["format"] == 1 and found["critic"] == str(inputs / "critic") and found["revision"] is None
        assert found["critic_files"] == {"model.safetensors": weights}
        assert {"modeling_dvpo", "torch", "transformers"} < found["versions"].keys()
        assert found["settings"]["states_per_part"] == 100 and "eval_fraction" not in found["settings"]
        keys = ("name", "domain", "dataset", "rows", "truth", "continuations")
        assert [[one[key] for key in keys] for one in found["sets"]] == [
            ["held-out", "in", str(inputs / "held_out.jsonl"), 24, "returns", None],
            ["far", "out", str(inputs / "far.jsonl"), 10, "returns", None],
        ]
        assert {"domain=sums", "domain=words"} < found["sets"][0]["subsets"].keys()
        assert {f"value_auc_{p}" for p in (0, 25, 50, 75, 100)} < found["sets"][0]["metrics"]["critic"].keys()

    def test_files(self, rewarded):
        found, folder = rewarded
        names = {path.name for path in folder.iterdir()}
        assert names == {"run.json", "parts", "evaluation.json", "evaluation.md", "pit.png"}
        assert found["figures"] == {"pit": "pit.png"}
        assert "| held-out | critic |" in (folder / "evaluation.md").read_text()
        parts = sorted(path.name for path in (folder / "parts" / "held-out").iterdir())
        assert len(parts) > 6 and parts[0] == "critic-00000.safetensors" and parts[-1].startswith("scalar-")

    def test_with_nothing_but_a_critic_and_a_set(self, inputs, tmp_path, monkeypatch, capsys):
        """Its own returns make the constant, and without matplotlib there are no figures."""
        monkeypatch.setattr(evaluator, "find_spec", lambda name: None)
        found = run(tmp_path / "run", {"critic": inputs / "critic", "dataset": inputs / "held_out.jsonl"})
        assert found["figures"] == {} and "There will be no figures: matplotlib" in capsys.readouterr().out
        assert found["constant_from"] is None and found["sets"][0]["name"] == "held_out"
        assert found["sets"][0]["metrics"]["constant"]["explained_variance"] == pytest.approx(0)
        assert found["sets"][0]["metrics"].keys() == {"critic", "constant"}

    def test_batches_and_parts_do_not_matter(self, inputs, rewarded, tmp_path):
        found = run(tmp_path / "run", rewarded_by(inputs), states_per_part=100000, max_tokens_per_device=90)
        assert_same(found["sets"], rewarded[0]["sets"])

    def test_gamma_is_the_critic_s(self, inputs, tmp_path):
        critic = AutoModelForDistributionalValue.from_pretrained(inputs / "critic")
        critic.config.critic_training = {"gamma": 0.9, "kl_in_reward": True}
        critic.save_pretrained(tmp_path / "critic")
        tiny_tokenizer._get_wrapped_function()().save_pretrained(tmp_path / "critic")
        settings = {"critic": tmp_path / "critic", "dataset": inputs / "held_out.jsonl"}
        with pytest.warns(UserWarning, match="KL penalty in them"):
            found = run(tmp_path / "run", settings)
        assert found["gamma"] == 0.9
        with pytest.warns(UserWarning, match="gamma is 1.0, and the critic was trained on returns of gamma 0.9"):
            assert run(tmp_path / "other", settings, gamma=1.0)["gamma"] == 1.0
        assert found["sets"][0]["metrics"]["critic"] != read(tmp_path / "other")["sets"][0]["metrics"]["critic"]


def stated(text):
    """The number that a response of `reward_rows` ends with, None where it is odd."""
    number = int(text.rstrip(".").split()[-1])
    return None if number % 2 else number


class TestBestOfN:
    def test_of_a_reward_set(self, inputs, tmp_path):
        """Two responses to each of twelve prompts: critics, policy, length and vote choose, and order pairs."""
        settings = {**rewarded_by(inputs), "policy": inputs / "policy", "answer_func": f"{__name__}:stated"}
        found = run(tmp_path / "run", settings)["sets"][0]
        judged, rows = found["best_of_n"], read_rows(inputs / "held_out.jsonl")
        assert (judged["responses"], judged["prompts"], judged["left_out"]) == (2, 12, 0)
        assert judged["ways"].keys() == {
            "chance", "critic, mean", "critic, cvar=0.5", "critic, cvar=0.1", "scalar, mean", "likelihood", "shortest",
            "majority vote", "majority vote, weighted by critic", "best there is",
        }  # fmt: skip
        rewards = torch.tensor([row["reward"] for row in rows]).reshape(-1, 2)
        assert judged["ways"]["chance"]["reward"]["2"][0] == pytest.approx(rewards.mean().item())
        assert judged["ways"]["best there is"]["reward"]["2"][0] == pytest.approx(rewards.amax(1).mean().item())
        quantiles, _ = by_hand(inputs, "critic", "held_out.jsonl")
        tokenizer = tiny_tokenizer._get_wrapped_function()()
        lengths = [len(tokenizer(row["completion"], add_special_tokens=False).input_ids) + 1 for row in rows]
        last = quantiles.mean((-2, -1))[torch.tensor(lengths).cumsum(0) - 1].reshape(-1, 2)
        chosen = rewards.gather(1, last.argmax(1, keepdim=True))
        assert judged["ways"]["critic, mean"]["reward"]["2"][0] == pytest.approx(chosen.mean().item())
        assert judged["ways"]["critic, mean"]["order"][0] == found["metrics"]["critic"]["ranking_accuracy"]
        low, high = found["intervals"]["critic"]["ranking_accuracy"]
        assert judged["ways"]["critic, mean"]["order"][1:] == [low, high]
        # one response says the better, or the other says nothing: the vote is for what is said
        said = [[stated(row["completion"]) for row in rows[start : start + 2]] for start in range(0, 24, 2)]
        voted = [
            own[1 if first is None and second is not None else 0]
            for (first, second), own in zip(said, rewards, strict=True)
        ]
        assert judged["ways"]["majority vote"]["reward"]["2"][0] == pytest.approx(torch.stack(voted).mean().item())
        page = (tmp_path / "run" / "evaluation.md").read_text()
        assert "2 responses to each of 12 prompts" in page and "| likelihood |" in page and "within prompts" in page

    def test_likelihoods_that_the_set_has(self, inputs, tmp_path):
        """Lists or sums of the log-probabilities that sampling saw; a policy that is given is asked itself."""
        rows = read_rows(inputs / "held_out.jsonl")
        for place, row in enumerate(rows):
            row["logprobs"] = [-float(place % 2), -0.5]
        write_rows(tmp_path / "set.jsonl", rows)
        settings = {"critic": inputs / "critic", "dataset": tmp_path / "set.jsonl"}
        found = run(tmp_path / "run", settings)["sets"][0]["best_of_n"]["ways"]["likelihood"]
        first = sum(row["reward"] for row in rows[::2]) / 12  # of each two the first is likelier
        assert found["reward"]["2"][0] == pytest.approx(first)
        asked = run(tmp_path / "asked", settings, policy=inputs / "policy")["sets"][0]["best_of_n"]["ways"]
        assert asked["likelihood"]["order"] != found["order"]

    def test_log_probabilities_of_another_form_are_not_read(self, inputs, tmp_path):
        rows = read_rows(inputs / "held_out.jsonl")
        write_rows(tmp_path / "set.jsonl", [{**row, "logprobs": {"content": []}} for row in rows])
        found = run(tmp_path / "run", {"critic": inputs / "critic", "dataset": tmp_path / "set.jsonl"})
        assert "likelihood" not in found["sets"][0]["best_of_n"]["ways"]


class TestMonteCarlo:
    def test_says_what_it_is_about(self, inputs, sampled):
        one = sampled[0]["sets"][0]
        assert (one["truth"], one["continuations"], one["rows"], one["states"]) == ("monte_carlo", 4, 12, 12)
        assert "wasserstein_1" in one["metrics"]["critic"] and "value_auc_50" not in one["metrics"]["critic"]
        assert {"shape", "curvature"} < one["loss_terms"].keys()

    def test_beside_reward_sets_and_with_subsets(self, inputs, sampled, tmp_path):
        more = {"dataset": inputs / "far.jsonl", "subset_column": "domain"}
        found = run(tmp_path / "run", sampled_from(inputs), **more)
        assert [one["name"] for one in found["sets"]] == ["far", "mc"]
        assert found["sets"][1]["subsets"]["domain=sums"]["rows"] == 12
        assert found["sets"][1]["metrics"] == sampled[0]["sets"][0]["metrics"]  # other sets change nothing


class TestResume:
    def test_after_a_kill_to_the_same_figures(self, inputs, rewarded, tmp_path, monkeypatch):
        calls, predict = [], Predictor.__call__

        def stopping(self, rows):
            calls.append(rows)
            if len(calls) == 6:
                raise KeyboardInterrupt
            return predict(self, rows)

        with monkeypatch.context() as patch:
            patch.setattr(Predictor, "__call__", stopping)
            with pytest.raises(KeyboardInterrupt):
                run(tmp_path / "run", rewarded_by(inputs))
            assert not (tmp_path / "run" / "evaluation.json").exists()
            found = run(tmp_path / "run", rewarded_by(inputs), resume="true")
        parts = len(list((tmp_path / "run" / "parts").rglob("*.safetensors")))
        assert len(calls) == parts + 1  # the one that was lost, twice
        assert found["sets"] == rewarded[0]["sets"]

    def test_a_finished_run_only_writes_its_figures_again(self, inputs, rewarded, tmp_path, monkeypatch):
        shutil.copytree(rewarded[1], tmp_path / "run")
        monkeypatch.setattr(Predictor, "__call__", None)
        assert run(tmp_path / "run", rewarded_by(inputs), resume="true")["sets"] == rewarded[0]["sets"]

    def test_other_settings_are_refused(self, inputs, rewarded):
        with pytest.raises(ConfigError, match=r"right_above \(was None, is 0.2\). Change them back"):
            run(rewarded[1], rewarded_by(inputs), right_above=0.2, resume="true")
        with pytest.raises(ConfigError, match="holds another run"):
            run(rewarded[1], rewarded_by(inputs))

    def test_other_weights_and_rows_are_refused(self, inputs, tmp_path):
        for name in ("critic", "far.jsonl"):
            source, copy = inputs / name, tmp_path / name
            shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
        settings = {"critic": tmp_path / "critic", "dataset": tmp_path / "far.jsonl"}
        first = run(tmp_path / "run", settings)
        shutil.copy(inputs / "other" / "model.safetensors", tmp_path / "critic" / "model.safetensors")
        with pytest.raises(ConfigError, match="made from something else: weights changed since"):
            run(tmp_path / "run", settings, resume="true")
        again = run(tmp_path / "run", settings, overwrite_output_dir="true")
        assert again["sets"][0]["metrics"]["critic"] != first["sets"][0]["metrics"]["critic"]
        write_rows(tmp_path / "far.jsonl", reward_rows(10, 7))
        with pytest.raises(ConfigError, match="made from something else: rows changed since"):
            run(tmp_path / "run", settings, resume="true")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rewarded", "sampled"])
def test_two_ranks(inputs, tmp_path, kind, request):
    expected, _ = request.getfixturevalue(kind)
    settings = rewarded_by(inputs) if kind == "rewarded" else sampled_from(inputs)
    run_on_ranks(script.__file__, flags(settings, output_dir=tmp_path / "run"))
    assert_same(read(tmp_path / "run")["sets"], expected["sets"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"critic": None}, "following arguments are required: --critic"),
        ({"critic": "policy"}, "critic .*policy is no critic: its config has no num_value_heads"),
        ({"scalar_critic": "policy"}, "scalar_critic .*policy is no critic"),
        ({"scalar_critic": "other"}, "scalar_critic .*other has num_quantiles=5: a scalar critic has 1"),
        ({"dataset": None}, "There is nothing to evaluate on: give dataset or out_of_domain"),
        ({"dataset": ["a=x.jsonl", "a=y.jsonl"]}, r"Two sets are called 'a' \(x.jsonl and y.jsonl\)"),
        ({"dataset": ["a.jsonl"], "out_of_domain": ["b/a.parquet"]}, "Two sets are called 'a'"),
        ({"dataset": ["a?=x.jsonl"]}, "gives the name 'a\\?': a name has letters, digits"),
        ({"dataset": ["a="]}, "names a set and does not say where it is"),
        ({"policy": "policy", "dataset": None}, "policy is given, and nothing for it to answer or to have written"),
        ({"prompts": ["p.jsonl"]}, "prompts are given, and no policy that could answer them"),
        ({"prompts": ["p.jsonl"], "policy": "policy"}, "needs rewards of what the policy samples: give reward_funcs"),
        ({"num_continuations": 1}, "num_continuations is 1: one return says little"),
        ({"answer_func": "no_module:answer"}, "The answer function 'no_module:answer' cannot be imported"),
        ({"gamma": 1.5}, "gamma is 1.5; it must be between 0 and 1"),
        ({"max_tokens_per_device": 20}, "max_tokens_per_device is 20, and the longest row of 'held_out' has"),
        ({"scalar_critic_revision": "main"}, "no scalar_critic to be a revision of"),
        ({"policy_revision": "main"}, "policy_revision is set, and there is no policy"),
        ({"policy_gguf_file": "a.gguf"}, "policy_gguf_file is set, and there is no policy"),
        ({"eval_fraction": 0.1}, "Unknown flag '--eval_fraction'"),
    ],
)
def test_refused_before_any_work(inputs, tmp_path, change, message):
    settings = {"critic": "critic", "dataset": inputs / "held_out.jsonl", **change}
    models = {name: inputs / settings[name] for name in ("critic", "scalar_critic", "policy") if settings.get(name)}
    with pytest.raises((ConfigError, RewardDataError), match=message):
        run(tmp_path / "run", settings, **models)
    assert not (tmp_path / "run").exists()


def test_other_tokenizers_are_refused(inputs, tmp_path):
    tokenizer = tiny_tokenizer._get_wrapped_function()()
    tokenizer.add_tokens(["arithmetic"])
    for name in ("scalar", "policy"):
        shutil.copytree(inputs / name, tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    message = r"has another tokenizer than critic .* \(their vocabulary (and encoding )?differ"
    with pytest.raises(ConfigError, match="scalar_critic .*" + message):
        run(tmp_path / "run", rewarded_by(inputs), scalar_critic=tmp_path / "scalar")
    with pytest.raises(ConfigError, match="policy .*" + message):
        run(tmp_path / "run", sampled_from(inputs), policy=tmp_path / "policy")
    # chats end differently and are still the same tokens
    tokenizer = tiny_tokenizer._get_wrapped_function()()
    tokenizer.chat_template = "{{ messages[0].content }}"
    shutil.copytree(inputs / "scalar", tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    run(tmp_path / "run", rewarded_by(inputs), scalar_critic=tmp_path / "chat")


def test_a_policy_that_cannot_end_is_refused(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "end_ids", lambda tokenizer, policy: [])
    with pytest.raises(RolloutError, match="has an end token"):
        run(tmp_path / "run", sampled_from(inputs))
    assert not (tmp_path / "run").exists()
