"""What each form of the critic loss converges to, and the study behind the default weights.

    python benchmarks/loss_fixed_points.py            fixed points of one state, from single sampled returns
    python benchmarks/loss_fixed_points.py --study    a small regression problem, one weight changed at a time

Deterministic but for the machine's rounding; one CPU thread is enough (about a minute, and about five).
"""

import argparse
import math

import torch

from modeling_dvpo.critic.losses import TERMS, CriticLossConfig, dvpo_critic_loss
from modeling_dvpo.critic.quantiles import cvar, quantile_levels, upper_tail_mean

QUANTILE_ONLY = dict.fromkeys(TERMS[1:], 0.0)


def normal(rows, generator):
    return torch.randn(rows, generator=generator)


def bernoulli(rows, generator):
    return (torch.rand(rows, generator=generator) < 0.1).float()


def fixed_point(config, sample, num_quantiles=200, rows=512, num_steps=1500, seed=0):
    """Train the atoms of a single state on fresh returns, one per visit; sorted atoms (M,)."""
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.zeros(num_quantiles, requires_grad=True)
    optimizer = torch.optim.Adam([atoms], lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    mask = torch.ones(1, rows, dtype=torch.bool)
    for _ in range(num_steps):
        quantiles = atoms.expand(1, rows, 1, num_quantiles)
        loss, _ = dvpo_critic_loss(quantiles, sample(rows, generator)[None, :, None], mask, config)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return atoms.detach().sort().values


def coverage(atoms):
    """Probability that a N(0, 1) return falls between the predicted 10 % and 90 % quantiles."""
    low, high = (torch.quantile(atoms, level).item() for level in (0.1, 0.9))
    return 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))


def print_fixed_points():
    forms = {
        "quantile only, kappa 0.02": CriticLossConfig(**QUANTILE_ONLY),
        "quantile only, kappa 1": CriticLossConfig(**QUANTILE_ONLY, kappa=1.0),
        "calibrated (default)": CriticLossConfig(),
        "paper": CriticLossConfig.paper(),
        "paper, kappa 0.02": CriticLossConfig.paper(kappa=0.02),
        "paper, only cvar and gain": CriticLossConfig.paper(kappa=0.02, **QUANTILE_ONLY | {"cvar": 0.1, "gain": 0.1}),
        "paper, only shift": CriticLossConfig.paper(kappa=0.02, **QUANTILE_ONLY | {"shift": 0.1}),
    }
    print("| loss | N(0,1): mean | sd | 80 % interval covers | CVaR.1 | UTM.1 | Bernoulli(.1): mean |")
    print("|---|---|---|---|---|---|---|")
    exact = 0.1**-1 * math.exp(-(1.2815515655**2) / 2) / math.sqrt(2 * math.pi)
    print(f"| *truth* | 0 | 1 | 80 % | {-exact:.3f} | {exact:.3f} | .100 |")
    for name, config in forms.items():
        atoms = fixed_point(config, normal)
        mean = fixed_point(config, bernoulli).mean()
        print(
            f"| {name} | {atoms.mean():.3f} | {atoms.std(correction=0):.3f} | {coverage(atoms):.0%} "
            f"| {cvar(atoms, 0.1):.3f} | {upper_tail_mean(atoms, 0.1):.3f} | {mean:.3f} |",
            flush=True,
        )


