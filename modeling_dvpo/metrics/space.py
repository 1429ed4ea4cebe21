"""A metric's page on the Hub, a Space: rows in as JSON, figures out.

In place of `evaluate.utils.launch_gradio_widget`, which needs gradio 3 and so NumPy 1, which pyarrow no longer takes.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import evaluate
from evaluate.utils.gradio import parse_readme

from .formats import ROWS


def launch(script: Path, *, rows: Sequence[str] = ROWS, **example) -> None:
    """Serve a metric's page.

    Args:
        script: the metric's module; its README.md, which lies beside it, is shown below.
        rows: what a row may be, the first by default.
        example: for each column, rows to begin with.
    """
    page(script, rows=rows, **example).launch()


def page(script: Path, *, rows: Sequence[str] = ROWS, **example):
    """The `gradio.Interface` that `launch` serves."""
    # gradio comes with the Space; nothing else of the package needs it
    import gradio

    columns = list(example)

    def compute(kind: str, *texts: str) -> dict:
        try:
            inputs = {column: json.loads(text) for column, text in zip(columns, texts, strict=True)}
            return evaluate.load(str(script), kind).compute(**inputs)
        except ValueError as problem:
            raise gradio.Error(str(problem)) from problem

    boxes = [gradio.Textbox(json.dumps(value), label=f"{column} (JSON)", lines=3) for column, value in example.items()]
    return gradio.Interface(
        fn=compute,
        inputs=[gradio.Dropdown(list(rows), value=rows[0], label="a row is one of"), *boxes],
        outputs=gradio.JSON(label=script.stem),
        title=script.stem,
        article=parse_readme(str(script.with_name("README.md"))),
        api_name="compute",
    )
