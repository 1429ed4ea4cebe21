import math
from types import SimpleNamespace

import pytest
import torch
from scripts import assert_same_tree

from modeling_dvpo.critic.losses import CriticLossConfig, dvpo_critic_loss
from modeling_dvpo.metrics.calibration import pit_histogram, reliability
from modeling_dvpo.metrics.ranking import in_steps, pairs_in_order
from modeling_dvpo.metrics.report import critic_report
from modeling_dvpo.metrics.resampling import bootstrap_interval
from modeling_dvpo.metrics.scores import constant_quantiles, explained_variance_by_position, value_auc
from modeling_dvpo.metrics.two_valued import as_distribution
from modeling_dvpo.metrics.variance_split import variance_split
from modeling_dvpo.training.evaluation import measure as module
from modeling_dvpo.training.evaluation.arguments import NamedSet
from modeling_dvpo.training.evaluation.intervals import share_interval
from modeling_dvpo.training.evaluation.measure import LEVELS, Measurement, defined, measure
from modeling_dvpo.training.evaluation.parts import Parts, cut
from modeling_dvpo.training.evaluation.sets import EvaluationSet

NAMED = NamedSet("held-out", "held_out.jsonl", "returns", "in")
CONFIG = SimpleNamespace(return_mean=0.5, return_scale=2.0, critic_loss=None, num_value_heads=2, num_quantiles=8)
SCALAR = SimpleNamespace(num_value_heads=1, num_quantiles=1)


