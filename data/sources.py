"""Where data comes from: a local folder, a download that is checked, or a generated sample."""

import hashlib
import http.client
import os
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import Future
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
REQUESTS = 5  # at most, to one address in one go
BLOCK = 1 << 16  # bytes read at once, at most

T = TypeVar("T")


class Unavailable(OSError):
    """The real data can neither be found locally nor downloaded."""


def find(name: str, data_dir: str | Path | None = None) -> Path | None:
    """Look for a file or folder in a local data folder, then in ``data/cache/``.

    Args:
        name: the path within either folder.
        data_dir: the local folder; by default ``$HW4_DATA_DIR``, and none if that is not set.

    Returns:
        The first path that exists, or None.

    Raises:
        ValueError: if ``data_dir`` is given but is no folder.
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
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def expect_md5(expected: str) -> Callable[[Path], None]:
    """A check for :func:`download`: the file has this md5."""

    def check(path: Path) -> None:
        found = md5(path)
        if found != expected:
            raise ValueError(f"its md5 is {found}, expected {expected}")

    return check


# ------------------------------------------------------------------------------------ addresses


def _valid(urls: Iterable[str], origin: str) -> list[str]:
    urls = list(dict.fromkeys(urls))
    if not urls:
        raise ValueError(f"{origin} holds no address: expected http:// or https:// addresses, separated by spaces")
    for url in urls:
        try:
            parts = urllib.parse.urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port that is no number, brackets that do not close
            usable = False
        if not usable:
            raise ValueError(f"{origin}: {url!r} is no address; expected http://host/path or https://host/path")
    return urls


def addresses(variable: str, built_in: Iterable[str]) -> list[str]:
    """The addresses in an environment variable, separated by spaces, and behind them the built-in ones.

    Raises:
        ValueError: if the variable is set but empty, or holds something that is no http or https address.
    """
    if variable not in os.environ:
        return list(built_in)
    return [*_valid(os.environ[variable].split(), variable), *built_in]


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]


# ------------------------------------------------------------------------------------ downloads


class _GivenUp(Exception):
    """Why an address was given up.

    Attributes:
        rate: bytes a second that it sent until then; 0 if nothing came.
    """

    rate = 0.0

    def __init__(self, reason: str):
        super().__init__(" ".join(reason.split()))  # one line, whatever a server answered


class _Part:
    """The bytes fetched so far, in pieces that may come from several addresses.

    Attributes:
        file: they are its content, and it is open at their end.
        total: how many there will be, as far as a server told.
        pieces: how many answers they come from.
    """

    def __init__(self, file: BinaryIO):
        self.file, self.total, self.pieces = file, None, 0

    @property
    def held(self) -> int:
        return self.file.tell()

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.total, self.pieces = None, 0


def _within(seconds: float, call: Callable[[], T]) -> T:
    """Call in a thread that is waited for so long: name look-ups and trickling headers know no time-out."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(timeout=seconds)


