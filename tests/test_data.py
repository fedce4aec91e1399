"""Loaders on good, odd and broken input; downloads from a local server that behaves and misbehaves."""

import hashlib
import http.server
import io
import os
import re
import socket
import tarfile
import threading
import time
import zipfile

import pytest
import torch
from PIL import Image

from data import ag_news, cifar10, eng_fra, samples, sources

ROWS = '"1","Title","Some text"\n"4","","Only text, with a comma"\n'


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with ``server.answers[path]``: (status, body, declared length or None, seconds to wait)."""

    def do_GET(self):
        status, body, length, wait = self.server.answers.get(self.path, (404, b"", None, 0))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.flush()
        time.sleep(wait)
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.answers, server.daemon_threads = {}, True
    server.url = f"http://127.0.0.1:{server.server_port}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """No test sees the machine's own data or cache."""
    monkeypatch.delenv("HW4_DATA_DIR", raising=False)
    monkeypatch.setattr(sources, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


def news_server(server, monkeypatch):
    monkeypatch.setenv("HW4_AG_NEWS_URL", server.url)
    digest = hashlib.md5(ROWS.encode()).hexdigest()
    monkeypatch.setattr(ag_news, "OFFICIAL", {"train": (2, digest), "test": (2, digest)})
    for part in ("train", "test"):
        server.answers[f"/{part}.csv"] = (200, ROWS.encode(), None, 0)


# ------------------------------------------------------------------------------------ downloads


def test_news_are_downloaded_once_checked_and_then_read_from_the_cache(server, monkeypatch, apart):
    news_server(server, monkeypatch)
    news = ag_news.load("real")
    assert news.train == [(1, "Title Some text"), (4, "Only text, with a comma")] and news.kind == "real"
    assert "the official 2 rows" in news.source
    server.answers.clear()
    assert ag_news.load("real") == news
    assert sorted(p.name for p in (apart / "ag_news").iterdir()) == ["test.csv", "train.csv"]


@pytest.mark.parametrize(
    ("answer", "message"),
    (
        ((404, b"", None, 0), "404"),
        ((500, b"", None, 0), "500"),
        ((200, ROWS.encode()[:20], len(ROWS), 0), "ended after"),
        ((200, b"<html>Log in first</html>", None, 0), "md5"),
        ((200, b"", None, 0), "md5"),
        ((200, ROWS.encode(), None, 3), "timed out"),
    ),
    ids=("missing", "failing", "truncated", "html", "empty", "hanging"),
)
def test_a_bad_download_is_named_and_leaves_nothing_behind(server, monkeypatch, apart, answer, message):
    news_server(server, monkeypatch)
    monkeypatch.setattr(sources, "READ_SECONDS", 0.5)
    server.answers["/train.csv"] = answer
    with pytest.raises(sources.Unavailable, match=message):
        ag_news.load("real")
    assert not list((apart / "ag_news").iterdir())


def test_a_bad_download_never_replaces_a_good_file(server, tmp_path):
    good = tmp_path / "file"
    good.write_text("good")
    server.answers["/file"] = (200, b"bad", None, 0)
    with pytest.raises(sources.Unavailable):
        sources.download(server.url + "file", good, sources.expect_md5("0" * 32))
    assert good.read_text() == "good" and os.listdir(tmp_path) == ["file"]


def test_auto_without_a_network_falls_back_to_samples_within_ten_seconds(monkeypatch, capsys):
    for name in ("HW4_AG_NEWS_URL", "HW4_ENG_FRA_URL", "HW4_CIFAR10_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")  # nobody listens there
    began = time.monotonic()
    kinds = {ag_news.load("auto").kind, eng_fra.locate("auto").kind, cifar10.load("auto").kind}
    assert kinds == {"sample"} and time.monotonic() - began < 30
    assert capsys.readouterr().out.count("NO REAL DATA") == 3


def test_a_silent_name_server_counts_as_no_network_soon(monkeypatch):
    monkeypatch.setattr(sources, "CONNECT_SECONDS", 0.3)

    def silent(*args, **options):
        time.sleep(3)
        raise OSError

    monkeypatch.setattr(sources.socket, "create_connection", silent)
    began = time.monotonic()
    with pytest.raises(sources.Unavailable, match=r"no answer in 0\.3 s"):
        sources._reach("https://example.invalid/x")
    assert time.monotonic() - began < 2


def test_real_without_a_network_says_what_to_do(monkeypatch):
    monkeypatch.setenv("HW4_ENG_FRA_URL", "http://127.0.0.1:9/")
    with pytest.raises(sources.Unavailable, match="HW4_DATA_DIR"):
        eng_fra.locate("real")


def archive(name, content):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(name, content)
    return buffer.getvalue()


def test_the_translation_archive_is_unpacked_and_counted(server, monkeypatch, apart):
    monkeypatch.setenv("HW4_ENG_FRA_URL", server.url + "data.zip")
    monkeypatch.setattr(eng_fra, "OFFICIAL_PAIRS", 2)
    server.answers["/data.zip"] = (200, archive("data/eng-fra.txt", "Go.\tVa !\nRun!\tCours !\n"), None, 0)
    file = eng_fra.locate("real")
    assert eng_fra.read_pairs(file.path) == [("Go.", "Va !"), ("Run!", "Cours !")]
    assert os.listdir(apart) == ["eng-fra.txt"]


@pytest.mark.parametrize(
    "body",
    (archive("data/eng-fra.txt", "Go.\tVa !\n"), archive("../eng-fra.txt", "x\ty\n"), b"PK no archive", b"<html>"),
    ids=("too few pairs", "member outside", "damaged", "html"),
)
def test_a_wrong_translation_archive_is_not_used(server, monkeypatch, apart, body):
    monkeypatch.setenv("HW4_ENG_FRA_URL", server.url + "data.zip")
    monkeypatch.setattr(eng_fra, "OFFICIAL_PAIRS", 2)
    server.answers["/data.zip"] = (200, body, None, 0)
    with pytest.raises(sources.Unavailable):
        eng_fra.locate("real")
    assert not list(apart.iterdir())


def image_archive(*members) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        for name in members:
            info = tarfile.TarInfo(name)
            info.size = 3
            file.addfile(info, io.BytesIO(b"bad"))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "message"),
    (
        (image_archive("cifar-10-batches-py/../../../evil"), "outside"),
        (image_archive("/tmp/hw4-evil/x", "other/file"), "not CIFAR-10's archive"),
        (b"no archive at all", "not CIFAR-10's archive"),
    ),
    ids=("member outside", "other members", "no archive"),
)
def test_an_image_archive_cannot_write_outside_its_folder(server, monkeypatch, apart, body, message):
    """Even if its md5 were the official one."""
    monkeypatch.setenv("HW4_CIFAR10_URL", server.url + "cifar.tar.gz")
    monkeypatch.setattr(cifar10.datasets.CIFAR10, "tgz_md5", hashlib.md5(body).hexdigest())
    server.answers["/cifar.tar.gz"] = (200, body, None, 0)
    with pytest.raises(ValueError, match=message):
        cifar10.load("real")
    left = {p.name for p in apart.rglob("*")} | {p.name for p in apart.parent.iterdir()}
    assert left <= {"cache", "cifar10", "cifar-10-python.tar.gz"} and not os.path.exists("/tmp/hw4-evil")


