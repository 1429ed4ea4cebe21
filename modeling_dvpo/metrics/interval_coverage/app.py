"""The metric's page on the Hub."""

from pathlib import Path

from modeling_dvpo.metrics.space import launch

launch(
    Path(__file__).with_name("interval_coverage.py"),
    predictions=[[0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0]],
    references=[0.0, 1.0],
)
