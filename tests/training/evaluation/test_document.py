import re

import pytest
from PIL import Image

from modeling_dvpo.training.evaluation.document import as_markdown, predictors_table
from modeling_dvpo.training.evaluation.figures import _best_of_n, _explained, draw

METRICS = {"explained_variance": 0.25, "crps": 0.1234, "coverage_50": 0.4, "coverage_80": 0.7, "coverage_90": 0.85}
INTERVALS = {"50": [0.3, 0.5], "80": [0.6, 0.8], "90": [0.8, 0.9]}


def one_set(name="held-out", domain="in", **more):
    return {
        "name": name,
        "domain": domain,
        "dataset": f"{name}.jsonl",
        "rows": 1200,
        "prompts": 300,
        "states": 34567,
        "truth": "returns",
        "continuations": None,
        "metrics": {"critic": METRICS, "scalar": {"explained_variance": -1.5, "crps": -1e-9}},
        "coverage_interval": INTERVALS,
        "intervals": {},
        "subsets": {
            "domain=a": {
                "rows": 7,
                "metrics": {"critic": METRICS},
                "coverage_interval": INTERVALS,
                "intervals": {},
            }
        },
        "reliability": [{"level": level / 20, "observed": level / 20} for level in range(1, 20)],
        "pit_histogram": [0.1] * 10,
        "by_position": [
            {"from": 0.0, "to": 0.5, "explained_variance": -3.0, "value_right": 0.5},
            {"from": 0.5, "to": 1.0, "explained_variance": 0.5, "value_right": 0.7, "value_wrong": 0.3},
        ],
        "loss_terms": {"quantile": 0.2, "shift": 0.0},
        **more,
    }


def evaluation(*sets, **more):
    weights = {"quantile": 1.0, "shift": 0.001}
    return {
        "critic": "a/critic",
        "revision": None,
        "constant_from": None,
        "loss_weights": weights,
        "sets": list(sets),
        **more,
    }


def test_table():
    """A metric that a predictor has not stays empty; one that none has is no column."""
    assert predictors_table([one_set()]).splitlines() == [
        "| set | predictor | expl. var. | CRPS | 80 % covers |",
        "| --- | --- | ---: | ---: | ---: |",
        "| held-out | critic | 0.250 | 0.123 | 0.700 [0.600, 0.800] |",
        "| held-out | scalar | -1.500 | 0.000 |  |",
    ]


def test_page():
    sampled = one_set("far", "out", truth="monte_carlo", continuations=64, rows=200, states=200)
    page = as_markdown(evaluation(one_set(), sampled, revision="abc", constant_from="train.jsonl"))
    assert "Evaluation of `a/critic` at `abc`." in page
    assert (
        "- held-out: in domain; 1,200 responses to 300 prompts, 34,567 states, one return of each; `held-out.jsonl`"
        in page
    )
    assert (
        "- far: out of domain; 200 responses to 300 prompts, 200 states, 64 continuations of each; `far.jsonl`" in page
    )
    assert "| far | `domain=a` | 7 | 0.250 | 0.123 | 0.700 [0.600, 0.800] |" in page
    assert "the returns of `train.jsonl`" in page
    assert "of the set itself (the best constant in hindsight)" in as_markdown(evaluation(one_set()))
    assert "AUC" not in page and "a perfect critic's explained variance is below 1" in page
    assert "below 1" not in as_markdown(evaluation(sampled))
    assert "subsets" not in as_markdown(evaluation(one_set(subsets={})))


def test_pairs_in_order_and_their_intervals():
    order = {"ranking_accuracy": 0.8125, "value_auc_0": 0.7, "value_auc_50": 0.75, "variance_within": 0.37}
    one = one_set(metrics={"critic": METRICS | order, "scalar": {"ranking_accuracy": 0.5}})
    one["intervals"] = {"critic": {"ranking_accuracy": [0.78, 0.84]}, "scalar": {"ranking_accuracy": [0.4, 0.6]}}
    page = as_markdown(evaluation(one))
    assert "| set | predictor | expl. var. | pairs in order | CRPS | 80 % covers | AUC prompt | AUC 50 % |" in page
    assert "| 0.812 [0.780, 0.840] | 0.123 |" in page
    assert "| held-out | scalar |  | 0.500 [0.400, 0.600] |" in page
    assert "one return of each, 37 % of the returns' variance within prompts; `held-out.jsonl`" in page
    assert "chance is 0.5" in page and "chance is 0.5" not in as_markdown(evaluation(one_set()))


def best_of_n():
    ways = {way: {"reward": {"1": [0.5, 0.4, 0.6], "2": [0.75, 0.7, 0.8]}} for way in ("chance", "critic, mean")}
    ways["critic, mean"]["order"] = [0.8, 0.7, 0.9]
    return {"responses": 3, "prompts": 1200, "left_out": 20, "ways": ways}


def test_best_of_n():
    page = as_markdown(evaluation(one_set(best_of_n=best_of_n())))
    assert "Best of n on held-out" in page and "of 3 responses to each of 1,200 prompts (20 with fewer" in page
    assert "| chosen by | n = 1 | n = 2 | pairs in order |" in page
    assert "| chance | 0.500 [0.400, 0.600] | 0.750 [0.700, 0.800] |  |" in page
    assert "| critic, mean | 0.500 [0.400, 0.600] | 0.750 [0.700, 0.800] | 0.800 [0.700, 0.900] |" in page
    assert "Best of n" not in as_markdown(evaluation(one_set()))


def test_best_of_n_is_drawn_as_it_is():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    _best_of_n(axes, {"best_of_n": best_of_n()})
    lines = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert lines == {name: [[1, 0.5], [2, 0.75]] for name in ("chance", "critic")}


EVERY = ["reliability", "pit", "by_position", "explained_variance", "best_of_n", "coverage", "loss_terms"]


@pytest.mark.parametrize("number", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_every_figure(tmp_path, number):
    sets = [one_set(f"set {place}", best_of_n=best_of_n()) for place in range(number)]
    files = draw(evaluation(*sets), tmp_path)
    assert files == {name: f"{name}.png" for name in EVERY}
    for name in files.values():
        with Image.open(tmp_path / name) as picture:
            assert picture.width > 400 and len(picture.convert("RGB").getcolors(1 << 20)) > 10


def test_only_what_there_is(tmp_path):
    """A scalar critic's set, without right and wrong."""
    bare = one_set(coverage_interval={}, loss_terms={}, subsets={})
    del bare["reliability"], bare["pit_histogram"]
    bare["by_position"] = [{"from": 0.0, "to": 1.0, "explained_variance": 0.5}]
    assert draw(evaluation(bare), tmp_path) == {"explained_variance": "explained_variance.png"}
    assert [path.name for path in tmp_path.iterdir()] == ["explained_variance.png"]


def test_what_is_far_below_is_marked_as_such():
    """Not left out, not drawn at a false height on the line."""
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    _explained(axes, one_set())
    lines = {line.get_marker(): line for line in axes.lines}
    assert [list(map(float, lines["v"].get_data()[axis])) for axis in (0, 1)] == [[0.25], [-1.0]]
    heights = lines["o"].get_ydata()
    assert heights[0] != heights[0] and heights[1] == 0.5
    assert re.search("▼ below -1", axes.get_ylabel())
