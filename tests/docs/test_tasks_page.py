"""docs/tasks.md: its examples give what they show, and its commands run."""

import doctest
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from conftest import tiny_tokenizer
from tiny_models import tiny_config
from transformers import AutoModelForCausalLM

import modeling_dvpo.training.train_dvpo as script
from modeling_dvpo.training.rewards.functions import load_reward_function
from modeling_dvpo.training.rollouts.environments import load_environment

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tasks.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [text for language, text in BLOCKS if language == "bash"]
EXAMPLES = [text for text in PYTHON if text.startswith(">>>")]
(PREPARATION,) = [text for text in PYTHON if "train_policy" in text]
(OWN_TASK,) = [text for text in PYTHON if text.startswith("# my_task.py")]
TINY_POLICY = "seed=0, num_steps=2, batch_size=2, hidden_size=16, num_layers=1"
# without a critic, since that is the quickest
ONE_STEP = "--algorithm grpo --max_steps 1 --eval_steps 0 --prompts_per_step 2 --num_generations 2"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """What the page's commands find in the directory they are run in, on the smallest scale."""
    directory = tmp_path_factory.mktemp("workplace")
    (directory / "training").symlink_to(ROOT / "training")
    (directory / "my_task.py").write_text(OWN_TASK)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        for task in ("arithmetic", "knowledge", "dialogue"):
            text = PREPARATION.replace("dialogue", task).replace("4000", "8").replace("200", "2")
            text = text.replace("seed=0, num_steps=1000, learning_rate=2e-3", TINY_POLICY)
            assert TINY_POLICY in text  # or this would take minutes
            exec(text, {})
    question = {"prompt": "What is 2 + 3?", "answer": "#### 5"}
    (guess,) = (json.loads(text) for language, text in BLOCKS if language == "json")
    for name, row in (("problems", question), ("guess", guess)):
        (directory / "outputs" / f"{name}.jsonl").write_text(4 * (json.dumps(row) + "\n"))
    tokenizer = tiny_tokenizer._get_wrapped_function()()
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(tiny_config("qwen3", vocab_size=len(tokenizer)))
    policy.save_pretrained(directory / "policy")
    tokenizer.save_pretrained(directory / "policy")
    return directory


@pytest.mark.parametrize("text", EXAMPLES)
def test_examples_give_what_they_show(text):
    test = doctest.DocTestParser().get_doctest(text, {}, "docs/tasks.md", None, None)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


def test_there_are_examples_of_every_task():
    assert len(EXAMPLES) == 4
    assert len(COMMANDS) == 6


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command, workplace, tmp_path, monkeypatch):
    """One step of a policy that has learnt nothing, which stands in for one of the Hub, too."""
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(workplace)
    words = shlex.split(command.replace("\\\n", " "))
    arguments = words[words.index("training/train_dvpo.py") + 1 :]
    if any(word.startswith("Qwen/") for word in words):
        arguments += ["--model_name_or_path", "policy", "--max_completion_length", "48"]
    script.main([*arguments, *ONE_STEP.split(), "--output_dir", str(tmp_path / "run")])
    metrics = (tmp_path / "run" / "metrics.jsonl").read_text()
    functions = re.findall(r":(\w+_reward|\w+_completion|found)\b", command) or ["exact_reward"]  # the recipe's
    assert all(f'"reward/{function}"' in metrics for function in functions)


def test_the_page_s_own_task(workplace, monkeypatch):
    monkeypatch.syspath_prepend(workplace)
    environment, found = load_environment("my_task:environment"), load_reward_function("my_task:found")

    def turns(*texts):
        return [{"role": role, "content": text} for role, text in zip(("assistant", "user") * 3, texts, strict=False)]

    talks = [turns("3"), turns("9"), turns("7"), turns("seven"), turns("3", "higher", "7"), turns("3", "higher", "8")]
    replies = environment([None] * 6, talks, secret=[7] * 6)
    assert [reply and reply["content"] for reply in replies] == ["higher", "lower", None, None, None, "lower"]
    assert found([None] * 6, talks, secret=[7] * 6) == pytest.approx([0, 0, 1, 0, 0.9, 0])
