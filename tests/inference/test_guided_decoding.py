"""Guided logits against the formula with every prefix read whole; whole generations."""

import pytest
import torch
from tiny_critics import tiny_critic
from tiny_models import tiny_config
from tiny_policies import VOCABULARY, tiny_policy
from torch.testing import assert_close

from modeling_dvpo.inference.guided_decoding import CriticGuidance

END = VOCABULARY["eos_token_id"]
PROMPTS = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])


@pytest.fixture(scope="module")
def critic():
    return tiny_critic(config=tiny_config("qwen3", **VOCABULARY))


def value(critic, row):
    return critic(input_ids=torch.tensor([row])).value[0, -1].item()


def expected(critic, ids, scores, *, beta, count, end_ids=()):
    """One row at a time, one token at a time."""
    guided = scores.clone()
    for row, (before, own) in enumerate(zip(ids.tolist(), scores, strict=True)):
        for token in own.topk(count).indices.tolist():
            if token not in end_ids:
                guided[row, token] += beta * (value(critic, [*before, token]) - value(critic, before))
    return guided


@pytest.mark.parametrize("use_cache", [None, False])
def test_by_the_formula_as_rows_grow(critic, use_cache):
    guidance = CriticGuidance(critic, beta=3.0, num_candidates=4, end_ids=[END], use_cache=use_cache)
    ids, generator = PROMPTS, torch.Generator().manual_seed(0)
    for step in range(3):
        scores = torch.randn(2, 320, generator=generator)
        scores[:, END] = 9.0 if step == 1 else -9.0  # an end token among the candidates keeps its logit
        guided = guidance(ids, scores)
        assert_close(guided, expected(critic, ids, scores, beta=3.0, count=4, end_ids=[END]), rtol=0, atol=1e-4)
        assert ((guided != scores).sum(1) == (3 if step == 1 else 4)).all()
        # any token goes on, whether it was weighed or not
        ids = torch.cat([ids, torch.tensor([[guided[0].argmax()], [guided[1].argmin()]])], 1)


def test_other_rows_are_read_anew(critic):
    guidance, scores = CriticGuidance(critic, beta=1.0), torch.randn(2, 320)
    guidance(PROMPTS, scores)
    for ids in (PROMPTS.flip(0), torch.cat([PROMPTS.flip(1), PROMPTS], 1), PROMPTS[:1]):
        assert_close(
            guidance(ids, scores[: len(ids)]),
            expected(critic, ids, scores[: len(ids)], beta=1.0, count=4),
            rtol=0,
            atol=1e-4,
        )


def test_padded_prompts_are_read_as_alone(critic):
    padded = torch.tensor([[0, 0, 5, 6], [7, 8, 9, 10]])
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    guidance, scores = CriticGuidance(critic, beta=2.0, prompt_mask=mask), torch.randn(4, 320)
    guided = guidance(padded.repeat_interleave(2, 0), scores)  # two completions of each prompt
    assert_close(guided[:1], expected(critic, padded[:1, 2:], scores[:1], beta=2.0, count=4), rtol=0, atol=1e-4)
    assert_close(guided[3:], expected(critic, padded[1:], scores[3:], beta=2.0, count=4), rtol=0, atol=1e-4)


def test_a_score_of_the_distribution(critic):
    """The largest atom instead of the mean."""
    guided = CriticGuidance(critic, beta=1.0, score="upper_tail=0.2", num_candidates=1)(PROMPTS, torch.eye(2, 320))

    def largest(row):
        return critic(input_ids=torch.tensor([row])).quantiles[0, -1].mean(0).max().item()

    gain = largest([5, 6, 7, 8, 0]) - largest([5, 6, 7, 8])
    assert guided[0, 0].item() == pytest.approx(1 + gain, abs=1e-4)


def generate(policy, **settings):
    torch.manual_seed(0)
    return policy.generate(input_ids=PROMPTS, attention_mask=torch.ones_like(PROMPTS), max_new_tokens=6, **settings)


def test_without_beta_nothing_is_changed(critic):
    policy = tiny_policy(end_bias=4.0)
    plain = generate(policy, do_sample=True, top_k=0)
    assert torch.equal(
        plain, generate(policy, do_sample=True, top_k=0, logits_processor=[CriticGuidance(critic, beta=0.0)])
    )


def test_a_large_beta_takes_what_the_critic_likes_best(critic):
    policy = tiny_policy(end_bias=float("-inf"))
    guidance = CriticGuidance(critic, beta=1e6, num_candidates=320)
    written = generate(policy, do_sample=True, top_k=0, logits_processor=[guidance])
    before = written[0, :-1].tolist()
    candidates = torch.tensor([[*before, token] for token in range(320)])
    assert critic(input_ids=candidates).value[:, -1].argmax() == written[0, -1]


@pytest.mark.parametrize("settings", [{"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}])
def test_beams_and_several_sequences(critic, settings):
    guidance = CriticGuidance(critic, beta=1.0, prompt_mask=torch.ones_like(PROMPTS))
    assert generate(tiny_policy(), logits_processor=[guidance], **settings).shape[1] > 4


def test_the_critic_stays_in_its_mode(critic):
    critic.train()
    CriticGuidance(critic, beta=1.0)(PROMPTS, torch.randn(2, 320))
    assert critic.training
    critic.eval()


def test_refusals(critic):
    with pytest.raises(ValueError, match="num_candidates is 0"):
        CriticGuidance(critic, beta=1.0, num_candidates=0)
    with pytest.raises(ValueError, match="no risk measure"):
        CriticGuidance(critic, beta=1.0, score="best")
    with pytest.raises(ValueError, match=r"prompt_mask has shape \(3, 4\), and the tokens \(2, 4\)"):
        CriticGuidance(critic, beta=1.0, prompt_mask=torch.ones(3, 4))(PROMPTS, torch.randn(2, 320))
