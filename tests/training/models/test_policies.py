"""Policy, reference and critic by name; the pair that a run leaves. What whole runs save is in train_dvpo/."""

import hashlib
import json
import shutil
import warnings
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny_tokenizer
from tiny_models import tiny_causal_lm
from transformers import AutoConfig, AutoModelForCausalLM

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.training.algorithms.online_critic import load_online_critic
from modeling_dvpo.training.algorithms.policy_arguments import PolicyArguments, PolicyCriticArguments
from modeling_dvpo.training.errors import ConfigError
from modeling_dvpo.training.models import pairs, records
from modeling_dvpo.training.models.pairs import save_pair
from modeling_dvpo.training.models.policies import as_reference, base_of, load_policy, load_reference
from modeling_dvpo.training.models.records import online_record, warn_of_other_critic

TOKENS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer._get_wrapped_function()()


@pytest.fixture(scope="module")
def name(tmp_path_factory, tokenizer):
    """A policy in bfloat16, with dropout."""
    folder = tmp_path_factory.mktemp("policy")
    torch.manual_seed(0)
    policy = tiny_causal_lm("qwen3", vocab_size=len(tokenizer), attention_dropout=0.5)
    policy.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def args(name):
    return PolicyArguments(model_name_or_path=name)


def logits(model):
    with torch.no_grad():
        return model(TOKENS).logits


class TestPolicy:
    def test_is_float32_and_without_dropout(self, args):
        policy = load_policy(args)
        assert {parameter.dtype for parameter in policy.parameters()} == {torch.float32}
        expected = logits(policy)
        policy.train()
        assert torch.equal(logits(policy), expected)

    def test_attention_implementation(self, name):
        args = PolicyArguments(model_name_or_path=name, attn_implementation="eager")
        assert load_policy(args).config._attn_implementation == "eager"


