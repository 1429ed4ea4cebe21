"""A source row becomes a row, its tokens, its action mask and its rewards."""

import math

import pytest
from reward_rows import TURNS, actions, text
from tokenizers.processors import TemplateProcessing

from modeling_dvpo.text.problems import DataError
from modeling_dvpo.training.errors import RewardDataError

GENERATION_TEMPLATE = (
    "{% for message in messages %}<s>{{ message.role }}: {% if message.role == 'assistant' %}"
    "{% generation %}{{ message.content }}<end>{% endgeneration %}{% else %}{{ message.content }}<end>{% endif %}"
    "{{ '\\n' }}{% endfor %}{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


class TestText:
    def test_layout(self, load, tiny_tokenizer):
        row = load(text(0.5), text(1.0))[0]
        prompt = tiny_tokenizer("What is 2 + 3?", add_special_tokens=False).input_ids
        completion = tiny_tokenizer(" The answer is 5.", add_special_tokens=False).input_ids
        assert row["input_ids"] == prompt + completion + [tiny_tokenizer.eos_token_id]
        assert row["completion_mask"] == [False] * len(prompt) + [True] * (len(completion) + 1)
        assert row["rewards"] == [0.0] * (len(row["input_ids"]) - 1) + [0.5]
        assert row["length"] == len(row["input_ids"])
        assert (row["row_id"], row["truncated"]) == (0, False)

    def test_the_boundary_is_where_the_policy_had_it(self, load, tiny_tokenizer):
        """Tokenised together, the space and `The` would merge over the boundary."""
        row = load(text(0.5, prompt="2 + 3? ", completion="The answer"), text())[0]
        assert row["input_ids"][:-1] != tiny_tokenizer("2 + 3? The answer").input_ids
        assert actions(row, tiny_tokenizer) == ["The answer<end>"]

    def test_end_token_only_where_the_completion_ended(self, load, tiny_tokenizer):
        end = tiny_tokenizer.eos_token_id
        rows = load(
            text(0.0), text(1.0, truncated=True), text(completion=" The answer is 5.<end>"), text(truncated=False)
        )
        assert [row["input_ids"][-1] == end for row in rows] == [True, False, True, True]
        assert rows["truncated"][:] == [False, True, False, False]
        assert rows[2]["input_ids"] == rows[0]["input_ids"]  # not a second end token
        tiny_tokenizer.eos_token = None
        with pytest.raises(DataError, match="no end token to append"):
            load(text(0.0), text())
        assert load(text(0.0), text(), append_eos=False)[0]["input_ids"] == rows[0]["input_ids"][:-1]

    def test_truncated_as_text(self, load):
        """`bool("false")` is true: every row would lose its end token."""
        with pytest.raises(RewardDataError, match="Column 'truncated' holds text .'false'"):
            load(text(0.0, truncated="false"), text())

    def test_begin_token_by_the_tokenizers_habit(self, load, tiny_tokenizer):
        begin = tiny_tokenizer.bos_token_id
        plain = load(text(0.0), text())
        tiny_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single="<s> $A <end>", special_tokens=[("<s>", begin), ("<end>", tiny_tokenizer.eos_token_id)]
        )
        rows = load(text(0.0), text(prompt="<s>What is 2 + 3?"))
        # One begin token, none doubled, and no end token between prompt and completion.
        assert rows[0]["input_ids"] == rows[1]["input_ids"] == [begin] + plain[0]["input_ids"]

    def test_an_empty_prompt_becomes_the_begin_token(self, load, tiny_tokenizer):
        rows = load(text(0.0, prompt=""), text(1.0, prompt=None))
        assert rows[0]["input_ids"][0] == tiny_tokenizer.bos_token_id
        assert rows[0]["input_ids"] == rows[1]["input_ids"]
        tiny_tokenizer.bos_token = None
        with pytest.raises(RewardDataError, match=r"2 of 2 rows of .* start with an action token .*BOS"):
            load(text(0.0, prompt=""), text(prompt=None))

    def test_mapped_columns_and_subset(self, load):
        row = {"question": "What?", "answer": " 5", "score": True, "cut": True, "domain": "sums", "reward": "no use"}
        rows = load(
            row,
            {**row, "score": False, "domain": None},
            prompt_column="question",
            completion_column="answer",
            reward_column="score",
            truncated_column="cut",
            subset_column="domain",
        )
        assert rows["subset"][:] == ["sums", None]
        assert rows["truncated"][:] == [True, True]
        assert [row["rewards"][-1] for row in rows] == [1.0, 0.0]  # a boolean counts as a number


