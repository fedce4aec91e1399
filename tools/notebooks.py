"""What a committed notebook must look like, and how it gets there."""

import hashlib
from pathlib import Path

from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
TASKS = {"hw4_rnn": "rnn", "hw4_seq2seq": "seq2seq", "hw4_vit": "vit"}  # notebook -> folder in runs/
EMPTIED = {"shows-data", "live"}  # tags of cells whose outputs are not committed


def code_hash(notebook: NotebookNode) -> str:
    """A fingerprint of all code cells: outputs belong to the code if it is the stored one."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def clean(notebook: NotebookNode, publish: bool) -> NotebookNode:
    """Leave code, text and results: no progress bars, no timings, and if published none of the data.

    Args:
        notebook: an executed notebook; changed in place and returned.
        publish: also empty the outputs of cells that show data or live widgets, and store the
            fingerprint of the code that the outputs belong to.
    """
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata = NotebookNode(tags=sorted(tags(cell))) if tags(cell) else NotebookNode()
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        if publish and tags(cell) & EMPTIED:
            cell.outputs = []
    if publish:
        notebook.metadata["hw4"] = {"code_sha256": code_hash(notebook)}
    return notebook
