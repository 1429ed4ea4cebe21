"""The `evaluate` modules: hand-worked figures, closed forms, any cut into batches, baselines, folders to publish."""

import doctest
import math
import re
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import evaluate
import numpy as np
import pytest
import scipy.stats
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modeling_dvpo.metrics import FOLDER, metric_names, metric_path
from modeling_dvpo.metrics.report import critic_report

# References of these are flags, one a row; the others' are returns, or there are none.
FLAGGED = {"value_auc", "ensemble_disagreement", "ranking_accuracy"}
WITH_SCALAR = {"crps", "pinball", "explained_variance", "value_auc", "ranking_accuracy"}
WITH_TRAINING = {"crps", "pinball", "wasserstein", "interval_coverage", "pit_histogram"}
NAMES = sorted(FLAGGED | WITH_SCALAR | WITH_TRAINING | {"quantile_crossing"})

few = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def responses(seed, lengths, heads=3, quantiles=6, continuations=1):
    """Of responses of these lengths: (T, N, M) quantiles, (T, K) returns, a scalar critic's (T,) values, flags."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    predicted = [normal(length, heads, quantiles) for length in lengths]
    returns = [normal(length, continuations).mul(2).round() / 2 for length in lengths]
    values = [normal(length) for length in lengths]
    return predicted, returns, values, [place % 2 for place in range(len(lengths))]


def rows_for(name, data):
    """What `compute` of this metric takes, of `responses`."""
    predicted, returns, values, flags = data
    rows = {"predictions": [row.tolist() for row in predicted]}
    if name != "quantile_crossing":
        rows["references"] = flags if name in FLAGGED else [row.tolist() for row in returns]
    if name == "ranking_accuracy":
        rows["groups"] = [f"of {len(row)}" for row in predicted]
    options = {}
    if name in WITH_SCALAR:
        options["scalar_values"] = values
    if name in WITH_TRAINING:
        options["training_returns"] = [-1.0, 0.0, 0.5, 3.0]
    return rows, options


def same(left, right, **tolerance):
    """Whether two reports are the same, NaN included."""
    assert left.keys() == right.keys()
    for name, figure in left.items():
        if isinstance(figure, list) and figure and isinstance(figure[0], dict):
            for one, other in zip(figure, right[name], strict=True):
                same(one, other, **tolerance)
        elif isinstance(figure, str):
            assert figure == right[name]
        else:
            assert figure == pytest.approx(right[name], nan_ok=True, **tolerance), name


def run_examples(page):
    """Run a page's examples with output; how many lines they have."""
    blocks = re.findall(r"```python\n(>>> .*?)```", page, re.DOTALL)
    examples = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "page", None, None)
    assert doctest.DocTestRunner().run(examples).failed == 0
    return len(examples.examples)


def test_these_are_all_metrics():
    assert metric_names() == NAMES


def test_the_page_s_example_runs():
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    assert run_examples(page) == 4


def test_a_wrong_name_lists_the_right_ones():
    with pytest.raises(ValueError, match="no metric 'crsp'; there are crps, ensemble_disagreement"):
        metric_path("crsp")


