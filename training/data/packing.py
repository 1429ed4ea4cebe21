"""Which rows go through the model together, and how they are laid out as tensors.

An optimizer step is a fixed set of rows; how those rows are cut into micro-batches, over how many ranks, must not
change the step. So the plan is made from the step's rows alone: the same rows make up step k for any number of ranks
and any `max_tokens`, and every rank gets the same number of micro-batches, because FSDP waits for all ranks at every
forward pass.

Two layouts:

- *packed* `(1, L)`: rows end to end, `position_ids` restarting at 0, and **no** attention mask. transformers reads the
  row boundaries from `position_ids`, but only while `attention_mask` is None and there is no cache: call the model
  with `use_cache=False`. A hand-made block-diagonal 4D mask is *not* an alternative: it is used as it comes in every
  layer, so families with sliding windows (Mistral, Gemma) silently lose theirs.
- *padded* `(B, T)`: right padding with an attention mask, rows of similar length together. Right for every family.

Whether a model can be packed is asked of the model itself: `supports_packing`; whether it should be, `packing_pays`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from modeling_dvpo.text.batches import batches_by_length, padded, padded_tokens


class MicroBatch(NamedTuple):
    """Row indices that go through the model together.

    A *filler* only keeps a rank in step with the others: it is run like any other, but its collated `completion_mask`
    and `rewards` are empty, so it adds nothing to the loss, the gradient or the token count.
    """

    rows: tuple[int, ...]
    filler: bool = False


def pack_rows(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Put rows into bins of at most `max_tokens` tokens, first fit, longest row first.

    Args:
        lengths: tokens of each row.
        max_tokens: size of a bin; a longer row has a bin of its own.

    Returns:
        Bins of positions in `lengths`, each position exactly once.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        place = next((place for place, free in enumerate(room) if lengths[row] <= free), len(bins))
        if place == len(bins):
            bins.append([])
            room.append(max_tokens)
        bins[place].append(row)
        room[place] -= lengths[row]
    return bins


class RewardBatchSampler:
    """Plans the micro-batches of every optimizer step, for one rank.

    Rows are shuffled by `seed + epoch`, cut into steps of `rows_per_step`, and each step is binned by `pack_rows`
    (packed) or `batches_by_length` (padded). Bins are dealt to the ranks; where they do not go round, those with the
    most rows are split, and where there are too few rows for that, fillers make up the number.

    Args:
        lengths: tokens of each row of the dataset.
        rows_per_step: rows of one optimizer step, over all ranks and all accumulated micro-batches.
        max_tokens: tokens of one micro-batch on one rank, padding included; a longer row is refused.
        packing: plan for the packed layout; otherwise for the padded one.
        rank: this process.
        world_size: number of processes.
        seed: of the shuffle.
        shuffle: off for evaluation.
        drop_last: leave out a last, smaller step.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        rows_per_step: int,
        max_tokens: int,
        packing: bool = True,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        drop_last: bool = False,
    ):
        if rows_per_step < 1:
            raise ValueError(f"rows_per_step is {rows_per_step}; a step needs at least 1 row.")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not one of the {world_size} ranks 0..{world_size - 1}.")
        if drop_last and len(lengths) < rows_per_step:
            raise ValueError(
                f"{len(lengths)} rows do not fill one step of {rows_per_step}: "
                "lower rows_per_step or keep the last step."
            )
        _refuse_rows_over(lengths, max_tokens)
        self.lengths = list(lengths)
        self.rows_per_step, self.max_tokens = rows_per_step, max_tokens
        self.packing, self.shuffle, self.drop_last, self.seed = packing, shuffle, drop_last, seed
        self.rank, self.world_size = rank, world_size

    def __len__(self) -> int:
        """Optimizer steps in an epoch."""
        steps, rest = divmod(len(self.lengths), self.rows_per_step)
        return steps + bool(rest and not self.drop_last)

    def steps(self, epoch: int = 0, start: int = 0) -> Iterator[list[MicroBatch]]:
        """Yield this rank's micro-batches of each step of an epoch, from step `start` on (to resume in mid-epoch)."""
        order = list(range(len(self.lengths)))
        if self.shuffle:
            random.Random(self.seed + epoch).shuffle(order)
        for step in range(start, len(self)):
            yield self._plan(order[step * self.rows_per_step : (step + 1) * self.rows_per_step])

    def _plan(self, rows: list[int]) -> list[MicroBatch]:
        lengths = [self.lengths[row] for row in rows]
        bins = (pack_rows if self.packing else batches_by_length)(lengths, max_tokens=self.max_tokens)
        while len(bins) % self.world_size:
            largest = max(bins, key=len)
            if len(largest) == 1:
                break
            bins.remove(largest)
            bins += [largest[::2], largest[1::2]]
        # Longest first, so that the micro-batches the ranks run side by side are of similar size.
        bins.sort(key=lambda members: (-sum(lengths[member] for member in members), members))
        plan = [MicroBatch(tuple(rows[member] for member in members)) for members in bins]
        shortest = min(rows, key=self.lengths.__getitem__)
        plan += [MicroBatch((shortest,), filler=True)] * (-len(plan) % self.world_size)
        return plan[self.rank :: self.world_size]


