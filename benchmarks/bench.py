"""Time what is written by hand beside what a user would call instead, and print a table.

Ours and the reference take turns; each figure is a median. Ratios below 1 mean that ours is faster.

Usage: python -m benchmarks.bench [--precision medium|highest]
"""

import argparse
import platform
import sys
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common import loss, session
from common.muon import Muon
from common.timing import medians
from tools.notebooks import definitions

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Work = Callable[[], object]
Row = tuple[str, dict[str, Work]]  # what is computed on which shapes; "ours" and what it is compared with


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, device=DEVICE, requires_grad=True)


def forward_backward(function: Callable[..., Tensor], *given: Tensor) -> Work:
    return lambda: function(*given).sum().backward()


def in_full_precision(work: Work) -> Work:
    """On a CPU, PyTorch's attention is several times faster with float32 matmuls at full precision."""

    def precise() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        work()
        torch.set_float32_matmul_precision(before)

    return precise if DEVICE.type == "cpu" else work


def recurrence(T: int = 43, B: int = 512, E: int = 128, H: int = 256, *, packed: bool) -> Row:
    """Through time and back, of texts of one length, or of lengths from 1 to T."""
    notebook, layer = definitions("hw4_rnn"), nn.RNN(E, H).to(DEVICE)
    length = torch.linspace(T, 1, B).round().long() if packed else torch.full((B,), T)
    running = [int((length > t).sum()) for t in range(T)]
    x, h0, W_xh, W_hh, bias = leaf(T, B, E), torch.zeros(B, H, device=DEVICE), leaf(E, H), leaf(H, H), leaf(H)
    nn.init.orthogonal_(W_hh), nn.init.orthogonal_(layer.weight_hh_l0)

    def theirs(x: Tensor) -> Tensor:
        return layer(nn.utils.rnn.pack_padded_sequence(x, length) if packed else x)[1]

    def ours(x: Tensor) -> Tensor:
        return notebook.Recurrence.apply(x @ W_xh + bias, h0, W_hh, running)

    works = {"ours": forward_backward(ours, x), "nn.RNN": forward_backward(theirs, x)}
    return f"RNN, T {T}, B {B}, E {E}, H {H}" + (", lengths 1 to T" if packed else ""), works


def cross_entropy(B: int, C: int) -> Row:
    logits, target = leaf(B, C), torch.randint(C, (B,), device=DEVICE)

    def repeat(function: Callable) -> Work:
        return lambda: [function(logits, target).backward() for _ in range(20)]

    return f"cross-entropy, B {B}, C {C}", {
        "ours": repeat(loss.cross_entropy),
        "F.cross_entropy": repeat(F.cross_entropy),
    }


def attention(B: int = 128, N: int = 65, D: int = 192, heads: int = 3) -> Row:
    """The module with its linear maps; the reference takes queries, keys and values as they come, or copied first."""
    ours = definitions("hw4_vit").Attention(D, heads).to(DEVICE)
    x = leaf(B, N, D)

    def reference(x: Tensor, contiguous: bool) -> Tensor:
        q, k, v = ours.to_qkv(x).view(B, N, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
        if contiguous:
            q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        return ours.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, D))

    name = "scaled_dot_product_attention"
    theirs = {name: False, f"{name}, contiguous": True}
    works = {k: in_full_precision(forward_backward(reference, x, v)) for k, v in theirs.items()}
    return f"attention, B {B}, N {N}, D {D}, {heads} heads", {"ours": forward_backward(ours, x), **works}


def translation(B: int = 64, S: int = 9, T: int = 9, V: int = 2_800, D: int = 512) -> Row:
    """One step of all words at once beside the loop of a first solution, one call of nn.LSTM a word."""
    notebook = definitions("hw4_seq2seq")
    src, trg = torch.randint(2, V, (B, S), device=DEVICE), torch.randint(2, V, (B, T), device=DEVICE)
    kinds = {"ours": notebook.FastSeq2Seq, "word by word": notebook.LSTMSeq2Seq}
    models = {name: kind(V, V, D, D, DEVICE, dropout=0.5).train() for name, kind in kinds.items()}
    works = {name: forward_backward(model, src, trg) for name, model in models.items()}
    return f"translation, B {B}, {T} words, E = H = {D}", works


def muon(D: int = 192, depth: int = 6) -> Row:
    """A step for all matrices of a ViT."""
    shapes = [shape for _ in range(depth) for shape in ((3 * D, D), (D, D), (2 * D, D), (D, 2 * D))]

    def step(kind: type[torch.optim.Optimizer], **options: str) -> Work:
        matrices = [leaf(*shape) for shape in shapes]
        for matrix in matrices:
            matrix.grad = torch.randn_like(matrix)
        return kind(matrices, lr=1e-3, **options).step

    works = {"ours": step(Muon), "torch.optim.AdamW": step(torch.optim.AdamW)}
    if hasattr(torch.optim, "Muon"):
        works["torch.optim.Muon"] = step(torch.optim.Muon, adjust_lr_fn="match_rms_adamw")
    return f"Muon, {len(shapes)} matrices, D {D}", works


def rows() -> Iterator[Row]:
    yield recurrence(packed=False)
    yield recurrence(packed=True)
    yield cross_entropy(125, 10)
    yield cross_entropy(512, 2_800)
    yield attention()
    yield translation()
    yield muon()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--precision",
        choices=("medium", "highest"),
        default="medium",
        help="of float32 matmuls: medium as in the notebooks, or PyTorch's default",
    )
    arguments = parser.parse_args()
    session.start(seed=0)
    torch.set_float32_matmul_precision(arguments.precision)
    print(f"{platform.machine()} ({torch.backends.cpu.get_cpu_capability()}), float32 matmuls {arguments.precision}\n")
    print("| forward and backward, or step | beside | its ms | ours, ms | ours / it |\n| --- | --- | --- | --- | --- |")
    for what, works in rows():
        seconds = medians(works)
        ours = seconds.pop("ours")
        for name, theirs in seconds.items():
            print(f"| {what} | {name} | {1e3 * theirs:.1f} | {1e3 * ours:.1f} | **{ours / theirs:.2f}** |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
