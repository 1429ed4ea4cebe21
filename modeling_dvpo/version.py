"""The release, for records, cards and the Hub's client."""

__version__ = "0.1.0"
