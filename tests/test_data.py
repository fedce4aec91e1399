"""Loaders on good, odd and broken local files, splits without a leak, and the generated samples."""

import ast
import importlib.util
import os
import random
import re
import resource
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from data import ag_news, cifar10, download, eng_fra, samples, splits
from data import data as translation
from data.data import PREFIXES, normalizeString, prepareData

ROWS = '"1","Title","Some text"\n"4","","Only text, with a comma"\n'
PAIRS = "I am ill.\tJe suis malade.\nHe's here.\tIl est là !\nGo.\tVa !\nThey are a b c d e f g.\tIls.\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test sees the machine's own data or cache."""
    monkeypatch.setattr(download, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


# ------------------------------------------------------------------------------------ news


@pytest.mark.parametrize(
    ("content", "message"),
    (
        (b'"1","only two"\n', "line 1: 2 columns"),
        (ROWS.encode() + b'"5","a","b"\n', "line 3: label '5'"),
        (b"Class Index,Title,Description\n" + ROWS.encode(), r"line 1: 'Class Index,Title.* header row: remove it"),
        (b'"1","a","b\0"\n', "NUL"),
        ("1,café,noir\n".encode("latin-1"), "cannot be read"),
        (b"\n", "no rows"),
        (ROWS.encode() + b'"2","a","b\n"3","c","d"\n', "line 3: no CSV"),
        (ROWS.encode() + b'2,a,"b\n3,c,d"\n', "line 3: a quote that opens here closes in line 4"),
        (ROWS.encode() + b'"2","a","b\n', "line 3: no CSV"),
        (ROWS.encode() + b'"2","a","' + 9_999 * b"plain text without an end\n", "line 3: no CSV.*balanced quotes"),
        (ROWS.encode() + b'"2","a","' + 200_000 * b"x" + b'"\n', "line 3: a field of more than 131,072 characters"),
    ),
)
def test_a_malformed_news_file_is_refused_with_its_line(tmp_path, content, message):
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"train\.csv.*{message}"):
        ag_news.read_csv(path)


def test_byte_order_mark_blank_lines_and_line_separators_belong_to_no_row(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(b"\xef\xbb\xbf" + '"1","a\u2028b","c\rd"\r\n2,e,f\x85g\n\n\r\n'.encode())
    assert ag_news.read_csv(path) == [(1, "a\u2028b c\rd"), (2, "e f\x85g")]


def test_a_local_file_that_is_not_the_official_one_is_used_and_described(tmp_path, monkeypatch):
    folder = tmp_path / "mine" / "ag_news"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        (folder / f"{part}.csv").write_text(ROWS, encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    for news in (ag_news.load("auto", tmp_path / "mine"), ag_news.load("real", "~/mine")):
        assert news.kind == "real" and "train: 2 rows, the official file has 120,000" in news.source
        assert news.test == [(1, "Title Some text"), (4, "Only text, with a comma")]


def test_a_data_folder_or_kind_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere' does not exist"):
        ag_news.load("real", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="'fake' is unknown: expected one of auto, real, sample"):
        ag_news.load("fake")


# ------------------------------------------------------------------------------------ images


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
    if mode == "L":
        assert images.test[0][:, :, 0, 0].tolist() == [[20 * i] * 3 for i in range(10)]
    monkeypatch.setattr(cifar10, "_decode", lambda path: pytest.fail("decoded again"))
    assert torch.equal(cifar10.load("real", tmp_path / "mine").train[0], images.train[0])


def write(root, name, color):
    Image.new("RGB", (32, 32), color).save(root / "cifar10" / name)


@pytest.mark.parametrize(
    "change",
    (
        lambda root: write(root, "train/cat/0.png", (9, 8, 7)),
        lambda root: (root / "cifar10/train/cat/1.png").rename(root / "cifar10/train/deer/1.png"),
        lambda root: (root / "cifar10/train/cat/1.png").unlink(),
        lambda root: shutil.rmtree(root / "cifar10") or image_folders(root),
    ),
    ids=("rewritten", "moved", "removed", "all rewritten"),
)
def test_decoded_images_are_not_reused_once_a_file_has_changed(tmp_path, change):
    root = image_folders(tmp_path / "mine")
    write(root, "train/cat/1.png", (1, 2, 3))
    before = cifar10.load("real", root)
    change(root)
    after = cifar10.load("real", root)
    shutil.rmtree(download.CACHE)
    fresh = cifar10.load("real", root)
    assert all(torch.equal(a, b) for a, b in zip(after.train + after.test, fresh.train + fresh.test, strict=True))
    assert not (torch.equal(after.train[0], before.train[0]) and torch.equal(after.train[1], before.train[1]))


def test_a_cache_of_images_that_is_damaged_or_cannot_be_written_ends_nothing(tmp_path, cache, capsys):
    root = image_folders(tmp_path / "mine")
    cache.mkdir()
    (cache / "cifar10-decoded.pt").write_bytes(b"damaged")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limit[1]))  # answered like a full disk
    try:
        images = cifar10.load("real", root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert len(images.train[1]) == 10 and "decoded images are not kept" in capsys.readouterr().out
    assert os.listdir(cache) == ["cifar10-decoded.pt"]


def test_image_folders_with_faults_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match="truck missing"):
        cifar10.load("real", image_folders(tmp_path / "a", classes=cifar10.CLASSES[:-1]))
    with pytest.raises(ValueError, match="40 x 32 pixels"):
        cifar10.load("real", image_folders(tmp_path / "b", size=(40, 32)))
    root = image_folders(tmp_path / "c")
    (root / "cifar10/train/dog/0.png").write_bytes(b"\x89PNG damaged")
    with pytest.raises(ValueError, match=r"dog/0\.png is no readable image"):
        cifar10.load("real", root)
    (root / "cifar10/test/dog/0.png").unlink()
    with pytest.raises(ValueError, match=r"test holds no folders of images.*dog"):
        cifar10.load("real", root)
    shutil.rmtree(root / "cifar10" / "test")
    with pytest.raises(ValueError, match=r"test holds no folders of images"):
        cifar10.load("real", root)


