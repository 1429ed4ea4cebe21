"""Rollouts: what is sampled, what is masked, when they end; one turn and many."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from tiny_models import tiny_causal_lm
from tiny_policies import scripted
from transformers import GenerationConfig

from modeling_dvpo.training.data.arguments import PromptArguments
from modeling_dvpo.training.data.prompts import Prompt
from modeling_dvpo.training.errors import ConfigError, RewardDataError, RolloutError
from modeling_dvpo.training.rollouts.environments import load_environment, turn_ids
from modeling_dvpo.training.rollouts.generation import RolloutArguments, make_sampler
from modeling_dvpo.training.rollouts.rollouts import roll_out
from modeling_dvpo.training.run.config import parse_config

END = 2
TEXTS = ["What is 2 + 3?", "hello", "First add two and three. The answer", "a", "world hello", "is 5 The"]


@pytest.fixture(scope="module")
def policy():
    torch.manual_seed(0)
    return tiny_causal_lm("qwen3", vocab_size=320, max_position_embeddings=512)


@pytest.fixture
def prompts(tiny_tokenizer):
    return [Prompt(i, text, tiny_tokenizer(text).input_ids, {"answer": i}) for i, text in enumerate(TEXTS)]


@pytest.fixture
def chats(tiny_tokenizer):
    found = []
    for i, text in enumerate(TEXTS):
        messages = [{"role": "user", "content": text}]
        rendered = tiny_tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tiny_tokenizer(rendered, add_special_tokens=False).input_ids
        found.append(Prompt(i, messages, ids, {"answer": i}))
    return found


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


def test_the_end_token_is_an_action_and_not_in_the_text(policy, prompts, tiny_tokenizer):
    own = ids_of(tiny_tokenizer, "The answer is 5")
    (rollout,) = roll_out(
        scripted(policy, [*own, END]), tiny_tokenizer, prompts[:1], RolloutArguments(max_completion_length=40)
    )
    before = len(prompts[0].input_ids)
    assert rollout.input_ids == [*prompts[0].input_ids, *own, END]
    assert rollout.completion_mask == [False] * before + [True] * (len(own) + 1)
    assert rollout.completion_ids == [*own, END]
    assert rollout.num_actions == len(own) + 1
    assert (rollout.completion, rollout.truncated, rollout.num_turns) == ("The answer is 5", False, 1)


def test_a_policy_that_cannot_end_is_refused(policy, tiny_tokenizer):
    policy, tiny_tokenizer.eos_token, tiny_tokenizer.chat_template = copy.copy(policy), None, None
    policy.generation_config = GenerationConfig()
    with pytest.raises(RolloutError, match="Neither the model nor the tokenizer has an end token"):
        make_sampler(policy, tiny_tokenizer, RolloutArguments())


def test_the_settings_are_the_samplers(policy, tiny_tokenizer):
    settings = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1}
    args = RolloutArguments(**settings, stop_strings=["er"])
    sampler, greedy = (make_sampler(policy, tiny_tokenizer, args, greedy=flag) for flag in (False, True))
    assert sampler.settings.items() >= {"do_sample": True, **settings}.items()
    assert not greedy.settings["do_sample"] and not greedy.settings.keys() & settings.keys()
    assert list(sampler.stop_strings.stop_strings) == list(greedy.stop_strings.stop_strings) == ["er"]


def test_settings_out_of_range_are_refused():
    for setting, message in [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1; it must be between 0 and 1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"min_p": 1.5}, "min_p is 1.5"),
        ({"max_turns": 0}, "max_turns is 0; it must be at least 1"),
        ({"num_generations": 0}, "num_generations is 0"),
        ({"stop_strings": [""]}, "empty text"),
    ]:
        with pytest.raises(ConfigError, match=message):
            RolloutArguments(**setting)


def test_settings_are_read_beside_those_of_the_prompts():
    given = ["--dataset", "a.jsonl", "--min_p", "0.1", "--stop_strings", "Q:", "###", "--num_generations", "4"]
    _, args = parse_config((PromptArguments, RolloutArguments), given)
    assert args == RolloutArguments(min_p=0.1, stop_strings=["Q:", "###"], num_generations=4)


@pytest.mark.parametrize(
    ("given", "stops"),
    [
        (["--stop_strings", "-x"], ["-x"]),
        (["--stop_strings=--x"], ["--x"]),
        (["--stop_strings", "a", "-- b", "-1", "--min_p", "0.1"], ["a", "-- b", "-1"]),
    ],
)
def test_stop_strings_may_begin_with_a_dash(given, stops):
    """They were taken for flags: "expected at least one argument"."""
    [args] = parse_config((RolloutArguments,), given)
    assert args.stop_strings == stops


def test_stop_strings_of_a_recipe_may_begin_with_a_dash(tmp_path):
    (tmp_path / "a.yaml").write_text('stop_strings: ["--x", "-y"]')
    [args] = parse_config((RolloutArguments,), [str(tmp_path / "a.yaml")])
    assert args.stop_strings == ["--x", "-y"]


def test_the_tokens_of_a_conversation(policy, chats, tiny_tokenizer):
    """By hand: template and policy alternate, and only what the policy emitted is an action."""
    first, second = ids_of(tiny_tokenizer, "The answer"), ids_of(tiny_tokenizer, "is 5")
    heard = []

    def environment(prompts, completions, answer):
        heard.append((prompts, completions, answer))
        return [{"role": "tool", "content": "add"}] if len(heard) == 1 else [None]

    (rollout,) = roll_out(
        scripted(policy, [*first, END], [*second, END]),
        tiny_tokenizer,
        chats[1:2],
        RolloutArguments(max_completion_length=100),
        environment=environment,
    )
    between = ids_of(tiny_tokenizer, "\n<s>tool: add<end>\n<s>assistant: ")
    parts = [
        (ids_of(tiny_tokenizer, "<s>user: hello<end>\n<s>assistant: "), False),
        ([*first, END], True),
        (between, False),
        ([*second, END], True),
    ]
    assert rollout.input_ids == [token for ids, _ in parts for token in ids]
    assert rollout.completion_mask == [own for ids, own in parts for _ in ids]
    turns = [
        {"role": "assistant", "content": "The answer"},
        {"role": "tool", "content": "add"},
        {"role": "assistant", "content": "is 5"},
    ]
    assert rollout.completion == turns
    assert (rollout.num_turns, rollout.truncated) == (2, False)
    user = [[{"role": "user", "content": "hello"}]]
    assert heard == [(user, [turns[:1]], [1]), (user, [turns], [1])]


def test_the_tokens_of_a_text_conversation(policy, prompts, tiny_tokenizer):
    async def environment(prompts, completions, **_):
        return [None if " 5" in completions[0] else " add "]

    first, second = ids_of(tiny_tokenizer, "hello"), ids_of(tiny_tokenizer, " 5")
    (rollout,) = roll_out(
        scripted(policy, [*first, END], [*second, END]),
        tiny_tokenizer,
        prompts[:1],
        RolloutArguments(max_completion_length=100),
        environment=environment,
    )
    between = ids_of(tiny_tokenizer, " add ")
    assert rollout.input_ids == [*prompts[0].input_ids, *first, END, *between, *second, END]
    assert rollout.completion_ids == [*first, END, *second, END]
    assert rollout.completion == "hello add  5"


def test_only_live_conversations_are_asked_about(policy, chats, tiny_tokenizer):
    """Answers go to their own conversation, whatever has ended before and whatever the order of generation."""
    asked = []

    def environment(prompts, completions, answer):
        asked.append(answer)
        turn = len(asked)
        return [None if number < turn else {"role": "user", "content": f"{number} {turn}"} for number in answer]

    policy = scripted(policy, *[[50, END]] * 100)
    args = RolloutArguments(max_completion_length=400, max_turns=4, generation_batch_size=2)
    rollouts = roll_out(policy, tiny_tokenizer, chats, args, environment=environment)
    assert asked == [[0, 1, 2, 3, 4, 5], [1, 2, 3, 4, 5], [2, 3, 4, 5]]  # and not again after the last turn
    assert [rollout.num_turns for rollout in rollouts] == [1, 2, 3, 4, 4, 4]
    for number, rollout in enumerate(rollouts):
        said = [message["content"] for message in rollout.completion if message["role"] == "user"]
        assert said == [f"{number} {turn}" for turn in range(1, rollout.num_turns)]
        assert not rollout.truncated


def test_the_length_limit_covers_the_whole_conversation(policy, chats, tiny_tokenizer):
    """Three turns of 2 own tokens, with the environment's n between: 2 + n + 2 + n + 2. A turn of the environment's
    is left out where not a single token of an answer would fit, so that every rollout ends with an action."""
    n = len(ids_of(tiny_tokenizer, "\n<s>user: hello<end>\n<s>assistant: "))
    for limit, num_turns, added, truncated in [
        (1, 1, 1, True),
        (2, 1, 2, True),
        (2 + n, 1, 2, True),
        (2 + n + 1, 2, 2 + n + 1, True),
        (2 + n + 2, 2, 2 + n + 2, True),
        (2 + n + 2 + n, 2, 2 + n + 2, True),
        (2 + n + 2 + n + 1, 3, 2 + n + 2 + n + 1, True),
        (2 + n + 2 + n + 2, 3, 2 + n + 2 + n + 2, False),
        (100, 3, 2 + n + 2 + n + 2, False),
    ]:
        (rollout,) = roll_out(
            scripted(policy, *[[50, END]] * 3),
            tiny_tokenizer,
            chats[:1],
            RolloutArguments(max_completion_length=limit, max_turns=3),
            environment=lambda **_: [{"role": "user", "content": "hello"}],
        )
        found = (rollout.num_turns, len(rollout.input_ids) - len(chats[0].input_ids), rollout.truncated)
        assert found == (num_turns, added, truncated), limit
        assert rollout.completion_mask[-1] and rollout.completion[-1]["role"] == "assistant"


def test_a_turn_that_was_cut_is_not_answered(policy, chats, tiny_tokenizer):
    def environment(**_):
        raise AssertionError("asked about a cut turn")

    args = RolloutArguments(max_completion_length=3)
    (rollout,) = roll_out(scripted(policy, [50, 51, 52]), tiny_tokenizer, chats[:1], args, environment=environment)
    assert rollout.truncated and rollout.num_turns == 1


def test_the_template_closes_a_turn_that_a_stop_string_ended(tiny_tokenizer):
    turn = [{"role": "user", "content": "hello"}]
    closed = turn_ids(tiny_tokenizer, turn, [50, END])
    assert closed == ids_of(tiny_tokenizer, "\n<s>user: hello<end>\n<s>assistant: ")
    # neither a stop string nor an end token that is not the template's closes the turn for it
    assert turn_ids(tiny_tokenizer, turn, [50]) == [END, *closed]


def test_a_template_that_rewrites_earlier_turns_is_no_problem(tiny_tokenizer):
    """As Qwen3's: reasoning is written for the last turn only. What the policy emitted is not rendered again."""
    tiny_tokenizer.chat_template = (
        "{% for message in messages %}<s>{{ message.role }}: "
        "{% if message.role == 'assistant' and loop.last %}(thinking) {% endif %}{{ message.content | trim }} <end>"
        "{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    turn = [{"role": "user", "content": "hello"}]
    assert turn_ids(tiny_tokenizer, turn, [50, END]) == ids_of(tiny_tokenizer, "<s>user: hello <end><s>assistant: ")


def test_templates_that_cannot_be_used_are_refused(tiny_tokenizer):
    turn = [{"role": "tool", "content": "hello"}]
    tiny_tokenizer.chat_template = "{{ raise_exception('no tools') }}"
    with pytest.raises(RolloutError, match=r"refuses the environment's turn \(roles: tool\).*no tools"):
        turn_ids(tiny_tokenizer, turn, [50, END])
    tiny_tokenizer.chat_template = "{{ messages[-1].content }}"
    with pytest.raises(RolloutError, match="leaves out an assistant turn"):
        turn_ids(tiny_tokenizer, turn, [50, END])


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([None], "returned 1 answers for 2 conversations"),
        (None, "returned None for 2 conversations"),
        ([None, "hello"], "answered 'hello' to prompt 1: it must answer a message"),
        ([[], None], r"answered \[\] to prompt 0"),
        ([None, {"role": "assistant", "content": "me"}], "to prompt 1.*another role than assistant"),
        ([None, [{"content": "me"}]], "to prompt 1"),
    ],
)
def test_an_environment_must_answer_properly(policy, chats, tiny_tokenizer, answers, message):
    policy = scripted(policy, [50, END])
    args = RolloutArguments(max_completion_length=60)
    with pytest.raises(RolloutError, match=message):
        roll_out(policy, tiny_tokenizer, chats[:2], args, environment=lambda **_: answers)


