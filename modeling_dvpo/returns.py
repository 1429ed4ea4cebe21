"""From token rewards and the critic's quantiles to advantages and returns.

Two frames. In the *model's* frame position p holds what the model says after reading token p: the value of the prefix
x_0..x_p. *Action-aligned*, position p holds what belongs to the action "emit token p", so its value is that of the
state before it, model output p - 1. `align_to_actions` is the one place where the frame is shifted.

Steps are action tokens only (mask true). The step after an assistant turn's last token is the next turn's first token:
what lies between is neither rewarded nor discounted. The steps of one row (or of one segment of a packed row) form a
chain; nothing flows from one chain to another.
"""

from typing import Literal

import torch
from torch import Tensor

IGNORED_LABEL = -100.0

_BLOCK = 16  # steps a scan takes one after the other, before it goes on with blocks in place of steps


def align_to_actions(x: Tensor, completion_mask: Tensor, segment_ids: Tensor | None = None) -> Tensor:
    """Shift a model-frame tensor to actions: aligned[:, p] = x[:, p - 1], zeros at p = 0.

    Args:
        x: `(B, T, ...)`, for instance the critic's quantiles or values.
        completion_mask: `(B, T)` bool, true at the tokens that were emitted (their own positions: it is action-aligned
            as it stands).
        segment_ids: `(B, T)` for packed rows, a number per sequence.

    Raises:
        ValueError: an action token is the first of its row or segment: no state precedes it.
    """
    _check_mask("completion_mask", completion_mask, x.shape[:2], segment_ids)
    _refuse_actions_without_state(completion_mask, segment_ids)
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)


def labels_from_returns(returns: Tensor, completion_mask: Tensor, segment_ids: Tensor | None = None) -> Tensor:
    """Labels of the model's own loss from action-aligned returns, the inverse of `align_to_actions`.

    labels[:, p] = returns[:, p + 1] where token p + 1 is an action, -100 (ignored) elsewhere.

    Args:
        returns: `(B, T)` or `(B, T, K)`, action-aligned.
        completion_mask, segment_ids: as in `align_to_actions`.

    Raises:
        ValueError: a return of an action token is exactly -100, or an action token has no state before it.
    """
    if returns.dim() not in (2, 3):
        raise ValueError(f"returns must be (batch, tokens) or (batch, tokens, atoms), got {tuple(returns.shape)}.")
    _check_mask("completion_mask", completion_mask, returns.shape[:2], segment_ids)
    _refuse_actions_without_state(completion_mask, segment_ids)
    if bool((returns[completion_mask] == IGNORED_LABEL).any()):
        raise ValueError(
            "A return is exactly -100, which as a label means 'ignored'. Rescale the rewards (for instance divide "
            "them by 100) or move such returns by a tiny amount, so that no true return is -100."
        )
    shape = (*completion_mask.shape, *[1] * (returns.dim() - 2))
    labels = torch.where(completion_mask.reshape(shape), returns, torch.full_like(returns, IGNORED_LABEL))
    return torch.cat([labels[:, 1:], torch.full_like(labels[:, :1], IGNORED_LABEL)], dim=1)


