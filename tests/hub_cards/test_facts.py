"""What cards are built from: where things came from, what was measured, what a run wrote down, and of which model."""

import json

import pytest
from saved_models import ONLINE, SETTINGS, TRAINING, pair_of, save_critic, save_evaluation, save_policy, save_run

from modeling_dvpo.hub_cards.errors import CardError
from modeling_dvpo.hub_cards.evaluation import read_evaluation
from modeling_dvpo.hub_cards.facts import critic_facts, policy_facts
from modeling_dvpo.hub_cards.metadata import critic_metadata, dump_yaml
from modeling_dvpo.hub_cards.origins import Origin, config_of, hub_ancestor, hub_origin, last_part, origin_of
from modeling_dvpo.hub_cards.runs import (
    CRITIC_RUN,
    POLICY_RUN,
    evaluations,
    held_out_rewards,
    hyperparameters,
    logged_loss_terms,
    read_history,
)

STATED = {"repo_id": None, "license": None, "base_model": None, "datasets": None, "example": None}


def metrics(run_directory, *lines, best_metric="explained_variance"):
    return read_history(save_run(run_directory, {"best_metric": best_metric}, lines))


class TestOrigins:
    @pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "someone/model.v2", "a/b"])
    def test_hub_ids(self, name, tmp_path):
        assert origin_of(name, tmp_path, "main") == Origin(name, True, "main")

    @pytest.mark.parametrize(
        ("name", "shown"),
        [
            ("outputs/demo/policy", "policy"),
            ("outputs/policy", "policy"),  # has the form of a Hub id
            ("/home/me/model/", "model"),
            ("~/models/critic", "critic"),
            ("./critic", "critic"),
            ("..\\runs\\critic", "critic"),
            ("mine/rows.jsonl", "rows.jsonl"),
            ("gpt2", "gpt2"),  # without an owner it may as well be a directory
            ("hf://datasets/a/b/rows.parquet", "rows.parquet"),
            ("a/b/c", "c"),
            ("../x", "x"),
        ],
    )
    def test_names_that_stay_off_the_metadata(self, name, shown, tmp_path):
        origin = origin_of(name, tmp_path)
        assert (origin.name, origin.on_hub, origin.revision) == (shown, False, None)

    def test_a_directory_that_looks_like_a_hub_id(self, tmp_path, monkeypatch):
        """Found from the working directory, and from any directory above the model that names it."""
        (tmp_path / "someone" / "model").mkdir(parents=True)
        (tmp_path / "runs" / "critic" / "last").mkdir(parents=True)
        assert origin_of("someone/model", None).on_hub
        assert not origin_of("someone/model", tmp_path / "runs" / "critic" / "last").on_hub
        monkeypatch.chdir(tmp_path)
        assert not origin_of("someone/model", None).on_hub

    def test_what_is_shown_of_a_path(self, tmp_path):
        (tmp_path / "model").mkdir()
        assert str(tmp_path) not in repr(origin_of(str(tmp_path / "model"), None))
        assert [last_part(name) for name in ("a/b/", "C:\\a\\b", "b", "/")] == ["b", "b", "b", "/"]
        assert origin_of(None, None) is None and origin_of("", None) is None

    def test_a_given_id_is_checked(self):
        with pytest.raises(CardError, match="'/my/model' is no id of a Hub repository"):
            hub_origin("/my/model")

    def test_the_nearest_ancestor_on_the_hub(self, tmp_path):
        """critic -> local critic -> local critic -> Hub model, by the configs that lie on the disk."""
        for name, parent in {"one": "someone/base", "two": "runs/one"}.items():
            (tmp_path / "runs" / name).mkdir(parents=True)
            config = {"num_value_heads": 3, "critic_training": {"parent": parent, "parent_revision": "v1"}}
            (tmp_path / "runs" / name / "config.json").write_text(json.dumps(config))
        two = origin_of("runs/two", tmp_path / "runs" / "three")
        assert config_of(two)["critic_training"]["parent"] == "runs/one"
        assert hub_ancestor(two) == Origin("someone/base", True, "v1")

    def test_ancestors_in_a_circle(self, tmp_path):
        (tmp_path / "one").mkdir()
        (tmp_path / "one" / "config.json").write_text('{"critic_training": {"parent": "../one"}}')
        assert hub_ancestor(origin_of("one", tmp_path)) is None


