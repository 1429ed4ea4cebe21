"""Sets are written to a file and loaded from there."""

import json
import warnings

import pytest

from modeling_dvpo.training.data.arguments import RewardDataArguments
from modeling_dvpo.training.data.reward_sets import load_reward_data


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """`datasets` keeps what it has read by path and time; tests must not meet each other's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def write(tmp_path):
    """Write these rows to a JSONL file; its path."""

    def write(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


@pytest.fixture
def load_both(tiny_tokenizer, write):
    """Training and held-out rows of these; a warning is an error, so give two different rewards."""

    def load(*rows, model_config=None, seed=0, **arguments):
        args = RewardDataArguments(dataset=write(*rows), **arguments)
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            return load_reward_data(args, tiny_tokenizer, model_config=model_config, seed=seed)

    return load


@pytest.fixture
def load(load_both):
    """The training rows alone."""
    return lambda *rows, **options: load_both(*rows, **options)[0]
