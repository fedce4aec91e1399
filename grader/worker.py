"""Runs a notebook's cells and does what the judge asks: builds models, calls them, hands over tensors.

It decides nothing: whatever the notebook has done to this process, the verdict is reached elsewhere.
"""

import ast
import importlib
import inspect
import os
import re
import signal
import socket
import sys
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from grader import standins, wire
from grader.rules import RULES, functions_called, modules_of, source_violations
from grader.source import python

CALL_SECONDS = 20.0  # of processor time, for whatever else the judge asks
TRACED = 20_000  # numbers; larger tensors are left out of a trace
STEPS = 6_000  # operations in a trace


class TooLong(BaseException):
    """Not an Exception, so that a notebook's own ``except Exception`` lets it pass."""


def prepare() -> None:
    """In the server, once: import what notebooks import, and make the samples."""
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    for name in ("matplotlib.pyplot", "torch.utils.tensorboard", "common.plotting", "data.ag_news", "data.cifar10"):
        importlib.import_module(name)
    standins.install()


class _Local(ast.NodeTransformer):
    """There is no GPU here, whatever a notebook asks for."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        is_gpu = isinstance(node.value, str) and re.fullmatch(r"cuda(:\d+)?", node.value)
        return ast.copy_location(ast.Constant("cpu"), node) if is_gpu else node


class Batches(list):
    """A loader: batches, with the attributes of a DataLoader that notebooks ask for."""

    def __init__(self, batches: list, count: int):
        super().__init__(batches)
        self.dataset, self.batch_size = range(count), count


class _Trace(TorchFunctionMode):
    """Every PyTorch function called, with its small tensors; and every module entered and left."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[list] = []
        self.names: set[str] = set()

    def note(self, kind: str, name: str, inputs: Any, outputs: Any = None) -> None:
        if len(self.steps) < STEPS:
            self.steps.append([kind, name, self.tensors(inputs), self.tensors(outputs)])

    def tensors(self, tree: Any, depth: int = 0) -> list[torch.Tensor]:
        if isinstance(tree, torch.Tensor):
            small = tree.numel() <= TRACED and not isinstance(tree, nn.Parameter)
            return [tree.detach().clone()] if small else []
        if isinstance(tree, dict):
            tree = list(tree.values())
        if isinstance(tree, list | tuple) and depth < 4:
            return [tensor for item in tree for tensor in self.tensors(item, depth + 1)]
        return []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "")
        self.names.add(name)
        if name not in ("__get__", "size", "dim", "__repr__"):
            self.note("op", name, (args, kwargs), result)
        return result