def test_official_batches_that_are_damaged_are_named(tmp_path):
    folder = tmp_path / "mine" / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"half")
    with pytest.raises(ValueError, match="cifar-10-batches-py is damaged or incomplete: remove it"):
        cifar10.load("real", tmp_path / "mine")


# ------------------------------------------------------------------------------------ sentence pairs


@pytest.mark.parametrize(
    ("content", "pairs"),
    (
        ("Go.\tVa\u2028 !\nRun\x85!\tVa\x0b !\x0c\x1c\n", [("Go.", "Va\u2028 !"), ("Run\x85!", "Va\x0b !\x0c\x1c")]),
        ("Go.\tVa !\n\n\n", [("Go.", "Va !")]),
        ("Go.\tVa !", [("Go.", "Va !")]),
        ("\ufeffGo.\tVa !\r\nRun!\tCours !\r\n\r\n", [("Go.", "Va !"), ("Run!", "Cours !")]),
        ("Go.\tVa\r !\tCC-BY 2.0\n", [("Go.", "Va\r !")]),
    ),
    ids=("separators", "empty last lines", "no last line feed", "from Windows", "lone carriage return"),
)
def test_pairs_end_at_line_feeds_alone(tmp_path, content, pairs):
    (tmp_path / "eng-fra.txt").write_bytes(content.encode())
    assert translation.read_pairs(tmp_path / "eng-fra.txt") == pairs


@pytest.mark.parametrize(
    ("content", "message"),
    (
        (b"Go.\tVa !\n\nRun!\tCours !\n", "line 2: expected 'english<TAB>french', found ''"),
        (b"Go.\tVa !\nRun!\n", "line 2: expected"),
        (b"Go.\t \n", "line 1: expected"),
        ("Go.\tça\n".encode("latin-1"), "not UTF-8"),
        (b"\n", "no sentence pairs"),
        (b"Go.\tVa !\n", "no pair has fewer than 10 words"),
    ),
)
def test_a_malformed_translation_file_is_refused_with_its_line(tmp_path, content, message):
    (tmp_path / "eng-fra.txt").write_bytes(content)
    with pytest.raises(ValueError, match=rf"eng-fra\.txt.*{message}"):
        prepareData("eng", "fra", folder=tmp_path)


