"""Time and memory of `quantile_huber_loss` against the pairwise form, forward and backward, in one run.

    python benchmarks/quantile_huber.py [--threads 2] [--tokens 4096] [--heads 3] [--chunk 128]

The pairwise form goes through `--chunk` tokens at a time; all at once it needs gigabytes for a thousand tokens.
Each measurement has a process of its own; memory is the growth of its peak resident size over the inputs alone.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch

from modeling_dvpo.critic.quantile_huber import quantile_huber_loss
from modeling_dvpo.critic.quantiles import quantile_levels

KAPPA = 0.02


def pairwise(predictions, targets, chunk):
    """The usual implementation: every pair, with autograd through each chunk."""
    levels = quantile_levels(predictions.shape[-1])[:, None]
    for rows in range(0, len(predictions), chunk):
        q, y = predictions[rows : rows + chunk, :, :, None], targets[rows : rows + chunk, :, None, :]
        u = y - q
        huber = torch.where(u.abs() <= KAPPA, 0.5 * u.square(), KAPPA * (u.abs() - 0.5 * KAPPA))
        losses = ((levels - (u.detach() < 0).float()).abs() * huber / KAPPA).mean(dim=(-1, -2))
        losses.sum().backward()


def ours(predictions, targets, _):
    quantile_huber_loss(predictions, targets, kappa=KAPPA).sum().backward()


def measure(name, tokens, heads, num_quantiles, num_targets, repeats, chunk):
    """Best time of `repeats` (after one warm-up if there are several), and peak memory beyond the inputs."""
    generator = torch.Generator().manual_seed(0)
    predictions = torch.randn(tokens, heads, num_quantiles, generator=generator).requires_grad_()
    targets = torch.randn(tokens, 1, num_targets, generator=generator)
    function = {"ours": ours, "pairwise": pairwise}[name]
    function(predictions[:1].detach().requires_grad_(), targets[:1], chunk)  # load every kernel before memory is read
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    times = []
    for _ in range(repeats):
        predictions.grad = None
        start = time.perf_counter()
        function(predictions, targets, chunk)
        times.append(time.perf_counter() - start)
        if len(times) == 1:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": min(times), "bytes": peak - before, "predictions": predictions.numel() * 4}


def measure_apart(threads, *arguments):
    command = [sys.executable, __file__, "--threads", str(threads), "--measure", *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--heads", type=int, default=3)
    parser.add_argument("--quantiles", type=int, nargs="+", default=[50, 200, 500])
    parser.add_argument("--chunk", type=int, default=128, help="tokens at a time in the pairwise form")
    parser.add_argument("--measure", nargs=7, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        print(json.dumps(measure(options.measure[0], *map(int, options.measure[1:]))))
        sys.exit()
    print(f"{options.tokens} tokens x {options.heads} heads, forward + backward, {options.threads} threads\n")
    print("| M | K | ours | pairwise | ratio | extra memory, ours | pairwise |")
    print("|---|---|---|---|---|---|---|")
    for num_quantiles in options.quantiles:
        for num_targets in (num_quantiles, 1):
            sizes = (options.tokens, options.heads, num_quantiles, num_targets)
            fast = measure_apart(options.threads, "ours", *sizes, 5, options.chunk)
            slow = measure_apart(options.threads, "pairwise", *sizes, 1 if num_targets > 1 else 5, options.chunk)
            memory = [f"{x['bytes'] / 2**20:.0f} MiB ({x['bytes'] / x['predictions']:.1f} x)" for x in (fast, slow)]
            print(
                f"| {num_quantiles} | {num_targets} | {1e3 * fast['seconds']:.1f} ms | {1e3 * slow['seconds']:.1f} ms "
                f"| {slow['seconds'] / fast['seconds']:.1f} | {memory[0]} | {memory[1]} |",
                flush=True,
            )
    print("\nMemory in brackets: as a multiple of the predictions' own size.")
