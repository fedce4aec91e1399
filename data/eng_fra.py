"""The file of English-French sentence pairs behind ``data.data`` (tatoeba.org, CC BY 2.0)."""

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path

from common.files import atomic_write
from data import samples, sources

URL = "https://download.pytorch.org/tutorial/data.zip"
MEMBER = "data/eng-fra.txt"
OFFICIAL_PAIRS = 135_842


@dataclass(frozen=True)
class PairFile:
    """A text file of ``english<TAB>french`` lines."""

    path: Path
    kind: str  # "real" or "sample"
    source: str  # in words: where it is from and how it differs from the tutorial's file


def read_pairs(path: Path) -> list[tuple[str, str]]:
    """Read ``english<TAB>french`` lines; further columns, as newer exports have, are dropped.

    Raises:
        ValueError: for a line without a tab or with an empty side, text that is not UTF-8,
            or a file without lines; it names file and line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text ({error}); fetch it again") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        sides = line.split("\t")
        if len(sides) < 2 or not sides[0].strip() or not sides[1].strip():
            raise ValueError(f"{path.name}, line {number}: expected 'english<TAB>french', found {line[:60]!r}")
        pairs.append((sides[0], sides[1]))
    if not pairs:
        raise ValueError(f"{path.name} holds no sentence pairs; fetch it again")
    return pairs


def _unpack(archive: Path, path: Path) -> None:
    # Only the one member is read, and only its bytes: nothing in the archive decides where they go.
    try:
        with zipfile.ZipFile(archive) as file:
            content = file.read(MEMBER)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ValueError(f"no zip archive with {MEMBER} in it ({error})") from error
    lines = content.count(b"\n") + (not content.endswith(b"\n"))
    if lines != OFFICIAL_PAIRS:
        raise ValueError(f"{MEMBER} has {lines:,} pairs, expected {OFFICIAL_PAIRS:,}")
    with atomic_write(path) as file:
        file.write(content)


def _real(data_dir: str | Path | None) -> PairFile:
    path = sources.find("eng-fra.txt", data_dir)
    if path is None:
        path = sources.CACHE / "eng-fra.txt"
        archive = path.with_name("eng-fra.zip")
        url = os.environ.get("HW4_ENG_FRA_URL", URL)
        sources.download(url, archive, lambda part: _unpack(part, path))
        archive.unlink()
    count = len(read_pairs(path))
    note = f"{count:,} pairs"
    if count != OFFICIAL_PAIRS:
        note += f", the tutorial's file has {OFFICIAL_PAIRS:,}"
    return PairFile(path, "real", f"eng-fra from tatoeba.org ({note})")


def locate(kind: str = "auto", data_dir: str | Path | None = None) -> PairFile:
    """Find or fetch ``eng-fra.txt``, or write its sample; arguments as in :mod:`data.sources`."""

    def sample() -> PairFile:
        pairs = samples.sentence_pairs()
        path = sources.CACHE / "sample" / "eng-fra.txt"
        with atomic_write(path) as file:
            file.writelines(f"{english}\t{french}\n".encode() for english, french in pairs)
        return PairFile(path, "sample", f"generated sample ({len(pairs):,} pairs)")

    return sources.choose(kind, lambda: _real(data_dir), sample)
