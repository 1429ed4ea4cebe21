"""`/api/validate-yaml`: the rules for a card's metadata that a critic's or a data set's card can break."""

import re

import yaml

from .answers import Answer
from .routing import route

LICENSES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0
openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown other
""".split()
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
    errors, warnings = check_card(body["content"], body["repoType"])
    named = {"errors": [{"message": one} for one in errors], "warnings": [{"message": one} for one in warnings]}
    return Answer.json(named, 400 if errors else 200)


def check_card(card: str, repo_type: str) -> tuple[list[str], list[str]]:
    """What is wrong with a card's metadata, and what is only doubtful."""
    try:
        data = metadata_of(card)
    except yaml.YAMLError as error:
        return [f"YAML Metadata Error: {error}"], []
    if data is None:
        return [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return ["YAML Metadata Error: the metadata must be an object"], []
    errors, warnings = [], []

    license = data.get("license")
    for one in license if isinstance(license, list) else [license]:
        if license is not None and one not in LICENSES:
            errors.append(f'"license" must be one of [{", ".join(LICENSES[:3])}, …], got {one!r}')
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
    datasets = data.get("datasets") or []
    for one in [datasets] if isinstance(datasets, str) else datasets:
        if isinstance(one, str) and not REPO_ID.fullmatch(one):
            warnings.append(f'"datasets" with value "{one}" is not valid. Use a dataset id from the Hub.')
    if repo_type == "model":
        errors += check_base_model(data)
        errors += check_model_index(data.get("model-index"))
    return errors, warnings


def check_base_model(data: dict) -> list[str]:
    errors = []
    value = data.get("base_model", [])
    for one in value if isinstance(value, list) else [value]:
        if not (isinstance(one, str) and REPO_ID.fullmatch(one)):
            errors.append(f'"base_model" with value "{one}" is not valid. Use a model id from the Hub.')
    if data.get("base_model_relation", RELATIONS[0]) not in RELATIONS:
        errors.append(f'"base_model_relation" must be one of [{", ".join(RELATIONS)}]')
    return errors


def check_model_index(index) -> list[str]:
    """Errors in the shape of a model index, named by the path of what is wrong."""
    if index is None:
        return []
    if not isinstance(index, list):
        return ['"model-index" must be an array']
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
