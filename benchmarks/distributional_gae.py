"""Time of `distributional_gae` against a loop over tokens, in one run.

python benchmarks/distributional_gae.py [--threads 2]
"""

import argparse
import time

import torch

from modeling_dvpo.returns import distributional_gae


def token_loop(rewards, quantiles, mask, gamma, lam):
    """The usual implementation: one step of the recursion a token, all rows and quantiles at once."""
    advantages = torch.zeros_like(quantiles)
    next_value = torch.zeros_like(quantiles[:, 0])
    advantage = torch.zeros_like(next_value)
    for t in reversed(range(quantiles.shape[1])):
        step = mask[:, t, None]
        value = quantiles[:, t]
        delta = rewards[:, t, None] + gamma * next_value - value
        advantage = torch.where(step, delta + gamma * lam * advantage, advantage)
        next_value = torch.where(step, value, next_value)
        advantages[:, t] = torch.where(step, advantage, 0.0)
    return advantages, torch.where(mask[..., None], advantages + quantiles, 0.0)


def best_time(function, repeats=10, warm_up=5):
    times = []
    for _ in range(warm_up + repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times[warm_up:])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.empty(31 * 2**18)  # 31 MiB, freed at once: raises the size from which freed memory goes back to the system
    print("| rows x tokens x M | mask | index | sampled | token loop | ratio | largest difference |")
    print("|---|---|---|---|---|---|---|")
    for shape in ((4, 2048, 200), (4, 2048, 1), (16, 512, 200)):
        generator = torch.Generator().manual_seed(0)
        quantiles = torch.randn(shape, generator=generator)
        for share, name in ((1.0, "full"), (0.8, "80 %")):
            mask = torch.rand(shape[:2], generator=generator) < share
            rewards = torch.randn(shape[:2], generator=generator) * mask
            fast, slow = distributional_gae(rewards, quantiles, mask), token_loop(rewards, quantiles, mask, 1.0, 0.95)
            gap = max((one - other).abs().max().item() for one, other in zip(fast, slow, strict=True))
            index = best_time(lambda: distributional_gae(rewards, quantiles, mask))  # noqa: B023
            sampled = best_time(lambda: distributional_gae(rewards, quantiles, mask, target="sampled"))  # noqa: B023
            loop = best_time(lambda: token_loop(rewards, quantiles, mask, 1.0, 0.95), repeats=5, warm_up=1)  # noqa: B023
            print(
                f"| {' x '.join(map(str, shape))} | {name} | {1e3 * index:.1f} ms | {1e3 * sampled:.1f} ms "
                f"| {1e3 * loop:.1f} ms | {loop / index:.1f} | {gap:.0e} |",
                flush=True,
            )
