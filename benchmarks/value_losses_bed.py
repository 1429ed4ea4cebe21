"""The test bed of `value_losses.py`: policies of one depth, their completions, rewards, and the truth by Monte Carlo.

Each seed has a policy of its own, trained by imitation of somebody careless (`examples/arithmetic`), prompts and
completions of its own. Sampling reads the whole prefix for each token: for models this small faster than a cache.
"""

import random
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F
from value_losses_stack import StackedAdamW, StackedBody

from modeling_dvpo.training.tasks import arithmetic, imitation

DOMAIN, CARELESSNESS = "single_digits", 0.2
HIDDEN = 96
MOST_NEW_TOKENS = 36
POLICY_STEPS, POLICY_ROWS, POLICY_RATE = 1000, 64, 4e-3
HELD_OUT_PROMPTS, EACH = 200, 16
STATES, CONTINUATIONS = 200, 64


@dataclass
class Rows:
    """Sequences of one policy: ids (n, T) padded on the right, action tokens, exact and graded rewards."""

    ids: Tensor
    actions: Tensor
    exact: Tensor
    graded: Tensor

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class Bed:
    """All of one depth: a stack of policies, one a seed, and by seed what they wrote."""

    policies: StackedBody
    train: list[Rows]
    held_out: list[Rows]
    """`EACH` completions of a prompt stand together."""
    states: list[tuple[Tensor, Tensor]]
    """Prefixes (S, T) padded on the right, and their lengths (S,)."""
    truth: list[Tensor]
    """Exact rewards of continuations of these states, (S, C)."""


