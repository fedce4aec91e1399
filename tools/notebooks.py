"""The three notebooks from outside: their cells, results and definitions, and whether outputs belong to the code."""

import ast
import hashlib
import json
import linecache
import re
import sys
import types
from modulefinder import ModuleFinder
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
TASKS = {"hw4_rnn": "rnn", "hw4_seq2seq": "seq2seq", "hw4_vit": "vit"}  # notebook -> its folder for runs
ADDRESS = {"GIT_URL", "GIT_REF"}  # of the setup cell: where the project is published changes no output
EMPTIED = {"shows-data", "live"}  # tags of cells whose outputs are not committed


def read(name: str, root: Path = ROOT) -> NotebookNode:
    """One of the saved notebooks."""
    return nbformat.read(root / f"{name}.ipynb", as_version=4)


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def printed(cell: NotebookNode) -> str:
    """What a code cell printed or showed as text."""
    return "".join(o.get("text") or o.get("data", {}).get("text/plain", "") + "\n" for o in cell.get("outputs", []))


def results(notebook: NotebookNode) -> list[dict]:
    """What the lines ``RESULT {...}`` in a notebook's outputs state, one for each part."""
    lines = [line for cell in notebook.cells for line in printed(cell).splitlines()]
    return [json.loads(line.removeprefix("RESULT ")) for line in lines if line.startswith("RESULT ")]


# ------------------------------------------------------------------------------------ which code the outputs belong to


def imported(notebook: NotebookNode, root: Path = ROOT) -> dict[str, Path]:
    """The project's modules that a notebook imports, directly or not: dotted names and files."""
    finder = ModuleFinder(path=[str(root)])
    cells = finder.add_module("__main__")
    for cell in notebook.cells:
        if cell.cell_type == "code":
            finder.scan_code(compile(_transformed(cell), "cell", "exec"), cells)
    return {name: Path(module.__file__) for name, module in sorted(finder.modules.items()) if module.__file__}


def _transformed(cell: NotebookNode) -> str:
    return TransformerManager().transform_cell(cell.source)  # magics become the calls that IPython makes of them


def _normalized(node: Any) -> str:
    """A syntax tree without comments, layout and docstrings; ``ast.dump`` writes another text in each Python."""
    if isinstance(node, list):
        return f"[{','.join(map(_normalized, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    given = dict(ast.iter_fields(node))
    if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
        given["body"] = node.body[1:]
    if isinstance(node, ast.Assign) and {getattr(target, "id", "") for target in node.targets} <= ADDRESS:
        given["value"] = None
    parts = [f"{name}={_normalized(value)}" for name, value in given.items() if value not in (None, [])]
    return f"{type(node).__name__}({','.join(parts)})"


def fingerprint(notebook: NotebookNode, root: Path = ROOT) -> str:
    """A hash of the code that the outputs depend on: the code cells, and the project's modules that they import."""
    sources = [_transformed(cell) for cell in notebook.cells if cell.cell_type == "code"]
    for name, path in imported(notebook, root).items():
        sources += [f"import {name}", path.read_text(encoding="utf-8")]
    return hashlib.sha256("\0".join(_normalized(ast.parse(source)) for source in sources).encode()).hexdigest()


# ------------------------------------------------------------------------------------ what is saved


def _as_on_a_terminal(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join what was printed in pieces, and leave of each line what its last carriage return left: no progress bar."""
    joined: list[NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and joined and joined[-1].get("name") == output.name:
            joined[-1].text += output.text
        else:
            joined.append(output)
    for output in joined:
        if output.output_type == "stream":
            output.text = "\n".join(line.rpartition("\r")[2] for line in output.text.split("\n"))
    return [o for o in joined if o.output_type != "stream" or o.text.strip()]


def clean(notebook: NotebookNode, publish: bool) -> NotebookNode:
    """Leave code, text and results: no progress bars, no timings; if published, none of the data.

    Args:
        notebook: an executed notebook; changed in place and returned.
        publish: also empty the outputs of cells that show data or live widgets, and store the fingerprint of the code
            that the outputs belong to.
    """
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        kept = {name: cell.metadata[name] for name in ("tags", "cellView") if cell.metadata.get(name)}
        cell.metadata = NotebookNode(kept)
        if cell.cell_type == "code":
            # What comes by stderr stands last, not amid bars of stdout; a warning stays, for the tests to find.
            cell.outputs = _as_on_a_terminal(sorted(cell.outputs, key=lambda o: o.get("name") == "stderr"))
            if publish and tags(cell) & EMPTIED:
                cell.outputs = []
    if publish:
        notebook.metadata["hw4"] = {"fingerprint": fingerprint(notebook)}
    return notebook


# ------------------------------------------------------------------------------------ code called from outside


def python(cell: NotebookNode) -> str:
    """A code cell without IPython's magics and shell lines, its line numbers kept."""
    if cell.source.startswith("%%"):
        return ""
    return re.sub(r"(?m)^(\s*)[%!].*$", r"\1pass", cell.source)


def run_cell(name: str, number: int, cell: NotebookNode, namespace: dict[str, Any]) -> None:
    """Execute a code cell without its magics; Python knows its lines, for errors and for digests."""
    source, file = python(cell), f"{name}, cell {number}"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), namespace)


def definitions(name: str, notebook: NotebookNode | None = None) -> types.ModuleType:
    """A module made of the cells tagged ``define``, of the saved notebook or another: no data, no training."""
    notebook, module = notebook or read(name), types.ModuleType(name)
    sys.modules[name] = module
    for number, cell in enumerate(notebook.cells):
        if "define" in tags(cell):
            run_cell(name, number, cell, module.__dict__)
    return module
