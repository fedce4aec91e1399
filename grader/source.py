"""A notebook's code cells as plain Python."""

import ast
import re

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode


def python(source: str) -> str:
    """A code cell's source with IPython's magics and shell lines turned into calls of ``get_ipython()``.

    Line numbers are kept. Cells that are not Python (``%%bash``, ``%%html`` ...) become empty.
    """
    if source.lstrip().startswith("%%"):
        head, _, rest = source.lstrip().partition("\n")
        if head.split()[0] not in ("%%time", "%%timeit", "%%capture"):
            return ""
        source = "\n" + rest
    source = re.sub(r"^(\s*)%time\s", r"\1", source, flags=re.M)
    try:
        ast.parse(source)
        return source  # a line that starts with % inside an expression is no magic
    except SyntaxError:
        return TransformerManager().transform_cell(source)


def code_cells(notebook: NotebookNode) -> dict[int, str]:
    """Number (counted from 0, text cells included) -> source of every code cell."""
    return {i: str(cell.source) for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"}
