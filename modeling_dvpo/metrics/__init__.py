"""Metrics of distributional critics as modules of the `evaluate` library, one a folder; see docs/metrics.md."""

from pathlib import Path

FOLDER = Path(__file__).parent


def metric_names() -> list[str]:
    """The modules there are: what `metric_path` takes."""
    return sorted(path.stem for path in FOLDER.glob("*/*.py") if path.stem == path.parent.name)


def metric_path(name: str) -> str:
    """Where a metric's module lies, for `evaluate.load(metric_path("crps"))`.

    Raises:
        ValueError: no such metric; the message lists those there are.
    """
    if name not in metric_names():
        raise ValueError(f"There is no metric {name!r}; there are {', '.join(metric_names())}.")
    return str(FOLDER / name)
