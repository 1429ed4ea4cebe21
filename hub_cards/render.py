"""From facts to Markdown: the templates, and how values become safe text in them."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import constants

from . import tables
from .errors import CardError
from .facts import critic_facts, policy_facts
from .merge import SECTION, merge
from .metadata import Benchmarks, critic_metadata, policy_metadata
from .origins import Origin
from .runs import held_out_prompts, held_out_rewards, sampling, updates

POLICY_COLUMNS = {
    "reward": "mean reward",
    "kl": "KL to the reference",
    "entropy": "entropy",
    "completion_length": "tokens",
}
# Markdown's own characters, and `$`, between which the Hub renders formulas
SPECIAL = re.compile(r"([\\`*_\[\]|#~$])")


def critic_card(
    directory,
    *,
    repo_id: str | None = None,
    policy_repo: str | None = None,
    evaluation=None,
    run_directory=None,
    pair: dict | None = None,
    previous: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    datasets: Iterable[str] | None = None,
    example: tuple[str, str] | None = None,
) -> str:
    """The model card of a saved critic: YAML and Markdown, of what is known and nothing else.

    Args:
        directory: of the critic: a whole model, or a LoRA adapter with the critic's config beside it.
        repo_id: where it will be pushed; stands in the snippets.
        policy_repo: repository of the policy that it belongs to.
        evaluation: path of evaluation.json, or of its directory. The card refers to the files of `card_files`.
        run_directory: output_dir of the run that made it: training table, sizes of loss terms, hyper-parameters.
        pair: the parsed pair.json. Of a critic that stayed frozen beside its policy, the run is not its own: what
            the run says is then left out, `run_directory` included.
        previous: text of the card that is there; what the user wrote outside our sections stays.
        license: the weights', as the Hub names it.
        base_model, datasets: Hub ids, where the config only knows a local path or names too little.
        example: a prompt and a response for the snippets.

    Raises:
        CardError: a file cannot be read or is of another model; the old card cannot be merged with.
    """
    stated = _stated(repo_id, license, base_model, datasets, example)
    facts = critic_facts(
        directory, policy_repo=policy_repo, evaluation=evaluation, run_directory=run_directory, pair=pair, **stated
    )
    return _card("critic", facts, critic_metadata(facts), previous, stated)


def policy_card(
    directory,
    *,
    repo_id: str | None = None,
    critic_repo: str | None = None,
    pair: dict | None = None,
    run_directory=None,
    benchmarks: Benchmarks = (),
    previous: str | None = None,
    license: str | None = None,
    base_model: str | None = None,
    datasets: Iterable[str] | None = None,
    example: tuple[str, str] | None = None,
) -> str:
    """The model card of a saved policy; as `critic_card`, and

    Args:
        critic_repo: repository of the critic that belongs to it.
        benchmarks: scores in the Hub's form, see `eval_result_files`, which makes the files to push beside the card.
    """
    stated = _stated(repo_id, license, base_model, datasets, example)
    facts = policy_facts(
        directory, critic_repo=critic_repo, pair=pair, run_directory=run_directory, benchmarks=benchmarks, **stated
    )
    return _card("policy", facts, policy_metadata(facts), previous, stated)


def _stated(repo_id, license, base_model, datasets, example) -> dict:
    """What the user says of either kind of model."""
    return {
        "repo_id": repo_id,
        "license": license,
        "base_model": base_model,
        "datasets": None if datasets is None else list(datasets),
        "example": example,
    }


def _card(kind: str, facts, metadata: dict, previous: str | None, stated: dict) -> str:
    body = _environment().get_template(f"{kind}.md.jinja").render(facts=facts)
    sections = {match[1]: re.sub(r"\n{3,}", "\n\n", match[2]) for match in SECTION.finditer(body)}
    title = _text((facts.repo_id or facts.name).rpartition("/")[2]).strip()
    return merge(
        previous,
        metadata,
        sections,
        title,
        forced=[key for key in ("license", "base_model", "datasets") if stated[key]],
    )


def _environment():
    try:
        import jinja2
    except ImportError as error:
        raise ImportError('Cards need jinja2: pip install "modeling-dvpo[cards]".') from error
    from markupsafe import Markup

    def markdown(value):
        """Applied to every value that a template prints: text is escaped unless a filter made it Markdown."""
        if isinstance(value, Markup):
            return value
        if type(value) is jinja2.Undefined:  # of an `if` without `else`; an unknown name is a StrictUndefined
            return Markup("")
        if value is None:
            raise CardError("A card's template prints a fact that is not known.")
        return Markup(_text(str(value)) if isinstance(value, str) else number(value))

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        # what `markdown` returns is marked safe, and so are macros; HTML is never escaped
        autoescape=True,
        finalize=markdown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters = {
        "code": _code,
        "dataset_link": _dataset_link,
        "file": quote,
        "link": _link,
        "number": number,
        "plain": plain,
        "python": repr,
        "shell": shlex.quote,
        "source": _source,
        "verbatim": str,
    }
    environment.filters.update({name: _marked_safe(make, Markup) for name, make in filters.items()})
    environment.globals.update(
        {
            name: getattr(tables, name)
            for name in ("calibration", "figures", "held_out_scores", "loss_terms", "scores", "subsets", "training")
        },
        held_out_rewards=held_out_rewards,
        held_out_prompts=held_out_prompts,
        sampling=sampling,
        policy_updates=lambda facts: updates(facts.history, POLICY_COLUMNS, facts.step),
    )
    return environment


def _marked_safe(make, markup):
    return lambda value: markup(make(value))


def number(value) -> str:
    """A number as tables show it: whole numbers whole, others to three digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if abs(value) < 1e-9:  # a rounding error of nothing
        return "0"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1e}" if abs(value) < 1e-4 else f"{value:#.3g}".rstrip(".")


def plain(value) -> str:
    """A number as it was set, without zeros that say nothing."""
    return f"{value:g}"


def _text(text: str) -> str:
    """Text that Markdown shows as it is, on one line; also within a table."""
    escaped = SPECIAL.sub(r"\\\1", re.sub(r"\s+", " ", text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _code(text) -> str:
    """A code span on one line; also within a table, where a bar would end the cell."""
    text = " ".join(str(text).split()).replace("|", r"\|")
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}" if text else ""


def _link(origin: Origin, place: str = "") -> str:
    """The name of a model; a link to it where it is on the Hub."""
    if not origin.on_hub:
        return _code(origin.name)
    return f"[{_text(origin.name)}]({constants.ENDPOINT}/{place}{quote(origin.name)})"


def _dataset_link(dataset: Origin | str) -> str:
    """The name of a data set, or the id of one on the Hub; linked likewise."""
    return _link(Origin(dataset, True) if isinstance(dataset, str) else dataset, "datasets/")


def _source(entry) -> str:
    """A link to where a benchmark's score is from; nothing where that is not said, or is no address."""
    if not re.fullmatch(r"https?://\S+", entry.source_url or ""):
        return ""
    return f"[{_text(entry.source_name or 'source')}]({quote(entry.source_url, safe=':/?&=%+,;@~')})"
