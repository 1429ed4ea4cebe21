"""What fills the padded layout."""

import pytest
from tiny_critics import tiny_critic

from modeling_dvpo.training.data.layout import choose_layout


@pytest.mark.parametrize(("pad", "end", "expected"), [("<pad>", "<end>", 0), (None, "<end>", 2), (None, None, 0)])
def test_any_id_where_there_is_no_pad_token(tiny_tokenizer, pad, end, expected):
    """A run was refused with the advice to set `tokenizer.pad_token`, which no command line can."""
    tiny_tokenizer.pad_token, tiny_tokenizer.eos_token = pad, end
    assert choose_layout(tiny_critic(), tiny_tokenizer, False) == {"packing": False, "pad_token_id": expected}
