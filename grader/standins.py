"""Stand-ins for what a notebook cannot have here: Drive, downloads, later releases of torchtext, a GPU."""

import sys
import types
from collections import Counter
from collections.abc import Iterable
from functools import cache

import torch
import torchvision
import tqdm
from PIL import Image

from data import data as translation
from data import samples, sources


class Rows(list):
    """A data set that can be indexed, iterated over again and again, and read with ``next``."""

    def __next__(self):
        if not hasattr(self, "_iterator"):
            self._iterator = iter(self)
        return next(self._iterator)


class Vocabulary:
    """The vocabulary of torchtext 0.9 and later."""

    def __init__(self, words: list[str]):
        self.words, self.default = words, None
        self.index = {word: i for i, word in enumerate(words)}

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: str) -> bool:
        return word in self.index

    def __getitem__(self, word: str) -> int:
        if word not in self.index and self.default is None:
            raise RuntimeError(f"Token {word} not found and default index is not set")
        return self.index.get(word, self.default)

    def __call__(self, words: list[str]) -> list[int]:
        return [self[word] for word in words]

    forward = lookup_indices = __call__

    def set_default_index(self, index: int) -> None:
        self.default = index

    def get_default_index(self) -> int | None:
        return self.default

    def get_stoi(self) -> dict[str, int]:
        return dict(self.index)

    def get_itos(self) -> list[str]:
        return list(self.words)

    def lookup_token(self, index: int) -> str:
        return self.words[index]

    def lookup_tokens(self, indices: list[int]) -> list[str]:
        return [self.words[i] for i in indices]

    def append_token(self, word: str) -> None:
        self.index[word] = len(self.words)
        self.words.append(word)


def build_vocab_from_iterator(iterator: Iterable, min_freq=1, specials=None, special_first=True, max_tokens=None):
    counts = Counter(word for words in iterator for word in words)
    words = sorted((w for w, n in counts.items() if n >= min_freq), key=lambda w: (-counts[w], w))[:max_tokens]
    special = list(specials or [])
    words = [word for word in words if word not in special]
    return Vocabulary(special + words if special_first else words + special)


def ag_news(root=".data", split=("train", "test"), **_):
    train, test = samples.news()
    parts = {"train": Rows(train), "test": Rows(test)}
    return parts[split] if isinstance(split, str) else tuple(parts[name] for name in split)


class CIFAR10(torch.utils.data.Dataset):
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def __init__(self, root=None, train=True, transform=None, target_transform=None, download=False):
        images, labels = samples.images()[0 if train else 1]
        self.data, self.targets = images[:500].permute(0, 2, 3, 1).numpy(), labels[:500].tolist()
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index):
        image, label = Image.fromarray(self.data[index]), self.targets[index]
        image = self.transform(image) if self.transform else image
        return image, self.target_transform(label) if self.target_transform else label


class _Anything(types.ModuleType):
    """A module of which every function does nothing."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **options: None


class Shell:
    """What ``get_ipython()`` returns: magics and shell lines do nothing."""

    def __getattr__(self, name: str):
        return lambda *arguments, **options: []


def install() -> None:
    """Once, before any worker is forked."""
    for name in ("google", "google.colab", "google.colab.drive", "google.colab.files", "google.colab.output"):
        if name not in sys.modules or name != "google":
            sys.modules[name] = _Anything(name)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, sys.modules[name])
    import torchtext.data.functional
    import torchtext.datasets
    import torchtext.vocab

    torchtext.datasets.AG_NEWS = ag_news
    torchtext.vocab.build_vocab_from_iterator = build_vocab_from_iterator
    torchtext.data.functional.to_map_style_dataset = lambda rows: Rows(rows)
    torchtext.disable_torchtext_deprecation_warning = lambda: None
    torchvision.datasets.CIFAR10 = CIFAR10
    sys.modules["tqdm.notebook"] = sys.modules["tqdm.auto"] = tqdm  # the bars of notebooks need a browser
    sys.modules["data"].prepareData, sys.modules["data"].Lang = translation.prepareData, translation.Lang
    for name in ("news", "images", "sentence_pairs"):
        function = cache(getattr(samples, name))
        setattr(samples, name, function)
        function()  # made once, for all workers
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *arguments, **options: self
    original = torch.utils.data.DataLoader.__init__

    def in_this_process(self, *arguments, **options):
        options.update({k: v for k, v in (("num_workers", 0), ("persistent_workers", False)) if k in options})
        options.pop("prefetch_factor", None)
        original(self, *arguments, **options)

    torch.utils.data.DataLoader.__init__ = in_this_process


def move_cache(folder) -> None:
    """Where the project's own data modules write: in a worker, to the folder it may write to."""
    sources.CACHE = folder / "cache"
