"""A policy's benchmark scores in the Hub's form: `.eval_results/*.yaml`, which feed the benchmarks' leaderboards.

The Hub shows an entry only where the data set is registered there as a benchmark and has the task, so scores come from
whoever ran the benchmark; held-out rewards of a training run are no such thing and stay in the card's text. The older
form, `model-index` in the card's metadata, is kept for a critic's own metrics, which no leaderboard collects.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries

from .errors import CardError
from .metadata import dump_yaml
from .origins import hub_origin

Benchmarks = Iterable[EvalResultEntry | Mapping]


def benchmark_entries(benchmarks: Benchmarks) -> list[EvalResultEntry]:
    """Entries of huggingface_hub from entries, or from mappings as they stand in a `.eval_results` file.

    Raises:
        CardError: one lacks its data set, task or value, or does not name a Hub data set.
    """
    entries = []
    for place, given in enumerate(benchmarks):
        try:
            entry = given if isinstance(given, EvalResultEntry) else parse_eval_result_entries([given])[0]
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise CardError(
                f"Benchmark {place} is {given!r:.200} ({type(error).__name__}: {error}); it needs the form of the "
                "Hub's .eval_results: {dataset: {id: owner/name, task_id: ...}, value: number}."
            ) from error
        hub_origin(entry.dataset_id)
        if isinstance(entry.value, bool) or not isinstance(entry.value, int | float | str):
            raise CardError(f"Benchmark {entry.dataset_id} has the value {entry.value!r}; a number is needed.")
        entries.append(entry)
    return entries


def read_benchmarks(file: Path) -> list:
    """Benchmark scores from a YAML file in the form of `.eval_results`; raises CardError."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise CardError(f"{file} is no YAML: {error}") from error
    if not isinstance(content, list):
        raise CardError(f"{file} holds {type(content).__name__}; a list of scores as in .eval_results is needed.")
    return content


def eval_result_files(benchmarks: Benchmarks) -> dict[str, str]:
    """The files that put benchmark scores on the Hub's model page and leaderboards.

    Args:
        benchmarks: see `benchmark_entries`.

    Returns:
        path in the repository -> YAML text; one file a data set.
    """
    by_dataset: dict[str, list[EvalResultEntry]] = {}
    for entry in benchmark_entries(benchmarks):
        by_dataset.setdefault(entry.dataset_id, []).append(entry)
    return {
        f".eval_results/{dataset.replace('/', '--')}.yaml": dump_yaml(eval_result_entries_to_yaml(entries))
        for dataset, entries in by_dataset.items()
    }
