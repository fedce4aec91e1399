"""Cross-entropy written out, from log-probabilities or logits and the indices of the true classes."""

import torch
from torch import Tensor


def _check_shapes(scores: Tensor, target: Tensor) -> None:
    expected = (scores.shape[0], *scores.shape[2:]) if scores.ndim >= 2 else None
    if tuple(target.shape) != expected:
        raise ValueError(
            f"scores {tuple(scores.shape)} and target {tuple(target.shape)} do not match: "
            "expected (B, C, ...) and (B, ...)"
        )
    if target.numel() == 0:
        raise ValueError("the batch is empty: a mean over no examples is undefined")


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
        target: ``(B, ...)`` long, classes in ``0 .. C-1`` or ``ignore_index``, unchecked: a GPU would wait.
        ignore_index: targets with this value count nowhere.
        smoothing: weight in ``[0, 1)`` of the uniform distribution over the classes
            (Szegedy et al. 2016, "Rethinking the Inception Architecture", section 7).
        reduction: ``"mean"`` over the counted targets, or ``"sum"``.

    Returns:
        A differentiable scalar, in nats.

    Raises:
        ValueError: for shapes that do not match, an empty batch, or an unknown reduction.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction {reduction!r} is unknown: expected 'mean' or 'sum'")
    _check_shapes(log_probs, target)
    index = target.unsqueeze(1)  # (B, 1, ...)
    counted = None
    if ignore_index is not None:
        counted = (index != ignore_index).to(log_probs.dtype)
        index = index.masked_fill(index == ignore_index, 0)
    loss = -log_probs.gather(1, index)  # (B, 1, ...)
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
