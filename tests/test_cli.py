"""`dvpo` and the scripts: they are there, however they are started, and what goes wrong is one line."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modeling_dvpo.cli import COMMANDS, SCRIPTS, main

ROOT = Path(__file__).parents[1]
FILES = ("sample.py", "train_critic.py", "train_dvpo.py", "evaluate_critic.py")


@pytest.mark.parametrize("name", [*COMMANDS, *SCRIPTS])
def test_every_command_says_how_it_is_used(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dvpo", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: dvpo {name}")


def test_help_lists_them_without_importing_them(capsys, monkeypatch):
    for module, _ in (*COMMANDS.values(), *SCRIPTS.values()):
        monkeypatch.setitem(sys.modules, module.partition(":")[0], None)
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(re.search(rf"^    {name}\s", out, flags=re.M) for name in (*COMMANDS, *SCRIPTS))


@pytest.mark.parametrize("arguments", [["card", "nowhere"], ["train", "nowhere.yaml"]])
def test_an_error_is_one_line_that_names_it(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dvpo", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert arguments[1] in ended.value.code
    assert "Traceback" not in ended.value.code


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """The packages as a clone has them, where nothing was installed from; its own words tell it from what is."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("modeling_dvpo", "training", "hub_cards"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in folder.glob("training/**/arguments.py"):
        path.write_text(path.read_text().replace("Where the run writes", "Where the clone's run writes"))
    return folder


def run_file(path, *arguments, afterwards="", **environment):
    """`python path arguments`, and then some code in the same process."""
    code = (
        "import runpy, sys\nsys.argv = sys.argv[1:]\nsys.path[0] = sys.argv.pop(0)\n"
        f"try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\nexcept SystemExit:\n    pass\n{afterwards}"
    )
    command = [sys.executable, "-c", code, str(path.parent), str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.parametrize("file", FILES)
def test_a_clone_runs_its_own_scripts(file, clone):
    done = run_file(clone / "training" / file, "--help")
    assert done.stdout.startswith(f"usage: {file} [recipe.yaml ...] [--key value ...]"), done.stderr
    assert "Where the clone's run writes" in done.stdout


def test_no_room_of_ours_stands_in_front_of_a_users_module(clone, tmp_path):
    """`--reward_funcs tasks:reward` named a module of ours where the user had one of that name."""
    rooms = sorted({path.stem for path in (ROOT / "training").iterdir()} - {"__init__", "__pycache__"})
    for name in (*rooms, "tests", "hub_cards"):
        (tmp_path / f"{name}.py").write_text("mine = True\n")
    done = run_file(
        clone / "training" / "train_dvpo.py",
        "--help",
        afterwards="\n".join(f"import {name}; assert {name}.mine" for name in (*rooms, "tests", "hub_cards")),
        PYTHONPATH=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr
