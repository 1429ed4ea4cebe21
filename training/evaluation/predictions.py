"""What a critic predicts in every state of some rows, batch by batch."""

import torch

from ..algorithms.critic_loss import critic_quantiles
from ..data.layout import choose_layout
from ..data.packing import RewardBatchSampler, RewardCollator


class Predictor:
    """A critic that reads rows.

    Args:
        critic: float32, evaluated without dropout; moved to the device.
        tokenizer: for its pad token.
        max_tokens: of one forward pass, padding included.
        bf16: compute in bfloat16, heads in float32.
    """

    def __init__(self, critic, tokenizer, *, max_tokens: int, bf16: bool, device: torch.device):
        self.critic, self.max_tokens, self.device = critic.to(device).eval(), max_tokens, device
        self.autocast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16)
        layout = choose_layout(critic, tokenizer)
        self.packing, self.collate = layout["packing"], RewardCollator(**layout)

    @torch.no_grad()
    def __call__(self, rows: list[dict]) -> torch.Tensor:
        """Quantiles of the state before each action token, row by row: (S, N, M) float32 on the CPU."""
        pieces: dict[int, torch.Tensor] = {}
        batches = batches_of(rows, self.collate, max_tokens=self.max_tokens, packing=self.packing, device=self.device)
        for places, batch in batches:
            with self.autocast:
                quantiles = critic_quantiles(self.critic, batch)
            found = quantiles[batch["completion_mask"]].float().cpu()
            states = [int(sum(rows[i]["completion_mask"])) for i in places]
            pieces.update(zip(places, found.split(states), strict=True))
        return torch.cat([pieces[place] for place in range(len(rows))])


def batches_of(rows: list[dict], collate, *, max_tokens: int, packing: bool, device: torch.device):
    """Each row once, in batches of like length: yields the rows' places, and the collated batch on the device."""
    sampler = RewardBatchSampler(
        [len(row["input_ids"]) for row in rows],
        rows_per_step=len(rows),
        max_tokens=max_tokens,
        packing=packing,
        shuffle=False,
    )
    for micro in next(sampler.steps()):
        batch = collate([rows[i] for i in micro.rows])
        yield micro.rows, {name: tensor.to(device) for name, tensor in batch.items()}
