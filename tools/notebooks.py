"""What a committed notebook must look like, how it gets there, and how its code is called from outside."""

import argparse
import ast
import hashlib
import json
import linecache
import re
import shutil
import sys
import types
from collections.abc import Collection
from pathlib import Path
from typing import Any

import nbformat
from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parent.parent
TASKS = {"hw4_rnn": "rnn", "hw4_seq2seq": "seq2seq", "hw4_vit": "vit"}  # notebook -> folder in runs/
ADDRESS = {"GIT_URL", "GIT_REF"}  # of the setup cell: where the project is published changes no output
KEPT = {"tags", "cellView"}  # of a cell's metadata; the rest is times and the state of an editor
EMPTIED = {"shows-data", "live"}  # tags of cells whose outputs are not committed


def chosen(parser: argparse.ArgumentParser, given: list[str], known: Collection[str]) -> list[str]:
    """The names given on the command line, or all known ones; ends the program if one is unknown."""
    if unknown := set(given) - set(known):
        parser.error(f"unknown name {', '.join(sorted(unknown))}: expected {', '.join(known)}")
    return given or list(known)


def copy_project(folder: Path) -> Path:
    """Copy the project's files, without what installing and running it has left among them; returns the copy."""
    left = (".git", ".venv", "build", "runs", "cache", "__pycache__", ".*_cache", ".hypothesis", ".ipynb_checkpoints")
    return Path(shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*left)))


def parse_module(text: str) -> ast.Module:
    """The syntax tree of a module, without its docstring."""
    tree = ast.parse(text)
    if ast.get_docstring(tree) is not None:
        del tree.body[0]
    return tree


def imported(trees: list[ast.Module], root: Path = ROOT) -> dict[str, ast.Module]:
    """The project's modules that some code imports, directly or not: dotted names and syntax trees."""
    found: dict[str, ast.Module] = {}
    unread = [(tree, "") for tree in trees]
    while unread:
        tree, package = unread.pop()
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom):
                base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
                origin = ".".join([*base, *filter(None, [node.module])])
                names = [f"{origin}.{name}" for name in names]
            for name in names:
                parts = name.split(".")
                for module in (".".join(parts[: i + 1]) for i in range(len(parts))):  # packages run first
                    path = root / module.replace(".", "/")
                    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
                    if module not in found and file.is_file():
                        found[module] = parse_module(file.read_text())
                        unread.append((found[module], module if path.is_dir() else module.rpartition(".")[0]))
    return found


def normalized(node: Any) -> str:
    """A syntax tree as text: neither comments nor layout, positions, docstrings, or the address of the project.

    ``ast.dump`` would do, if it wrote the same for every version of Python.
    """
    if isinstance(node, list):
        return f"[{','.join(map(normalized, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
        fields["body"] = node.body[1:]
    if isinstance(node, ast.Assign) and {getattr(target, "id", "") for target in node.targets} <= ADDRESS:
        fields["value"] = None
    given = {name: value for name, value in fields.items() if value not in (None, []) or name == "body"}
    return f"{type(node).__name__}({','.join(f'{name}={normalized(value)}' for name, value in given.items())})"


def code_trees(notebook: NotebookNode) -> list[ast.Module]:
    """The code cells' syntax trees, magics as the calls that IPython makes of them."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [ast.parse(TransformerManager().transform_cell(cell.source)) for cell in cells]


def fingerprint(notebook: NotebookNode, root: Path = ROOT) -> str:
    """A hash of the code that the outputs depend on: the code cells, and the project's modules that they import."""
    cells = code_trees(notebook)
    modules = imported(cells, root)
    parts = [*map(normalized, cells), *(f"{name}: {normalized(modules[name])}" for name in sorted(modules))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def read(name: str) -> NotebookNode:
    """One of the three saved notebooks."""
    return nbformat.read(ROOT / f"{name}.ipynb", as_version=4)


def tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def printed(cell: NotebookNode) -> str:
    """What a code cell printed or showed as text."""
    return "".join(o.get("text", "") or o.get("data", {}).get("text/plain", "") for o in cell.get("outputs", []))


def results(notebook: NotebookNode) -> list[dict]:
    """What the lines ``RESULT {...}`` in a notebook's outputs state."""
    lines = [line for cell in notebook.cells for line in printed(cell).splitlines()]
    return [json.loads(line.removeprefix("RESULT ")) for line in lines if line.startswith("RESULT ")]


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
        publish: also empty the outputs of cells that show data or live widgets, and store the
            fingerprint of the code that the outputs belong to.
    """
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata = NotebookNode({key: value for key, value in cell.metadata.items() if key in KEPT and value})
        if cell.cell_type != "code":
            continue
        cell.outputs = _as_on_a_terminal([o for o in cell.outputs if o.get("name") != "stderr"])
        if publish and tags(cell) & EMPTIED:
            cell.outputs = []
    if publish:
        notebook.metadata["hw4"] = {"fingerprint": fingerprint(notebook)}
    return notebook


def python(cell: NotebookNode) -> str:
    """A code cell without IPython's magics and shell lines, its line numbers kept."""
    if cell.source.startswith("%%"):
        return ""
    return "\n".join("pass" if re.match(r"\s*[%!]", line) else line for line in cell.source.splitlines())


def run_cell(name: str, number: int, source: str, namespace: dict[str, Any]) -> None:
    """Execute a cell's code; Python knows its lines, so that errors show them."""
    file = f"{name}, cell {number}"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    exec(compile(source, file, "exec"), namespace)


def definitions(name: str, path: Path | None = None) -> types.ModuleType:
    """A module made of a notebook's cells tagged ``define``: no data, no training.

    Args:
        name: the name of the module, and of the saved notebook.
        path: another notebook to load in its place.
    """
    notebook = nbformat.read(path, as_version=4) if path else read(name)
    module = types.ModuleType(name)
    sys.modules[name] = module
    for number, cell in enumerate(notebook.cells):
        if "define" in tags(cell):
            run_cell(name, number, python(cell), module.__dict__)
    return module
