"""Micro-batch plans, layouts, and which models keep packed rows apart."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from modeling_dvpo.training.data.packing import (
    MicroBatch,
    RewardBatchSampler,
    RewardCollator,
    pack_rows,
    supports_packing,
)

lengths_lists = st.lists(st.integers(1, 20), min_size=1, max_size=40)


def row(tokens, completion=2, reward=1.0, **more):
    before = len(tokens) - completion
    return {
        "input_ids": tokens,
        "completion_mask": [False] * before + [True] * completion,
        "rewards": [0.0] * (len(tokens) - 1) + [reward],
        "row_id": 0,
        "truncated": False,
        **more,
    }


class TestPackRows:
    def test_first_fit_by_hand(self):
        # 7 | 6 | 4 does not fit beside 7 or 6 in 10? 6 + 4 = 10 does; 3 beside 7; 2 in a bin of its own with 1
        assert pack_rows([3, 7, 1, 6, 4, 2], 10) == [[1, 0], [3, 4], [5, 2]]

    @settings(max_examples=100, deadline=None)
    @given(lengths_lists, st.integers(20, 60))
    def test_every_row_once_and_none_too_full(self, lengths, max_tokens):
        packed = pack_rows(lengths, max_tokens)
        assert sorted(sum(packed, [])) == list(range(len(lengths)))
        assert all(sum(lengths[i] for i in members) <= max_tokens for members in packed)
        # First fit leaves at most one bin half empty.
        assert sum(2 * sum(lengths[i] for i in members) <= max_tokens for members in packed) <= 1


class TestSampler:
    def steps(self, lengths, world_size=1, epoch=0, start=0, **kwargs):
        """All ranks' plans, step by step."""
        samplers = [
            RewardBatchSampler(lengths, rank=rank, world_size=world_size, **kwargs) for rank in range(world_size)
        ]
        return list(zip(*(sampler.steps(epoch, start) for sampler in samplers), strict=True))

    @settings(max_examples=50, deadline=None)
    @given(lengths_lists, st.integers(1, 12), st.integers(1, 4), st.booleans())
    def test_a_steps_rows_do_not_depend_on_ranks_or_memory(self, lengths, rows_per_step, world_size, packing):
        def rows_of(steps):
            return [
                sorted(i for plan in ranks for batch in plan if not batch.filler for i in batch.rows)
                for ranks in steps
            ]

        common = {"rows_per_step": rows_per_step, "packing": packing}
        many = self.steps(lengths, world_size, max_tokens=25, **common)
        assert rows_of(many) == rows_of(self.steps(lengths, max_tokens=500, **common))
        assert sorted(sum(rows_of(many), [])) == list(range(len(lengths)))
        for ranks in many:
            # FSDP would hang on ranks with different numbers of forward passes.
            assert len({len(plan) for plan in ranks}) == 1

    def test_bins_are_split_before_fillers_are_used(self):
        (ranks,) = self.steps([4, 4, 4], 2, rows_per_step=3, max_tokens=100)
        assert sorted(i for plan in ranks for i in plan[0].rows) == [0, 1, 2]
        assert not any(batch.filler for plan in ranks for batch in plan)

    def test_fewer_rows_than_ranks_gives_fillers(self):
        (ranks,) = self.steps([4, 3], 3, rows_per_step=2, max_tokens=100)
        assert [batch for plan in ranks for batch in plan] == [
            MicroBatch((0,)),
            MicroBatch((1,)),
            MicroBatch((1,), filler=True),
        ]

    def test_epochs_differ_and_a_seed_repeats(self):
        common = {"rows_per_step": 4, "max_tokens": 50}
        lengths = list(range(1, 21))
        assert self.steps(lengths, seed=1, **common) == self.steps(lengths, seed=1, **common)
        assert self.steps(lengths, seed=1, **common) != self.steps(lengths, epoch=1, seed=1, **common)
        assert self.steps(lengths, seed=1, **common) != self.steps(lengths, seed=2, **common)

    def test_resuming_in_mid_epoch_continues_it(self):
        common = {"rows_per_step": 4, "max_tokens": 50, "seed": 3}
        lengths = list(range(1, 19))
        assert self.steps(lengths, start=2, **common) == self.steps(lengths, **common)[2:]

    def test_length_and_last_step(self):
        def sampler(**kwargs):
            return RewardBatchSampler([1] * 10, rows_per_step=4, max_tokens=8, **kwargs)

        assert len(sampler()) == len(list(sampler().steps())) == 3
        assert len(sampler(drop_last=True)) == len(list(sampler(drop_last=True).steps())) == 2

    def test_in_order_without_shuffle(self):
        """All of it, where nobody says that there are other ranks."""
        plans = RewardBatchSampler([1] * 6, rows_per_step=2, max_tokens=9, shuffle=False).steps()
        assert [plan.rows for (plan,) in plans] == [(0, 1), (2, 3), (4, 5)]

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"rows_per_step": 0}, "at least 1 row"),
            ({"rank": 2, "world_size": 2}, "rank 2 is not one of the 2 ranks"),
            ({"drop_last": True, "rows_per_step": 3}, "2 rows do not fill one step of 3"),
            ({"max_tokens": 4}, r"1 of 2 rows are longer than max_tokens = 4 \(row 0 first, the longest has 5 tokens"),
        ],
    )
    def test_refusals(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            RewardBatchSampler([5, 3], **{"rows_per_step": 1, "max_tokens": 8, **kwargs})


class TestCollator:
    rows = [row([5, 6, 7], reward=2.0, row_id=8), row([9, 4, 3, 2, 1], reward=-1.0, row_id=3, truncated=True)]

    def test_packed_by_hand(self):
        batch = RewardCollator(packing=True)(self.rows)
        assert batch["input_ids"].tolist() == [[5, 6, 7, 9, 4, 3, 2, 1]]
        assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 4]]
        assert batch["segment_ids"].tolist() == [[0, 0, 0, 1, 1, 1, 1, 1]]
        assert batch["completion_mask"].tolist() == [[False, True, True, False, False, False, True, True]]
        assert batch["rewards"].tolist() == [[0, 0, 2, 0, 0, 0, 0, -1]]
        assert batch["row_id"].tolist() == [8, 3] and batch["truncated"].tolist() == [False, True]
        assert "attention_mask" not in batch  # with one, transformers would not see the row boundaries

    def test_padded_by_hand(self):
        batch = RewardCollator(packing=False, pad_token_id=0)(self.rows)
        assert batch["input_ids"].tolist() == [[5, 6, 7, 0, 0], [9, 4, 3, 2, 1]]
        assert batch["attention_mask"].tolist() == [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]
        assert batch["completion_mask"].tolist() == [[False, True, True, False, False], [False] * 3 + [True] * 2]
        assert batch["rewards"].tolist() == [[0, 0, 2, 0, 0], [0, 0, 0, 0, -1]]
        assert "position_ids" not in batch and "segment_ids" not in batch

    @pytest.mark.parametrize("packing", [True, False])
    def test_filler_counts_for_nothing(self, packing):
        collator = RewardCollator(packing=packing, pad_token_id=0)
        batch, filler = collator(self.rows), collator(self.rows, filler=True)
        assert torch.equal(batch["input_ids"], filler["input_ids"])
        assert not filler["completion_mask"].any() and not filler["rewards"].any()

    @pytest.mark.parametrize("packing", [True, False])
    def test_further_columns_are_laid_out_as_rewards_are(self, packing):
        """Numbers a token, whole ones and lists too; a filler has none of them."""
        rows = [{**row, "weights": row["rewards"], "ranks": list(range(len(row["input_ids"])))} for row in self.rows]
        collator = RewardCollator(packing=packing, pad_token_id=0, token_columns=("weights", "ranks"))
        batch, filler = collator(rows), collator(rows, filler=True)
        assert torch.equal(batch["weights"], batch["rewards"]) and batch["ranks"].dtype == torch.float32
        ranks = [[0, 1, 2, 0, 1, 2, 3, 4]] if packing else [[0, 1, 2, 0, 0], [0, 1, 2, 3, 4]]
        assert batch["ranks"].tolist() == ranks
        for name in ("weights", "ranks"):
            assert filler[name].shape == batch[name].shape and not filler[name].any()
        assert "weights" not in RewardCollator(packing=packing, pad_token_id=0)(rows)

    def test_padding_needs_a_pad_token(self):
        with pytest.raises(ValueError, match="set `tokenizer.pad_token`"):
            RewardCollator(packing=False)