def test_official_batches_that_are_damaged_are_named(tmp_path):
    folder = tmp_path / "mine" / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"half")
    with pytest.raises(ValueError, match="cifar-10-batches-py is damaged or incomplete: remove it"):
        cifar10.load("real", tmp_path / "mine")


def test_a_server_that_breaks_off_a_chunked_answer_is_named(tmp_path):
    listener = socket.create_server(("127.0.0.1", 0))

    def answer():
        for _ in range(2):  # the first connection only tries whether somebody listens
            connection, _ = listener.accept()
            with connection:
                if connection.recv(1000):
                    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhalf")

    threading.Thread(target=answer, daemon=True).start()
    with pytest.raises(sources.Unavailable, match="gave no usable file"):
        sources.download(f"http://127.0.0.1:{listener.getsockname()[1]}/x", tmp_path / "x", lambda path: None)
    assert os.listdir(tmp_path) == []
    listener.close()


# ------------------------------------------------------------------------------------ local files


@pytest.mark.parametrize(
    ("content", "message"),
    (
        (b'"1","only two"\n', "line 1: 2 columns"),
        (ROWS.encode() + b'"5","a","b"\n', "line 3: label '5'"),
        (b'"1","a","b\0"\n', "NUL|cannot be read"),
        ("1,café,noir\n".encode("latin-1"), "cannot be read"),
        (b"", "no rows"),
    ),
)
def test_a_malformed_news_file_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ag_news.read_csv(path)


