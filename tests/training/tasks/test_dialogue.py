import copy
import itertools
import json
import random

import pytest

from modeling_dvpo.training.tasks import dialogue
from modeling_dvpo.training.tasks.dialogue import (
    DOMAINS,
    STUDY_DOMAINS,
    Goal,
    action_completion,
    demonstration,
    demonstrations,
    distinct_goals,
    environment,
    generate_goals,
    goal_completion,
    graded_reward,
    prompt_rows,
    stated_answer,
    task_completion,
)
from modeling_dvpo.training.tasks.dialogue_goals import SERVICES, VALUES
from modeling_dvpo.training.tasks.dialogue_user import EXTRA_QUESTIONS
from modeling_dvpo.training.tasks.imitation import conversation_demonstration, imitation_batch
from modeling_dvpo.training.tasks.problem_streams import is_held_out

RATES = (task_completion, action_completion, goal_completion)

# Wants three slots; tells the day wrongly; volunteers nothing.
HOTEL = Goal("hotel", {"day": "sat", "people": "3", "stars": "4"}, told={"day": "fri"})
# Wants three slots; tells none; gives the time with whatever it is asked first.
TRAIN = Goal("train", {"to": "paris", "time": "noon", "day": "mon"}, volunteered=("time",))


def talk(goal: Goal, *turns: str) -> list[dict]:
    """The conversation in which the assistant says these turns and the user answers, the opening left out."""
    completion = []
    for turn in turns:
        completion.append({"role": "assistant", "content": turn})
        completion += [reply for reply in answer(goal, completion) if reply is not None]
    return completion


def opening(goal: Goal) -> list[dict]:
    return [{"role": "user", "content": goal.prompt}]


def answer(goal: Goal, completion: list[dict]) -> list:
    return environment(prompts=[opening(goal)], completions=[completion], goal=[goal.to_json()])


def rates(goal: Goal, completion: list[dict]) -> list[float]:
    return [rate([opening(goal)], [completion], goal=[goal.to_json()])[0] for rate in RATES]


def some_goals(domain: str, count: int, **side) -> list[Goal]:
    return list(itertools.islice(generate_goals(seed=0, domain=domain, **side), count))


def led_by_expert(domain: str, count: int, carelessness: float = 0.0) -> list[tuple[Goal, list[dict]]]:
    rng = random.Random(1)
    return [(goal, demonstration(goal, carelessness, rng)) for goal in some_goals(domain, count)]


# --- the user


def test_user_by_hand():
    assert HOTEL.prompt == "hotel;day=fri;people;stars"
    said = [message["content"] for message in talk(HOTEL, "ask stars", "ask people", "ask day", "ask food")]
    assert said[1::2] == ["stars=4;day=sat", "people=3", "day=sat", "any"]  # put right once; asked again, said again

    assert TRAIN.prompt == "train;to;time;day"
    said = [message["content"] for message in talk(TRAIN, "ask food", "ask day", "ask to")]
    assert said[1::2] == ["any", "day=mon;time=noon", "to=paris"]  # nothing comes with an answer that is none
    assert talk(TRAIN, "ask time")[-1]["content"] == "time=noon"  # asked for what it would volunteer: said once
    assert talk(HOTEL, "ask day")[-1]["content"] == "day=sat"  # asked for what it misspoke: likewise


@pytest.mark.parametrize(
    "turn", ["book hotel;day=sat", "", "ask", "ask ", "ask ages", "ask day;people", "day", "ask  day"]
)
def test_user_leaves_at_anything_but_a_question_for_a_slot(turn):
    assert answer(HOTEL, [{"role": "assistant", "content": turn}]) == [None]


def test_user_leaves_an_assistant_that_never_stops_asking():
    for goal in some_goals("more_slots", 20):
        completion = talk(goal, *["ask day"] * (len(goal.slots) + EXTRA_QUESTIONS))
        assert completion[-1]["role"] == "user"
        assert answer(goal, [*completion, {"role": "assistant", "content": "ask day"}]) == [None]


def test_user_is_a_pure_function_of_each_conversation():
    goals = some_goals("more_corrections", 30)
    prompts = [opening(goal) for goal in goals]
    completions = [talk(goal, f"ask {slot}")[:1] for goal in goals for slot in [*goal.slots][-1:]]
    columns = [goal.to_json() for goal in goals]
    before = copy.deepcopy((prompts, completions, columns))
    replies = environment(prompts=prompts, completions=completions, goal=columns, source=None)
    assert (prompts, completions, columns) == before
    assert replies == environment(prompts=prompts, completions=completions, goal=columns)
    assert replies == [answer(goal, completion)[0] for goal, completion in zip(goals, completions, strict=True)]
    assert len({reply["content"] for reply in replies}) > 20


