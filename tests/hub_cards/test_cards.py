"""Whole cards: what stands on them, what does not, and whether what they tell a stranger to type works."""

import ast
import os
import re
import subprocess
import sys

import pytest
import yaml
from huggingface_hub import EvalResultEntry, ModelCard, parse_eval_result_entries
from huggingface_hub.repocard import metadata_load
from peft import LoraConfig
from saved_models import ONLINE, SETTINGS, TRAINING, pair_of, save_critic, save_evaluation, save_policy, save_run
from tiny_critics import HEADS
from transformers import AutoModel, AutoModelForCausalLM

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.cli import main
from modeling_dvpo.hub_cards import CardError, card_files, critic_card, eval_result_files, policy_card

pytest_plugins = ["hub_server.fixtures"]

REPO, POLICY_REPO = "someone/my-critic", "someone/my-policy"
HOSTILE = 'x |\n\n# Owned\n<!-- /dvpo:judges -->\n`` ``` `<script>` $$x$$ "quoted": {a} - [l](javascript:x) -->'


@pytest.fixture
def critic(tmp_path):
    return save_critic(tmp_path / "critic")


@pytest.fixture
def policy(tmp_path):
    return save_policy(tmp_path / "policy")


def headings(card):
    return re.findall(r"^## (.*)$", card, re.MULTILINE)


def row(card, start):
    """Cells of the one table row that begins with this."""
    [line] = [line for line in card.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def section(card, name):
    return re.search(rf"<!-- dvpo:{name} -->\n(.*?)<!-- /dvpo:{name} -->", card, re.DOTALL)[1]


def python_blocks(card):
    return re.findall(r"^```python\n(.*?)^```", card, re.DOTALL | re.MULTILINE)


def run_without_the_package(code, tmp_path):
    code = 'import sys\nsys.modules["modeling_dvpo"] = None\n' + code
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


class TestSnippets:
    """The card's own code, with the directory's path in place of the repository's name."""

    def test_with_the_package_and_policy(self, tiny_tokenizer, tmp_path, capsys):
        tiny_tokenizer.chat_template = None
        critic = save_critic(tmp_path / "critic", tokenizer=tiny_tokenizer)
        policy = save_policy(tmp_path / "policy", tokenizer=tiny_tokenizer)
        [with_package, _] = python_blocks(critic_card(critic, repo_id=REPO))
        [sample] = python_blocks(policy_card(policy, repo_id=POLICY_REPO, pair=pair_of(policy=policy)))
        code = with_package.replace(REPO, str(critic)) + sample.replace(POLICY_REPO, str(policy))
        assert REPO not in code and POLICY_REPO not in code
        exec(compile(code, "snippet", "exec"), {})
        output = capsys.readouterr().out
        tokens = len(tiny_tokenizer("2 + 3 = 5", add_special_tokens=False).input_ids) + 1  # and the end token
        values = re.search(r"tensor\(\[(.*?)\]\)", output, re.DOTALL)[1].split(",")
        assert len(values) == tokens + 1

    def test_with_transformers_alone(self, tiny_tokenizer, tmp_path):
        critic = save_critic(tmp_path / "critic", tokenizer=tiny_tokenizer)
        chat = critic_card(critic, repo_id=REPO)
        tiny_tokenizer.chat_template = None
        text = critic_card(save_critic(tmp_path / "text", tokenizer=tiny_tokenizer), repo_id=REPO)
        blocks = [python_blocks(card)[1].replace(REPO, str(critic)) for card in (chat, text)]
        assert "apply_chat_template" in blocks[0] and "apply_chat_template" not in blocks[1]
        output = run_without_the_package("\n".join(blocks), tmp_path)
        assert len(re.findall(r"torch.Size\(\[1, \d+, 2, 5\]\)", output)) == 2

    def test_adapters(self, tiny_tokenizer, tmp_path, capsys):
        """Of a critic and of a policy, on one base model."""
        base = save_policy(tmp_path / "base", tokenizer=tiny_tokenizer)
        critic = AutoModelForDistributionalValue.from_pretrained(base, num_value_heads=2, num_quantiles=5)
        critic.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["quantile_heads"]))
        policy = AutoModelForCausalLM.from_pretrained(base)
        policy.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
        code = ""
        for name, model, card in (("critic", critic, critic_card), ("policy", policy, policy_card)):
            model.save_pretrained(tmp_path / name)
            tiny_tokenizer.save_pretrained(tmp_path / name)
            [block] = python_blocks(card(tmp_path / name, repo_id=REPO))
            assert "apply_chat_template" in block or '"role": "user"' in block
            code += block.replace(REPO, str(tmp_path / name)) + f"seen.append({name})\n"
        seen = []
        exec(compile(code, "snippet", "exec"), {"seen": seen})
        assert all(any("lora_A" in key for key, _ in model.named_parameters()) for model in seen) and len(seen) == 2
        assert "tensor(" in capsys.readouterr().out

    def test_plain_auto_model_is_what_the_warning_says(self, critic):
        assert "AutoModel.from_pretrained(name)`: without the package" in critic_card(critic)
        assert type(AutoModel.from_pretrained(critic)).__name__ == "Qwen3Model"

    def test_an_adapter_offers_the_package_only(self, critic):
        (critic / "adapter_config.json").write_text('{"base_model_name_or_path": "/home/me/secret/base"}')
        card = critic_card(critic, repo_id=REPO)
        assert len(python_blocks(card)) == 1 and "trust_remote_code=True)" not in card
        assert "Its base model was a local directory, `base`" in card and "secret" not in card
        published = critic_card(critic, repo_id=REPO, base_model="someone/base")
        assert "local directory, `base`" not in published