def test_a_local_file_that_is_not_the_official_one_is_used_and_said(tmp_path):
    folder = tmp_path / "mine" / "ag_news"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        (folder / f"{part}.csv").write_text(ROWS)
    news = ag_news.load("auto", tmp_path / "mine")
    assert news.kind == "real" and "2 rows, the official file has 120,000" in news.source


def test_a_data_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        ag_news.load("real", tmp_path / "nowhere")


def test_an_unknown_kind_of_data_is_refused():
    with pytest.raises(ValueError, match="'fake' is unknown"):
        ag_news.load("fake")


def image_folders(root, mode="RGB", size=(32, 32), classes=cifar10.CLASSES):
    for part in ("train", "test"):
        for i, name in enumerate(classes):
            folder = root / "cifar10" / part / name
            folder.mkdir(parents=True)
            Image.new(mode, size, 20 * i if mode == "L" else None).save(folder / "0.png")
    return root


@pytest.mark.parametrize("mode", ("RGB", "L", "RGBA"))
def test_image_folders_are_decoded_once_whatever_their_mode(tmp_path, monkeypatch, mode):
    images = cifar10.load("real", image_folders(tmp_path / "mine", mode))
    assert images.train[0].shape == (10, 3, 32, 32) and images.train[0].dtype == torch.uint8
    assert images.train[1].tolist() == list(range(10)) and "train: 10, official 50,000" in images.source
    monkeypatch.setattr(cifar10, "_decode", lambda path: pytest.fail("decoded again"))
    assert torch.equal(cifar10.load("real", tmp_path / "mine").train[0], images.train[0])


def test_image_folders_with_faults_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="truck missing"):
        cifar10.load("real", image_folders(tmp_path / "a", classes=cifar10.CLASSES[:-1]))
    with pytest.raises(ValueError, match="40 x 32 pixels"):
        cifar10.load("real", image_folders(tmp_path / "b", size=(40, 32)))
    root = image_folders(tmp_path / "c")
    (root / "cifar10/train/dog/0.png").write_bytes(b"\x89PNG damaged")
    with pytest.raises(ValueError, match=r"dog/0\.png is no readable image"):
        cifar10.load("real", root)


# ------------------------------------------------------------------------------------ samples


def test_samples_are_the_same_every_time_and_have_the_promised_sizes():
    news, again = samples.news(), samples.news()
    assert news == again and (len(news[0]), len(news[1])) == (8000, 1000)
    pairs = samples.sentence_pairs()
    assert pairs == samples.sentence_pairs() and len(set(pairs)) == 10_000
    (train, labels), (test, _) = samples.images()
    assert train.shape == (5000, 3, 32, 32) and len(test) == 1000 and labels.bincount().min() > 400


def test_news_topics_share_most_of_their_words():
    words = [set() for _ in range(4)]
    for label, text in samples.news()[0]:
        words[label - 1] |= set(re.findall("[a-z]+", text.lower()))
    assert len(set.intersection(*words)) > 0.8 * len(set.union(*words))


@pytest.mark.parametrize(
    ("english", "french"),
    (("happy", "content"), ("happy", "contente"), ("brave", "courageuse"), ("proud", "fière"), ("sad", "tristes")),
)
def test_sentence_samples_agree_in_gender_and_number(english, french):
    assert any(english in e and f" {french}" in f for e, f in samples.sentence_pairs())


def test_sentence_samples_elide_and_pass_the_filter():
    from data.data import PREFIXES, normalizeString

    pairs = samples.sentence_pairs()
    text = " ".join(f for _, f in pairs)
    assert "l'école" in text and "n'est" in text and "du jardin" in text and "mon église" in text
    assert "le école" not in text and "ma église" not in text and "ne est" not in text
    for sides in pairs:
        first, second = map(normalizeString, sides)
        assert first.startswith(PREFIXES) and max(len(first.split()), len(second.split())) < 10
