"""`/api/validate-yaml`: the rules for a card's metadata that a critic's or a data set's card can break."""

import re

import yaml

from .answers import Answer
from .routing import route

LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "gpl-3.0", "llama3.3", "gemma", "other")  # a few of them
RELATIONS = ("adapter", "merge", "quantized", "finetune")
REPO_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def metadata_of(card: str) -> dict | None:
    """The metadata at the head of a card; None where it has none.

    Raises:
        yaml.YAMLError: it is no YAML.
    """
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", card, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


@route("POST", "/api/validate-yaml")
def validate(hub, request):
    body = request.json()
    errors = check_card(body["content"])
    return Answer.json({"errors": [{"message": one} for one in errors], "warnings": []}, 400 if errors else 200)


def check_card(card: str) -> list[str]:
    """What is wrong with a card's metadata."""
    try:
        data = metadata_of(card) or {}
    except yaml.YAMLError as error:
        return [f"YAML Metadata Error: {error}"]
    errors = []

    if data.get("license", LICENSES[0]) not in LICENSES:
        errors.append(f'"license" must be one of [{", ".join(LICENSES)}], got {data["license"]!r}')
    for key in ("tags", "datasets", "metrics"):
        value = data.get(key)
        if value is not None and not (isinstance(value, str) and key != "tags"):
            if not isinstance(value, list):
                errors.append(f'"{key}" must be an array')
            elif not all(isinstance(one, str) for one in value):
                errors.append(f'"{key}" must be an array of strings')
    for key in ("library_name", "pipeline_tag", "license_name", "license_link"):
        if not isinstance(data.get(key, ""), str):
            errors.append(f'"{key}" must be a string')
    value = data.get("base_model", [])
    for one in value if isinstance(value, list) else [value]:
        if not (isinstance(one, str) and REPO_ID.fullmatch(one)):
            errors.append(f'"base_model" with value "{one}" is not valid. Use a model id from the Hub.')
    if data.get("base_model_relation", RELATIONS[0]) not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]')
    return errors + check_model_index(data.get("model-index", []))


def check_model_index(index) -> list[str]:
    """Errors in the shape of a model index, named by the path of what is wrong."""
    errors = []

    def need(at: str, value, keys) -> bool:
        if not isinstance(value, dict):
            errors.append(f'"{at}" must be an object')
            return False
        errors.extend(f'"{at}.{key}" is required' for key in keys if key not in value)
        return True

    def each(at: str, value):
        if not isinstance(value, list):
            errors.append(f'"{at}" must be an array')
            value = []
        return [(f"{at}[{i}]", one) for i, one in enumerate(value)]

    for at, model in each("model-index", index):
        if not need(at, model, ("name", "results")):
            continue
        for at_result, result in each(f"{at}.results", model.get("results", [])):
            if not need(at_result, result, ("task", "dataset", "metrics")):
                continue
            need(f"{at_result}.task", result.get("task", {"type": ""}), ("type",))
            need(f"{at_result}.dataset", result.get("dataset", {"type": "", "name": ""}), ("type", "name"))
            for at_metric, metric in each(f"{at_result}.metrics", result.get("metrics", [])):
                need(at_metric, metric, ("type", "value"))
    return errors
