"""A tiny policy that writes anything, and ends as often as a test needs."""

import copy
from types import SimpleNamespace

import torch
from tiny_models import tiny_causal_lm

# those of the `tiny_tokenizer` fixture
VOCABULARY = {"vocab_size": 320, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tiny_policy(model_type="qwen3", *, end_bias=0.0, seed=0):
    """`end_bias` is added to the end token's logit: 4 ends some completions within ten tokens, -inf none."""
    torch.manual_seed(seed)
    policy = tiny_causal_lm(model_type, tie_word_embeddings=False, **VOCABULARY)
    with torch.no_grad():
        policy.lm_head.weight.mul_(30)  # or all tokens would be as likely whatever stands before them
    bias = max(end_bias, -1e9)
    policy.lm_head.register_forward_hook(_with_end_bias(bias))
    return policy


def _with_end_bias(bias):
    def hook(head, inputs, logits):
        logits[..., VOCABULARY["eos_token_id"]] += bias

    return hook


def policy_that_ends(tokenizer):
    """A policy that can be saved, and is likelier to end, so that completions end at different lengths."""
    torch.manual_seed(0)
    policy = tiny_causal_lm("qwen3", vocab_size=len(tokenizer), tie_word_embeddings=True)
    with torch.no_grad():
        policy.model.embed_tokens.weight[tokenizer.eos_token_id] *= 4
    return policy


def scripted(policy, *answers: list[int]):
    """A policy whose next turns are these: `generate` is replaced, everything around it is the real thing.

    Each answer is written into every row of the call it belongs to, followed by the padding that `generate` writes.
    """
    policy, answers = copy.copy(policy), list(answers)

    def generate(input_ids, generation_config, **_):
        new = answers.pop(0)[: generation_config.max_new_tokens]
        new = new + [generation_config.pad_token_id] * (generation_config.max_new_tokens - len(new))
        return SimpleNamespace(sequences=torch.cat([input_ids, torch.tensor([new] * len(input_ids))], dim=1))

    policy.generate = generate
    return policy
