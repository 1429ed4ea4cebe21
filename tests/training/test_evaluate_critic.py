"""Whole runs of the script on tiny critics and a tiny policy."""

import hashlib
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import tiny_tokenizer
from tiny_critics import tiny_critic
from tiny_models import tiny_config
from transformers import AutoModelForCausalLM

import modeling_dvpo.training.evaluate_critic as script
from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.inference.scoring import score_completions
from modeling_dvpo.metrics.report import critic_report
from modeling_dvpo.metrics.scores import constant_quantiles
from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.evaluation import evaluator
from modeling_dvpo.training.evaluation.predictions import Predictor
from modeling_dvpo.training.rollouts import generation

TESTS = Path(__file__).parents[1]
SAMPLING = {
    "reward_funcs": "made_up_rewards:longer",
    "num_states": 12,
    "num_continuations": 4,
    "max_completion_length": 8,
    "generation_batch_size": 16,
}


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


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
    critics = {
        # with dropout, which evaluation must not see
        "critic": tiny_critic(
            config=tiny_config("qwen3", **size, attention_dropout=0.5), return_mean=0.5, return_scale=0.4
        ),
        "scalar": tiny_critic(config=tiny_config("qwen3", **size), seed=1, num_quantiles=1),
        "other": tiny_critic(config=tiny_config("qwen3", **size), seed=2),
    }
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(tiny_config("qwen3", **size, tie_word_embeddings=True))
    with torch.no_grad():  # likelier to end, so that completions end at different lengths
        policy.model.embed_tokens.weight[tokenizer.eos_token_id] *= 4
    for name, model in {**critics, "policy": policy}.items():
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write_rows(folder / "held_out.jsonl", reward_rows(24, 0))
    write_rows(folder / "far.jsonl", reward_rows(10, 1))
    write_rows(folder / "train.jsonl", reward_rows(30, 2))
    write_rows(folder / "prompts.jsonl", [{"prompt": f"What is {n}?", "domain": "sums"} for n in range(5)])
    return folder


def flags(**settings):
    found = []
    for name, value in settings.items():
        found += [f"--{name}", *map(str, value)] if isinstance(value, list) else [f"--{name}={value}"]
    return found


def reward_flags(inputs, **more):
    return flags(
        **{
            "critic": inputs / "critic",
            "scalar_critic": inputs / "scalar",
            "dataset": f"held-out={inputs / 'held_out.jsonl'}",
            "out_of_domain": [inputs / "far.jsonl"],
            "training_dataset": inputs / "train.jsonl",
            "subset_column": "domain",
            "states_per_part": 100,
            **more,
        }
    )


def sampling_flags(inputs, **more):
    settings = {"critic": inputs / "critic", "policy": inputs / "policy", "prompts": f"mc={inputs / 'prompts.jsonl'}"}
    return flags(**{**settings, **SAMPLING, **more})


def read(folder):
    return json.loads((Path(folder) / "evaluation.json").read_text())


def run(folder, arguments, **more):
    script.main([*arguments, *flags(output_dir=folder, **more)])
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
    return run(folder, reward_flags(inputs)), folder


@pytest.fixture(scope="module")
def sampled(inputs, tmp_path_factory):
    """A run on Monte-Carlo truth, and its directory."""
    folder = tmp_path_factory.mktemp("sampled") / "run"
    return run(folder, sampling_flags(inputs)), folder


