"""What the Hub itself reads: the YAML at the head of a card, and a policy's benchmark scores, `.eval_results/*.yaml`.

The Hub shows a benchmark entry only where the data set is registered there as a benchmark and has the task, so scores
come from whoever ran the benchmark; held-out rewards of a training run are no such thing and stay in the card's text.
The older form, `model-index` in the metadata, is kept for a critic's own metrics, which no leaderboard collects.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index

from .errors import CardError
from .evaluation import METRICS
from .origins import hub_origin

TAGS = ["modeling-dvpo", "reinforcement-learning"]
# The Hub's snippet passes `trust_remote_code=True` for models with this tag.
REMOTE_CODE_TAG = "custom_code"

Benchmarks = Iterable[EvalResultEntry | Mapping]


def critic_metadata(facts) -> dict:
    """Metadata of a critic.

    `library_name` is `transformers`: a critic is a transformers model, and with its code in the repository the Hub's
    own snippet is `AutoModel.from_pretrained(..., trust_remote_code=True)`, which gives the critic. (Without that
    argument `AutoModel` gives a bare backbone, so `custom_code` is written out, not left to the Hub to find.) An
    adapter carries no code that `AutoModel` would use: its library is `peft`.

    `pipeline_tag` is set because the Hub would otherwise infer `feature-extraction` from the class `AutoModel`; of the
    Hub's tasks, reinforcement learning is the one that a critic serves, and it brings no pipeline snippet.
    """
    tags = [*TAGS, "critic", "value-model"]
    if facts.num_quantiles > 1:
        tags += ["distributional-value", "dvpo"]
    return _without_empty(
        {
            **_head(facts),
            "pipeline_tag": "reinforcement-learning",
            "tags": tags + [REMOTE_CODE_TAG] * facts.has_code,
            **_ancestry(facts),
            "model-index": _model_index(facts),
        }
    )


def policy_metadata(facts) -> dict:
    """Metadata of a policy, an ordinary causal LM."""
    algorithm = facts.run.get("algorithm")
    tags = [*TAGS, *([algorithm.replace("_", "-")] if algorithm else [])]
    return _without_empty({**_head(facts), "pipeline_tag": "text-generation", "tags": tags, **_ancestry(facts)})


def benchmark_entries(benchmarks: Benchmarks) -> list[EvalResultEntry]:
    """Entries of huggingface_hub from entries, or from mappings as they stand in a `.eval_results` file.

    Raises:
        CardError: one lacks its data set, task or value, or does not name a Hub data set.
    """
    entries = []
    for place, given in enumerate(benchmarks):
        try:
            entry = given if isinstance(given, EvalResultEntry) else parse_eval_result_entries([dict(given)])[0]
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


class _Dumper(yaml.SafeDumper):
    """Quotes what other parsers read as a number: the Hub's is YAML 1.2, where 1e3 is one."""


def _represent_text(dumper, text: str):
    style = '"' if re.match(r"[-+.]?\d", text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump_yaml(data) -> str:
    """YAML that reads back as `data`, whatever its strings hold; keys in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def _head(facts) -> dict:
    return {"library_name": "peft" if facts.is_adapter else "transformers", "license": facts.license}


def _ancestry(facts) -> dict:
    names = [origin.name for origin in facts.base_models]
    relation = "adapter" if facts.is_adapter else "finetune"
    return {
        "base_model": names[0] if len(names) == 1 else names,
        "base_model_relation": relation if names else None,
        "datasets": [origin.name for origin in facts.datasets],
    }


def _model_index(facts) -> list:
    results = []
    sets = facts.evaluation.sets if facts.evaluation else []
    sources = [one.dataset.name for one in sets if one.dataset and one.dataset.on_hub]
    for one in sets:
        on_hub = one.dataset is not None and one.dataset.on_hub
        source = one.dataset.name if on_hub else _slug(one.name)
        results += [
            EvalResult(
                task_type="reinforcement-learning",
                task_name="return prediction",
                dataset_type=source,
                dataset_name=one.name,
                # results of one data set would be merged into one, whatever the set's name
                dataset_config=one.name if sources.count(source) > 1 else None,
                metric_type=metric,
                metric_name=METRICS[metric].label,
                metric_value=round(one.metrics["critic"][metric], 6),
            )
            for metric in METRICS
            if metric in one.metrics.get("critic", {})
        ]
    return eval_results_to_model_index(facts.name.rpartition("/")[2], results) if results else []


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-") or "held-out"


def _without_empty(data: dict) -> dict:
    return {key: value for key, value in data.items() if value not in (None, [], {})}
