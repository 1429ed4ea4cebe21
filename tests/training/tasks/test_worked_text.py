"""What arithmetic and knowledge share: streams of problems, demonstrations, and rewards of a completion's lines.

The streams themselves are tested in test_problem_streams.py, the rewards by hand with each task.
"""

import itertools
import random
import re

import pytest

from modeling_dvpo.training.tasks import arithmetic, knowledge
from modeling_dvpo.training.tasks.imitation import imitation_batch

TASKS = pytest.mark.parametrize("task", [arithmetic, knowledge])


@pytest.mark.parametrize(
    "task, prompts, completion, exact, graded",
    [
        (arithmetic, ["2+3=", "9-4="], "2+3=5;answer 5", [1.0, 1.0], [1.0, 1 / 2]),  # the answer, not the step
        (knowledge, ["a>b;b>a?a>", "a>b;b>a?b>"], "a>b;answer b", [1.0, 0.0], [1.0, 0.0]),
    ],
)
def test_rewards_pair_each_completion_with_its_own_prompt_and_ignore_other_columns(
    task, prompts, completion, exact, graded
):
    for reward, expected in ((task.exact_reward, exact), (task.graded_reward, graded)):
        assert reward(prompts, [completion] * 2, source=["a", "b"], trainer_state=None) == expected
        with pytest.raises(ValueError, match="shorter"):
            reward(prompts, [completion])


@TASKS
def test_demonstrations_are_careless_work_of_the_training_side_in_the_tasks_tokens(task):
    def shown(carelessness):
        stream = task.demonstrations(seed=0, domain=list(task.DOMAINS), carelessness=carelessness)
        return list(itertools.islice(stream, 300))

    rows = shown(0.3)
    assert rows == shown(0.3)
    assert {tuple(is_action for _, is_action in row) for row in rows} == {(False, True)}
    prompts, completions = zip(*([text for text, _ in row] for row in rows), strict=True)
    assert not any(map(task.is_held_out, prompts))
    assert 0.3 < sum(task.exact_reward(prompts, completions)) / len(rows) < 0.9
    assert all(task.is_correct(prompt, completion) for (prompt, _), (completion, _) in shown(0.0))

    tokenizer = task.tokenizer()
    ids = imitation_batch(rows, tokenizer)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids[0], skip_special_tokens=True) == prompts[0] + completions[0]


@TASKS
def test_rows_are_the_prompts_of_distinct_problems_of_one_side(task):
    options = {"seed": 1, "domain": task.STUDY_DOMAINS[-1], "held_out": True}
    problems = task.distinct_problems(50, **options)
    assert task.prompt_rows(50, **options) == [{"prompt": problem.prompt} for problem in problems]
    assert len(set(problems)) == 50 and all(task.is_held_out(problem.prompt) for problem in problems)
    training = task.distinct_problems(20, seed=3)
    assert training == task.distinct_problems(20, seed=3, domain=list(task.DOMAINS)[0])  # the default
    assert not any(task.is_held_out(problem.prompt) for problem in training)
    with pytest.raises(ValueError, match=f"Unknown domain 'calculus'; choose from {', '.join(task.DOMAINS)}"):
        task.generate_problems(seed=0, domain="calculus")


@pytest.mark.parametrize(
    "task, completion, stated",
    [
        (arithmetic, "3-8=-5;answer -5", -5),
        (arithmetic, "answer 3;answer 010", 10),
        (knowledge, "b>a;answer a", "a"),
        (knowledge, "answer a;answer b", "b"),
        *((arithmetic, text, None) for text in ("10", "the answer 10", "answer 10;", "answer 10\n", "answer 10 ")),
        *(
            (knowledge, text, None)
            for text in ("a", "the answer a", "answer a;", "answer a\n", "answer ", "answer ab")
        ),
    ],
)
def test_only_a_final_answer_line_counts(task, completion, stated):
    assert task.stated_answer(completion) == stated
    assert task.is_correct({arithmetic: "3+7=", knowledge: "a>b;b>c;c>a?c>"}[task], completion) == (
        stated in (10, "a")
    )


@pytest.mark.parametrize(
    "task, prompts",
    [
        (arithmetic, ["", "7+3", "7+=", "+7=", "7/3=", "7+3= "]),
        (knowledge, ["", "a>b;b>a", "a>b;b>a?", "a>b;b>a?a", "a>b;b>a?a>;", "?a>", "ab>c?a>", "A>a?A>"]),
    ],
)
def test_other_prompts_are_refused(task, prompts):
    for prompt in prompts:
        with pytest.raises(ValueError, match=f"looks like .*, got {re.escape(repr(prompt))}"):
            task.Problem.from_prompt(prompt)


@pytest.mark.parametrize(
    "task, prompt, rate, tolerance",
    # Of 4000 tries: the standard errors of 30 and 3 % are 0.7 and 0.3 %.
    [
        (arithmetic, "8+7=", 0.3, 0.03),  # carries
        (arithmetic, "8+1=", 0.03, 0.012),
        (knowledge, "c>d;a>c;d>a;b>a?c>", 0.3, 0.03),
        (knowledge, "c>d;a>c;d>a;b>a?a>", 0.3, 0.03),
        (knowledge, "c>d;a>c;d>a;b>a?d>", 0.03, 0.012),  # the last two facts are fresh
        (knowledge, "c>d;a>c;d>a;b>a?b>", 0.03, 0.012),
    ],
)
def test_careless_work_slips_at_the_promised_rates(task, prompt, rate, tolerance):
    rng = random.Random(0)
    worked = [task.Problem.from_prompt(prompt).worked(0.3, rng) for _ in range(4000)]
    wrong = 1 - sum(task.exact_reward([prompt] * len(worked), worked)) / len(worked)
    assert wrong == pytest.approx(rate, abs=tolerance)
