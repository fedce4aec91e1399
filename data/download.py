"""Where data comes from: a local folder, a download that is checked, or a generated sample."""

import hashlib
import http.client
import os
import re
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeVar

from tqdm import tqdm

from common.files import atomic_write

KINDS = ("auto", "real", "sample")
CACHE = Path(__file__).resolve().parent / "cache"
CONNECT_SECONDS = 5  # a name server or host that does not answer by then counts as no network
READ_SECONDS = 20  # a server silent for so long, before or during the download, counts as broken
SLOW_SECONDS = 15  # over which the rate of a download is judged, while another address is left
SLOW_RATE = 200_000  # bytes a second that it must reach then
BLOCK = 1 << 16  # bytes read at once, at most

T = TypeVar("T")


class Unavailable(OSError):
    """The real data can neither be found locally nor downloaded."""


@cache
def _writable(folder: Path) -> Path:
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return folder
    except OSError:
        other = Path(tempfile.gettempdir()) / f"hw4-cache-{Path.home().name}"
        print(f"{folder} cannot be written: {other} is used instead")
        return other


def cache_folder() -> Path:
    """Where files are kept: ``CACHE``, or a folder for temporary files where the project is read-only."""
    return _writable(CACHE)


def find(name: str, data_dir: str | Path = "") -> Path | None:
    """The path of that name in ``data_dir`` (by default ``$HW4_DATA_DIR``) or the cache; None if in neither.

    Raises:
        ValueError: if ``data_dir`` is given but is no folder.
    """
    data_dir = data_dir or os.environ.get("HW4_DATA_DIR")
    folders = [CACHE, cache_folder()]
    if data_dir:
        folders.insert(0, Path(data_dir).expanduser())
        if not folders[0].is_dir():
            raise ValueError(
                f"the data folder {str(data_dir)!r} does not exist: "
                "set HW4_DATA_DIR to a folder with ag_news/, eng-fra.txt or cifar10/, or leave it empty"
            )
    return next((folder / name for folder in folders if (folder / name).exists()), None)


def remove_parts(path: Path) -> None:
    """Remove what killed processes left of ``path``, unless it was written to in the last hour."""
    for part in path.parent.glob(f"{path.name}.*.part"):
        with suppress(OSError):  # just renamed by the process that wrote it, or not ours
            if time.time() - part.stat().st_mtime > 3600:
                part.unlink()


def md5(path: Path) -> str:
    """The file's md5, as 32 hexadecimal digits."""
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def expect_md5(expected: str) -> Callable[[Path], None]:
    """A check for :func:`download`: the file has this md5."""

    def check(path: Path) -> None:
        found = md5(path)
        if found != expected:
            raise ValueError(f"its md5 is {found}, expected {expected}")

    return check


def addresses(variable: str, built_in: Iterable[str]) -> list[str]:
    """The addresses in an environment variable, separated by spaces, and behind them the built-in ones.

    Raises:
        ValueError: if the variable holds something that is no http or https address.
    """
    given = os.environ.get(variable, "").split()
    for url in given:
        if not re.match(r"https?://[^/[]", url):
            raise ValueError(f"{variable}: {url!r} is no address; expected http://host/path or https://host/path")
    return [*given, *built_in]


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


class _Slow(ValueError):
    """An address is given up for slowness alone."""


