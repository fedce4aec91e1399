"""English-French sentence pairs (tatoeba.org, CC BY 2.0): find, fetch or generate their file."""

import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from common.files import atomic_write
from data import download, samples

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


def _count(lines: Iterable[bytes]) -> int:
    return sum(b"\t" in line for line in lines)


def _unpack(path: Path) -> None:
    """A known archive has come: its member takes its place."""
    archive = path.read_bytes()
    try:
        # Only the one member is read, and only its bytes: nothing in the archive decides where they go.
        with zipfile.ZipFile(io.BytesIO(archive)) as file:
            member = next(name for name in MEMBERS if name in file.namelist())
            content = file.read(member)
    except StopIteration:
        raise ValueError(f"a zip archive without {', '.join(MEMBERS)}") from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"no readable zip archive ({error})") from error
    expected, count = MEMBERS[member], _count(content.split(b"\n"))
    sha1 = hashlib.sha1(archive, usedforsecurity=False).hexdigest()
    if expected is None and sha1 != D2L_SHA1:
        raise ValueError(f"its sha1 is {sha1}, expected {D2L_SHA1}")
    if expected not in (None, count):
        raise ValueError(f"{member} has {count:,} pairs, expected {expected:,}")
    path.write_bytes(content)


def _fetch() -> Path:
    path = download.cache_folder() / "eng-fra.txt"
    try:
        return download.download(download.addresses("HW4_ENG_FRA_URL", URLS), path, _unpack)
    except download.Unavailable as error:
        # Not in one list with the others, so that slowness alone never leads to another export.
        print(f"{error}\nOther exports of the same sentences are asked for.")
        try:
            return download.download(OTHER_URLS, path, _unpack)
        except download.Unavailable as others:
            raise download.Unavailable(f"{error}\n{others}") from others


def locate(kind: str = "auto", data_dir: str | Path = "") -> PairFile:
    """Find or fetch ``eng-fra.txt``, or write its sample.

    Args:
        kind: ``real``, ``sample``, or ``auto`` for real data where it can be had.
        data_dir: a folder with ``eng-fra.txt``; by default ``$HW4_DATA_DIR``, then ``data/cache/``, then a download.

    Returns:
        The file, with its kind and source; ``data.data.read_pairs`` checks its lines.

    Raises:
        ValueError: for an unknown ``kind``, or a ``data_dir`` that is no folder.
        Unavailable: if real data is asked for and cannot be had.
    """

    def real() -> PairFile:
        path = download.find("eng-fra.txt", data_dir) or _fetch()
        with path.open("rb") as file:
            count = _count(file)
        note = f", the tutorial's file has {OFFICIAL_PAIRS:,}" if count != OFFICIAL_PAIRS else ""
        return PairFile(path, "real", f"eng-fra from tatoeba.org ({count:,} pairs{note})")

    def sample() -> PairFile:
        pairs = samples.sentence_pairs()
        path = download.cache_folder() / "sample" / "eng-fra.txt"
        with atomic_write(path) as file:
            file.writelines(f"{english}\t{french}\n".encode() for english, french in pairs)
        return PairFile(path, "sample", f"generated sample ({len(pairs):,} pairs)")

    return download.choose(kind, real, sample)