class TestFiguresByHand:
    def test_crps(self, score):
        # (0, 3), y = 1: (1 + 2)/2 - 3/4; (1, 2), y = 4: (3 + 2)/2 - 1/4. Constant of {0, 4}: atoms 0, 4:
        # y = 1: (1 + 3)/2 - 1; y = 4: 2 - 1. Scalar: |1 - 1.5|, |4 - 2|
        baselines = {"training_returns": [4.0, 0.0], "scalar_values": [1.5, 2.0]}
        report = score("crps", [[0.0, 3.0], [1.0, 2.0]], [1.0, 4.0], **baselines)
        expected = {"crps": (0.75 + 2.25) / 2, "crps_constant": 1.0, "crps_scalar": 1.25}
        assert report == {**expected, "constant_from": "training_returns", "states": 2}

    def test_heads_are_averaged_quantile_by_quantile(self, score):
        # the mean of heads (0, 2) and (2, 4) is (1, 3)
        of_heads = score("crps", [[[0.0, 2.0], [2.0, 4.0]]], [0.0])
        assert of_heads["crps"] == (1 + 3) / 2 - 1 / 2

    def test_the_constant_is_of_the_references_unless_told(self, score):
        # atoms floor(.25 · 4) and floor(.75 · 4) of 0 1 2 9: 1 and 9; E|Z - y| - 2: 5, 4, 4, 4 - 2
        report = score("crps", [[0.0, 0.0]] * 4, [9.0, 1.0, 0.0, 2.0])
        assert report["constant_from"] == "references"
        assert report["crps_constant"] == (3 + 2 + 2 + 2) / 4

    def test_pinball_takes_quantiles_in_their_order(self, score):
        # y = 1: q = 0, 3 at 1/4, 3/4 cost (1/4 + 1/2)/2; q = 3, 0 cost (3/2 + 3/4)/2; a scalar half its error
        report = score("pinball", [[0.0, 3.0], [3.0, 0.0]], [1.0, 1.0], scalar_values=[1.0, 3.0])
        assert report["pinball"] == (0.375 + 1.125) / 2
        assert report["pinball_scalar"] == 0.5

    def test_wasserstein_with_unequal_numbers_of_returns(self, score):
        # {0, 3} to {1, 2}: 1; {1, 1} to {0, 0, 0}: 1; the pooled returns 0 0 0 1 2 have atoms 0 and 1, which are
        # 1 from {1, 2} and 1/2 from {0, 0, 0}
        report = score("wasserstein", [[0.0, 3.0], [1.0, 1.0]], [[1.0, 2.0], [0.0, 0.0, 0.0]])
        assert report["wasserstein_1"] == 1.0 and report["wasserstein_1_constant"] == 0.75

    def test_interval_coverage(self, score):
        # M = 2: y = 0 meets the first atom, PIT [0, 1/2], of which the central half keeps 1/2; y = 5: [3/4, 1], none;
        # y = 1/2: [1/4, 3/4], all
        report = score("interval_coverage", [[0.0, 1.0]] * 3, [0.0, 5.0, 0.5], masses=[0.5, 0.975], tolerance=0.0)
        assert report["coverage_50"] == pytest.approx(0.5)
        # [.0125, .9875] keeps .975 of [0, 1/2], .95 of [3/4, 1] and all of [1/4, 3/4]
        assert report["coverage_97.5"] == pytest.approx((0.975 + 0.95 + 1) / 3)
        assert report["rows"] == report["states"] == 3 and report["tolerance"] == 0.0

    def test_coverage_interval_is_scipys_and_counts_rows(self, load):
        """Forty states of ten responses are ten trials: counted as forty, the interval would be half as wide."""
        inside, outside = [[[-10.0, 10.0]] * 4, [[10.0, 11.0]] * 4]
        report = load("interval_coverage", "responses").compute(
            predictions=[inside] * 7 + [outside] * 3, references=[0.0] * 10, masses=[0.5], confidence=0.9
        )
        expected = scipy.stats.binomtest(7, 10).proportion_ci(0.9, method="wilson")
        assert (report["rows"], report["states"]) == (10, 40)
        assert report["coverage_50"] == pytest.approx(0.7)
        assert report["coverage_50_interval"] == pytest.approx(list(expected))

    def test_pit_of_a_coin(self, score):
        # the first half of the PITs belongs to 0, which is one return of four; the constant knows that
        coin = [[0.0, 0.0, 1.0, 1.0]] * 4
        report = score("pit_histogram", coin, [0.0, 1.0, 1.0, 1.0], bins=4, levels=[0.25, 0.5])
        assert report["pit_histogram"] == [0.125, 0.125, 0.375, 0.375]
        assert report["pit_histogram_constant"] == [0.25] * 4
        assert (report["pit_ks"], report["pit_ks_constant"]) == (0.25, 0.0)
        assert report["reliability"] == [{"level": 0.25, "observed": 0.125}, {"level": 0.5, "observed": 0.25}]
        assert report["tolerance"] == pytest.approx(0.1)  # a tenth of the gap between 0 and 1

    def test_pit_counts_each_state_once(self, score):
        # a state with three returns at 0 and one with a single return at 1: half and half, though 0 is 3 of 4 returns
        report = score("pit_histogram", [[0.0, 1.0]] * 2, [[0.0, 0.0, 0.0], [1.0]], bins=2, levels=[0.5])
        assert report["pit_histogram"] == [0.5, 0.5] and report["reliability"][0]["observed"] == 0.5

    def test_explained_variance(self, load):
        # residuals 0 0 -2 | 3 0: variance 13/5 - 1/25; returns 0 0 0 | 4 4: 16 · 6/25. First halves: residuals 0, 3
        report = load("explained_variance", "responses").compute(
            predictions=[[0.0, 0.0, 2.0], [1.0, 4.0]],
            references=[0.0, 4.0],
            scalar_values=[[0.0, 0.0, 0.0], [4.0, 4.0]],
            bins=2,
        )
        assert report["explained_variance"] == pytest.approx(1 - 2.56 / 3.84)
        assert report["explained_variance_constant"] == 0.0 and report["explained_variance_scalar"] == 1.0
        first, second = report["by_position"]
        expected = {"from": 0.0, "to": 0.5, "states": 2, "explained_variance": 1 - 2.25 / 4}
        assert first == {**expected, "explained_variance_scalar": 1.0} and second["states"] == 3

    def test_explained_variance_is_of_the_mean_of_a_states_returns(self, score):
        report = score("explained_variance", [[0.0, 2.0], [3.0, 3.0]], [[-1, 3], [3, 3]])
        assert report == {"explained_variance": 1.0, "explained_variance_constant": 0.0, "states": 2}

    def test_quantile_crossing(self, load):
        # 0 2 1 1 3: one pair of four; of the heads (0, 1), (1, 0) one of two, though their mean does not cross
        assert load("quantile_crossing").compute(predictions=[[0.0, 2.0, 1.0, 1.0, 3.0]])["crossing_rate"] == 0.25
        assert load("quantile_crossing").compute(predictions=[[[0.0, 1.0], [1.0, 0.0]]])["crossing_rate"] == 0.5

    def test_value_auc(self, score):
        # 0 %: 1/2 < 5; 50 %: after one of two tokens 5, after two of four 3; the quantiles' mean is the value
        report = score(
            "value_auc",
            [[[0.0, 1.0], [4.0, 6.0], [0.0, 0.0]], [[5.0, 5.0], [0.0, 0.0], [3.0, 3.0], [0, 0], [1, 1]]],
            [1, 0],
            percents=[0, 50, 100],
            scalar_values=[[0.0, 0.0, 1.0], [0.0] * 5],
        )
        assert [report[f"value_auc_{percent}"] for percent in (0, 50, 100)] == [0.0, 1.0, 0.0]
        assert [report[f"value_auc_{percent}_scalar"] for percent in (0, 50, 100)] == [0.5, 0.5, 1.0]
        assert [report[f"value_auc_{percent}_constant"] for percent in (0, 50, 100)] == [0.5] * 3
        assert (report["rows"], report["successes"]) == (2, 1)

    def test_ensemble_disagreement(self, score):
        # heads' means (1, 0), (1, 1), (2, 1): deviations 1/2, 0, 1/2; flagged is the first
        report = score(
            "ensemble_disagreement",
            [[[0.0, 2.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]], [[0.0, 4.0], [1.0, 1.0]]],
            [1, 0, 0],
        )
        assert report["head_disagreement"] == pytest.approx(1 / 3)
        assert (report["head_disagreement_flagged"], report["head_disagreement_unflagged"]) == (0.5, 0.25)
        assert (report["disagreement_auc"], report["disagreement_auc_constant"]) == (0.75, 0.5)

    def test_a_responses_disagreement_is_its_mean(self, load):
        apart, together = [[0.0], [2.0]], [[0.0], [0.0]]  # deviations 1 and 0
        report = load("ensemble_disagreement", "responses").compute(
            predictions=[[apart, together], [apart, together, together]], references=[True, False]
        )
        assert report["disagreement_auc"] == 1.0  # 1/2 against 1/3
        assert report["head_disagreement"] == pytest.approx(2 / 5)  # of five states