class TestChat:
    @pytest.fixture(params=["found", "marked"])
    def template(self, request, tiny_tokenizer):
        """Assistant turns are found by rendering, or marked in the template."""
        if request.param == "marked":
            tiny_tokenizer.chat_template = GENERATION_TEMPLATE

    def test_only_the_completions_answers_are_actions(self, load, tiny_tokenizer):
        chat = {"prompt": TURNS[:4], "completion": TURNS[4:], "reward": 1.0}
        rows = load(chat, {**chat, "completion": TURNS[4]["content"], "reward": 0.0})
        assert actions(rows[0], tiny_tokenizer) == ["The answer is 5.<end>"]
        assert rows[0]["input_ids"] == rows[1]["input_ids"]
        assert rows[0]["rewards"][-1] == 1.0 and rows[0]["completion_mask"][-1]

    @pytest.mark.usefixtures("template")
    def test_every_answer_of_a_conversation_is_an_action(self, load, tiny_tokenizer):
        rows = load({"messages": TURNS, "reward": 1.0}, {"messages": TURNS[:2], "reward": 0.0})
        assert actions(rows[0], tiny_tokenizer) == ["hello world<end>", "The answer is 5.<end>"]
        assert actions(rows[1], tiny_tokenizer) == ["hello world<end>"]
        assert sum(map(bool, rows[0]["rewards"])) == 1 and rows[0]["rewards"][-1] == 1.0
        # What the template writes after the last end token is dropped.
        rendered = tiny_tokenizer.apply_chat_template(TURNS, tokenize=False)
        assert tiny_tokenizer.decode(rows[0]["input_ids"]) == rendered.rstrip("\n")

    def test_marked_and_found_turns_agree(self, load, tiny_tokenizer):
        conversations = [{"messages": TURNS, "reward": 1.0}, {"messages": TURNS[:2], "reward": 0.0}]
        found = load(*conversations)
        tiny_tokenizer.chat_template = GENERATION_TEMPLATE
        assert found[:] == load(*conversations)[:]

    @pytest.mark.usefixtures("template")
    def test_a_truncated_answer_has_no_end_token(self, load, tiny_tokenizer):
        row = {"prompt": TURNS[:1], "completion": "hello", "reward": 1.0, "truncated": True}
        rows = load(row, {**row, "reward": 0.0, "truncated": False})
        assert [actions(row, tiny_tokenizer) for row in rows] == [["hello"], ["hello<end>"]]

    def test_a_template_that_rewrites_history_is_refused(self, load, tiny_tokenizer):
        tiny_tokenizer.chat_template = (
            "{% for message in messages %}<s>{{ message.role }}: "
            "{% if message.role != 'assistant' or loop.last %}{{ message.content }}{% endif %}<end>{% endfor %}"
            "{% if add_generation_prompt %}<s>assistant: {% endif %}"
        )
        message = r"1 of 2 rows .* chat template rewrites once .* message 1 is rewritten inside .* a row of its own"
        with pytest.raises(RewardDataError, match=message):
            load({"messages": TURNS, "reward": 1.0}, {"messages": TURNS[:2], "reward": 0.0})

    def test_chats_need_a_template(self, load, tiny_tokenizer):
        tiny_tokenizer.chat_template = None
        with pytest.raises(DataError, match="The rows are chats, and the tokenizer has no chat template"):
            load({"messages": TURNS, "reward": 1.0})


