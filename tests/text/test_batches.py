"""Batches and padded tensors by hand; what reads them is tested where it is."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling_dvpo.text.batches import batches_by_length, padded, padded_tokens


class TestBatchesByLength:
    def test_by_tokens(self):
        # 1, 2 and 3 make 3 × 3; with 4 it would be 4 × 4 > 12; 4 and 6 make 2 × 6; with 7, 3 × 7 > 12
        assert batches_by_length([3, 7, 1, 6, 4, 2], max_tokens=12) == [[2, 5, 0], [4, 3], [1]]

    def test_by_rows_and_by_both(self):
        assert batches_by_length([3, 7, 1, 6, 4], max_rows=2) == [[2, 0], [4, 3], [1]]
        assert batches_by_length([1, 1, 1, 5, 5], max_rows=2, max_tokens=9) == [[0, 1], [2], [3], [4]]

    def test_equal_rows_stay_in_order_and_long_ones_are_alone(self):
        assert batches_by_length([9, 2, 9, 2], max_tokens=4) == [[1, 3], [0], [2]]

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.integers(1, 20), max_size=40), st.integers(20, 60))
    def test_every_row_once_none_too_full_and_no_fewer_would_do(self, lengths, max_tokens):
        batches = batches_by_length(lengths, max_tokens=max_tokens)
        assert sorted(sum(batches, [])) == list(range(len(lengths)))
        assert all(max(lengths[i] for i in batch) * len(batch) <= max_tokens for batch in batches)
        # filled from the longest row on, which is another way to the fewest
        fewest, left = 0, sorted(lengths)
        while left:
            fewest, left = fewest + 1, left[: -(max_tokens // left[-1])]
        assert len(batches) == fewest


@pytest.mark.parametrize(
    ("side", "ids", "mask"),
    [
        ("right", [[5, 9, 9], [6, 7, 8]], [[1, 0, 0], [1, 1, 1]]),
        ("left", [[9, 9, 5], [6, 7, 8]], [[0, 0, 1], [1, 1, 1]]),
    ],
)
def test_padded_tokens(side, ids, mask):
    found = padded_tokens([[5], [6, 7, 8]], pad_id=9, side=side)
    assert [tensor.tolist() for tensor in found] == [ids, mask]
    assert all(tensor.dtype == torch.long for tensor in found)


def test_padded_numbers_keep_their_dtype():
    assert padded([torch.tensor([0.5]), torch.tensor([1.0, 2.0])]).tolist() == [[0.5, 0.0], [1.0, 2.0]]
    flags = padded([torch.tensor([True]), torch.tensor([False, True])])
    assert flags.dtype == torch.bool and flags.tolist() == [[True, False], [False, True]]