class RewardCollator:
    """Lays rows of a tokenised reward set out as tensors.

    Args:
        packing: packed layout `(1, L)`; otherwise padded `(B, T)`.
        pad_token_id: what fills the padded layout; not needed for the packed one.
        token_columns: names of further float32 columns with a number a token, laid out as rewards are.

    Calling it with rows (dicts with `input_ids`, `completion_mask`, `rewards`, `row_id`, `truncated`) returns

        input_ids        (1, L) or (B, T)  int64
        position_ids     (1, L)            int64, restarting at 0 with every row; packed only
        segment_ids      (1, L)            int64, 0, 1, … per row; packed only
        attention_mask   (B, T)            int64, 1 on tokens; padded only
        completion_mask  as input_ids      bool, true where the token is an action (token frame)
        rewards          as input_ids      float32, 0 except at action tokens
        row_id           (R,)              int64, one per row, in layout order
        truncated        (R,)              bool, one per row

    With `filler=True` the mask, the rewards and the further columns are cleared.
    """

    def __init__(self, *, packing: bool, pad_token_id: int | None = None, token_columns: Sequence[str] = ()):
        if not packing and pad_token_id is None:
            raise ValueError(
                "pad_token_id is None, and the padded layout needs one: set `tokenizer.pad_token` "
                "(the end token will do, padding is masked), or use the packed layout."
            )
        self.packing, self.pad_token_id = packing, pad_token_id
        self.float_columns = ("rewards", *token_columns)

    def __call__(self, rows: Sequence[dict[str, Any]], *, filler: bool = False) -> dict[str, torch.Tensor]:
        tokens = [torch.as_tensor(row["input_ids"], dtype=torch.long) for row in rows]
        masks = [torch.as_tensor(row["completion_mask"], dtype=torch.bool) for row in rows]
        floats = {
            name: [torch.as_tensor(row[name], dtype=torch.float32) for row in rows] for name in self.float_columns
        }
        if self.packing:
            batch = {
                "input_ids": torch.cat(tokens)[None],
                "position_ids": torch.cat([torch.arange(len(row)) for row in tokens])[None],
                "segment_ids": torch.cat([torch.full_like(row, place) for place, row in enumerate(tokens)])[None],
                "completion_mask": torch.cat(masks)[None],
                **{name: torch.cat(column)[None] for name, column in floats.items()},
            }
        else:
            assert self.pad_token_id is not None  # or there would be no collator
            ids, attention_mask = padded_tokens(tokens, pad_id=self.pad_token_id)
            batch = {
                "input_ids": ids,
                "attention_mask": attention_mask,
                "completion_mask": padded(masks),
                **{name: padded(column) for name, column in floats.items()},
            }
        if filler:
            for name in ("completion_mask", *self.float_columns):
                batch[name] = torch.zeros_like(batch[name])
        batch["row_id"] = torch.tensor([int(row.get("row_id", place)) for place, row in enumerate(rows)])
        batch["truncated"] = torch.tensor([bool(row.get("truncated", False)) for row in rows])
        return batch


def packing_pays(model: PreTrainedModel) -> bool:
    """Whether to pack: the model keeps packed rows apart, and its attention skips what lies between them.

    Flash and flex attention do the work of the rows alone. Dense attention (sdpa, eager) computes the whole square
    of a packed sequence and masks it: rows of 30 tokens, packed to 2,000, trained at half the speed of padded ones of
    similar length (the demo's critic, one thread of a CPU).
    """
    attention = model.config._attn_implementation or ""
    return ("flash" in attention or "flex" in attention) and supports_packing(model)


@torch.no_grad()
def supports_packing(model: PreTrainedModel, *, seed: int = 0) -> bool:
    """Whether the model keeps packed rows apart, found out by trying.

    A short random row is packed behind one row and behind another: if its hidden states change by more than 1e-5 of
    their size, something of the row in front leaked (attention gives exactly 0, the state of a recurrent layer does
    not). They are then compared with the row's own, run alone, which shows whether positions start again: the
    difference must be below 5 % of what a packed row without `position_ids` suffers.
    A model that refuses the arguments fails, too. A wrong no only costs padding.

    Under FSDP these are forward passes like any other: every rank must call it.

    Args:
        model: a backbone or a critic; its mode (train or eval) is restored.
        seed: of the random tokens; the global generators are left alone.
    """
    device = next(model.parameters()).device
    vocabulary = model.config.get_text_config().vocab_size
    front, other, row = torch.randint(vocabulary, (3, 1, 12), generator=torch.Generator().manual_seed(seed)).to(device)
    positions = torch.arange(12, device=device).repeat(2)[None]
    training = model.training
    model.eval()
    try:
        alone = _last_hidden(model, row)
        packed = _last_hidden(model, torch.cat([front, row], dim=1), position_ids=positions)[:, 12:]
        behind_other = _last_hidden(model, torch.cat([other, row], dim=1), position_ids=positions)[:, 12:]
        joined = _last_hidden(model, torch.cat([front, row], dim=1))[:, 12:]
    except (TypeError, ValueError, RuntimeError, NotImplementedError, AttributeError, IndexError):
        return False
    finally:
        model.train(training)
    kept_apart = (packed - behind_other).abs().max() <= 1e-5 * packed.abs().max()
    positions_restart = (packed - alone).abs().max() < 0.05 * (joined - alone).abs().max()
    return bool(kept_apart and positions_restart)


def _last_hidden(model: torch.nn.Module, tokens: torch.Tensor, **kwargs: torch.Tensor) -> torch.Tensor:
    output = model(input_ids=tokens, use_cache=False, output_hidden_states=True, return_dict=True, **kwargs)
    return output.hidden_states[-1].float()


def _refuse_rows_over(lengths: Sequence[int], max_tokens: int) -> None:
    over = [row for row, length in enumerate(lengths) if length > max_tokens]
    if over:
        raise ValueError(
            f"{len(over)} of {len(lengths)} rows are longer than max_tokens = {max_tokens} (row {over[0]} first, "
            f"the longest has {max(lengths)} tokens): raise max_tokens, or lower max_length and drop long rows."
        )
