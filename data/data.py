"""The assignment's translation data: vocabularies and filtered, normalized sentence pairs."""

import re
import unicodedata
from pathlib import Path

SOS_token = 0
EOS_token = 1
# Beginnings that keep a pair, after normalization. "he is" has no space behind it, so that
# "he isn t" is kept as well, as in the tutorial whose counts the assignment quotes.
PREFIXES = (
    "i am ",
    "i m ",
    "he is",
    "he s ",
    "she is",
    "she s ",
    "you are",
    "you re ",
    "we are",
    "we re ",
    "they are",
    "they re ",
)


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
    """Lower case, no accents, a space before ``. ! ?``, and a space for everything else but letters."""
    text = unicodeToAscii(text.lower().strip())
    text = re.sub(r"([.!?])", r" \1", text)
    return re.sub(r"[^a-z.!?]+", " ", text).strip()


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
        folder: where the file lies; by default as ``data.eng_fra`` finds, fetches or generates it.

    Returns:
        The input vocabulary, the output vocabulary, and ``[input sentence, output sentence]`` pairs.

    Raises:
        ValueError: if the file is malformed or the filter keeps nothing.
        FileNotFoundError: if ``folder`` holds no such file.
    """
    from data import eng_fra  # here, because that module normalizes with this one

    name = f"{lang1}-{lang2}.txt"
    if folder is not None:
        path = Path(folder) / name
    elif name == "eng-fra.txt":
        path = eng_fra.locate().path
    else:
        raise ValueError(f"no file is known for {name}: give the folder it lies in")
    raw = eng_fra.read_pairs(path)
    print(f"Read {len(raw):,} sentence pairs")

    pairs = []
    for sides in raw:
        first, second = map(normalizeString, sides)
        shorter = max(len(first.split()), len(second.split())) < max_length
        if shorter and first.startswith(PREFIXES):
            pairs.append([second, first] if reverse else [first, second])
    if not pairs:
        raise ValueError(
            f"{name}: no pair has fewer than {max_length} words a side and starts with "
            "a form of 'i am', 'he is', ...: check the file's columns and max_length"
        )
    print(f"Kept {len(pairs):,} pairs")

    input_lang, output_lang = Lang(lang2 if reverse else lang1), Lang(lang1 if reverse else lang2)
    for source, target in pairs:
        input_lang.addSentence(source)
        output_lang.addSentence(target)
    print(f"Counted words: {input_lang.name} {input_lang.n_words:,}, {output_lang.name} {output_lang.n_words:,}")
    return input_lang, output_lang, pairs
