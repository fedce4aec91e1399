"""Stand-ins for what a notebook cannot have here: Drive, downloads, later releases of torchtext, a GPU; and for the
parts of other questions, so that each is judged alone."""

import os
import resource
import secrets
import sys
import types
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

MEMORY, PROCESSES, FILE_SIZE, CPU_SECONDS = 4 << 30, 64, 100 << 20, 600  # bytes, count, bytes, of one process


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
    from data import samples

    train, test = samples.news(train_size=1_000, test_size=300)
    parts = {"train": Rows(train), "test": Rows(test)}
    return parts[split] if isinstance(split, str) else tuple(parts[name] for name in split)


class CIFAR10(torch.utils.data.Dataset):
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

    def __init__(self, root=None, train=True, transform=None, target_transform=None, download=False):
        from data import samples

        images, labels = samples.images(train_size=500, test_size=500)[0 if train else 1]
        self.data, self.targets = images.permute(0, 2, 3, 1).numpy(), labels.tolist()
        self.transform, self.target_transform = transform, target_transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index):
        from PIL import Image

        image, label = Image.fromarray(self.data[index]), self.targets[index]
        image = self.transform(image) if self.transform else image
        return image, self.target_transform(label) if self.target_transform else label


class Anything(types.ModuleType):
    """A module of which every function does nothing."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *arguments, **options: None


class Shell:
    """What ``get_ipython()`` returns, and any logger: whatever is called does nothing."""

    def __getattr__(self, name: str):
        return lambda *arguments, **options: []


class Part(nn.Module):
    """In the place of another question's class: a fixed linear map, of tokens or of patches, each its own."""

    def __init__(self, *arguments, **options):
        super().__init__()
        self.arguments, self.options, self.seed = arguments, options, len(_parts)
        _parts.append(type(self).__name__)

    def mixed(self, x: torch.Tensor, width: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        mix = torch.randn(x.shape[-1], width, generator=generator, dtype=torch.float64).to(x)
        return x @ mix / x.shape[-1] ** 0.5

    def forward(self, x: torch.Tensor, *_, **__) -> torch.Tensor:
        if x.dim() != 4:  # every token learns of the others, whichever axis they lie along
            return self.mixed(x + x.mean(0, keepdim=True) + x.mean(1, keepdim=True), x.shape[-1])
        given = dict(zip(("in_channels", "patch_size", "embedding_dim"), self.arguments)) | self.options
        return self.mixed(F.unfold(x, given["patch_size"], stride=given["patch_size"]).mT, given["embedding_dim"])


_parts: list[str] = []


def part(name: str) -> type[Part]:
    return type(name, (Part,), {})


def restrict() -> None:
    """Limit what this process, and each that it starts, may use."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    for kind, limit in (
        (resource.RLIMIT_AS, size + MEMORY),
        (resource.RLIMIT_NPROC, PROCESSES),
        (resource.RLIMIT_FSIZE, FILE_SIZE),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 256),
    ):
        resource.setrlimit(kind, (limit, limit))
    if os.getuid() == 0 and Path.cwd() == Path("/notebook"):  # in the sandbox of root
        number = 1_000_000 + secrets.randbelow(1 << 24)
        os.setgroups([])
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)


def install(text: str) -> None:
    """Put the stand-ins in place that this notebook needs, before any of its code runs."""
    try:
        import google  # noqa: F401
    except ImportError:
        sys.modules["google"] = Anything("google")
    for name in ("google.colab", "google.colab.drive", "google.colab.files", "google.colab.output"):
        sys.modules[name] = Anything(name)
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, sys.modules[name])
    if "torchtext" in text:
        import torchtext.data.functional
        import torchtext.datasets
        import torchtext.vocab

        torchtext.datasets.AG_NEWS = ag_news
        torchtext.vocab.build_vocab_from_iterator = build_vocab_from_iterator
        torchtext.data.functional.to_map_style_dataset = lambda rows: Rows(rows)
        torchtext.disable_torchtext_deprecation_warning = lambda: None
    if "torchvision" in text:
        import torchvision

        torchvision.datasets.CIFAR10 = CIFAR10
    if "tqdm" in text:
        import tqdm

        sys.modules["tqdm.notebook"] = sys.modules["tqdm.auto"] = tqdm  # the bars of notebooks need a browser
    if "prepareData" in text:
        import data.data
        from data import samples

        lines = "".join(f"{english}\t{french}\n" for english, french in samples.sentence_pairs(2_000))
        Path("data", "eng-fra.txt").write_text(lines, encoding="utf-8")
        os.environ["HW4_DATA_DIR"] = str(Path("data").resolve())
        data.prepareData, data.Lang = data.data.prepareData, data.data.Lang
    torch.Tensor.cuda = nn.Module.cuda = lambda self, *arguments, **options: self
    original = torch.utils.data.DataLoader.__init__

    def in_this_process(self, *arguments, **options):
        options.update({k: v for k, v in (("num_workers", 0), ("persistent_workers", False)) if k in options})
        options.pop("prefetch_factor", None)
        original(self, *arguments, **options)

    torch.utils.data.DataLoader.__init__ = in_this_process
