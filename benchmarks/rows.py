"""The rows of the table: a component of the notebooks, what a user would call instead, and its matmuls alone."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.models import VisionTransformer

from benchmarks.measure import matmuls
from common import loss as losses
from common import session
from common.timing import Work
from data import samples
from data.data import EOS_token, SOS_token
from tools.notebooks import definitions

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Row:
    work: str
    shape: str
    reference: str
    aim: float | None  # of ours / reference on the CPU; None: for comparison only
    build: Callable[[], dict[str, Work]]  # "ours", "reference" and, where there are matmuls, "floor"


def _tensor(*shape: int) -> Tensor:
    return torch.randn(*shape, device=DEVICE, requires_grad=True)


def _full_precision(work: Work) -> Work:
    """The work with float32 matmuls at full precision: on a CPU, PyTorch's attention is several times faster so."""

    def precise() -> None:
        precision = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        work()
        torch.set_float32_matmul_precision(precision)

    return precise if DEVICE.type == "cpu" else work


# ------------------------------------------------------------------------------------ recurrence


def recurrence(T: int = 43, B: int = 512, I: int = 128, H: int = 256, lengths: list[int] | None = None) -> dict:  # noqa: E741
    """Forward and backward through time, of full or real lengths."""
    notebook, layer = definitions("hw4_rnn"), nn.RNN(I, H).to(DEVICE)
    nn.init.orthogonal_(layer.weight_hh_l0)  # else gradients of 172 steps underflow, and denormal numbers are slow
    length = torch.tensor(sorted(lengths or [T] * B, reverse=True))
    running = [int((length > t).sum()) for t in range(int(length[0]))]
    x, h0 = _tensor(len(running), B, I), torch.zeros(B, H, device=DEVICE)
    W_xh, W_hh = (w.detach().T.contiguous().requires_grad_() for w in (layer.weight_ih_l0, layer.weight_hh_l0))
    bias = (layer.bias_ih_l0 + layer.bias_hh_l0).detach().requires_grad_()

    def ours() -> tuple[Tensor, ...]:
        last = notebook.Recurrence.apply(x @ W_xh + bias, h0, W_hh, running)
        return torch.autograd.grad(last.sum(), (x, W_xh, bias, W_hh))

    def reference() -> tuple[Tensor, ...]:
        given = x if lengths is None else nn.utils.rnn.pack_padded_sequence(x, length)
        return torch.autograd.grad(layer(given)[1].sum(), (x, *layer.parameters()))

    P = sum(running)
    steps = [(2, 1, n, H, H) for n in running]  # there and back
    rest = [(1, 1, P, I, H), (1, 1, P, H, I), (1, 1, I, P, H), (1, 1, H, P, H)]
    return {"ours": ours, "reference": reference, "floor": matmuls(*steps, *rest, device=DEVICE)}


def news_lengths(T: int = 43, B: int = 512) -> list[int]:
    """The lengths of the first texts of the sample, cut as ``collate_batch`` cuts; they spread as AG_NEWS's do."""
    return [min(T, max(1, len(text.split()))) for _, text in samples.news()[0][:B]]


# ------------------------------------------------------------------------------------ losses and attention


def cross_entropy(B: int, C: int) -> dict:
    logits, target = _tensor(B, C), torch.randint(C, (B,), device=DEVICE)

    def repeat(function: Callable) -> Work:
        def work() -> None:
            for _ in range(20):
                function(logits, target).backward()

        return work

    return {"ours": repeat(losses.cross_entropy), "reference": repeat(F.cross_entropy)}


def attention(B: int = 128, N: int = 65, D: int = 192, heads: int = 3) -> dict:
    ours = definitions("hw4_vit").Attention(D, heads).to(DEVICE)
    x, d = _tensor(B, N, D), D // heads

    def reference(x: Tensor) -> Tensor:
        q, k, v = ours.to_qkv(x).view(B, N, 3, heads, d).permute(2, 0, 3, 1, 4)
        return ours.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, D))

    shapes = [(3, 1, B * N, D, 3 * D), (3, 1, B * N, D, D), (6, B * heads, N, d, N)]
    return {
        "ours": lambda: ours(x).sum().backward(),
        "reference": _full_precision(lambda: reference(x).sum().backward()),
        "floor": matmuls(*shapes, device=DEVICE),
    }


# ------------------------------------------------------------------------------------ training steps


def vit_step(half: bool, B: int = 128, D: int = 192, heads: int = 3, depth: int = 6) -> dict:
    """One training step with AdamW; ``half``: in bfloat16, both; else each at the precision that is faster for it."""
    notebook = definitions("hw4_vit")
    ours = notebook.ViT((3, 32, 32), (4, 4), 10, D, heads, depth, 2 * D).to(DEVICE)
    theirs = VisionTransformer(
        image_size=32, patch_size=4, num_layers=depth, num_heads=heads, hidden_dim=D, mlp_dim=2 * D, num_classes=10
    ).to(DEVICE)
    images, labels = torch.randn(B, 3, 32, 32, device=DEVICE), torch.randint(10, (B,), device=DEVICE)

    def step(model: nn.Module, loss: Callable) -> Work:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

        def work() -> None:
            optimizer.zero_grad()
            with torch.autocast(DEVICE.type, torch.bfloat16, enabled=half):
                logits = model.train()(images)
            loss(logits.float(), labels).backward()
            optimizer.step()

        return work

    N, d = 65, D // heads
    block = [(3, 1, B * N, D, 3 * D), (3, 1, B * N, D, D), (6, 1, B * N, D, 2 * D), (6, B * heads, N, d, N)]
    shapes = [(times * depth, *shape) for times, *shape in block]
    floor = matmuls(*shapes, device=DEVICE, dtype=torch.bfloat16 if half else torch.float32)
    reference = step(theirs, F.cross_entropy)
    return {
        "ours": step(ours, losses.cross_entropy),
        "reference": reference if half else _full_precision(reference),
        "floor": floor,
    }


