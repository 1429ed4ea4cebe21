"""Critics and policies on the Hub: pushed whole, bound by records, pulled with everything checked."""

from .commits import Pushed
from .errors import (
    AccessError,
    BaseModelMovedOnError,
    ConcurrentCommitError,
    CorruptDownloadError,
    CriticMovedOnError,
    HubError,
    NotAPairError,
    OtherModelError,
    PairIncompleteError,
    PairMismatchError,
    PolicyMovedOnError,
    PushFailedError,
    TokenizerMismatchError,
    UnpublishableError,
    UnreachableError,
    UnreadableTokenizerError,
)
from .pull import PulledPair, pull_pair
from .push import PushedPair, push_critic, push_pair
from .push_every import PushEvery

__all__ = [
    "AccessError",
    "BaseModelMovedOnError",
    "ConcurrentCommitError",
    "CorruptDownloadError",
    "CriticMovedOnError",
    "HubError",
    "NotAPairError",
    "OtherModelError",
    "PairIncompleteError",
    "PairMismatchError",
    "PolicyMovedOnError",
    "PulledPair",
    "PushEvery",
    "PushFailedError",
    "Pushed",
    "PushedPair",
    "TokenizerMismatchError",
    "UnpublishableError",
    "UnreachableError",
    "UnreadableTokenizerError",
    "pull_pair",
    "push_critic",
    "push_pair",
]
