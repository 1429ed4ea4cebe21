"""Pushing a run to the Hub: from its settings to a `PushEvery` that has looked whether it may."""

from modeling_dvpo.hub import PushEvery
from modeling_dvpo.hub.client import REPO_ID

from ..errors import ConfigError


def pushing_of(args, *, what: tuple[str, ...]) -> PushEvery | None:
    """What pushes the run's models; None where `push_to` is empty.

    Args:
        args: the run's settings.
        what: the models that the run makes, in the order of `push_to`: ("critic",) or ("policy", "critic").

    Raises:
        ConfigError: `push_to` does not name that many repositories.
        HubError: they cannot be pushed to.
    """
    if not args.push_to:
        if args.push_every:
            raise ConfigError("push_every is set, but push_to names no repository of the Hub.")
        return None
    if len(args.push_to) != len(what) or not all("/" in name and REPO_ID.fullmatch(name) for name in args.push_to):
        raise ConfigError(
            f"push_to is {args.push_to!r}; it must name a repository of the Hub, owner/name, for the "
            f"{' and one for the '.join(what)}."
        )
    repositories = args.push_to[0] if len(what) == 1 else tuple(args.push_to)
    pushing = PushEvery(repositories, every=args.push_every, private=args.push_private or None)
    pushing.check()
    return pushing