class Worker:
    def __init__(self, connection: socket.socket):
        self.connection = connection
        self.module = types.ModuleType("__main__")
        self.space, self.objects, self.armed = self.module.__dict__, {}, False
        self.space.update(get_ipython=standins.Shell, display=lambda *a, **k: None, __name__="__main__")

    # ------------------------------------------------------------------ loading

    def rules(self, cells: dict[str, str], notebook: str) -> list:
        """Read the source; asked for before any of the notebook's code has run."""
        found = source_violations({int(number): source for number, source in cells.items()}, RULES[notebook])
        return [[str(violation), violation.is_loss] for violation in found]

    def load(self, cells: dict[str, str], skip: list, seconds: float, keep_output: bool) -> list:
        """Run the cells, statement by statement; what fails or takes long is skipped and noted."""
        sys.modules["__main__"] = self.module
        if keep_output:
            sys.stdout = Path("printed.txt").open("w", buffering=1)  # noqa: SIM115
        torch.manual_seed(0)
        notes, left = [], seconds
        for number, source in cells.items():
            try:
                statements = _Local().visit(ast.parse(python(source))).body
            except (SyntaxError, ValueError, RecursionError) as error:
                notes.append([int(number), 0, f"cannot be read as Python ({error})"])
                continue
            for place, statement in enumerate(statements):
                if [int(number), place] in skip:
                    continue
                wire.send(self.connection, {"at": [int(number), place]})
                defines = isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)
                started = time.process_time()
                try:
                    problem = self.execute(statement, int(number), 5.0 if defines else max(0.3, left / 4))
                except TooLong as error:  # it struck on the way out
                    problem = f"TooLong: {error}"
                left -= 0 if defines else time.process_time() - started
                if problem:
                    notes.append([int(number), getattr(statement, "lineno", 0), problem])
        return notes

    def execute(self, statement: ast.stmt, number: int, seconds: float) -> str:
        """Run one statement; returns what went wrong."""

        code = compile(ast.fix_missing_locations(ast.Module([statement], [])), f"cell {number}", "exec")
        try:
            self.limit(seconds)
            exec(code, self.space)
        except ImportError as error:
            if isinstance(statement, ast.ImportFrom) and len(statement.names) > 1:
                parts = [ast.ImportFrom(statement.module, [name], statement.level) for name in statement.names]
                problems = [self.execute(ast.copy_location(part, statement), number, seconds) for part in parts]
                return "; ".join(filter(None, problems))
            return f"{type(error).__name__}: {error}"[:200]
        except BaseException as error:
            return f"{type(error).__name__}: {error}"[:200]
        finally:
            self.limit(0)
        return ""

    def limit(self, seconds: float) -> None:
        """Raise TooLong after so much processor time, or twelve times as much by the clock; 0: never."""

        def stop(*_) -> None:
            if self.armed:
                raise TooLong(f"cut off after {seconds:.1g} s")

        self.armed = seconds > 0
        for kind, timer, factor in ((signal.SIGPROF, signal.ITIMER_PROF, 1), (signal.SIGALRM, signal.ITIMER_REAL, 12)):
            signal.setitimer(timer, factor * seconds, 0.5 if seconds else 0)
            if seconds:
                signal.signal(kind, stop)  # again every time: a notebook may have set its own

    def output(self) -> str:
        return Path("printed.txt").read_text(errors="replace")[-200_000:]

    def defined(self, names: list[str]) -> list[str]:
        return [name for name in names if callable(self.space.get(name))]

    def facts(self) -> dict:
        """What the notebook's data cells left: the padding index, the sizes of vocabularies, widths."""
        values = {name: value for name, value in self.space.items() if not name.startswith("_")}
        deeper = {
            key: value
            for owner in values.values()
            if isinstance(getattr(owner, "__dict__", None), dict) and not isinstance(owner, type | types.ModuleType)
            for key, value in vars(owner).items()
        }
        found: dict[str, Any] = {"langs": {}}
        for name, value in {**deeper, **values}.items():
            if isinstance(value, int) and not isinstance(value, bool):
                if re.fullmatch(r"(?i)(trg_?|src_?)?pad(ding)?(_?(idx|index|id|token|ix))?", name):
                    found["pad"] = value
                if re.fullmatch(r"(?i)(enc_?|dec_?)?(hid(den)?)_?(dim|size)", name):
                    found["hid_dim"] = value
                if re.fullmatch(r"(?i)(enc_?|dec_?)?emb(ed|edding)?_?(dim|size)", name):
                    found["emb_dim"] = value
            index = getattr(value, "word2index", None)
            if isinstance(index, dict):
                pad = next((index[w] for w in ("PAD", "<pad>", "<PAD>", "pad") if isinstance(index.get(w), int)), None)
                found["langs"][name] = [int(getattr(value, "n_words", len(index) + 2)), pad]
        return found

    # ------------------------------------------------------------------ objects

    def resolve(self, path: str) -> Any:
        first, *rest = path.split(".")
        value = self.objects[first] if first in self.objects else self.space[first]
        for name in rest:
            value = value[int(name)] if name.isdigit() else getattr(value, name)
        return value

    def given(self, value: Any) -> Any:
        if isinstance(value, wire.Ref):
            return self.resolve(value)
        if isinstance(value, list):
            return [self.given(item) for item in value]
        return value

    def build(self, key: str, kind: str, args: list, options: dict) -> dict:
        """Make an object of the notebook's class; trailing arguments are dropped where it takes fewer."""
        torch.manual_seed(0)
        cls = self.space[kind]
        required = [p for p in list(inspect.signature(cls).parameters.values()) if p.kind == p.POSITIONAL_OR_KEYWORD]
        args = [self.given(arg) for arg in args]
        args = args[: max(len([p for p in required if p.default is p.empty]), options.pop("@least", len(args)))]
        self.objects[key] = cls(*args, **{name: self.given(value) for name, value in options.items()})
        return self.describe(key)

    def describe(self, key: str) -> dict:
        model = self.resolve(key)
        if not isinstance(model, nn.Module):
            return {"parameters": {}, "modules": [], "trainable": []}
        return {
            "parameters": dict(model.named_parameters()),
            "trainable": [name for name, p in model.named_parameters() if p.requires_grad],
            "modules": [
                [name, kind, package, [base.__name__ for base in type(m).__mro__]]
                for (name, kind, package), m in zip(modules_of(model), model.modules(), strict=True)
            ],
            "patched": [name for name, p in model.named_parameters() if not isinstance(p, nn.Parameter)],
        }

    def set(self, key: str, values: dict | None, dtype: str, training: bool, std: float = 0.0) -> None:
        """Convert a model to a precision and set its parameters, to given values or at random."""
        model = self.resolve(key)
        model.to(wire.DTYPES[dtype]).train(training)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if values is not None:
                    parameter.copy_(values[name])
                elif std:
                    parameter.normal_(std=std)

    def parameters(self, key: str) -> dict:
        return dict(self.resolve(key).named_parameters())

    def assign(self, path: str, value: Any) -> None:
        owner, _, name = path.rpartition(".")
        setattr(self.resolve(owner), name, self.given(value))

    def make(self, key: str, kind: str, **options) -> None:
        """An optimizer, a loader or a loss function for the notebook's ``train`` and ``evaluate``."""
        if kind == "loader":
            self.objects[key] = Batches([tuple(batch) for batch in options["batches"]], options["count"])
        elif kind == "loss":
            self.objects[key] = getattr(nn, options["name"])(ignore_index=options["ignore"])
        else:
            parameters = self.resolve(options["model"]).parameters()
            self.objects[key] = getattr(torch.optim, options["name"])(parameters, lr=options["lr"])

    # ------------------------------------------------------------------ calls

    def call(self, what: str, args: list, times: int = 1, keep: str = "", pull=None, trace: bool = False) -> dict:
        """Call something and hand over what it returns.

        Args:
            what: the path of the function.
            args: its arguments.
            times: call it so often; the last value counts, all are in ``values`` if they are numbers.
            keep: a name under which the result is kept.
            pull: a tensor as large as the result: also return the gradients of their product's sum.
            trace: also return every operation, in order.
        """
        torch.manual_seed(2)
        function, args = self.resolve(what), [self.given(arg) for arg in args]
        inputs = [
            arg.requires_grad_()
            for arg in args
            if torch.is_tensor(arg) and arg.is_floating_point() and pull is not None
        ]
        answer: dict[str, Any] = {"values": []}
        if trace:
            with _Trace() as tracer:
                handles = []
                for name, module in function.named_modules():
                    label = f"{name}:{type(module).__name__}"
                    handles.append(
                        module.register_forward_pre_hook(
                            lambda m, a, k, label=label: tracer.note("enter", label, (a, k)), with_kwargs=True
                        )
                    )
                    handles.append(
                        module.register_forward_hook(
                            lambda m, a, k, out, label=label: tracer.note("exit", label, (a, k), out), with_kwargs=True
                        )
                    )
                value = function(*args)
                for handle in handles:
                    handle.remove()
            answer.update(trace=tracer.steps, names=sorted(tracer.names))
        else:
            for _ in range(times):
                value = function(*args)
                answer["values"].append(value if times > 1 else None)
        if keep:
            self.objects[keep] = value
        if pull is not None:
            out = value if torch.is_tensor(value) else next(v for v in value if torch.is_tensor(v))
            owner = self.resolve(what.split(".")[0])
            named = dict(owner.named_parameters()) if isinstance(owner, nn.Module) else {}
            wanted = [*inputs, *named.values()]
            grads = torch.autograd.grad((out * pull.to(out.dtype)).sum(), wanted, allow_unused=True)
            grads = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, grads, strict=True)]
            answer.update(inputs=grads[: len(inputs)], gradients=dict(zip(named, grads[len(inputs) :], strict=True)))
        answer["value"] = value
        answer["type"] = (
            [type(v).__name__ for v in value] if isinstance(value, list | tuple) else [type(value).__name__]
        )
        return answer

    def functions(self, what: str, args: list) -> list[str]:
        """The names of the PyTorch functions that a call uses."""
        return sorted(functions_called(lambda: self.resolve(what)(*map(self.given, args))))


def serve(connection: socket.socket) -> None:
    """Answer the judge's requests until it hangs up."""
    os.register_at_fork(after_in_child=connection.close)  # what a notebook forks has nothing to tell the judge
    np.random.seed(0)
    standins.move_cache(Path.cwd())
    worker = Worker(connection)
    while True:
        try:
            request = wire.receive(connection)
        except (EOFError, OSError):
            return
        try:
            operation = request.pop("ask")
            worker.limit(0 if operation == "load" else CALL_SECONDS)
            answer = {"ok": getattr(worker, operation)(**request)}
            worker.limit(0)
        except BaseException as error:
            worker.limit(0)
            answer = {"error": f"{type(error).__name__}: {error}"[:300]}
        wire.send(connection, answer)