def a_set(*, continuations=None, responses=40, seed=0):
    """Responses of 1 to 30 actions, half of them with the label "a"; 0/1 rewards."""
    generator = torch.Generator().manual_seed(seed)
    actions = torch.randint(1, 31, (responses,), generator=generator)
    states = actions if continuations is None else torch.ones_like(actions)
    rewards = (torch.rand(responses, generator=generator) < 0.6).float()
    row = torch.arange(responses).repeat_interleave(states)
    if continuations is None:
        returns, steps = rewards[row], torch.cat([torch.arange(count) for count in actions.tolist()])
    else:
        returns = (torch.rand(responses, continuations, generator=generator) < 0.6).float()
        steps = (torch.rand(responses, generator=generator) * actions).long()
    return EvaluationSet(
        named=NAMED,
        rows=[],
        returns=returns,
        states=states,
        actions=actions,
        steps=steps,
        rewards=rewards,
        prompts=[place // 2 for place in range(responses)],
        labels={"domain": ["a" if place % 2 else "b" for place in range(responses)]},
    )


def predictions(data, heads=2, quantiles=8, seed=1):
    """Some atoms exactly at a return."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(len(data.returns), heads, quantiles, generator=generator) * 1.4 - 0.2
    return drawn.round() * (drawn > 0.7) + drawn * (drawn <= 0.7)


def run(data, folder, *, most=60, with_scalar=True, right=True):
    quantiles = {"critic": predictions(data)} | ({"scalar": predictions(data, 1, 1, 2)} if with_scalar else {})
    rows, ends = cut(data.states.tolist(), most), data.states.cumsum(0).tolist()
    found = {}
    for who, whole in quantiles.items():
        found[who] = Parts(folder, who, {})
        found[who].fill(
            len(rows),
            lambda n, whole=whole: {
                "quantiles": whole[ends[rows[n].start] - data.states[rows[n].start] : ends[rows[n].stop - 1]]
            },
            who,
        )
    training = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0])
    constant = constant_quantiles(training, 8)
    configs = {"critic": CONFIG, **({"scalar": SCALAR} if with_scalar else {})}
    flags = data.right(None) if right else None
    return measure(data, rows, found, configs, training, flags), {**quantiles, "constant": constant.expand(1, 1, 8)}


@pytest.mark.parametrize("continuations", [None, 5])
def test_metrics_are_those_of_the_whole_set_at_once(tmp_path, continuations):
    data = a_set(continuations=continuations)
    found, quantiles = run(data, tmp_path)
    for who in ("critic", "scalar", "constant"):
        whole = quantiles[who].expand(len(data.returns), -1, -1)
        expected = critic_report(whole, data.returns)
        measured = {name: found["metrics"][who][name] for name in expected}
        assert measured == pytest.approx(expected)
        values = whole.double().mean((-2, -1)).split(data.states.tolist())
        areas = value_auc(values, data.rewards) if continuations is None else {}
        assert {n: v for n, v in found["metrics"][who].items() if "auc" in n} == pytest.approx(
            {f"value_auc_{percent}": area for percent, area in areas.items()}
        )
    assert ("wasserstein_1" in found["metrics"]["critic"]) == (continuations is not None)


@pytest.mark.parametrize("continuations", [None, 5])
def test_distribution_and_terms(tmp_path, continuations):
    data = a_set(continuations=continuations)
    found, quantiles = run(data, tmp_path)
    ensemble = quantiles["critic"].double().mean(1)
    assert found["pit_histogram"] == pytest.approx(pit_histogram(ensemble, data.returns, tolerance=0.1).tolist())
    expected = reliability(ensemble, data.returns, LEVELS, tolerance=0.1)
    assert [point["level"] for point in found["reliability"]] == [point["level"] for point in expected]
    assert [p["observed"] for p in found["reliability"]] == pytest.approx([p["observed"] for p in expected])

    atoms = data.returns.reshape(len(data.returns), -1)
    mask = torch.ones(1, len(atoms), dtype=torch.bool)
    normalised = ((x.double()[None] - 0.5) / 2.0 for x in (quantiles["critic"], atoms))
    _, terms = dvpo_critic_loss(*normalised, mask, CriticLossConfig())
    assert found["loss_terms"] == pytest.approx(
        {name: terms[name].item() for name in found["loss_terms"]}, rel=1e-5, abs=1e-9
    )
    names = {"quantile", "risk", "cvar", "gain", "shift", "consistency"}
    assert found["loss_terms"].keys() == (names if continuations is None else names | {"shape", "curvature"})


@pytest.mark.parametrize("low", [True, False])
def test_shift_is_of_the_whole_set(tmp_path, low):
    """Parts may be too low and too high; the ReLU is taken of their sum, as over a whole batch."""
    data = a_set()
    data.returns = data.returns + (0.3 if low else -0.3)
    found, quantiles = run(data, tmp_path)
    gap = ((data.returns.double().mean() - quantiles["critic"].double().mean()) / 2.0).item()
    assert (gap > 0) == low
    assert found["loss_terms"]["shift"] == pytest.approx(max(gap, 0.0), rel=1e-5)


def test_subsets(tmp_path):
    data = a_set()
    found, quantiles = run(data, tmp_path)
    mine = data.row_of_state % 2 == 1
    whole_tolerance = 0.1  # of 0 and 1, also where a subset has only one of them
    expected = critic_report(quantiles["critic"][mine], data.returns[mine], tolerance=whole_tolerance)
    assert found["subsets"]["domain=a"]["metrics"]["critic"] == pytest.approx(expected)
    assert found["subsets"]["domain=a"]["rows"] == 20
    assert {"domain=a", "domain=b"} < found["subsets"].keys()
    lengths = [name for name in found["subsets"] if name.startswith("tokens=")]
    assert len(lengths) == 3 and sum(found["subsets"][name]["rows"] for name in lengths) == 40
    assert sorted(["7-15", "20", "b", "a10", "a9"], key=module._natural) == ["7-15", "20", "a9", "a10", "b"]


def test_coverage_intervals_count_prompts():
    """Wholly right for some prompts, wholly wrong for others: as many trials as prompts, not responses or states."""
    data = a_set()
    data.returns = torch.full_like(data.returns, 0.5)
    prompt = data.row_of_state // 2
    narrow, far = torch.linspace(0.45, 0.55, 8), torch.linspace(2, 3, 8)
    quantiles = torch.where((prompt % 3 == 0)[:, None, None], far, narrow).expand(-1, 2, 8)
    measurement = Measurement(data, {"critic": (2, 8)}, CONFIG, ())
    measurement.add(slice(0, len(data.returns)), {"critic": quantiles})
    found = measurement.result(None)
    inside = (prompt % 3 != 0).double()
    share = inside.mean().item()
    assert found["metrics"]["critic"]["coverage_80"] == pytest.approx(share)
    assert found["coverage_interval"]["80"] == pytest.approx(list(share_interval(inside, prompt)))
    low, high = found["coverage_interval"]["80"]
    assert high - low > 1.2 * (lambda ends: ends[1] - ends[0])(share_interval(inside, data.row_of_state))
    mine = data.row_of_state % 2 == 1
    expected = share_interval(inside[mine], prompt[mine])
    assert found["subsets"]["domain=a"]["coverage_interval"]["80"] == pytest.approx(list(expected))


def test_by_position(tmp_path):
    data = a_set()
    found, quantiles = run(data, tmp_path)
    values = quantiles["critic"].double().mean((-2, -1))
    expected = explained_variance_by_position(values.split(data.states.tolist()), list(data.rewards))
    assert len(found["by_position"]) == 10
    where, right = data.positions(10), data.rewards[data.row_of_state] == 1
    for place, (row, other) in enumerate(zip(found["by_position"], expected, strict=True)):
        assert {name: row[name] for name in other} == pytest.approx(other)
        assert row["value_right"] == pytest.approx(values[(where == place) & right].mean().item())
        assert row["value_wrong"] == pytest.approx(values[(where == place) & ~right].mean().item())
        assert "scalar_explained_variance" in row and "constant_explained_variance" not in row


def test_few_states_have_few_positions(tmp_path):
    found, _ = run(a_set(continuations=4, responses=70), tmp_path)
    assert [(row["from"], row["to"]) for row in found["by_position"]] == [(0, 0.5), (0.5, 1)]
    assert sum(row["states"] for row in found["by_position"]) == 70


def test_equal_values_are_ties_whatever_their_rounding(tmp_path):
    """Two prompts, right and wrong answers to each: at the prompt the critic cannot know, so the area is 1/2."""
    data = a_set(responses=4)
    data.rewards = torch.tensor([0.0, 1.0, 0.0, 1.0])
    measurement = Measurement(data, {"critic": (2, 8)}, CONFIG, ())
    measurement.add(slice(0, len(data.returns)), {"critic": predictions(data)})
    first = torch.tensor([0.3, 0.3 + 1e-7, 0.7 - 1e-7, 0.7])
    measurement.values["critic"] = first.repeat_interleave(data.states).double()
    found = measurement.result(data.right(None))["metrics"]["critic"]
    assert found["value_auc_25"] == 0.5


def test_without_right_and_wrong(tmp_path):
    found, _ = run(a_set(), tmp_path, right=False)
    assert not any("auc" in name for name in found["metrics"]["critic"])
    assert not any("value_right" in row for row in found["by_position"])


def test_parts_do_not_matter(tmp_path):
    data = a_set()
    few, _ = run(data, tmp_path / "few", most=1000)
    many, _ = run(data, tmp_path / "many", most=1)
    assert_same_tree(few, many, rel=1e-6, abs=1e-9)


def test_ranks_do_not_matter(tmp_path, monkeypatch):
    """Two ranks in turn: the sums of each are added as the process group would; one has only a part of the labels."""
    data = a_set(responses=6)
    expected, quantiles = run(data, tmp_path, most=1000)
    shapes = {"critic": (2, 8), "scalar": (1, 1), "constant": (1, 8)}
    ranks = [Measurement(data, shapes, CONFIG, (0.0, 1.0)) for _ in range(2)]
    border = int(data.states[:1].sum())  # rank 0 has one response, with the label "b"
    for rank, states in zip(ranks, (slice(0, border), slice(border, None)), strict=True):
        stop = len(data.returns) if states.stop is None else states.stop
        part = {who: whole.expand(len(data.returns), -1, -1)[states] for who, whole in quantiles.items()}
        rank.add(slice(states.start, stop), part)
    # what rank 1 would send, in the order of the calls
    sent = []
    monkeypatch.setattr(module, "sum_over_ranks", lambda tensor: (sent.append(tensor.clone()), tensor)[1])
    ranks[1].reduce()
    sent = iter(sent)
    monkeypatch.setattr(module, "sum_over_ranks", lambda tensor: tensor + next(sent))
    ranks[0].reduce()
    del expected["best_of_n"]
    assert_same_tree(ranks[0].result(data.right(None)), expected, rel=1e-6, abs=1e-9)


def of_a_scalar_critic(data, folder, training=None):
    parts = Parts(folder, "critic", {})
    parts.fill(1, lambda n: {"quantiles": predictions(data, 1, 1)}, "critic")
    config = SimpleNamespace(**{**vars(CONFIG), "num_value_heads": 1, "num_quantiles": 1})
    return measure(data, [range(40)], {"critic": parts}, {"critic": config}, training, data.right(None))


def test_a_scalar_critic_of_many_returns_has_no_distribution(tmp_path):
    data = a_set()
    data.returns = data.returns * data.steps
    found = of_a_scalar_critic(data, tmp_path)
    assert "reliability" not in found and "pit_histogram" not in found and found["coverage_interval"] == {}
    assert found["metrics"]["critic"]["crps"] == found["metrics"]["critic"]["mae"]
    assert found["loss_terms"].keys() == {"quantile", "consistency"}
    assert "explained_variance" in found["metrics"]["critic"]


def test_a_scalar_critic_of_two_returns_is_the_distribution_that_it_is(tmp_path):
    """As the same two points in many atoms; of subsets in which all are right, too; its loss is still a scalar's."""
    data = a_set()
    data.labels["outcome"] = ["right" if reward else "wrong" for reward in data.rewards]
    found = of_a_scalar_critic(data, tmp_path / "scalar")
    atoms = as_distribution(predictions(data, 1, 1).double(), (0.0, 1.0))
    parts = Parts(tmp_path, "critic", {})
    parts.fill(1, lambda n: {"quantiles": atoms}, "critic")
    config = SimpleNamespace(**{**vars(CONFIG), "num_value_heads": 1, "num_quantiles": atoms.shape[-1]})
    same = measure(data, [range(40)], {"critic": parts}, {"critic": config}, None, None)
    for name in ("crps", "coverage_80", "pit_ks", "sd"):
        assert found["metrics"]["critic"][name] == pytest.approx(same["metrics"]["critic"][name])
    assert found["metrics"]["critic"]["crps"] < found["metrics"]["critic"]["mae"]
    for name in ("reliability", "pit_histogram", "coverage_interval"):
        assert_same_tree(found[name], same[name], rel=1e-9, abs=1e-9)
    part = "outcome=right"
    crps = found["subsets"][part]["metrics"]["critic"]["crps"]
    assert crps == pytest.approx(same["subsets"][part]["metrics"]["critic"]["crps"])
    # the constant is read so, too: a mean in every state
    assert found["metrics"]["constant"]["crps"] == pytest.approx(same["metrics"]["constant"]["crps"], abs=1e-3)
    assert found["loss_terms"].keys() == {"quantile", "consistency"}


def test_training_returns_say_which_values_there_are(tmp_path):
    """Of a held-out set in which all happen to be right, or to have two of the many values that were trained on."""
    data = a_set()
    all_right = a_set()
    all_right.returns = torch.ones_like(data.returns)
    found = of_a_scalar_critic(all_right, tmp_path / "right", torch.tensor([0.0, 1.0, 1.0]))
    assert found["metrics"]["critic"]["crps"] < found["metrics"]["critic"]["mae"]
    found = of_a_scalar_critic(data, tmp_path / "graded", torch.tensor([0.0, 0.5, 1.0]))
    assert found["metrics"]["critic"]["crps"] == found["metrics"]["critic"]["mae"]


def test_within_prompts(tmp_path):
    """Pairs in order by the last state, and the variance split, of whole set and subsets, with their intervals."""
    data = a_set()
    found, quantiles = run(data, tmp_path)
    prompts = torch.tensor(data.prompts)
    last = data.states.cumsum(0) - 1
    for who in ("critic", "scalar", "constant"):
        values = quantiles[who].expand(len(data.returns), -1, -1).double().mean((-2, -1))
        own = found["metrics"][who]
        pairs = pairs_in_order(in_steps(values[last], CONFIG.return_scale), data.rewards, prompts)
        assert own["ranking_accuracy"] == pairs.accuracy()
        split = variance_split(values, data.returns, prompts[data.row_of_state])
        assert {name: own[name] for name in split} == pytest.approx(split)
        if who != "constant":
            assert found["intervals"][who]["ranking_accuracy"] == list(bootstrap_interval(*pairs))
    assert found["metrics"]["constant"]["ranking_accuracy"] == 0.5 and "constant" not in found["intervals"]
    order = found["best_of_n"]["ways"]["critic, mean"]["order"]
    assert order[0] == found["metrics"]["critic"]["ranking_accuracy"]
    # each prompt has one response with the label "a" and one with "b"
    assert "ranking_accuracy" not in found["subsets"]["domain=a"]["metrics"]["critic"]
    assert found["subsets"]["domain=a"]["intervals"] == {}
    low, high = found["intervals"]["critic"]["explained_variance_within"]
    assert low < found["metrics"]["critic"]["explained_variance_within"] < high


def test_heads_with_atoms_have_no_terms_of_quantiles(tmp_path):
    data = a_set()
    parts = Parts(tmp_path, "critic", {})
    parts.fill(1, lambda n: {"quantiles": predictions(data)}, "critic")
    config = SimpleNamespace(**vars(CONFIG), value_head_type="bernoulli")
    assert measure(data, [range(40)], {"critic": parts}, {"critic": config}, None, None)["loss_terms"] == {}


def test_what_is_undefined_is_absent(tmp_path):
    data = a_set()
    data.returns = torch.full_like(data.returns, 0.5)
    found, _ = run(data, tmp_path)
    assert "explained_variance" not in found["metrics"]["critic"] and "mae" in found["metrics"]["critic"]
    assert not any("explained_variance" in row for row in found["by_position"])
    assert defined({"a": [{"b": math.nan, "c": 1.0}], "d": math.nan}) == {"a": [{"c": 1.0}]}
