"""Loaders on good, odd and broken local files, splits without a leak, and the generated samples."""

import random
import re
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from data import ag_news, cifar10, eng_fra, samples, sources
from data.data import PREFIXES, normalizeString, prepareData

ROWS = '"1","Title","Some text"\n"4","","Only text, with a comma"\n'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """No test sees the machine's own data or cache."""
    monkeypatch.delenv("HW4_DATA_DIR", raising=False)
    monkeypatch.setattr(sources, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


# ------------------------------------------------------------------------------------ local files


@pytest.mark.parametrize(
    ("content", "message"),
    (
        (b'"1","only two"\n', "line 1: 2 columns"),
        (ROWS.encode() + b'"5","a","b"\n', "line 3: label '5'"),
        (b'"1","a","b\0"\n', "NUL"),
        ("1,café,noir\n".encode("latin-1"), "cannot be read"),
        (b"", "no rows"),
        (ROWS.encode() + b'"2","a","b\n"3","c","d"\n', "line 3: no CSV"),
        (ROWS.encode() + b'2,a,"b\n3,c,d"\n', "line 3: a quote that opens here closes in line 4"),
        (ROWS.encode() + b'"2","a","b\n', "line 3: no CSV"),
        (ROWS.encode() + b'"2","a","' + 9_999 * b"plain text without an end\n", "line 3: no CSV"),
    ),
)
def test_a_malformed_news_file_is_refused_with_its_line(tmp_path, content, message):
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ag_news.read_csv(path)


def test_a_byte_order_mark_and_line_separators_belong_to_no_row(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes(b"\xef\xbb\xbf" + '"1","a\u2028b","c\rd"\r\n2,e,f\x85g\n'.encode())
    assert ag_news.read_csv(path) == [(1, "a\u2028b c\rd"), (2, "e f\x85g")]


def test_a_local_file_that_is_not_the_official_one_is_used_and_described(tmp_path):
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


def test_image_folders_without_a_part_or_without_images_are_named(tmp_path):
    root = image_folders(tmp_path / "a")
    (root / "cifar10/test/dog/0.png").unlink()
    with pytest.raises(ValueError, match=r"test holds no folders of images.*dog"):
        cifar10.load("real", root)
    shutil.rmtree(root / "cifar10" / "test")
    with pytest.raises(ValueError, match=r"test holds no folders of images"):
        cifar10.load("real", root)


def swap(a, b):
    content = a.read_bytes(), b.read_bytes()
    a.write_bytes(content[1])
    b.write_bytes(content[0])


@pytest.mark.parametrize(
    "change",
    (
        lambda root: swap(root / "train/cat/0.png", root / "train/dog/0.png"),
        lambda root: swap(root / "train/cat/0.png", root / "test/cat/0.png"),
        lambda root: (root / "train/cat/1.png").rename(root / "train/deer/1.png"),
    ),
    ids=("between classes", "between parts", "moved"),
)
def test_decoded_images_are_not_reused_once_a_file_has_changed(tmp_path, change):
    """Names and sizes alone would not tell: every file is as long as every other."""
    root = image_folders(tmp_path / "mine")
    for i, path in enumerate(sorted((root / "cifar10").rglob("*.png"))):
        Image.new("RGB", (32, 32), (i, 0, 0)).save(path.with_suffix(".bmp"))
        path.with_suffix(".bmp").rename(path)
    assert len({path.stat().st_size for path in (root / "cifar10").rglob("*.png")}) == 1
    (root / "cifar10/train/deer/0.png").rename(root / "cifar10/train/deer/2.png")
    shutil.copy(root / "cifar10/train/dog/0.png", root / "cifar10/train/cat/1.png")
    before = cifar10.load("real", root)
    change(root / "cifar10")
    after = cifar10.load("real", root)
    fresh = {part: cifar10._read_folder(root / "cifar10" / part) for part in ("train", "test")}
    for part, (images, labels) in fresh.items():
        assert torch.equal(getattr(after, part)[0], images) and torch.equal(getattr(after, part)[1], labels)
    assert not all(torch.equal(a, b) for a, b in zip(before.train + before.test, after.train + after.test))


def test_another_folder_with_equal_names_and_sizes_is_decoded_by_itself(tmp_path):
    for name, color in (("a", (1, 2, 3)), ("b", (3, 2, 1))):
        image_folders(tmp_path / name)
        for path in (tmp_path / name).rglob("*.png"):
            Image.new("RGB", (32, 32), color).save(path, "BMP")
    assert cifar10.load("real", tmp_path / "a").train[0][0, :, 0, 0].tolist() == [1, 2, 3]
    assert cifar10.load("real", tmp_path / "b").train[0][0, :, 0, 0].tolist() == [3, 2, 1]


def test_official_batches_that_are_damaged_are_named(tmp_path):
    folder = tmp_path / "mine" / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    (folder / "data_batch_1").write_bytes(b"half")
    with pytest.raises(ValueError, match="cifar-10-batches-py is damaged or incomplete: remove it"):
        cifar10.load("real", tmp_path / "mine")


@pytest.mark.parametrize(
    ("pictures", "labels", "message"),
    (
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 10]), "label 10, expected 0 to 9"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([-1, 3]), "label -1"),
        (
            torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
            torch.tensor([0.0, 1.0]),
            r"float32, expected \(N\) torch.int64",
        ),
        (torch.zeros(2, 3, 32, 32), torch.tensor([0, 1]), "float32 for 2 labels"),
        (torch.zeros(3, 3, 32, 32, dtype=torch.uint8), torch.tensor([0, 1]), "for 2 labels"),
    ),
)
def test_labels_and_images_are_checked_where_they_are_loaded(pictures, labels, message, monkeypatch):
    good = cifar10.load("sample")
    monkeypatch.setattr(samples, "images", lambda: (good.train, (pictures, labels)))
    with pytest.raises(ValueError, match=f"test: .*{message}"):
        cifar10.load("sample")


