"""What was tried for speed and left out of the notebooks, beside what they do; all in one run, taking turns.

Usage: python -m benchmarks.tries
"""

import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.bench import RESULTS, save
from benchmarks.measure import Work, medians
from benchmarks.rows import DEVICE
from common import loss as losses
from common import session
from tools.notebooks import definitions

Tries = tuple[str, str, dict[str, Work], dict[str, float]]  # work, what stands at 1, the works, seconds to get ready


class _CrossEntropy(torch.autograd.Function):
    """The gradient by hand: probabilities minus one at the label."""

    @staticmethod
    def forward(ctx, logits: Tensor, target: Tensor) -> Tensor:
        log_probs = logits.log_softmax(1)
        ctx.save_for_backward(log_probs, target)
        return -log_probs.gather(1, target.unsqueeze(1)).mean()

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        log_probs, target = ctx.saved_tensors
        delta = log_probs.exp().scatter_add_(1, target.unsqueeze(1), log_probs.new_full((len(target), 1), -1.0))
        return delta.mul_(grad / len(target)), None


def cross_entropy() -> Tries:
    logits, target = torch.randn(125, 10, device=DEVICE, requires_grad=True), torch.randint(10, (125,), device=DEVICE)
    ways = {
        "as in common.loss": losses.cross_entropy,
        "F.cross_entropy": F.cross_entropy,
        "an autograd.Function, gradient by hand": _CrossEntropy.apply,
        "without any check of the input": lambda x, y: -x.log_softmax(1).gather(1, y.unsqueeze(1)).mean(),
        "log-sum-exp minus the label's score": lambda x, y: (x.logsumexp(1) - x.gather(1, y.unsqueeze(1))[:, 0]).mean(),
    }

    def repeat(way) -> Work:
        def work() -> None:
            for _ in range(50):
                way(logits, target).backward()

        return work

    return "cross-entropy, B 125, C 10", "F.cross_entropy", {name: repeat(way) for name, way in ways.items()}, {}


def recurrence(T: int = 43, B: int = 512, I: int = 128, H: int = 256) -> Tries:  # noqa: E741
    notebook, layer = definitions("hw4_rnn"), nn.RNN(I, H).to(DEVICE)
    weights = [torch.randn(*shape, device=DEVICE) / 16 for shape in ((I, H), (H,), (H, H))]
    W_xh, bias, W_hh = (w.requires_grad_() for w in weights)
    x, h0, running = torch.randn(T, B, I, device=DEVICE, requires_grad=True), torch.zeros(B, H, device=DEVICE), [B] * T

    def ours(x: Tensor = x) -> None:
        notebook.Recurrence.apply(x.flatten(0, 1), W_xh, bias, h0, W_hh, running).sum().backward()

    def loop() -> None:
        h, projected = h0, x @ W_xh + bias
        for step in projected:
            h = torch.tanh(step + h @ W_hh)
        h.sum().backward()

    def products() -> None:  # what no version can do without: the steps there and back, and four large products
        with torch.no_grad():
            words, h = x.flatten(0, 1), torch.zeros(B, H, device=DEVICE)
            states, delta = words @ W_xh, torch.zeros(T * B, H, device=DEVICE)
            for _ in range(2 * T):
                h @ W_hh
            delta @ W_xh.T, words.T @ delta, states.T @ delta

    works = {"as in the notebook": ours, "nn.RNN": lambda: layer(x)[1].sum().backward(),
             "a loop that autograd records": loop, "its matrix products alone": products}  # fmt: skip
    return "recurrence, T 43, B 512, I 128, H 256", "nn.RNN", works, {}


def vit() -> Tries:
    """One forward and backward pass of the notebook's model at its sizes on this device."""
    notebook = definitions("hw4_vit")
    budget = notebook.BUDGETS["gpu" if DEVICE.type == "cuda" else "cpu"]
    model = notebook.build(budget).to(DEVICE)
    model.patch_dropout = 0.0
    images = torch.randn(budget.batch_size, 3, 32, 32, device=DEVICE)
    labels = torch.randint(10, (budget.batch_size,), device=DEVICE)

    def step(model: nn.Module, images: Tensor) -> Work:
        def work() -> None:
            with notebook.mixed_precision(DEVICE):
                logits = model(images)
            losses.cross_entropy(logits, labels).backward()

        return work

    works = {
        "as in the notebook": step(model, images),
        "channels last": step(model, images.to(memory_format=torch.channels_last)),
    }
    ready = {}
    try:
        began = time.perf_counter()
        compiled = step(torch.compile(model), images)
        compiled(), compiled()
        works["torch.compile"], ready["torch.compile"] = compiled, time.perf_counter() - began
    except Exception as error:  # without a C++ compiler, for one
        print(f"torch.compile does not work here: {str(error)[:200]}", file=sys.stderr)
    return f"ViT, batch of {budget.batch_size}, every patch", "as in the notebook", works, ready


def main() -> int:
    session.start(seed=0)
    lines = ["| work | way | time, against | | seconds to get ready |", "| --- " * 5 + "|"]
    for make in (cross_entropy, recurrence, vit):
        work, unit, works, ready = make()
        taken = medians(works, rounds=15)
        for name, seconds in taken.items():
            wait = f"{ready[name]:.0f}" if name in ready else ""
            lines.append(f"| {work} | {name} | {unit} | **{seconds / taken[unit]:.2f}** | {wait} |")
            print(lines[-1], flush=True)
    save(RESULTS / f"tries-{DEVICE.type}.md", f"What was tried, on {DEVICE.type}", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