# --- the rates

#   goal, what the assistant says                                                      task  action  goal
CASES = [
    (HOTEL, ["ask people", "ask stars", "book hotel;day=sat;people=3;stars=4"], 1, 1, 1),
    (HOTEL, ["ask people", "ask stars", "book hotel;stars=4;day=sat;people=3"], 1, 1, 1),  # in any order
    (HOTEL, ["ask people", "ask stars", "book hotel;day=fri;people=3;stars=4"], 0, 1, 2 / 3),  # not what was put right
    (HOTEL, ["ask people", "book hotel;day=sat;people=3;stars=4"], 1, 3 / 4, 1),  # a lucky guess is a completed task
    (HOTEL, ["ask people", "book hotel;day=sat;people=3"], 0, 3 / 4, 2 / 3),
    # all guessed: three to learn, only the booking done
    (HOTEL, ["book hotel;day=sat;people=3;stars=4"], 1, 1 / 4, 1),
    (HOTEL, ["ask people", "ask stars", "book hotel;day=sat;people=3;stars=4;area=west"], 0, 1, 3 / 4),  # not wanted
    # twice: no booking
    (HOTEL, ["ask people", "ask stars", "book hotel;day=sat;day=fri;people=3;stars=4"], 0, 3 / 4, 0),
    (HOTEL, ["ask people", "ask stars", "book hotel;day=sat;day=sat;people=3;stars=4"], 0, 3 / 4, 0),
    (HOTEL, ["ask people", "ask stars", "book train;day=sat;people=3;stars=4"], 0, 3 / 4, 0),  # the wrong service
    (HOTEL, ["ask people", "ask stars", "book hotel;day=sat;people=3;stars="], 0, 3 / 4, 0),  # cut short
    (HOTEL, ["ask people", "ask stars", "hotel;day=sat;people=3;stars=4"], 0, 3 / 4, 0),  # not said to be a booking
    (HOTEL, ["ask people", "ask stars"], 0, 3 / 4, 0),  # ends with the user's turn
    (HOTEL, ["ask area", "book hotel;day=fri"], 0, 1 / 4, 0),
    (TRAIN, ["ask to", "ask day", "book train;to=paris;time=noon;day=mon"], 1, 1, 1),  # the time was volunteered
    (TRAIN, ["ask to", "book train;to=paris;time=noon"], 0, 3 / 4, 2 / 3),
    (TRAIN, ["book train"], 0, 1 / 4, 0),
    (TRAIN, [""], 0, 0, 0),
]


@pytest.mark.parametrize("goal, turns, task, action, share", CASES)
def test_rates_by_hand(goal, turns, task, action, share):
    completion = talk(goal, *turns)
    assert rates(goal, completion) == pytest.approx([task, action, share])
    graded = graded_reward([opening(goal)], [completion], goal=[goal.to_json()], source=["ignored"])
    assert graded == pytest.approx([(task + action + share) / 3])


def test_a_slot_told_rightly_in_the_opening_is_no_action():
    goal = Goal("taxi", {"to": "bonn", "from": "york"}, told={"to": "bonn"})
    assert rates(goal, talk(goal, "book taxi;to=bonn")) == [0, 1 / 2, 1 / 2]
    assert rates(goal, talk(goal, "ask from", "book taxi;to=bonn;from=bath")) == [0, 1, 1 / 2]


def test_rewards_pair_each_conversation_with_its_own_goal():
    goals = [HOTEL, TRAIN]
    completions = [
        talk(HOTEL, "book train;to=paris;time=noon;day=mon"),
        talk(TRAIN, "book train;to=paris;time=noon;day=mon"),
    ]
    prompts, columns = [opening(goal) for goal in goals], [goal.to_json() for goal in goals]
    assert task_completion(prompts, completions, columns) == [0.0, 1.0]
    with pytest.raises(ValueError, match="shorter"):
        task_completion(prompts, completions[:1], columns)


def test_stated_answer_is_the_last_turns_booking_in_any_order():
    said = stated_answer("ask people\nbook hotel;people=3;day=sat")
    assert said == stated_answer("book hotel;day=sat;people=3") == ("hotel", ("day", "sat"), ("people", "3"))
    assert said != stated_answer("book hotel;day=sun;people=3")
    for text in ("book hotel;day=sat\nask people", "", "book hotel;day", "book hotel;day=sat;day=sun", "book bar"):
        assert stated_answer(text) is None


# --- the expert


