"""What the pages point at is there: files, headings of other pages, and paths of the repository."""

import re

import pytest
from docs_scripts import PAGES, ROOT

LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
PATH = re.compile(r"(?<![\w/.])((?:benchmarks|docs|examples|hub_cards|modeling_dvpo|tests|training)/[\w./-]+)")


def prose(path) -> str:
    """The page without the examples that others might have: what a card says, in blocks of Markdown."""
    return re.sub(r"^````.*?^````$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    broken = []
    for target, anchor in LINK.findall(prose(page)):
        path = page.parent / target if target else page
        if not path.is_file() or (anchor and anchor not in anchors(path)):
            broken.append(f"{target}#{anchor}")
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_paths_of_the_repository_are_there(page):
    paths = [path.rstrip(".") for path in PATH.findall(prose(page))]
    assert [path for path in paths if not (ROOT / path).exists()] == []
