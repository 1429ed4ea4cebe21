"""What is kept on disk of a set is not used by other code."""

import pytest
from reward_rows import text

from modeling_dvpo.training.data import cache_key, reading
from modeling_dvpo.training.data.arguments import RewardDataArguments
from modeling_dvpo.training.data.reward_sets import load_reward_data


@pytest.mark.parametrize("what", ["version", "transformers", "sources"])
def test_a_new_version_tokenises_again(tmp_path, write, tiny_tokenizer, monkeypatch, what):
    """`datasets` knows a result by the name of the function and its arguments: a new version of the package, which
    tokenised otherwise, silently trained on the old one's tokens."""
    tokenised = []

    original = reading._tokenise

    def counting(batch, *args, **kwargs):
        tokenised.append(len(batch["prompt"]))
        return original(batch, *args, **kwargs)

    # under the original's name, so that the cache knows it as the same function, as it does that of a new version
    counting.__name__, counting.__qualname__, counting.__module__ = "_tokenise", "_tokenise", reading.__name__
    monkeypatch.setattr(reading, "_tokenise", counting)
    args = RewardDataArguments(dataset=write(text(0.0), text(1.0)))

    def load():
        load_reward_data(args, tiny_tokenizer)
        return sum(tokenised)

    assert load() == 2 and load() == 2  # the second time from disk
    if what == "version":
        monkeypatch.setattr("modeling_dvpo.version.__version__", "99.0")
    elif what == "transformers":
        monkeypatch.setattr("transformers.__version__", "99.0")
    else:
        monkeypatch.setattr(cache_key, "_sources", lambda: "changed")
    assert load() == 4
