"""Every figure of an evaluation, from predictions that are kept in parts; each rank adds up its share."""

import math
import re
import warnings
from functools import partial

import torch
from torch import Tensor

from modeling_dvpo.critic.losses import TERMS, CriticLossConfig, dvpo_critic_loss
from modeling_dvpo.critic.value_heads import VALUE_HEAD_TYPES, CategoricalHeads
from modeling_dvpo.metrics.calibration import (
    pit_bounds,
    pit_distribution,
    pit_shares,
    share_inside,
)
from modeling_dvpo.metrics.prompt_report import PromptReport
from modeling_dvpo.metrics.ranking import group_numbers, in_steps
from modeling_dvpo.metrics.report import COVERAGES, CriticReport
from modeling_dvpo.metrics.scores import constant_quantiles, explained_variance, value_auc
from modeling_dvpo.metrics.two_valued import as_distribution, two_values
from modeling_dvpo.ranks import rank, world_size

from ..engine.distributed import sum_over_ranks
from .best_of_n import Readings, best_of_n
from .intervals import share_interval
from .parts import Parts
from .sets import EvaluationSet

POSITION_BINS = 10
STATES_PER_BIN = 30  # there are fewer bins where there are fewer states: their figures would be noise
LEAST_STATES = 5  # of a mean value
PIT_BINS = 10
LEVELS = tuple(step / 20 for step in range(1, 20))
WHOLE = None  # the group of all rows


