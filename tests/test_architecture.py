"""The plan of the house: which room imports which, read from the code. docs/architecture.md draws this table.

`python tests/test_architecture.py` draws it anew.
"""

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "figures" / "architecture.svg"
PACKAGES = ("modeling_dvpo", "hub_cards", "training")
COLOURS = {"modeling_dvpo": "#dbe7f6", "hub_cards": "#e6e0f2", "training": "#e3f0dc"}

# what a script that is run as a file imports to become a part of it
SCRIPTS_PARENT = "modeling_dvpo.training"

# room -> rooms that it imports; a room is a folder, or a file at the top of a package
ROOMS = {
    # the package: what reads, judges and shares a critic
    "modeling_dvpo/critic": "",
    "modeling_dvpo/gguf_files": "",
    "modeling_dvpo/auto": "critic gguf_files",
    "modeling_dvpo/returns": "",
    "modeling_dvpo/text": "",
    "modeling_dvpo/metrics": "critic",
    "modeling_dvpo/inference": "critic auto text metrics",
    "modeling_dvpo/inspection": "critic auto text metrics inference",
    "modeling_dvpo/digests": "",
    "modeling_dvpo/ranks": "",
    "modeling_dvpo/saving": "ranks",
    "modeling_dvpo/version": "",
    "modeling_dvpo/cli": "",
    "hub_cards": "critic digests version",
    "modeling_dvpo/hub": "critic auto digests ranks saving version hub_cards",
    # training: the package with an optimizer
    "training/errors": "text",
    "training/engine": "ranks",
    "training/run": "critic ranks saving hub training/errors",
    "training/rewards": "text training/errors",
    "training/data": "returns version ranks text training/errors training/run training/engine training/rewards",
    "training/rollouts": "text inference ranks training/errors training/run training/engine training/rewards "
    "training/data",
    "training/models": "critic gguf_files auto digests ranks saving version training/errors training/engine",
    "training/algorithms": "critic gguf_files returns metrics inference ranks training/errors training/run "
    "training/engine training/data training/rollouts training/models",
    "training/evaluation": "critic text inference metrics ranks hub training/errors training/run "
    "training/engine training/rewards training/data training/rollouts training/models training/algorithms",
    "training/trainers": "critic metrics ranks training/errors training/run training/engine training/rewards "
    "training/data training/rollouts training/models training/algorithms",
    "training/sampling": "text inference ranks training/errors training/run training/engine training/rewards "
    "training/data training/rollouts training/models training/algorithms",
    "training/tasks": "text",
    "training/script": "text ranks hub training/errors training/engine training/run",
    "training/sample": "training/script training/run training/sampling",
    "training/train_critic": "training/script training/run training/algorithms training/trainers",
    "training/train_dvpo": "training/script training/run training/algorithms training/trainers",
    "training/evaluate_critic": "training/script training/run training/evaluation",
}


def _whole(name: str) -> str:
    return name if "/" in name or name in PACKAGES else f"modeling_dvpo/{name}"


TABLE = {room: {_whole(name) for name in names.split()} for room, names in ROOMS.items()}


