"""The tables of settings and metrics in these pages, from the code: `python -m docs.tables` rewrites them.

A page says where a table goes with `<!-- begin table: NAME -->` and `<!-- end -->`; what stands between is replaced.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from pathlib import Path

import yaml

from modeling_dvpo.critic.losses import CriticLossConfig
from modeling_dvpo.metrics import metric_names, metric_path
from modeling_dvpo.metrics.report import MEANINGS
from modeling_dvpo.training.algorithms.held_out import OF_PROMPTS
from modeling_dvpo.training.data.reward_sets import PROBLEMS
from modeling_dvpo.training.evaluation.arguments import (
    EvaluationArguments,
    MonteCarloArguments,
    SetArguments,
)
from modeling_dvpo.training.run.arguments import RunArguments
from modeling_dvpo.training.run.metric_meanings import CRITIC_METRICS, POLICY_METRICS
from modeling_dvpo.training.sampling.arguments import (
    SampleArguments,
    SampledPolicyArguments,
    SampledPromptArguments,
    SampledRewardArguments,
    SampledRolloutArguments,
)
from modeling_dvpo.training.trainers import critic_trainer, dvpo_trainer

DOCS = Path(__file__).resolve().parent
PLACE = re.compile(r"(<!-- begin table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
# a class's table has its own settings; those that it inherits are in its parent's
SETTINGS = (
    *(RunArguments, *critic_trainer.ARGUMENTS, *dvpo_trainer.ARGUMENTS),
    *(EvaluationArguments, SetArguments, MonteCarloArguments),
    *(SampledPolicyArguments, SampledPromptArguments, SampledRolloutArguments, SampledRewardArguments),
    SampleArguments,
)


def table(header: tuple[str, ...], rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def settings(arguments: type) -> str:
    """Every setting of a dataclass that is its own, its default and its help."""
    own = [f for f in dataclasses.fields(arguments) if f.init and f.name in vars(arguments)["__annotations__"]]
    return table(("setting", "default", ""), [(f"`{f.name}`", default(f), f.metadata["help"]) for f in own])


def default(field: dataclasses.Field) -> str:
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        return "required"
    if field.default in (None, dataclasses.MISSING):
        return ""  # the help says what happens then
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def loss_settings() -> str:
    """Fields of `CriticLossConfig`, whose meanings are the strings below them."""
    (cls,) = ast.parse(textwrap.dedent(inspect.getsource(CriticLossConfig))).body
    meanings = {
        field.target.id: text.value.value
        for field, text in zip(cls.body, cls.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }
    ours, paper = CriticLossConfig(), CriticLossConfig.paper()
    rows = [(f"`{name}`", getattr(ours, name), getattr(paper, name), meaning) for name, meaning in meanings.items()]
    return table(("setting", "default", "`paper()`", ""), rows)


def modules() -> str:
    """The `evaluate` modules, as their cards describe them."""
    cards = {
        name: Path(metric_path(name), "README.md").read_text(encoding="utf-8").split("---")[1]
        for name in metric_names()
    }
    return table(("module", ""), [(f"`{name}`", yaml.safe_load(card)["description"]) for name, card in cards.items()])


def metrics(meanings: dict[str, str]) -> str:
    return table(("metric", ""), [(f"`{name}`", meaning) for name, meaning in meanings.items()])


TABLES = {
    **{arguments.__name__: settings(arguments) for arguments in SETTINGS},
    "CriticLossConfig": loss_settings(),
    "CriticReport": metrics(MEANINGS),
    "of_prompts": metrics(OF_PROMPTS),
    "critic_metrics": metrics(CRITIC_METRICS),
    "policy_metrics": metrics(POLICY_METRICS),
    "modules": modules(),
    "problems": table(("rows …", "what is needed"), PROBLEMS.values()),
}


def filled(page: str) -> str:
    """The page with its tables as they should be; a KeyError names a table that there is not."""
    return PLACE.sub(lambda place: place[1] + TABLES[place[2]] + place[3], page)


if __name__ == "__main__":
    for path in DOCS.rglob("*.md"):
        path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
