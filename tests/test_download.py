"""Downloads from local servers that behave and misbehave, and what the three data sets make of them."""

import hashlib
import http.server
import io
import os
import random
import re
import socket
import tarfile
import threading
import time
import zipfile

import pytest

from data import ag_news, cifar10, download, eng_fra
from data.data import read_pairs

BODY = random.Random(0).randbytes(60_000)
ROWS = '"1","Title","Some text"\n"4","","Only text, with a comma"\n'
is_body = download.expect_md5(hashlib.md5(BODY).hexdigest())


class Handler(http.server.BaseHTTPRequestHandler):
    """Lets ``server.answers[path]`` answer, and keeps the path in ``server.asked``."""

    def do_GET(self):
        self.server.asked.append(self.path)
        try:
            self.server.answers.get(self.path, fails(404))(self)
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
    def answer(handler):
        handler.head(200, Content_Length=len(body) if declared is None else declared)
        handler.wfile.write(body)

    return answer


def trickles(body=BODY, pieces=60, pause=0.02):
    """All of it, in small pieces: what a client in a hurry calls slow, and one that waits gets."""

    def answer(handler):
        handler.head(200, Content_Length=len(body))
        for i in range(pieces):
            handler.wfile.write(body[len(body) * i // pieces : len(body) * (i + 1) // pieces])
            handler.wfile.flush()
            handler.server.over.wait(pause)

    return answer


def silent(handler):
    handler.server.over.wait(60)


def silent_halfway(handler):
    handler.head(200, Content_Length=len(BODY))
    handler.wfile.write(BODY[:20_000])
    handler.server.over.wait(60)


def breaks_off_in_a_chunk(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf")


def fails(status):
    return lambda handler: handler.head(status, Content_Length=0)


def leads(place):
    return lambda handler: handler.head(302, Location=place, Content_Length=0)


def verbose(handler):
    handler.send_response(500, "Oh\tno,   a long\x0bstory")
    handler.end_headers()


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
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/file"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test sees the machine's own data or cache, or asks a real address."""
    monkeypatch.setattr(download, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(ag_news, "URLS", ())
    monkeypatch.setattr(cifar10, "URLS", ())
    monkeypatch.setattr(eng_fra, "URLS", ())
    monkeypatch.setattr(eng_fra, "OTHER_URLS", ())
    return tmp_path / "cache"


@pytest.fixture
def in_a_hurry(monkeypatch):
    """Any transfer that takes longer than a fifth of a second is too slow for one that has another address."""
    monkeypatch.setattr(download, "SLOW_SECONDS", 0.2)
    monkeypatch.setattr(download, "SLOW_RATE", 10**9)


def lines_of(capsys) -> list[str]:
    """What was printed, without the progress that was overwritten."""
    return [line for line in re.sub(r".*\r", "", capsys.readouterr().out).split("\n") if line]


# ------------------------------------------------------------------------------------ from address to address

FAULTS = {
    "missing": (fails(404), "HTTP 404 Not Found"),
    "with a story": (verbose, "HTTP 500 Oh no, a long story"),
    "silent": (silent, r"silent for 3 s"),
    "broken off": (whole(BODY[:20_000], declared=60_000), "ended after 20,000 of 60,000 bytes"),
    "broken off in a chunk": (breaks_off_in_a_chunk, "broke off"),
    "silent halfway": (silent_halfway, r"silent for 3 s"),
    "too short a length": (whole(declared=50_000), "its md5 is"),
    "no length that is a number": (whole(BODY[:100], declared="many"), "its md5 is"),
    "another file": (whole(b"<html>Log in first</html>"), "its md5 is"),
    "an empty file": (whole(b""), "its md5 is"),
    "redirects without end": (leads("/first"), "HTTP 302"),
    "redirect to another scheme": (leads("file:///etc/passwd"), "HTTP 302|broke off"),
    "redirect to nothing": (leads("http://127.0.0.1:1/"), "broke off"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_faulty_address_gives_way_with_one_line_that_says_why(server, tmp_path, capsys, monkeypatch, fault):
    server.answers["/first"], reason = FAULTS[fault]
    server.answers["/second"] = whole()
    if "silent" in fault:
        monkeypatch.setattr(download, "READ_SECONDS", 3)
    path = download.download([f"{server.url}/first", f"{server.url}/second"], tmp_path / "new" / "file", is_body)
    assert path.read_bytes() == BODY and os.listdir(path.parent) == ["file"]
    lines = lines_of(capsys)
    assert len(lines) == 1 and re.fullmatch(rf"file: 127\.0\.0\.1:\d+: .*({reason}).*; the next .*", lines[0]), lines


def test_a_refused_address_and_names_or_ports_that_are_none_give_way(server, refused, tmp_path):
    server.answers["/file"] = whole()
    urls = [refused, "http://no.such.host.invalid/", f"http://{'a' * 70}.invalid/", "http://x:port/"]
    assert download.download([*urls, f"{server.url}/file"], tmp_path / "file", is_body).read_bytes() == BODY


def test_a_silent_name_server_counts_as_no_network(monkeypatch, tmp_path):
    over = threading.Event()
    monkeypatch.setattr(download.socket, "create_connection", lambda *args: over.wait(60) and socket.socket())
    monkeypatch.setattr(download, "CONNECT_SECONDS", 0.3)
    with pytest.raises(download.Unavailable, match=r"no connection \(none in 0\.3 s\)"):
        download.download(["https://example.invalid/x"], tmp_path / "x", is_body)
    over.set()


def test_every_address_stands_in_the_last_message_and_a_good_file_stays(server, refused, tmp_path):
    good = tmp_path / "file"
    good.write_text("good", encoding="utf-8")
    server.answers["/wrong"] = whole(b"wrong")
    urls = [refused, f"{server.url}/wrong", f"{server.url}/missing"]
    with pytest.raises(download.Unavailable) as error:
        download.download(urls, good, is_body)
    lines = str(error.value).splitlines()[1:]
    for line, url, reason in zip(lines, urls, ("no connection", "md5", "HTTP 404"), strict=True):
        assert line.strip().startswith(url + ": ") and reason in line
    assert good.read_text(encoding="utf-8") == "good" and os.listdir(tmp_path) == ["file"]


def test_a_slow_address_gives_way_but_the_last_may_be_slow(server, tmp_path, in_a_hurry, capsys):
    server.answers |= {"/slow": trickles(), "/last": trickles(pause=0.01)}
    path = download.download([f"{server.url}/slow", f"{server.url}/last"], tmp_path / "file", is_body)
    assert path.read_bytes() == BODY and server.asked == ["/slow", "/last"]
    assert re.search(r": slow: \d+ kB/s over \d+ s, expected at least 1000000", "\n".join(lines_of(capsys)))


def test_slow_addresses_are_asked_again_where_all_others_fail(server, tmp_path, in_a_hurry):
    server.answers |= {"/slow": trickles(), "/wrong": whole(b"wrong")}
    urls = [f"{server.url}{path}" for path in ("/slow", "/wrong", "/missing")]
    assert download.download(urls, tmp_path / "file", is_body).read_bytes() == BODY
    assert server.asked == ["/slow", "/wrong", "/missing", "/slow"]


def test_what_killed_processes_left_is_removed_and_what_others_write_stays(server, tmp_path):
    server.answers["/file"] = whole()
    for name, age in (("file.abc.part", 7200), ("file.xyz.part", 0), ("other.abc.part", 7200)):
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    download.download([f"{server.url}/file"], tmp_path / "file", is_body)
    assert sorted(os.listdir(tmp_path)) == ["file", "file.xyz.part", "other.abc.part"]


@pytest.mark.parametrize("value", ("https//host/file", "http://a/x b/y", "file:///x", "http:///x"))
@pytest.mark.parametrize(
    ("variable", "load"),
    (("HW4_AG_NEWS_URL", ag_news.load), ("HW4_ENG_FRA_URL", eng_fra.locate), ("HW4_CIFAR10_URL", cifar10.load)),
)
def test_a_misspelled_address_is_named_even_where_samples_would_do(monkeypatch, variable, load, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ValueError, match=f"{variable}.*expected http://"):
        load("auto")


def test_a_disk_that_cannot_be_written_is_not_taken_for_a_broken_address(server, tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, block):
            raise OSError(28, "No space left on device")

    fetch = download._fetch
    monkeypatch.setattr(download, "_fetch", lambda url, file, hurry: fetch(url, Full(), hurry))
    server.answers["/file"] = whole()
    with pytest.raises(OSError, match=r"file was not written \(No space left on device\): free some space"):
        download.download([f"{server.url}/file", f"{server.url}/file?2"], tmp_path / "file", is_body)
    assert server.asked == ["/file"] and os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------ the three data sets


def test_without_a_network_auto_takes_samples_and_real_says_what_to_do(refused, monkeypatch, capsys):
    for name in ("HW4_AG_NEWS_URL", "HW4_ENG_FRA_URL", "HW4_CIFAR10_URL"):
        monkeypatch.setenv(name, refused)
    monkeypatch.setattr(eng_fra, "OTHER_URLS", (refused + "/other",))
    assert {ag_news.load("auto").kind, eng_fra.locate("auto").kind, cifar10.load("auto").kind} == {"sample"}
    assert capsys.readouterr().out.count("NO REAL DATA") == 3
    with pytest.raises(download.Unavailable, match=r"(?s)/file: no connection.*/other: no connection.*HW4_DATA_DIR"):
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


def zipped(name: str, content: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, content)
    return buffer.getvalue()


def test_news_come_from_the_first_right_file_or_archive_and_then_from_the_cache(server, monkeypatch, cache, capsys):
    digest = hashlib.md5(ROWS.encode()).hexdigest()
    monkeypatch.setattr(ag_news, "OFFICIAL", {"train": (2, digest), "test": (2, digest)})
    archives = {
        "other.tgz": tar(**{"train.csv": "1,other,text", "test.csv": ""}),
        "none.tgz": tar(**{"train.txt": ROWS}),
        "cut.tgz": tar(**{"train.csv": BODY, "test.csv": BODY})[:5_000],
        "right.tgz": tar(**{"../test.csv/x": b"", "readme.txt": b"", "ag_news_csv/test.csv": ROWS}),
    }
    server.answers |= {f"/{name}": whole(archive) for name, archive in archives.items()}
    server.answers["/right/train.csv"] = whole(ROWS.encode())  # test.csv is in the archive alone
    monkeypatch.setenv("HW4_AG_NEWS_URL", " ".join(f"{server.url}/{name}" for name in list(archives)[:3]))
    monkeypatch.setattr(ag_news, "URLS", (f"{server.url}/right/", f"{server.url}/right.tgz"))
    loaded = ag_news.load("real")
    assert loaded.train == loaded.test == [(1, "Title Some text"), (4, "Only text, with a comma")]
    assert "the official 2 rows" in loaded.source
    reasons = ["its md5 is", "an archive without", "an archive without"]
    found = lines_of(capsys)
    assert all(reason in line for reason, line in zip([*reasons, *reasons, "HTTP 404"], found, strict=True)), found
    server.answers.clear()
    assert ag_news.load("real") == loaded
    assert sorted(os.listdir(cache / "ag_news")) == ["test.csv", "train.csv"]


PAIRS = "Go.\tVa !\nRun!\tCours !\n"
THREE = PAIRS + "Hi.\tSalut.\tCC-BY 2.0\n"


@pytest.fixture
def counts(monkeypatch):
    monkeypatch.setattr(eng_fra, "OFFICIAL_PAIRS", 2)
    monkeypatch.setattr(eng_fra, "MEMBERS", {"data/eng-fra.txt": 2, "fra.txt": 3, "fra-eng/fra.txt": None})


def test_slowness_alone_never_leads_to_another_export(server, monkeypatch, cache, counts, in_a_hurry):
    monkeypatch.setattr(eng_fra, "URLS", (f"{server.url}/data.zip",))
    monkeypatch.setattr(eng_fra, "OTHER_URLS", (f"{server.url}/other.zip",))
    body = zipped("data/eng-fra.txt", PAIRS)
    server.answers |= {"/data.zip": trickles(body), "/other.zip": whole(zipped("fra.txt", THREE))}
    file = eng_fra.locate("real")
    assert read_pairs(file.path) == [("Go.", "Va !"), ("Run!", "Cours !")] and "(2 pairs)" in file.source
    assert server.asked == ["/data.zip"] and os.listdir(cache) == ["eng-fra.txt"]


@pytest.mark.parametrize("member", ("fra.txt", "fra-eng/fra.txt"))
def test_wrong_archives_of_pairs_are_not_used_and_another_export_is_described(
    server, monkeypatch, cache, counts, member, capsys
):
    right = zipped(member, THREE)
    wrong = {
        zipped("data/eng-fra.txt", "Go.\tVa !\n"): "has 1 pairs, expected 2",
        zipped("data/eng-fra.txt", "Go.\nRun!\n"): "has 0 pairs",
        zipped("../eng-fra.txt", PAIRS): "without data/eng-fra.txt, fra.txt",
        zipped("fra-eng/fra.txt", PAIRS): "its sha1 is",
        b"PK no archive": "no readable zip archive",
        zipped("data/eng-fra.txt", PAIRS).replace(b"Run", b"Ran"): "no readable zip archive",
    }
    server.answers |= {f"/{i}": whole(body) for i, body in enumerate([*wrong, right])}
    monkeypatch.setattr(eng_fra, "D2L_SHA1", hashlib.sha1(right).hexdigest())
    monkeypatch.setattr(eng_fra, "URLS", (f"{server.url}/missing",))
    monkeypatch.setattr(eng_fra, "OTHER_URLS", [f"{server.url}/{i}" for i in range(len(wrong) + 1)])
    file = eng_fra.locate("real")
    assert "3 pairs, the tutorial's file has 2" in file.source and len(read_pairs(file.path)) == 3
    found = [line for line in lines_of(capsys) if "the next address" in line]
    assert all(reason in line for reason, line in zip(wrong.values(), found, strict=True)), found
    assert os.listdir(cache) == ["eng-fra.txt"]


@pytest.mark.parametrize(
    ("body", "message"),
    (
        (tar(**{"cifar-10-batches-py/../../../evil": b"bad"}), "outside"),
        (tar(**{"other/file": b"bad"}), "not CIFAR-10's archive"),
    ),
    ids=("member outside", "other members"),
)
def test_an_image_archive_cannot_write_outside_its_folder(server, monkeypatch, cache, body, message):
    """Even if its md5 were the official one."""
    monkeypatch.setenv("HW4_CIFAR10_URL", f"{server.url}/missing {server.url}/cifar.tar.gz")
    monkeypatch.setattr(cifar10.datasets.CIFAR10, "tgz_md5", hashlib.md5(body).hexdigest())
    server.answers["/cifar.tar.gz"] = whole(body)
    with pytest.raises(ValueError, match=message):
        cifar10.load("real")
    left = {p.name for p in cache.rglob("*")} | {p.name for p in cache.parent.iterdir()}
    assert left <= {"cache", "cifar10", "cifar-10-python.tar.gz"}
