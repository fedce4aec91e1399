"""Cross-entropy written out: from probabilities, log-probabilities or logits, with index targets."""

import torch
from torch import Tensor


def _check(scores: Tensor, target: Tensor) -> None:
    expected = (scores.shape[0], *scores.shape[2:]) if scores.ndim >= 2 else None
    if tuple(target.shape) != expected:
        raise ValueError(
            f"scores {tuple(scores.shape)} and target {tuple(target.shape)} do not match: "
            "expected (B, C, ...) and (B, ...)"
        )
    if target.numel() == 0:
        raise ValueError("the batch is empty: a mean over no examples is undefined")


def _pick(scores: Tensor, index: Tensor) -> Tensor:
    """The score of each target's class: ``(B, C, ...)`` and ``(B, 1, ...)`` to ``(B, 1, ...)``."""
    try:
        return scores.gather(1, index)
    except RuntimeError as error:  # looked at only now, because looking makes a GPU wait
        wrong = index[(index < 0) | (index >= scores.shape[1])]
        raise ValueError(f"label {int(wrong[0])} is out of range: expected 0 to {scores.shape[1] - 1}") from error


def probability_cross_entropy(probabilities: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy of probabilities that already sum to one.

    Args:
        probabilities: ``(B, C)``, each row a distribution over the classes.
        target: ``(B,)`` long, the true classes in ``0 .. C-1``.

    Returns:
        A differentiable scalar, ``-mean log p[target]``, in nats. A probability that underflowed to 0
        counts as the smallest normal number of its type, so the loss stays finite.

    Raises:
        ValueError: if the shapes do not match, the batch is empty or a label is out of range.
    """
    _check(probabilities, target)
    chosen = _pick(probabilities, target.unsqueeze(1))  # (B, 1)
    return -chosen.clamp_min(torch.finfo(chosen.dtype).tiny).log().mean()


def negative_log_likelihood(
    log_probs: Tensor,
    target: Tensor,
    ignore_index: int | None = None,
    smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Negative log-likelihood of ``target``, optionally smoothed towards the uniform distribution.

    Args:
        log_probs: ``(B, C, ...)`` log-probabilities.
        target: ``(B, ...)`` long, classes in ``0 .. C-1`` or ``ignore_index``.
        ignore_index: targets with this value count nowhere.
        smoothing: weight in ``[0, 1)`` of the uniform distribution over the classes
            (Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7).
        reduction: ``"mean"`` over the counted targets, or ``"sum"``.

    Returns:
        A differentiable scalar, in nats.

    Raises:
        ValueError: for shapes that do not match, an empty batch, a label out of range,
            or an unknown reduction.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction {reduction!r} is unknown: expected 'mean' or 'sum'")
    _check(log_probs, target)
    index = target.unsqueeze(1)  # (B, 1, ...)
    counted = None
    if ignore_index is not None:
        counted = (index != ignore_index).to(log_probs.dtype)
        index = index.masked_fill(index == ignore_index, 0)
    loss = -_pick(log_probs, index)  # (B, 1, ...)
    if smoothing:
        loss = (1 - smoothing) * loss - smoothing * log_probs.mean(1, keepdim=True)
    if counted is None:
        return loss.mean() if reduction == "mean" else loss.sum()
    total = (loss * counted).sum()
    return total / counted.sum().clamp_min(1) if reduction == "mean" else total


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    ignore_index: int | None = None,
    smoothing: float = 0.0,
    reduction: str = "mean",
) -> Tensor:
    """Cross-entropy of unnormalized scores: ``negative_log_likelihood`` of their log-softmax.

    Shapes, arguments and errors are those of :func:`negative_log_likelihood`, with ``logits`` in
    place of ``log_probs``. Computed in float32 at least, also under mixed precision.
    """
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    return negative_log_likelihood(logits.log_softmax(1), target, ignore_index, smoothing, reduction)
