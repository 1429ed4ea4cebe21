"""The wheel: what is in it, and that it works away from the checkout."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from tiny_models import tiny_causal_lm

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # a copy, so that no build/ is left in the checkout
    source = folder / "source"
    files = ["pyproject.toml", "README.md", "LICENSE", "modeling_dvpo", "training", "hub_cards"]
    source.mkdir()
    subprocess.run(["cp", "-r", *files, source], cwd=ROOT, check=True)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(folder.glob("*.whl"))


def test_only_our_own_name_lands_in_site_packages(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"modeling_dvpo", "modeling_dvpo-0.1.0.dist-info"}


def test_it_holds_every_module_and_data_file(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    kinds = ("*.py", "*.jinja", "*.html", "*.css", "*.js", "*.yaml", "metrics/*/README.md", "requirements.txt")
    expected = {str(path.relative_to(ROOT)) for kind in kinds for path in (ROOT / "modeling_dvpo").rglob(kind)}
    for folder in ("training", "hub_cards"):
        files = [path for kind in kinds for path in (ROOT / folder).rglob(kind)]
        expected |= {f"modeling_dvpo/{path.relative_to(ROOT)}" for path in files}
    assert len(expected) > 100
    assert expected | {"modeling_dvpo/py.typed"} <= names


def test_a_command_runs_from_any_directory(wheel, tiny_tokenizer, tmp_path):
    """`dvpo train-critic` with one of our recipes, away from the checkout."""
    site, model = tmp_path / "site", tmp_path / "model"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    tiny_causal_lm("qwen3", vocab_size=len(tiny_tokenizer)).save_pretrained(model)
    tiny_tokenizer.save_pretrained(model)
    rows = [{"prompt": "What is 2 + 3?", "completion": f"The answer is {i}.", "reward": i % 2} for i in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1))\n"
        "import modeling_dvpo.cli\n"
        "assert modeling_dvpo.__file__.startswith(sys.path[0])\n"
        "modeling_dvpo.cli.main()\n"
    )
    settings = [
        "--model_name_or_path=model",
        "--dataset=rows.jsonl",
        "--output_dir=run",
        "--max_steps=1",
        "--eval_steps=0",
    ]
    command = [sys.executable, "-c", code, str(site), "train-critic", "demo.yaml", *settings]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()