@pytest.mark.parametrize("domain", DOMAINS)
def test_careful_expert_gets_all_in_every_domain_and_asks_for_nothing_it_knows(domain):
    for goal, conversation in led_by_expert(domain, 200):
        assert conversation[0] == opening(goal)[0]
        assert rates(goal, conversation[1:]) == [1, 1, 1]
        questions = len(conversation) // 2 - 1
        # what is volunteered comes with the first answer, unless it was what was asked first
        unasked = [slot for slot in goal.volunteered if slot != next(s for s in goal.slots if s not in goal.told)]
        assert questions == len(goal.slots) - len(goal.told) - len(unasked)
        assert answer(goal, conversation[1:]) == [None]


def test_careless_expert_says_by_hand():
    """Certain to slip where it may: with carelessness 1 a slot is forgotten by the draw alone."""

    class Never(random.Random):
        def random(self):
            return 0.5  # not below 1/2: nothing is forgotten; below 1, not below 1/10: hard slots are misstated

    goal = Goal("hotel", {"day": "sat", "people": "3", "area": "west"}, told={"day": "fri", "area": "west"})
    said = [message["content"] for message in demonstration(goal, 1.0, Never(0))]
    assert said[:3] == ["hotel;day=fri;people;area=west", "ask people", "people=3;day=sat"]
    booked = dict(pair.split("=") for pair in said[3].removeprefix("book hotel;").split(";"))
    assert booked["day"] == "fri" and booked["area"] == "west"  # the old value; told rightly at once
    assert booked["people"] in set(VALUES["people"]) - {"3"}

    class Always(random.Random):
        def random(self):
            return 0.0

    said = [message["content"] for message in demonstration(goal, 1.0, Always(0))]
    assert len(said) == 2 and said[1].startswith("book hotel;day=") and "people" not in said[1]


@pytest.mark.parametrize("domain", DOMAINS)
def test_careless_expert_often_fails_and_often_succeeds(domain):
    led = led_by_expert(domain, 1000, carelessness=0.2)
    by_rate = [sum(column) / len(led) for column in zip(*(rates(goal, said[1:]) for goal, said in led), strict=True)]
    task, action, goal = by_rate
    assert 0.35 < task < 0.65 and task < goal < action < 1  # partial credit lies above the all-or-nothing rate
    assert led == led_by_expert(domain, 1000, carelessness=0.2)


# --- goals


def test_domains_keep_their_bounds():
    found = {domain: some_goals(domain, 500) for domain in DOMAINS}
    for name, domain in DOMAINS.items():
        for goal in found[name]:
            misspoken = sum(goal.slots[slot] != value for slot, value in goal.told.items())
            foreign = [slot for slot in goal.slots if slot not in SERVICES[goal.service]]
            assert domain.num_slots[0] <= len(goal.slots) <= domain.num_slots[1]
            assert domain.misspoken[0] <= misspoken <= domain.misspoken[1]
            assert (0 < len(foreign) < len(goal.slots)) if domain.foreign else not foreign
    assert {goal.service for goal in found["in_domain"]} == set(SERVICES)
    assert {slot for goal in found["in_domain"] for slot in goal.slots} == set(VALUES)
    shares = [sum(bool(goal.volunteered) for goal in found[name]) / 500 for name in DOMAINS]
    assert all(0.02 < share < 0.25 for share in shares[:3]) and shares[3] == 0  # there is one slot left to ask for


def test_streams_are_seeded_and_held_out_openings_are_disjoint():
    assert some_goals("in_domain", 50) == some_goals("in_domain", 50)
    assert some_goals("in_domain", 50) != list(itertools.islice(generate_goals(seed=1), 50))
    training = {goal.prompt for domain in DOMAINS for goal in some_goals(domain, 500)}
    held_out = {goal.prompt for domain in DOMAINS for goal in some_goals(domain, 500, held_out=True)}
    assert not training & held_out
    assert all(map(is_held_out, held_out)) and not any(map(is_held_out, training))
    mixed = list(itertools.islice(generate_goals(seed=0, domain=["in_domain", "more_slots"]), 50))
    assert {len(goal.slots) for goal in mixed} == {2, 3, 4, 5}


def test_rows_hold_distinct_goals_that_read_back():
    goals = distinct_goals(300, seed=0, domain="more_slots", held_out=True)
    rows = prompt_rows(300, seed=0, domain="more_slots", held_out=True)
    assert len({row["goal"] for row in rows}) == 300
    assert [Goal.from_json(row["goal"]) for row in rows] == goals
    assert [row["prompt"] for row in rows] == [opening(goal) for goal in goals]
    assert {tuple(row) for row in rows} == {("prompt", "goal")}


# --- tokens


