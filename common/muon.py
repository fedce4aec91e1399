"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), applied to all matrices of a shape at once."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from common.session import has_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: they lift small singular values fast, to about 0.7 to 1.2
ITERATIONS = 5


def orthogonalize(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Push all singular values towards 1 by Newton-Schulz iterations: from ``U S V'`` to about ``U V'``.

    Args:
        matrices: ``(K, rows, columns)``.
        dtype: of the multiplications and of the result.
    """
    a, b, c = COEFFICIENTS
    norms = matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # not below the largest singular value
    x = (matrices / norms).to(dtype)
    tall = x.shape[1] > x.shape[2]
    for _ in range(ITERATIONS):  # x <- a x + b (x x') x + c (x x')^2 x, with the smaller of x x' and x' x
        gram = x.mT @ x if tall else x @ x.mT
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, *((x, gram) if tall else (gram, x)), beta=a)
    return x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalized, with decoupled weight decay, for matrices alone.

    The update is that of ``torch.optim.Muon(..., adjust_lr_fn="match_rms_adamw")``: scaled so that learning rates that
    suit AdamW suit it as well (Liu et al. 2025, arXiv 2502.16982). Matrices of one shape are multiplied together, in
    bfloat16 where the device has it in hardware.

    Args:
        params: matrices that all get a gradient.
        lr: learning rate.
        weight_decay: fraction of ``lr`` by which weights shrink in a step.
        momentum: decay of the running mean of gradients.

    Raises:
        ValueError: for a parameter that is no matrix.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(f"a parameter of shape {tuple(p.shape)}: Muon is for matrices alone")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all matrices by their gradients."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for p in group["params"]:
                by_shape[p.shape].append(p)
            for matrices in by_shape.values():
                gradients = torch.stack([p.grad for p in matrices])  # (K, rows, columns)
                state = self.state[matrices[0]]  # holds the running mean of all of them
                if "mean" not in state:
                    state["mean"] = torch.zeros_like(gradients)
                state["mean"].lerp_(gradients, 1 - group["momentum"])
                dtype = torch.bfloat16 if has_bfloat16(gradients.device) else torch.float32
                updates = orthogonalize(gradients.lerp_(state["mean"], group["momentum"]), dtype).to(gradients.dtype)
                updates *= group["lr"] * 0.2 * math.sqrt(max(gradients.shape[1:]))
                for p, update in zip(matrices, updates):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update)