def test_the_handouts_module_stands_alone_and_finds_its_file(tmp_path, monkeypatch, capsys):
    tree = ast.parse(Path(translation.__file__).read_text(encoding="utf-8"))
    imported = [node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {getattr(node, "module", None) or node.names[0].name for node in imported}
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)

    folder = tmp_path / "theirs"
    folder.mkdir()
    shutil.copy(translation.__file__, folder / "data.py")
    spec = importlib.util.spec_from_file_location("theirs", folder / "data.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with pytest.raises(FileNotFoundError, match=r"eng-fra\.txt is not in .*theirs/cache, .*theirs: .*locate\(\)"):
        module.prepareData("eng", "fra")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HW4_DATA_DIR", "~/mine")
    for place, english in (("theirs", "I am a"), ("theirs/cache", "I am b"), ("mine", "I am c")):
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "eng-fra.txt").write_text(f"{english}\tx\n", encoding="utf-8")
        assert module.prepareData("eng", "fra")[2] == [[english.lower(), "x"]]
    with pytest.raises(FileNotFoundError, match=r"deu-fra\.txt is not in /nowhere"):
        module.prepareData("deu", "fra", folder="/nowhere")
    capsys.readouterr()
    (folder / "eng-fra.txt").write_text(PAIRS, encoding="utf-8")
    source, target, pairs = module.prepareData("eng", "fra", reverse=True, folder=folder)
    assert pairs == [["je suis malade .", "i am ill ."], ["il est la !", "he s here ."]]
    assert (source.name, source.n_words, target.name, target.n_words) == ("fra", 10, "eng", 9)
    printed = "Read 4 sentence pairs\nKept 2 pairs\nCounted words: fra 10, eng 9\n"
    assert capsys.readouterr().out == printed
    assert [len(module.prepareData("eng", "fra", longest, folder=folder)[2]) for longest in (10, 11)] == [2, 3]


def test_a_local_sentence_file_is_counted_and_described(tmp_path):
    (tmp_path / "eng-fra.txt").write_text(PAIRS + "\n", encoding="utf-8")
    file = eng_fra.locate("auto", tmp_path)
    assert (file.path, file.kind) == (tmp_path / "eng-fra.txt", "real")
    assert "4 pairs, the tutorial's file has 135,842" in file.source


def test_a_read_only_project_keeps_its_files_elsewhere(tmp_path, monkeypatch, capsys):
    """Also where root runs the test, for whom no folder is read-only: the cache's place is taken by a file."""
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setattr(download, "CACHE", tmp_path / "file" / "cache")
    monkeypatch.setattr(download.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    for _ in range(2):
        path = eng_fra.locate("sample").path
        assert len(prepareData("eng", "fra", folder=path.parent)[2]) == 10_000
    assert tmp_path / "tmp" in path.parents
    cifar10.load("real", image_folders(tmp_path / "mine"))
    assert (path.parents[1] / "cifar10-decoded.pt").exists()
    assert capsys.readouterr().out.count("cannot be written") == 1


# ------------------------------------------------------------------------------------ splits


@pytest.mark.parametrize(
    ("one", "other", "same"),
    (
        ("I'm cold.", "i am cold .", True),
        ("He isn't here.", "He's not here.", True),
        ("We aren't sure.", "we are not sure.", True),
        ("You're late I can't stay", "you are late i cannot stay", True),
        ("She won't go.", "She will not go.", True),
        ("They'll see I've won.", "they will see I have won.", True),
        ("Tom's car", "Tom is car", False),
        ("I am ill.", "I am I will.", False),
        ("its", "it is", False),
    ),
)
def test_contractions_alone_are_written_out(one, other, same):
    french = normalizeString("He s'il te plaît !")  # which no rule for English may touch
    forms = [splits.normal_form((french, normalizeString(text))) for text in (one, other)]
    assert (forms[0] == forms[1]) == same and forms[0][0] == french


def components(pairs):
    """Groups by a plain search of the graph in which pairs with an equal side are neighbors."""
    forms = [splits.normal_form(pair) for pair in pairs]
    left, groups = set(range(len(pairs))), set()
    while left:
        group, front = set(), [min(left)]
        while front:
            row = front.pop()
            if row in left:
                left.remove(row)
                group.add(row)
                front += [other for other in left if any(a == b for a, b in zip(forms[row], forms[other]))]
        groups.add(frozenset(group))
    return groups


@pytest.mark.parametrize("seed", range(3))
def test_groups_are_the_connected_components_and_do_not_leak(seed):
    rng = random.Random(seed)
    words = [f"{a}{b}" for a in "abcdefghijklmnopqrstuvwxyz" for b in "xyz"]
    pairs = [[f"je {rng.choice(words)}", f"{rng.choice(['i am', 'i m'])} {rng.choice(words)}"] for _ in range(90)]
    groups = splits.sentence_groups(pairs)
    assert {frozenset(r for r in range(90) if groups[r] == g) for g in set(groups)} == components(pairs)
    assert list(dict.fromkeys(groups)) == list(range(len(set(groups)))) and 1 < len(set(groups)) < 90
    test = [row for row in range(90) if groups[row] % 3 == 0]
    train = [row for row in range(90) if groups[row] % 3]
    assert splits.leak(pairs, train, test) == 0


def test_a_leak_is_counted_in_both_languages_up_to_contractions():
    pairs = [
        ["je suis la .", "i m here ."],
        ["je suis la .", "i am there ."],
        ["j y suis .", "i am here ."],
        ["va .", "go ."],
    ]
    assert splits.leak(pairs, [0], [1, 2, 3]) == pytest.approx(2 / 3)
    assert splits.leak(pairs, [3], [0, 1, 2]) == 0
    assert splits.sentence_groups(pairs) == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="no test rows"):
        splits.leak(pairs, [0], [])


