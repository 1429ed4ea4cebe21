"""What can go wrong between a critic and the Hub, by name.

All are `ValueError`s; each says what came, what is needed and what to do.
"""


class HubError(ValueError):
    """Base of every error here."""


class AccessError(HubError):
    """No valid token, one that may not write, or a repository or revision that is not there or not to be seen."""


class UnreachableError(HubError):
    """The Hub does not answer, or offline mode is on and the cache lacks the files."""


class OtherModelError(HubError):
    """The repository holds a model that is not a version of the one to be pushed."""


class UnpublishableError(HubError):
    """What is to be pushed is incomplete, contradicts itself or names a directory of this machine."""


class PushFailedError(HubError):
    """A push did not come through; the repository is as it was, or the message says otherwise."""


class ConcurrentCommitError(PushFailedError):
    """Somebody else committed to the repository meanwhile; their commit stays as it is."""


class PairIncompleteError(PushFailedError):
    """The critic is on the Hub and its policy is not.

    Attributes:
        critic: the `Pushed` of the critic.
    """

    def __init__(self, message: str, critic):
        super().__init__(message)
        self.critic = critic


class CorruptDownloadError(HubError):
    """A file is not the one the Hub has, even after a second download."""


class UnreadableTokenizerError(HubError):
    """A directory has tokenizer files that transformers cannot read."""


class NotAPairError(HubError):
    """The repository has no record that says which policy, or which critic, belongs to it."""


class PairMismatchError(HubError):
    """Policy and critic do not fit as their records say. `check` is the word that `allow` takes for it."""

    check = "record"


class TokenizerMismatchError(PairMismatchError):
    """Critic and policy do not read the same tokens or chat template, or not those they were pushed with."""

    check = "tokenizer"


class PolicyMovedOnError(PairMismatchError):
    """The policy's weights or config are not those that the critic judges."""

    check = "policy"


class CriticMovedOnError(PairMismatchError):
    """The critic's weights or config are not those in the record."""

    check = "critic"


class BaseModelMovedOnError(PairMismatchError):
    """The model under an adapter has other weights than when the adapter was pushed."""

    check = "base_model"


CHECKS = ("tokenizer", "policy", "critic", "base_model", "record")
