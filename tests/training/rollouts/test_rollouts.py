"""Rollouts: what is sampled, what is masked, when they end; one turn and many."""

import copy
import json
import subprocess
import sys

import pytest
import torch
from tiny_models import tiny_causal_lm
from transformers import GenerationConfig

from modeling_dvpo.inference.sampling import known_end_ids
from modeling_dvpo.training.data.arguments import PromptArguments
from modeling_dvpo.training.data.prompts import Prompt
from modeling_dvpo.training.errors import ConfigError, RewardDataError, RolloutError
from modeling_dvpo.training.rollouts.environments import load_environment, turn_ids
from modeling_dvpo.training.rollouts.generation import RolloutArguments
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


def scripted(policy, *answers: list[int]):
    """A policy whose next turns are these: `generate` is replaced, everything around it is the real thing.

    Each answer is written into every row of the call it belongs to, followed by the padding that `generate` writes.
    """
    policy, answers = copy.copy(policy), list(answers)

    def generate(input_ids, generation_config, **_):
        new = answers.pop(0)[: generation_config.max_new_tokens]
        new = new + [generation_config.pad_token_id] * (generation_config.max_new_tokens - len(new))
        return torch.cat([input_ids, torch.tensor([new] * len(input_ids))], dim=1)

    policy.generate = generate
    return policy


