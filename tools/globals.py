"""Which cell uses what: functions that read a value of another cell, and the cells that a cell needs."""

import ast
import symtable
from collections.abc import Iterator
from dataclasses import dataclass

from nbformat import NotebookNode

from tools.notebooks import python

_PLAIN = (
    ast.Constant,
    ast.Name,
    ast.Attribute,
    ast.Subscript,
    ast.Tuple,
    ast.List,
    ast.Set,
    ast.Dict,
    ast.ListComp,
    ast.comprehension,
    ast.BinOp,
    ast.UnaryOp,
    ast.operator,
    ast.unaryop,
    ast.expr_context,
)

_COMPREHENSIONS = ("listcomp", "setcomp", "dictcomp", "genexpr")


@dataclass(frozen=True)
class Read:
    """One fault: the function of a cell that reads a name, and the cell that made the name's value."""

    cell: int
    function: str
    name: str
    made_in: int

    def __str__(self) -> str:
        return f"cell {self.cell}: {self.function} reads {self.name}, made in cell {self.made_in}: make it an argument"


def _assigned(node: ast.AST) -> Iterator[str]:
    """The names that a statement binds to values, not to functions, classes or imports, and not inside of these."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    children = [node.iter, *node.ifs] if isinstance(node, ast.comprehension) else ast.iter_child_nodes(node)
    for child in children:
        yield from _assigned(child)


def _is_plain(node: ast.expr, values: dict[str, set[int]], containers: set[str]) -> bool:
    """Whether an expression is made of literals, containers and functions, and of no value computed before."""
    if isinstance(node, ast.Lambda):
        return True
    if isinstance(node, ast.Call) and ast.unparse(node.func) in containers:
        parts = [*node.args, *(keyword.value for keyword in node.keywords)]
        return all(_is_plain(part, values, containers) for part in parts)
    if not isinstance(node, _PLAIN) or (isinstance(node, ast.Name) and node.id in values):
        return False
    return all(_is_plain(child, values, containers) for child in ast.iter_child_nodes(node))


def _is_constant(node: ast.stmt, values: dict[str, set[int]], containers: set[str]) -> bool:
    """Whether a statement gives an upper-case name literals, definitions, other constants, or containers of these."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or not node.value:
        return False
    return all(name.isupper() for name in _assigned(node)) and _is_plain(node.value, values, containers)


def _global_reads(table: symtable.SymbolTable, path: str = "", called: bool = False) -> Iterator[tuple[str, str]]:
    """Functions and the global names that they read when called.

    Class bodies, comprehensions, default arguments, decorators and annotations run where they stand, outside of any.
    """
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
    containers = {"dict"}  # what holds literals and changes none of them: dictionaries, and named tuples
    for number, source in cells.items():
        for node in ast.parse(source).body:
            if isinstance(node, ast.ClassDef) and "NamedTuple" in map(ast.unparse, node.bases):
                containers.add(node.name)
            if not _is_constant(node, values, containers):
                for name in _assigned(node):
                    values.setdefault(name, set()).add(number)
    found = {
        Read(number, function, name, min(values[name]))
        for number, source in cells.items()
        for function, name in _global_reads(symtable.symtable(source, f"cell {number}", "exec"))
        if name in values and number not in values[name]
    }
    return sorted(found, key=lambda read: (read.cell, read.function, read.name))


def _uses(table: symtable.SymbolTable, called: bool = False) -> Iterator[tuple[str, bool]]:
    """The global names that a cell uses, and whether it does so only when one of its functions is called."""
    for symbol in table.get_symbols():
        if symbol.is_referenced() and (table.get_type() == "module" or symbol.is_global()):
            yield symbol.get_name(), called
    for child in table.get_children():
        yield from _uses(child, called or (child.get_type() == "function" and child.get_name() not in _COMPREHENSIONS))


def _made(source: str) -> set[str]:
    """The names that a cell gives a value, a function, a class or a module."""
    symbols = symtable.symtable(source, "cell", "exec").get_symbols()
    return {symbol.get_name() for symbol in symbols if symbol.is_assigned() or symbol.is_imported()}


def needed_cells(notebook: NotebookNode, targets: list[int]) -> list[int]:
    """The cells before the first target that make, directly or not, the names that the targets use."""
    sources = {i: python(cell) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"}
    made = {i: _made(source) for i, source in sources.items()}
    surely = {}  # without what is made in a branch or loop
    for i, source in sources.items():
        parts = [
            node for node in ast.parse(source).body if not isinstance(node, ast.If | ast.For | ast.While | ast.Try)
        ]
        surely[i] = _made(ast.unparse(ast.Module(parts, [])))
    found, pending = set(), list(targets)
    while pending:
        user = pending.pop()
        for name, called in _uses(symtable.symtable(sources[user], "cell", "exec")):
            before = min(targets) if called else min(user, *targets)
            for maker in sorted((i for i in made if i < before and name in made[i]), reverse=True):
                if maker not in found:
                    found.add(maker)
                    pending.append(maker)
                if name in surely[maker]:
                    break
    return sorted(found)
