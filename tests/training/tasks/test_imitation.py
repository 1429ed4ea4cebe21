import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from modeling_dvpo.training.tasks.imitation import (
    build_policy,
    build_tokenizer,
    conversation_demonstration,
    imitation_batch,
    train_policy,
)

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
TURNS = ("<user>", "<assistant>")
CONVERSATION = [
    {"role": "user", "content": "book a\n\nb"},
    {"role": "assistant", "content": "bo"},
    {"role": "user", "content": "k"},
    {"role": "assistant", "content": "book ok"},
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(["bo", "book "], "abko \n", chat_template=CHAT, special_tokens=TURNS, model_max_length=32)


def test_tokenizer_prefers_the_longest_word_and_round_trips(tokenizer, tmp_path):
    text = "<user>abook boa\n\n.b"
    tokenizer.save_pretrained(tmp_path)
    for loaded in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = loaded(text)["input_ids"]
        expected = ["<user>", "a", "book ", "bo", "a", "\n", "\n", "<unk>", "b"]
        assert loaded.convert_ids_to_tokens(ids) == expected
        assert loaded.decode(ids) == text.replace(".", "<unk>")
        assert loaded.decode(ids, skip_special_tokens=True) == "abook boa\n\nb"
        assert (loaded.padding_side, loaded.model_max_length) == ("left", 32)
        assert loaded.apply_chat_template(CONVERSATION, tokenize=False).endswith("book ok<eos>")


def test_a_word_is_text_and_not_a_pattern():
    tokenizer = build_tokenizer(["a.", "(b"], "abc.(")
    assert tokenizer.tokenize("aca.(b(") == ["a", "c", "a.", "(b", "("]


def test_a_token_named_twice_is_refused():
    with pytest.raises(ValueError, match=r"got \['<eos>', 'a'\] twice"):
        build_tokenizer(["a"], "ab", special_tokens=["<eos>"])


@pytest.mark.parametrize("template", ["{% for m in messages %}{{ m.content }}{% endfor %}", CHAT + "\n"])
def test_a_template_without_the_end_token_after_an_assistant_is_refused(template):
    with pytest.raises(ValueError, match="has to end an assistant turn with the end token '<eos>'"):
        build_tokenizer((), "abc\n", chat_template=template + " ", special_tokens=TURNS)


def test_only_actions_and_their_end_tokens_are_learnt(tokenizer):
    batch = imitation_batch(
        [[("a", False), ("bo", True), ("k", False), ("b", True)], [("b", False), ("", True)]], tokenizer
    )
    pad, eos, a, b, k, bo = (tokenizer.convert_tokens_to_ids(t) for t in ("<pad>", "<eos>", "a", "b", "k", "bo"))
    assert batch["input_ids"].tolist() == [[a, bo, eos, k, b, eos], [b, eos, pad, pad, pad, pad]]
    assert batch["labels"].tolist() == [[-100, bo, eos, -100, b, eos], [-100, eos, -100, -100, -100, -100]]


def test_a_conversation_is_learnt_as_its_template_renders_it(tokenizer):
    demonstration = conversation_demonstration(CONVERSATION, tokenizer)
    assert demonstration == [
        ("<user>book a\n\nb<assistant>", False),
        ("bo", True),
        ("<user>k<assistant>", False),
        ("book ok", True),
    ]
    rendered = tokenizer.apply_chat_template(CONVERSATION)["input_ids"]
    assert imitation_batch([demonstration], tokenizer)["input_ids"].tolist() == [rendered]
    closed = [*CONVERSATION[:1], {"role": "assistant", "content": ""}, {"role": "user", "content": "k"}]
    # an assistant that says nothing still ends its turn; there is nothing to learn behind it
    assert conversation_demonstration(closed, tokenizer)[1:] == [("", True)]


def test_padding_does_not_change_the_loss(tokenizer):
    torch.manual_seed(0)
    policy = build_policy(tokenizer, hidden_size=16, num_layers=1).eval()
    short, long = [("a", False), ("b", True)], [("aab", False), ("kobako", True)]  # 2 and 7 tokens learnt
    alone = [policy(**imitation_batch([demonstration], tokenizer)).loss for demonstration in (short, long)]
    together = policy(**imitation_batch([short, long], tokenizer)).loss
    torch.testing.assert_close(together, (2 * alone[0] + 7 * alone[1]) / 9)
    assert abs(alone[0] - alone[1]) > 1e-3


@pytest.mark.parametrize(
    "demonstration, message",
    [
        ([("a", False), ("xbz", True)], r"no token for \['x', 'z'\] in 'xbz'"),
        ([("a", False), ("b", False)], "needs an action to learn from"),
        ([("a" * 30, False), ("bb", True)], "has 33 tokens, more than the tokenizer's model_max_length 32"),
    ],
)
def test_demonstrations_that_cannot_be_learnt_are_refused(tokenizer, demonstration, message):
    with pytest.raises(ValueError, match=message):
        imitation_batch([demonstration], tokenizer)


def test_the_longest_demonstration_that_fits_is_taken(tokenizer):
    assert imitation_batch([[("a" * 30, False), ("b", True)]], tokenizer)["input_ids"].shape == (1, 32)


def test_too_few_demonstrations_are_refused(tokenizer, tmp_path):
    few = iter([[("a", False), ("b", True)]] * 11)
    with pytest.raises(ValueError, match="3 steps of 4 demonstrations need 12, got 11"):
        train_policy(few, tokenizer, tmp_path / "policy", seed=0, num_steps=3, batch_size=4, hidden_size=16)
    assert not (tmp_path / "policy").exists()


def test_a_policy_learns_what_to_say_and_when_to_stop(tokenizer, tmp_path):
    """After "a" it says "bok", after "k" nothing; the contexts alternate, so neither is a habit."""
    lessons = [[("a", False), ("bok", True)], [("k", False), ("", True)]]
    trained, _ = train_policy(
        itertools.cycle(lessons), tokenizer, tmp_path, seed=0, num_steps=60, batch_size=8, hidden_size=16, num_layers=1
    )
    policy, loaded = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert not trained.training
    for lesson in lessons:
        prompt, said = lesson[0][0], lesson[1][0]
        ids = policy.generate(**loaded(prompt, return_tensors="pt"), do_sample=False, max_new_tokens=8)[0]
        assert loaded.decode(ids) == f"{prompt}{said}<eos>"
