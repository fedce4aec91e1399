"""The assignment's translation data: vocabularies and filtered, normalized sentence pairs."""

import os
import re
import unicodedata
from pathlib import Path

SOS_token = 0
EOS_token = 1
# Beginnings that keep a pair, after normalization. "he is" has no space behind it, so that
# "he isn t" is kept as well, as in the tutorial whose counts the assignment quotes.
PREFIXES = (
    "i am ", "i m ", "he is", "he s ", "she is", "she s ",
    "you are", "you re ", "we are", "we re ", "they are", "they re ",
)  # fmt: skip


class Lang:
    """A vocabulary that grows with the sentences added to it.

    Attributes:
        name: the language.
        word2index, word2count, index2word: its words; index 0 is SOS, index 1 is EOS.
        n_words: how many indices are in use.
    """

    def __init__(self, name: str):
        self.name = name
        self.word2index: dict[str, int] = {}
        self.word2count: dict[str, int] = {}
        self.index2word: dict[int, str] = {SOS_token: "SOS", EOS_token: "EOS"}
        self.n_words = len(self.index2word)

    def addSentence(self, sentence: str) -> None:
        for word in sentence.split():
            self.addWord(word)

    def addWord(self, word: str) -> None:
        if word not in self.word2index:
            self.word2index[word] = self.n_words
            self.index2word[self.n_words] = word
            self.n_words += 1
        self.word2count[word] = self.word2count.get(word, 0) + 1


def unicodeToAscii(text: str) -> str:
    """Drop the accents: a letter with marks becomes the letter."""
    parts = unicodedata.normalize("NFD", text)
    return "".join(c for c in parts if unicodedata.category(c) != "Mn")


def normalizeString(text: str) -> str:
    """Lowercase, no accents, a space before ``. ! ?``, and a space for everything else but letters."""
    text = unicodeToAscii(text.lower().strip())
    text = re.sub(r"([.!?])", r" \1", text)
    return re.sub(r"[^a-z.!?]+", " ", text).strip()


def read_pairs(path: str | Path) -> list[tuple[str, str]]:
    """Read ``english<TAB>french`` lines; further columns, as newer exports have, are dropped.

    Lines end at line feeds alone (a carriage return before one is dropped): other separators, such as
    U+2028, belong to the sentence. Empty lines at the end and a byte-order mark are dropped too.

    Args:
        path: a text file in UTF-8.

    Returns:
        ``(english, french)`` pairs as they stand there.

    Raises:
        ValueError: for a line without a tab or with an empty side, text that is not UTF-8,
            or a file without lines; names file and line.
    """
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n").rstrip("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text ({error}); fetch it again") from error
    if not text:
        raise ValueError(f"{path.name} holds no sentence pairs; fetch it again")
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        sides = line.split("\t")
        if len(sides) < 2 or not sides[0].strip() or not sides[1].strip():
            raise ValueError(f"{path.name}, line {number}: expected 'english<TAB>french', found {line[:60]!r}")
        pairs.append((sides[0], sides[1]))
    return pairs


def _find(name: str, folder: str | Path | None) -> Path:
    here = Path(__file__).resolve().parent
    folders = [folder] if folder else [os.environ.get("HW4_DATA_DIR"), here / "cache", here]
    paths = [Path(place).expanduser() / name for place in folders if place]
    for path in paths:
        if path.is_file():
            return path
    raise FileNotFoundError(
        f"{name} is not in {', '.join(str(path.parent) for path in paths)}: put it there or give its folder "
        "(data.eng_fra.locate() fetches eng-fra.txt and returns its path)"
    )


def prepareData(
    lang1: str,
    lang2: str,
    max_length: int = 10,
    reverse: bool = False,
    folder: str | Path | None = None,
) -> tuple[Lang, Lang, list[list[str]]]:
    """Read, normalize and filter ``<lang1>-<lang2>.txt``, and count both vocabularies.

    Args:
        lang1: the language of the first column; its side must start with one of ``PREFIXES``.
        lang2: the language of the second column.
        max_length: both sides have fewer words than this.
        reverse: translate from ``lang2`` to ``lang1`` instead.
        folder: where the file lies; by default it is looked for in ``$HW4_DATA_DIR``, in ``cache/``
            beside this module, and beside this module.

    Returns:
        The input vocabulary, the output vocabulary, and normalized ``[input sentence, output sentence]`` pairs.

    Raises:
        FileNotFoundError: if there is no such file; names the folders.
        ValueError: if the file is malformed or the filter keeps nothing.
    """
    path = _find(f"{lang1}-{lang2}.txt", folder)
    raw = read_pairs(path)
    print(f"Read {len(raw):,} sentence pairs")

    pairs = []
    for sides in raw:
        first, second = map(normalizeString, sides)
        shorter = max(len(first.split()), len(second.split())) < max_length
        if shorter and first.startswith(PREFIXES):
            pairs.append([second, first] if reverse else [first, second])
    if not pairs:
        raise ValueError(
            f"{path.name}: no pair has fewer than {max_length} words a side and starts with "
            "a form of 'i am', 'he is', ...: check the file's columns and max_length"
        )
    print(f"Kept {len(pairs):,} pairs")

    input_lang, output_lang = Lang(lang2 if reverse else lang1), Lang(lang1 if reverse else lang2)
    for source, target in pairs:
        input_lang.addSentence(source)
        output_lang.addSentence(target)
    print(f"Counted words: {input_lang.name} {input_lang.n_words:,}, {output_lang.name} {output_lang.n_words:,}")
    return input_lang, output_lang, pairs
