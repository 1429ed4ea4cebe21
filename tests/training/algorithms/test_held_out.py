import pytest
import torch
from tiny_models import VOCABULARY, tiny_config

from modeling_dvpo import AutoModelForDistributionalValue
from modeling_dvpo.metrics.report import critic_report
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


def run(critic, rows, *, packing, max_tokens):
    collate = RewardCollator(packing=packing, pad_token_id=0)
    layout = {"packing": packing, "max_tokens": max_tokens, "rank": 0, "world_size": 1}
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


def test_the_better_report():
    report, nan = {"crps": 0.5, "explained_variance": 0.5}, {"crps": 0.1, "explained_variance": float("nan")}
    assert is_better(report, None, "crps")
    assert is_better({"crps": 0.4}, report, "crps") and not is_better({"crps": 0.6}, report, "crps")
    assert is_better({"explained_variance": 0.6}, report, "explained_variance")
    assert not is_better({"explained_variance": 0.4}, report, "explained_variance")
    # an undefined best must not stand for ever, nor an undefined report win
    assert is_better(report, nan, "explained_variance") and not is_better(nan, report, "explained_variance")
