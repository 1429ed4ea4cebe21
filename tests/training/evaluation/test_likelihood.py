import pytest
import torch
from tiny_models import VOCABULARY, tiny_causal_lm

from modeling_dvpo.training.evaluation.likelihood import Likelihood


class Tokenizer:
    pad_token_id, eos_token_id = 0, 1


@pytest.mark.parametrize("max_tokens", [9, 100])
def test_likelihoods_are_the_policys(max_tokens):
    """Of the very action tokens, end token and later turns included, in whatever batches; without dropout."""
    torch.manual_seed(0)
    policy = tiny_causal_lm("qwen3", attention_dropout=0.5).train()
    generator = torch.Generator().manual_seed(1)
    rows = []
    for mask in ([0, 0, 1, 1, 1], [0, 1], [0, 1, 1, 0, 0, 1, 1, 1, 0]):
        ids = torch.randint(3, VOCABULARY, (len(mask),), generator=generator).tolist()
        rows.append(
            {"input_ids": ids, "completion_mask": list(map(bool, mask)), "rewards": [0.0] * len(mask), "row_id": 0}
        )
    read = Likelihood(policy, Tokenizer, max_tokens=max_tokens, device=torch.device("cpu"))
    found = read(rows)
    for row, total in zip(rows, found.tolist(), strict=True):
        with torch.no_grad():
            logits = policy(input_ids=torch.tensor([row["input_ids"]])).logits[0].double().log_softmax(-1)
        own = [t for t, acts in enumerate(row["completion_mask"]) if acts]
        assert total == pytest.approx(sum(logits[t - 1, row["input_ids"][t]].item() for t in own), abs=1e-4)