def module_of(path: Path) -> str:
    parts = [*path.relative_to(ROOT).with_suffix("").parts]
    parts = parts if parts[0] == "modeling_dvpo" else ["modeling_dvpo", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_of(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def room_of(module: str) -> str | None:
    """None for a package's `__init__`: its face, which may show any of its rooms."""
    package, *rest = modules()[module].relative_to(ROOT).parts
    if package == "hub_cards":
        return package
    return None if rest == ["__init__.py"] else f"{package}/{Path(rest[0]).stem}"


@cache
def imports_of(module: str) -> frozenset[str]:
    """Modules of ours that it imports, wherever in the file; of a package's names those of its `__init__`."""
    path, found = modules()[module], set()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.rsplit(".", node.level - 1)[0] if node.level else ""
            base = ".".join(filter(None, [above, node.module]))
            found |= {name if name in modules() else base for name in (f"{base}.{a.name}" for a in node.names)}
    return frozenset(found & modules().keys()) - {module}


def test_rooms_import_what_the_table_says_and_nothing_else():
    found = {room: set() for room in map(room_of, modules()) if room}
    for module in modules():
        if here := room_of(module):
            found[here] |= {room_of(name) or name for name in imports_of(module)} - {here, SCRIPTS_PARENT}
    assert found == TABLE


def test_nothing_goes_in_a_circle():
    """Rooms, and files; `static_order` raises CycleError."""
    for graph in (TABLE, {module: imports_of(module) for module in modules()}):
        assert list(TopologicalSorter(graph).static_order())


def test_the_package_does_not_import_training():
    """`dvpo train` names its scripts; whoever only reads critics needs no trainer's packages."""
    above = [name for name in modules() if not modules()[name].is_relative_to(ROOT / "training")]
    assert not [
        (name, used) for name in above for used in imports_of(name) if used.startswith("modeling_dvpo.training")
    ]


def test_imports_inside_a_package_are_relative():
    """So that tools which know nothing of `modeling_dvpo.training` see them; modules of `evaluate` stand alone."""
    inside = {"modeling_dvpo": r"modeling_dvpo\b", "hub_cards": r"modeling_dvpo\.hub_cards\b"}
    inside["training"] = r"modeling_dvpo\.training\b(?!  # noqa)"
    for path in modules().values():
        package = path.relative_to(ROOT).parts[0]
        if path.parent.parent.name == "metrics":
            continue
        lines = [line for line in path.read_text().splitlines() if re.match(rf"\s*from {inside[package]}", line)]
        if package == "modeling_dvpo":
            lines = [line for line in lines if not re.match(r"\s*from modeling_dvpo\.hub_cards\b", line)]
        assert not lines, (path, lines)


def test_no_file_is_too_long():
    paths = [
        path for folder in (*PACKAGES, "tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")
    ]
    assert not {path.name: count for path in paths if (count := path.read_text().count("\n")) > 500}


def reached(room: str) -> set[str]:
    """Everything that it stands on."""
    return TABLE[room] | {below for other in TABLE[room] for below in reached(other)}


def floors() -> list[list[str]]:
    """Rooms from the ground up, each above all that it imports, beside others that stand on the same."""
    height: dict[str, int] = {}
    for room in TopologicalSorter(TABLE).static_order():
        height[room] = 1 + max((height[other] for other in TABLE[room]), default=-1)
    found, place = [[] for _ in range(max(height.values()) + 1)], {}
    for room in sorted(height, key=height.__getitem__):
        found[height[room]].append(room)
    for floor in found:
        middles = {room: [place[other] for other in TABLE[room]] for room in floor}
        floor.sort(
            key=lambda room: (PACKAGES.index(room.split("/")[0]), sum(middles[room]) / max(len(middles[room]), 1))
        )
        place |= {room: (i + 0.5) / len(floor) for i, room in enumerate(floor)}
    return found


def drawing() -> str:
    """The table as an SVG, without the arrows that follow from others: training/data -> text by way of errors."""
    wide, high, box = 1160, 76, 108
    rows, centre, parts = floors(), {}, []
    for level, rooms in enumerate(rows):
        for i, room in enumerate(rooms):
            centre[room] = (round(wide * (i + 0.5) / len(rooms)), high * (len(rows) - level) - 40)
    for room, used in TABLE.items():
        for other in sorted(used - {below for one in used for below in reached(one)}):
            (x1, y1), (x2, y2) = centre[room], centre[other]
            curve = f"M{x1} {y1 + 13}C{x1} {y1 + 45} {x2} {y2 - 45} {x2} {y2 - 13}"
            parts.append(f'<path d="{curve}" fill="none" stroke="#8a8f98"/>')
    for room, (x, y) in centre.items():
        package, name = room.split("/")[0], room.split("/")[-1]
        parts.append(
            f'<rect x="{x - box // 2}" y="{y - 13}" width="{box}" height="26" rx="4" '
            f'fill="{COLOURS[package]}" stroke="#5b616b"/><text x="{x}" y="{y + 4}" text-anchor="middle">{name}</text>'
        )
    size = f"{wide} {high * len(rows)}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="13">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>"]) + "\n"


def as_table() -> str:
    shown = {room: f"`{room}/`" if (ROOT / room).is_dir() else f"`{room}.py`" for room in TABLE}
    rows = [
        f"| {shown[room]} | {', '.join(shown[name] for name in sorted(used)) or '—'} |" for room, used in TABLE.items()
    ]
    return "\n".join(["| room | imports |", "|---|---|", *rows])


def page() -> str:
    table = as_table()
    return re.sub(
        r"(<!-- begin rooms -->\n).*(\n<!-- end rooms -->)",
        lambda m: m[1] + table + m[2],
        PAGE.read_text(),
        flags=re.S,
    )


def test_the_page_shows_this_table():
    current = PAGE.read_text() == page() and PICTURE.read_text() == drawing()
    assert current, "python tests/test_architecture.py draws docs/architecture.md and its picture anew"


if __name__ == "__main__":
    PAGE.write_text(page())
    PICTURE.write_text(drawing())
