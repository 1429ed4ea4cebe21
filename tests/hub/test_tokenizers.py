"""Fingerprints of tokenizers: equal for equal behaviour, different for whatever changes numbers."""

import pytest
from tiny_pairs import save_policy
from transformers import AutoTokenizer

from modeling_dvpo.hub import UnreadableTokenizerError
from modeling_dvpo.hub.tokenizers import directory_fingerprint, fingerprint_difference, tokenizer_fingerprint


class TestTokenizer:
    def test_survives_saving_and_use(self, tiny_tokenizer, tmp_path):
        before = tokenizer_fingerprint(tiny_tokenizer)
        tiny_tokenizer.save_pretrained(tmp_path)
        loaded = AutoTokenizer.from_pretrained(tmp_path)
        loaded(["a", "a longer text"], padding=True, truncation=True, max_length=3)  # state of the fast tokenizer
        assert tokenizer_fingerprint(loaded) == before == directory_fingerprint(tmp_path)
        assert set(before) == {"vocabulary", "encoding", "chat_template", "begin_token_id", "end_token_id"}

    @pytest.mark.parametrize(
        ("change", "names"),
        [
            (lambda t: t.add_tokens(["<new>"]), ["vocabulary"]),
            (lambda t: t.add_tokens(["answer is"]), ["vocabulary", "encoding"]),
            (lambda t: setattr(t, "chat_template", "{{ messages }}"), ["chat_template"]),
            (lambda t: setattr(t, "chat_template", None), ["chat_template"]),
            (lambda t: setattr(t, "eos_token", "<s>"), ["end_token_id"]),
            (lambda t: setattr(t, "bos_token", "<end>"), ["begin_token_id"]),
        ],
    )
    def test_differs_by_name(self, tiny_tokenizer, change, names):
        before = tokenizer_fingerprint(tiny_tokenizer)
        change(tiny_tokenizer)
        assert fingerprint_difference(before, tokenizer_fingerprint(tiny_tokenizer)) == names

    def test_what_is_no_difference(self, tiny_tokenizer):
        before = tokenizer_fingerprint(tiny_tokenizer)
        tiny_tokenizer.padding_side, tiny_tokenizer.model_max_length = "left", 7
        assert fingerprint_difference(before, tokenizer_fingerprint(tiny_tokenizer)) == []

    def test_none_in_the_directory(self, tiny_tokenizer, tmp_path):
        save_policy(tmp_path, tiny_tokenizer)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            (tmp_path / name).unlink()
        assert directory_fingerprint(tmp_path) is None

    def test_that_cannot_be_read(self, tiny_tokenizer, tmp_path):
        save_policy(tmp_path, tiny_tokenizer)
        (tmp_path / "tokenizer.json").write_text("{}")
        with pytest.raises(UnreadableTokenizerError, match="The tokenizer in .* cannot be read"):
            directory_fingerprint(tmp_path)
