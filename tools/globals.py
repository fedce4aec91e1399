"""Which cell uses what: functions that read a value of another cell, and the cells that a cell needs."""

import ast
import symtable
from collections.abc import Iterator
from dataclasses import dataclass

from nbformat import NotebookNode

from tools.notebooks import python

_PLAIN = (ast.Constant, ast.Name, ast.Attribute, ast.Subscript, ast.Tuple, ast.List, ast.Set, ast.Dict, ast.BinOp,
          ast.UnaryOp, ast.operator, ast.unaryop, ast.expr_context)  # fmt: skip


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


def _is_plain(node: ast.expr, values: dict[str, set[int]]) -> bool:
    """Whether an expression is made of literals, containers and functions, and of no value computed before."""
    if isinstance(node, ast.Lambda):
        return True
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "dict":
        return all(_is_plain(child, values) for child in [*node.args, *(keyword.value for keyword in node.keywords)])
    if not isinstance(node, _PLAIN) or (isinstance(node, ast.Name) and node.id in values):
        return False
    return all(_is_plain(child, values) for child in ast.iter_child_nodes(node))


def _is_constant(node: ast.stmt, values: dict[str, set[int]]) -> bool:
    """Whether a statement gives an upper-case name literals, definitions, other constants, or containers of these."""
    if not isinstance(node, ast.Assign | ast.AnnAssign) or not node.value:
        return False
    return all(name.isupper() for name in _assigned(node)) and _is_plain(node.value, values)


def _global_reads(table: symtable.SymbolTable, path: str = "", called: bool = False) -> Iterator[tuple[str, str]]:
    """Functions and the global names that they read when called.

    Class bodies, comprehensions, default arguments, decorators and annotations run where they stand, outside of any.
    """
    for child in table.get_children():
        comprehension = child.get_name() in ("listcomp", "setcomp", "dictcomp", "genexpr")
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
    for number, source in cells.items():
        for node in ast.parse(source).body:
            if not _is_constant(node, values):
                for name in _assigned(node):
                    values.setdefault(name, set()).add(number)
    found = {
        Read(number, function, name, min(values[name]))
        for number, source in cells.items()
        for function, name in _global_reads(symtable.symtable(source, f"cell {number}", "exec"))
        if name in values and number not in values[name]
    }
    return sorted(found, key=lambda read: (read.cell, read.function, read.name))


def _used(table: symtable.SymbolTable) -> set[str]:
    """The global names that a cell uses, at its top or in any function or class."""
    at_top = table.get_type() == "module"
    names = {s.get_name() for s in table.get_symbols() if s.is_referenced() and (at_top or s.is_global())}
    return names.union(*map(_used, table.get_children()))


def needed_cells(notebook: NotebookNode, targets: list[int]) -> list[int]:
    """The cells before the first target that make, directly or not, the names that the targets use."""
    trees = {i: ast.parse(python(cell)) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"}
    wanted, found = set(), []
    for number in sorted(trees, reverse=True):
        table = symtable.symtable(ast.unparse(trees[number]), f"cell {number}", "exec")
        symbols = table.get_symbols()
        made = {s.get_name() for s in symbols if s.is_assigned() or s.is_imported()}
        if number not in targets and not (number < min(targets) and made & wanted):
            continue
        if number not in targets:
            found.append(number)
        surely = ast.Assign | ast.AnnAssign | ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
        whole = ast.Module([node for node in trees[number].body if isinstance(node, surely)], [])
        kept = symtable.symtable(ast.unparse(whole), f"cell {number}", "exec").get_symbols()
        wanted -= {s.get_name() for s in kept if s.is_assigned() or s.is_imported()}
        wanted |= _used(table)
    return found[::-1]