class TestReference:
    def test_is_the_policy_as_it_starts_and_frozen(self, args):
        policy = load_policy(args)
        reference = load_reference(policy, args)
        assert reference is not policy and torch.equal(logits(reference), logits(policy))
        assert not any(parameter.requires_grad for parameter in reference.parameters())
        assert all(parameter.requires_grad for parameter in policy.parameters())
        with as_reference(policy, reference) as model:
            assert model is reference

    def test_is_the_base_of_an_adapter_of_this_run(self, name):
        from peft import LoraConfig

        args = PolicyArguments(model_name_or_path=name, trainable="lora")
        policy = load_policy(args)
        before = logits(policy)
        assert load_reference(policy, args) is None
        policy.add_adapter(LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
        adapted = logits(policy)
        assert not torch.equal(adapted, before)
        with as_reference(policy, None) as model:
            assert torch.equal(logits(model), before)
        assert torch.equal(logits(policy), adapted)
        with pytest.raises(ValueError), as_reference(policy, None):
            raise ValueError
        assert torch.equal(logits(policy), adapted)  # adapted again, whatever happened

    def test_is_the_adapter_that_was_loaded(self, name, tmp_path):
        """Not its base: the penalty keeps the policy close to where it starts."""
        from peft import LoraConfig

        policy = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float32)
        policy.add_adapter(LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
        policy.save_pretrained(tmp_path / "adapter")
        args = PolicyArguments(model_name_or_path=str(tmp_path / "adapter"), trainable="lora")
        loaded = load_policy(args)
        reference = load_reference(loaded, args)
        assert torch.equal(logits(reference), logits(policy))

    def test_an_adapter_s_base_is_found_from_any_directory(self, name, tmp_path, monkeypatch):
        """A policy's adapter with a relative base was loaded from the directory it was trained in alone."""
        from peft import LoraConfig

        (tmp_path / "there").mkdir()
        shutil.copytree(name, tmp_path / "base")
        monkeypatch.chdir(tmp_path / "there")
        policy = AutoModelForCausalLM.from_pretrained("../base", dtype=torch.float32)
        policy.add_adapter(LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
        policy.save_pretrained("../adapter")
        monkeypatch.chdir(tmp_path)
        args = PolicyArguments(model_name_or_path="adapter", trainable="lora")
        assert base_of(args).model_name_or_path == "adapter/../base"
        assert torch.equal(logits(load_policy(args)), logits(policy))
        shutil.rmtree(tmp_path / "base")
        for load in (base_of, load_policy):
            with pytest.raises(ConfigError, match="adapter is one for the base model '../base'. There is no dir"):
                load(args)

    def test_must_have_the_policy_s_vocabulary(self, args, tmp_path):
        tiny_causal_lm("qwen3", vocab_size=99).save_pretrained(tmp_path / "other")
        args.reference = str(tmp_path / "other")
        with pytest.raises(ConfigError, match="reference .*other has 99 tokens, and the policy .*same vocabulary"):
            load_reference(load_policy(PolicyArguments(model_name_or_path=args.model_name_or_path)), args)


class TestOnlineCritic:
    @pytest.mark.parametrize(
        ("algorithm", "settings", "heads"),
        [
            ("dvpo", {}, (3, 200)),
            ("ppo", {}, (1, 1)),
            ("robust_bellman", {}, (3, 1)),
            ("dvpo", {"num_quantiles": 5, "num_value_heads": 2}, (2, 5)),
            ("ppo", {"num_value_heads": 2}, (2, 1)),
        ],
    )
    def test_fresh_heads_of_the_algorithm(self, args, tokenizer, algorithm, settings, heads):
        critic, parent = load_online_critic(args, PolicyCriticArguments(**settings), algorithm, tokenizer)
        assert (critic.config.num_value_heads, critic.config.num_quantiles) == heads
        assert not hasattr(parent, "num_value_heads")
        assert {parameter.dtype for parameter in critic.parameters()} == {torch.float32}
        with torch.no_grad():
            expected = critic(TOKENS).quantiles
            assert torch.equal(critic.train()(TOKENS).quantiles, expected)  # no dropout

    def test_a_loaded_one_keeps_its_heads(self, args, tokenizer, tmp_path):
        saved = AutoModelForDistributionalValue.from_pretrained(
            args.model_name_or_path, num_value_heads=2, num_quantiles=4, dtype=torch.float32
        )
        saved.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        given = PolicyCriticArguments(critic=str(tmp_path))
        critic, parent = load_online_critic(args, given, "dvpo", tokenizer)
        assert (parent.num_value_heads, parent.num_quantiles) == (2, 4)
        with torch.no_grad():
            assert torch.equal(critic(TOKENS).quantiles, saved.eval()(TOKENS).quantiles)

    @pytest.mark.parametrize(
        ("algorithm", "settings", "message"),
        [
            ("ppo", {"num_quantiles": 8}, "ppo has a scalar critic, and this one has num_quantiles=8: use algorithm"),
            ("robust_bellman", {"num_value_heads": 1}, "takes the worst of several heads, and the critic has one"),
        ],
    )
    def test_heads_that_the_algorithm_cannot_use(self, args, tokenizer, algorithm, settings, message):
        with pytest.raises(ConfigError, match=message):
            load_online_critic(args, PolicyCriticArguments(**settings), algorithm, tokenizer)

    def test_must_read_what_the_policy_writes(self, args, tokenizer, tmp_path):
        critic = AutoModelForDistributionalValue.from_pretrained(args.model_name_or_path, num_quantiles=4)
        critic.save_pretrained(tmp_path)
        given = PolicyCriticArguments(critic=str(tmp_path))
        with pytest.raises(ConfigError, match="has no tokenizer to compare with|has another tokenizer than"):
            load_online_critic(args, given, "dvpo", tokenizer)


SETTINGS = {
    **{"critic": None, "critic_revision": None, "model_name_or_path": "a/b", "revision": "r1", "algorithm": "dvpo"},
    "gguf_file": None,
    **{"gamma": 0.9, "critic_lam": 1.0, "critic_target": "index", "bootstrap_truncated": False, "kl": "loss"},
    **{
        "kl_coef": 0.1,
        "reward_funcs": ["m.f"],
        "reward_weights": [],
        "reward_noise": ["flip=0.2"],
        "dataset": "d",
        "dataset_config": None,
    },
    **{"dataset_split": "train", "critic_trainable": "all", "critic_learning_rate": 1e-5, "seed": 0},
    **{"heads_learning_rate": 1e-4},
}


@pytest.fixture
def no_hub(monkeypatch):
    """Names of models are not looked up."""
    monkeypatch.setattr(records, "cached_file", lambda *_, **__: None)


@pytest.mark.usefixtures("no_hub")
class TestRecord:
    """One function had two names (m.f, m:f), a set that it had scored before a third, its column's: going on with the
    same rewards always warned of "other returns". Weights had none, so other weights were the same returns."""

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({}, {"parent": "a/b", "parent_revision": "r1", "returns": "monte_carlo", "target": None}),
            ({"critic": "c/d", "critic_revision": "r2"}, {"parent": "c/d", "parent_revision": "r2"}),
            ({"critic_lam": 0.9}, {"returns": "lambda", "lam": 0.9, "target": "index"}),
            ({"bootstrap_truncated": True}, {"returns": "lambda", "target": "index"}),
            ({}, {"kl_in_reward": False, "reward_source": ["m:f"], "reward_noise": ["flip=0.2"], "gamma": 0.9}),
            ({"kl": "reward"}, {"kl_in_reward": True}),
            ({"kl": "reward", "kl_coef": 0.0}, {"kl_in_reward": False}),
            ({}, {"return_range": [-1.0, 2.0]}),
        ],
    )
    def test_what_values_mean(self, changes, expected):
        record = online_record({**SETTINGS, **changes}, torch.tensor([0.5, -1.0, 2.0]))
        assert {name: record[name] for name in expected} == expected
        json.dumps(record)  # goes into a config

    def warnings_of(self, before, **now):
        parent = SimpleNamespace(critic_training=before)
        record = {**online_record(SETTINGS, torch.tensor([0.0, 1.0])), **now}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warn_of_other_critic(parent, record)
        return " ".join(str(warning.message) for warning in caught)

    def test_warnings(self):
        same = {"gamma": 0.9, "kl_in_reward": False, "reward_source": ["m:f"], "return_range": [0.0, 1.0]}
        assert self.warnings_of(same) == self.warnings_of(None) == ""
        assert self.warnings_of({**same, "return_range": [-1.0, 1.5]}) == ""  # within what it knows
        assert "gamma was 1.0 and is 0.9" in self.warnings_of({**same, "gamma": 1.0})
        text = self.warnings_of({**same, "reward_source": "column 'reward'"})
        assert "reward_source was \"column 'reward'\" and is ['m:f']" in text and "return_range" not in text
        assert "say so when the critic is trained: reward_source." in text
        text = self.warnings_of({**same, "reward_weights": [2.0]})
        assert "reward_weights was [2.0] and is [1.0]" in text and "say so" not in text
        text = self.warnings_of({**same, "return_range": [0.0, 0.5]})
        assert "trained on returns from 0 to 0.5, and the first completions have 0 to 1: return_range differs" in text


