import itertools
import random

import pytest

from modeling_dvpo.training.tasks.knowledge import (
    DOMAINS,
    STUDY_DOMAINS,
    Problem,
    exact_reward,
    generate_problems,
    graded_reward,
)

PROMPT = "c>d;a>c;d>a;b>a?b>>>"
#   what is written                exact  graded
CASES = [
    ("b>a;a>c;c>d;answer d", 1.0, 1.0),
    ("b>a;a>d;d>a;answer a", 0.0, 1 / 4),  # one slip, and what follows from it
    ("b>c;c>d;d>a;answer a", 0.0, 0.0),
    ("b>a;a>c;c>d;answer c", 0.0, 3 / 4),  # right walk, answer copied wrongly
    ("b>a;a>c;c>b;answer d", 1.0, 3 / 4),  # right by luck
    ("b>a;a>c;answer c", 0.0, 1 / 2),  # one hop too few
    ("b>a;a>c;c>d;d>a;answer a", 0.0, 3 / 4),  # one too many
    ("answer d", 1.0, 0.0),
    ("b>a;a>c;c>d", 0.0, 3 / 4),  # cut before the answer
    ("", 0.0, 0.0),
]


@pytest.mark.parametrize("completion, exact, graded", CASES)
def test_rewards_by_hand(completion, exact, graded):
    assert exact_reward(prompts=[PROMPT], completions=[completion]) == [exact]
    assert graded_reward(prompts=[PROMPT], completions=[completion]) == [graded]


def test_reference_solution_by_hand():
    problem = Problem.from_prompt(PROMPT)
    assert problem == Problem((("c", "d"), ("a", "c"), ("d", "a"), ("b", "a")), "b", 3)
    assert problem.solution == "b>a;a>c;c>d;answer d"
    assert (problem.prompt, problem.answer) == (PROMPT, "d")
    assert Problem.from_prompt("a>b;b>a?a>>>").solution == "a>b;b>a;a>b;answer b"  # a walk may come back


@pytest.mark.parametrize("prompt", ["a>b?a>", "a>b;a>c;b>a;c>a?a>", "a>b;b>a?c>"])
def test_facts_have_to_say_where_every_name_leads_and_only_once(prompt):
    with pytest.raises(ValueError, match="one fact for each of its names"):
        Problem.from_prompt(prompt)


@pytest.mark.parametrize("domain", DOMAINS)
def test_generated_problems_stay_in_their_domain_and_are_walked_right(domain):
    limits = DOMAINS[domain]
    problems = list(itertools.islice(generate_problems(seed=0, domain=domain), 300))
    for problem in problems:
        assert Problem.from_prompt(problem.prompt) == problem
        place = problem.start
        for _ in range(problem.num_hops):
            (place,) = [leads_to for name, leads_to in problem.facts if name == place]
        assert problem.answer == place
        assert all(name != leads_to for name, leads_to in problem.facts)
        assert {name for name, _ in problem.facts} <= set(limits.names)
    for seen, (fewest, most) in (
        ({len(problem.facts) for problem in problems}, limits.num_facts),
        ({problem.num_hops for problem in problems}, limits.num_hops),
    ):
        assert seen == set(range(fewest, most + 1))


def test_no_two_domains_share_a_prompt():
    assert set(STUDY_DOMAINS) == set(DOMAINS)
    for one, other in itertools.combinations(DOMAINS.values(), 2):
        assert any(
            set(range(a[0], a[1] + 1)).isdisjoint(range(b[0], b[1] + 1))
            for a, b in zip((one.num_facts, one.num_hops), (other.num_facts, other.num_hops), strict=True)
        )


def test_careless_work_carries_on_from_the_wrong_name():
    problem = Problem.from_prompt("c>d;a>c;d>a;b>a?a>>")
    slipped = {problem.worked(1.0, random.Random(seed)) for seed in range(200)}
    for text in slipped:
        first, second, answer = text.split(";")
        assert first in ("a>b", "a>d")  # neither the right name nor the one it stands on
        assert second.startswith(first[2] + ">")
        assert answer == f"answer {second[2]}"
    # fresh facts are misread in a tenth of the cases: mostly b>a and d>a
    assert {"a>b;b>a;answer a", "a>d;d>a;answer a"} < slipped


def test_with_two_names_there_is_nothing_to_mistake():
    assert Problem.from_prompt("a>b;b>a?a>").worked(1.0, random.Random(0)) == "a>b;answer b"
