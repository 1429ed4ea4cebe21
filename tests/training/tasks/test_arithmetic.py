import itertools
import random

import pytest

from modeling_dvpo.training.tasks.arithmetic import (
    DOMAINS,
    STUDY_DOMAINS,
    Problem,
    distinct_problems,
    exact_reward,
    generate_problems,
    graded_reward,
    process_reward,
)

PROMPT = "7+3*4-9="
#   what is written                              exact  graded  process
CASES = [
    ("3*4=12;7+12=19;19-9=10;answer 10", 1.0, 1.0, 1.0),
    ("3*4=12;7+12=18;18-9=9;answer 9", 0.0, 1 / 4, -1.0),  # one slip: two of the later lines follow from it
    ("3*4=14;7+14=21;21-9=13;answer 13", 0.0, 0.0, -2.0),  # false in the first and in the third step
    ("3*4=12;7+12=19;19-9=10;answer 1", 0.0, 3 / 4, 0.0),  # true steps, answer copied wrongly
    ("3*4=13;7+13=20;19-9=10;answer 10", 1.0, 1 / 2, 0.0),  # right again by luck
    ("answer 10", 1.0, 0.0, -2.0),  # three steps missing
    ("3*4=12;7+12=19;19-9=10;1+1=2;answer 10", 1.0, 3 / 4, 0.0),  # one step too many
    ("3*4=12;7+12=19;answer 19-9;answer 10", 1.0, 3 / 4, 0.0),  # an answer before the end is no step
    ("3*4=12;7+12=19;19-9=10", 0.0, 3 / 4, 0.0),  # cut before the answer
    ("3*4=12;7+1", 0.0, 1 / 4, -2.0),  # cut within the second step, the third missing
    ("", 0.0, 0.0, -3.0),
]


@pytest.mark.parametrize("completion, exact, graded, process", CASES)
def test_rewards_by_hand(completion, exact, graded, process):
    assert exact_reward(prompts=[PROMPT], completions=[completion]) == [exact]
    assert graded_reward(prompts=[PROMPT], completions=[completion]) == [graded]
    assert process_reward(prompts=[PROMPT], completions=[completion]) == [process]


@pytest.mark.parametrize(
    "prompt, solution",
    [
        ("17+25-8=", "17+25=42;42-8=34;answer 34"),
        (PROMPT, "3*4=12;7+12=19;19-9=10;answer 10"),
        ("2*3*4-5*2=", "2*3=6;6*4=24;5*2=10;24-10=14;answer 14"),  # products from the left, then the rest
        ("3-8+9=", "3-8=-5;-5+9=4;answer 4"),
    ],
)
def test_reference_solution_by_hand(prompt, solution):
    problem = Problem.from_prompt(prompt)
    assert problem.solution == solution
    assert problem.prompt == prompt
    assert problem.answer == eval(prompt.rstrip("="))


@pytest.mark.parametrize("domain", DOMAINS)
def test_generated_problems_stay_in_their_domain_and_agree_with_python(domain):
    limits = DOMAINS[domain]
    problems = list(itertools.islice(generate_problems(seed=0, domain=domain), 200))
    for problem in problems:
        assert limits.num_operands[0] <= len(problem.operands) <= limits.num_operands[1]
        assert 0 <= problem.answer == eval(problem.prompt.rstrip("=")) <= limits.largest_value
        assert Problem.from_prompt(problem.prompt) == problem
        assert process_reward([problem.prompt], [problem.solution]) == [1.0]
    assert set(limits.operators) == {operator for problem in problems for operator in problem.operators}
    assert {len(problem.operands) for problem in problems} == set(
        range(limits.num_operands[0], limits.num_operands[1] + 1)
    )


def test_longer_domains_never_meet_the_first():
    inside = {problem.prompt for problem in distinct_problems(2000, seed=0)}
    for domain in ("longer_operands", "more_steps"):
        assert inside.isdisjoint(problem.prompt for problem in distinct_problems(500, seed=0, domain=domain))


def test_study_domains_have_no_prompt_in_common_with_the_one_trained_on():
    """By construction, not by luck: one domain has larger operands, another products, the third is longer."""
    inside, *outside = (distinct_problems(500, seed=0, domain=domain) for domain in STUDY_DOMAINS)
    assert all(len(p.operands) <= 5 and max(p.operands) < 10 and "*" not in p.operators for p in inside)
    two_digits, digit_products, many_digits = outside
    assert all(min(problem.operands) >= 10 for problem in two_digits)
    assert all("*" in problem.operators for problem in digit_products)
    assert all(len(problem.operands) >= 6 for problem in many_digits)


def test_careless_work_carries_on_from_the_wrong_value():
    problem = Problem.from_prompt("9+8-1=")
    slipped = {problem.worked(1.0, random.Random(seed)) for seed in range(50)}
    for text in slipped:
        first, second, answer = text.split(";")
        assert first != "9+8=17"
        assert second.startswith(first.partition("=")[2] + "-1=")
        assert answer == "answer " + second.partition("=")[2]
    assert len(slipped) > 3