class Regression:
    """States x in [-1, 1]; two branches, N(sin 3x + ½, (¼ + ½|x|)²) with probability .8, else N(sin 3x - 2, ¼²).

    A target is one return, or the atoms of the branch that was taken (as bootstrapping from the next state gives).
    """

    def __init__(self, num_quantiles=50, num_heads=3, distributions=False):
        self.num_quantiles, self.num_heads, self.distributions = num_quantiles, num_heads, distributions
        self.normal_atoms = torch.special.ndtri(quantile_levels(num_quantiles))
        self.grid = torch.linspace(-0.95, 0.95, 20)
        fine = torch.special.ndtri(quantile_levels(1000))
        high, low = (self.branch(self.grid, torch.full_like(self.grid, b)) for b in (0.0, 1.0))
        draws = [m[:, None] + s[:, None] * fine for m, s in (high, high, high, high, low)]
        self.truth = torch.cat(draws, dim=1).sort(dim=1).values.unflatten(1, (num_quantiles, -1)).mean(dim=2)

    def branch(self, x, unlucky):
        mean = torch.sin(3 * x) + torch.where(unlucky > 0, -2.0, 0.5)
        return mean, torch.where(unlucky > 0, 0.25, 0.25 + 0.5 * x.abs())

    def sample(self, rows, generator):
        x = 2 * torch.rand(rows, generator=generator) - 1
        mean, scale = self.branch(x, (torch.rand(rows, generator=generator) < 0.2).float())
        if self.distributions:
            return x, mean[:, None] + scale[:, None] * self.normal_atoms
        return x, (mean + scale * torch.randn(rows, generator=generator))[:, None]

    def train(self, config, seed, rows=64, num_steps=1000):
        """Errors over the grid: W1 to the true law, mean, CVaR.1, UTM.1; and the heads' disagreement."""
        generator = torch.Generator().manual_seed(seed)
        torch.manual_seed(seed)
        heads = torch.nn.Linear(64, self.num_heads * self.num_quantiles)
        with torch.no_grad():
            heads.weight.mul_(0.1)
            heads.bias.copy_((1.2 * self.normal_atoms).repeat(self.num_heads))
        layers = [torch.nn.Linear(1, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64), torch.nn.Tanh(), heads]
        network = torch.nn.Sequential(*layers)
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
        mask = torch.ones(1, rows, dtype=torch.bool)
        shape = (self.num_heads, self.num_quantiles)
        for _ in range(num_steps):
            x, returns = self.sample(rows, generator)
            quantiles = network(x[:, None]).unflatten(1, shape)
            loss, _ = dvpo_critic_loss(quantiles[None], returns[None], mask, config)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            predicted = network(self.grid[:, None]).unflatten(1, shape)
        atoms = predicted.mean(dim=1).sort(dim=1).values
        error = lambda f: (f(atoms) - f(self.truth)).abs().mean()  # noqa: E731
        return torch.stack(
            [
                (atoms - self.truth).abs().mean(),
                error(lambda z: z.mean(-1)),
                error(lambda z: cvar(z, 0.1)),
                error(lambda z: upper_tail_mean(z, 0.1)),
                (atoms.mean(-1) - self.truth.mean(-1)).mean(),
                predicted.std(dim=1).mean(),
            ]
        )


def print_study(num_seeds):
    core = QUANTILE_ONLY | {"risk": 0.1}
    changes = [("quantile only", QUANTILE_ONLY), ("core: quantile + risk .1", core)]
    for weight in (0.01, 0.1, 0.3, 1.0):
        changes.append((f"core + cvar, gain {weight}", core | {"cvar": weight, "gain": weight}))
    for weight in (0.001, 0.01, 0.1, 1.0):
        changes.append((f"core + shift {weight}", core | {"shift": weight}))
    for weight in (0.01, 0.1, 1.0):
        changes.append((f"core + consistency {weight}", core | {"consistency": weight}))
    for_distributions = [(f"core + shape {w}", core | {"shape": w}) for w in (0.001, 0.01, 0.1, 1.0)]
    for_distributions += [(f"core + curvature {w:g}", core | {"curvature": w}) for w in (1e-7, 1e-6, 1e-5, 1e-3)]
    last = [("default", {})]
    for distributions in (False, True):
        problem = Regression(distributions=distributions)
        print(f"\nTargets: {'distributions, K = M' if distributions else 'single returns, K = 1'}\n")
        print("| loss | W1 | mean error | CVaR error | UTM error | mean bias | head sd |")
        print("|---|---|---|---|---|---|---|")
        for name, change in changes + (for_distributions if distributions else []) + last:
            config = CriticLossConfig(**change)
            runs = torch.stack([problem.train(config, seed) for seed in range(num_seeds)])
            print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in runs.mean(0).tolist()) + " |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", action="store_true", help="one weight at a time on a regression problem")
    parser.add_argument("--num-seeds", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print_study(arguments.num_seeds) if arguments.study else print_fixed_points()