def seq2seq_step(
    like_ours: bool, B: int = 64, S: int = 9, T: int = 9, V: int = 2_800, E: int = 512, H: int = 512
) -> dict:
    """One training step; the reference is the loop a first solution writes: word by word, and AdamW as it comes.

    With ``like_ours`` the reference gets the fused AdamW of the notebook, so that the loop alone is compared.
    """
    notebook = definitions("hw4_seq2seq")
    src, trg = torch.randint(2, 4_300, (B, S), device=DEVICE), torch.randint(2, V, (B, T), device=DEVICE)
    src[:, -1] = trg[:, -1] = EOS_token
    trg[:, 0] = SOS_token

    def reference_loss(output: Tensor, trg: Tensor) -> Tensor:
        return F.nll_loss(output[:, :, 1:], trg[:, 1:], ignore_index=notebook.PAD)

    def step(kind: type[nn.Module], loss: Callable, fused: bool) -> Work:
        model = kind(4_300, V, E, H, DEVICE, dropout=0.5)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=fused)

        def work() -> None:
            optimizer.zero_grad()
            loss(model(src, trg), trg).backward()
            optimizer.step()

        return work

    n = T - 1
    lstms = [(6 * S, 1, B, E, 2 * H), (6 * S, 1, B, H // 2, 2 * H), (3 * n, 1, B, E + 2 * H, 4 * H)]
    shapes = [*lstms, (6 * n, B, 1, H, S), (3, 1, B * n, H, E), (3, 1, B * n, E, V)]
    return {
        "ours": step(notebook.FastSeq2Seq, notebook.translation_loss, True),
        "reference": step(notebook.LSTMSeq2Seq, reference_loss, like_ours),
        "floor": matmuls(*shapes, device=DEVICE),
    }


# ------------------------------------------------------------------------------------ data


class _Pictures(Dataset):
    def __init__(self, pictures: Tensor):
        self.pictures = [transforms.functional.to_pil_image(picture) for picture in pictures]
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, i: int) -> Tensor:
        return self.transform(self.pictures[i])


def augmentation(count: int = 5_000, B: int = 125) -> dict:
    notebook = definitions("hw4_vit")
    (pictures, _), _ = samples.images(train_size=count, test_size=0)
    loader = iter_forever(DataLoader(_Pictures(pictures), B, shuffle=True, num_workers=2, persistent_workers=True))
    pictures, batches = pictures.to(DEVICE), torch.randperm(count, device=DEVICE).split(B)

    def ours() -> None:
        for batch in batches:
            notebook.normalize(notebook.augment(pictures[batch]))

    def reference() -> None:
        for _ in batches:
            next(loader).to(DEVICE)

    return {"ours": ours, "reference": reference}


def iter_forever(loader: DataLoader) -> Iterator[Tensor]:
    while True:
        yield from loader


SDPA, VIT = "scaled_dot_product_attention, full precision", "torchvision VisionTransformer"
AS_IT_COMES, FUSED = "word by word, AdamW as it comes", "word by word, fused AdamW as ours"
ROWS = [
    Row("RNN, forward + backward", "T 43, B 512, I 128, H 256", "nn.RNN", 0.85, recurrence),
    Row(
        "the same, real lengths", "lengths of news", "nn.RNN, packed", 0.7, partial(recurrence, lengths=news_lengths())
    ),
    Row("cross-entropy, forward + backward", "B 125, C 10", "F.cross_entropy", 1.2, partial(cross_entropy, 125, 10)),
    Row("the same", "B 512, C 2,800", "F.cross_entropy", 1.2, partial(cross_entropy, 512, 2_800)),
    Row("attention, forward + backward", "B 128, N 65, D 192, 3 heads", SDPA, 1.1, attention),
    Row("ViT step, float32", "B 128, D 192, 6 blocks", f"{VIT}, full precision", 1.0, partial(vit_step, False)),
    Row("ViT step, bfloat16", "B 128, D 192, 6 blocks", VIT, 1.0, partial(vit_step, True)),
    Row("seq2seq step", "B 64, 9 words, E = H = 512", AS_IT_COMES, 0.7, partial(seq2seq_step, False)),
    Row("the same, the loop alone", "as above", FUSED, None, partial(seq2seq_step, True)),
    Row("augmenting 5,000 images", "3 x 32 x 32, B 125", "torchvision, DataLoader of 2 workers", 0.2, augmentation),
]
if not session.has_bfloat16(DEVICE):
    ROWS = [row for row in ROWS if "bfloat16" not in row.work]
