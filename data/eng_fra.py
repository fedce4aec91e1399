"""English-French sentence pairs (tatoeba.org, CC BY 2.0): their file, and which of them belong together."""

import hashlib
import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.files import atomic_write
from data import samples, sources
from data.data import normalizeString

URLS = ("https://download.pytorch.org/tutorial/data.zip",)
OTHER_URLS = (  # exports of other years: asked only where the tutorial's cannot be had
    "https://storage.googleapis.com/download.tensorflow.org/data/fra-eng.zip",
    "http://d2l-data.s3-accelerate.amazonaws.com/fra-eng.zip",
)
OFFICIAL_PAIRS = 135_842
MEMBERS = {  # archive's member: pairs in it, None where the archive is known by its sha1
    "data/eng-fra.txt": OFFICIAL_PAIRS,
    "fra.txt": 167_130,
    "fra-eng/fra.txt": None,
}
D2L_SHA1 = "94646ad1522d915e7b0f9296181140edcf86a4f5"


@dataclass(frozen=True)
class PairFile:
    """A text file of ``english<TAB>french`` lines."""

    path: Path
    kind: str  # "real" or "sample"
    source: str  # in words: where it is from and how it differs from the tutorial's file


# ------------------------------------------------------------------------------------ the file


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Read ``english<TAB>french`` lines; further columns, as newer exports have, are dropped.

    Lines end at line feeds alone (a carriage return before one is dropped): other separators, such as
    U+2028, belong to the sentence. Empty lines at the end and a byte-order mark are dropped too.

    Args:
        path: a text file in UTF-8.

    Returns:
        ``(english, french)`` pairs as they stand there.

    Raises:
        ValueError: for a line without a tab or with an empty side, text that is not UTF-8,
            or a file without lines; names file and line.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text ({error}); fetch it again") from error
    lines = [line.removesuffix("\r") for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    pairs = []
    for number, line in enumerate(lines, 1):
        sides = line.split("\t")
        if len(sides) < 2 or not sides[0].strip() or not sides[1].strip():
            raise ValueError(f"{path.name}, line {number}: expected 'english<TAB>french', found {line[:60]!r}")
        pairs.append((sides[0], sides[1]))
    if not pairs:
        raise ValueError(f"{path.name} holds no sentence pairs; fetch it again")
    return pairs


def _unpack(path: Path) -> None:
    """A known archive has come: its member takes its place."""
    with path.open("rb") as file:
        sha1 = hashlib.file_digest(file, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()
    try:
        # Only the one member is read, and only its bytes: nothing in the archive decides where they go.
        with zipfile.ZipFile(path) as file:
            member = next(name for name in MEMBERS if name in file.namelist())
            content = file.read(member)
    except StopIteration:
        raise ValueError(f"a zip archive without {', '.join(MEMBERS)}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"no readable zip archive ({error})") from error
    expected = MEMBERS[member]
    if expected is None and sha1 != D2L_SHA1:
        raise ValueError(f"its sha1 is {sha1}, expected {D2L_SHA1}")
    path.write_bytes(content)
    count = len(read_pairs(path))
    if expected not in (None, count):
        raise ValueError(f"{member} has {count:,} pairs, expected {expected:,}")


def _fetch(path: Path) -> None:
    try:
        sources.download(sources.addresses("HW4_ENG_FRA_URL", URLS), path, _unpack)
    except sources.Unavailable as error:
        # Not in one list with the others, so that slowness alone never leads to another export.
        print(f"{error}\nOther exports of the same sentences are asked for.")
        try:
            sources.download(OTHER_URLS, path, _unpack)
        except sources.Unavailable as others:
            raise sources.Unavailable("\n".join([str(error), *str(others).splitlines()[1:]])) from others
    count = len(read_pairs(path))
    if count != OFFICIAL_PAIRS:
        print(f"This export differs from the tutorial's: it holds {count:,} pairs, the tutorial's {OFFICIAL_PAIRS:,}.")


def _real(data_dir: str | Path | None) -> PairFile:
    path = sources.find("eng-fra.txt", data_dir)
    if path is None:
        path = sources.CACHE / "eng-fra.txt"
        _fetch(path)
    count = len(read_pairs(path))
    note = f"{count:,} pairs"
    if count != OFFICIAL_PAIRS:
        note += f", the tutorial's file has {OFFICIAL_PAIRS:,}"
    return PairFile(path, "real", f"eng-fra from tatoeba.org ({note})")


def locate(kind: str = "auto", data_dir: str | Path | None = None) -> PairFile:
    """Find or fetch ``eng-fra.txt``, or write its sample.

    Args:
        kind: ``real``, ``sample``, or ``auto`` for real data where it can be had.
        data_dir: a folder with ``eng-fra.txt``; by default ``$HW4_DATA_DIR``, then ``data/cache/``, then a download.

    Returns:
        The file, with its kind and source.

    Raises:
        ValueError: for a malformed file, an unknown ``kind``, or a ``data_dir`` that is no folder.
        Unavailable: if real data is asked for and cannot be had.
    """

    def sample() -> PairFile:
        pairs = samples.sentence_pairs()
        path = sources.CACHE / "sample" / "eng-fra.txt"
        with atomic_write(path) as file:
            file.writelines(f"{english}\t{french}\n".encode() for english, french in pairs)
        return PairFile(path, "sample", f"generated sample ({len(pairs):,} pairs)")

    return sources.choose(kind, lambda: _real(data_dir), sample)


# ------------------------------------------------------------------------------------ splits without a leak

_WRITTEN_OUT = tuple(  # what normalizeString leaves of a contraction, and the words it stands for
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


def normal_form(pair: Sequence[str]) -> tuple[str, str]:
    """The form in which two sentences count as the same: normalized, English contractions written out.

    Args:
        pair: a French and an English sentence, normalized or not.

    Returns:
        Both, so that "Il n'est pas prêt." with "He isn't ready." is
        ``("il n est pas pret .", "he is not ready .")``.
    """
    french, english = map(normalizeString, pair)
    for contracted, words in _WRITTEN_OUT:
        english = contracted.sub(words, english)
    return french, english


def sentence_groups(pairs: Sequence[Sequence[str]]) -> list[int]:
    """Which pairs hang together: those with the same French or English sentence, and so on from pair to pair.

    A split that keeps each group on one side has no test sentence in training, in either language.

    Args:
        pairs: N pairs ``[french, english]``.

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
        pairs: pairs ``[french, english]``.
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
