"""AG_NEWS: news texts of four topics (Zhang, Zhao and LeCun 2015, arXiv:1509.01626)."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from data import samples, sources

CLASSES = ("World", "Sports", "Business", "Sci/Tech")
URL = "https://raw.githubusercontent.com/mhjabreel/CharCnn_Keras/master/data/ag_news_csv/"
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
    """Read rows of ``label,title,description``; the text is title and description.

    Raises:
        ValueError: for a row without three columns, a label outside 1 to 4, text that is not UTF-8
            or holds NUL bytes, or a file without rows; it names file and line.
    """
    rows = []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.reader(file)
            for row in reader:
                where = f"{path.name}, line {reader.line_num}"
                if len(row) != 3:
                    raise ValueError(f"{where}: {len(row)} columns, expected 3 (label, title, description)")
                if row[0] not in ("1", "2", "3", "4"):
                    raise ValueError(f"{where}: label {row[0]!r}, expected 1, 2, 3 or 4")
                if "\0" in row[1] + row[2]:
                    raise ValueError(f"{where}: a NUL byte in the text; the file is damaged")
                rows.append((int(row[0]), f"{row[1]} {row[2]}".strip()))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{path.name} cannot be read ({error}); expected CSV in UTF-8: fetch it again") from error
    if not rows:
        raise ValueError(f"{path.name} holds no rows; fetch it again")
    return rows


def _real(data_dir: str | Path | None) -> News:
    url = os.environ.get("HW4_AG_NEWS_URL", URL)
    parts, notes = {}, []
    for part, (official_rows, official_md5) in OFFICIAL.items():
        path = sources.find(f"ag_news/{part}.csv", data_dir)
        if path is None:
            path = sources.download(
                f"{url}{part}.csv",
                sources.CACHE / "ag_news" / f"{part}.csv",
                sources.expect_md5(official_md5),
            )
        parts[part] = read_csv(path)
        count = len(parts[part])
        if count != official_rows:
            notes.append(f"{part}: {count:,} rows, the official file has {official_rows:,}")
        elif sources.md5(path) != official_md5:
            notes.append(f"{part}: {count:,} rows, but not the official file's md5")
        else:
            notes.append(f"{part}: the official {count:,} rows")
    return News(**parts, kind="real", source="AG_NEWS (" + "; ".join(notes) + ")")


def load(kind: str = "auto", data_dir: str | Path | None = None) -> News:
    """Load AG_NEWS or its sample; ``kind`` and ``data_dir`` as in :mod:`data.sources`."""

    def sample() -> News:
        train, test = samples.news()
        source = f"generated sample (train: {len(train):,} texts; test: {len(test):,})"
        return News(train, test, "sample", source)

    return sources.choose(kind, lambda: _real(data_dir), sample)
