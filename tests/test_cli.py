"""`dvpo`: its commands are there, and what goes wrong is one line."""

import sys

import pytest

from modeling_dvpo.cli import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_how_it_is_used(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: dvpo {name}")


def test_help_lists_them_without_importing_them(capsys, monkeypatch):
    for module, _ in COMMANDS.values():
        monkeypatch.setitem(sys.modules, module.partition(":")[0], None)
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(f"    {name} " in out for name in COMMANDS)


def test_an_error_is_one_line_that_names_it(tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["card", str(tmp_path / "nowhere")])
    assert "nowhere" in ended.value.code
    assert "Traceback" not in ended.value.code
