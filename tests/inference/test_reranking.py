"""Ranks against scores computed from the critic's own outputs; best of n against rerank of what was written."""

from functools import partial

import pytest
import torch
from tiny_critics import tiny_critic
from tiny_models import tiny_config
from tiny_policies import VOCABULARY, tiny_policy
from transformers import GenerationConfig

from modeling_dvpo import best_of_n, rerank, score_completions
from modeling_dvpo.critic.quantiles import cvar
from modeling_dvpo.inference.sampling import Continuation

PROMPT = "What is 2 + 3?"
CANDIDATES = [" The answer is 5.", " 5", " hello world", " First add two and three."]


@pytest.fixture(scope="module")
def critic():
    return tiny_critic(config=tiny_config("qwen3", **VOCABULARY))


@pytest.fixture(scope="module")
def policy():
    return tiny_policy(end_bias=4.0)


def own_scores(critic, tokenizer, measure):
    scored = score_completions(critic, tokenizer, [PROMPT] * len(CANDIDATES), CANDIDATES)
    return [measure(one.last_state.mean(0)).item() for one in scored]


class TestRerank:
    @pytest.mark.parametrize(
        ("score", "measure"),
        [
            ("mean", lambda z: z.mean()),
            ("cvar=0.4", lambda z: z.sort().values[:2].mean()),
            ("upper_tail=0.2", lambda z: z.max()),
            (partial(cvar, alpha=0.2), lambda z: z.min()),
            (lambda z: -z.mean(-1), lambda z: -z.mean()),
        ],
    )
    @pytest.mark.parametrize("use_cache", [None, True, False])
    def test_from_the_best_to_the_worst(self, critic, tiny_tokenizer, score, measure, use_cache):
        ranked = rerank(critic, tiny_tokenizer, PROMPT, CANDIDATES, score, use_cache=use_cache)
        expected = own_scores(critic, tiny_tokenizer, measure)
        assert sorted(candidate.place for candidate in ranked) == [0, 1, 2, 3]
        assert [candidate.score for candidate in ranked] == sorted((c.score for c in ranked), reverse=True)
        for candidate in ranked:
            assert candidate.completion == CANDIDATES[candidate.place]
            assert candidate.score == pytest.approx(expected[candidate.place], abs=1e-5)
            assert candidate.value == pytest.approx(candidate.quantiles.mean().item())
            assert not candidate.pruned

    def test_with_and_without_the_prompts_cache(self, critic, tiny_tokenizer):
        cached, whole = (rerank(critic, tiny_tokenizer, PROMPT, CANDIDATES, use_cache=flag) for flag in (True, False))
        for one, other in zip(cached, whole, strict=True):
            assert one.place == other.place
            torch.testing.assert_close(one.quantiles, other.quantiles, rtol=0, atol=1e-5)

    def test_equal_candidates_stay_in_order(self, critic, tiny_tokenizer):
        ranked = rerank(critic, tiny_tokenizer, PROMPT, [" 5", " 5", " 5"], use_cache=False)
        assert [candidate.place for candidate in ranked] == [0, 1, 2]

    def test_chats_and_lengths(self, critic, tiny_tokenizer):
        prompt = [{"role": "user", "content": "hello"}]
        turn = [{"role": "assistant", "content": "world"}]
        ranked = rerank(critic, tiny_tokenizer, prompt, ["world", turn], use_cache=False)
        assert ranked[0].score == ranked[1].score and ranked[1].completion == turn
        assert ranked[0].num_tokens == len(tiny_tokenizer("world").input_ids) + 1

    def test_in_half_precision(self, tiny_tokenizer):
        critic = tiny_critic(config=tiny_config("qwen3", **VOCABULARY)).to(torch.bfloat16)
        ranked = rerank(critic, tiny_tokenizer, PROMPT, CANDIDATES)
        assert ranked[0].quantiles.dtype == torch.float32 and len(ranked) == 4

    def test_a_critic_by_name_with_its_tokenizer(self, critic, tiny_tokenizer, tmp_path):
        critic.save_pretrained(tmp_path)
        tiny_tokenizer.save_pretrained(tmp_path)
        by_name = rerank(str(tmp_path), None, PROMPT, CANDIDATES, device="cpu")
        by_path = rerank(tmp_path, tiny_tokenizer, PROMPT, CANDIDATES, device="cpu", dtype=torch.float32)
        own = rerank(critic, tiny_tokenizer, PROMPT, CANDIDATES)
        assert [c.score for c in by_name] == [c.score for c in by_path] == [c.score for c in own]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"candidates": []}, "at least one completion is needed"),
            ({"candidates": " 5"}, "a list of at least one completion"),
            ({"score": "median"}, "'median' is no risk measure"),
            ({"score": lambda z: z}, r"gave \(4, 5\) for 4 candidates; .* quantiles \(4, 5\) to a tensor of 4"),
            ({"score": lambda z: 1.0}, "gave float for 4 candidates"),
            ({"score": lambda z: z.mean(-1) * torch.nan}, "must be finite"),
            ({"tokenizer": None}, "nothing says where its tokenizer is"),
        ],
    )
    def test_refusals(self, critic, tiny_tokenizer, changes, message):
        given = {"critic": critic, "tokenizer": tiny_tokenizer, "prompt": PROMPT, "candidates": CANDIDATES}
        with pytest.raises(ValueError, match=message):
            rerank(**{**given, **changes})


