"""The one error of this package."""


class CardError(ValueError):
    """A card cannot be made from what was given; says what came, what is needed and what to do."""
