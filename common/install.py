"""Install what a notebook needs and the machine lacks, and leave what is there as it is."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path


def lacks(requirement: str) -> bool:
    """Whether a requirement such as ``numpy>=2.0`` has to be installed.

    A package that is there counts as it is, whatever its version; only one pinned with ``==`` must have that version.
    """
    name, _, pinned = requirement.partition("==")
    if importlib.util.find_spec(re.sub("[<>].*", "", name)) is None:
        return True
    return bool(pinned) and importlib.metadata.version(name) != pinned


def install_missing(file: str | Path = "requirements.txt") -> list[str]:
    """Install with pip what the file asks for and the machine lacks; never another torch than the one that is there.

    Returns:
        What was installed, as the file writes it.

    Raises:
        RuntimeError: if pip fails; its own words stand in the message.
    """
    lines = [line.partition("#")[0].strip() for line in Path(file).read_text().splitlines()]
    missing = [line for line in lines if line and lacks(line)]
    if not missing:
        return []
    kept = [] if lacks("torch") else ["torch==" + importlib.metadata.version("torch")]
    print("installing", *missing)
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", *missing, *kept]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip could not install {' '.join(missing)}: {done.stderr.strip()[-600:]}")
    importlib.invalidate_caches()
    return missing
