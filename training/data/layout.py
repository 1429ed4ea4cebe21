"""How a run lays rows out: packed or padded, and whether the longest fits into a micro-batch."""

from ..errors import ConfigError
from .packing import packing_pays, supports_packing


def choose_layout(model, tokenizer, packing: bool | None = None) -> dict:
    """`packing` and `pad_token_id`, as `RewardCollator` takes them.

    Args:
        packing: what was asked for; None packs where it pays.

    Raises:
        ConfigError: the model cannot be packed, and was to be.
    """
    if packing and not supports_packing(model):
        raise ConfigError(f"packing is true, but {type(model).__name__} would mix packed rows up; leave it out.")
    packing = packing_pays(model) if packing is None else packing
    return {"packing": packing, "pad_token_id": None if packing else pad_id_of(tokenizer)}


def require_room(longest: int, max_tokens: int, what: str = "the longest row") -> None:
    """Raise ConfigError unless a micro-batch has room for a row of `longest` tokens."""
    if longest > max_tokens:
        raise ConfigError(
            f"max_tokens_per_device is {max_tokens}, and {what} has {longest} tokens: raise it, or set max_length "
            "with drop_long_rows."
        )


def pad_id_of(tokenizer) -> int:
    """What fills the padded layout: the pad token; or the end token, or id 0, since padding is masked and not read."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(known for known in ids if known is not None)
