"""Folders that a tool fills, and may therefore empty: only those that it made itself."""

import shutil
from pathlib import Path

MARKER = ".made-by-hw4"  # holds the tool's name


def check_folder(folder: Path, tool: str) -> None:
    """Check that a folder is missing or empty, or was made by the tool.

    Raises:
        FileExistsError: if it is something else.
    """
    marker = folder / MARKER
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise FileExistsError(f"{folder} is not a folder: choose another place for {tool}")
    if folder.is_dir() and any(folder.iterdir()) and not (marker.is_file() and marker.read_text().strip() == tool):
        raise FileExistsError(f"{folder} was not made by {tool}, which would empty it: choose another, or remove it")


def fresh_folder(folder: Path, tool: str) -> Path:
    """Make an empty folder with the tool's marker, in place of the one that the tool made before.

    Raises:
        FileExistsError: if there is something else.
    """
    check_folder(folder, tool)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).write_text(f"{tool}\n")
    return folder
