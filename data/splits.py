"""Which sentence pairs belong together, so that no sentence is both trained and tested on."""

import re
from collections.abc import Iterable, Sequence
from functools import cache

_CONTRACTIONS = tuple(  # what normalizeString leaves of a contraction, and the words it stands for
    (re.compile(rf"\b{contracted}\b"), words)
    for contracted, words in (
        ("cannot", "can not"),
        ("can t", "can not"),
        ("won t", "will not"),
        ("shan t", "shall not"),
        ("(is|are|was|were|do|does|did|has|have|had|would|could|should|might|must|need)n t", r"\1 not"),
        ("i m", "i am"),
        ("(you|we|they|there|what|who|where|how) re", r"\1 are"),
        ("(he|she|it|that|there|here|what|who|where|when|why|how) s", r"\1 is"),
        ("let s", "let us"),
        ("(i|you|he|she|it|we|they|that|there|what|who) ll", r"\1 will"),
        ("(i|you|we|they|what|who|could|should|would|might|must) ve", r"\1 have"),
        ("(i|you|he|she|it|we|they|there|who) d", r"\1 would"),
    )
)


@cache
def _write_out(english: str) -> str:
    for contracted, words in _CONTRACTIONS:
        english = contracted.sub(words, english)
    return english


def normal_form(pair: Sequence[str]) -> tuple[str, str]:
    """The form in which two sentences count as the same: English contractions are written out.

    Args:
        pair: a French and an English sentence, normalized as ``prepareData`` returns them.

    Returns:
        Both, so that ``["il n est pas pret .", "he isn t ready ."]`` is
        ``("il n est pas pret .", "he is not ready .")``.
    """
    french, english = pair
    return french, _write_out(english)


def sentence_groups(pairs: Sequence[Sequence[str]]) -> list[int]:
    """Which pairs hang together: those with the same French or English sentence, and so on from pair to pair.

    A split that keeps each group on one side has no test sentence in training, in either language.

    Args:
        pairs: N normalized pairs ``[french, english]``.

    Returns:
        N group numbers, counted from 0 in the order in which the groups appear: the connected
        components of the graph that joins pairs with an equal side in :func:`normal_form`.
    """
    parent = list(range(len(pairs)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    first: dict[tuple[int, str], int] = {}
    for row, pair in enumerate(pairs):
        for side in enumerate(normal_form(pair)):
            parent[root(row)] = root(first.setdefault(side, row))
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(row), len(numbers)) for row in range(len(pairs))]


def leak(pairs: Sequence[Sequence[str]], train_rows: Iterable[int], test_rows: Iterable[int]) -> float:
    """The share of test pairs whose French or English sentence occurs in training, in :func:`normal_form`.

    Args:
        pairs: normalized pairs ``[french, english]``.
        train_rows: which of them are trained on.
        test_rows: which of them are tested on.

    Returns:
        Between 0 and 1; 0 for a split that deals out :func:`sentence_groups`.

    Raises:
        ValueError: if there is no test pair.
    """
    known = {side for row in train_rows for side in enumerate(normal_form(pairs[row]))}
    leaked = [not known.isdisjoint(enumerate(normal_form(pairs[row]))) for row in test_rows]
    if not leaked:
        raise ValueError("no test rows: expected at least one")
    return sum(leaked) / len(leaked)