def test_news_labels_are_checked_where_they_are_loaded():
    news = ag_news.load("sample")
    with pytest.raises(ValueError, match="train: label 0, expected 1, 2, 3 or 4"):
        replace(news, train=[(0, "text"), *news.train])


# ------------------------------------------------------------------------------------ sentence pairs


@pytest.mark.parametrize(
    ("content", "pairs"),
    (
        (
            "Go.\tVa\u2028 !\nRun\x85!\tCours\x0b !\x0c\x1c\n",
            [("Go.", "Va\u2028 !"), ("Run\x85!", "Cours\x0b !\x0c\x1c")],
        ),
        ("Go.\tVa !\n\n\n", [("Go.", "Va !")]),
        ("Go.\tVa !", [("Go.", "Va !")]),
        ("\ufeffGo.\tVa !\r\nRun!\tCours !\r\n\r\n", [("Go.", "Va !"), ("Run!", "Cours !")]),
        ("Go.\tVa\r !\tCC-BY 2.0\n", [("Go.", "Va\r !")]),
    ),
    ids=("separators", "empty last lines", "no last line feed", "from Windows", "lone carriage return"),
)
def test_pairs_end_at_line_feeds_alone(tmp_path, content, pairs):
    (tmp_path / "eng-fra.txt").write_bytes(content.encode())
    assert eng_fra.read_pairs(tmp_path / "eng-fra.txt") == pairs


@pytest.mark.parametrize(
    ("content", "message"),
    (
        (b"Go.\tVa !\n\nRun!\tCours !\n", "line 2: expected 'english<TAB>french', found ''"),
        (b"Go.\tVa !\nRun!\n", "line 2: expected"),
        (b"Go.\t \n", "line 1: expected"),
        ("Go.\tça\n".encode("latin-1"), "not UTF-8"),
        (b"\n", "no sentence pairs"),
    ),
)
def test_a_malformed_translation_file_is_refused_with_its_line(tmp_path, content, message):
    (tmp_path / "eng-fra.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        prepareData("eng", "fra", folder=tmp_path)


@pytest.mark.parametrize(
    ("one", "other"),
    (
        ("I'm cold.", "i am cold ."),
        ("He isn't here.", "He's not here."),
        ("We aren't sure.", "we are not sure."),
        ("You're late, I can't stay.", "you are late i cannot stay"),
        ("She won't go, don't ask.", "She will not go; do not ask."),
        ("They'll see I've won.", "they will see I have won"),
    ),
)
def test_contractions_are_written_out(one, other):
    forms = [eng_fra.normal_form(("Ça va.", text))[1].rstrip(" .") for text in (one, other)]
    assert forms[0] == forms[1]


@pytest.mark.parametrize(
    ("one", "other"), (("Tom's car", "Tom is car"), ("I am ill.", "I am I will."), ("its", "it is"))
)
def test_what_is_no_contraction_stays(one, other):
    assert eng_fra.normal_form(("", one)) != eng_fra.normal_form(("", other))


def test_french_stays_as_it_is_normalized():
    assert eng_fra.normal_form(("He s'il te plaît !", "Hey!")) == (normalizeString("He s'il te plaît !"), "hey !")


def components(pairs):
    """Groups by merging sets until nothing changes: slow, and another way than the one tested."""
    groups = []
    for row, pair in enumerate(pairs):
        sides = set(enumerate(eng_fra.normal_form(pair)))
        touching = [group for group in groups if group[1] & sides]
        groups = [group for group in groups if not group[1] & sides]
        groups.append(({row}.union(*(g[0] for g in touching)), sides.union(*(g[1] for g in touching))))
    return {frozenset(rows) for rows, _ in groups}


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_the_connected_components_and_do_not_leak(seed):
    rng = random.Random(seed)
    words = "abcdefghijklmnopqrstuvwxyz"
    pairs = [
        [
            f"je {rng.choice(words)}{rng.choice('xyz')}",
            f"{rng.choice(['I am', 'i m'])} {rng.choice(words)}{rng.choice('xyz')}",
        ]
        for _ in range(90)
    ]
    groups = eng_fra.sentence_groups(pairs)
    assert {frozenset(r for r in range(90) if groups[r] == g) for g in set(groups)} == components(pairs)
    assert list(dict.fromkeys(groups)) == list(range(len(set(groups)))) and 1 < len(set(groups)) < 90
    test = [row for row in range(90) if groups[row] % 3 == 0]
    train = [row for row in range(90) if groups[row] % 3]
    assert eng_fra.leak(pairs, train, test) == 0


def test_a_leak_is_counted_in_both_languages_up_to_contractions():
    pairs = [
        ["je suis la .", "i m here ."],
        ["je suis la .", "i am there ."],
        ["j y suis .", "i am here ."],
        ["va .", "go ."],
    ]
    assert eng_fra.leak(pairs, [0], [1, 2, 3]) == pytest.approx(2 / 3)
    assert eng_fra.leak(pairs, [3], [0, 1, 2]) == 0
    assert eng_fra.sentence_groups(pairs) == [0, 0, 0, 1]
    with pytest.raises(ValueError, match="no test rows"):
        eng_fra.leak(pairs, [0], [])


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
    pairs = samples.sentence_pairs()
    text = " ".join(f for _, f in pairs)
    assert "l'école" in text and "n'est" in text and "du jardin" in text and "mon église" in text
    assert "le école" not in text and "ma église" not in text and "ne est" not in text
    for sides in pairs:
        first, second = map(normalizeString, sides)
        assert first.startswith(PREFIXES) and max(len(first.split()), len(second.split())) < 10
