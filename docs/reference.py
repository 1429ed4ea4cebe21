"""The API reference, made from the docstrings: a page a package, a section a module. A hook of `mkdocs.yml`.

The README is the site's front page.
"""

import importlib
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Where the documented packages lie in a clone. `training/` and `hub_cards/` have their installed names only in a
# wheel, so the build reads a copy that is laid out like one.
SOURCES = {
    "modeling_dvpo": ROOT / "modeling_dvpo",
    "modeling_dvpo.hub_cards": ROOT / "hub_cards",
    "modeling_dvpo.training": ROOT / "training",
}
COPY = ROOT / "build" / "reference"


def packages() -> dict[str, list[str]]:
    """Modules of every package, by full names, in the order of the pages."""
    found = {}
    for top, folder in SOURCES.items():
        for marker in sorted(folder.rglob("__init__.py")):
            parts = marker.parent.relative_to(folder).parts
            name = ".".join((top, *parts))
            modules = sorted(path.stem for path in marker.parent.glob("*.py") if not path.stem.startswith("_"))
            found[name] = [f"{name}.{module}" for module in modules]
    return found


def pages() -> dict[str, str]:
    """The reference's pages, Markdown by path."""
    return {f"reference/{name}.md": page(name, modules) for name, modules in packages().items()}


def page(package: str, modules: list[str]) -> str:
    parts = [f"# {package}", f"::: {package}\n    options: {{show_root_heading: false, members: false}}"]
    if names := public_names(package):
        parts.append(names)
    return "\n\n".join([*parts, *(f"::: {module}" for module in modules)]) + "\n"


def public_names(package: str) -> str:
    """A table of what the package's `__all__` offers, each name linked to where it is documented."""
    module = importlib.import_module(package)
    rows = []
    for name in getattr(module, "__all__", ()):
        thing = getattr(module, name)
        if callable(thing):
            summary = thing.__doc__.strip().split("\n\n")[0].replace("\n", " ").replace("|", "\\|")
            rows.append(f"| [`{name}`][{thing.__module__}.{name}] | {' '.join(summary.split())} |")
    return "\n".join(["| imported from here | |", "|---|---|", *rows]) if rows else ""


def on_startup(command, dirty):
    """Lay the packages out as a wheel has them, before the plugin looks for the folder."""
    shutil.rmtree(COPY, ignore_errors=True)
    for name, folder in SOURCES.items():
        shutil.copytree(folder, COPY.joinpath(*name.split(".")), ignore=shutil.ignore_patterns("__pycache__"))


def on_config(config):
    """Put the pages into the navigation."""
    reference = [{path[len("reference/modeling_dvpo") : -len(".md")].strip(".") or "names": path} for path in pages()]
    config.nav = [{"Overview": "index.md"}, *config.nav, {"Reference": reference}]
    return config


def on_files(files, config):
    from mkdocs.structure.files import File

    front_page = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
    for path, text in {"index.md": front_page, **pages()}.items():
        files.append(File.generated(config, path, content=text))
    return files