class TestCriticFacts:
    def facts(self, directory, **given):
        arguments = {"policy_repo": None, "evaluation": None, "run_directory": None, "pair": None, **STATED, **given}
        return critic_facts(directory, **arguments)

    def test_parent_that_is_a_critic(self, tmp_path):
        parent = save_critic(tmp_path / "parent")
        critic = save_critic(tmp_path / "critic", {**TRAINING, "parent": str(parent)})
        facts = self.facts(critic)
        assert facts.parent_is_critic is True and facts.parent.name == "parent"
        assert facts.base_models == [Origin("someone/base-model", True, "abc123")]  # the parent's own

    def test_parent_that_is_none(self, tmp_path):
        parent = save_policy(tmp_path / "policy")
        assert self.facts(save_critic(tmp_path / "a", {**TRAINING, "parent": str(parent)})).parent_is_critic is False

    def test_parent_that_cannot_be_read(self, tmp_path):
        assert self.facts(save_critic(tmp_path / "a")).parent_is_critic is None
        # but one that was not the policy of its run was a critic
        assert self.facts(save_critic(tmp_path / "b", ONLINE)).parent_is_critic is True
        same = {**ONLINE, "policy": ONLINE["parent"]}
        assert self.facts(save_critic(tmp_path / "c", same)).parent_is_critic is None

    def test_a_frozen_critic_is_not_of_the_policys_run(self, tmp_path):
        critic = save_critic(tmp_path / "critic")
        run = save_run(tmp_path / "run", SETTINGS, [{"step": 1, "critic/loss": 1.0}])
        facts = self.facts(critic, pair=pair_of(critic=critic), run_directory=run)
        shown = dict(facts.settings)
        assert shown["learning_rate"] == TRAINING["learning_rate"] and "algorithm" not in shown
        assert facts.history is None
        # one that had learnt beside another policy before
        critic = save_critic(tmp_path / "again", ONLINE)
        pair = pair_of(critic=critic)
        frozen = {**pair, "settings": {**SETTINGS, "critic_trainable": "none"}}
        assert "critic_learning_rate" in dict(self.facts(critic, pair=pair).settings)
        assert "critic_learning_rate" not in dict(self.facts(critic, pair=frozen).settings)

    def test_given_names_replace_local_ones(self, tmp_path):
        critic = save_critic(tmp_path / "critic", {**TRAINING, "parent": "./x", "dataset": "./y.jsonl"})
        data = critic_metadata(self.facts(critic, base_model="a/b", datasets=["c/d", "e/f"]))
        assert data["base_model"] == "a/b" and data["datasets"] == ["c/d", "e/f"]

    def test_an_adapter(self, tmp_path):
        critic = save_critic(tmp_path / "critic")
        (critic / "adapter_config.json").write_text('{"base_model_name_or_path": "a/b", "revision": "main"}')
        facts = self.facts(critic)
        data = critic_metadata(facts)
        assert (data["library_name"], data["base_model"], data["base_model_relation"]) == ("peft", "a/b", "adapter")
        assert "custom_code" not in data["tags"] and not facts.has_code

    def test_two_sets_of_one_hub_data_set_stay_apart(self, tmp_path):
        critic = save_critic(tmp_path / "critic")
        sets = [
            {"name": name, "dataset": "a/b", "metrics": {"critic": {"crps": crps}}}
            for name, crps in (("x", 1), ("y", 2))
        ]
        index = critic_metadata(self.facts(critic, evaluation=save_evaluation(tmp_path / "e", sets=sets)))[
            "model-index"
        ]
        assert [result["dataset"]["config"] for result in index[0]["results"]] == ["x", "y"]

    @pytest.mark.parametrize("files", [{}, {"config.json": "{}"}, {"adapter_config.json": "{}"}])
    def test_no_critic(self, files, tmp_path):
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        with pytest.raises(CardError, match="is no critic|has no config.json"):
            self.facts(tmp_path)

    def test_a_loss_has_the_defaults_of_what_it_leaves_out(self, tmp_path):
        critic = save_critic(tmp_path / "critic")
        config = json.loads((critic / "config.json").read_text())
        (critic / "config.json").write_text(json.dumps({**config, "critic_loss": {"risk": 0.3}}))
        loss = self.facts(critic).loss
        assert (loss["risk"], loss["kappa"], loss["form"]) == (0.3, 0.02, "calibrated")
        (critic / "config.json").write_text(json.dumps({**config, "critic_loss": {"rysk": 0.3}}))
        with pytest.raises(CardError, match="critic_loss in config.json of .*rysk"):
            self.facts(critic)

    def test_another_runs_directory(self, tmp_path):
        critic = save_critic(tmp_path / "critic")
        run = save_run(tmp_path / "run", {"dataset": TRAINING["dataset"], "seed": 8}, [])
        with pytest.raises(CardError, match="is not the run that made .*: seed is 8 there and 7 here"):
            self.facts(critic, run_directory=run)

    def test_no_runs_directory(self, tmp_path):
        with pytest.raises(CardError, match="has no run.json and no metrics.jsonl"):
            self.facts(save_critic(tmp_path / "critic"), run_directory=tmp_path)

    def test_a_pair_of_other_weights(self, tmp_path):
        one, other = save_critic(tmp_path / "one"), save_critic(tmp_path / "other", seed=1)
        with pytest.raises(CardError, match="pair.json given is of another critic than .*: model.safetensors"):
            self.facts(other, pair=pair_of(critic=one))


