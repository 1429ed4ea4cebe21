"""The pages' tables of settings and metrics are those of the code, and no setting is without one."""

import dataclasses

import pytest
from docs_scripts import DOCS, load

from modeling_dvpo.training import evaluate_critic, sample, train_critic, train_dvpo

tables = load("tables")
PAGES = {path: path.read_text() for path in DOCS.rglob("*.md")}


@pytest.mark.parametrize("path", [path for path, page in PAGES.items() if tables.PLACE.search(page)], ids=str)
def test_a_page_has_what_the_code_says(path):
    assert PAGES[path] == tables.filled(PAGES[path]), "a table is not up to date: run `python -m docs.tables`"


def test_every_table_is_on_one_page():
    found = [place[2] for page in PAGES.values() for place in tables.PLACE.finditer(page)]
    assert sorted(found) == sorted(tables.TABLES)


@pytest.mark.parametrize("script", [evaluate_critic, sample, train_critic, train_dvpo])
def test_every_setting_of_a_script_is_in_a_table(script):
    written = "".join(tables.TABLES.values())
    names = [field.name for arguments in script.ARGUMENTS for field in dataclasses.fields(arguments) if field.init]
    assert len(names) > 20
    assert [name for name in names if f"| `{name}` |" not in written] == []


def test_a_default_is_as_it_is_written_on_the_command_line():
    @dataclasses.dataclass
    class Settings:
        needed: str = dataclasses.field(metadata={"help": "One | two."})
        yes: bool = dataclasses.field(default=False, metadata={"help": "A switch."})
        rate: float = dataclasses.field(default=1e-5, metadata={"help": "A rate."})
        names: list = dataclasses.field(default_factory=list, metadata={"help": "None by default."})
        fixed: int = dataclasses.field(default=1, init=False)

    assert tables.settings(Settings).splitlines()[2:] == [
        "| `needed` | required | One \\| two. |",
        "| `yes` | `false` | A switch. |",
        "| `rate` | `1e-05` | A rate. |",
        "| `names` |  | None by default. |",
    ]


def test_a_table_that_there_is_not():
    with pytest.raises(KeyError, match="Nothing"):
        tables.filled("<!-- begin table: Nothing -->\n<!-- end -->")