class TestPair:
    @pytest.fixture
    def critic(self, args, tokenizer):
        return load_online_critic(args, PolicyCriticArguments(num_quantiles=4), "dvpo", tokenizer)[0]

    def save(self, folder, args, tokenizer, critic, **more):
        given = {"step": 7, "settings": {"seed": 3}, "metrics": {"reward": 0.5, "reward/f": float("nan")}}
        given |= {"chat": True, **more}
        save_pair(folder, load_policy(args), critic, tokenizer, **given)
        return json.loads((folder / "pair.json").read_text())

    def test_record_and_digests(self, args, tokenizer, critic, tmp_path):
        critic.config.critic_training = {"gamma": 0.5}
        record = self.save(tmp_path / "last", args, tokenizer, critic)
        for part in ("policy", "critic"):
            content = (tmp_path / "last" / part / "model.safetensors").read_bytes()
            assert record["files"][part] == {"model.safetensors": hashlib.sha256(content).hexdigest()}
        assert (record["step"], record["settings"], record["chat"]) == (7, {"seed": 3}, True)
        assert record["metrics"] == {"reward": 0.5, "reward/f": None}
        assert AutoConfig.from_pretrained(tmp_path / "last" / "critic").critic_training == {"gamma": 0.5, "step": 7}

    def test_a_frozen_critic_keeps_its_record(self, args, tokenizer, critic, tmp_path):
        self.save(tmp_path / "last", args, tokenizer, critic.requires_grad_(False))
        assert not hasattr(AutoConfig.from_pretrained(tmp_path / "last" / "critic"), "critic_training")

    def test_replaces_an_older_pair_as_a_whole(self, args, tokenizer, critic, tmp_path):
        critic.config.critic_training = {}
        self.save(tmp_path / "last", args, tokenizer, critic)
        record = self.save(tmp_path / "last", args, tokenizer, None)
        assert list(record["files"]) == ["policy"]
        assert {path.name for path in (tmp_path / "last").iterdir()} == {"policy", "pair.json"}
        assert [path.name for path in tmp_path.iterdir()] == ["last"]

    def test_a_failure_leaves_the_older_pair(self, args, tokenizer, tmp_path, monkeypatch):
        before = self.save(tmp_path / "last", args, tokenizer, None)

        def fail(*_):
            raise OSError("no space left")

        monkeypatch.setattr(pairs, "_digests", fail)
        with pytest.raises(OSError, match="no space"):
            self.save(tmp_path / "last", args, tokenizer, None, step=8)
        assert json.loads((tmp_path / "last" / "pair.json").read_text()) == before
