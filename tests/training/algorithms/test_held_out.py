import pytest
import torch
from tiny_models import VOCABULARY, tiny_config

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.metrics.ranking import pairs_in_order
from modeling_dvpo.metrics.report import critic_report
from modeling_dvpo.metrics.resampling import bootstrap_interval
from modeling_dvpo.metrics.variance_split import variance_split
from modeling_dvpo.training.algorithms import held_out as module
from modeling_dvpo.training.algorithms.held_out import evaluate, is_better
from modeling_dvpo.training.algorithms.targets import dataset_returns
from modeling_dvpo.training.data.packing import RewardCollator

GAMMA = 0.9


class Rows(list):
    """As much of a tokenised set as evaluation needs: rows, and a column by its name."""

    def __getitem__(self, key):
        return [row[key] for row in self] if isinstance(key, str) else super().__getitem__(key)


@pytest.fixture(scope="module")
def critic():
    torch.manual_seed(0)
    config = tiny_config("qwen3", attention_dropout=0.5)
    critic = AutoModelForDistributionalValue.from_config(config, num_value_heads=2, num_quantiles=6)
    with torch.no_grad():
        critic.quantile_heads.weight.normal_(0, 0.3)
    return critic


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(1)
    rows = Rows()
    for place, (prompt, actions) in enumerate([(2, 5), (3, 1), (1, 9), (4, 4), (2, 2)]):
        length = prompt + actions
        rewards = torch.zeros(length)
        rewards[-1] = torch.randn((), generator=generator)
        ids = torch.randint(3, VOCABULARY, (length,), generator=generator)
        mask = torch.arange(length) >= prompt
        row = {"input_ids": ids, "completion_mask": mask, "rewards": rewards, "length": length}
        rows.append({**row, "prompt_id": f"prompt {place}"})
    return rows


def run(critic, rows, *, packing, max_tokens, rank=0, world_size=1):
    collate = RewardCollator(packing=packing, pad_token_id=0)
    layout = {"packing": packing, "max_tokens": max_tokens, "rank": rank, "world_size": world_size}
    return evaluate(critic, rows, dataset_returns(rows, GAMMA), collate, GAMMA, layout, torch.device("cpu"))


def test_returns_of_a_set(rows):
    expected = [
        row["rewards"][-1] * GAMMA**left for row in rows for left in reversed(range(row["completion_mask"].sum()))
    ]
    torch.testing.assert_close(dataset_returns(rows, GAMMA), torch.stack(expected))


@pytest.mark.parametrize(("packing", "max_tokens"), [(True, 100), (True, 12), (False, 100), (False, 12)])
def test_equal_to_the_report_of_each_row_alone(critic, rows, packing, max_tokens):
    """In whatever batches; without dropout, after which the critic trains on with it."""
    quantiles = []
    critic.eval()
    for row in rows:
        with torch.no_grad():
            output = critic(row["input_ids"][None]).quantiles[0]
        before = torch.cat([torch.zeros_like(output[:1]), output[:-1]])
        quantiles.append(before[row["completion_mask"]])
    expected = critic_report(torch.cat(quantiles), dataset_returns(rows, GAMMA))
    critic.train()
    found = run(critic, rows, packing=packing, max_tokens=max_tokens)
    assert critic.training
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("packing", [True, False])
def test_several_completions_of_a_prompt(critic, rows, packing):
    """Their order by the value before the last token, and the variance within prompts; in whatever batches."""
    several = Rows({**row, "prompt_id": name} for row, name in zip(rows, "abaab", strict=True))
    assert "ranking_accuracy" not in run(critic, rows, packing=packing, max_tokens=12)
    found = run(critic, several, packing=packing, max_tokens=12)
    critic.eval()
    with torch.no_grad():
        outputs = [critic(row["input_ids"][None]).value[0] for row in rows]
    critic.train()
    values = [own[:-1][row["completion_mask"][1:]] for own, row in zip(outputs, rows, strict=True)]
    last, rewards = torch.stack([own[-1] for own in values]), torch.stack([row["rewards"][-1] for row in rows])
    pairs = pairs_in_order(last, rewards, torch.tensor([0, 1, 0, 0, 1]))
    assert pairs.pairs.tolist() == [3, 1]
    assert found["ranking_accuracy"] == pairs.accuracy()
    assert (found["ranking_accuracy_low"], found["ranking_accuracy_high"]) == bootstrap_interval(*pairs)
    states = torch.tensor([len(own) for own in values])
    groups = torch.tensor([0, 1, 0, 0, 1]).repeat_interleave(states)
    split = variance_split(torch.cat(values), dataset_returns(several, GAMMA), groups)
    assert {name: found[name] for name in split} == pytest.approx(split, rel=1e-4, abs=1e-5)
    between, within, share = split.values()
    assert found["explained_variance"] == pytest.approx((1 - share) * between + share * within, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("max_tokens", [12, 100])
def test_ranks_do_not_matter(critic, rows, max_tokens, monkeypatch):
    """Two ranks in turn, whose sums are added as the process group would; the second has a filler as its last batch,
    which repeats a row that the first has."""
    several = Rows({**row, "prompt_id": name} for row, name in zip(rows, "abaab", strict=True))
    expected = run(critic, several, packing=True, max_tokens=max_tokens)
    sent = []
    monkeypatch.setattr(module, "sum_over_ranks", lambda tensor: (sent.append(tensor.clone()), tensor)[1])
    run(critic, several, packing=True, max_tokens=max_tokens, rank=1, world_size=2)
    sent = iter(sent)
    monkeypatch.setattr(module, "sum_over_ranks", lambda tensor: tensor + next(sent))
    found = run(critic, several, packing=True, max_tokens=max_tokens, world_size=2)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6) and "ranking_accuracy" in found


def test_completions_that_are_all_alike_order_nothing(critic, rows):
    alike = Rows({**row, "prompt_id": "a", "rewards": torch.zeros_like(row["rewards"])} for row in rows)
    assert "ranking_accuracy" not in run(critic, alike, packing=True, max_tokens=100)


def test_a_set_without_the_metric_falls_back():
    """One completion a prompt: the default would find nothing to choose by."""
    better, worse = {"explained_variance": 0.5}, {"explained_variance": 0.4}
    for metric in ("explained_variance_within", "ranking_accuracy"):
        assert is_better(better, worse, metric) and not is_better(worse, better, metric)
        assert is_better({**worse, metric: 0.7}, {**better, metric: 0.6}, metric)


def test_the_better_report():
    report, nan = {"crps": 0.5, "explained_variance": 0.5}, {"crps": 0.1, "explained_variance": float("nan")}
    assert is_better(report, None, "crps")
    assert is_better({"crps": 0.4}, report, "crps") and not is_better({"crps": 0.6}, report, "crps")
    assert is_better({"explained_variance": 0.6}, report, "explained_variance")
    assert not is_better({"explained_variance": 0.4}, report, "explained_variance")
    # an undefined best must not stand for ever, nor an undefined report win
    assert is_better(report, nan, "explained_variance") and not is_better(nan, report, "explained_variance")
