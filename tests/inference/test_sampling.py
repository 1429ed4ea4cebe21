"""Samples against the policy's own probabilities, and against `generate` row by row; ends and limits by hand."""

import copy

import pytest
import torch
from tiny_models import tiny_causal_lm
from tiny_policies import VOCABULARY, tiny_policy
from transformers import GenerationConfig

from modeling_dvpo.inference.sampling import Continuation, Sampler, Sampling, as_sampled, seeded
from modeling_dvpo.text.problems import DataError

END = VOCABULARY["eos_token_id"]
TEXTS = ["What is 2 + 3?", "hello", "First add two and three. The answer", "a", "world hello", "is 5 The"]
GREEDY = Sampling(greedy=True)


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    return tiny_causal_lm("qwen3", vocab_size=320, max_position_embeddings=512)


@pytest.fixture
def rows(tiny_tokenizer):
    return [tiny_tokenizer(text).input_ids for text in TEXTS]


def written(policy, tokenizer, rows, sampling=GREEDY, limit=12, batch_size=4):
    return Sampler(policy, tokenizer, sampling)(rows, [limit] * len(rows), batch_size=batch_size)


def forced(policy, tokens: list[int]):
    """A policy whose likeliest next tokens are these, whatever it reads."""
    policy, left = copy.copy(policy), list(tokens)
    forward = policy.forward

    def likeliest(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        outputs.logits[:, -1, left.pop(0)] = 1e4
        return outputs

    policy.forward = likeliest
    return policy


@pytest.mark.parametrize("family", ["qwen3", "gpt2", "jamba", "minimax"])
def test_pieces_go_on_from_each_other(family, tiny_tokenizer):
    """Greedy, against the likeliest token found by reading everything anew; rows of different length, one picked."""
    policy, prompts = tiny_policy(family, end_bias=float("-inf")), [[5, 6, 7, 8, 9], [10, 11]]
    some = Continuation(Sampler(policy, tiny_tokenizer, GREEDY), prompts)
    with as_sampled(policy):
        first = some.write(3)
        some.select([1])
        second = some.write(4)
    row = list(prompts[1])
    with torch.no_grad():
        for token in first[1].ids + second[0].ids:
            assert policy(input_ids=torch.tensor([row])).logits[0, -1].argmax().item() == token
            row.append(token)
    assert len(first[0].ids) == 3 and len(second) == 1 and not second[0].ended


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("family", ["qwen3", "gpt2"])
def test_padding_and_batches_change_nothing(family, batch_size, rows, tiny_tokenizer):
    """Greedy, against `generate` row by row without padding, and in the order of the rows; no pad token is needed."""
    policy, tiny_tokenizer.pad_token = tiny_policy(family, end_bias=4.0), None
    found = written(policy, tiny_tokenizer, rows, limit=24, batch_size=batch_size)
    for row, (ids, ended) in zip(rows, found, strict=True):
        settings = {"do_sample": False, "max_new_tokens": 24, "eos_token_id": END, "pad_token_id": 0}
        alone = policy.generate(torch.tensor([row]), **settings)[0].tolist()
        assert row + ids == alone and ended == (alone[-1] == END)
    assert {ended for _, ended in found} == {True, False}


def test_a_checkpoints_own_settings_do_not_apply(tiny_tokenizer):
    """Tokens come as often as the policy says; not only the 50 likeliest of transformers' default, either."""
    policy, number = tiny_policy(), 20_000
    policy.generation_config = own = GenerationConfig(
        do_sample=True, top_k=3, top_p=0.1, repetition_penalty=9.0, suppress_tokens=list(range(100)), eos_token_id=END
    )
    with seeded(policy.device, 0):
        found = written(policy, tiny_tokenizer, [[5, 6]] * number, Sampling(), 1, batch_size=number)
    with torch.no_grad():
        expected = policy(input_ids=torch.tensor([[5, 6]])).logits[0, -1].softmax(-1)
    counts = torch.bincount(torch.tensor([ids for ids, _ in found])[:, 0], minlength=len(expected)) / number
    assert (counts - expected).abs().max() < 0.012  # 3.4 standard errors of a half
    assert (counts > 0).sum() > 50
    assert policy.generation_config is own


@pytest.mark.parametrize("setting", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}])
def test_our_own_settings_apply(policy, rows, tiny_tokenizer, setting):
    greedy = written(policy, tiny_tokenizer, rows)
    assert written(policy, tiny_tokenizer, rows, Sampling(**setting)) == greedy
    assert written(policy, tiny_tokenizer, rows, Sampling()) != greedy


@pytest.mark.parametrize("setting", [{"temperature": 0}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}, {"min_p": 1.5}])
def test_settings_out_of_range(setting):
    with pytest.raises(ValueError, match=r"needed are temperature > 0, top_k >= 0, top_p in \(0, 1\] and min_p in"):
        Sampling(**setting)


def test_samples_repeat_with_the_global_seed(policy, rows, tiny_tokenizer):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = written(policy, tiny_tokenizer, rows, Sampling())
    other = written(policy, tiny_tokenizer, rows, Sampling())
    torch.set_rng_state(state)
    with seeded(policy.device, 3):
        again = written(policy, tiny_tokenizer, rows, Sampling())
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


