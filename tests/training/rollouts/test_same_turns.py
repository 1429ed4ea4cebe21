"""One conversation has the same tokens and actions wherever it is read: in a reward set, scored, or rolled out.

A critic read 3.80 and 2.53 for answers worth 5 and 1 where a chat template ended turns with another token than the
tokenizer's: `rerank` looked into a state that no reward set and no rollout had trained.
"""

import json

import pytest
import torch
from chat_templates import TEMPLATES, with_template
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_critics import tiny_critic
from tiny_models import tiny_config
from tiny_policies import VOCABULARY, scripted, tiny_policy

from modeling_dvpo import best_of_n, rerank, score_completions
from modeling_dvpo.inference.sampling import Sampler, Sampling
from modeling_dvpo.text.completion_tokens import CompletionTokenizer
from modeling_dvpo.training.data.arguments import PromptArguments, RewardDataArguments
from modeling_dvpo.training.data.prompts import Prompt, load_prompts
from modeling_dvpo.training.data.rows import row_reader, row_tokens
from modeling_dvpo.training.rollouts.environments import turn_ids
from modeling_dvpo.training.rollouts.generation import RolloutArguments
from modeling_dvpo.training.rollouts.rollouts import roll_out

USER = {"role": "user", "content": "hello"}
SIZE = {**VOCABULARY, "vocab_size": 360}
# the last word of a turn may be anything; these templates rewrite earlier turns with white space or thoughts in them
WORDS = st.lists(st.sampled_from(["yo", " so", "im", "?", "→", "5"]), min_size=1, max_size=4).map("".join)
SAID = st.one_of(WORDS, st.sampled_from(["4\n", " 4", "<think>\nso\n</think>\n\n4", "<think>\nso", "a\n\nb "]))
pytestmark = pytest.mark.filterwarnings("ignore:The chat template ends a turn")
MANY = {"max_examples": 20, "deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.fixture(params=TEMPLATES)
def named(request, tiny_tokenizer):
    return request.param, with_template(tiny_tokenizer, request.param)


@pytest.fixture
def policy():
    return tiny_policy()


@pytest.fixture(scope="module")
def critic():
    return tiny_critic(config=tiny_config("qwen3", **SIZE))


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


def prompt_of(tokenizer):
    text = tokenizer.apply_chat_template([USER], tokenize=False, add_generation_prompt=True)
    return Prompt(0, [USER], ids_of(tokenizer, text), {})


def offline(tokenizer, completion, **more):
    source = {"prompt": [USER], "completion": completion, "reward": 5.0, **more}
    [row] = row_reader(RewardDataArguments(dataset="rows.jsonl"), list(source))(source)
    return row_tokens(row, CompletionTokenizer(tokenizer))


@settings(**MANY)
@given(said=SAID, truncated=st.booleans())
def test_of_one_turn(named, policy, critic, said, truncated):
    name, tokenizer = named
    said = said.removeprefix("<think>\n") if name == "r1" else said  # the generation prompt's
    written = ids_of(tokenizer, said) + ([] if truncated else ids_of(tokenizer, TEMPLATES[name][2]))
    args = RolloutArguments(max_completion_length=len(written))
    [rollout] = roll_out(scripted(policy, written), tokenizer, [prompt_of(tokenizer)], args)
    assert (rollout.completion[0]["content"], rollout.truncated) == (said, truncated)

    tokens, rewards = offline(tokenizer, rollout.completion, truncated=truncated)
    assert (tokens.input_ids, tokens.actions) == (rollout.input_ids, rollout.completion_mask)
    assert rewards == [0.0] * (len(written) + len(rollout.prompt.input_ids) - 1) + [5.0]

    [scored] = score_completions(critic, tokenizer, [[USER]], [said], truncated=truncated)
    assert scored.input_ids == tokens.input_ids
    assert scored.action_positions == [place for place, action in enumerate(tokens.actions) if action]
    # the state before the action that has the reward
    expected = critic(input_ids=torch.tensor([tokens.input_ids[:-1]])).quantiles[0, -1].detach()
    torch.testing.assert_close(scored.last_state, expected, rtol=0, atol=1e-5)
    [candidate] = rerank(critic, tokenizer, [USER], [said], truncated=truncated, use_cache=False)
    assert torch.equal(candidate.quantiles, scored.last_state)


@settings(**MANY)
@given(first=WORDS, second=SAID)
def test_of_a_conversation(named, policy, first, second):
    name, tokenizer = named
    if name == "r1":
        return  # rewrites every turn once another follows, and is refused
    first, end = first.strip() or "yo", ids_of(tokenizer, TEMPLATES[name][2])
    turns = [ids_of(tokenizer, said) + end for said in (first, second)]
    [rollout] = roll_out(
        scripted(policy, *turns),
        tokenizer,
        [prompt_of(tokenizer)],
        RolloutArguments(max_completion_length=200, max_turns=2),
        environment=lambda **_: [{"role": "user", "content": "and"}],
    )
    tokens, _ = offline(tokenizer, rollout.completion)
    assert tokenizer.decode(tokens.input_ids) == tokenizer.decode(rollout.input_ids)
    assert (tokens.input_ids, tokens.actions) == (rollout.input_ids, rollout.completion_mask)


def test_best_of_n_ends_where_a_turn_does(named, critic):
    name, tokenizer = named
    end, policy = tokenizer.convert_tokens_to_ids(TEMPLATES[name][2]), tiny_policy()
    torch.manual_seed(0)
    policy.resize_token_embeddings(SIZE["vocab_size"])
    policy.lm_head.register_forward_hook(lambda head, inputs, logits: logits.index_fill_(-1, torch.tensor(end), 1e9))
    [result] = best_of_n(policy, critic, tokenizer, [[USER]], 2, max_new_tokens=5, seed=0)
    assert [candidate.num_tokens for candidate in result.candidates] == [1, 1]


@pytest.mark.parametrize(
    ("name", "missing"), [("chatml", r"<\|im_end\|>"), ("glm", r"<\|user\|> or <\|observation\|>")]
)
def test_a_generation_config_that_does_not_name_the_end_of_a_turn(tiny_tokenizer, policy, name, missing):
    """Rollouts went on to the length limit, and nobody was told."""
    tokenizer = with_template(tiny_tokenizer, name)
    with pytest.warns(UserWarning, match=rf"ends a turn with {missing}, which is no end token .* \(it has \[2\]\)"):
        sampler = Sampler(policy, tokenizer, Sampling())
    assert set(tokenizer.convert_tokens_to_ids(missing.replace("\\", "").split(" or "))) < set(sampler.end_ids)


class TestBetweenTurns:
    turn = [{"role": "user", "content": "and"}]

    @pytest.mark.parametrize(
        ("name", "said", "between"),
        [
            ("chatml", "4<|im_end|>", "\n<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n"),
            ("chatml", "4<|im_end|>\n", "<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n"),
            ("chatml", "4", "<|im_end|>\n<|im_start|>user\nand<|im_end|>\n<|im_start|>assistant\n"),
            ("glm", "4<|user|>", "\nand<|assistant|>\n"),
            ("glm", "4<|endoftext|>", "<|user|>\nand<|assistant|>\n"),
        ],
    )
    def test_what_a_turn_ends_with_is_not_written_again(self, tiny_tokenizer, name, said, between):
        """A stop string that is the template's own was doubled: `<|im_end|><|im_end|>`."""
        tokenizer = with_template(tiny_tokenizer, name)
        assert tokenizer.decode(turn_ids(tokenizer, self.turn, ids_of(tokenizer, said))) == between

    def test_a_stop_string_of_several_tokens(self, tiny_tokenizer):
        tiny_tokenizer.chat_template = (
            "{% for m in messages %}{{ '\\nQ: ' if m.role == 'user' else '\\nA: ' }}{{ m.content }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '\\nA:' }}{% endif %}"
        )
        ids = turn_ids(tiny_tokenizer, self.turn, ids_of(tiny_tokenizer, "4\nQ:"))
        assert tiny_tokenizer.decode(ids) == " and\nA:"

    def test_parts_and_arguments(self, tiny_tokenizer):
        tokenizer, turn = (
            with_template(tiny_tokenizer, "qwen3"),
            [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        )
        ids = turn_ids(tokenizer, turn, [], chat_template_kwargs={"enable_thinking": False})
        text = "<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        assert tokenizer.decode(ids) == text


def test_a_conversations_later_turns_have_the_prompts_arguments(tiny_tokenizer, policy, tmp_path):
    tokenizer, path = with_template(tiny_tokenizer, "qwen3"), tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"prompt": [USER]}))
    args = PromptArguments(dataset=str(path), chat_template_kwargs='{"enable_thinking": false}')
    prompts = load_prompts(str(path), "train", args, tokenizer, max_completion_length=9)
    end = ids_of(tokenizer, "4<|im_end|>")
    [rollout] = roll_out(
        scripted(policy, end, end),
        tokenizer,
        [prompts[0]],
        RolloutArguments(max_completion_length=200, max_turns=2),
        environment=lambda **_: [USER],
    )
    assert tokenizer.decode(rollout.input_ids).count("<think>\n\n</think>\n\n4<|im_end|>") == 2
