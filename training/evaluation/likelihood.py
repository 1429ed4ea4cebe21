"""How likely a policy is to write the responses of a set: what a critic's order of them is held against."""

import torch

from ..algorithms.policy_loss import action_log_probs
from ..data.layout import choose_layout
from ..data.packing import RewardCollator
from .predictions import batches_of


class Likelihood:
    """A policy that reads rows.

    Args:
        policy: evaluated without dropout, on its device.
        tokenizer: for its pad token.
        max_tokens: of one forward pass, padding included.
    """

    def __init__(self, policy, tokenizer, *, max_tokens: int, device: torch.device):
        self.policy, self.max_tokens, self.device = policy.eval(), max_tokens, device
        layout = choose_layout(policy, tokenizer)
        self.packing, self.collate = layout["packing"], RewardCollator(**layout)

    @torch.no_grad()
    def __call__(self, rows: list[dict]) -> torch.Tensor:
        """Log-probability of each row's action tokens, end token included, at temperature 1: (rows,) float64."""
        found = torch.zeros(len(rows), dtype=torch.float64)
        batches = batches_of(rows, self.collate, max_tokens=self.max_tokens, packing=self.packing, device=self.device)
        for places, batch in batches:
            log_probs, _ = action_log_probs(self.policy, batch, 1.0)
            tokens = log_probs[batch["completion_mask"]].double().cpu()
            actions = [int(sum(rows[i]["completion_mask"])) for i in places]
            found[list(places)] = torch.stack([own.sum() for own in tokens.split(actions)])
        return found