def test_a_text_prompt_is_answered_with_text(policy, prompts, tiny_tokenizer):
    args = RolloutArguments(max_completion_length=60)
    for answer in ("", {"role": "user", "content": "hello"}):
        with pytest.raises(RolloutError, match="must answer the text to append"):
            roll_out(
                scripted(policy, [50, END]), tiny_tokenizer, prompts[:1], args, environment=lambda a=answer, **_: [a]
            )


def test_an_environment_may_change_what_it_is_given(policy, chats, tiny_tokenizer):
    def environment(prompts, completions, **_):
        for messages in prompts + completions:
            messages.clear()
        return [None]

    (rollout,) = roll_out(
        scripted(policy, [50, END]),
        tiny_tokenizer,
        chats[:1],
        RolloutArguments(max_completion_length=60),
        environment=environment,
    )
    assert len(rollout.completion) == len(rollout.prompt.prompt) == 1


def test_environments_by_name():
    assert load_environment("json:loads") is load_environment("json.loads") is json.loads
    with pytest.raises(RewardDataError, match="'json' is not a multi-turn environment: write `package.module:func"):
        load_environment("json")
    with pytest.raises(RewardDataError, match="multi-turn environment .* cannot be imported.*no_such_function"):
        load_environment("json:no_such_function")
    with pytest.raises(RewardDataError, match="not a function; a multi-turn environment is needed"):
        load_environment("json:__name__")


