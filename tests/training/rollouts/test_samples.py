"""From rollouts to scored samples, and from these to tensors."""

from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from modeling_dvpo.training.data.packing import RewardCollator
from modeling_dvpo.training.engine.distributed import share_of
from modeling_dvpo.training.errors import RewardDataError
from modeling_dvpo.training.rollouts.rollouts import Rollout
from modeling_dvpo.training.rollouts.samples import (
    TOKEN_COLUMNS,
    Sample,
    SampleCollator,
    Scorer,
    as_text,
    outcome_returns,
)


def sample(shape, reward=1.0, **more):
    return Sample(
        **{
            "sample_id": 0,
            "group": 0,
            "input_ids": list(range(5, 5 + len(shape))),
            "completion_mask": [letter == "a" for letter in shape],
            "truncated": False,
            "num_turns": 1,
            "reward": reward,
            "rewards": {},
            "prompt": "",
            "completion": "",
            **more,
        }
    )


class TestCollator:
    samples = [
        sample("paapa", 2.0, advantage=0.5, sample_id=8),
        sample("ppa", -1.0, advantage=-3.0, truncated=True, sample_id=4),
    ]

    def collate(self, packing, drop=False, **options):
        collate = RewardCollator(packing=packing, pad_token_id=0, token_columns=TOKEN_COLUMNS)
        return SampleCollator(collate, drop_truncated_rewards=drop)(self.samples, **options)

    def test_packed_by_hand(self):
        batch = self.collate(True)
        assert batch["rewards"].tolist() == [[0, 0, 0, 0, 2, 0, 0, -1]]
        assert batch["lengths"].tolist() == [[0, 3, 3, 0, 3, 0, 0, 1]]
        assert batch["advantages"].tolist() == [[0, 0.5, 0.5, 0, 0.5, 0, 0, -3]]
        assert batch["segment_ids"].tolist() == [[0] * 5 + [1] * 3]
        assert batch["row_id"].tolist() == [8, 4] and batch["truncated"].tolist() == [False, True]
        assert {batch[name].dtype for name in ("rewards", *TOKEN_COLUMNS)} == {torch.float32}

    def test_padded_by_hand(self):
        batch = self.collate(False)
        assert batch["rewards"].tolist() == [[0, 0, 0, 0, 2], [0, 0, -1, 0, 0]]
        assert batch["lengths"].tolist() == [[0, 3, 3, 0, 3], [0, 0, 1, 0, 0]]
        assert batch["advantages"].tolist() == [[0, 0.5, 0.5, 0, 0.5], [0, 0, -3, 0, 0]]

    @pytest.mark.parametrize("packing", [True, False])
    def test_rewards_of_truncated_completions_can_be_left_to_the_critic(self, packing):
        batch = self.collate(packing, drop=True)
        assert batch["rewards"].sum() == 2 and batch["truncated"].tolist() == [False, True]

    @pytest.mark.parametrize("packing", [True, False])
    def test_a_filler_has_tokens_and_nothing_else(self, packing):
        batch = self.collate(packing, filler=True)
        assert batch["input_ids"].any()
        assert not any(batch[name].any() for name in ("completion_mask", "rewards", *TOKEN_COLUMNS))


def test_outcome_returns_by_hand():
    """γ = ½; tokens between the turns do not discount."""
    found = outcome_returns([sample("paapa", 4.0), sample("ppa", -1.0)], 0.5)
    assert_close(found, torch.tensor([1.0, 2.0, 4.0, -1.0]))
    assert_close(outcome_returns([sample("paa", 4.0)], 0.0), torch.tensor([0.0, 4.0]))


@pytest.mark.parametrize(("number", "world_size"), [(7, 3), (2, 4), (8, 2), (5, 1)])
def test_shares_cover_all_once_and_are_of_like_size(number, world_size):
    items = list(range(100, 100 + number))
    shares = [share_of(items, rank, world_size) for rank in range(world_size)]
    assert [place for share in shares for place in share] == list(range(number))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


class TestScorer:
    def rollouts(self, *texts):
        return [
            Rollout(
                prompt=SimpleNamespace(prompt="2 + 3", columns={"answer": str(len(text))}, index=0),
                input_ids=[1, 2, *range(3, 3 + len(text))],
                completion_mask=[False, False, *[True] * len(text)],
                completion=text,
                truncated=len(text) > 4,
                num_turns=1,
            )
            for text in texts
        ]

    @staticmethod
    def length(prompts, completions, answer, **kwargs):
        assert [int(a) for a in answer] == [len(text) for text in completions]
        return [float(len(text)) for text in completions]

    @staticmethod
    def five(prompts, completions, completion_ids, **kwargs):
        return [10.0 if "5" in text else None for text in completions]

    def test_by_hand(self):
        """2 · length + 0.5 · ten, where the second function speaks."""
        score = Scorer({"length": self.length, "five": self.five}, [2.0, 0.5], [])
        first, second = score(self.rollouts("is 5", "no idea"), [3, 3], [40, 41])
        assert (first.reward, first.rewards) == (13.0, {"length": 4.0, "five": 10.0})
        assert (second.reward, second.rewards) == (14.0, {"length": 7.0, "five": None})
        assert (second.sample_id, second.group, second.truncated, second.num_actions) == (41, 3, True, 7)
        assert second.input_ids[:3] == [1, 2, 3] and second.advantage == 0.0
        assert (second.prompt, second.completion) == ("2 + 3", "no idea")

    def test_noise_is_on_the_sum_and_only_on_request(self):
        class Double:
            def __call__(self, rewards, **kwargs):
                return [2 * reward for reward in rewards]

        score = Scorer({"length": self.length}, [], [Double()])
        rollouts = self.rollouts("abc")
        (noisy,), (clean,) = score(rollouts, [0], [0]), score(rollouts, [0], [0], noise=False)
        assert (noisy.reward, clean.reward) == (6.0, 3.0)
        assert noisy.rewards == clean.rewards == {"length": 3.0}

    def test_a_completion_that_nothing_scores_is_refused(self):
        with pytest.raises(RewardDataError, match=r"1 of 2 completions .* no reward function \(sample 41 first\)"):
            Scorer({"five": self.five}, [], [])(self.rollouts("is 5", "no"), [0, 0], [40, 41])

    def test_a_rank_without_rollouts(self):
        assert Scorer({"five": self.five}, [], [])([], [], []) == []


def test_chats_as_text():
    chat = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "5"}]
    assert as_text(chat) == "user: hello\nassistant: 5" and as_text("2 + 3") == "2 + 3"
