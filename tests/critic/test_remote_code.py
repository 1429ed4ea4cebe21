"""A critic's directory loads where our package is not installed, with the code that was saved beside the weights."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_critics import HEADS, tiny_critic
from tiny_models import tiny_config

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.critic import modeling_distributional_value


def load_in_a_clean_process(directory, tmp_path):
    script = Path(__file__).with_name("load_with_remote_code.py")
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    output_file = tmp_path / "output.safetensors"
    command = [sys.executable, str(script), str(directory), str(output_file)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    return load_file(output_file)


@pytest.mark.parametrize(
    ("model_type", "heads", "num_quantiles"),
    [("qwen3", "linear", 5), ("gpt2", "monotone", 4), ("qwen3", "categorical", 4)],
)
def test_same_numbers_without_the_package(model_type, heads, num_quantiles, tiny_tokenizer, tmp_path):
    config = tiny_config(model_type, vocab_size=len(tiny_tokenizer))
    critic = tiny_critic(config=config, **{**HEADS[heads], "num_quantiles": num_quantiles})
    critic.save_pretrained(tmp_path / "critic")
    tiny_tokenizer.save_pretrained(tmp_path / "critic")

    remote = load_in_a_clean_process(tmp_path / "critic", tmp_path)
    ids = tiny_tokenizer(["What is 2 + 3?"], return_tensors="pt").input_ids
    assert torch.equal(remote["ids"], ids)
    labels = torch.arange(ids.numel(), dtype=torch.float32).reshape(ids.shape) / 7
    output = critic(ids, labels=labels)
    assert torch.equal(remote["quantiles"], output.quantiles)
    assert torch.equal(remote["value"], output.value)
    assert torch.equal(remote["loss"], output.loss)
    assert torch.equal(remote["again"], output.quantiles)
    assert remote["settings"].tolist() == [2, num_quantiles, 0.25, 2.0]
    # and back: what the clean process saved is a critic to us
    ours = AutoModelForDistributionalValue.from_pretrained(f"{tmp_path / 'output.safetensors'}-again")
    assert type(ours) is type(critic)
    assert torch.equal(ours(ids).quantiles, output.quantiles)


def test_shipped_files_import_what_transformers_ships_and_nothing_of_ours(tmp_path):
    """transformers copies a file only where `from .file import name` stands, and installs no other package."""
    tiny_critic().save_pretrained(tmp_path)
    shipped = {path.stem for path in tmp_path.glob("*.py")}
    source = Path(modeling_distributional_value.__file__).parent
    for path in tmp_path.glob("*.py"):
        assert path.read_text() == (source / path.name).read_text()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module in shipped, (path.name, ast.unparse(node))
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                for name in names:
                    top = name.partition(".")[0]
                    assert top in {"torch", "transformers"} or top in sys.stdlib_module_names, (path.name, name)