def by_hand(inputs, critic, name):
    """Quantiles (S, N, M) and returns (S,) by the function that users read completions with."""
    rows = [json.loads(line) for line in (inputs / name).read_text().splitlines()]
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
                found = {n: value for n, value in one["metrics"][who].items() if "auc" not in n}
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
        assert {f"value_auc_{p}" for p in (25, 50, 75, 100)} < found["sets"][0]["metrics"]["critic"].keys()

    def test_files(self, rewarded):
        found, folder = rewarded
        names = {path.name for path in folder.iterdir()}
        assert names == {"run.json", "parts", "evaluation.json", "evaluation.md", "pit.png"}
        assert found["figures"] == {"pit": "pit.png"}
        assert "| held-out | critic |" in (folder / "evaluation.md").read_text()
        parts = sorted(path.name for path in (folder / "parts" / "held-out").iterdir())
        assert len(parts) > 6 and parts[0] == "critic-00000.safetensors" and parts[-1].startswith("scalar-")

    def test_without_matplotlib(self, inputs, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(evaluator, "find_spec", lambda name: None)
        found = run(tmp_path / "run", flags(critic=inputs / "critic", dataset=[inputs / "held_out.jsonl"]))
        assert found["figures"] == {} and "There will be no figures: matplotlib" in capsys.readouterr().out

    def test_own_returns_make_the_constant_else(self, inputs, tmp_path):
        arguments = flags(critic=inputs / "critic", dataset=[inputs / "held_out.jsonl"])
        found = run(tmp_path / "run", arguments, max_tokens_per_device=60)
        assert found["constant_from"] is None and found["sets"][0]["name"] == "held_out"
        assert found["sets"][0]["metrics"]["constant"]["explained_variance"] == pytest.approx(0)
        assert found["sets"][0]["metrics"].keys() == {"critic", "constant"}

    def test_batches_and_parts_do_not_matter(self, inputs, rewarded, tmp_path):
        arguments = reward_flags(inputs, states_per_part=100000, max_tokens_per_device=90)
        assert_same(run(tmp_path / "run", arguments)["sets"], rewarded[0]["sets"])

    def test_gamma_is_the_critic_s(self, inputs, tmp_path):
        critic = AutoModelForDistributionalValue.from_pretrained(inputs / "critic")
        critic.config.critic_training = {"gamma": 0.9, "kl_in_reward": True}
        critic.save_pretrained(tmp_path / "critic")
        tiny_tokenizer._get_wrapped_function()().save_pretrained(tmp_path / "critic")
        arguments = flags(critic=tmp_path / "critic", dataset=[inputs / "held_out.jsonl"])
        with pytest.warns(UserWarning, match="KL penalty in them"):
            found = run(tmp_path / "run", arguments)
        assert found["gamma"] == 0.9
        with pytest.warns(UserWarning, match="gamma is 1.0, and the critic was trained on returns of gamma 0.9"):
            assert run(tmp_path / "other", arguments, gamma=1.0)["gamma"] == 1.0
        assert found["sets"][0]["metrics"]["critic"] != read(tmp_path / "other")["sets"][0]["metrics"]["critic"]


class TestMonteCarlo:
    def test_says_what_it_is_about(self, inputs, sampled):
        one = sampled[0]["sets"][0]
        assert (one["truth"], one["continuations"], one["rows"], one["states"]) == ("monte_carlo", 4, 12, 12)
        assert "wasserstein_1" in one["metrics"]["critic"] and "value_auc_50" not in one["metrics"]["critic"]
        assert {"shape", "curvature"} < one["loss_terms"].keys()

    def test_beside_reward_sets_and_with_subsets(self, inputs, sampled, tmp_path):
        arguments = sampling_flags(inputs, dataset=[inputs / "far.jsonl"], subset_column="domain")
        found = run(tmp_path / "run", arguments)
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
                run(tmp_path / "run", reward_flags(inputs))
            assert not (tmp_path / "run" / "evaluation.json").exists()
            found = run(tmp_path / "run", reward_flags(inputs), resume="true")
        parts = len(list((tmp_path / "run" / "parts").rglob("*.safetensors")))
        assert len(calls) == parts + 1  # the one that was lost, twice
        assert found["sets"] == rewarded[0]["sets"]

    def test_a_finished_run_only_writes_its_figures_again(self, inputs, rewarded, tmp_path, monkeypatch):
        shutil.copytree(rewarded[1], tmp_path / "run")
        monkeypatch.setattr(Predictor, "__call__", None)
        assert run(tmp_path / "run", reward_flags(inputs), resume="true")["sets"] == rewarded[0]["sets"]

    def test_other_settings_are_refused(self, inputs, rewarded):
        with pytest.raises(ConfigError, match=r"right_above \(was None, is 0.2\). Change them back"):
            run(rewarded[1], reward_flags(inputs, right_above=0.2), resume="true")
        with pytest.raises(ConfigError, match="holds another run"):
            run(rewarded[1], reward_flags(inputs))

    def test_other_weights_and_rows_are_refused(self, inputs, tmp_path):
        for name in ("critic", "far.jsonl"):
            source, copy = inputs / name, tmp_path / name
            shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
        arguments = flags(critic=tmp_path / "critic", dataset=[tmp_path / "far.jsonl"])
        first = run(tmp_path / "run", arguments)
        shutil.copy(inputs / "other" / "model.safetensors", tmp_path / "critic" / "model.safetensors")
        with pytest.raises(ConfigError, match="made from something else: weights changed since"):
            run(tmp_path / "run", arguments, resume="true")
        again = run(tmp_path / "run", arguments, overwrite_output_dir="true")
        assert again["sets"][0]["metrics"]["critic"] != first["sets"][0]["metrics"]["critic"]
        write_rows(tmp_path / "far.jsonl", reward_rows(10, 7))
        with pytest.raises(ConfigError, match="made from something else: rows changed since"):
            run(tmp_path / "run", arguments, resume="true")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["rewarded", "sampled"])
