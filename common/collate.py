"""From sequences of different lengths to rectangular batches."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def pad(sequences: Sequence[Sequence[int]], value: int, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Put token lists side by side, cut or filled up to one length.

    Args:
        sequences: ``B`` lists of token indices; an empty one counts as a single ``value``.
        value: the index to fill with.
        length: the common length ``T``; by default that of the longest sequence, at least 1.

    Returns:
        ``tokens (B, T) long`` and ``kept (B,) long``, the tokens that stand before the filling,
        ``1 <= kept <= T``.

    Raises:
        ValueError: if there is no sequence or ``length`` is below 1.
    """
    if len(sequences) == 0:
        raise ValueError("the batch is empty: expected at least one sequence")
    if length is None:
        length = max(1, max(len(s) for s in sequences))
    if length < 1:
        raise ValueError(f"length is {length}: expected at least 1")
    filled = [[*sequence[:length], *[value] * (length - len(sequence))] for sequence in sequences]
    tokens = torch.tensor(filled, dtype=torch.long)  # (B, T)
    kept = torch.tensor([min(max(len(s), 1), length) for s in sequences])
    return tokens, kept


class LengthBatches:
    """Batches of indices whose sequences have similar lengths, so that little is padded or cut.

    Each epoch jitters the lengths a little, sorts by them, slices the order into batches and
    shuffles the batches: neighbors change from epoch to epoch while lengths stay close.

    Args:
        lengths: the length of every sequence.
        batch_size: sequences a batch; the last of an epoch may be smaller.
        shuffle: off, the batches come in order of length, the same every time.
        jitter: standard deviation of the noise on the lengths, in tokens.
        generator: where the randomness comes from.

    Raises:
        ValueError: if ``batch_size`` is below 1.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        shuffle: bool = True,
        jitter: float = 2.0,
        generator: torch.Generator | None = None,
    ):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}: expected at least 1")
        self.lengths = torch.as_tensor(lengths, dtype=torch.float)
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.jitter = jitter
        self.generator = generator

    def __len__(self) -> int:
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[Tensor]:
        keys = self.lengths
        if self.shuffle:
            keys = keys + self.jitter * torch.randn(len(keys), generator=self.generator)
        batches = keys.argsort(stable=True).split(self.batch_size)
        order = range(len(batches))
        if self.shuffle:
            order = torch.randperm(len(batches), generator=self.generator).tolist()
        for i in order:
            yield batches[i]
