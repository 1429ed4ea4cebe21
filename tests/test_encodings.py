"""Text files are UTF-8, whatever the machine's locale says."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("modeling_dvpo", "training", "hub_cards")
SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def calls_without_encoding(source):
    """Lines on which a file is opened as text and its encoding is left to the locale."""
    for node in ast.walk(ast.parse(source)):
        name = getattr(node.func, "attr", getattr(node.func, "id", None)) if isinstance(node, ast.Call) else None
        if name not in ("open", "read_text", "write_text"):
            continue
        modes = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
        binary = name == "open" and any(mode in ("rb", "wb", "ab") for mode in modes)
        ours = isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "self.log"  # no file
        if not binary and not ours and not any(keyword.arg == "encoding" for keyword in node.keywords):
            yield ast.unparse(node)


@pytest.mark.parametrize("source", ["path.read_text()", "open(path)", "path.open('a')", "path.write_text('b')"])
def test_a_call_that_leaves_it_to_the_locale_is_found(source):
    assert list(calls_without_encoding(source)) == [source]
    assert not list(calls_without_encoding(source.replace(")", ", encoding='utf-8')").replace("(, ", "(")))
    assert not list(calls_without_encoding("path.open('rb')"))


def test_no_text_file_is_opened_in_the_locales_encoding():
    found = {str(path.relative_to(ROOT)): [*calls_without_encoding(path.read_text("utf-8"))] for path in SOURCES}
    assert len(found) > 100 and not {path: calls for path, calls in found.items() if calls}


def test_a_recipe_is_read_the_same_in_every_locale(tmp_path):
    """A system prompt from YAML was mangled, or ended in a traceback, where the locale is not UTF-8."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("dataset: x\nsystem_prompt: Réponds “brièvement” ≤ 5 词\n", encoding="utf-8")
    program = (
        "from modeling_dvpo.training.run.config import parse_config\n"
        "from modeling_dvpo.training.data.arguments import PromptArguments\n"
        f"print(ascii(parse_config((PromptArguments,), [{str(recipe)!r}])[0].system_prompt))"
    )
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **locale}
    )
    assert done.stdout.strip() == ascii("Réponds “brièvement” ≤ 5 词"), done.stderr[-2000:]