@pytest.mark.parametrize("continuations", [1, 4])
def test_figures_are_those_of_a_critic_report(load, continuations):
    """What training reports of a critic and what these modules say of it are the same."""
    predicted, returns, _, _ = responses(3, [4, 1, 7], continuations=continuations)
    expected = critic_report(torch.cat(predicted), torch.cat(returns))
    found = {}
    for name in set(NAMES) - {"value_auc", "wasserstein" if continuations == 1 else ""}:
        rows, _ = rows_for(name, (predicted, returns, None, [0, 1, 0]))
        found.update(load(name, "responses").compute(**rows))
    names = found.keys() & expected.keys()
    assert len(names) == 9 + (continuations > 1)
    for name in names:
        assert found[name] == pytest.approx(expected[name], abs=1e-12), name


class TestAnyLengthAndAnyCut:
    lengths = st.lists(st.integers(1, 6), min_size=4, max_size=6)

    @pytest.mark.parametrize("name", NAMES)
    @few
    @given(lengths=lengths, cuts=st.lists(st.integers(0, 6), max_size=3), seed=st.integers(0, 99))
    def test_batches_change_nothing(self, load, name, lengths, cuts, seed):
        rows, options = rows_for(name, responses(seed, lengths, continuations=2))
        whole = load(name, "responses").compute(**rows, **options)
        metric = load(name, "responses")
        edges = sorted({0, *(cut for cut in cuts if cut < len(lengths)), len(lengths)})
        for start, end in zip(edges, edges[1:], strict=False):
            metric.add_batch(**{column: values[start:end] for column, values in rows.items()})
        same(metric.compute(**options), whole, rel=0, abs=0)

    @pytest.mark.parametrize("name", sorted(set(NAMES) - FLAGGED))
    @few
    @given(lengths=lengths, seed=st.integers(0, 99))
    def test_responses_are_their_states(self, load, name, lengths, seed):
        """However states are grouped into responses, each counts once; only what is said of rows may differ."""
        predicted, returns, values, flags = responses(seed, lengths, continuations=3)
        rows, options = rows_for(name, (predicted, returns, values, flags))
        of_responses = load(name, "responses").compute(**rows, **options)
        parts = [torch.cat(pieces) for pieces in (predicted, returns, values)]
        rows, options = rows_for(name, (*parts, None))
        of_states = load(name).compute(**rows, **options)
        for figure in [figure for figure in of_responses if figure.endswith("_interval") or figure == "rows"]:
            del of_responses[figure], of_states[figure]
        of_responses.pop("by_position", None)
        same(of_responses, of_states, rel=0, abs=0)

    @pytest.mark.parametrize("name", NAMES)
    def test_the_order_of_rows_changes_nothing(self, load, name):
        data = responses(5, [3, 1, 6, 2, 5], continuations=2)
        rows, options = rows_for(name, data)
        turned, turned_options = rows_for(name, tuple(column[::-1] for column in data))
        first = load(name, "responses").compute(**rows, **options)
        same(load(name, "responses").compute(**turned, **turned_options), first, rel=1e-12, abs=1e-12)

    def test_one_return_is_that_of_all_states(self, load):
        predicted, _, _, _ = responses(6, [3, 2])
        metric = load("crps", "responses")
        one, each = (metric.compute(predictions=predicted, references=y) for y in ([1, -1], [[1] * 3, [-1] * 2]))
        same(one, each)

    def test_numbers_of_returns_may_differ(self, load):
        # each state's score is the mean over its own returns
        metric, parts = load("crps"), [([0.0, 1.0], [3.0]), ([2.0, 2.0], [1.0, 5.0, 0.0]), ([1.0, 4.0], [2.0])]
        alone = [metric.compute(predictions=[q], references=[y])["crps"] for q, y in parts]
        q, y = zip(*parts, strict=True)
        assert metric.compute(predictions=list(q), references=list(y))["crps"] == pytest.approx(sum(alone) / 3)
        assert alone == [2.25, 2.0, 0.75]

    def test_no_digits_are_lost(self, score):
        """In float32 both quantiles and the return would be 1e9."""
        report = score("crps", [[1e9, 1e9 + 1]], [1e9 + 0.25])
        assert report["crps"] == 0.25
        exact = torch.tensor([[0.1, 0.2]], dtype=torch.float32)
        report = score("crps", exact, torch.tensor([0.0]))
        assert report["crps"] == exact.double().mean().item() - exact.double().diff().item() / 4

    @pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, np.float32])
    def test_tensors_and_arrays_are_rows(self, score, kind):
        q, y = torch.tensor([[0.0, 3.0], [1.0, 2.0]]), torch.tensor([1.0, 4.0])
        q, y = (q.numpy(), y.numpy()) if kind is np.float32 else (q.to(kind), y.to(kind))
        assert score("crps", q, y)["crps"] == 1.5

    def test_rows_one_by_one_and_in_memory(self, load):
        metric = load("crps", keep_in_memory=True)
        metric.add(prediction=[0.0, 3.0], reference=1.0)
        metric.add(prediction=[1.0, 2.0], reference=4.0)
        assert metric.compute()["crps"] == 1.5

    def test_a_metric_can_be_used_again(self, load):  # with rows of another shape between
        metric = load("crps")
        first = metric.compute(predictions=[[0.0, 3.0]], references=[1.0])
        metric.compute(predictions=[[[0.0, 9.0]] * 2], references=[[1.0, 2.0]])
        assert metric.compute(predictions=[[0.0, 3.0]], references=[1.0]) == first

    def test_combined(self, load):
        report = evaluate.combine([load("crps"), load("pinball")]).compute(
            predictions=[[0.0, 3.0]], references=[1.0], scalar_values=[2.0]
        )
        assert report["crps"] == 0.75 and report["pinball"] == 0.375 and report["crps_scalar"] == 1.0