# ------------------------------------------------------------------------------------ samples


def test_samples_are_the_same_every_time_balanced_and_of_the_promised_sizes():
    assert samples.news() == samples.news() != samples.news(seed=1)
    assert samples.sentence_pairs() == samples.sentence_pairs() != samples.sentence_pairs(seed=1)
    (train, labels), (test, _) = samples.images()
    assert torch.equal(train, samples.images()[0][0]) and train.dtype == torch.uint8
    assert train.shape == (5000, 3, 32, 32) and len(test) == 1000 and labels.bincount().min() > 400
    news = samples.news()
    assert [len(part) for part in news] == [8000, 1000] and len(set(samples.sentence_pairs())) == 10_000
    assert min(Counter(label for label, _ in news[0]).values()) > 1900


def test_news_share_most_words_and_are_still_told_apart_by_counting_them():
    train, test = samples.news()
    counts = {label: Counter() for label in range(1, 5)}
    for label, text in train:
        counts[label].update(set(re.findall("[a-z]+", text.lower())))
    assert len(set.intersection(*map(set, counts.values()))) > 0.8 * len(set.union(*map(set, counts.values())))

    def score(label, text):
        words = set(re.findall("[a-z]+", text.lower()))
        return sum(torch.tensor(counts[label][word] + 1.0).log().item() for word in words)

    right = sum(max(counts, key=lambda label: score(label, text)) == answer for answer, text in test[:200])
    assert right > 150


def test_images_of_a_shape_are_alike_but_not_the_same():
    (train, labels), (test, answers) = samples.images(1000, 200)
    train, test = (x.float().mean(1).flatten(1) for x in (train, test))
    train, test = (torch.nn.functional.normalize(x - x.mean(1, keepdim=True), dim=1) for x in (train, test))
    guesses = labels[(test @ train.T).argmax(1)]  # the nearest neighbor's label
    assert 0.3 < (guesses == answers).float().mean() < 0.99


def test_sentence_samples_agree_elide_and_pass_the_filter():
    pairs = samples.sentence_pairs()
    for english, french in (("happy", "contente"), ("brave", "courageuse"), ("proud", "fière"), ("sad", "tristes")):
        assert any(english in e and f" {french}" in f for e, f in pairs)
    text = " ".join(f for _, f in pairs)
    assert all(part in text for part in ("l'école", "n'est", "du jardin", "mon église"))
    assert not any(part in text for part in ("le école", "ma église", "ne est", "de le "))
    for first, second in ([normalizeString(side) for side in pair] for pair in pairs):
        assert first.startswith(PREFIXES) and max(len(first.split()), len(second.split())) < 10
