"""Files written atomically, and folders that one process uses at a time."""

import errno
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# What a disk answers; a network's errors, which may happen inside the block, are others.
_DISK = {getattr(errno, name) for name in "ENOSPC EDQUOT EFBIG EROFS EACCES EPERM ENOTDIR EEXIST".split()}
_locks: dict[Path, TextIO] = {}  # what this process holds, for as long as it lives


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing that becomes ``path`` at the end of the block.

    If the block raises, the temporary file is removed and whatever stood at ``path`` stays as it was.
    The folder of ``path`` is made if missing.

    Raises:
        OSError: if the disk is full or the folder cannot be written; reports ``path`` and what to do.
    """
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix=path.name + ".", suffix=".part", dir=path.parent, delete=False) as file:
            part = Path(file.name)
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        if error.errno not in _DISK:
            raise
        advice = "free some space, or choose a folder that can be written"
        raise OSError(error.errno, f"{path} was not written ({os.strerror(error.errno)}): {advice}") from error
    finally:
        if part:
            part.unlink(missing_ok=True)


def lock(folder: Path) -> None:
    """Keep ``folder`` for this process until it ends, however it ends; again for the same process is fine.

    Raises:
        RuntimeError: if another process holds it; tells which, and since when.
    """
    folder = folder.resolve()
    if folder in _locks or fcntl is None:
        return
    file = (folder / "lock").open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        raise RuntimeError(
            f"{folder} is in use by {holder}: stop that notebook's kernel, or choose another folder for runs"
        ) from None
    except OSError:  # a file system without locks, such as some network drives
        return
    for rest in folder.rglob("*.part"):  # left by a process that was killed while it wrote
        rest.unlink()
    file.truncate(0)
    file.write(f"process {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    file.flush()
    _locks[folder] = file