class TestCriticCard:
    def test_every_fact(self, critic, tmp_path):
        evaluation = save_evaluation(tmp_path / "evaluation", critic)
        run = save_run(
            tmp_path / "run",
            {"dataset": TRAINING["dataset"], "seed": 7, "gamma": 0.99, "best_metric": "crps", "warmup_ratio": 0.05},
            [
                {"step": 0, "eval_explained_variance": None, "eval_crps": 0.3},
                {"step": 10, "loss": 0.5, "quantile": 0.4},
                {"step": 10, "eval_explained_variance": 0.2, "eval_crps": 0.1},
                {"step": 20, "loss": 0.25, "quantile": 0.2},
                {"step": 20, "eval_explained_variance": 0.3, "eval_crps": 0.15},
            ],
        )
        card = critic_card(
            critic, repo_id=REPO, policy_repo=POLICY_REPO, evaluation=evaluation, run_directory=run, license="mit"
        )
        assert headings(card) == [
            "What it judges", "How to load it", "Intended use and limits", "How good it is", "Training by step",
            "Loss", "Hyper-parameters", "How it was made", "Citation", "Environment",
        ]  # fmt: skip
        assert card.count("# my-critic\n") == 1
        assert "2 heads of 5 quantiles on a `qwen3` backbone" in card
        assert row(card, "reward |") == ["reward", "the data set's column `score`"]
        assert row(card, "returns in training")[1].startswith("from -1 to 2.50,")
        assert row(card, "discount γ")[1] == "0.99 a token"
        assert row(card, "KL penalty")[1] == "no"
        assert row(card, "prompts and completions")[1] == (
            "[someone/scored-answers](https://huggingface.co/datasets/someone/scored-answers), configuration `easy`, "
            "split `train`"
        )
        assert row(card, "completions of")[1] == "[someone/my-policy](https://huggingface.co/someone/my-policy)"
        assert "\n\n\n" not in card
        # results: the critic beside the constant, a cell empty where nothing was measured
        assert (
            "Against the return that followed each state; 12,345 states of 500 responses to 100 prompts, [someone"
            in card
        )
        assert row(card, "explained variance ↑")[1:3] == ["0.310", "0"]
        assert row(card, "PIT distance ↓")[1:3] == ["0.0200", ""]
        assert row(card, "pairs in order ↑")[1:3] == ["0.840 [0.800, 0.880]", ""]
        assert row(card, "explained variance within a prompt ↑")[1] == "0.120 [-0.0100, 0.200]"
        assert row(card, "AUC of the prompt alone ↑")[1] == "0.700" and "AUC after 50 %" in card
        assert "In brackets: 95 % intervals over prompts." in section(card, "results")
        assert row(card, "`level=hard`") == ["`level=hard`", "120", "0.400"]
        assert "Against 64 Monte-Carlo continuations from each state" in card
        assert "**not** the data it was trained for" in card
        assert row(card, "80 % |") == ["80 %", "0.781", "0.750 to 0.810", "0.700", ""]
        assert (
            "\n\n![observed against predicted levels](reliability.png)\n" in section(card, "results")
            and "gone.png" not in card
        )
        # training: the best step by the run's metric, which is not the last
        assert row(card, "10 **best**") == ["10 **best**", "0.500", "0.200", "0.100"]
        assert row(card, "20 |") == ["20", "0.250", "0.300", "0.150"]
        assert "Best by CRPS: step 10.\nThese weights are of step 20." in card
        # loss: sizes of the evaluation; terms without weight are not there
        assert row(card, "`quantile` |") == ["`quantile`", "1", "0.200", "0.200"]
        assert row(card, "`cvar` |") == ["`cvar`", "0.01", "3", "0.0300"]
        assert row(card, "`risk` |") == ["`risk`", "0.1", "", ""]
        assert "`gain`" not in card and "on the set “held-out”" in card
        assert row(card, "`warmup_ratio`") == ["`warmup_ratio`", "`0.05`"]
        assert (
            "It started from [someone/base-model](https://huggingface.co/someone/base-model) (revision `abc123`)"
            in card
        )
        assert "on 1,234 scored completions, 20 optimizer steps of 32 completions" in card
        assert "*Distributional Value Modeling-based Policy Optimization*" in card and "2512.03847" in card
        assert row(card, "`torch`") == ["`torch`", "`2.13.0`"]

    def test_metadata_reads_back(self, critic, tmp_path):
        evaluation = save_evaluation(tmp_path / "evaluation", critic)
        card = ModelCard(critic_card(critic, repo_id=REPO, evaluation=evaluation, license="mit"))
        data = card.data.to_dict()
        assert data["library_name"] == "transformers" and data["license"] == "mit"
        assert data["pipeline_tag"] == "reinforcement-learning"
        assert data["tags"] == [
            "modeling-dvpo", "reinforcement-learning", "critic", "value-model", "distributional-value", "dvpo",
            "custom_code",
        ]  # fmt: skip
        assert (data["base_model"], data["base_model_relation"]) == ("someone/base-model", "finetune")
        assert data["datasets"] == ["someone/scored-answers"]
        results = {(one.dataset_type, one.metric_type): one for one in card.data.eval_results}
        assert card.data.model_name == "my-critic"
        crps = results["someone/scored-answers", "crps"]
        assert (crps.metric_value, crps.metric_name, crps.dataset_name) == (0.1534, "CRPS", "held-out")
        assert results["states-64-runs-each", "wasserstein_1"].dataset_name == "states: 64 runs | each"
        # undefined on the one set, not measured on the other
        assert ("someone/scored-answers", "wasserstein_1") not in results
        assert ("states-64-runs-each", "crps") not in results
        assert len(results) == 11

    def test_pairs_in_order_of_training_have_their_interval(self, tmp_path):
        order = {"ranking_accuracy": 0.9, "ranking_accuracy_low": 0.85, "ranking_accuracy_high": 0.95}
        training = {**TRAINING, "evaluation": {**TRAINING["evaluation"], **order}}
        card = critic_card(save_critic(tmp_path / "critic", training))
        assert row(card, "pairs in order ↑")[1] == "0.900 [0.850, 0.950]" and "ranking_accuracy" not in card

    def test_metrics_of_training_stand_in_for_an_evaluation(self, critic):
        card = critic_card(critic)
        assert row(card, "explained variance ↑")[1] == "0.432"
        assert "On 1,500 rows of 20 prompts, held out in training" in card
        assert "| bias" not in card  # undefined
        assert "model-index" not in card and "Calibration" not in card

    def test_what_is_unknown_is_absent(self, tmp_path):
        card = critic_card(save_critic(tmp_path / "critic", None), repo_id=REPO)
        assert headings(card) == ["How to load it", "Intended use and limits", "Citation"]
        assert ModelCard(card).data.to_dict().keys() == {"library_name", "pipeline_tag", "tags"}
        assert not re.search(r"None|Undefined|nan\b|\{\{|\}\}(?!,$)|unknown", card.split("## Citation")[0])

    def test_a_critic_with_atoms_has_cross_entropy_and_no_terms_of_quantiles(self, tmp_path):
        directory = save_critic(tmp_path / "critic", **HEADS["categorical"])
        lines = [{"step": 20, "loss": 0.5, "cross_entropy": 0.5}]
        card = critic_card(directory, run_directory=save_run(tmp_path / "run", {}, lines))
        assert "2 heads of 5 quantiles (of a distribution on 5 returns from -0.500 to 1.50)" in card
        loss = section(card, "loss")
        assert "Cross-entropy of each head with the return, projected by `hl_gauss`; in nats." in loss
        assert row(loss, "`cross_entropy`") == ["`cross_entropy`", "1", "0.500", "0.500"]
        assert "`quantile`" not in loss and "Constants" not in loss and "trained to agree" not in card

    def test_a_scalar_critic_is_called_one(self, tmp_path):
        card = critic_card(save_critic(tmp_path / "critic", num_quantiles=1))
        assert "A value model:" in card and "2 heads give one number each" in card
        assert "cvar" not in card and "may cross" not in card
        assert [line[2] for line in section(card, "loss").splitlines() if line.startswith("| `")] == ["`", "`"]
        assert not {"dvpo", "distributional-value"} & set(ModelCard(card).data.tags)

    def test_a_critic_trained_beside_its_policy(self, tmp_path):
        critic = save_critic(tmp_path / "critic", ONLINE)
        lines = [{"step": step, "critic/loss": 1 / step, "reward": 0.5} for step in range(1, 41)]
        settings = {**SETTINGS, "dataset": ONLINE["dataset"], "seed": 7, "gamma": 0.99}
        run = save_run(tmp_path / "run", settings, lines)
        card = critic_card(critic, policy_repo=POLICY_REPO, pair=pair_of(critic=critic), run_directory=run)
        assert "It goes on from the critic [someone/critic]" in card
        assert row(card, "reward |")[1] == "`rewards:right`, `judge-model`"
        assert row(card, "corrupted on purpose")[1] == "`flip=0.2`"
        assert "λ-returns, λ = 0.95" in card and "too narrow" in card
        assert row(card, "`critic_learning_rate`")[1] == "`0.0003`" and "`learning_rate`" not in card
        steps = [int(step) for step in re.findall(r"^\| (\d+) \|", section(card, "training"), re.MULTILINE)]
        # evenly spaced, and the step of these weights
        assert len(steps) == 13 and {1, 20, 40} <= set(steps) and "13 of 40 rows" in card

    def test_no_path_of_this_machine(self, tmp_path):
        (tmp_path / "hidden" / "base-model").mkdir(parents=True)
        training = {
            **TRAINING,
            "parent": str(tmp_path / "hidden" / "base-model"),
            "dataset": "C:\\Users\\me\\secret\\rows.jsonl",
            "reward_source": ["/home/me/secret/judge"],
            "policy": "./secret/policy",
        }
        card = critic_card(save_critic(tmp_path / "critic", training))
        assert "`base-model`, a local directory" in card and "`rows.jsonl` (a local file" in card
        assert not re.search(r"secret|Users|hidden|home/|/tmp", card)
        assert not {"base_model", "datasets"} & ModelCard(card).data.to_dict().keys()

    def test_hostile_strings(self, tmp_path):
        training = {**TRAINING, "reward_source": f"column '{HOSTILE}'", "dataset_config": HOSTILE, "dataset": HOSTILE}
        training["versions"] = {HOSTILE: HOSTILE}
        critic = save_critic(tmp_path / "critic", training)
        sets = [{"name": HOSTILE, "metrics": {"critic": {"crps": 1.5}}, "dataset": HOSTILE}]
        evaluation = save_evaluation(tmp_path / "evaluation", critic, sets=sets)
        card = critic_card(critic, evaluation=evaluation, example=(HOSTILE, HOSTILE))
        assert "# Owned" not in headings(card) and "\n# Owned" not in card and "\n<!-- /dvpo:judges -->" in card
        assert card.count("\n<!-- /dvpo:judges -->\n") == 1
        outside = re.sub(r"^```.*?^```", "", card, flags=re.DOTALL | re.MULTILINE)
        assert "\n### x \\|" in outside and "&lt;script&gt;" in outside
        assert row(card, "reward |")[1].count("````") == 2  # one code span, in a fence longer than any within
        assert ModelCard(card).data.eval_results[0].dataset_name == HOSTILE
        compile(python_blocks(card)[0], "snippet", "exec")
        assert critic_card(critic, evaluation=evaluation, example=(HOSTILE, HOSTILE), previous=card) == card


