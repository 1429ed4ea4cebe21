"""`/api/validate-yaml`: the rules for a card's metadata that a critic's or a data set's card can break."""

import re

import yaml

from .answers import Answer
from .routing import route

LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "gpl-3.0", "llama3.3", "gemma", "other")  # a few of them
RELATIONS = ("adapter", "merge", "quantized", "finetune")
DATASET = {"type": None, "name": None}
RESULT = {"task": {"type": None}, "dataset": DATASET, "metrics": [{"type": None, "value": None}]}
MODEL_INDEX = [{"name": None, "results": [RESULT]}]
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
    return errors + check_shape("model-index", data.get("model-index", []), MODEL_INDEX)


def check_shape(at: str, value, shape) -> list[str]:
    """Errors in the shape of a value, named by the path of what is wrong; a shape of None is any value."""
    if shape is None:
        return []
    if isinstance(shape, list):
        if not isinstance(value, list):
            return [f'"{at}" must be an array']
        return [error for i, one in enumerate(value) for error in check_shape(f"{at}[{i}]", one, shape[0])]
    if not isinstance(value, dict):
        return [f'"{at}" must be an object']
    missing = [f'"{at}.{key}" is required' for key in shape if key not in value]
    within = [check_shape(f"{at}.{key}", value[key], one) for key, one in shape.items() if key in value]
    return missing + [error for errors in within for error in errors]
