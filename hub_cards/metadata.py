"""The YAML at the head of a card: what the Hub filters, links and lists by."""

import re

import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from .metric_names import METRICS

TAGS = ["modeling-dvpo", "reinforcement-learning"]
# The Hub's snippet passes `trust_remote_code=True` for models with this tag.
REMOTE_CODE_TAG = "custom_code"


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