def ids_of(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("model_type", ["qwen3", "gpt2"])
def test_padding_and_batching_change_nothing(model_type, batch_size, prompts, tiny_tokenizer):
    """Greedy, against `generate` row by row without padding, and in the order of the prompts."""
    torch.manual_seed(1)
    policy = tiny_causal_lm(model_type, vocab_size=320)
    with torch.no_grad():  # likelier to end, so that rows end at different lengths
        policy.get_output_embeddings().weight[END] *= 3
    args = RolloutArguments(max_completion_length=24, generation_batch_size=batch_size)
    rollouts = roll_out(policy, tiny_tokenizer, prompts, args, greedy=True)
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        alone = policy.generate(
            torch.tensor([prompt.input_ids]), do_sample=False, max_new_tokens=24, eos_token_id=END, pad_token_id=0
        )[0].tolist()
        assert rollout.prompt is prompt
        assert rollout.input_ids == alone
        assert rollout.truncated == (alone[-1] != END)


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


@pytest.mark.parametrize(("limit", "truncated"), [(3, True), (4, False), (5, False)])
def test_truncated_is_what_the_length_limit_cut(policy, prompts, tiny_tokenizer, limit, truncated):
    """Three tokens and the end token: at a limit of four it ends by itself, and padding is not part of it."""
    (rollout,) = roll_out(
        scripted(policy, [50, 51, 52, END]), tiny_tokenizer, prompts[:1], RolloutArguments(max_completion_length=limit)
    )
    assert rollout.truncated is truncated
    assert rollout.completion_ids == [50, 51, 52, END][:limit]


def test_every_end_token_of_the_checkpoint_ends_a_completion(policy, prompts, tiny_tokenizer):
    policy = scripted(policy, [50, 7, 51, END])
    policy.generation_config = GenerationConfig(eos_token_id=[6, 7])
    assert known_end_ids(policy, tiny_tokenizer) == [6, 7, END]
    (rollout,) = roll_out(policy, tiny_tokenizer, prompts[:1], RolloutArguments(max_completion_length=9))
    assert (rollout.completion_ids, rollout.truncated) == ([50, 7], False)
    assert rollout.completion == tiny_tokenizer.decode([50])


def test_no_pad_token_is_needed_but_an_end_is(policy, prompts, tiny_tokenizer):
    args = RolloutArguments(max_completion_length=12)
    padded = roll_out(policy, tiny_tokenizer, prompts, args, greedy=True)
    tiny_tokenizer.pad_token = None
    assert [r.input_ids for r in roll_out(policy, tiny_tokenizer, prompts, args, greedy=True)] == [
        r.input_ids for r in padded
    ]
    tiny_tokenizer.eos_token = None
    policy = copy.copy(policy)
    policy.generation_config = GenerationConfig()
    with pytest.raises(RolloutError, match="Neither the model nor the tokenizer has an end token"):
        roll_out(policy, tiny_tokenizer, prompts, args)


def test_a_stop_string_ends_a_completion_and_stays_in_it(policy, prompts, tiny_tokenizer):
    """Rows stop where their text first has it, wherever that is; the prompt's own does not count."""
    args = RolloutArguments(max_completion_length=200, stop_strings=["er", "5?"])
    torch.manual_seed(0)
    prompts = [*prompts, Prompt(6, "answer", ids_of(tiny_tokenizer, "answer"), {})]
    rollouts = roll_out(policy, tiny_tokenizer, prompts * 4, args)
    ends = [rollout for rollout in rollouts if rollout.completion_ids[-1] != END and not rollout.truncated]
    assert len(ends) > 5
    for rollout in ends:
        assert "er" in rollout.completion or "5?" in rollout.completion
        shorter = tiny_tokenizer.decode(rollout.completion_ids[:-1], skip_special_tokens=False)
        assert "er" not in shorter and "5?" not in shorter
    for rollout in rollouts:
        if rollout.truncated:
            assert rollout.num_actions == 200 and "er" not in rollout.completion


def test_a_stop_string_may_not_begin_in_the_prompt(policy, tiny_tokenizer):
    """`answ` + `er`: the string is complete only together with the prompt, so the completion goes on."""
    prompt = Prompt(0, "answ", ids_of(tiny_tokenizer, "answ"), {})
    er = ids_of(tiny_tokenizer, "er")
    policy = copy.copy(policy)
    forced = [*er, *er, END]
    policy.forward = _forced(policy, forced)
    args = RolloutArguments(max_completion_length=20, stop_strings=["swer"])
    (rollout,) = roll_out(policy, tiny_tokenizer, [prompt], args, greedy=True)
    assert rollout.completion_ids == forced


def _forced(policy, tokens: list[int]):
    """A forward pass whose likeliest next tokens are these, one a call."""
    forward, left = policy.forward, list(tokens)

    def forced(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        outputs.logits[:, -1, left.pop(0)] = 1e4
        return outputs

    return forced


def test_the_checkpoints_own_sampling_settings_do_not_apply(policy, tiny_tokenizer):
    """Uniform next tokens: with transformers' default of top_k=50, or the checkpoint's settings, most never occur."""
    policy = copy.deepcopy(policy)
    with torch.no_grad():
        policy.get_output_embeddings().weight.zero_()
    policy.generation_config = own = GenerationConfig(
        do_sample=True, top_k=3, top_p=0.1, repetition_penalty=9.0, suppress_tokens=list(range(100)), eos_token_id=END
    )
    prompts = [Prompt(0, "a", ids_of(tiny_tokenizer, "a"), {})] * 100
    args = RolloutArguments(max_completion_length=60, generation_batch_size=100)
    torch.manual_seed(0)
    seen = [token for rollout in roll_out(policy, tiny_tokenizer, prompts, args) for token in rollout.completion_ids]
    counts = torch.bincount(torch.tensor(seen), minlength=320)
    assert len(seen) > 4000
    assert (counts > 0).sum() == 320
    # within five standard deviations of the mean, about 17
    assert (counts.float() - counts.float().mean()).abs().max() < 5 * counts.float().mean().sqrt()
    assert policy.generation_config is own


def test_our_own_sampling_settings_apply(policy, prompts, tiny_tokenizer):
    greedy = roll_out(policy, tiny_tokenizer, prompts, RolloutArguments(max_completion_length=12), greedy=True)
    for setting in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}):
        args = RolloutArguments(max_completion_length=12, **setting)
        sampled = roll_out(policy, tiny_tokenizer, prompts, args)
        assert [r.input_ids for r in sampled] == [r.input_ids for r in greedy], setting
    sampled = roll_out(policy, tiny_tokenizer, prompts, RolloutArguments(max_completion_length=12))
    assert [r.input_ids for r in sampled] != [r.input_ids for r in greedy]


def test_samples_repeat_with_the_global_seed(policy, prompts, tiny_tokenizer):
    args = RolloutArguments(max_completion_length=12)
    twice = []
    for _ in range(2):
        torch.manual_seed(3)
        twice.append([r.input_ids for r in roll_out(policy, tiny_tokenizer, prompts, args)])
    assert twice[0] == twice[1]
    assert twice[0] != [r.input_ids for r in roll_out(policy, tiny_tokenizer, prompts, args)]