@contextmanager
def _network() -> Iterator[None]:
    """Turn what servers and networks do wrong into a ValueError; errors of the disk happen outside this block."""
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        raise ValueError(f"HTTP {error.code} {error.reason}") from error
    except TimeoutError:
        raise ValueError(f"silent for {READ_SECONDS} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ValueError(f"it broke off ({str(error) or type(error).__name__})") from error


def _connect(url: str) -> None:
    """Raise ValueError unless the address accepts a connection soon.

    In a thread, because a name look-up has no time-out, and every machine behind a name has one of its own.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in urllib.request.getproxies():
        return  # a proxy looks the name up, and answers for itself
    failed: list[Exception] = [TimeoutError(f"none in {CONNECT_SECONDS} s")]

    def connect() -> None:
        try:
            target = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
            socket.create_connection(target, CONNECT_SECONDS).close()
            failed.clear()
        except (OSError, ValueError) as error:  # ValueError: a name or port that is none
            failed[0] = error

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    for error in failed:
        raise ValueError(f"no connection ({error})")


def _fetch(url: str, file: BinaryIO, hurry: bool) -> None:
    """Write what the address sends to the file, or raise ValueError; with ``hurry`` also for a slow one."""
    _connect(url)
    with _network():
        request = urllib.request.Request(url, headers={"User-Agent": "hw4-data"})
        response = urllib.request.urlopen(request, timeout=READ_SECONDS)
    total, begin, received, mark = response.length, time.monotonic(), 0, 0
    options = {"total": total, "unit": "B", "unit_scale": True, "leave": False, "ncols": 110}
    with response, tqdm(desc=_host(url), file=sys.stdout, **options) as bar:
        while True:
            with _network():
                block = response.read1(BLOCK)
            if not block:
                break
            file.write(block)
            bar.update(len(block))
            received += len(block)
            seconds = time.monotonic() - begin
            if hurry and seconds >= SLOW_SECONDS:
                rate = (received - mark) / seconds
                if rate < SLOW_RATE:
                    expected = f"expected at least {SLOW_RATE // 1000}"
                    raise _Slow(f"slow: {rate / 1000:.0f} kB/s over {seconds:.0f} s, {expected}")
                begin, mark = time.monotonic(), received
    if total is not None and received < total:
        raise ValueError(f"it ended after {received:,} of {total:,} bytes")


def download(urls: Sequence[str], path: Path, check: Callable[[Path], None]) -> Path:
    """Fetch a file from the first address that has it, and put it in its place once it is complete and checked.

    An address that accepts no connection, falls silent, breaks off, or sends something that the check refuses
    is given up with a line that says why. So is a slow one while others are left; if those fail as well, it is
    asked again and may take its time.

    Args:
        urls: addresses of the same file, the best first.
        path: where the file goes; its folder is made if missing.
        check: raises ValueError for a wrong file; may replace it with what is inside, as a member of an archive.

    Returns:
        ``path``.

    Raises:
        Unavailable: if no address gives the file; lists each with its reason. What stood at ``path`` stays.
        OSError: if the disk cannot be written.
    """
    remove_parts(path)
    reasons: dict[str, str] = {}
    queue = [(url, url != urls[-1]) for url in urls]
    with atomic_write(path) as file:
        for url, hurry in queue:  # which may grow meanwhile
            file.seek(0)
            file.truncate()
            try:
                _fetch(url, file, hurry)
                file.flush()
                check(Path(file.name))
                return path
            except ValueError as error:
                reasons[url] = " ".join(str(error).split())  # one line, whatever a server answered
                if isinstance(error, _Slow):
                    queue.append((url, False))
            if (url, hurry) != queue[-1]:
                print(f"{path.name}: {_host(url)}: {reasons[url]}; the next address is tried")
        raise Unavailable("\n  ".join([f"{path.name} could not be fetched:", *map(": ".join, reasons.items())]))


def choose(kind: str, real: Callable[[], T], sample: Callable[[], T]) -> T:
    """Load ``real`` or ``sample`` data, or with ``auto`` real data where it can be had.

    Raises:
        ValueError: if ``kind`` is none of ``KINDS``.
        Unavailable: if ``kind`` is ``real`` and ``real()`` raised it.
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
                f"{error}\nPut the files into a folder and set HW4_DATA_DIR to it, "
                "connect to the internet, or choose HW4_DATA=sample"
            ) from error
        line = "=" * 78
        print(
            f"{line}\nNO REAL DATA: {error}\n"
            f"GENERATED SAMPLES are used instead; results below are NOT results on the real data.\n{line}"
        )
        return sample()
