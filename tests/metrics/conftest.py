import evaluate
import pytest

from modeling_dvpo.metrics import metric_path


@pytest.fixture
def load(tmp_path):
    """A metric whose rows are kept under the test's own directory."""

    def load(name, kind="states", **settings):
        kind = "responses" if name == "value_auc" else kind
        return evaluate.load(metric_path(name), kind, cache_dir=str(tmp_path), **settings)

    return load


@pytest.fixture
def score(load):
    """What a metric says of these predictions and references."""
    return lambda name, predictions, references, **options: load(name).compute(
        predictions=predictions, references=references, **options
    )