def test_the_policy_is_left_as_it_was_and_can_be_trained(prompts, tiny_tokenizer):
    policy = tiny_causal_lm("qwen3", vocab_size=320, attention_dropout=0.5)
    args = RolloutArguments(max_completion_length=12)
    expected = [r.input_ids for r in roll_out(policy, tiny_tokenizer, prompts, args, greedy=True)]
    policy.gradient_checkpointing_enable()
    policy.train()
    policy.model.layers[0].eval()  # a part somebody keeps out of training
    found = [r.input_ids for r in roll_out(policy, tiny_tokenizer, prompts, args, greedy=True)]
    assert found == expected  # dropout was off
    assert policy.training and policy.model.layers[1].training and not policy.model.layers[0].training
    policy(torch.tensor([expected[0]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


def test_a_lora_policy_samples_with_its_adapter(policy, prompts, tiny_tokenizer):
    import peft

    base = copy.deepcopy(policy)
    base.generation_config = own = GenerationConfig(suppress_tokens=list(range(3, 320)), eos_token_id=END)
    torch.manual_seed(0)
    lora = peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    args = RolloutArguments(max_completion_length=12)
    found = [r.input_ids for r in roll_out(lora, tiny_tokenizer, prompts, args, greedy=True)]
    merged = copy.deepcopy(lora).merge_and_unload()
    merged.generation_config = policy.generation_config
    assert found == [r.input_ids for r in roll_out(merged, tiny_tokenizer, prompts, args, greedy=True)]
    assert found != [r.input_ids for r in roll_out(policy, tiny_tokenizer, prompts, args, greedy=True)]
    assert base.generation_config is own


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
    closed = turn_ids(tiny_tokenizer, turn, END)
    assert closed == ids_of(tiny_tokenizer, "\n<s>user: hello<end>\n<s>assistant: ")
    assert turn_ids(tiny_tokenizer, turn, None) == [END, *closed]
    # an end token that is not the template's does not close the turn for it
    assert turn_ids(tiny_tokenizer, turn, 50) == [END, *closed]


def test_a_template_that_rewrites_earlier_turns_is_no_problem(tiny_tokenizer):
    """As Qwen3's: reasoning is written for the last turn only. What the policy emitted is not rendered again."""
    tiny_tokenizer.chat_template = (
        "{% for message in messages %}<s>{{ message.role }}: "
        "{% if message.role == 'assistant' and loop.last %}(thinking) {% endif %}{{ message.content | trim }} <end>"
        "{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    turn = [{"role": "user", "content": "hello"}]
    assert turn_ids(tiny_tokenizer, turn, END) == ids_of(tiny_tokenizer, "<s>user: hello <end><s>assistant: ")


def test_templates_that_cannot_be_used_are_refused(tiny_tokenizer):
    turn = [{"role": "tool", "content": "hello"}]
    tiny_tokenizer.chat_template = "{{ raise_exception('no tools') }}"
    with pytest.raises(RolloutError, match=r"refuses the environment's turn \(roles: tool\).*no tools"):
        turn_ids(tiny_tokenizer, turn, END)
    tiny_tokenizer.chat_template = "{{ messages[-1].content }}"
    with pytest.raises(RolloutError, match="leaves out an assistant turn"):
        turn_ids(tiny_tokenizer, turn, END)


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
from modeling_dvpo.training.rollouts.rollouts import RolloutArguments, roll_out

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
optimizer = torch.optim.SGD(policy.parameters(), lr=2.0)
seen = []
for _ in range(3):
    with whole_weights(policy), Collectives() as collectives:
        seen.append(run(policy))
    assert collectives.number == 0
    assert len(calls) == (3 if rank == 0 else 1) and calls[0] == len(prompts), calls
    # the weights of now, and not those of an earlier round
    whole.load_state_dict(get_model_state_dict(policy, options=StateDictOptions(full_state_dict=True)), strict=False)
    assert seen[-1] == run(whole)
    with Collectives() as collectives:
        policy(torch.tensor([[5, 6 + rank, 7]])).logits.square().mean().backward()
    assert collectives.number > 0
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