class TestStepsAndTokens:
    completion = " First add. The answer is 5."

    def steps(self, rewards, ends, **more):
        return text(rewards, **{"completion": self.completion, "step_ends": ends, **more})

    @pytest.mark.parametrize(
        ("more", "ends"),
        [
            ({}, [11, 28]),
            # of a chat they count from the answer's content
            ({"prompt": TURNS[:1], "completion": completion.strip()}, [10, 27]),
        ],
    )
    def test_each_reward_on_the_token_that_ends_its_step(self, load, tiny_tokenizer, more, ends):
        row = load(self.steps([0.25, 2.0], ends, **more), self.steps([1.0, 1.0], ends, **more))[0]
        placed = [place for place, reward in enumerate(row["rewards"]) if reward]
        assert tiny_tokenizer.decode(row["input_ids"][: placed[0] + 1]).endswith("First add.")
        assert [row["rewards"][place] for place in placed] == [0.25, 2.0]
        assert placed[1] == len(row["input_ids"]) - 1  # on the end token, as a single reward would be

    def test_one_step_is_a_single_reward(self, load):
        rows = load(self.steps([0.5], [28]), self.steps(1.0, None))
        assert rows[0]["input_ids"] == rows[1]["input_ids"]
        assert [reward * 2 for reward in rows[0]["rewards"]] == rows[1]["rewards"]

    def test_steps_inside_one_token_add_up(self, load, tiny_tokenizer):
        assert len(tiny_tokenizer(" answer").input_ids) == 1
        rows = load(
            self.steps([0.25, 0.5, 1.0], [3, 5, 10], completion=" answer is"),
            self.steps([1.0], [10], completion=" answer is"),
        )
        assert [reward for reward in rows[0]["rewards"] if reward] == [0.75, 1.0]

    def test_characters_of_several_tokens_count_once(self, load, tiny_tokenizer):
        """A byte-level tokenizer cuts "→" in three; offsets are in characters."""
        row = load(self.steps([0.25, 1.0], [2, 3], completion="a→b"), self.steps([1.0], [1], completion="a"))[0]
        first = next(place for place, reward in enumerate(row["rewards"]) if reward)
        assert tiny_tokenizer.decode(row["input_ids"][first - 3 : first + 1]) == "a→"

    @pytest.mark.parametrize(
        ("reward", "ends", "message"),
        [
            ([1.0, 2.0], [28], "2 rewards and 1 step ends"),
            ([1.0, 2.0], [11, 27], "the last is 27, the completion has 28 characters"),
            ([1.0, 2.0], [28, 28], "is not increasing"),
            ([1.0, 2.0], [0, 28], "is not increasing from above 0"),
            ([1.0], None, "a list of rewards without step ends"),
            (1.0, [28], "step ends with a single reward, 1.0"),
            ([], [], "0 rewards and 0 step ends"),
        ],
    )
    def test_step_ends_that_do_not_match(self, load, reward, ends, message):
        with pytest.raises(RewardDataError, match=rf"1 of 1 rows .* step ends that do not match \(row 0; .*{message}"):
            load(self.steps(reward, ends))

    def test_token_rewards(self, load, tiny_tokenizer):
        count = len(tiny_tokenizer(" The answer is 5.").input_ids)
        rewards = [float(place) for place in range(count)]
        rows = load(text(token_rewards=rewards), text(token_rewards=[*rewards, 9.0]))
        before = [0.0] * (rows[0]["length"] - count - 1)
        assert rows["rewards"][:] == [before + rewards + [0.0], before + rewards + [9.0]]
        message = rf"token rewards that do not match .* 1 rewards for {count + 1} tok"
        with pytest.raises(RewardDataError, match=message):
            load(text(token_rewards=[1.0]))


