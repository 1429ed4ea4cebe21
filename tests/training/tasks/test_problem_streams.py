import itertools
import random
from dataclasses import dataclass

import pytest

from modeling_dvpo.training.tasks.problem_streams import first_distinct, is_held_out, problem_stream


@dataclass(frozen=True)
class Number:
    prompt: str


DOMAINS = {"small": 100, "large": 10_000}


def draw(limit: int, rng: random.Random) -> Number | None:
    number = rng.randrange(limit)
    return None if number % 7 == 0 else Number(f"{number}/{limit}")


def first(count, domain, *, seed=0, held_out=False, task="numbers"):
    return list(itertools.islice(problem_stream(task, draw, DOMAINS, domain, seed=seed, held_out=held_out), count))


def test_one_side_of_the_split_and_no_refused_draw():
    for held_out in (False, True):
        numbers = first(300, "large", held_out=held_out)
        assert all(is_held_out(number.prompt) == held_out for number in numbers)
        assert all(int(number.prompt.partition("/")[0]) % 7 for number in numbers)


def test_one_prompt_in_five_is_held_out():
    share = sum(is_held_out(f"{number}+1=") for number in range(5000)) / 5000  # standard error 0.006
    assert share == pytest.approx(0.2, abs=0.02)


def test_seed_task_and_domain_decide_the_stream():
    streams = [
        first(20, "small"),
        first(20, "large"),
        first(20, "large", seed=1),
        first(20, "large", task="others"),
    ]
    assert first(20, "large") == streams[1]
    assert all(one != other for one, other in itertools.combinations(streams, 2))


def test_a_mixture_is_even_and_each_part_is_the_stream_it_would_be_alone():
    mixed = first(1000, ["small", "large"])
    parts = {name: [n for n in mixed if n.prompt.endswith(f"/{limit}")] for name, limit in DOMAINS.items()}
    for name, part in parts.items():
        assert len(part) == pytest.approx(500, abs=65)  # four standard errors
        assert part == first(len(part), name)
    assert first(50, ["small"]) == first(50, "small")


@pytest.mark.parametrize(
    "domain, message",
    [
        ("medium", "Unknown domain 'medium'; choose from small, large"),
        (["small", "medium"], "Unknown domain 'medium'"),
        ([], "No domain given"),
    ],
)
def test_unknown_domains_are_refused_before_anything_is_drawn(domain, message):
    with pytest.raises(ValueError, match=message):
        problem_stream("numbers", draw, DOMAINS, domain, seed=0, held_out=False)


def test_first_distinct_keeps_the_order_of_the_stream():
    assert first_distinct(3, map(Number, "aabacd")) == [Number("a"), Number("b"), Number("c")]
