"""What the assignment forbids, found in a notebook's source and in the model it builds.

The source is read as a syntax tree: every name is followed to where it comes from, through imports, aliases and
``getattr``, so that neither a comment nor a new name for a forbidden thing misleads. What a source can hide
(a name put together at run time) shows when the model is built and run.
"""

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass

import nbformat
from nbformat import NotebookNode
from torch import nn
from torch.overrides import TorchFunctionMode

from tools.notebooks import python

PACKAGES = {"torch", "torchvision", "torchtext", "tensorboard", "matplotlib", "numpy", "tqdm", "common", "data"}
STANDARD = {  # what a homework needs of the standard library; IPython and google.colab belong to the place it runs in
    "collections", "copy", "csv", "dataclasses", "datetime", "difflib", "enum", "functools", "glob", "gc", "importlib",
    "io", "itertools", "json", "math", "operator", "os", "pathlib", "pickle", "random", "re", "shutil", "string",
    "subprocess", "sys", "tarfile", "time", "types", "typing", "unicodedata", "urllib", "warnings", "zipfile",
    "IPython", "google", "__future__",
}  # fmt: skip
_CONTAINERS = r"Module(List|Dict)?|Parameter(List|Dict)?|Buffer|Sequential|Identity"
_ACTIVATIONS = (
    r"GELU|ReLU6?|SiLU|ELU|SELU|CELU|LeakyReLU|PReLU|RReLU|Mish|Tanh|Sigmoid|LogSigmoid|Softmax|LogSoftmax|Softplus|"
    r"Softsign|Hardswish|Hardsigmoid|Hardtanh|Tanhshrink|GLU"
)
_NORMS = r"LayerNorm|RMSNorm|GroupNorm|BatchNorm[123]d|InstanceNorm[123]d|LocalResponseNorm"
_LOSS_FUNCTIONS = r"\w*loss\w*|cross_entropy|binary_cross_entropy\w*|kl_div|huber\w*"
_ATTENTION = r"scaled_dot_product_attention|multi_head_attention_forward|flex_attention"


@dataclass(frozen=True)
class Rule:
    """What one notebook may use; names are those behind ``torch.nn.`` and ``torch.nn.functional.``."""

    layers: str | None  # the only ones allowed; None: all but ``forbidden``
    forbidden: str  # never, of layers, functions and tensor functions alike
    imports: frozenset[str] = frozenset(PACKAGES | STANDARD)


RULES = {
    "hw4_rnn": Rule(
        layers=_CONTAINERS,
        forbidden=rf"{_LOSS_FUNCTIONS}|\w*Loss|linear|bilinear|embedding\w*|\w*dropout\w*|rnn_\w+|lstm\w*|gru\w*|{_ATTENTION}",
    ),
    "hw4_seq2seq": Rule(layers=None, forbidden=rf"MultiheadAttention|Transformer\w*|{_ATTENTION}"),
    "hw4_vit": Rule(
        layers=rf"{_CONTAINERS}|Conv2d|Linear|{_ACTIVATIONS}|{_NORMS}",
        forbidden=rf"{_LOSS_FUNCTIONS}|\w*Loss|\w*dropout\w*|{_ATTENTION}",
    ),
}


@dataclass(frozen=True)
class Violation:
    cell: int  # counted from 0, text cells included
    line: int  # counted from 1 within the cell
    what: str

    def __str__(self) -> str:
        return f"cell {self.cell}, line {self.line}: {self.what}"