class TestBaselines:
    def test_the_constant_scores_as_itself(self, load):
        """Its quantiles given as predictions get the figures that the report calls constant."""
        q = [[-1.0, 0.0, 2.0]] * 3
        y = {"references": [[0.0, 1.0], [2.0, 2.0], [-3.0, 0.5]], "training_returns": [2.0, -1.0, 0.0]}
        for name in sorted(WITH_TRAINING):
            report = load(name).compute(predictions=q, **y)
            constant = [figure for figure in report if figure.endswith("_constant")]
            assert constant
            for figure in constant:
                assert report[figure] == report[figure.removesuffix("_constant")]

    def test_scalar_figures_are_absent_without_scalar_values(self, load):
        data = responses(8, [2, 3, 1, 2], continuations=2)
        for name in NAMES:
            rows, options = rows_for(name, data)
            options.pop("scalar_values", None)
            assert "scalar" not in str(load(name, "responses").compute(**rows, **options))

    def test_metrics_of_distributions_take_no_scalar_values(self, score):
        with pytest.raises(TypeError, match="scalar_values"):
            score("interval_coverage", [[0.0, 1.0]], [1.0], scalar_values=[0.0])


class TestErrors:
    @pytest.mark.parametrize(
        ("name", "kind", "rows", "message"),
        [
            ("crps", "states", {"predictions": [[1.0], [math.nan]], "references": [0, 0]}, "Row 1 of predictions"),
            ("crps", "states", {"predictions": [[1.0]], "references": [None]}, "Row 0 of references .* not finite"),
            ("crps", "states", {"predictions": [[1.0]], "references": [[]]}, r"references has shape \(0,\)"),
            ("crps", "states", {"predictions": [[1.0], [1.0, 2.0]], "references": [0, 0]}, r"\(2,\) .* row 0 \(1,\)"),
            ("crps", "states", {"predictions": [[[1, 2]], [[1, 2]] * 2], "references": [0, 0]}, 'load .* "responses"'),
            ("crps", "states", {"predictions": [[1.0], [1.0]], "references": [0]}, "Mismatch in the number"),
            ("crps", "states", {"predictions": [[[1.0, 2.0], [1.0]]], "references": [0]}, "not a regular table"),
            ("crps", "responses", {"predictions": [[[1.0]] * 2], "references": [[1, 2, 3]]}, "2 states .* 3 in ref"),
            ("crps", "responses", {"predictions": [[1.0, 2.0]], "references": [1]}, "Expected format"),
            ("quantile_crossing", "states", {"predictions": [1.0]}, "Expected one of .* got 1.0"),
            ("quantile_crossing", "states", {"predictions": [[1.0]]}, "one quantile a state"),
            ("interval_coverage", "states", {"predictions": [[1.0]], "references": [0]}, "one quantile a state"),
            ("pit_histogram", "states", {"predictions": [[1.0]], "references": [0]}, "one quantile a state"),
            ("wasserstein", "states", {"predictions": [[1.0, 2.0]], "references": [[0]]}, "has one return"),
            ("ensemble_disagreement", "states", {"predictions": [[[1.0]]], "references": [0]}, "one head"),
            ("ensemble_disagreement", "states", {"predictions": [[[1.0]] * 2], "references": [2]}, "flags has 2.0"),
            ("value_auc", "responses", {"predictions": [[1.0]], "references": [0.5]}, "flags has 0.5"),
        ],
    )
    def test_rows(self, load, name, kind, rows, message):
        with pytest.raises(ValueError, match=message):
            load(name, kind).compute(**rows)

    @pytest.mark.parametrize(
        ("name", "options", "message"),
        [
            ("crps", {"scalar_values": [[1.0, 1.0]]}, "scalar_values has 1 rows and predictions 2"),
            ("crps", {"scalar_values": [[1.0], [1.0, 2.0]]}, "Row 0 has 2 states in predictions and 1 in scalar_val"),
            ("crps", {"training_returns": []}, "no returns"),
            ("interval_coverage", {"masses": [80]}, r"masses are \[80\]"),
            ("pit_histogram", {"bins": 0}, "bins is 0"),
            ("pit_histogram", {"levels": [1.0]}, r"levels \[1.0\]"),
        ],
    )
    def test_options(self, load, name, options, message):
        with pytest.raises(ValueError, match=message):
            load(name, "responses").compute(predictions=[[[1.0, 2.0]] * 2] * 2, references=[0.0, 1.0], **options)

    def test_kinds_of_rows(self, load, tmp_path):
        with pytest.raises(ValueError, match=r"one of \['states', 'responses'\], not 'tokens'"):
            load("crps", "tokens")
        with pytest.raises(ValueError, match=r"one of \['responses'\], not 'states'"):
            evaluate.load(metric_path("value_auc"), "states", cache_dir=str(tmp_path))


