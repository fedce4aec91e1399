"""Muon (Jordan et al. 2024, kellerjordan.github.io/posts/muon), applied to all matrices of a shape at once."""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

from common.session import has_bfloat16

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: they lift small singular values fast, to about 0.7 to 1.2
ITERATIONS = 5


def multiplication_dtype(device: torch.device) -> torch.dtype:
    """The fastest type that the device multiplies in hardware: bfloat16, else float16 on a GPU, float32 on a CPU.

    float16's small range is enough here, because no number of a normalized matrix and its powers is large.
    """
    if has_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else torch.float32


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
    suit AdamW suit it as well (Liu et al. 2025, arXiv 2502.16982). Matrices of one shape, or of its transpose, are
    multiplied together, and a GradScaler makes no GPU wait.

    Args:
        params: matrices that all get a gradient.
        lr: learning rate.
        weight_decay: fraction of ``lr`` by which weights shrink in a step.
        momentum: decay of the running mean of gradients.
        dtype: of the multiplications, by default :func:`multiplication_dtype`.
    """

    _step_supports_amp_scaling = True  # GradScaler.step then hands over grad_scale and found_inf, and reads neither

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        dtype: torch.dtype | None = None,
    ):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(f"a parameter of shape {tuple(p.shape)}: Muon is for matrices alone")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update all matrices by their gradients; where a GradScaler found one infinite, leave all as they are."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for p in group["params"]:
                by_shape[p.shape].append(p)
            for matrices in by_shape.values():
                self._step(matrices, group["lr"], group["lr"] * group["weight_decay"], group["momentum"])

    def _step(self, matrices: list[Tensor], rate: float | Tensor, decay: float | Tensor, momentum: float) -> None:
        gradients = torch.stack([p.grad for p in matrices])  # (K, rows, columns)
        state = self.state[matrices[0]]  # holds the running mean of all of them
        if "mean" not in state:
            state["mean"] = torch.zeros_like(gradients)
        mean = state["mean"]
        rate *= 0.2 * math.sqrt(max(gradients.shape[1:]))
        if getattr(self, "grad_scale", None) is not None:
            gradients /= self.grad_scale
        if getattr(self, "found_inf", None) is not None:  # 0 or 1, on the device
            gradients = gradients.where(self.found_inf == 0, mean)  # so that the mean stays as it is
            rate, decay = rate * (1 - self.found_inf), decay * (1 - self.found_inf)
        mean.lerp_(gradients, 1 - momentum)
        dtype = self.dtype or multiplication_dtype(gradients.device)
        updates = orthogonalize(gradients.lerp_(mean, momentum), dtype).to(gradients.dtype).mul_(rate)
        for p, update in zip(matrices, updates):
            p.mul_(1 - decay).sub_(update)
