"""What the assignment forbids, found in a notebook's source and in the model it builds.

The source is read as a syntax tree: names are followed through imports and aliases, and ``torch.nn`` itself must not
escape as a value, so that neither a comment nor a new name for a forbidden thing misleads. What a source can still
hide (a name put together at run time) shows when the model is built and run.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from torch import nn
from torch.overrides import TorchFunctionMode

from grader.source import python

PACKAGES = {"torch", "torchvision", "torchtext", "tensorboard", "matplotlib", "numpy", "tqdm", "common", "data"}
STANDARD = sys.stdlib_module_names | {"IPython", "google", "ipywidgets"}  # and what belongs to Colab
HARMLESS = {  # they tabulate, draw, read or download, and offer no layer
    "PIL",
    "pandas",
    "portalocker",
    "psutil",
    "requests",
    "scipy",
    "seaborn",
    "sklearn",
    "torchdata",
    "torchinfo",
    "torchsummary",
    "yaml",
}
MODULES = {"torch", "torch.nn", "torch.nn.functional", "torch.nn.modules"}  # whose attributes are followed
INSPECTED = {"hasattr", "print", "isinstance", "help", "type", "id", "repr", "str"}  # may be given such a module
_CONTAINERS = r"Module(List|Dict)?|Parameter(List|Dict)?|Buffer|Sequential|Identity|Flatten|Unflatten"
_ACTIVATIONS = (
    r"GELU|ReLU6?|SiLU|ELU|SELU|CELU|LeakyReLU|PReLU|RReLU|Mish|Tanh|Sigmoid|LogSigmoid|Softmax|LogSoftmax|Softplus|"
    r"Softsign|Hardswish|Hardsigmoid|Hardtanh|Tanhshrink|GLU"
)
_NORMS = r"LayerNorm|RMSNorm|GroupNorm|BatchNorm[123]d|InstanceNorm[123]d|LocalResponseNorm"
LOSSES = r"\w*Loss|\w*loss\w*|cross_entropy|binary_cross_entropy\w*|kl_div|huber\w*"
_ATTENTION = r"scaled_dot_product_attention|multi_head_attention_forward|flex_attention"


@dataclass(frozen=True)
class Rule:
    """What one notebook may use; names are those behind ``torch.nn.`` and ``torch.nn.functional.``."""

    layers: str | None  # the only ones allowed; None: all but ``forbidden``
    forbidden: str  # never, of layers, functions and tensor functions alike
    given: str = ""  # allowed nevertheless: the course's skeleton or harness uses them
    imports: frozenset[str] = frozenset(PACKAGES | STANDARD | HARMLESS)

    def allows_layer(self, name: str) -> bool:
        return bool(re.fullmatch(self.given, name) or self.layers is None or re.fullmatch(self.layers, name))

    def forbids(self, name: str) -> bool:
        return bool(re.fullmatch(self.forbidden, name)) and not re.fullmatch(self.given, name)


RULES = {
    "hw4_rnn": Rule(
        layers=_CONTAINERS,
        forbidden=rf"{LOSSES}|linear|bilinear|embedding\w*|\w*dropout\w*|rnn_\w+|lstm\w*|gru\w*|{_ATTENTION}",
        given=r"Embedding|embedding",
    ),
    "hw4_seq2seq": Rule(layers=None, forbidden=rf"MultiheadAttention|Transformer\w*|{_ATTENTION}"),
    "hw4_vit": Rule(
        layers=rf"{_CONTAINERS}|Conv2d|Linear|{_ACTIVATIONS}|{_NORMS}",
        forbidden=rf"{LOSSES}|\w*dropout\w*|{_ATTENTION}",
        given=rf"Dropout|dropout|{LOSSES}",
    ),
}
OURS = {  # our notebooks keep to the letter, without what the skeletons give
    name: replace(rule, given="", imports=frozenset(PACKAGES | STANDARD)) for name, rule in RULES.items()
}


@dataclass(frozen=True)
class Violation:
    cell: int  # counted from 0, text cells included
    line: int  # counted from 1 within the cell
    what: str
    is_loss: bool = False

    def __str__(self) -> str:
        return f"cell {self.cell}, line {self.line}: {self.what}"


def _argument_names(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> set[str]:
    a = node.args
    given = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    return {argument.arg for argument in given}


class _Reader(ast.NodeVisitor):
    """Follows names through one notebook, cell after cell.

    ``aliases`` holds every name that is bound to something of torch anywhere: a function may use what is bound later.
    """

    def __init__(self, rule: Rule, aliases: Mapping[str, str]):
        self.rule, self.found, self.cell = rule, [], 0
        self.origin, self.ever = dict(aliases), dict(aliases)

    def report(self, node: ast.AST, what: str, is_loss: bool = False) -> None:
        self.found.append(Violation(self.cell, node.lineno, what, is_loss))

    def path(self, node: ast.AST) -> str | None:
        """``torch.nn.Linear`` for whatever expression leads there, or None."""
        if isinstance(node, ast.Name):
            return self.origin.get(node.id)
        if isinstance(node, ast.NamedExpr):
            return self.path(node.value)
        if isinstance(node, ast.Attribute):
            base = self.path(node.value)
            return base and f"{base}.{node.attr}"
        if isinstance(node, ast.Subscript) and self.path(node.value) == "sys.modules":
            return str(getattr(node.slice, "value", "torch.?"))
        if not isinstance(node, ast.Call):
            return None
        called = self.path(node.func) or getattr(node.func, "id", None)
        if called in ("getattr", "builtins.getattr") and len(node.args) >= 2 and (base := self.path(node.args[0])):
            if isinstance(node.args[1], ast.Constant):
                return f"{base}.{node.args[1].value}"
            return f"{base}.?" if base in MODULES else None
        if called in ("__import__", "importlib.import_module") and node.args:
            name = str(getattr(node.args[0], "value", "torch.?"))
            return name if called.startswith("importlib") or len(node.args) > 1 else name.split(".")[0]
        return None

    def judge(self, node: ast.AST, path: str) -> None:
        parts = path.split(".")
        if parts[0] == "torchvision" and ("models" in parts or parts[1:2] == ["ops"]):
            self.report(node, f"{path} is a ready-made model or layer")
        if parts[0] != "torch":
            return
        if parts[1:2] in (["ops"], ["_C"], ["_VF"]) or "?" in parts or "__dict__" in parts:
            self.report(node, f"{path} hides what is called")
        elif self.rule.forbids(parts[-1]):
            self.report(node, f"{path} is forbidden here", bool(re.fullmatch(LOSSES, parts[-1])))
        elif parts[1:2] == ["nn"] and len(parts) > 2 and parts[2] != "functional":
            name = parts[-1] if parts[2] in ("modules", "parameter") else ".".join(parts[2:])
            if not name.islower() and not self.rule.allows_layer(name):  # lower: nn.init, nn.utils ...
                self.report(node, f"{path} is not among the layers allowed here", bool(re.fullmatch(LOSSES, name)))

    def bind(self, name: str, path: str | None) -> None:
        self.origin.pop(name, None)  # from here on, the name means something else
        if path:
            self.origin[name] = self.ever[name] = path

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            root = alias.name.split(".")[0]
            self.bind(alias.asname or root, alias.name if alias.asname else root)
            self.allow(node, root)
            self.judge(node, alias.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self.allow(node, (node.module or "").split(".")[0])
        for alias in node.names:
            if alias.name == "*" and (node.module or "").startswith("torch"):
                self.report(node, f"import of everything from {node.module} hides what is used")
            self.bind(alias.asname or alias.name, f"{node.module}.{alias.name}")
            self.judge(node, f"{node.module}.{alias.name}")

    def allow(self, node: ast.AST, package: str) -> None:
        if package not in self.rule.imports:
            self.report(node, f"import of {package or 'a relative module'} is not allowed")

    def value(self, node: ast.expr | None) -> None:
        """Visit what a plain name is bound to: a module may be, because the name is followed."""
        if node is not None and self.path(node) not in MODULES:
            self.visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        plain = all(isinstance(target, ast.Name) for target in node.targets)
        (self.value if plain else self.visit)(node.value)
        for target in node.targets:
            self.visit(target)
            for name in (n for n in ast.walk(target) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)):
                self.bind(name.id, self.path(node.value) if isinstance(target, ast.Name) else None)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        if isinstance(node.target, ast.Name):
            self.value(node.value)
            self.bind(node.target.id, self.path(node.value) if node.value else None)
        elif node.value:
            self.visit(node.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.value(node.value)
        self.bind(node.target.id, self.path(node.value))

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        for name in (n for n in ast.walk(node.target) if isinstance(n, ast.Name)):
            self.bind(name.id, None)
        for child in (*node.body, *node.orelse):
            self.visit(child)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for child in node.body:  # a class attribute is reached by other ways than its name
            if isinstance(child, ast.Assign | ast.AnnAssign) and child.value and self.path(child.value) in MODULES:
                self.report(child, f"{self.path(child.value)} is kept as a value: call what is needed by its name")
        self.generic_visit(node)

    def scope(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        for default in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(default)
        for decorator in getattr(node, "decorator_list", ()):
            self.visit(decorator)
        outer, body = self.origin, node.body if isinstance(node.body, list) else [node.body]
        stored = {
            n.id for child in body for n in ast.walk(child) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)
        }
        local = _argument_names(node) | stored
        self.origin = {name: path for name, path in self.ever.items() if name not in local}
        for child in body:
            self.visit(child)
        self.origin = outer

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Lambda = scope

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load) and self.origin.get(node.id) in MODULES:
            self.report(node, f"{self.origin[node.id]} is used as a value: call what is needed by its name")
        elif isinstance(node.ctx, ast.Load) and (path := self.origin.get(node.id)):
            self.judge(node, path)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if not (path := self.path(node)):
            self.generic_visit(node)
        elif path in MODULES:
            self.report(node, f"{path} is used as a value: call what is needed by its name")
        else:
            self.judge(node, path)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        if path := self.path(node):
            self.judge(node, path)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = getattr(node.func, "id", None)
        if path := self.path(node):
            self.judge(node, path)
        if name in ("eval", "exec", "compile"):
            self.report(node, f"{name} hides what is called")
        if path or name in INSPECTED:
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                self.value(argument)
        else:
            self.generic_visit(node)


def source_violations(cells: Mapping[int, str], rule: Rule) -> list[Violation]:
    """Every use of something forbidden, with cell and line, and every import from outside the allowed packages.

    Args:
        cells: number of the cell -> its source.
        rule: what is allowed.
    """
    trees = {}
    for number, source in cells.items():
        try:
            trees[number] = ast.parse(python(source))
        except (SyntaxError, ValueError):
            continue  # it cannot run either
    aliases: dict[str, str] = {}
    for _ in range(2):  # the first time through, aliases are collected
        reader = _Reader(rule, aliases)
        for number, tree in trees.items():
            reader.cell = number
            reader.visit(tree)
        aliases = reader.ever
    return list(dict.fromkeys(reader.found))


def module_violations(modules: Iterable[tuple[str, str, str]], rule: Rule) -> list[str]:
    """The layers of PyTorch in a built model that the rule does not allow; see :func:`modules_of`."""
    return [
        f"{name or 'the model'} is a {kind}"
        for name, kind, package in modules
        if package.startswith(("torch.", "torchvision.")) and (not rule.allows_layer(kind) or rule.forbids(kind))
    ]


def modules_of(model: nn.Module) -> list[tuple[str, str, str]]:
    """Name, class and the class's package of every module in a model."""
    return [(name, type(m).__name__, type(m).__module__) for name, m in model.named_modules()]


class _Calls(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.add(getattr(function, "__name__", ""))
        return function(*args, **(kwargs or {}))


def functions_called(run: Callable[[], object]) -> set[str]:
    """The names of all PyTorch functions that ``run`` calls, by whatever name."""
    with _Calls() as calls:
        run()
    return calls.names


def call_violations(names: Iterable[str], rule: Rule) -> list[str]:
    """Those of the called functions that the rule forbids."""
    return sorted(name for name in names if rule.forbids(name))