class FakeGradio(SimpleNamespace):
    """Stands for gradio, which only a Space has: remembers the page instead of serving it."""

    class Error(Exception):
        pass

    def __init__(self):
        def box(value=None, **options):
            return SimpleNamespace(value=value, **options)

        super().__init__(Textbox=box, Dropdown=lambda choices, **options: box(**options), JSON=box)

    def Interface(self, **parts):  # noqa: N802
        self.page = SimpleNamespace(launch=lambda: None, **parts)
        return self.page


@pytest.mark.parametrize("name", NAMES)
class TestFolders:
    def test_a_copy_works_anywhere(self, name, tmp_path):
        shutil.copytree(FOLDER / name, tmp_path / name)
        rows, options = rows_for(name, responses(9, [2, 3, 1, 2], continuations=2))
        copied = evaluate.load(str(tmp_path / name), "responses", cache_dir=str(tmp_path))
        original = evaluate.load(metric_path(name), "responses", cache_dir=str(tmp_path))
        same(copied.compute(**rows, **options), original.compute(**rows, **options))

    def test_says_what_it_is(self, name, load):
        metric = load(name)
        assert metric.name == name and metric.module_type == "metric"
        assert metric.description.strip() and "Returns:" in metric.inputs_description and "@" in metric.citation

    def test_results_are_in_the_card_and_in_the_description(self, name, load):
        rows, options = rows_for(name, responses(9, [2, 3, 1, 2], continuations=2))
        report = load(name, "responses").compute(**rows, **options)
        card = (FOLDER / name / "README.md").read_text()
        # of value_auc_25, _50, ... and coverage_50, ... only the first is spelled out
        first = "_0" if name == "value_auc" else "_50"
        for figure in {
            re.sub(r"_(0|25|50|75|80|90|100)\b|_(0|25|50|75|80|90|100)(?=_)", first, key) for key in report
        }:
            assert f"`{figure}`" in card and re.search(rf"\b{figure}\b", load(name).inputs_description)

    def test_card_is_a_spaces_and_its_example_runs(self, name, tmp_path):
        card = (FOLDER / name / "README.md").read_text()
        settings = yaml.safe_load(card.split("---\n")[1])
        assert settings["sdk"] == "gradio" and (FOLDER / name / settings["app_file"]).is_file()
        assert settings["tags"] == ["evaluate", "metric"]
        assert (FOLDER / name / "requirements.txt").read_text() == "modeling-dvpo[evaluate]\n"
        assert run_examples(card) >= 4

    def test_page(self, name, monkeypatch, tmp_path):
        """Where a Space runs it, the folder has another name."""
        gradio = FakeGradio()
        monkeypatch.setitem(sys.modules, "gradio", gradio)
        shutil.copytree(FOLDER / name, tmp_path / "app")
        runpy.run_path(str(tmp_path / "app" / "app.py"))
        page = gradio.page
        assert page.title == name and page.article.strip().startswith("#")
        kind, *texts = [box.value for box in page.inputs]
        assert all(math.isfinite(figure) for figure in page.fn(kind, *texts).values() if isinstance(figure, float))
        for broken in ("[", '["a"]'):
            with pytest.raises(FakeGradio.Error):
                page.fn(kind, broken, *texts[1:])
