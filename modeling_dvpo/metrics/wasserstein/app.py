"""The metric's page on the Hub."""

from pathlib import Path

from modeling_dvpo.metrics.space import launch

launch(
    Path(__file__).with_name("wasserstein.py"),
    predictions=[[0.0, 3.0], [1.0, 1.0]],
    references=[[1.0, 2.0], [0.0, 0.0, 0.0]],
)
