"""Install what a notebook needs and the machine lacks, and leave what is there as it is."""

import importlib
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

try:
    from packaging.requirements import Requirement
except ModuleNotFoundError:  # before matplotlib is there, which brings packaging along
    from pip._vendor.packaging.requirements import Requirement


def lacks(requirement: str) -> bool:
    """Whether no installed package meets a requirement such as ``numpy>=1.26``."""
    wanted = Requirement(requirement)
    try:
        return not wanted.specifier.contains(version(wanted.name), prereleases=True)
    except PackageNotFoundError:
        return True


def install_missing(file: str | Path = "requirements.txt") -> list[str]:
    """Install with pip what the file asks for and the machine lacks.

    A torch that is there is never replaced, not even one that is too old: the message tells what to do instead.

    Returns:
        What was installed, as the file writes it.

    Raises:
        RuntimeError: if pip fails; its own words stand in the message.
    """
    lines = [line.partition("#")[0].strip() for line in Path(file).read_text(encoding="utf-8").splitlines()]
    missing = [line for line in lines if line and lacks(line)]
    held = [] if lacks("torch") else [f"torch=={version('torch')}"]
    for line in [line for line in missing if held and Requirement(line).name == "torch"]:
        missing.remove(line)
        print(f"{held[0]} is here, {line} was asked for: kept; if a cell fails, choose a newer runtime or environment")
    if missing:
        print("installing", *missing)
        command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", *missing, *held]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"pip could not install {' '.join(missing)}: {done.stderr.strip()[-600:]}")
        importlib.invalidate_caches()
        if stale := [line for line in missing if Requirement(line).name in sys.modules]:
            print(f"{' '.join(stale)} replaced a version that is in use: restart the kernel and run the cells again")
    if not lacks("tensorboard<2.21") and not lacks("setuptools>=82"):  # tensorflow/tensorboard#7107
        print(f"TensorBoard {version('tensorboard')} shows its page only beside setuptools below 82: for the live view")
        print('run  pip install "setuptools<82"  and restart the kernel; all else works without')
    return missing