class TestPolicyFacts:
    def test_a_critic_is_no_policy(self, tmp_path):
        with pytest.raises(CardError, match="is a critic.*Use critic_card"):
            policy_facts(save_critic(tmp_path / "critic"), **STATED)

    def test_a_pair_of_other_weights(self, tmp_path):
        policy = save_policy(tmp_path / "policy")
        pair = pair_of(policy=policy)
        (policy / "model.safetensors").write_bytes(b"moved on")
        with pytest.raises(CardError, match="of another policy"):
            policy_facts(policy, pair=pair, **STATED)

    def test_reads_chats_where_its_run_did(self, tmp_path, tiny_tokenizer):
        """The setting `chat`, which makes chats of texts, was taken for what the prompts were, messages or text."""
        policy = save_policy(tmp_path / "policy", tokenizer=tiny_tokenizer)
        pair = pair_of(policy=policy)
        assert not pair["settings"]["chat"]
        assert policy_facts(policy, pair=pair, **STATED).chat  # there is a chat template, and nothing else is known
        for chat in (True, False):
            assert policy_facts(policy, pair={**pair, "chat": chat}, **STATED).chat == chat


class TestEvaluation:
    def test_of_other_weights(self, tmp_path):
        one, other = save_critic(tmp_path / "one"), save_critic(tmp_path / "other", seed=1)
        evaluation = save_evaluation(tmp_path / "evaluation", one)
        assert len(read_evaluation(evaluation, one).sets) == 2
        with pytest.raises(CardError, match="measured other weights than those in .*: model.safetensors differ"):
            read_evaluation(evaluation, other)

    def test_undefined_metrics_are_not_there(self, tmp_path):
        [held_out, _] = read_evaluation(save_evaluation(tmp_path), tmp_path).sets
        assert "wasserstein_1" not in held_out.metrics["critic"] and held_out.metrics["critic"]["crps"] == 0.1534
        sets = [{"name": "x", "metrics": {"critic": {"crps": float("nan"), "mae": 0.5}}}]
        [found] = read_evaluation(save_evaluation(tmp_path, sets=sets), tmp_path).sets
        assert found.metrics == {"critic": {"mae": 0.5}}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "cannot be read as JSON"),
            ("[]", "holds list"),
            ('{"format": 2}', "has format 2, .* reads format 1"),
            (None, "There is no .*evaluation.json: give the evaluation.json"),
        ],
    )
    def test_unreadable(self, content, message, tmp_path):
        if content is not None:
            (tmp_path / "evaluation.json").write_text(content)
        with pytest.raises(CardError, match=message):
            read_evaluation(tmp_path, tmp_path)

    def test_a_figure_elsewhere(self, tmp_path):
        evaluation = save_evaluation(tmp_path, figures={"pit": "../pit.png"})
        with pytest.raises(CardError, match="names the figure '../pit.png'"):
            read_evaluation(evaluation, tmp_path)