def test_two_ranks(inputs, tmp_path, kind, request):
    expected, _ = request.getfixturevalue(kind)
    arguments = reward_flags(inputs) if kind == "rewarded" else sampling_flags(inputs)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script.__file__]
    done = subprocess.run([*launch, *arguments, f"--output_dir={tmp_path / 'run'}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    assert "2 process(es)" in done.stdout
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
        ({"policy": "policy"}, "policy is given, and nothing for it to answer: give prompts"),
        ({"prompts": ["p.jsonl"]}, "prompts are given, and no policy that could answer them"),
        ({"prompts": ["p.jsonl"], "policy": "policy"}, "needs rewards of what the policy samples: give reward_funcs"),
        ({"num_continuations": 1}, "num_continuations is 1: one return says little"),
        ({"gamma": 1.5}, "gamma is 1.5; it must be between 0 and 1"),
        ({"max_tokens_per_device": 20}, "max_tokens_per_device is 20, and the longest row of 'held_out' has"),
        ({"scalar_critic_revision": "main"}, "no scalar_critic to be a revision of"),
        ({"policy_revision": "main"}, "policy_revision is set, and there is no policy"),
        ({"eval_fraction": 0.1}, "Unknown flag '--eval_fraction'"),
    ],
)
def test_refused_before_any_work(inputs, tmp_path, change, message):
    settings = {"critic": "critic", "dataset": [inputs / "held_out.jsonl"], **change}
    models = {name: inputs / settings[name] for name in ("critic", "scalar_critic", "policy") if settings.get(name)}
    settings = {name: value for name, value in {**settings, **models}.items() if value is not None}
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "run", flags(**settings))
    assert not (tmp_path / "run").exists()


def test_other_tokenizers_are_refused(inputs, tmp_path):
    tokenizer = tiny_tokenizer._get_wrapped_function()()
    tokenizer.add_tokens(["arithmetic"])
    for name in ("scalar", "policy"):
        shutil.copytree(inputs / name, tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    message = "has another tokenizer than critic .* \\(their vocabulary and encoding differ|vocabulary differ"
    with pytest.raises(ConfigError, match="scalar_critic .*" + message):
        run(tmp_path / "run", reward_flags(inputs, scalar_critic=tmp_path / "scalar"))
    with pytest.raises(ConfigError, match="policy .*" + message):
        run(tmp_path / "run", sampling_flags(inputs, policy=tmp_path / "policy"))
    # chats end differently and are still the same tokens
    tokenizer = tiny_tokenizer._get_wrapped_function()()
    tokenizer.chat_template = "{{ messages[0].content }}"
    shutil.copytree(inputs / "scalar", tmp_path / "chat")
    tokenizer.save_pretrained(tmp_path / "chat")
    run(tmp_path / "run", reward_flags(inputs, scalar_critic=tmp_path / "chat"))


def test_a_policy_that_cannot_end_is_refused(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "known_end_ids", lambda policy, tokenizer: [])
    with pytest.raises(generation.RolloutError, match="has an end token"):
        run(tmp_path / "run", sampling_flags(inputs))
    assert not (tmp_path / "run").exists()


def assert_same(found, expected):
    """Equal to rounding, at any depth."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    else:
        assert found == (pytest.approx(expected, rel=1e-4, abs=1e-6) if isinstance(expected, float) else expected)
