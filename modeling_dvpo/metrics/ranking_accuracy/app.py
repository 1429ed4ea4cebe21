"""The metric's page on the Hub."""

from pathlib import Path

from modeling_dvpo.metrics.space import launch

launch(
    Path(__file__).with_name("ranking_accuracy.py"),
    predictions=[0.75, 0.5, 0.25, 0.5, 0.25],
    references=[1.0, 1.0, 0.0, 0.0, 1.0],
    groups=["2 + 3", "2 + 3", "2 + 3", "4 - 1", "4 - 1"],
)
