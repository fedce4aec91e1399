"""Where data comes from: a local folder, a download that is checked, or a generated sample."""

import hashlib
import http.client
import os
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from common.files import atomic_write

KINDS = ("auto", "real", "sample")
CACHE = Path(__file__).resolve().parent / "cache"
CONNECT_SECONDS = 5  # a name server or host that does not answer by then counts as no network
READ_SECONDS = 20  # a server silent for so long, mid-download, counts as broken

T = TypeVar("T")


class Unavailable(OSError):
    """The real data can neither be found locally nor downloaded."""


def find(name: str, data_dir: str | Path | None = None) -> Path | None:
    """Look for a file or folder in ``data_dir`` (default ``$HW4_DATA_DIR``), then in ``data/cache/``.

    Raises:
        ValueError: if ``data_dir`` is named but is no folder.
    """
    data_dir = data_dir or os.environ.get("HW4_DATA_DIR")
    if data_dir and not Path(data_dir).is_dir():
        raise ValueError(
            f"the data folder {str(data_dir)!r} does not exist: "
            "set HW4_DATA_DIR to a folder with ag_news/, eng-fra.txt or cifar10/, or leave it empty"
        )
    folders = [Path(data_dir), CACHE] if data_dir else [CACHE]
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def md5(path: Path) -> str:
    """The file's md5, as 32 hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _reach(url: str) -> None:
    # Name look-ups know no time-out of their own, so the connection is tried in a thread.
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in urllib.request.getproxies():
        return  # a proxy looks the name up, and answers for itself
    port = parts.port or (443 if parts.scheme == "https" else 80)
    outcome: list[Exception | None] = []

    def connect() -> None:
        try:
            socket.create_connection((parts.hostname, port), timeout=CONNECT_SECONDS).close()
            outcome.append(None)
        except OSError as error:
            outcome.append(error)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    if not outcome or outcome[0] is not None:
        reason = outcome[0] if outcome else f"no answer in {CONNECT_SECONDS} s"
        raise Unavailable(f"{parts.hostname} cannot be reached ({reason})")


def download(url: str, path: Path, check: Callable[[Path], None]) -> Path:
    """Fetch ``url`` into ``path``; the file appears there only whole and checked.

    Args:
        url: what to fetch.
        path: where to put it; its folder is made if missing.
        check: called with the finished temporary file; raises ValueError if it is not the right one.

    Raises:
        Unavailable: if the server cannot be reached, refuses, stalls, stops early or sends
            something that ``check`` rejects. Whatever stood at ``path`` is left as it was.
    """
    _reach(url)
    try:
        with atomic_write(path) as file, urllib.request.urlopen(url, timeout=READ_SECONDS) as response:
            size = int(response.headers.get("Content-Length") or 0)
            with tqdm(total=size or None, unit="B", unit_scale=True, desc=path.name, leave=False) as bar:
                while block := response.read(1 << 16):
                    file.write(block)
                    bar.update(len(block))
            if size and file.tell() != size:
                raise ValueError(f"it ended after {file.tell():,} of {size:,} bytes")
            file.flush()
            check(Path(file.name))
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError, ValueError) as error:
        raise Unavailable(f"{url} gave no usable file: {error}") from error
    return path


def expect_md5(expected: str) -> Callable[[Path], None]:
    """A check for :func:`download`: the file has this md5."""

    def check(path: Path) -> None:
        found = md5(path)
        if found != expected:
            raise ValueError(f"its md5 is {found}, expected {expected}")

    return check


def choose(kind: str, real: Callable[[], T], sample: Callable[[], T]) -> T:
    """Load ``real`` or ``sample`` data, or with ``auto`` real data where it can be had.

    Raises:
        ValueError: for an unknown ``kind``.
        Unavailable: if ``kind`` is ``real`` and the data cannot be had.
    """
    if kind not in KINDS:
        raise ValueError(f"data kind {kind!r} is unknown: expected one of {', '.join(KINDS)}")
    if kind == "sample":
        return sample()
    try:
        return real()
    except Unavailable as error:
        if kind == "real":
            raise Unavailable(
                f"{error}. Put the files into a folder named by HW4_DATA_DIR, "
                "connect to the internet, or choose HW4_DATA=sample"
            ) from error
        line = "=" * 78
        print(
            f"{line}\nNO REAL DATA: {error}\n"
            f"GENERATED SAMPLES are used instead; results below are NOT results on the real data.\n{line}"
        )
        return sample()