class TestBestOfN:
    prompts = [PROMPT, "hello"]

    def run(self, policy, critic, tokenizer, n=6, **settings):
        settings = {"max_new_tokens": 10, "seed": 3, **settings}
        return best_of_n(policy, critic, tokenizer, self.prompts, n, **settings)

    @pytest.mark.parametrize("use_cache", [None, False])
    def test_scores_are_the_critics(self, policy, critic, tiny_tokenizer, monkeypatch, use_cache):
        """In the state before the last token, be it an end token or not; both kinds are there."""
        written, write = [], Continuation.write
        monkeypatch.setattr(Continuation, "write", lambda *given: written.append(write(*given)) or written[-1])
        results = self.run(policy, critic, tiny_tokenizer, score="cvar=0.4", use_cache=use_cache)
        assert [result.prompt for result in results] == self.prompts
        [rows] = written
        rows = [ids for ids, _ in rows]
        ends = {row[-1] == tiny_tokenizer.eos_token_id for row in rows}
        assert ends == {True, False}
        for number, result in enumerate(results):
            assert sorted(candidate.place for candidate in result.candidates) == list(range(6))
            assert result.tokens_generated == sum(candidate.num_tokens for candidate in result.candidates)
            assert result.best is result.candidates[0] and result.tokens_saved == 0
            scores = [candidate.score for candidate in result.candidates]
            assert scores == sorted(scores, reverse=True) and len(set(scores)) > 1
            for candidate in result.candidates:
                ids = rows[6 * number + candidate.place]
                assert candidate.num_tokens == len(ids)
                text = ids[:-1] if ids[-1] == tiny_tokenizer.eos_token_id else ids
                assert candidate.completion == tiny_tokenizer.decode(text, skip_special_tokens=True)
                whole = torch.tensor([tiny_tokenizer(result.prompt).input_ids + ids[:-1]])
                expected = critic(input_ids=whole).quantiles[0, -1].detach()
                torch.testing.assert_close(candidate.quantiles, expected, rtol=0, atol=1e-5)
                assert candidate.score == pytest.approx(cvar(expected.mean(0), 0.4).item(), abs=1e-5)

    def test_a_seed_repeats_and_leaves_the_generator_alone(self, policy, critic, tiny_tokenizer):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        first, again = (self.run(policy, critic, tiny_tokenizer) for _ in range(2))
        assert torch.equal(before, torch.get_rng_state())
        other = self.run(policy, critic, tiny_tokenizer, seed=4)
        texts = [[[c.completion for c in result.candidates] for result in some] for some in (first, again, other)]
        assert texts[0] == texts[1] != texts[2]

    def test_the_policys_own_sampling_settings_are_left_out(self, policy, critic, tiny_tokenizer, monkeypatch):
        expected = self.run(policy, critic, tiny_tokenizer)
        own = GenerationConfig(top_k=1, temperature=0.1, do_sample=True, eos_token_id=2)
        monkeypatch.setattr(policy, "generation_config", own)
        results = self.run(policy, critic, tiny_tokenizer)
        assert [r.best.completion for r in results] == [r.best.completion for r in expected]

    def test_chats(self, policy, critic, tiny_tokenizer):
        chat = [{"role": "user", "content": "hello"}]
        [result] = best_of_n(policy, critic, tiny_tokenizer, [chat], 2, max_new_tokens=4, seed=0)
        assert result.best.completion[0].keys() == {"role", "content"}

    def test_arguments_reach_the_template(self, policy, critic, tiny_tokenizer):
        chat = [{"role": "user", "content": "hello"}]
        sample = partial(best_of_n, policy, critic, tiny_tokenizer, [chat], 2, max_new_tokens=4, seed=0)
        plain = sample()[0].best.completion
        tiny_tokenizer.chat_template += "{% if add_generation_prompt and calm %}hello world{% endif %}"
        assert sample()[0].best.completion == plain
        assert sample(chat_template_kwargs={"calm": True})[0].best.completion != plain

    def test_by_name(self, critic, tiny_tokenizer, tmp_path):
        policy = tiny_policy()
        policy.save_pretrained(tmp_path / "policy")
        tiny_tokenizer.save_pretrained(tmp_path / "policy")
        critic.save_pretrained(tmp_path / "critic")
        by_name = self.run(tmp_path / "policy", str(tmp_path / "critic"), None, device="cpu")
        own = self.run(policy, critic, tiny_tokenizer)
        assert [r.best.completion for r in by_name] == [r.best.completion for r in own]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"n": 0}, "n is 0, batch_size 64 and"),
            ({"max_new_tokens": 0}, "max_new_tokens 0; each must be at least 1"),
            ({"temperature": 0}, "temperature > 0"),
            ({"max_new_tokens": 128}, "the policy reads 128 at most, completions included: max_new_tokens=128"),
            ({"pruning": {"every": 0}}, "every and keep must be at least 1"),
            ({"pruning": {"share": 1.0}}, r"share in \[0, 1\)"),
            ({"prompts": PROMPT}, "a list of prompts is needed"),
        ],
    )
    def test_refusals(self, policy, critic, tiny_tokenizer, changes, message):
        given = {"prompts": self.prompts, "n": 2, "max_new_tokens": 4}
        with pytest.raises(ValueError, match=message):
            best_of_n(policy, critic, tiny_tokenizer, **{**given, **changes})
