"""Tokens as text: that nothing is lost between them, and that nothing in them stays unseen."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from modeling_dvpo.inspection.token_texts import TokenText, token_texts
from modeling_dvpo.inspection.visible_text import Piece, right_to_left, visible_line, visible_pieces


def byte_fallback_tokenizer():
    """As SentencePiece models have it: "▁" for a space, a token a byte for what the vocabulary lacks."""
    words = ["<unk>", "<s>", "▁hello", "▁", "he", "llo", *(f"<0x{byte:02X}>" for byte in range(256))]
    model = models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>", byte_fallback=True)
    tokenizer = Tokenizer(model)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>")


def bytes_of(tokenizer, text):
    return tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in text.encode()])


class TestTokenTexts:
    def test_a_character_over_three_tokens_stands_at_the_last(self, tiny_tokenizer):
        texts = token_texts(tiny_tokenizer, tiny_tokenizer("a好b").input_ids)
        pieces = [TokenText("", part=(place, 3), whole="好") for place in (1, 2)]
        assert texts == [TokenText("a"), *pieces, TokenText("好"), TokenText("b")]

    def test_byte_fallback_of_two_characters_in_a_row(self):
        tokenizer = byte_fallback_tokenizer()
        ids = [tokenizer.convert_tokens_to_ids("▁hello"), *bytes_of(tokenizer, "好é"), 4]
        texts = token_texts(tokenizer, ids)
        assert [text.text for text in texts] == ["hello", "", "", "好", "", "é", "he"]
        assert [text.part for text in texts] == [None, (1, 3), (2, 3), None, (1, 2), None, None]

    def test_a_space_before_a_word_is_the_words(self):
        tokenizer = byte_fallback_tokenizer()
        word = tokenizer.convert_tokens_to_ids("▁hello")
        assert [text.text for text in token_texts(tokenizer, [word, word, 4, 5])] == ["hello", " hello", "he", "llo"]

    def test_a_token_with_a_character_and_a_piece_of_another(self):
        class Bytes:
            all_special_ids = ()
            tokens = ["é ".encode() + "好".encode()[:1], "好".encode()[1:] + b"!"]

            def decode(self, ids, **kwargs):
                return b"".join(self.tokens[i] for i in ids).decode(errors="replace")

        assert token_texts(Bytes(), [0, 1]) == [TokenText("é ", part=(1, 2), whole="好"), TokenText("好!")]

    @pytest.mark.parametrize("count", [1, 2, 5, 9])
    def test_bytes_that_are_no_character(self, count):
        tokenizer = byte_fallback_tokenizer()
        broken = tokenizer.convert_tokens_to_ids("<0xFF>")
        texts = token_texts(tokenizer, [4, *[broken] * count, 5])
        assert [text.text for text in texts] == ["he", *["\ufffd"] * count, "llo"]
        assert not any(text.part for text in texts)

    def test_a_mark_of_broken_text_that_is_in_the_text(self, tiny_tokenizer):
        """Decoders write the same mark for bytes that are no character: this one must not become three."""
        mark = "\ufffd"
        for text in (mark, f"a{mark}", f"{mark}a"):
            texts = token_texts(tiny_tokenizer, tiny_tokenizer(text).input_ids)
            assert "".join(one.text for one in texts) == text
            assert [(one.part, one.whole) for one in texts if one.part] == [((1, 3), mark), ((2, 3), mark)]

    def test_special_tokens_and_tokens_of_nothing_have_names(self, tiny_tokenizer):
        texts = token_texts(tiny_tokenizer, tiny_tokenizer("<s>a<end>").input_ids)
        assert texts == [TokenText("<s>", special=True), TokenText("a"), TokenText("<end>", special=True)]
        tokenizer = byte_fallback_tokenizer()
        assert token_texts(tokenizer, [3]) == [TokenText("▁", special=True)]

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffd"), max_size=40))
    def test_together_they_are_the_text(self, tiny_tokenizer, text):
        ids = tiny_tokenizer(text).input_ids
        texts = token_texts(tiny_tokenizer, ids)
        assert len(texts) == len(ids)
        assert "".join(one.text for one in texts) == tiny_tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        pieces = [one for one in texts if one.part]
        assert all(one.part[0] < one.part[1] <= 4 and one.whole in text for one in pieces)


class TestVisibleText:
    @pytest.mark.parametrize(
        ("text", "pieces"),
        [
            ("plain text", [("text", "plain text")]),
            ("a\nb", [("text", "a"), ("line", "\n"), ("text", "b")]),
            ("\r\n", [("mark", "CR"), ("line", "\n")]),
            ("\t\x00\x7f\x85", [("mark", "⇥"), ("mark", "NUL"), ("mark", "DEL"), ("mark", "U+0085")]),
            ("  ", [("blank", "  ")]),
            ("\u3000", [("blank", "\u3000")]),
            (" a", [("text", " a")]),
            ("\u202eevil", [("mark", "U+202E"), ("text", "evil")]),
            ("a\u2028", [("text", "a"), ("mark", "U+2028")]),
            ("\ud800", [("mark", "U+D800")]),
            ("\U000e0041", [("mark", "U+E0041")]),
            ("👩\u200d🚀", [("text", "👩\u200d🚀")]),
            ("می\u200cخواهم", [("text", "می\u200cخواهم")]),
            ("\u200d", [("mark", "U+200D")]),
            ("\ufe0f", [("mark", "U+FE0F")]),
            ("", []),
        ],
    )
    def test_pieces(self, text, pieces):
        assert visible_pieces(text) == [Piece(*piece) for piece in pieces]

    @given(st.text())
    def test_every_character_is_in_one_piece(self, text):
        pieces = visible_pieces(text)
        marks = [piece for piece in pieces if piece.kind == "mark"]
        rest = "".join(piece.text for piece in pieces if piece.kind != "mark")
        assert len(rest) + len(marks) == len(text)
        rest.replace("\n", "").encode()  # nothing that cannot be written

    def test_on_one_line(self):
        assert visible_line("a\n\tb") == "a⏎⇥b"
        assert visible_line("  ") == "··"

    def test_directions_are_the_paragraphs(self):
        texts = ["2 ", "שלום", " hi", "\n", "hi ", "שלום", "\nא", "ב", "\n", "123"]
        directions = [True, True, True, True, False, False, False, True, True, False]
        assert right_to_left(texts) == directions