SIZES = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SLIDING = {"sliding_window": 5}
FAMILIES = {
    "qwen3": {},
    "llama": {},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "mistral": SLIDING,
    "gemma3_text": {**SLIDING, "layer_types": ["sliding_attention", "full_attention"]},
    "qwen3_moe": {"num_experts": 4, "moe_intermediate_size": 16, "num_experts_per_tok": 2},
}
# opt and bloom do not read `position_ids`; the others have layers whose state runs on from row to row, and jamba,
# falcon_h1 and lfm2 attention beside them, which alone would pass.
UNPACKED = {
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 2, "n_head": 4},
    "mamba": {"state_size": 8},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "num_experts": 2,
        "mamba_d_state": 8,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
}


def tiny(family, attention="sdpa"):
    torch.manual_seed(0)
    sizes = {**SIZES, **FAMILIES.get(family, {}), **UNPACKED.get(family, {})}
    supported = {"attn_implementation": attention} if family in FAMILIES else {}
    return AutoModel.from_config(CONFIG_MAPPING[family](**sizes), **supported)


class TestPackedHiddenStates:
    """What the packed layout rests on: the same hidden states as row by row."""

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_equal_row_by_row(self, family, attention):
        model = tiny(family, attention).eval()
        rows = [row(torch.randint(3, 61, (length,)).tolist()) for length in (11, 9, 4)]
        packed, padded = RewardCollator(packing=True)(rows), RewardCollator(packing=False, pad_token_id=0)(rows)
        with torch.no_grad():
            alone = [model(torch.tensor([row["input_ids"]])).last_hidden_state[0] for row in rows]
            together = model(packed["input_ids"], position_ids=packed["position_ids"], use_cache=False)
            beside = model(padded["input_ids"], attention_mask=padded["attention_mask"]).last_hidden_state
        assert_close(together.last_hidden_state[0], torch.cat(alone), atol=2e-5, rtol=1e-4)
        for place, hidden in enumerate(alone):
            assert_close(beside[place, : len(hidden)], hidden, atol=2e-5, rtol=1e-4)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_supported(self, family):
        assert supports_packing(tiny(family))

    @pytest.mark.parametrize("family", UNPACKED)
    def test_unsupported(self, family):
        assert not supports_packing(tiny(family))

    @pytest.mark.parametrize(
        "error", [TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError, IndexError]
    )
    def test_a_model_that_refuses_the_arguments_is_padded(self, error, monkeypatch):
        model = tiny("qwen3").train()
        forward = model.forward

        def refuse(position_ids=None, **kwargs):
            if position_ids is not None:
                raise error("no position_ids here")
            return forward(**kwargs)

        monkeypatch.setattr(model, "forward", refuse)
        assert not supports_packing(model) and model.training

    def test_positions_that_do_not_start_again_show_in_either_direction(self):
        """Hidden states that only ever fall with the position: a difference below 0 is a difference, too."""

        class Falling(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.slope = torch.nn.Parameter(torch.tensor(-1.0))
                self.config = tiny("qwen3").config

            def forward(self, input_ids, **_):
                places = torch.arange(input_ids.shape[1]).expand(input_ids.shape)
                return SimpleNamespace(hidden_states=[(self.slope * places)[..., None]])

        assert not supports_packing(Falling())

    def test_in_bfloat16(self):
        assert supports_packing(tiny("qwen3").bfloat16())
        assert not supports_packing(tiny("lfm2").bfloat16())

    def test_leaves_mode_and_random_numbers_alone(self):
        model = tiny("qwen3").train()
        torch.manual_seed(5)
        expected = torch.rand(1)
        torch.manual_seed(5)
        supports_packing(model)
        assert model.training and torch.equal(torch.rand(1), expected)

    def test_a_cache_hides_the_row_boundaries(self):
        """Why `use_cache=False` is not optional: with a cache the packed rows silently see each other."""
        model = tiny("qwen3").eval()
        packed = RewardCollator(packing=True)([row([5, 6, 7, 8]), row([9, 4, 3, 2, 1])])
        inputs = {name: packed[name] for name in ("input_ids", "position_ids")}
        with torch.no_grad():
            apart, leaked = (model(**inputs, use_cache=cache).last_hidden_state for cache in (False, True))
        assert_close(apart[:, :4], leaked[:, :4], atol=2e-5, rtol=1e-4)
        assert (apart[:, 4:] - leaked[:, 4:]).abs().max() > 0.05
