"""Which loss learns a value best from which reward: the table of docs/studies/value_losses.md.

    python benchmarks/value_losses.py --output outputs/value_losses.jsonl --device cuda --minutes 9
    python benchmarks/value_losses_report.py outputs/value_losses.jsonl --output docs/studies

Critics of every loss start from the weights of the policy whose completions they read (arithmetic, `single_digits`;
a policy, prompts and completions of its own for each seed), and are held against *clean* rewards of 16 completions of
each of 200 held-out prompts, and against 64 continuations of each of 200 states. A line of the output is one critic. A
run that is stopped goes on: lines that are there are not made again.

Decided before the runs:
- What counts is `pairs`, the share of pairs of a right and a wrong completion of one prompt (of two completions of
  different graded reward) that the critic has in order, read in the state before the last action.
- All methods get the same budget to choose rates: 6 rates of body and heads each, on a seed of its own (100), 0/1
  reward, 6 layers, 60,000 rows once; the best by `pairs` there is used everywhere.
- A method is called better than another for a reward if its `pairs` is higher at 6 layers and 60,000 rows, the mean
  of the paired differences over seeds, and the 95 % t-interval of these excludes 0. Three seeds: only large gaps can.
- Rows and passes: 60,000 x 1.5, 12,000 x 4, 3,000 x 8; batches of 64; a rise over a twentieth, then half a cosine.
"""

import argparse
import json
import time
import traceback
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import Tensor
from value_losses_bed import EACH, Bed, Rows, make_bed
from value_losses_methods import METHODS, REWARDS, Method, StackedHeads, labels, readings
from value_losses_stack import StackedAdamW, rate_share

from modeling_dvpo.metrics.scores import crps, explained_variance

PASSES = {60000: 1.5, 12000: 4.0, 3000: 8.0}
BATCH = 64
# (body, heads): the six that every method chooses from
RATES = [(body, heads * body) for body in (5e-4, 1e-3) for heads in (1, 4, 16)]
TUNING_SEED = 100
# the most valuable first: depth, rows
CELLS = [(6, 60000), (6, 12000), (12, 60000), (3, 60000), (6, 3000), (3, 12000), (12, 12000), (3, 3000), (12, 3000)]