class TestPreferencePairs:
    pair = {"prompt": "2 + 3?", "chosen": " 5", "rejected": " 6", "chosen_score": 1.0, "rejected_score": -1.0}

    def test_two_rows_a_pair(self, load, tiny_tokenizer):
        rows = load(self.pair, self.pair)
        assert rows["row_id"][:] == [0, 0, 1, 1]
        assert [actions(row, tiny_tokenizer) for row in rows][:2] == [[" 5<end>"], [" 6<end>"]]
        assert [row["rewards"][-1] for row in rows] == [1.0, -1.0, 1.0, -1.0]
        assert len(set(rows["prompt_id"])) == 1

    def test_whole_conversations(self, load, tiny_tokenizer):
        """Some sets give the prompt as text and, once more, inside `chosen` and `rejected`."""
        other = [TURNS[0], {"role": "assistant", "content": "world"}]
        rows = load({**self.pair, "prompt": "hello", "chosen": TURNS[:2], "rejected": other})
        assert [actions(row, tiny_tokenizer) for row in rows] == [["hello world<end>"], ["world<end>"]]

    def test_a_side_without_a_score(self, load):
        with pytest.raises(RewardDataError, match=r"1 of 4 rows .* have no reward \(row 1; "):
            load(self.pair, {**self.pair, "rejected_score": None})

    def test_texts_that_hold_their_prompt_are_refused(self, load):
        """With no prompt column every token of both texts, question included, would count as an action."""
        pair = {name: value for name, value in self.pair.items() if name != "prompt"}
        with pytest.raises(RewardDataError, match="No column 'prompt' .what both sides answer"):
            load(pair)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (text(completion=""), "have an empty completion"),
        (text(completion=None), "have an empty completion"),
        (text(None), "have no reward"),
        (text(math.nan), "have a reward that is NaN or infinite"),
        (text(math.inf), "have a reward that is NaN or infinite"),
        (text("good"), "have a reward that is not a number .*'good', a str"),
        (text(-100), "have a return of exactly -100"),
        (text([-40.0, -60.0], step_ends=[4, 17]), "have a return of exactly -100"),  # a sum
        ({"messages": TURNS[:1]}, "no assistant turn to learn from .* roles user"),
        ({"messages": [TURNS[0], {"role": "assistant", "content": ""}]}, "have an empty completion"),
        ({"messages": "hello"}, "wrong kind .* 'hello' is not a list of messages"),
        ({"messages": [{"content": "hello"}]}, "wrong kind"),
        ({"prompt": TURNS[:1], "completion": ""}, "have an empty completion"),
        ({"prompt": "hello", "completion": TURNS[1:2]}, "wrong kind .* a text prompt with a list as completion"),
        ({"messages": TURNS, "reward": [1.0], "step_ends": [16]}, "exactly one assistant turn"),
    ],
)
def test_rows_that_cannot_be_learnt_from(load, bad, message):
    with pytest.raises(RewardDataError, match=rf"1 of 1 rows .*{message}"):
        load({"reward": 1.0, **bad})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"promt": "a", "completion": "b", "reward": 1},
            "'prompt' .what the completions answer.*set `prompt_column=promt` if",
        ),
        ({"prompt": "a", "completions": "b", "reward": 1}, "'completion'.*`completion_column=completions"),
        ({"prompt": "a", "completion": "b", "score": 1}, "'reward' .*name yours with `reward_column`"),
        (text(domain="sums"), "'domian' .*set `subset_column=domain`"),
        (
            {"prompt": "a", "chosen": "b", "rejected": "c", "score_chosen": 1, "score_rejected": 0},
            "'chosen_score' .*set `chosen_score_column=score_chosen`",
        ),
    ],
)
def test_missing_columns(load, row, message):
    with pytest.raises(RewardDataError, match=f"No column {message}"):
        load(row, **({"subset_column": "domian"} if "domain" in row else {}))
