"""Files that are there whole or not at all."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_DISK = {  # what a disk answers; a network's errors, which may happen inside the block, are others
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST,
}  # fmt: skip


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file for writing that becomes ``path`` at the end of the block.

    If the block raises, the temporary file is removed and whatever stood at ``path`` stays as it was.
    The folder of ``path`` is made if missing.

    Raises:
        OSError: if the disk is full or the folder cannot be written; names ``path`` and what to do.
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
