"""`CriticReport` against the metric functions it adds up, and its cut into batches and ranks."""

import math

import pytest
import torch
from reference import normal_atoms

from modeling_dvpo.metrics.calibration import interval_coverage, pit_distance
from modeling_dvpo.metrics.report import CriticReport, critic_report
from modeling_dvpo.metrics.scores import crps, explained_variance, wasserstein_1


class TestReport:
    def report(self, heads=3, quantiles=20, states=500, returns=(), **kwargs):
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(states, generator=generator).double()
        base = means[:, None, None] + normal_atoms(quantiles)
        q = base + torch.tensor([-0.1, 0.0, 0.1])[:heads, None]
        extra = (None,) * len(returns)
        y = means[(..., *extra)] + torch.randn(states, *returns, generator=generator)
        return critic_report(q, y, **kwargs), q, y

    def test_gathers_the_functions(self):
        report, q, y = self.report()
        ensemble = q.mean(1)
        assert report["explained_variance"] == explained_variance(ensemble.mean(-1), y)
        assert report["crps"] == pytest.approx(crps(ensemble, y).mean().item())
        assert report["coverage_80"] == pytest.approx(interval_coverage(ensemble, y, 0.8))
        assert report["pit_ks"] == pytest.approx(pit_distance(ensemble, y))
        assert report["head_disagreement"] == pytest.approx(math.sqrt(0.02 / 3))
        assert report["bias"] == pytest.approx((ensemble.mean(-1) - y).mean().item())
        assert report["sd"] == pytest.approx(normal_atoms(20).std(correction=0).item())
        assert report["crossing_rate"] == 0.0
        assert "wasserstein_1" not in report
        assert all(isinstance(value, float) for value in report.values())

    def test_against_monte_carlo_truth(self):
        report, q, y = self.report(returns=(64,))
        assert report["explained_variance"] > 0.97
        assert report["wasserstein_1"] == pytest.approx(wasserstein_1(q.mean(1), y).mean().item())
        assert report["coverage_80"] == pytest.approx(0.8, abs=0.02)

    def test_scalar_critic_has_no_interval_metrics(self):
        report, q, y = self.report(quantiles=1)
        assert set(report) == {"explained_variance", "bias", "mae", "crps", "pinball", "head_disagreement"}
        assert report["crps"] == pytest.approx(report["mae"])

    def test_discrete_returns_get_a_tolerance(self):
        y = (torch.rand(5000, generator=torch.Generator().manual_seed(0)) < 0.3).float()
        q = ((torch.arange(200) >= 140) + 0.01 * torch.randn(200)).expand(5000, 1, 200)
        assert critic_report(q, y)["coverage_80"] == pytest.approx(0.8, abs=0.02)
        assert critic_report(q, y, tolerance=0.0)["coverage_80"] != pytest.approx(0.8, abs=0.02)

    @pytest.mark.parametrize("shapes", [((3, 4), (3,)), ((3, 2, 4), (2,)), ((3, 2, 4), (3, 2, 4))])
    def test_shapes_are_named(self, shapes):
        with pytest.raises(ValueError, match=r"must be \(R, N, M\)"):
            critic_report(torch.zeros(shapes[0]), torch.zeros(shapes[1]))

    def test_empty_set_is_refused(self):
        with pytest.raises(ValueError, match="no returns"):
            critic_report(torch.zeros(0, 2, 4), torch.zeros(0))

    @pytest.mark.parametrize("returns", [(), (7,)])
    def test_any_cut_into_batches_and_ranks_gives_the_whole(self, returns):
        whole, q, y = self.report(states=101, returns=returns)
        ranks = [CriticReport(y) for _ in range(3)]
        for i, (part_q, part_y) in enumerate(zip(q.split(20), y.split(20), strict=True)):
            ranks[i % 2].add(part_q, part_y)
        ranks[2].add(q[:0], y[:0])  # a rank that only had filler
        ranks[0].reduce(lambda sums: sums + sum(flat(other) for other in ranks[1:]))
        assert ranks[0].compute() == pytest.approx(whole, rel=1e-9)

    def test_a_large_offset_keeps_the_digits(self):
        report, q, y = self.report()
        assert critic_report(q + 1e5, y + 1e5)["explained_variance"] == pytest.approx(report["explained_variance"])

    def test_returns_that_do_not_vary_explain_nothing(self):
        report = critic_report(torch.zeros(5, 1, 4), torch.full((5,), 0.3))
        assert math.isnan(report["explained_variance"]) and report["bias"] == pytest.approx(-0.3)


def flat(report):
    return torch.cat([value.reshape(-1) for _, value in sorted(report.sums.items())])