@torch.no_grad()
def distributional_gae(
    rewards: Tensor,
    quantiles: Tensor,
    mask: Tensor,
    *,
    gamma: float = 1.0,
    lam: float | Tensor = 0.95,
    bootstrap: Tensor | None = None,
    segment_ids: Tensor | None = None,
    target: Literal["index", "sampled"] = "index",
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation for every quantile (DVPO, arXiv:2512.03847, eq. 2), all action-aligned.

    For the steps t = 0..L-1 of a chain, and each quantile j, with Z_j(s_L) = `bootstrap`:

        δ_t^j = r_t + γ Z_j(s_{t+1}) - Z_j(s_t)
        A_t^j = δ_t^j + γλ A_{t+1}^j,    A_L^j = 0
        Y_t^j = Z_j(s_t) + A_t^j

    λ = 0 is one-step distributional TD, λ = 1 the Monte-Carlo return (where Y no longer depends on Z), M = 1 scalar
    GAE (arXiv:1506.02438); the mean over quantiles is GAE on the mean value.

    `target="index"` is the paper's: Y averages quantile functions, which has the right mean but for 0 < λ < 1 too
    little spread. `target="sampled"` draws, for every atom, Y_t = r_t + γ · (Y_{t+1} with probability λ, else
    Z(s_{t+1})): the λ-return's own distribution, with the same mean in expectation. A = Y - Z in both cases.

    Computed as Y_t = r_t + γ(1 - λ) Z(s_{t+1}) + γλ Y_{t+1}, which is the same and does not add up rounding errors
    of δ; in float32 (float64 for float64 quantiles), in O(log L) rounds of tensor operations.

    Args:
        rewards: `(B, T)`; zero wherever mask is false.
        quantiles: `(B, T, M)` values of the state *before* each action (see `align_to_actions`). Read at action
            tokens only.
        mask: `(B, T)` bool, action tokens; gaps, left and right padding allowed.
        gamma: discount per step, in [0, 1].
        lam: λ in [0, 1]: one number, `(B,)`, one per row, or `(B, T)`, the λ of each action token's sequence, for
            packed rows; nothing is read where mask is false.
        bootstrap: `(B, M)` value of the state after a row's last action, zero (or `None`) where the row ended. For
            packed rows `(B, S, M)`: entry s belongs to the s-th segment, from the left, that has action tokens; S may
            exceed their number.
        segment_ids: `(B, T)`, a number per packed sequence; `None` for one sequence a row.
        target: see above.
        generator: source of randomness of `target="sampled"`, on the device of `quantiles`.

    Returns:
        advantages and returns, `(B, T, M)` each, without gradient, zero where mask is false.

    Raises:
        ValueError: shapes that do not fit, a reward outside the mask, or inputs that are not finite.
    """
    _check_gae(rewards, quantiles, mask, gamma, lam, bootstrap, segment_ids, target)
    dtype = torch.float64 if quantiles.dtype == torch.float64 else torch.float32
    values = quantiles.flatten(0, 1).to(dtype)  # (B T, M), as everything below
    reward = rewards.flatten()[:, None].to(dtype)
    steps, ends, idle = _chains(mask, segment_ids)

    following = torch.arange(len(values), device=values.device)
    following[steps[:-1]] = steps[1:]
    returns = values.index_select(0, following)
    returns[ends] = 0 if bootstrap is None else _bootstrap_of_chains(bootstrap, ends, mask.shape[1]).to(dtype)

    lam = torch.as_tensor(lam, device=values.device).to(dtype)
    lam = (lam if lam.dim() == 2 else lam.expand(len(mask))[:, None]).expand(mask.shape)
    keep = lam.reshape(-1, 1).index_fill(0, ends, 0)
    if target == "sampled":
        keep = torch.rand(values.shape, generator=generator, device=values.device, dtype=dtype).lt_(keep)
    # In place, because fresh memory costs more than the arithmetic: Z becomes r + γ (1 - keep) Z.
    returns.addcmul_(returns, keep, value=-1).mul_(gamma).add_(reward)
    decay = keep.mul_(gamma)
    # Tokens between the steps hand the next step's return through; so a chain may have gaps.
    returns.index_fill_(0, idle, 0)
    decay.index_fill_(0, idle, 1)
    _scan_backwards(returns, decay)

    returns.index_fill_(0, idle, 0)
    advantages = (returns - values).index_fill_(0, idle, 0)
    if not bool(advantages.sum().isfinite()):
        raise ValueError("rewards or quantiles are not finite (NaN or infinite) at an action token.")
    return advantages.view(quantiles.shape), returns.view(quantiles.shape)


@torch.no_grad()
def monte_carlo_returns(
    rewards: Tensor, mask: Tensor, *, gamma: float = 1.0, segment_ids: Tensor | None = None
) -> Tensor:
    """Discounted reward-to-go over action tokens, G_t = r_t + γ G_{t+1}: `(B, T) -> (B, T)`, zero outside the mask.

    The returns of `distributional_gae` at λ = 1, which need no critic. Arguments and errors as there.
    """
    if rewards.dim() != 2:
        raise ValueError(f"rewards must be (batch, tokens), got shape {tuple(rewards.shape)}.")
    nothing = torch.zeros(*rewards.shape, 1, device=rewards.device, dtype=rewards.dtype)
    _, returns = distributional_gae(rewards, nothing, mask, gamma=gamma, lam=1.0, segment_ids=segment_ids)
    return returns[..., 0]


def _chains(mask: Tensor, segment_ids: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Positions in the flattened batch, each increasing: of steps, of the last step of each chain, of all else."""
    flat = mask.flatten()
    steps = flat.nonzero().squeeze(1)
    is_last = (steps // max(mask.shape[1], 1)).diff() != 0
    if segment_ids is not None:
        is_last |= segment_ids.flatten()[steps].diff() != 0
    return steps, torch.cat([steps[:-1][is_last], steps[-1:]]), (~flat).nonzero().squeeze(1)


def _scan_backwards(y: Tensor, decay: Tensor) -> None:
    """Solve y_t = y_t + decay_t y_{t+1} in place, from the last t down: y `(n, M)`, decay `(n, 1)` or `(n, M)`.

    Blocks of steps are solved side by side as if nothing followed them. Then the blocks' first entries obey a
    recursion of the same form, whose decay is the product over the block; its solution is what each block lacked.
    decay is overwritten.
    """
    num_steps = len(y)
    remainder = num_steps % _BLOCK
    if num_steps <= _BLOCK:
        for t in reversed(range(num_steps - 1)):
            y[t].addcmul_(decay[t], y[t + 1])
        return
    if remainder:  # an odd end, then whole blocks in front of it
        tail = num_steps - remainder
        _scan_backwards(y[tail:], decay[tail:])
        y[tail - 1].addcmul_(decay[tail - 1], y[tail])
        y, decay = y[:tail], decay[:tail]
    y, decay = y.unflatten(0, (-1, _BLOCK)), decay.unflatten(0, (-1, _BLOCK))
    for t in reversed(range(_BLOCK - 1)):
        y[:, t].addcmul_(decay[:, t], y[:, t + 1])
        decay[:, t].mul_(decay[:, t + 1])
    first, first_decay = y[:, 0].clone(), decay[:, 0].clone()
    _scan_backwards(first, first_decay)
    y[:-1].addcmul_(decay[:-1], first[1:, None])


def _bootstrap_of_chains(bootstrap: Tensor, ends: Tensor, num_tokens: int) -> Tensor:
    """(B, M) or (B, S, M) -> (chains, M), in the order of the chains."""
    row = ends // num_tokens
    if bootstrap.dim() == 2:
        return bootstrap[row]
    # A chain's number within its row: its number in the batch less that of the row's first chain.
    order = torch.arange(len(row), device=row.device) - torch.searchsorted(row, row)
    if len(order) and int(order.max()) >= bootstrap.shape[1]:
        raise ValueError(
            f"bootstrap has {bootstrap.shape[1]} segments a row, but a row has {int(order.max()) + 1} segments with "
            "action tokens; (batch, segments, quantiles) needs an entry for each."
        )
    return bootstrap[row, order]


def _check_gae(rewards, quantiles, mask, gamma, lam, bootstrap, segment_ids, target) -> None:
    if quantiles.dim() != 3:
        raise ValueError(
            f"quantiles must be (batch, tokens, quantiles), got shape {tuple(quantiles.shape)}; for a critic with "
            "several heads pass their mean, quantiles.mean(-2)."
        )
    batch, num_quantiles = quantiles.shape[:2], quantiles.shape[2]
    if rewards.shape != batch:
        raise ValueError(f"rewards must be {tuple(batch)} as quantiles are, got shape {tuple(rewards.shape)}.")
    _check_mask("mask", mask, batch, segment_ids)
    if isinstance(lam, Tensor) and lam.shape not in ((), (batch[0],), batch):
        raise ValueError(
            f"lam must be a number, ({batch[0]},), one per row, or {tuple(batch)}, one per token, got shape "
            f"{tuple(lam.shape)}."
        )
    for name, value in (("gamma", gamma), ("lam", lam)):
        if not bool(torch.all((torch.as_tensor(value) >= 0) & (torch.as_tensor(value) <= 1))):
            raise ValueError(f"{name} must lie in [0, 1], got {value!r}.")
    if target not in ("index", "sampled"):
        raise ValueError(f"target must be 'index' or 'sampled', got {target!r}.")
    if bootstrap is not None:
        packed = segment_ids is not None
        needed = (batch[0], "segments", num_quantiles) if packed else (batch[0], num_quantiles)
        ends_fit = bootstrap.dim() == len(needed) and bootstrap.shape[0] == batch[0]
        if not ends_fit or bootstrap.shape[-1] != num_quantiles:
            raise ValueError(
                f"bootstrap must be {needed} {'with' if packed else 'without'} segment_ids, "
                f"got shape {tuple(bootstrap.shape)}."
            )
        if not bool(bootstrap.isfinite().all()):
            raise ValueError("bootstrap is not finite (NaN or infinite); rows that ended need 0.")
    stray = (rewards != 0) & ~mask
    if bool(stray.any()):
        row, token = stray.nonzero()[0].tolist()
        raise ValueError(
            f"rewards has a non-zero entry at row {row}, token {token}, where mask is false; put the reward on an "
            "action token (an outcome reward on the last one)."
        )


def _check_mask(name: str, mask: Tensor, batch: torch.Size, segment_ids: Tensor | None) -> None:
    if mask.shape != batch or mask.dtype != torch.bool:
        raise ValueError(f"{name} must be bool of shape {tuple(batch)}, got {mask.dtype} of {tuple(mask.shape)}.")
    if segment_ids is not None and segment_ids.shape != batch:
        raise ValueError(f"segment_ids must have shape {tuple(batch)}, got {tuple(segment_ids.shape)}.")


def _refuse_actions_without_state(completion_mask: Tensor, segment_ids: Tensor | None) -> None:
    first = torch.zeros_like(completion_mask)
    first[:, :1] = True
    if segment_ids is not None:
        first[:, 1:] = segment_ids.diff(dim=1) != 0
    stray = first & completion_mask
    if bool(stray.any()):
        row, token = stray.nonzero()[0].tolist()
        raise ValueError(
            f"completion_mask is true at row {row}, token {token}, the first token of its sequence: no state precedes "
            "it, so it has no value. Start each sequence with a prompt (or BOS) token that is not trained."
        )