class _Reader(ast.NodeVisitor):
    """Follows names through one notebook, cell after cell."""

    def __init__(self, rule: Rule):
        self.rule, self.origin, self.found, self.cell = rule, {}, [], 0

    def report(self, node: ast.AST, what: str) -> None:
        self.found.append(Violation(self.cell, node.lineno, what))

    def path(self, node: ast.AST) -> str | None:
        """``torch.nn.Linear`` for whatever expression leads there, or None."""
        if isinstance(node, ast.Name):
            return self.origin.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.path(node.value)
            return base and f"{base}.{node.attr}"
        if isinstance(node, ast.Subscript) and (base := self.path(node.value)) and base.endswith(".__dict__"):
            key = node.slice.value if isinstance(node.slice, ast.Constant) else "?"
            return f"{base.removesuffix('.__dict__')}.{key}"
        if not isinstance(node, ast.Call):
            return None
        called = node.func.id if isinstance(node.func, ast.Name) else self.path(node.func)
        if called == "getattr" and len(node.args) >= 2 and (base := self.path(node.args[0])):
            return f"{base}.{node.args[1].value if isinstance(node.args[1], ast.Constant) else '?'}"
        if called in ("vars", "builtins.vars") and node.args and (base := self.path(node.args[0])):
            return f"{base}.__dict__"
        if called in ("__import__", "importlib.import_module") and node.args:
            return str(getattr(node.args[0], "value", "?"))
        return None

    def judge(self, node: ast.AST, path: str) -> None:
        parts = path.split(".")
        if parts[0] == "torchvision" and ("models" in parts or parts[1:2] == ["ops"]):
            self.report(node, f"{path} is a ready-made model or layer")
        if parts[0] != "torch":
            return
        if parts[1:2] in (["ops"], ["_C"], ["_VF"]) or "?" in parts:
            self.report(node, f"{path} hides what is called")
            return
        if re.fullmatch(self.rule.forbidden, parts[-1]):
            self.report(node, f"{path} is forbidden here")
        elif self.rule.layers and parts[1:2] == ["nn"] and len(parts) > 2 and parts[2] != "functional":
            name = parts[-1] if parts[2] in ("modules", "parameter") else ".".join(parts[2:])
            if not name.islower() and not re.fullmatch(self.rule.layers, name):  # lower: nn.init, nn.utils ...
                self.report(node, f"{path} is not among the layers allowed here")

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            root = alias.name.split(".")[0]
            self.origin[alias.asname or root] = alias.name if alias.asname else root
            self.allow(node, root)
            self.judge(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.allow(node, (node.module or "").split(".")[0])
        for alias in node.names:
            if alias.name == "*" and (node.module or "").startswith("torch"):
                self.report(node, f"import of everything from {node.module} hides what is used")
            self.origin[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            self.judge(node, f"{node.module}.{alias.name}")

    def allow(self, node: ast.AST, package: str) -> None:
        if package not in self.rule.imports:
            self.report(node, f"import of {package or 'a relative module'} is not allowed")

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self.origin.pop(target.id, None)  # from here on, the name means something else
                if path := self.path(node.value):
                    self.origin[target.id] = path

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if path := self.path(node):
            self.judge(node, path)
        else:
            self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if path := self.path(node):
            self.judge(node, path)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if path := self.path(node):
            self.judge(node, path)
        if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec", "compile"):
            self.report(node, f"{node.func.id} hides what is called")
        self.generic_visit(node)


def source_violations(notebook: NotebookNode, rule: Rule) -> list[Violation]:
    """Every use of something forbidden, with cell and line, and every import from outside the allowed packages."""
    reader = _Reader(rule)
    for number, cell in enumerate(notebook.cells):
        if cell.cell_type == "code":
            reader.cell = number
            reader.visit(ast.parse(python(cell)))
    return reader.found


def module_violations(model: nn.Module, rule: Rule) -> list[str]:
    """The layers of PyTorch in a built model that the rule does not allow."""
    found = []
    for name, module in model.named_modules():
        kind = type(module)
        if kind.__module__.startswith(("torch.", "torchvision.")):
            allowed = re.fullmatch(rule.layers, kind.__name__) if rule.layers else True
            if not allowed or re.fullmatch(rule.forbidden, kind.__name__):
                found.append(f"{name or 'the model'} is a {kind.__name__}")
    return found


class _Calls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.add(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


def call_violations(run: Callable[[], object], rule: Rule) -> list[str]:
    """The names of forbidden PyTorch functions that ``run`` calls, by whatever name."""
    with _Calls() as calls:
        run()
    return sorted(name for name in calls.names if re.fullmatch(rule.forbidden, name))


def notebook_of(*cells: str) -> NotebookNode:
    """A small notebook with these code cells."""
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