class TestPolicyCard:
    def test_every_fact(self, policy, tmp_path):
        run = save_run(
            tmp_path / "run",
            SETTINGS,
            [
                {"step": 0, "eval/hard/set/right": 0.25, "eval/hard/set/truncated": 0.5},
                {"step": 1, "reward": 0.3, "kl": 0.0, "completion_length": 7.5},
                {"step": 60, "eval/hard/set/right": 0.75, "eval/hard/set/truncated": 0.0, "eval/hard/set/prompts": 64},
                {"step": 80, "eval/hard/set/right": 0.9},
            ],
        )
        card = policy_card(
            policy, repo_id=POLICY_REPO, critic_repo=REPO, pair=pair_of(policy=policy), run_directory=run
        )
        assert headings(card) == [
            "What it was trained for", "How to load it", "Results", "Intended use and limits", "Training by step",
            "Hyper-parameters", "How it was made", "Citation", "Environment",
        ]  # fmt: skip
        assert "Its critic is [someone/my-critic](https://huggingface.co/someone/my-critic)" in card
        assert f"dvpo pull {POLICY_REPO}" in card
        assert row(card, "kept near its start")[1] == "a KL penalty of 0.01 in the loss"
        assert row(card, "hard/set (64) | `right`") == [
            "hard/set (64)",
            "`right`",
            "0.250",
            "0.750",
        ]  # step 60's, not 80's
        assert row(card, "1 |") == ["1", "0.300", "0", "7.50"]
        assert row(card, "`kl_coef`")[1] == "`0.01`"
        # an adapter's rank where all weights trained, turns where there is no environment, prompts and paths
        assert not re.search("lora_r|max_turns|secret|output_dir", card)
        data = ModelCard(card).data.to_dict()
        assert data["pipeline_tag"] == "text-generation" and data["library_name"] == "transformers"
        assert data["tags"] == ["modeling-dvpo", "reinforcement-learning", "dvpo"]
        assert (data["base_model"], data["base_model_relation"]) == ("someone/base-model", "finetune")
        assert data["datasets"] == ["someone/prompts"]

    @pytest.mark.parametrize(
        ("settings", "arguments"),
        [
            ({}, {"temperature": 1.0, "top_k": 0, "top_p": 1.0}),
            ({"temperature": 0.7, "top_k": 20, "top_p": 0.8}, {"temperature": 0.7, "top_k": 20, "top_p": 0.8}),
            ({"min_p": 0.1}, {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.1}),
        ],
    )
    def test_its_snippet_samples_as_the_run_did(self, settings, arguments, policy):
        """It left top_k to `generate`, whose 50 no run had."""
        card = policy_card(policy, pair={**pair_of(policy=policy), "settings": {**SETTINGS, **settings}})
        [code] = re.findall(r"^sampling = (.*)$", card, re.MULTILINE)
        assert ast.literal_eval(code) == {"do_sample": True, **arguments}

    def test_without_records(self, policy):
        card = policy_card(policy)
        assert headings(card) == ["How to load it", "Intended use and limits", "Citation"]
        assert "dvpo pull" not in card and "critic is" not in card

    def test_of_another_algorithm(self, policy):
        pair = {**pair_of(policy=policy), "settings": {**SETTINGS, "algorithm": "dr_grpo"}}
        card = policy_card(policy, pair=pair)
        assert ModelCard(card).data.tags == ["modeling-dvpo", "reinforcement-learning", "dr-grpo"]
        assert "the algorithm `dr_grpo`" in card

    def test_an_adapter(self, tmp_path):
        (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/base-model"}')
        card = policy_card(tmp_path, pair={"settings": {**SETTINGS, "trainable": "lora"}})
        data = ModelCard(card).data.to_dict()
        assert (data["library_name"], data["base_model_relation"]) == ("peft", "adapter")
        assert "LoRA adapter of [someone/base-model]" in card and row(card, "`lora_r`")[1] == "`16`"

    def test_benchmarks_in_the_hubs_form(self, policy):
        benchmarks = [
            EvalResultEntry(dataset_id="openai/gsm8k", task_id="gsm8k", value=61.5, date="2026-01-02", notes="a | b"),
            {"dataset": {"id": "openai/gsm8k", "task_id": "1e3"}, "value": 7},
            {"dataset": {"id": "cais/hle", "task_id": "default"}, "value": 0.5, "source": {"url": "https://x.y/z"}},
        ]
        files = eval_result_files(benchmarks)
        assert sorted(files) == [".eval_results/cais--hle.yaml", ".eval_results/openai--gsm8k.yaml"]
        read = parse_eval_result_entries(yaml.safe_load(files[".eval_results/openai--gsm8k.yaml"]))
        assert read[0] == benchmarks[0] and (read[1].task_id, read[1].value) == ("1e3", 7)
        assert 'task_id: "1e3"' in files[".eval_results/openai--gsm8k.yaml"]  # YAML 1.2 reads a bare one as 1000
        card = policy_card(policy, benchmarks=benchmarks)
        link = "[openai/gsm8k](https://huggingface.co/datasets/openai/gsm8k)"
        assert f"| {link} | `gsm8k` | 61.5 | 2026-01-02 | a \\| b |  |" in card
        assert "| `default` | 0.500 |  |  | [source](https://x.y/z) |" in card
        assert "model-index" not in card

    @pytest.mark.parametrize(
        "benchmark",
        [{"value": 1}, {"dataset": {"id": "a/b"}, "value": 1}, {"dataset": {"id": "a/b", "task_id": "t"}}, "a/b", {}],
    )
    def test_a_benchmark_without_its_parts(self, benchmark):
        with pytest.raises(CardError, match="Benchmark 0 is .* it needs the form"):
            eval_result_files([benchmark])

    def test_a_benchmark_that_is_no_data_set_of_the_hub(self):
        with pytest.raises(CardError, match="'/data/mine' is no id of a Hub repository"):
            eval_result_files([{"dataset": {"id": "/data/mine", "task_id": "t"}, "value": 1}])


class TestCommand:
    def test_prints_a_card(self, critic, capsys):
        main(["card", str(critic), "--repo-id", REPO, "--license", "mit"])
        assert capsys.readouterr().out == critic_card(critic, repo_id=REPO, license="mit")

    def test_edits_of_the_file_at_output_survive(self, critic, tmp_path, capsys):
        output = tmp_path / "README.md"
        evaluation = save_evaluation(tmp_path / "evaluation", critic)
        main(["card", str(critic), "--evaluation", str(evaluation), "--output", str(output)])
        assert "belong beside it" in capsys.readouterr().err
        output.write_text(output.read_text() + "\nMy words.\n")
        main(["card", str(critic), "--output", str(output)])
        assert "My words." in output.read_text() and "reliability.png" not in output.read_text()
        assert metadata_load(output)["library_name"] == "transformers"

    def test_finds_the_pair_beside_a_policy(self, policy, tmp_path, capsys):
        (tmp_path / "pair.json").write_text('{"settings": {"algorithm": "grpo"}}')
        (tmp_path / "scores.yaml").write_text("- dataset: {id: a/b, task_id: t}\n  value: 3\n")
        main(["card", str(policy), "--critic", REPO, "--benchmarks", str(tmp_path / "scores.yaml")])
        printed = capsys.readouterr().out
        assert "the algorithm `grpo`" in printed and "[someone/my-critic]" in printed and "| `t` | 3 |" in printed

    def test_refuses_what_does_not_belong(self, critic, tmp_path):
        with pytest.raises(SystemExit, match="--critic is for the card of a policy, and .* holds a critic"):
            main(["card", str(critic), "--critic", REPO])
        with pytest.raises(SystemExit, match="holds no critic and no policy"):
            main(["card", str(tmp_path / "nothing")])


def test_files_to_push_beside_the_card(critic, tmp_path):
    evaluation = save_evaluation(tmp_path / "evaluation", critic)
    assert [file.name for file in card_files(evaluation.parent)] == ["evaluation.json", "reliability.png"]
    shown = set(re.findall(r"\]\(([\w.]+)\)", critic_card(critic, evaluation=evaluation)))
    assert shown == {file.name for file in card_files(evaluation)}


def test_the_hub_finds_nothing_wrong_with_the_metadata(hub, critic, policy, tmp_path):
    """By the client's own `validate`, against the test Hub's copy of the Hub's rules."""
    evaluation = save_evaluation(tmp_path / "evaluation", critic)
    ModelCard(critic_card(critic, repo_id=REPO, evaluation=evaluation, license="mit")).validate()
    ModelCard(policy_card(policy, repo_id=POLICY_REPO, pair=pair_of(policy=policy))).validate()
    with pytest.raises(ValueError, match="license"):
        ModelCard(critic_card(critic, license="no such license")).validate()
