"""What arithmetic and knowledge share: streams of problems, demonstrations, and rewards of a completion's lines.

The streams themselves are tested in test_problem_streams.py, the rewards by hand with each task.
"""

import itertools

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