class Measurement:
    """Critics on one set, part by part.

    Args:
        data: the set.
        shapes: (N, M) of every predictor by name; "critic" is the one that is described, beside what others there are.
        config: of the critic, for its units and the loss whose terms are measured.
        values: `two_values` of the returns that there can be.
    """

    def __init__(self, data: EvaluationSet, shapes: dict[str, tuple[int, int]], config, values: tuple[float, ...]):
        self.data, self.shapes, self.config, self.two_values = data, shapes, config, values
        self.loss_config = CriticLossConfig.from_dict(getattr(config, "critic_loss", None) or {})
        self.row_of_state, self.units = data.row_of_state, data.unit_of_state()
        self.groups: dict[str | None, torch.Tensor] = {WHOLE: torch.ones(len(data.states), dtype=torch.bool)}
        for column, labels in data.labels.items():
            for label in sorted(set(labels), key=_natural):
                self.groups[f"{column}={label}"] = torch.tensor([other == label for other in labels])
        whole = CriticReport(data.returns, values=values)
        self.tolerance, self.centre = whole.tolerance, whole.centre
        self.reports = {
            (who, group): CriticReport(data.returns[rows[self.row_of_state]], tolerance=self.tolerance, values=values)
            for who in shapes
            for group, rows in self.groups.items()
        }
        num_states = len(self.row_of_state)
        self.values = {who: torch.zeros(num_states, dtype=torch.float64) for who in shapes}
        self.inside = torch.zeros(num_states, len(COVERAGES), dtype=torch.float64)
        self.terms = torch.zeros(len(TERMS), dtype=torch.float64)

    @property
    def has_distribution(self) -> bool:
        return self.shapes["critic"][1] > 1 or bool(self.two_values)

    def add(self, states: slice, quantiles: dict[str, Tensor]) -> None:
        """Add the states of a part: (S, N, M) of every predictor by name."""
        rows, returns = self.row_of_state[states], self.data.returns[states]
        for (who, group), report in self.reports.items():
            mask = self.groups[group][rows]
            if mask.any():
                report.add(quantiles[who][mask], returns[mask])
        for who, values in self.values.items():
            values[states] = quantiles[who].double().mean((-2, -1))
        if self.has_distribution:
            ensemble = as_distribution(quantiles["critic"].double().mean(1), self.two_values)
            low, high = pit_bounds(ensemble, returns, self.tolerance)
            for column, percent in enumerate(COVERAGES):
                shares = share_inside(low, high, percent / 100, ensemble.shape[-1])
                self.inside[states, column] = shares.mean(-1)
        self._add_terms(quantiles["critic"], returns)

    def _add_terms(self, quantiles: Tensor, returns: Tensor) -> None:
        atoms = returns if returns.dim() == 2 else returns[:, None]
        predicted, wanted = (
            (x.double() - self.config.return_mean) / self.config.return_scale for x in (quantiles[None], atoms[None])
        )
        mask = torch.ones(predicted.shape[:2], dtype=torch.bool)
        # the gate lets each part's signed share of `shift` through; their sum is clamped at the end
        _, terms = dvpo_critic_loss(
            predicted, wanted, mask, self.loss_config, num_items=len(self.row_of_state), shift_gate=True
        )
        self.terms += torch.stack([terms[name] for name in TERMS]).double()

    def reduce(self) -> None:
        """Add up the ranks' sums; every rank must call it."""
        for (who, _), report in self.reports.items():
            if not report.sums:  # none of this rank's states, and still it needs sums to add to the others'
                with warnings.catch_warnings():  # of a deviation of nothing
                    warnings.simplefilter("ignore", UserWarning)
                    report.add(torch.zeros(0, *self.shapes[who]), self.data.returns[:0])
            report.reduce(sum_over_ranks)
        self.values = {who: sum_over_ranks(values) for who, values in self.values.items()}
        self.inside = sum_over_ranks(self.inside)
        self.terms = sum_over_ranks(self.terms)

    def result(self, right: Tensor | None) -> dict:
        """What evaluation.json says of the set, beside what it is; what is undefined is left out.

        Args:
            right: (R,) which responses are right, or None where nobody can say.
        """
        whole = self._of_group(WHOLE)
        if right is not None and self.data.returns.dim() == 1:
            for who, own in whole["metrics"].items():
                responses = in_steps(self.values[who], self.config.return_scale).split(self.data.states.tolist())
                own.update({f"value_auc_{p}": area for p, area in value_auc(responses, right).items()})
        found = {
            **whole,
            "subsets": {
                group: {"rows": int(rows.sum()), **self._of_group(group)}
                for group, rows in self.groups.items()
                if group is not WHOLE
            },
            **self._distribution(),
            "by_position": self._by_position(right),
            "loss_terms": self._loss_terms(),
        }
        return defined(found)

    def _of_group(self, group: str | None) -> dict:
        """Metrics of every predictor, and intervals."""
        metrics = {who: self.reports[who, group].compute() for who in self.shapes}
        intervals = {}
        for who, own in metrics.items():
            if of_prompts := self._of_prompts(who, group):
                own |= (found := of_prompts.compute())
                if found and who != "constant":
                    intervals[who] = {name: list(ends) for name, ends in of_prompts.intervals().items()}
        return {"metrics": metrics, "coverage_interval": self._coverage_intervals(group), "intervals": intervals}

    def _of_prompts(self, who: str, group: str | None) -> PromptReport | None:
        """Of whole responses, several to a prompt."""
        rows, returns = self.groups[group], self.data.returns
        prompts = group_numbers(prompt for prompt, here in zip(self.data.prompts, rows.tolist(), strict=True) if here)
        if returns.dim() == 2 or len(prompts.unique()) == len(prompts):
            return None
        states = rows[self.row_of_state]
        report = PromptReport(prompts, centre=self.centre, scale=self.config.return_scale)
        report.add(torch.arange(len(prompts)), self.data.states[rows], self.values[who][states], returns[states])
        return report

    def _coverage_intervals(self, group: str | None) -> dict[str, list[float]]:
        if not self.has_distribution:
            return {}
        states, returns = self.groups[group][self.row_of_state], self.data.returns
        interval = partial(share_interval, trials_per_state=returns[0].numel())
        return {
            str(percent): list(interval(self.inside[states, column], self.units[states]))
            for column, percent in enumerate(COVERAGES)
        }

    def _distribution(self) -> dict:
        """Reliability and PIT histogram, from the sums that the report keeps."""
        if not self.has_distribution:
            return {}
        sums = self.reports["critic", WHOLE].sums
        slope, count = sums["pit"], sums["states"].item()
        observed = pit_distribution(slope, count, torch.tensor(LEVELS, dtype=torch.float64)).tolist()
        return {
            "reliability": [{"level": at, "observed": share} for at, share in zip(LEVELS, observed, strict=True)],
            "pit_histogram": pit_shares(slope, count, PIT_BINS).tolist(),
        }

    def _by_position(self, right: Tensor | None) -> list[dict]:
        true = self.data.returns.double()
        true = true.mean(-1) if true.dim() == 2 else true
        bins = max(1, min(POSITION_BINS, len(true) // STATES_PER_BIN))
        where = self.data.positions(bins)
        table = []
        for place in range(bins):
            here = where == place
            row = {"from": place / bins, "to": (place + 1) / bins, "states": int(here.sum())}
            for who in self.shapes.keys() - {"constant"}:
                prefix = "" if who == "critic" else f"{who}_"
                row[f"{prefix}explained_variance"] = explained_variance(self.values[who][here], true[here])
            if right is not None:
                for name, rows in (("right", right), ("wrong", ~right)):
                    values = self.values["critic"][here & rows[self.row_of_state]]
                    if len(values) >= LEAST_STATES:
                        row[f"value_{name}"] = values.mean().item()
            table.append(row)
        return table

    def _loss_terms(self) -> dict[str, float]:
        """Unweighted, in normalised units; only those that this critic's loss has on such returns: none of heads with
        atoms, which learn by cross-entropy."""
        if issubclass(VALUE_HEAD_TYPES[getattr(self.config, "value_head_type", "linear")], CategoricalHeads):
            return {}
        terms = dict(zip(TERMS, self.terms.tolist(), strict=True))
        calibrated = self.loss_config.form == "calibrated"
        if calibrated:
            terms["shift"] = max(terms["shift"], 0.0)
        absent = {name for name in TERMS if not getattr(self.loss_config, name)}
        if self.shapes["critic"][1] == 1:
            absent |= {*TERMS} - {"quantile", "consistency"}
        if calibrated and self.data.returns.dim() == 1:
            absent |= {"shape", "curvature"}
        return {name: size for name, size in terms.items() if name not in absent}


def measure(
    data: EvaluationSet,
    parts: list[range],
    predictions: dict[str, Parts],
    configs: dict,
    training_returns: Tensor | None,
    right: Tensor | None,
    *,
    others: dict[str, Tensor] | None = None,
    answers: list | None = None,
) -> dict:
    """Everything of a set whose predictions lie in parts of rows; every rank must call it and gets the result.

    Args:
        predictions: "critic", and "scalar" where there is one.
        configs: the critics', by the same names.
        training_returns: their quantiles are predicted in every state, as the baseline; by default the set's own.
        right: as `Measurement.result` takes it.
        others, answers: as `best_of_n` takes them.
    """
    seen = data.returns if training_returns is None else training_returns
    constant = constant_quantiles(seen, configs["critic"].num_quantiles)
    shapes = {who: (config.num_value_heads, config.num_quantiles) for who, config in configs.items()}
    values = two_values(torch.cat([data.returns.flatten(), seen.flatten()]))
    measurement = Measurement(data, {**shapes, "constant": (1, len(constant))}, configs["critic"], values)
    readings = Readings(len(data.states), shapes, configs["critic"].return_scale)
    ends = data.states.cumsum(0).tolist()
    for number in range(rank(), len(parts), world_size()):
        rows = parts[number]
        states = slice(ends[rows.start] - int(data.states[rows.start]), ends[rows.stop - 1])
        quantiles = {who: source.load(number)["quantiles"] for who, source in predictions.items()}
        readings.add(rows, data.states[rows.start : rows.stop].cumsum(0) - 1, quantiles)
        quantiles["constant"] = constant.expand(states.stop - states.start, 1, -1)
        measurement.add(states, quantiles)
    measurement.reduce()
    readings.reduce()
    found = measurement.result(right)
    if data.returns.dim() == 1 and (picked := best_of_n(data, {**readings.scores, **(others or {})}, answers)):
        found["best_of_n"] = picked
    return found


def _natural(label: str) -> list:
    """Sorts numbers in labels as numbers: 7-15 before 20."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", label) if part]


def defined(found):
    """Without what is NaN, at any depth: a figure that is not defined is absent."""
    if isinstance(found, dict):
        return {k: defined(v) for k, v in found.items() if not (isinstance(v, float) and math.isnan(v))}
    return [defined(item) for item in found] if isinstance(found, list) else found
