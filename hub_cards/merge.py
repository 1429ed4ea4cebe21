"""A new card over an old one: our sections are replaced, everything else is the user's and stays.

Each of our sections stands between two comments that nobody sees on the page:

    <!-- dvpo:results -->
    ...
    <!-- /dvpo:results -->

For the metadata, a last comment keeps a digest of every value that we wrote. A value that no longer has its digest was
changed by hand and survives; one that we did not write survives; of a list, each element counts for itself.
"""

import hashlib
import json
import re

import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard import REGEX_YAML_BLOCK

from .errors import CardError
from .metadata import dump_yaml

SECTION = re.compile(r"^<!-- dvpo:([a-z-]+) -->[ \t]*\n(.*?)^<!-- /dvpo:\1 -->[ \t]*$", re.DOTALL | re.MULTILINE)
RECORD = re.compile(r"^<!-- dvpo:metadata (\{.*\}) -->[ \t]*$\n?", re.MULTILINE)
MARKER = re.compile(r"^<!-- /?dvpo:([a-z-]+).*-->[ \t]*$", re.MULTILINE)
MODEL_INDEX = "model-index"
LISTS = ("tags", "datasets", MODEL_INDEX)


def merge(previous: str | None, metadata: dict, sections: dict[str, str], title: str, forced=()) -> str:
    """The whole card.

    Args:
        previous: the text of the card that is there, if any.
        sections: name -> Markdown, in the order they have on a new card.
        title: of a new card; later it is the user's.
        forced: keys of the metadata that the user asks for now, whatever was written by hand.

    Raises:
        CardError: the old card's metadata cannot be read, or one of our sections has no beginning or no end.
    """
    old_data, old_body = _split((previous or "").removeprefix("\ufeff").replace("\r\n", "\n"))
    record, old_body = _take_record(old_body)
    if _is_placeholder(old_body):
        body = f"# {title}\n\n" + "\n\n".join(_marked(*section) for section in sections.items())
    else:
        body = _merge_sections(old_body, sections)
    data = _merge_metadata(old_data, metadata, record, forced)
    note = json.dumps({key: _digests(key, value) for key, value in metadata.items()}, sort_keys=True)
    return f"---\n{dump_yaml(data)}---\n\n{body.strip()}\n\n<!-- dvpo:metadata {note} -->\n"


def _split(card: str) -> tuple[dict, str]:
    match = REGEX_YAML_BLOCK.search(card)
    if not match:
        return {}, card
    try:
        data = yaml.safe_load(match.group(2))
    except yaml.YAMLError as error:
        raise CardError(f"The metadata of the card that is there is no YAML; mend it there first. {error}") from error
    if data is not None and not isinstance(data, dict):
        raise CardError(f"The metadata of the card that is there is {type(data).__name__}; keys are needed.")
    return data or {}, card[match.end() :]


def _take_record(body: str) -> tuple[dict, str]:
    match = RECORD.search(body)
    if not match:
        return {}, body
    try:
        record = json.loads(match[1])
    except ValueError:
        record = {}
    return record if isinstance(record, dict) else {}, body[: match.start()] + body[match.end() :]


def _is_placeholder(body: str) -> bool:
    """Whether nobody wrote this: it is empty, or the form that `push_to_hub` of transformers leaves."""
    if not body.strip() or "automatically generated" not in body:
        return not body.strip()
    mark = "DESCRIPTION"
    before, _, after = ModelCard.from_template(ModelCardData(), model_description=mark).text.strip().partition(mark)
    body = body.strip()
    described = body[len(before) : len(body) - len(after)]
    return body.startswith(before) and body.endswith(after) and "automatically generated" in described


def _marked(name: str, text: str) -> str:
    return f"<!-- dvpo:{name} -->\n{text.strip()}\n<!-- /dvpo:{name} -->"


def _merge_sections(body: str, sections: dict[str, str]) -> str:
    """Text between the sections stays as it is; one without facts leaves, a new one comes after its neighbour."""
    texts, names, end = [], [], 0
    for match in SECTION.finditer(body):
        texts.append(body[end : match.start()])
        names.append(match[1])
        end = match.end()
    texts.append(body[end:])
    stray = [match[0] for text in texts for match in MARKER.finditer(text)]
    twice = sorted({name for name in names if names.count(name) > 1})
    if stray or twice:
        what = f"has {stray[0]} without its other end" if stray else f"has the section {twice[0]!r} twice"
        raise CardError(
            f"The card that is there {what}, so that what is yours and what is not cannot be told apart. Delete that "
            "section, comments included; it is written again."
        )
    pieces: list[tuple[str | None, str]] = [(None, texts[0])]
    for name, text in zip(names, texts[1:], strict=True):
        if name in sections:
            pieces += [(name, _marked(name, sections[name])), (None, text)]
        else:  # what was written is no longer known
            pieces[-1] = (None, pieces[-1][1].rstrip("\n") + "\n\n" + text.lstrip("\n"))
    order = list(sections)
    for place, name in enumerate(order):
        present = {piece: at for at, (piece, _) in enumerate(pieces) if piece}
        if name in present:
            continue
        section = (name, _marked(name, sections[name]))
        above = [present[other] for other in order[:place] if other in present]
        below = [present[other] for other in order[place + 1 :] if other in present]
        if above:
            pieces[above[-1] + 1 : above[-1] + 1] = [(None, "\n\n"), section]
        elif below:
            pieces[below[0] : below[0]] = [section, (None, "\n\n")]
        else:
            pieces[-1] = (None, pieces[-1][1].rstrip("\n") + "\n\n")
            pieces += [section, (None, "\n")]
    return "".join(text for _, text in pieces)


def _merge_metadata(old: dict, new: dict, record: dict, forced) -> dict:
    merged = {}
    for key in dict.fromkeys([*old, *new]):
        if key in forced and key in new:
            value = new[key]
        elif key in LISTS:
            value = _merge_list(key, old, new, record.get(key))
        elif key in old:
            ours = key in record and record[key] == _digests(key, old[key])
            value = new.get(key) if ours else old[key]
        else:  # one that we wrote and that is gone was taken out by hand
            value = None if key in record else new[key]
        if value is not None:
            merged[key] = value
    return merged


def _merge_list(key: str, old: dict, new: dict, written) -> list | None:
    before, now = _elements(key, old.get(key)), _elements(key, new.get(key))
    known = set(written) if isinstance(written, list) else set()
    taken_out = known - {_digest(one) for one in before}
    kept = [one for one in now if _digest(one) not in taken_out]
    merged = kept + [one for one in before if _digest(one) not in known and one not in kept]
    if key == MODEL_INDEX and merged:
        return [{"name": ((new.get(key) or old[key])[0])["name"], "results": merged}]
    return merged or None


def _elements(key: str, value) -> list:
    if value is None:
        return []
    if key != MODEL_INDEX:
        return list(value) if isinstance(value, list) else [value]
    try:
        return [result for model in value for result in model["results"]]
    except (KeyError, TypeError) as error:
        raise CardError(
            "The model-index of the card that is there is not a list of {name, results}; mend it there first."
        ) from error


def _digests(key: str, value):
    return [_digest(one) for one in _elements(key, value)] if key in LISTS else _digest(value)


def _digest(value) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