def demonstrations_of(seed: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels of all rows that a policy imitates, (n, T)."""
    torch.set_num_threads(1)
    number = POLICY_STEPS * POLICY_ROWS
    stream = arithmetic.demonstrations(seed=seed, domain=DOMAIN, carelessness=CARELESSNESS)
    batch = imitation.imitation_batch(list(islice(stream, number)), arithmetic.tokenizer())
    return batch["input_ids"], batch["labels"]


def train_policies(seeds: list[int], layers: int, device: str, pool: ProcessPoolExecutor) -> StackedBody:
    tokenizer = arithmetic.tokenizer()
    models = []
    for seed in seeds:
        torch.manual_seed(seed)
        models.append(imitation.build_policy(tokenizer, hidden_size=HIDDEN, num_layers=layers))
    policies = StackedBody.of(models, device)
    found = list(pool.map(demonstrations_of, seeds))
    longest = max(ids.shape[1] for ids, _ in found)
    ids = torch.stack([F.pad(ids, (0, longest - ids.shape[1])) for ids, _ in found]).to(device)
    labels = torch.stack([F.pad(labels, (0, longest - labels.shape[1]), value=-100) for _, labels in found]).to(device)
    weights = list(policies.weights.values())
    optimizer = StackedAdamW([(weights, torch.full((len(seeds),), POLICY_RATE, device=device))])
    for step in range(POLICY_STEPS):
        rows = slice(step * POLICY_ROWS, (step + 1) * POLICY_ROWS)
        wanted = labels[:, rows, 1:]
        logits = policies.logits(ids[:, rows, :-1])
        loss = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), reduction="sum") * len(seeds)
        (loss / (wanted != -100).sum()).backward()
        optimizer.step(min((step + 1) / 50, 1 - step / POLICY_STEPS))
    return policies


@torch.no_grad()
def sample(policies: StackedBody, ids: Tensor, lengths: Tensor, limits: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Continue rows of every policy at temperature 1, each at its own length.

    Args:
        ids: (R, B, T) prefixes padded on the right, with room for what is written.
        lengths, limits: (R, B), tokens of the prefix, and the length at which a row is cut.

    Returns:
        ids with the completions, and lengths, end token included.
    """
    end = arithmetic.tokenizer().eos_token_id
    generator = torch.Generator(ids.device).manual_seed(seed)
    ids, lengths = ids.clone(), lengths.clone()
    done = torch.zeros_like(lengths, dtype=torch.bool)
    while not done.all():
        seen = int(lengths.max())
        states = policies(ids[..., :seen])
        last = states.gather(2, (lengths - 1)[..., None, None].expand(*lengths.shape, 1, states.shape[-1]))[:, :, 0]
        odds = torch.bmm(last, policies.weights["embed_tokens.weight"].mT).softmax(-1)
        token = torch.multinomial(odds.flatten(0, 1), 1, generator=generator).reshape(lengths.shape)
        token = torch.where(done, ids.gather(2, lengths.clamp(max=ids.shape[2] - 1)[..., None])[..., 0], token)
        ids.scatter_(2, lengths.clamp(max=ids.shape[2] - 1)[..., None], token[..., None])
        lengths = torch.where(done, lengths, lengths + 1)
        done = done | (token == end) | (lengths >= limits)
    return ids, lengths


def scored(job: tuple[list[list[int]], list[list[int]]]) -> tuple[list[float], list[float]]:
    """Exact and graded rewards of token rows (prompts, completions without their end)."""
    torch.set_num_threads(1)
    tokenizer = arithmetic.tokenizer()
    prompts, completions = (tokenizer.batch_decode(rows) for rows in job)
    return arithmetic.exact_reward(prompts, completions), arithmetic.graded_reward(prompts, completions)


def prompts_of(job: tuple[int, int, bool, int]) -> list[list[int]]:
    """Tokens of prompts: (seed, how many, whether held out, how often each)."""
    seed, number, held_out, each = job
    tokenizer = arithmetic.tokenizer()
    problems = arithmetic.generate_problems(seed=seed, domain=DOMAIN, held_out=held_out)
    texts = [problem.prompt for problem in islice(problems, number)]
    return [row for row in tokenizer(texts).input_ids for _ in range(each)]


def completions(policies, prompts: list[list[list[int]]], seed: int, pool, *, rows: int = 8192) -> list[Rows]:
    """Sampled and scored, by policy; each has the same number of prompts."""
    device, pad = policies.weights["norm.weight"].device, arithmetic.tokenizer().pad_token_id
    width = max(len(row) for some in prompts for row in some) + MOST_NEW_TOKENS
    lengths = torch.tensor([[len(row) for row in some] for some in prompts])
    ids = torch.tensor([[row + [pad] * (width - len(row)) for row in some] for some in prompts])
    parts = [
        sample(policies, part.to(device), size.to(device), size.to(device) + MOST_NEW_TOKENS, seed + place)
        for place, (part, size) in enumerate(zip(ids.split(rows, 1), lengths.split(rows, 1), strict=True))
    ]
    written = torch.cat([ids for ids, _ in parts], 1).cpu()
    ends = torch.cat([size for _, size in parts], 1).cpu()
    places = torch.arange(width)
    found = []
    for ids, start, stop in zip(written, lengths, ends, strict=True):
        actions = (places >= start[:, None]) & (places < stop[:, None])
        found.append(
            (ids.where(places < stop[:, None], torch.tensor(pad)), actions, rewards_of(ids, start, stop, pool))
        )
    return [Rows(ids, actions, exact, graded) for ids, actions, (exact, graded) in found]


def rewards_of(ids: Tensor, start: Tensor, stop: Tensor, pool) -> tuple[Tensor, Tensor]:
    end = arithmetic.tokenizer().eos_token_id
    rows = [
        (row[:a], [token for token in row[a:b] if token != end])
        for row, a, b in zip(ids.tolist(), start.tolist(), stop.tolist(), strict=True)
    ]
    jobs = [
        ([p for p, _ in rows[i : i + 4000]], [c for _, c in rows[i : i + 4000]]) for i in range(0, len(rows), 4000)
    ]
    exact, graded = zip(*pool.map(scored, jobs), strict=True)
    return torch.tensor(sum(exact, [])), torch.tensor(sum(graded, []))


def truth_of(policies, held_out: list[Rows], seed: int, pool) -> tuple[list, list]:
    """By policy: states spread over held-out completions, and exact rewards of their continuations."""
    device, pad = policies.weights["norm.weight"].device, arithmetic.tokenizer().pad_token_id
    chosen, starts = [], []
    for place, rows in enumerate(held_out):
        rng = random.Random(f"{seed} {place}")
        picked = rng.sample(range(len(rows)), STATES)
        first = rows.actions.int().argmax(1)
        written = rows.actions.sum(1)
        cuts = [int(first[i] + (j + rng.random()) / STATES * written[i]) for j, i in enumerate(picked)]
        chosen.append((rows.ids[picked], torch.tensor(cuts)))
        starts.append(first[picked])
    ids = torch.stack([ids for ids, _ in chosen]).repeat_interleave(CONTINUATIONS, 1)
    cuts = torch.stack([cut for _, cut in chosen])
    ids = torch.where(torch.arange(ids.shape[2]) < cuts.repeat_interleave(CONTINUATIONS, 1)[..., None], ids, pad)
    each = cuts.repeat_interleave(CONTINUATIONS, 1).to(device)
    first = torch.stack(starts).repeat_interleave(CONTINUATIONS, 1)
    written, ends = sample(policies, ids.to(device), each, first.to(device) + MOST_NEW_TOKENS, seed)
    states, truths = [], []
    for place in range(len(held_out)):
        exact, _ = rewards_of(written[place].cpu(), first[place], ends[place].cpu(), pool)
        truths.append(exact.reshape(STATES, CONTINUATIONS))
        states.append((ids[place, ::CONTINUATIONS], cuts[place]))
    return states, truths


def make_bed(seeds: list[int], layers: int, rows: int, device: str, pool: ProcessPoolExecutor) -> Bed:
    policies = train_policies(seeds, layers, device, pool)
    train = completions(policies, list(pool.map(prompts_of, [(seed + 1, rows, False, 1) for seed in seeds])), 0, pool)
    prompts = list(pool.map(prompts_of, [(seed + 1000, HELD_OUT_PROMPTS, True, EACH) for seed in seeds]))
    held_out = completions(policies, prompts, 1000, pool)
    states, truth = truth_of(policies, held_out, 3000, pool)
    return Bed(policies, train, held_out, states, truth)
