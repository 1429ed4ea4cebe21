"""The metric's page on the Hub."""

from pathlib import Path

from modeling_dvpo.metrics.space import launch

launch(
    Path(__file__).with_name("value_auc.py"),
    rows=["responses"],
    predictions=[[0.5, 0.25, 0.0], [0.5, 0.5, 0.75, 0.75, 1.0], [0.25, 0.75]],
    references=[0, 1, 0],
)
