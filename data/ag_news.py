"""AG_NEWS: news texts of four topics (Zhang, Zhao and LeCun 2015, arXiv:1509.01626)."""

import csv
import tarfile
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from data import download, samples

CLASSES = ("World", "Sports", "Business", "Sci/Tech")
# Folders that hold train.csv and test.csv, or archives (.tgz) that do.
URLS = (
    "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/"
    "555590db4219b1243abb1918effd6a7425a2d75f/data/ag_news_csv/",
    "https://s3.amazonaws.com/fast-ai-nlp/ag_news_csv.tgz",
)
OFFICIAL = {  # file: rows, md5
    "train": (120_000, "b1a00f826fdfbd249f79597b59e1dc12"),
    "test": (7_600, "d52ea96a97a2d943681189a97654912d"),
}


@dataclass(frozen=True)
class News:
    """Texts with labels 1 to 4, as ``(label, text)`` pairs."""

    train: list[tuple[int, str]]
    test: list[tuple[int, str]]
    kind: str  # "real" or "sample"
    source: str  # in words: where it is from and how it differs from the official files


def read_csv(path: Path) -> list[tuple[int, str]]:
    """Read rows of ``label,title,description``, one a line; the text is title and description.

    Args:
        path: a CSV file in UTF-8, with or without a byte-order mark; blank lines are skipped.

    Returns:
        ``(label, text)`` pairs.

    Raises:
        ValueError: for an unbalanced quote, a field over csv's limit, a header row, a row without three columns,
            a label outside 1 to 4, text that is not UTF-8 or holds NUL bytes, or a file without rows; names
            file and line.
    """
    rows, line = [], 0
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            reader = csv.reader(file, strict=True)
            for line, row in enumerate(reader, 1):
                where = f"{path.name}, line {line}"
                if reader.line_num != line:
                    raise ValueError(
                        f"{where}: a quote that opens here closes in line {reader.line_num}; "
                        "expected one row a line: balance the quotes"
                    )
                if not row:
                    continue
                if line == 1 and not row[0].isdigit():
                    raise ValueError(f"{where}: {','.join(row)[:60]!r} looks like a header row: remove it")
                if len(row) != 3:
                    raise ValueError(f"{where}: {len(row)} columns, expected 3 (label, title, description)")
                if row[0] not in ("1", "2", "3", "4"):
                    raise ValueError(f"{where}: label {row[0]!r}, expected 1, 2, 3 or 4")
                if "\0" in row[1] + row[2]:
                    raise ValueError(f"{where}: a NUL byte in the text; the file is damaged")
                rows.append((int(row[0]), f"{row[1]} {row[2]}".strip()))
    except csv.Error as error:
        where = f"{path.name}, line {line + 1}"
        if "field limit" in str(error) and reader.line_num == line + 1:  # else a quote that does not close
            limit = f"{csv.field_size_limit():,}"
            raise ValueError(f"{where}: a field of more than {limit} characters: shorten or remove it") from error
        raise ValueError(f"{where}: no CSV ({error}); expected one row a line, with balanced quotes") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} cannot be read ({error}); expected CSV in UTF-8: fetch it again") from error
    if not rows:
        raise ValueError(f"{path.name} holds no rows; fetch it again")
    return rows


def _check(part: str, path: Path) -> None:
    """The official file has come, or an archive that holds it: then the file takes the archive's place."""
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):  # gzip
        try:
            with tarfile.open(path) as archive:
                member = next(m for m in archive if m.isfile() and Path(m.name).name == f"{part}.csv")
                content = archive.extractfile(member).read()
        except (tarfile.TarError, zlib.error, EOFError, OSError, StopIteration) as error:
            raise ValueError(f"an archive without a readable {part}.csv ({error})") from error
        path.write_bytes(content)
    download.expect_md5(OFFICIAL[part][1])(path)


def _fetch(part: str) -> Path:
    urls = [
        url if url.endswith((".tgz", ".tar.gz")) else f"{url.rstrip('/')}/{part}.csv"
        for url in download.addresses("HW4_AG_NEWS_URL", URLS)
    ]
    return download.download(urls, download.cache_folder() / "ag_news" / f"{part}.csv", partial(_check, part))


def load(kind: str = "auto", data_dir: str | Path = "") -> News:
    """Load AG_NEWS or its sample.

    Args:
        kind: ``real``, ``sample``, or ``auto`` for real data where it can be had.
        data_dir: a folder with ``ag_news/train.csv`` and ``ag_news/test.csv``; by default ``$HW4_DATA_DIR``,
            then ``data/cache/``, then a download.

    Returns:
        Training and test texts with their labels.

    Raises:
        ValueError: for a malformed file, an unknown ``kind``, or a ``data_dir`` that is no folder.
        Unavailable: if real data is asked for and cannot be had.
    """

    def real() -> News:
        parts, notes = {}, []
        for part, (official_rows, official_md5) in OFFICIAL.items():
            path = download.find(f"ag_news/{part}.csv", data_dir) or _fetch(part)
            parts[part] = read_csv(path)
            count = len(parts[part])
            if count != official_rows:
                notes.append(f"{part}: {count:,} rows, the official file has {official_rows:,}")
            elif download.md5(path) != official_md5:
                notes.append(f"{part}: {count:,} rows, but not the official file's md5")
            else:
                notes.append(f"{part}: the official {count:,} rows")
        return News(**parts, kind="real", source="AG_NEWS (" + "; ".join(notes) + ")")

    def sample() -> News:
        train, test = samples.news()
        return News(train, test, "sample", f"generated sample (train: {len(train):,} texts; test: {len(test):,})")

    return download.choose(kind, real, sample)