def _connect(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme in urllib.request.getproxies():
        return  # a proxy looks the name up, and answers for itself
    target = (parts.hostname, parts.port or (443 if parts.scheme == "https" else 80))
    try:
        _within(CONNECT_SECONDS, lambda: socket.create_connection(target, timeout=CONNECT_SECONDS).close())
    except TimeoutError:
        raise _GivenUp(f"no connection in {CONNECT_SECONDS} s") from None
    except (OSError, ValueError) as error:  # ValueError: a name that is none
        raise _GivenUp(f"no connection ({error})") from error


def _request(url: str, begin: int = 0) -> http.client.HTTPResponse:
    headers = {"User-Agent": "hw4-data"} | ({"Range": f"bytes={begin}-"} if begin else {})
    request = urllib.request.Request(url, headers=headers)
    try:
        return _within(READ_SECONDS, lambda: urllib.request.urlopen(request, timeout=READ_SECONDS))
    except urllib.error.HTTPError as error:
        error.close()
        if begin:  # ranges are refused, or this file is shorter
            return _request(url)
        raise _GivenUp(f"HTTP {error.code} {error.reason}".strip()) from error
    except TimeoutError:
        raise _GivenUp(f"silent for {READ_SECONDS} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _GivenUp(f"no answer ({getattr(error, 'reason', None) or error or type(error).__name__})") from error


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None, int | None]:
    """Where an answer's bytes begin and end in the file, and its whole size; None for what is not told."""
    begin, total = 0, None
    if response.status == 206:
        told = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        begin = int(told[1]) if told else -1
        total = int(told[2]) if told and told[2] != "*" else None
    end = None if response.length is None else max(0, begin) + response.length
    return begin, end, end if total is None else total


def _open(url: str, part: _Part) -> tuple[http.client.HTTPResponse, int | None]:
    """Ask for what the part lacks, or for all where the server does not send just that; with the answer's end."""
    response = _request(url, part.held)
    begin, end, total = _extent(response)
    fits = begin == part.held and part.total in (None, total)
    if begin and not fits:  # other bytes than asked for, or of another file
        response.close()
        response = _request(url)
        begin, end, total = _extent(response)
        if begin:
            response.close()
            raise _GivenUp("it sends bytes that were not asked for")
    if not fits:
        part.restart()
    part.total, part.pieces = total, part.pieces + 1
    return response, end


def _read(response: http.client.HTTPResponse, size: int) -> bytes:
    try:
        return response.read1(size)
    except TimeoutError:
        raise _GivenUp(f"silent for {READ_SECONDS} s") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _GivenUp(f"it broke off ({error})") from error


def _receive(url: str, part: _Part, hurry: bool) -> None:
    """Append to the part what it lacks."""
    response, end = _open(url, part)
    size = {"total": part.total, "initial": part.held, "unit": "B", "unit_scale": True}
    # The line ends with the rate and the time left; behind a longer text they would be cut off.
    shown = tqdm(desc=_host(response.geturl()), **size, leave=False, file=sys.stdout, ncols=110)
    began = mark = time.monotonic()
    received = judged = 0
    with response, shown:
        try:
            while end is None or part.held < end:
                passed = time.monotonic() - mark
                if hurry and passed >= SLOW_SECONDS:
                    if judged < SLOW_RATE * passed:
                        rate, least = judged / passed / 1000, SLOW_RATE / 1000
                        raise _GivenUp(f"slow: {rate:.0f} kB/s over {passed:.0f} s, expected at least {least:.0f} kB/s")
                    mark, judged = time.monotonic(), 0
                block = _read(response, BLOCK if end is None else min(BLOCK, end - part.held))
                if not block:
                    break
                part.file.write(block)
                shown.update(len(block))
                received, judged = received + len(block), judged + len(block)
            if part.total is not None and part.held < part.total:
                raise _GivenUp(f"it ended after {part.held:,} of {part.total:,} bytes")
        except _GivenUp as error:
            error.rate = received / max(time.monotonic() - began, 1e-6)
            raise


def _fetch(url: str, part: _Part, name: str, check: Callable[[Path], None], hurry: bool) -> None:
    """Complete the part from one address, or raise _GivenUp.

    With ``hurry`` a slow or broken transfer is given up at once; without, the rest is asked for
    as long as more comes.
    """
    furthest = part.held
    for _ in range(REQUESTS):
        try:
            _connect(url)
            _receive(url, part, hurry)
        except _GivenUp as error:
            if hurry or part.held <= furthest:
                raise
            furthest = part.held
            print(f"{name}: {_host(url)}: {error}; the rest is asked for")
            continue
        part.file.flush()
        try:
            return check(Path(part.file.name))
        except ValueError as error:
            mixed = part.pieces > 1
            part.restart()
            if not mixed:
                raise _GivenUp(str(error)) from error
            furthest = 0
            print(f"{name}: {_host(url)}: {error}; it came in pieces, so all of it is fetched once more")
    raise _GivenUp(f"no complete file in {REQUESTS} requests")


def download(urls: str | Iterable[str], path: Path, check: Callable[[Path], None]) -> Path:
    """Fetch a file from the first address that has it; it appears at ``path`` complete and checked.

    The addresses are tried in order. One that is refused, silent, broken off, wrong or slow (below
    ``SLOW_RATE`` over ``SLOW_SECONDS``) gives way to the next, with one line that says why. The last
    one is never given up for slowness; if it fails otherwise, those that were sending are asked
    once more, the fastest first, and then may be slow. What was fetched is continued with an HTTP range request,
    from another address as well, because ``check`` guards the whole: if it fails on a file made of
    pieces, all of it is fetched once more from that address.

    Args:
        urls: http or https addresses, as a list or as text separated by spaces.
        path: where to put the file; its folder is made if missing.
        check: called with the complete temporary file; raises ValueError if it is not the right one.
            It may put in its place what is inside, as a member of an archive.

    Returns:
        ``path``.

    Raises:
        ValueError: if there is no address, or one is misspelt.
        Unavailable: if no address gives the file; lists every one with its reason. Whatever stood
            at ``path`` is left as it was.
        OSError: if the disk cannot be written.
    """
    urls = _valid(urls.split() if isinstance(urls, str) else urls, f"the list of addresses for {path.name}")
    reasons: dict[str, str] = {}
    sending: list[tuple[float, str]] = []
    waiting = [(url, True) for url in urls[:-1]] + [(urls[-1], False)]
    with atomic_write(path) as file:
        part = _Part(file)
        while waiting:
            url, hurry = waiting.pop(0)
            try:
                _fetch(url, part, path.name, check, hurry)
                return path
            except _GivenUp as error:
                reasons[url] = str(error)
                if hurry and error.rate:
                    sending.append((error.rate, url))
            if not waiting:
                waiting, sending = [(slow, False) for _, slow in sorted(sending, reverse=True)], []
            if waiting:
                print(f"{path.name}: {_host(url)}: {reasons[url]}; next: {_host(waiting[0][0])}")
        listed = "".join(f"\n  {url}: {reason}" for url, reason in reasons.items())
        raise Unavailable(f"{path.name} could not be fetched:{listed}")


# ------------------------------------------------------------------------------------ real or sample


def choose(kind: str, real: Callable[[], T], sample: Callable[[], T]) -> T:
    """Load ``real`` or ``sample`` data, or with ``auto`` real data where it can be had.

    Args:
        kind: one of ``KINDS``.
        real: loads the real data; raises Unavailable if it cannot be had.
        sample: generates the sample.

    Returns:
        What ``real`` or ``sample`` returned.

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
                f"{error}\nPut the files into a folder and set HW4_DATA_DIR to it, "
                "connect to the internet, or choose HW4_DATA=sample"
            ) from error
        line = "=" * 78
        print(
            f"{line}\nNO REAL DATA: {error}\n"
            f"GENERATED SAMPLES are used instead; results below are NOT results on the real data.\n{line}"
        )
        return sample()
