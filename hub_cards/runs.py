"""What a run wrote down: its settings, and its metrics, thinned to tables that fit on a card."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from .errors import CardError
from .evaluation import METRICS
from .origins import read_object

MOST_ROWS = 12
OF_PROMPTS = ("explained_variance_within", "ranking_accuracy")
EVALUATED = (
    "explained_variance",
    *OF_PROMPTS,
    "crps",
    "mae",
    "coverage_80",
    "pit_ks",
)

# Which settings a card shows, and in which order: no paths and nothing of the machine.
OPTIMISATION = (
    "learning_rate", "lr_scheduler_type", "warmup_ratio", "weight_decay", "max_grad_norm", "bf16",
)  # fmt: skip
LORA = ("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules")

# of train_critic.py
CRITIC_RUN = (
    "trainable", *LORA, "returns", "gamma", "lam", "target", "rows_per_step", "num_train_epochs", "max_steps",
    "heads_learning_rate", *OPTIMISATION, "max_length", "append_eos", "best_metric", "seed",
)  # fmt: skip
# of train_dvpo.py, as far as they concern the critic
CRITIC_ONLINE = (
    "algorithm", "critic_trainable", "gamma", "critic_lam", "critic_target", "prompts_per_step", "num_generations",
    "max_steps", "num_critic_epochs", "num_mini_batches", "critic_warmup_steps", "critic_learning_rate",
    "heads_learning_rate", "lr_scheduler_type", "warmup_ratio", "weight_decay", "max_grad_norm", "bf16", "seed",
)  # fmt: skip
POLICY_RUN = (
    "algorithm", "trainable", *LORA, "gamma", "lam", "length_adaptive_lam", "risk_measure", "risk_level",
    "whiten_advantages", "aggregation", "kl", "kl_coef", "clip_low", "clip_high", "entropy_coef",
    "bootstrap_truncated", "prompts_per_step", "num_generations", "max_steps", "num_epochs", "num_mini_batches",
    *OPTIMISATION, "max_prompt_length", "max_completion_length", "max_turns", "temperature", "top_p", "top_k", "min_p",
    "reward_weights", "critic_lam", "critic_learning_rate", "heads_learning_rate", "seed",
)  # fmt: skip

WITHOUT_CRITIC = ("algorithm", ("grpo", "dr_grpo", "reinforce_plus_plus"))
# A setting that says nothing while another has one of these values.
MEANINGLESS: dict[str, list[tuple[str, tuple]]] = {
    **{name: [("trainable", ("all", "heads", None))] for name in LORA},
    "lam": [("returns", ("monte_carlo",)), WITHOUT_CRITIC],
    "target": [("returns", ("monte_carlo",))],
    "kl_coef": [("kl", ("none",))],
    "learning_rate": [("trainable", ("heads",))],
    **{name: [WITHOUT_CRITIC] for name in ("length_adaptive_lam", "risk_measure", "risk_level", "critic_lam")},
    "critic_learning_rate": [WITHOUT_CRITIC, ("critic_trainable", ("heads", "none"))],
    "heads_learning_rate": [WITHOUT_CRITIC, ("critic_trainable", ("none",))],
}


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of a run by step; a number that was not measured at a step is None.

    Attributes:
        columns: their headings, beside the step's.
        of: number of rows before thinning.
        best: step of the best row, by `best_by`.
    """

    columns: list[str]
    rows: list[tuple[int, list[float | None]]]
    of: int
    best: int | None = None
    best_by: str | None = None


@dataclass(frozen=True, kw_only=True)
class History:
    """A run's settings and the lines of its metrics."""

    directory: Path
    settings: dict
    lines: list[dict]


def read_history(run_directory) -> History:
    """Read a run's directory.

    Raises:
        CardError: it holds no run.
    """
    folder = Path(run_directory)
    missing = [name for name in ("run.json", "metrics.jsonl") if not (folder / name).is_file()]
    if missing:
        raise CardError(f"{folder} has no {' and no '.join(missing)}: give the output_dir of the run.")
    lines = []
    # a run killed while it wrote leaves half a line
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return History(directory=folder, settings=read_object(folder / "run.json"), lines=lines)


def check_same_run(history: History, known: dict, directory) -> None:
    """Refuse the history of another run than the one that made the model in `directory`.

    Args:
        known: what the model says of its run, under the names of the run's settings.
    """
    other = [name for name, value in known.items() if name in history.settings and history.settings[name] != value]
    if other:
        raise CardError(
            f"{history.directory} is not the run that made {directory}: "
            + "; ".join(f"{name} is {history.settings[name]!r} there and {known[name]!r} here" for name in other)
            + ". Give that run's directory, or none."
        )


def hyperparameters(settings: dict, names: tuple[str, ...]) -> list[tuple[str, object]]:
    """The settings of these names that were set and meant something."""
    shown = []
    for name in names:
        value = settings.get(name)
        silent = any(other in settings and settings[other] in values for other, values in MEANINGLESS.get(name, []))
        if value is None or value == [] or silent or (name == "max_steps" and value == -1):
            continue
        if name == "max_turns" and not settings.get("environment"):
            continue
        shown.append((name, value))
    return shown