def order_of(rows: Rows, number: int, steps: int, seed: int) -> Tensor:
    """Row numbers of every step, (steps, BATCH): shuffled, neighbours in a step of like length."""
    generator = torch.Generator().manual_seed(seed)
    lengths = rows.ids.ne(rows.ids[0, -1]).sum(1)
    batches: list[Tensor] = []
    while len(batches) < steps:
        shuffled = torch.randperm(number, generator=generator)
        for chunk in shuffled[: number // BATCH * BATCH].split(16 * BATCH):
            batches += chunk[lengths[chunk].argsort()].split(BATCH)
    # chunks are in order of length, alike in every run, so that a stack pads little
    places = torch.cat([block[torch.randperm(len(block))] for block in torch.arange(len(batches)).split(16)])
    return torch.stack(batches)[places[:steps]]


def train(bed: Bed, critics: list[tuple[Method, str, int]], rates: list[tuple[float, float]], number: int, steps: int):
    """Critics (method, reward, index of the seed) as one stack; by method its heads, and the stack of bodies.

    Args:
        rates: of body and heads, by critic.
    """
    device = bed.policies.weights["norm.weight"].device
    seeds = [seed for *_, seed in critics]
    body = bed.policies.repeated(seeds)
    names = list(dict.fromkeys(method.name for method, *_ in critics))
    members = {name: [i for i, (method, *_) in enumerate(critics) if method.name == name] for name in names}
    targets = torch.stack(
        [labels(reward, bed.train[seed].exact, bed.train[seed].graded, seed) for _, reward, seed in critics]
    )
    hidden = bed.policies.config.hidden_size
    heads = {}
    for name, which in members.items():
        tokens = {i: bed.train[critics[i][2]].actions[:number].sum(1) for i in which}
        runs = [METHODS[name].run(targets[i, :number].repeat_interleave(tokens[i])) for i in which]
        heads[name] = StackedHeads(runs, hidden, device, [seeds[i] for i in which])
    body_rates, head_rates = torch.tensor(rates, device=device).T
    groups = [(list(body.weights.values()), body_rates)]
    optimizer = StackedAdamW(groups)
    heads_optimizer = {
        name: StackedAdamW([([stack.weight, stack.bias], head_rates[members[name]])]) for name, stack in heads.items()
    }
    distinct = list(dict.fromkeys(seeds))
    orders = {seed: order_of(bed.train[seed], number, steps, seed) for seed in distinct}
    data = {
        seed: (bed.train[seed].ids.to(device), bed.train[seed].actions.to(device), orders[seed].to(device))
        for seed in distinct
    }
    targets = targets.to(device)
    underestimation = torch.zeros(len(critics), device=device)
    for step in range(steps):
        ids = torch.stack([data[seed][0][data[seed][2][step]] for seed in distinct])
        actions = torch.stack([data[seed][1][data[seed][2][step]] for seed in distinct])
        longest = int(actions.any(1).any(0).nonzero().max()) + 1
        where = [distinct.index(seed) for seed in seeds]
        ids, actions = ids[where, :, :longest], actions[where, :, :longest]
        returns = torch.stack([targets[i][data[seed][2][step]] for i, seed in enumerate(seeds)])
        states = body(ids[..., :-1]).flatten(1, 2)
        mask = actions[..., 1:].flatten(1)
        wanted = returns[..., None].expand(*actions[..., 1:].shape).flatten(1)
        loss, gaps = states.new_zeros(()), torch.zeros_like(underestimation)
        for name, which in members.items():
            part, gap = heads[name].loss(states[which], wanted[which], mask[which], underestimation[which] > 0)
            loss = loss + part
            gaps[which] = gap
        loss.backward()
        share = rate_share(step + 1, steps)
        optimizer.step(share)
        for own in heads_optimizer.values():
            own.step(share)
        underestimation = 0.95 * underestimation + 0.05 * gaps.detach().nan_to_num()
    return body, heads, members


@torch.no_grad()
def predictions(body, heads, members, ids: list[Tensor], places: list[Tensor], rows: int = 256) -> list[Tensor]:
    """Quantiles of each critic at one place of each row of its own seed, (n, M), the reward's units."""
    device = body.weights["norm.weight"].device
    ids, places = torch.stack(ids), torch.stack(places)
    found: list[list[Tensor]] = [[] for _ in range(len(ids))]
    for part, where in zip(ids.split(rows, 1), places.split(rows, 1), strict=True):
        states = body(part[..., : int(where.max()) + 1].to(device))
        states = states.gather(2, where.to(device)[..., None, None].expand(*where.shape, 1, states.shape[-1]))[:, :, 0]
        for name, which in members.items():
            quantiles = heads[name].quantiles(heads[name].outputs(states[which]))
            for i, some in zip(which, quantiles.cpu(), strict=True):
                found[i].append(some)
    return [torch.cat(parts) for parts in found]


def pairs_in_order(values: Tensor, truth: Tensor) -> float:
    """Share of pairs of one prompt whose truth differs that have the greater value where it is greater; ties half."""
    v, y = values.reshape(-1, EACH).double(), truth.reshape(-1, EACH)
    greater = y[:, :, None] > y[:, None]
    order = (v[:, :, None] - v[:, None]).sign()[greater]
    return ((order + 1) / 2).mean().item()


def best_of(values: Tensor, truth: Tensor, size: int) -> float:
    v, y = values.reshape(-1, size), truth.reshape(-1, size)
    return y.gather(1, v.argmax(1, keepdim=True)).mean().item()


def judged(quantiles: Tensor, at_states: Tensor, rows: Rows, truth: Tensor, reward: str) -> dict:
    """A critic against clean rewards of held-out completions, and against continuations of states."""
    wanted = rows.graded if reward == "graded" else rows.exact
    read = readings(quantiles)
    value = read["mean"]
    within = [x.reshape(-1, EACH) - x.reshape(-1, EACH).mean(1, keepdim=True) for x in (value, wanted)]
    found = {
        "pairs": {name: pairs_in_order(some, wanted) for name, some in read.items()},
        "best_of": {str(size): best_of(value, rows.exact, size) for size in (1, 2, 4, 8, 16)},
        "explained_variance": explained_variance(value, wanted),
        "explained_within": explained_variance(within[0].flatten(), within[1].flatten()),
    }
    if reward != "graded":
        read, means = readings(at_states), truth.mean(1)
        found["states"] = {
            "explained_variance": explained_variance(read["mean"], means),
            "median": explained_variance(read.get("median", read["mean"]), means),
        }
        if reward == "exact":  # a scalar critic's as the Bernoulli that it is
            p = read["mean"].clamp(0, 1)[:, None]
            scores = (p - truth).square() if at_states.shape[1] == 1 else crps(at_states, truth)
            found["states"]["crps"] = scores.mean().item()
    return found


class Study:
    def __init__(self, options):
        self.options, self.started = options, time.perf_counter()
        self.seeds = list(range(options.seeds))
        self.done = []
        if options.output.exists():
            self.done = [json.loads(line) for line in options.output.read_text(encoding="utf-8").splitlines()]
        options.output.parent.mkdir(parents=True, exist_ok=True)
        self.pool = ProcessPoolExecutor(mp_context=get_context("spawn"))

    def left(self) -> float:
        return 60 * self.options.minutes - (time.perf_counter() - self.started)

    def say(self, text: str) -> None:
        print(f"{time.perf_counter() - self.started:6.1f} s  {text}", flush=True)

    def write(self, lines: list[dict]) -> None:
        self.done += lines
        with self.options.output.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)

    def run(self) -> None:
        rates = self.tuned()
        beds: dict[int, Bed] = {}
        slowest = 0.0
        for layers, rows in CELLS:
            missing = [
                (method, reward, seed)
                for seed in self.seeds
                for reward in REWARDS
                for method in METHODS.values()
                if method.name in rates and not self.has("critic", layers, rows, method.name, reward, seed)
            ]
            if not missing or layers not in self.options.depths:
                continue
            if self.left() < slowest * layers / 6 * rows * PASSES[rows] / 90000:
                self.say(f"no time is left for {layers} layers, {rows} rows")
                continue
            if layers not in beds:
                beds = {
                    layers: make_bed(
                        self.seeds, layers, max(PASSES) // self.options.shrink, self.options.device, self.pool
                    )
                }
                right = [round(rows.exact.mean().item(), 3) for rows in beds[layers].held_out]
                self.say(f"{layers} layers: policies right in {right} of held-out completions")
            start = time.perf_counter()
            self.cell(beds[layers], layers, rows, missing, [rates[method.name] for method, *_ in missing])
            slowest = max(slowest, (time.perf_counter() - start) * 6 / layers * 90000 / rows / PASSES[rows])

    def has(self, kind: str, *key) -> bool:
        return any(line["kind"] == kind and line["key"] == list(key) for line in self.done)

    def cell(self, bed: Bed, layers: int, rows: int, critics, rates, kind: str = "critic") -> None:
        number, chunk = rows // self.options.shrink, self.options.stack
        for start in range(0, len(critics), chunk):
            some, own = critics[start : start + chunk], rates[start : start + chunk]
            passes = 1.0 if kind == "tuning" else PASSES[rows]
            try:
                self.write(self.stack(bed, layers, rows, number, int(passes * number / BATCH), some, own, kind))
            except Exception:
                self.say(f"failed: {layers} layers, {rows} rows, {len(some)} critics\n{traceback.format_exc()}")

    def stack(self, bed, layers, rows, number, steps, critics, rates, kind) -> list[dict]:
        start = time.perf_counter()
        trained = train(bed, critics, rates, number, steps)
        seeds = [seed for *_, seed in critics]
        held_out = [bed.held_out[seed] for seed in seeds]
        # the state before the last action
        last = [rows.actions.int().cumsum(1).argmax(1) - 1 for rows in held_out]
        quantiles = predictions(*trained, [rows.ids for rows in held_out], last)
        at_states = predictions(
            *trained, [bed.states[seed][0] for seed in seeds], [bed.states[seed][1] - 1 for seed in seeds]
        )
        seconds = time.perf_counter() - start
        lines = []
        for i, (method, reward, seed) in enumerate(critics):
            named = TUNING_SEED if kind == "tuning" else self.seeds[seed]
            line = {"kind": kind, "key": [layers, rows, method.name, reward, named], "rates": rates[i]}
            judgement = judged(quantiles[i], at_states[i], held_out[i], bed.truth[seed], reward)
            lines.append(line | judgement | {"seconds": seconds / len(critics)})
        self.say(f"{kind}: {layers} layers, {rows} rows, {steps} steps, {len(critics)} critics in {seconds:.0f} s")
        return lines

    def tuned(self) -> dict[str, tuple[float, float]]:
        """Rates of body and heads for each method, by `pairs` on a seed of its own."""
        if not any(line["kind"] == "tuning" for line in self.done):
            rows = max(PASSES)
            bed = make_bed([TUNING_SEED], 6, rows // self.options.shrink, self.options.device, self.pool)
            critics = [(method, "exact", 0) for method in METHODS.values() if self.tunes(method) for _ in RATES]
            self.cell(bed, 6, rows, critics, RATES * (len(critics) // len(RATES)), kind="tuning")
        found: dict[str, tuple[float, float]] = {}
        best: dict[str, float] = {}
        for line in self.done:
            name, score = line["key"][2], line["pairs"]["mean"]
            if line["kind"] == "tuning" and score > best.get(name, -1):
                best[name], found[name] = score, tuple(line["rates"])
        for method in METHODS.values():  # the same loss on a support of another width
            if not self.tunes(method) and "HL-Gauss, 101 bins" in found:
                found[method.name] = found["HL-Gauss, 101 bins"]
        self.say(f"rates: {found}")
        return found

    def tunes(self, method: Method) -> bool:
        return method.share == 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start nothing that would take longer")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depths", type=int, nargs="+", default=[3, 6, 12])
    parser.add_argument("--stack", type=int, default=60, help="critics trained as one")
    parser.add_argument("--shrink", type=int, default=1, help="divide all numbers of rows, to try it out")
    torch.backends.cuda.matmul.allow_tf32 = True
    study = Study(parser.parse_args())
    study.run()
    study.say("done")


if __name__ == "__main__":
    main()
