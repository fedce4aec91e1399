"""Dropout (Srivastava et al. 2014), written out."""

import torch
from torch import Tensor


def dropout(x: Tensor, rate: float, training: bool = True, shape: tuple[int, ...] | None = None) -> Tensor:
    """Zero a fraction ``rate`` of the numbers and scale the others by ``1 / (1 - rate)``, which keeps the mean.

    Args:
        x: any shape.
        rate: in ``[0, 1)``.
        training: in evaluation nothing is dropped.
        shape: of the mask, by default that of ``x``; ``(T, B, 1)`` drops whole words of ``x (T, B, D)``.
    """
    if not training or rate == 0:
        return x
    kept = torch.rand(shape or x.shape, device=x.device) >= rate
    return x * kept / (1 - rate)