def evaluations(history: History, this_step: int | None) -> Table | None:
    """Held-out metrics of a critic's run by step, with the training loss up to there."""
    rows, loss = [], None
    for line in history.lines:
        loss = line.get("loss", loss)
        if any(name.startswith("eval_") for name in line):
            rows.append((line["step"], [loss, *(_number(line.get(f"eval_{name}")) for name in EVALUATED)]))
    metric = history.settings.get("best_metric")
    if metric in OF_PROMPTS and not any(f"eval_{metric}" in line for line in history.lines):
        metric = "explained_variance"  # as training does where the set has one completion a prompt
    best, best_by = None, None
    if metric in METRICS and METRICS[metric].better:
        measured = [(line["step"], _number(line.get(f"eval_{metric}"))) for line in history.lines]
        values = [(step, value) for step, value in measured if value is not None]
        sign = 1 if METRICS[metric].better == "higher" else -1
        if values:
            best, best_by = max(values, key=lambda pair: sign * pair[1])[0], METRICS[metric].label
    labels = ["training loss", *(METRICS[name].label for name in EVALUATED)]
    return _table(labels, rows, keep=(best, this_step), best=best, best_by=best_by)


def updates(history: History, columns: dict[str, str], keep: int | None) -> Table | None:
    """What a run logged of its optimizer steps: means over the steps since the line before.

    Args:
        columns: key in metrics.jsonl -> heading; keys that the run never logged are left out.
    """
    lines = [line for line in history.lines if any(_number(line.get(key)) is not None for key in columns)]
    rows = [(line["step"], [_number(line.get(key)) for key in columns]) for line in lines]
    return _table(list(columns.values()), rows, keep=(keep,))


def logged_loss_terms(history: History, prefix: str, last: int = 10) -> dict[str, float]:
    """Mean of each loss term, unweighted, over the last logged steps."""
    of_steps = (f"{prefix}quantile", f"{prefix}cross_entropy")
    lines = [line for line in history.lines if any(_number(line.get(name)) is not None for name in of_steps)][-last:]
    sums: dict[str, list[float]] = {}
    for line in lines:
        for key, value in line.items():
            if key.startswith(prefix) and _number(value) is not None:
                sums.setdefault(key[len(prefix) :], []).append(value)
    return {name: sum(values) / len(values) for name, values in sums.items()}


def held_out_rewards(history: History, step: int | None) -> list[tuple[str, str, float | None, float]]:
    """(set, reward or other number, before training, at `step` or the last evaluation before it) of a policy's run."""
    first: dict[str, float] = {}
    last: dict[str, float] = {}
    for line in history.lines:
        for key, value in line.items():
            counts = key.endswith("/prompts")
            if (
                key.startswith("eval/")
                and not counts
                and _number(value) is not None
                and (step is None or line["step"] <= step)
            ):
                if line["step"] == 0:
                    first[key] = value
                last[key] = value
    split = [(*key.removeprefix("eval/").rpartition("/")[::2], first.get(key), value) for key, value in last.items()]
    return [(name, number, before, after) for name, number, before, after in split]


def held_out_prompts(history: History) -> dict[str, int]:
    """Set -> number of prompts that a policy's held-out rewards are of; empty for runs that did not write it down."""
    counts = {key: value for line in history.lines for key, value in line.items() if key.startswith("eval/")}
    return {
        key[len("eval/") : -len("/prompts")]: int(value) for key, value in counts.items() if key.endswith("/prompts")
    }


def sampling(run: dict) -> dict:
    """Arguments of `generate` that sample as the run did, what it did not write down: no restriction."""
    given = {"do_sample": True, "temperature": run.get("temperature") or 1.0}
    given |= {"top_k": run.get("top_k") or 0, "top_p": run.get("top_p") or 1.0}
    return given | ({"min_p": run["min_p"]} if run.get("min_p") is not None else {})


def _table(labels, rows, *, keep, best=None, best_by=None) -> Table | None:
    if not rows:
        return None
    measured = [i for i in range(len(labels)) if any(numbers[i] is not None for _, numbers in rows)]
    thinned = _thin(rows, {step for step in keep if step is not None})
    return Table(
        columns=[labels[i] for i in measured],
        rows=[(step, [numbers[i] for i in measured]) for step, numbers in thinned],
        of=len(rows),
        best=best,
        best_by=best_by,
    )


def _thin(rows: list, keep: set[int]) -> list:
    if len(rows) <= MOST_ROWS:
        return rows
    gaps = MOST_ROWS - 1
    wanted = {round(i * (len(rows) - 1) / gaps) for i in range(MOST_ROWS)}
    return [row for place, row in enumerate(rows) if place in wanted or row[0] in keep]


def _number(value) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None
