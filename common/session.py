"""How a run starts and ends: seed, device, folder, and the lines that state its result."""

import ctypes
import importlib
import importlib.util
import json
import os
import platform
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from common.files import atomic_write, lock


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch, on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def choose_device(name: str = "auto") -> torch.device:
    """The device to train on: ``auto`` (a GPU by CUDA if there is one), ``cuda`` or ``cpu``.

    Raises:
        ValueError: for another name, or ``cuda`` on a machine where PyTorch finds no such GPU.
    """
    if name not in ("auto", "cuda", "cpu"):
        raise ValueError(f"device {name!r} is unknown: expected 'auto', 'cuda' or 'cpu'")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device 'cuda' was asked for, but PyTorch finds no GPU: choose 'auto' or 'cpu', "
            "or in Colab Runtime > Change runtime type > GPU"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and torch.backends.mps.is_available():
            print("the GPU of this Mac is not used: nothing here has been tried on it")
    return torch.device(name)


def start(seed: int, device: str = "auto") -> torch.device:
    """Seed everything, choose the device and print one line about it; returns the device.

    On a CPU, sums come out the same in every run from here on, whichever thread is first. On a GPU, some operations
    have no such variant, and others need a setting made before Python starts.
    """
    seed_everything(seed)
    chosen = choose_device(device)
    torch.set_float32_matmul_precision("medium")  # AMD with AVX-512: twice as fast; GPU: TF32; AMX: bfloat16
    if chosen.type == "cpu":
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # it would only cost time
        _keep_freed_memory()
    is_gpu = chosen.type == "cuda"
    where = torch.cuda.get_device_name(chosen) if is_gpu else f"CPU, {torch.get_num_threads()} threads"
    versions = f"Python {platform.python_version()} | torch {torch.__version__} | numpy {np.__version__}"
    print(f"device {chosen.type} ({where}) | seed {seed} | {versions}")
    return chosen


def _keep_freed_memory() -> None:
    """Let glibc keep large freed blocks: else the kernel maps and clears the same pages in every training step."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # names and values of malloc.h
        for name, value in ((mmap_threshold, 1 << 30), (trim_threshold, (1 << 31) - 1), (top_pad, 64 << 20)):
            mallopt(name, value)


def run_folder(*parts: str) -> str:
    """The folder ``parts[0]/parts[1]/...`` for logs and checkpoints: made, tried out and locked.

    In Colab, a folder below ``/content/drive`` mounts Drive first: what lies there survives a disconnect.
    The lock belongs to this process and ends with it.

    Raises:
        OSError: if nothing can be written there.
        RuntimeError: if another process uses the folder; tells which.
    """
    folder = Path(*parts).expanduser()
    if "google.colab" in sys.modules and folder.is_relative_to("/content/drive"):
        importlib.import_module("google.colab.drive").mount("/content/drive")
    with atomic_write(folder / "writable") as file:
        file.write(b"")
    (folder / "writable").unlink()
    lock(folder)
    return str(folder)


OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")


@contextmanager
def memory_advice(*lower: str) -> Iterator[None]:
    """Say which settings to lower if the device runs out of memory; for a ``with`` block or a function.

    Raises:
        MemoryError: in place of PyTorch's error, which stands behind it.
    """
    try:
        yield
    except RuntimeError as error:  # torch.OutOfMemoryError is one
        if not any(message in str(error) for message in OUT_OF_MEMORY):
            raise
        raise MemoryError(
            f"the device ran out of memory: lower {' or '.join(lower)} in the settings, "
            "restart the runtime and run the cells again"
        ) from error


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 numbers in hardware, and several times faster than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()  # torch < 2.10 cannot tell
    if capabilities.get("avx512_fp16"):  # Intel: its AVX-512 multiplies bfloat16 no faster than float32, its AMX does
        return bool(capabilities.get("amx_bf16"))
    return bool(capabilities.get("avx512_bf16"))


class Clock:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    def __call__(self) -> float:
        return time.perf_counter() - self.began


def report(
    part: str,
    *,
    task: str,
    metric: str,
    value: float,
    target: float,
    higher_is_better: bool,
    data: str,
    train_size: int,
    test_size: int,
    seed: int,
    device: torch.device,
    seconds: float,
    **more: float | str | dict | None,
) -> dict:
    """Print the result for people, and as a line ``RESULT {...}`` for programs; returns what it states.

    Args:
        part: ``assignment`` or ``further``.
        value: passes if it lies strictly beyond ``target``.
        data: ``real`` or ``sample``.
        seconds: from the start of the notebook, or of its second part.
        more: further numbers, rounded to four digits, and texts or dictionaries, such as the hyperparameters.
    """
    passed = value > target if higher_is_better else value < target
    result = {
        "part": part,
        "task": task,
        "metric": metric,
        "value": round(value, 4),
        "target": target,
        "passed": passed,
        "data": data,
        "train_size": train_size,
        "test_size": test_size,
        "seed": seed,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "seconds": round(seconds, 1),
        "torch": torch.__version__,
        **{name: round(item, 4) if isinstance(item, float) else item for name, item in more.items()},
    }
    if importlib.util.find_spec("resource"):  # not on Windows
        import resource

        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        result["peak_host_mb"] = kilobytes // (2**20 if sys.platform == "darwin" else 2**10)
    side = "above" if higher_is_better else "below"
    print(f"{metric} {value:.2f} on {test_size:,} test examples of {data} data (target: {side} {target:g})")
    print(f"trained on {train_size:,} examples; {seconds / 60:.1f} minutes on {os.cpu_count()} CPU cores", end="")
    print(f" and a {result['device']}" if device.type == "cuda" else "")
    print("RESULT", json.dumps(result))
    return result
