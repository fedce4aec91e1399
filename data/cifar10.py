"""CIFAR-10: 60,000 photographs of ten things, 32 x 32 (Krizhevsky 2009)."""

import os
import tarfile
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.functional import pil_to_tensor
from tqdm import tqdm

from common.files import atomic_write
from data import samples, sources

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer",
    "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
OFFICIAL = {"train": 50_000, "test": 10_000}
SIZE = 32  # pixels


@dataclass(frozen=True)
class Images:
    """Images ``(N, 3, 32, 32) uint8`` with labels ``(N,) long`` in 0 to 9."""

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    kind: str  # "real" or "sample"
    source: str  # in words: where it is from and how it differs from the official batches


def _decode(path: str) -> Tensor:
    try:
        image = datasets.folder.pil_loader(path)  # grey and transparent images become RGB
    except OSError as error:
        raise ValueError(f"{path} is no readable image ({error}); replace or remove it") from error
    if image.size != (SIZE, SIZE):
        raise ValueError(f"{path} has {image.size[0]} x {image.size[1]} pixels, expected 32 x 32")
    return pil_to_tensor(image)


def _read_folder(folder: Path) -> tuple[Tensor, Tensor]:
    dataset = datasets.ImageFolder(str(folder))
    if tuple(dataset.classes) != CLASSES:
        odd = sorted(set(CLASSES) ^ set(dataset.classes))
        raise ValueError(f"the classes in {folder} differ from CIFAR-10's ten: {', '.join(odd)} missing or unknown")
    bar = tqdm(dataset.samples, desc=f"decoding {folder.name}", unit="image", leave=False)
    images = torch.stack([_decode(path) for path, _ in bar])
    return images, torch.tensor(dataset.targets)


def _read_batches(root: Path, part: str) -> tuple[Tensor, Tensor]:
    try:
        batches = datasets.CIFAR10(str(root), train=part == "train")  # checks the md5 of every file
    except RuntimeError as error:
        folder = root / datasets.CIFAR10.base_folder
        raise ValueError(f"{folder} is damaged or incomplete: remove it, and it is fetched again") from error
    return torch.from_numpy(batches.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(batches.targets)


def _unpack(archive: Path, root: Path) -> None:
    """Unpack the official archive into ``root``: the folder appears there whole, and nothing outside it."""
    try:
        with tempfile.TemporaryDirectory(dir=root) as apart, tarfile.open(archive) as file:
            file.extractall(apart, filter="data")  # refuses members that point outside
            os.replace(Path(apart) / datasets.CIFAR10.base_folder, root / datasets.CIFAR10.base_folder)
    except (tarfile.TarError, EOFError, FileNotFoundError) as error:
        raise ValueError(f"{archive.name} is not CIFAR-10's archive ({error}): remove it and try again") from error


def _fingerprint(files: Iterable[Path]) -> list[str]:
    # Names and sizes alone, so that the copy's time stamps do not matter.
    return sorted(f"{p.parent.name}/{p.name} {p.stat().st_size}" for p in files)


def _cached_folders(root: Path) -> dict[str, tuple[Tensor, Tensor]]:
    cache = sources.CACHE / "cifar10-decoded.pt"
    found = _fingerprint(root.glob("t*/*/*"))
    if cache.exists():
        try:
            stored = torch.load(cache, weights_only=True)
            if stored["files"] == found:
                return stored["parts"]
        except Exception:  # whatever is wrong with a cache, it is only made again
            cache.unlink()
    parts = {part: _read_folder(root / part) for part in OFFICIAL}
    with atomic_write(cache) as file:
        torch.save({"files": found, "parts": parts}, file)
    return parts


def _real(data_dir: str | Path | None) -> Images:
    folder = sources.find("cifar10/train", data_dir)
    if folder is not None:
        parts = _cached_folders(folder.parent)
        what = "image folders, not the official lossless batches"
    else:
        batches = sources.find("cifar10/cifar-10-batches-py", data_dir) or sources.find("cifar-10-batches-py", data_dir)
        root = batches.parent if batches else sources.CACHE / "cifar10"
        if batches is None:
            archive = root / datasets.CIFAR10.filename
            url = os.environ.get("HW4_CIFAR10_URL", URL)
            sources.download(url, archive, sources.expect_md5(datasets.CIFAR10.tgz_md5))
            _unpack(archive, root)
            archive.unlink()
        parts = {part: _read_batches(root, part) for part in OFFICIAL}
        what = "the official batches"
    counts = []
    for part, expected in OFFICIAL.items():
        count = len(parts[part][1])
        counts.append(f"{part}: {count:,}" + (f", official {expected:,}" * (count != expected)))
    return Images(**parts, classes=CLASSES, kind="real", source=f"CIFAR-10 ({what}; {'; '.join(counts)})")


def load(kind: str = "auto", data_dir: str | Path | None = None) -> Images:
    """Load CIFAR-10 or its sample; ``kind`` and ``data_dir`` as in :mod:`data.sources`.

    Raises:
        ValueError: for a missing class folder, an unreadable image or one that is not 32 x 32.
        Unavailable: if real data is asked for and cannot be had.
    """

    def sample() -> Images:
        train, test = samples.images()
        source = f"generated sample (train: {len(train[1]):,} images; test: {len(test[1]):,})"
        return Images(train, test, samples.SHAPES, "sample", source)

    return sources.choose(kind, lambda: _real(data_dir), sample)
