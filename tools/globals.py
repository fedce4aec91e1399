"""Functions of a notebook that read a value of another cell, in place of taking it as an argument."""

import ast
import symtable
from collections.abc import Iterator
from typing import NamedTuple

from nbformat import NotebookNode

from tools.notebooks import python

_COMPREHENSIONS = ("listcomp", "setcomp", "dictcomp", "genexpr")


class Read(NamedTuple):
    """One fault: the function of a cell that reads a name, and the cell that made the name's value."""

    cell: int
    function: str
    name: str
    made_in: int


def _assigned(node: ast.AST) -> Iterator[str]:
    """The names that a statement binds to values, not to functions, classes or imports, and not inside of these."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda):
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    for child in [node.iter, *node.ifs] if isinstance(node, ast.comprehension) else ast.iter_child_nodes(node):
        yield from _assigned(child)


def _outside_of_lambdas(node: ast.AST) -> Iterator[ast.AST]:
    if not isinstance(node, ast.Lambda):
        yield node
        for child in ast.iter_child_nodes(node):
            yield from _outside_of_lambdas(child)


def _is_constant(node: ast.stmt, values: set[str], containers: set[str]) -> bool:
    """Whether a statement gives an upper-case name literals, definitions, other constants, or containers of these."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or not node.value:
        return False
    parts = list(_outside_of_lambdas(node.value))
    called = {ast.unparse(part.func) for part in parts if isinstance(part, ast.Call)}
    used = {part.id for part in parts if isinstance(part, ast.Name)}
    return all(name.isupper() for name in _assigned(node)) and called <= containers and not used & values


def _global_reads(table: symtable.SymbolTable, path: str = "", called: bool = False) -> Iterator[tuple[str, str]]:
    """Functions and the global names that they read when called; a class body runs where it stands, outside of any."""
    for child in table.get_children():
        comprehension = child.get_name() in _COMPREHENSIONS
        within = path if comprehension else f"{path}.{child.get_name()}".lstrip(".")
        runs_when_called = called or (child.get_type() == "function" and not comprehension)
        for symbol in child.get_symbols() if runs_when_called else ():
            if symbol.is_global() and (symbol.is_referenced() or symbol.is_assigned()):
                yield within, symbol.get_name()
        yield from _global_reads(child, within, runs_when_called)


def global_reads(notebook: NotebookNode) -> list[Read]:
    """Every read of another cell's value by a function, method or lambda.

    Imports, functions, classes and constants (upper-case names of literals) may be read: they say what they are where
    they stand, and no order of execution changes them.
    """
    cells = {i: python(cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"}
    values: dict[str, set[int]] = {}  # name -> the cells that make a value of that name
    containers = {"dict"}  # what holds literals and computes nothing: dictionaries, named tuples
    for number, source in cells.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and "NamedTuple" in map(ast.unparse, node.bases):
                containers.add(node.name)
            if not _is_constant(node, set(values), containers):
                for name in _assigned(node):
                    values.setdefault(name, set()).add(number)
    found = {
        Read(number, function, name, min(values[name]))
        for number, source in cells.items()
        for function, name in _global_reads(symtable.symtable(source, f"cell {number}", "exec"))
        if name in values and number not in values[name]
    }
    return sorted(found)