class TestEnds:
    def test_every_end_token_of_the_checkpoint_and_the_tokenizers(self, policy, tiny_tokenizer):
        policy = forced(policy, [50, 7, 51, END])
        policy.generation_config = GenerationConfig(eos_token_id=[6, 7])
        assert Sampler(policy, tiny_tokenizer, GREEDY).end_ids == [6, 7, END]
        assert written(policy, tiny_tokenizer, [[5]]) == [([50, 7], True)]

    def test_each_row_has_its_limit(self, policy, tiny_tokenizer):
        """Three tokens and the end token: at a limit of four it ends by itself, and padding is not part of it."""
        sampler = Sampler(forced(policy, [50, 51, 52, END]), tiny_tokenizer, GREEDY)
        found = sampler([[5]] * 3, [5, 4, 3], batch_size=3)
        assert found == [([50, 51, 52, END], True), ([50, 51, 52, END], True), ([50, 51, 52], False)]

    def test_without_any(self, policy, rows, tiny_tokenizer):
        tiny_tokenizer.eos_token = tiny_tokenizer.chat_template = None
        policy = copy.copy(policy)
        policy.generation_config = GenerationConfig()
        with pytest.raises(DataError, match="Neither the model nor the tokenizer has an end token"):
            Sampler(policy, tiny_tokenizer, GREEDY)
        found = written(policy, tiny_tokenizer, rows, Sampling(stop_strings=["zzz"]), 5)
        assert [(len(ids), ended) for ids, ended in found] == [(5, False)] * len(rows)


class TestStopStrings:
    def test_rows_end_where_their_text_first_has_one_and_it_stays(self, policy, rows, tiny_tokenizer):
        stops = ["er", "5?"]
        with seeded(policy.device, 0):
            found = written(policy, tiny_tokenizer, rows * 4, Sampling(stop_strings=stops), 200, batch_size=64)
        texts = [tiny_tokenizer.decode(ids) for ids, _ in found]
        stopped = [(ids, text) for (ids, ended), text in zip(found, texts, strict=True) if ended and ids[-1] != END]
        assert len(stopped) > 5
        for ids, text in stopped:
            shorter = tiny_tokenizer.decode(ids[:-1])
            assert any(stop in text for stop in stops) and not any(stop in shorter for stop in stops)
        for (ids, ended), text in zip(found, texts, strict=True):
            assert ended or len(ids) == 200 and not any(stop in text for stop in stops)

    def test_it_may_not_begin_in_the_prompt(self, policy, tiny_tokenizer):
        """`answ` + `er`: the string is complete only together with the prompt, so the completion goes on."""
        prompt, er = (tiny_tokenizer(text, add_special_tokens=False).input_ids for text in ("answ", "er"))
        ids = [*er, *er, END]
        found = written(forced(policy, ids), tiny_tokenizer, [prompt], Sampling(greedy=True, stop_strings=["swer"]))
        assert found == [(ids, True)]

    def test_it_may_begin_in_an_earlier_piece(self, policy, tiny_tokenizer):
        ids = tiny_tokenizer("2 + 3?", add_special_tokens=False).input_ids
        policy = forced(policy, [*ids, 50])
        some = Continuation(Sampler(policy, tiny_tokenizer, Sampling(greedy=True, stop_strings=["3?"])), [[5], [6, 7]])
        with as_sampled(policy):
            assert some.write(len(ids) - 1) == [(ids[:-1], False)] * 2
            assert some.write(2) == [(ids[-1:], True)] * 2


def test_the_policy_is_left_as_it_was_and_can_be_trained(rows, tiny_tokenizer):
    policy = tiny_causal_lm("qwen3", vocab_size=320, attention_dropout=0.5)
    expected = written(policy, tiny_tokenizer, rows)
    policy.gradient_checkpointing_enable()
    policy.train()
    policy.model.layers[0].eval()  # a part somebody keeps out of training
    assert written(policy, tiny_tokenizer, rows) == expected  # dropout was off
    assert policy.training and policy.model.layers[1].training and not policy.model.layers[0].training
    policy(torch.tensor([rows[0]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


def test_mode_and_generation_config_come_back_after_an_error():
    policy = tiny_policy().train()
    policy.generation_config.repetition_penalty = 3.0
    with pytest.raises(RuntimeError), as_sampled(policy):
        assert not policy.training and policy.generation_config.repetition_penalty is None
        raise RuntimeError
    assert policy.training and policy.generation_config.repetition_penalty == 3.0


def test_a_lora_policy_samples_with_its_adapter(policy, rows, tiny_tokenizer):
    import peft

    base = copy.deepcopy(policy)
    base.generation_config = own = GenerationConfig(suppress_tokens=list(range(3, 320)), eos_token_id=END)
    torch.manual_seed(0)
    lora = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    found = written(lora, tiny_tokenizer, rows)
    merged = copy.deepcopy(lora).merge_and_unload()
    merged.generation_config = policy.generation_config
    assert found == written(merged, tiny_tokenizer, rows) != written(policy, tiny_tokenizer, rows)
    assert base.generation_config is own