def test_no_prompts_no_rollouts(policy, tiny_tokenizer):
    assert roll_out(policy, tiny_tokenizer, [], RolloutArguments()) == []


SHARDED = """
import torch, torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.utils._python_dispatch import TorchDispatchMode
from conftest import tiny_tokenizer
from tiny_models import tiny_causal_lm
from modeling_dvpo.training.engine.distributed import shard, whole_weights
from modeling_dvpo.training.data.prompts import Prompt
from modeling_dvpo.training.rollouts.generation import RolloutArguments
from modeling_dvpo.training.rollouts.rollouts import roll_out

dist.init_process_group("gloo")
rank = dist.get_rank()
tokenizer = tiny_tokenizer._get_wrapped_function()()
torch.manual_seed(0)
policy, whole = (tiny_causal_lm("qwen3", vocab_size=320) for _ in range(2))
shard(policy, torch.device("cpu"), bf16=False)
# rank 0 has three batches and answers, rank 1 one batch and, after the first turn, nothing to do
class Collectives(TorchDispatchMode):
    number = 0
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += "c10d" in function.namespace
        return function(*args, **(kwargs or {}))
prompts = [Prompt(i, "hello" * (i + 1), tokenizer("hello" * (i + 1)).input_ids, {}) for i in range(5)]
prompts = prompts if rank == 0 else prompts[:1]
calls = []
def environment(prompts, completions):
    calls.append(len(prompts))
    return ["add" if rank == 0 and len(calls) < 3 else None] * len(prompts)
args = RolloutArguments(max_completion_length=30, generation_batch_size=2, stop_strings=list("aeiou"))
def run(model):
    calls.clear()
    return [r.input_ids for r in roll_out(model, tokenizer, prompts, args, environment=environment, greedy=True)]
def learn():
    with Collectives() as collectives:
        policy(torch.tensor([[5, 6 + rank, 7]])).logits.square().mean().backward()
    return collectives.number
optimizer = torch.optim.SGD(policy.parameters(), lr=2.0)
usual = learn()
optimizer.zero_grad()
seen = []
for _ in range(3):
    with whole_weights(policy), Collectives() as collectives:
        seen.append(run(policy))
    assert collectives.number == 0
    assert len(calls) == (3 if rank == 0 else 1) and calls[0] == len(prompts), calls
    # the weights of now, and not those of an earlier round
    whole.load_state_dict(get_model_state_dict(policy, options=StateDictOptions(full_state_dict=True)), strict=False)
    assert seen[-1] == run(whole)
    # units are sharded again, and the root, which is gathered once a pass, is not gathered for the backward pass too
    assert learn() == usual > 0
    optimizer.step()
    optimizer.zero_grad()
assert seen[0] != seen[1] != seen[2]
dist.barrier()
dist.destroy_process_group()
"""


def test_sharded_ranks_sample_each_for_itself(tmp_path):
    """Two ranks under FSDP2 within `whole_weights`: nothing is communicated, so that a rank with less work need not
    wait, nor let the other wait; and what was trained in between is sampled with."""
    script = tmp_path / "sharded.py"
    script.write_text(SHARDED)
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr[-3000:]