class TestHistory:
    @pytest.mark.parametrize(
        ("metric", "best"),
        [
            ("explained_variance", 20),
            ("crps", 10),
            ("mae", None),
            ("something", None),
            # of a set with one completion a prompt, where training falls back, too
            ("ranking_accuracy", 20),
            ("explained_variance_within", 20),
        ],
    )
    def test_best_step(self, metric, best, tmp_path):
        lines = [
            {"step": 0, "eval_explained_variance": 0.1, "eval_crps": 0.5},
            {"step": 10, "eval_explained_variance": 0.2, "eval_crps": 0.1},
            {"step": 20, "eval_explained_variance": 0.3, "eval_crps": 0.2},
        ]
        assert evaluations(metrics(tmp_path, *lines, best_metric=metric), None).best == best

    def test_thinned_rows_keep_first_last_best_and_these_weights(self, tmp_path):
        lines = [{"step": step, "eval_explained_variance": float(step == 33)} for step in range(100)]
        table = evaluations(metrics(tmp_path, *lines), 77)
        steps = [step for step, _ in table.rows]
        assert table.of == 100 and len(steps) == 14 and {0, 33, 77, 99} <= set(steps)
        assert steps == sorted(steps)

    def test_columns_that_were_never_measured_are_not_there(self, tmp_path):
        history = metrics(tmp_path, {"step": 0, "eval_crps": 0.5, "eval_mae": None}, {"step": 1, "eval_crps": 0.4})
        assert evaluations(history, None).columns == ["CRPS"]

    def test_half_a_line_is_no_line(self, tmp_path):
        run = save_run(tmp_path, {}, [{"step": 0, "eval_crps": 0.5}])
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 1, "eval_cr')
        assert len(read_history(run).lines) == 1

    def test_sizes_of_loss_terms_are_means_over_the_last_ten(self, tmp_path):
        lines = [{"step": step, "quantile": float(step), "cvar": 2.0} for step in range(1, 13)]
        terms = logged_loss_terms(metrics(tmp_path, *lines, {"step": 12, "eval_crps": 0.1}), "")
        assert (terms["quantile"], terms["cvar"]) == (sum(range(3, 13)) / 10, 2.0)

    def test_held_out_rewards(self, tmp_path):
        history = metrics(
            tmp_path,
            {"step": 0, "eval/a/right": 0.1},
            {"step": 5, "eval/a/right": 0.2, "eval/a/new": 1.0},
            {"step": 9, "eval/a/right": 0.3},
        )
        assert held_out_rewards(history, 5) == [("a", "right", 0.1, 0.2), ("a", "new", None, 1.0)]
        assert held_out_rewards(history, None)[0] == ("a", "right", 0.1, 0.3)


def test_settings_that_say_nothing_are_left_out():
    assert dict(hyperparameters({"trainable": "all", "lora_r": 16, "max_steps": -1, "seed": 0}, CRITIC_RUN)) == {
        "trainable": "all",
        "seed": 0,
    }
    assert dict(hyperparameters({"trainable": "lora", "lora_r": 16}, CRITIC_RUN))["lora_r"] == 16
    returns = {"returns": "monte_carlo", "lam": 0.95, "target": "index"}
    assert dict(hyperparameters(returns, CRITIC_RUN)) == {"returns": "monte_carlo"}
    assert dict(hyperparameters({**returns, "returns": "lambda"}, CRITIC_RUN))["lam"] == 0.95
    rates = {"learning_rate": 1e-5, "heads_learning_rate": 1e-4}
    assert dict(hyperparameters({"trainable": "heads", **rates}, CRITIC_RUN)).keys() == {
        "trainable",
        "heads_learning_rate",
    }
    online = {"algorithm": "dvpo", "critic_learning_rate": 1e-5, "heads_learning_rate": 1e-4}
    rates_of = {"all": 2, "lora": 2, "heads": 1, "none": 0}
    for trainable, count in rates_of.items():
        shown = dict(hyperparameters({**online, "critic_trainable": trainable}, POLICY_RUN))
        assert sum("learning_rate" in name for name in shown) == count
    assert dict(hyperparameters({**online, "algorithm": "grpo", "lam": 0.95}, POLICY_RUN)) == {"algorithm": "grpo"}
    shown = dict(hyperparameters({**SETTINGS, "kl": "none", "environment": "my.env:answer"}, POLICY_RUN))
    assert "kl_coef" not in shown and shown["max_turns"] == 8


@pytest.mark.parametrize("text", ["1e3", "12", "0x1F", ".5", "yes", "null", "a: b", "#x", "- x", "é\n…", "'", '"', ""])
def test_yaml_reads_back_what_was_written(text):
    import yaml

    written = dump_yaml({"key": [text]})
    assert yaml.safe_load(written) == {"key": [text]}
    if text[:1].isdigit() or text == ".5":
        assert f'"{text}"' in written  # to a parser of YAML 1.2, 1e3 without quotes is a number