def test_texts_are_short_and_made_of_the_tasks_tokens_alone():
    tokenizer = dialogue.tokenizer()
    longest = 0
    for _, conversation in itertools.chain(*(led_by_expert(domain, 200, 0.5) for domain in DOMAINS)):
        ids = tokenizer.apply_chat_template(conversation, return_dict=False)
        assert tokenizer.unk_token_id not in ids
        longest = max(longest, len(ids))
    assert 50 < longest < 100

    text = tokenizer.apply_chat_template(opening(HOTEL), tokenize=False, add_generation_prompt=True)
    opened = "<user> hotel ; day = fri ; people ; stars <eos> <assistant>"
    assert tokenizer.tokenize(text) == opened.split()
    actions = [text for text, is_action in conversation_demonstration(demonstration(HOTEL), tokenizer) if is_action]
    assert actions == ["ask people", "ask stars", "book hotel;day=sat;people=3;stars=4"]


def test_template_renders_a_turn_the_same_alone_and_within_a_conversation():
    tokenizer = dialogue.tokenizer()
    conversation = demonstration(HOTEL)
    whole = tokenizer.apply_chat_template(conversation, tokenize=False)
    assert whole.count("<eos>") == len(conversation) == 6
    for turn in (1, 3, 5):
        before = tokenizer.apply_chat_template(conversation[:turn], tokenize=False, add_generation_prompt=True)
        assert before.endswith("<eos><assistant>") and whole.startswith(before + conversation[turn]["content"])


def test_demonstrations_are_of_the_training_side_and_fit_the_tokenizer():
    tokenizer = dialogue.tokenizer()
    shown = list(itertools.islice(demonstrations(seed=0, domain=STUDY_DOMAINS), 200))
    assert tokenizer.unk_token_id not in imitation_batch(shown, tokenizer)["input_ids"]
    openings = [text.removeprefix("<user>").partition("<eos>")[0] for (text, _), *_ in shown]
    assert not any(map(is_held_out, openings))
    assert {opening.count(";") for opening in openings} == {2, 3, 4, 5}
    assert all(segments[-1][1] and segments[-1][0].startswith("book ") for segments in shown)


# --- errors


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("cinema", {"day": "sat"}), "Unknown service 'cinema'; choose one of restaurant, hotel"),
        (("hotel", {"days": "sat"}), "Unknown slot 'days'; choose one of food"),
        (("hotel", {"day": "noon"}), "Slot 'day' cannot be 'noon'; choose one of mon"),
        (("hotel", {"day": "sat", "people": "1"}, {"day": "1"}), "Slot 'day' cannot be '1'"),
        (("hotel", {"day": "sat"}, {"people": "1"}), "Slot 'people' is told but not wanted; the goal's slots are day"),
        (("hotel", {"day": "sat"}, {}, ("people",)), "Slot 'people' is told but not wanted"),
        (("hotel", {"day": "sat", "people": "1"}, {"day": "sat"}, ("day",)), "'day' is told in the opening already"),
        (("hotel", {"day": "sat"}, {"day": "sun"}), "The opening tells every slot"),
        (("hotel", {}), "The opening tells every slot"),
    ],
)
def test_goals_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Goal(*arguments)


@pytest.mark.parametrize("text", ["", "hotel", "[]", '{"service": "hotel"}', {"service": "hotel"}, None])
def test_a_goal_column_that_cannot_be_read(text):
    with pytest.raises(ValueError, match="A goal is a JSON string as `Goal.to_json` writes it, got"):
        task_completion([opening(HOTEL)], [talk(HOTEL, "ask day")], goal=[text])


def test_rows_that_do_not_fit_together():
    goal, asked = [HOTEL.to_json()], [talk(HOTEL, "ask day")[:1]]
    for function in (environment, *RATES, graded_reward):
        for prompt in (HOTEL.prompt, opening(TRAIN), []):
            with pytest.raises(ValueError, match="the opening of its goal, 'hotel;day=fri;people;stars', got"):
                function([prompt], asked, goal=goal)
        for completion in ("ask day", []):
            with pytest.raises(ValueError, match="a list of messages, an assistant's first, got"):
                function([opening(HOTEL)], [completion], goal=goal)
    with pytest.raises(ValueError, match="A user answers an assistant's message, got .*'stars=4;day=sat'"):
        answer(HOTEL, talk(HOTEL, "ask stars"))
    with pytest.raises(ValueError, match="Unknown domain 'longer'; choose from in_domain, more_slots"):
        generate_goals(seed=0, domain="longer")
    assert json.loads(goal[0])["told"] == {"day": "fri"}  # plain JSON, whoever reads it
