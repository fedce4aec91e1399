"""Runs in the sandbox: executes a notebook's statements and does what the judge asks with what they define.

It decides nothing. Statements that run too long are left by an exception that is raised at the top of the
notebook's own loops and functions, so that nothing native is ever interrupted; what never comes back there, the
judge ends from outside.
"""

import ast
import builtins
import ctypes
import importlib
import inspect
import linecache
import math
import os
import random
import re
import shutil
import socket
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from grader import rules, standins, wire

TRACED, TRACE_TOTAL = 70_000, 2_500_000  # numbers of one tensor, of all together
CALL_SECONDS = 30.0  # of processor time
RANDOM = set("rand randn rand_like randn_like normal normal_ uniform_ bernoulli bernoulli_ empty".split())
DUMMY = {"device": "cpu", "epoch": 1, "step": 0, "clip": 1.0, "log_interval": 1_000, "teacher_forcing_ratio": 1.0}


class TooLong(BaseException):
    """Not an Exception, so that a notebook's own ``except Exception`` lets it pass."""


class Unfit(Exception):
    """Something has another form than the judge knows; a person should look."""


class Limit:
    """Processor time until :meth:`tick`, called at the top of each loop and function, raises TooLong."""

    end = math.inf

    def set(self, seconds: float) -> None:
        self.end = time.process_time() + seconds

    def tick(self) -> bool:
        if time.process_time() > self.end:
            raise TooLong("it ran too long and was cut off")
        return True


class Instrument(ast.NodeTransformer):
    """Adds the ticks; and there is no GPU here, whatever a notebook asks for."""

    def visit(self, node: ast.AST) -> ast.AST:
        self.generic_visit(node)
        tick = ast.Call(ast.Name("__tick__", ast.Load()), [], [])
        if isinstance(node, ast.For | ast.While | ast.AsyncFor):
            node.body.insert(0, ast.Expr(tick))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.body.insert(1 if ast.get_docstring(node, clean=False) else 0, ast.Expr(tick))
        elif isinstance(node, ast.comprehension):
            node.ifs.insert(0, tick)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"cuda(:\d+)?", node.value)
        ):
            node.value = "cpu"
        return node


class Recorder(TorchFunctionMode):
    """Every function of PyTorch that is called, in threads too; on demand their results, made quiet or disturbed."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self, trace: bool = False, quiet: bool = False, disturb: list[int] | None = None) -> None:
        self.names, self.steps, self.left, self.count = set(), [], TRACE_TOTAL, 0
        self.trace, self.quiet, self.disturb = trace, quiet, set(disturb or ())

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = getattr(function, "__name__", "").split(".")[0]
        self.names.add(name)
        if isinstance(result, torch.Tensor) and result.is_floating_point():
            if self.quiet and name in RANDOM:
                result.data.zero_()
            if self.trace and name not in ("__get__", "detach", "clone"):
                self.count += 1
                if self.count in self.disturb:  # in place: what was made of it before must not escape
                    result.data.add_(1 + torch.arange(result.numel()).view_as(result).remainder(7).to(result))
                self.note("op", f"{self.count} {name}", [], [result])
        elif self.trace and isinstance(result, tuple):
            self.count += 1
            self.note("op", f"{self.count} {name}", [], result)
        return result

    def note(self, kind: str, name: str, inputs: Any, outputs: Any) -> None:
        step = [kind, name, self.tensors(inputs), self.tensors(outputs)]
        self.steps.append(step)
        self.left -= sum(t.numel() for t in (*step[2], *step[3]))

    def tensors(self, tree: Any, depth: int = 0) -> list[torch.Tensor]:
        if isinstance(tree, torch.Tensor):
            kept = tree.numel() <= min(TRACED, self.left) and not isinstance(tree, nn.Parameter)
            return [tree.detach().clone()] if kept else []
        if isinstance(tree, dict):
            tree = list(tree.values())
        if isinstance(tree, list | tuple) and depth < 4:
            return [tensor for item in tree for tensor in self.tensors(item, depth + 1)]
        return []


class Batches(list):
    """A loader: batches, with the attributes of a DataLoader that notebooks ask for."""

    def __init__(self, batches: list, count: int):
        super().__init__(batches)
        self.dataset, self.batch_size = range(count), count


class Loss(nn.Module):
    """The harness's negative log-likelihood; notes which column of the output meets which place of the target."""

    def __init__(self, probe: "Probe", ignore: int):
        super().__init__()
        self.probe, self.ignore_index = probe, ignore

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        loss = F.nll_loss(output, target, ignore_index=self.ignore_index)
        rows = output.movedim(1, -1).reshape(-1, output.shape[1]).detach()
        columns = torch.cdist(rows, self.probe.columns().T.detach()).argmin(1)
        places = target.flatten() - 2  # the targets are 2, 3, ... in their order
        self.probe.note_loss(loss, (places - columns)[places > 0].tolist())
        return loss


class Probe:
    """Mixed into the notebook's model, whose place it takes in ``train`` and ``evaluate``: notes how it is used."""

    def arm(self, shape: tuple[int, ...], events: list) -> None:
        numbers = torch.linspace(-1, 1, math.prod(shape))
        self.table = nn.Parameter((numbers.square() - 0.05 * numbers).reshape(shape).clone())
        self.events, self.fresh = events, None

    def columns(self) -> torch.Tensor:
        return self.table.log_softmax(0)

    def forward(self, first: torch.Tensor, second: torch.Tensor, *_, **__) -> torch.Tensor:
        self.events.append(["forward", self.training, torch.is_grad_enabled()])
        if self.table.dim() == 2:  # the translation model
            return self.columns()[:, : second.shape[1]].expand(len(second), -1, -1) + 0.0
        return self.table.softmax(0).expand(first.shape[1], -1) + 0.0

    def compute_loss(self, prediction: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, int]:
        loss = -prediction[torch.arange(len(label)), label].log().mean()
        self.note_loss(loss, [])
        return loss, int((prediction.argmax(1) == label).sum())

    def note_loss(self, loss: torch.Tensor, shifts: list[int]) -> None:
        if loss.requires_grad:
            (gradient,) = torch.autograd.grad(loss, self.table, retain_graph=True)
            self.fresh = gradient if self.fresh is None else self.fresh + gradient
        self.events.append(["loss", float(loss), shifts])

    def stepped(self) -> None:
        """At an optimizer's step: the gradient found there, and that of the losses since the step before."""
        self.events.append(["step", self.table.grad, self.fresh])
        self.fresh = None


class Optimizer(torch.optim.SGD):
    """SGD that tells the probe; also the harness's scheduler, which hands steps on and is updated."""

    def __init__(self, probe: Probe):
        super().__init__(probe.parameters(), lr=0.05)
        self.probe, self.optimizer, self._optimizer = probe, self, self

    def step(self, *_) -> None:
        self.probe.stepped()
        super().step()

    def update(self, *_) -> None:
        self.probe.events.append(["update"])

    def get_lr(self) -> float:
        return self.param_groups[0]["lr"]


class Worker:
    def __init__(self) -> None:
        self.module = sys.modules["__main__"] = types.ModuleType("__main__")
        self.space, self.objects, self.saved = self.module.__dict__, {}, {}
        self.space.update(get_ipython=standins.Shell, display=lambda *a, **k: None)
        self.limit, self.recorder, self.built = Limit(), Recorder(), set()
        builtins.__tick__ = self.limit.tick
        time.sleep = lambda seconds: None
        original_run, original_init = threading.Thread.run, nn.Module.__init__

        def run(thread: threading.Thread) -> None:
            with self.recorder:
                original_run(thread)

        def init(module: nn.Module, *args, **kwargs) -> None:
            self.built.add(type(module))
            original_init(module, *args, **kwargs)

        threading.Thread.run, nn.Module.__init__ = run, init

    # ------------------------------------------------------------------ loading

    def load(self, cells: dict[str, str]) -> dict:
        """Read the cells; what can be run then are single statements."""
        self.statements, problems, table, text = {}, {}, [], "\n".join(cells.values())
        standins.install(text)
        for number, source in cells.items():
            try:
                plain = rules.python(source)
                body = Instrument().visit(ast.parse(plain)).body
            except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
                problems[number] = f"it cannot be read as Python ({error})"
                continue
            name = f"<cell {number}>"
            linecache.cache[name] = (len(plain), None, plain.splitlines(True), name)
            for place, statement in enumerate(body):
                self.statements[f"{number}.{place}"] = (statement, name)
                defines = isinstance(statement, ast.FunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom)
                table.append([int(number), place, statement.lineno, defines])
        return {"statements": table, "problems": problems}

    def run(self, at: str, seconds: float | None) -> dict:
        """Run one statement; tells what went wrong and how much processor time it took."""
        statement, name = self.statements[at]
        started = time.process_time()
        self.limit.set(seconds or math.inf)
        problem = self.execute(statement, name)
        for thread in set(threading.enumerate()) - {threading.current_thread()}:
            if not thread.daemon:
                thread.join(0.5)  # so that the judge knows to which statement its deeds belong
        self.limit.end = math.inf
        torch.set_grad_enabled(True)
        torch.set_default_dtype(torch.float32)
        return {"problem": problem, "seconds": time.process_time() - started}

    def execute(self, statement: ast.stmt, name: str) -> str:
        try:
            code = compile(ast.fix_missing_locations(ast.Module([statement], [])), name, "exec")
            exec(code, self.space)
        except ImportError as error:
            if isinstance(statement, ast.Import | ast.ImportFrom) and len(statement.names) > 1:
                parts = [type(statement)(**{**vars(statement), "names": [alias]}) for alias in statement.names]
                return "; ".join(filter(None, (self.execute(part, name) for part in parts)))
            return f"{type(error).__name__}: {error}"[:200]
        except BaseException as error:
            return f"{type(error).__name__}: {error}"[:200]
        return ""

    def facts(self) -> dict:
        """What the notebook's data cells left: the padding index, the sizes of vocabularies, widths."""
        values = {name: value for name, value in self.space.items() if not name.startswith("_")}
        owners = [v for v in values.values() if isinstance(getattr(v, "__dict__", None), dict)]
        deeper = [vars(v) for v in owners if not isinstance(v, type | types.ModuleType | types.FunctionType)]
        found: dict[str, Any] = {"langs": {}}
        for name, value in [item for space in [*deeper, values] for item in space.items()]:
            if type(value) is int:
                for key, pattern in (
                    ("pad", r"(trg_?|src_?)?pad(ding)?(_?(idx|index|id|token|ix))?"),
                    ("hid_dim", r"(enc_?|dec_?)?hid(den)?_?(dim|size)"),
                    ("emb_dim", r"(enc_?|dec_?)?emb(ed|edding)?_?(dim|size)"),
                ):
                    if re.fullmatch(pattern, str(name), re.I):
                        found[key] = value
            index = getattr(value, "word2index", None)
            if isinstance(index, dict):
                pad = next((index[w] for w in ("PAD", "<pad>", "<PAD>", "pad") if isinstance(index.get(w), int)), None)
                found["langs"][str(name)] = [int(getattr(value, "n_words", len(index) + 2)), pad]
        return found

    # ------------------------------------------------------------------ objects

    def resolve(self, path: str) -> Any:
        first, *rest = path.split(".")
        if first not in self.objects and first not in self.space:
            raise NameError(f"name {first!r} is not defined", name=first)
        value = self.objects[first] if first in self.objects else self.space[first]
        for name in rest:
            value = getattr(value, name)
        return value

    def given(self, value: Any) -> Any:
        if isinstance(value, wire.Ref):
            return self.resolve(value)
        return [self.given(item) for item in value] if isinstance(value, list) else value

    def fit(self, function: Any, args: list, least: int | None = None) -> tuple[list, dict]:
        """As many of the arguments as the function takes (optional ones only up to ``least``), and what else it asks.

        Raises:
            Unfit: if it requires something that nobody can guess.
        """
        target = function.forward if isinstance(function, nn.Module) else function
        parameters = list(inspect.signature(target).parameters.values())
        plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = [p for p in plain if p.default is p.empty]
        if not any(p.kind == p.VAR_POSITIONAL for p in parameters):
            args = args[: max(len(required), len(args) if least is None else least)][: len(plain)]
        keyword = [p for p in parameters if p.kind == p.KEYWORD_ONLY and p.default is p.empty]
        more = {}
        for parameter in [*required[len(args) :], *keyword]:
            known = {**DUMMY, **{name: self.space[name] for name in (parameter.name,) if name in self.space}}
            if parameter.name not in known and not re.search("writer|log|bar|vocab|scaler", parameter.name):
                raise Unfit(f"{getattr(target, '__name__', 'it')} also asks for {parameter.name!r}")
            more[parameter.name] = known.get(parameter.name, standins.Shell())
        return args, more

    def build(self, key: str, kind: str, args: list, least: int | None = None) -> dict:
        """Make an object of the notebook's class."""
        torch.manual_seed(0)
        self.built.clear()
        self.objects.pop(key, None)
        cls = self.resolve(kind)
        args, more = self.fit(cls, self.given(args), least)
        self.objects[key] = cls(*args, **more)
        return self.describe(key)

    def describe(self, key: str) -> dict:
        model = self.resolve(key)
        if not isinstance(model, nn.Module):
            return {"shapes": {}, "trainable": [], "modules": {}}
        return {
            "shapes": {name: list(p.shape) for name, p in model.named_parameters()},
            "trainable": [name for name, p in model.named_parameters() if p.requires_grad],
            "modules": {name: [base.__name__ for base in type(m).__mro__] for name, m in model.named_modules()},
        }

    def layers(self, key: str) -> list[str]:
        """The layers of PyTorch in a model, and those built since it was: the first class of torch of each."""
        model = self.resolve(key)
        found = {rules.layer(kind) for kind in [*map(type, model.modules()), *self.built]}
        return sorted(found - {""})

    def set(self, key: str, values: dict | None, dtype: str, training: bool, std: float = 0.0) -> None:
        """Convert a model to a precision and set its parameters, to given values or at random."""
        model = self.resolve(key)
        model.to(wire.DTYPES[dtype]).train(training)
        torch.manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if values is not None and name in values:
                    parameter.copy_(values[name])
                elif std:
                    parameter.normal_(std=std)

    def parameters(self, key: str) -> dict:
        return dict(self.resolve(key).named_parameters())

    def replace(self, names: list[str]) -> None:
        """Put stand-ins in the place of the notebook's classes; an empty list takes them all away again."""
        self.space.update(self.saved)
        self.saved = {name: self.space[name] for name in names if name in self.space}
        self.space.update({name: standins.part(name) for name in names})

    def probe(self, kind: str, args: list, shape: list[int], batches: list, count: int, ignore: int = -1) -> None:
        """Make ``probe``, ``loader``, ``optimizer`` and ``loss`` for the notebook's train and evaluate."""
        try:
            base = self.resolve(kind)
            fitting, more = self.fit(base, args, 4)
            model = type("Probe", (Probe, base), {})(*fitting, **more)
        except Exception:  # it is judged elsewhere
            model = type("Probe", (Probe, nn.Module), {})()
        self.events = []
        model.arm(tuple(shape), self.events)
        loader = Batches([tuple(batch) for batch in batches], count)
        self.objects.update(probe=model, loader=loader, optimizer=Optimizer(model), loss=Loss(model, ignore))

    # ------------------------------------------------------------------ calls

    def call(self, what: str, args: list, seed: int = 2, pull=None, **recording) -> dict:
        """Call something and hand over what it returns.

        Args:
            what: the path of the function.
            args: its arguments.
            seed: of PyTorch's random numbers; Python's and numpy's, which may choose what is fed, are always the same.
            pull: a tensor as large as the result: also return the gradients of their product's sum.
            recording: ``trace``: also every function's result and every module's inputs and outputs; ``quiet``:
                random numbers are zeros; ``disturb``: the traced functions whose results are to be disturbed.
        """
        self.events = self.events if what in ("train", "evaluate") and "probe" in self.objects else []
        self.events.clear()
        function = self.resolve(what)
        args, more = self.fit(function, self.given(args))
        tensors = [a for a in args if torch.is_tensor(a) and a.is_floating_point()] if pull is not None else []
        inputs = [t.requires_grad_() for t in tensors]
        self.recorder.reset(**recording)
        handles = self.hooks(function) if recording.get("trace") else []
        torch.manual_seed(seed)
        random.seed(0)
        np.random.seed(0)
        try:
            with self.recorder:
                value = function(*args, **more)
        finally:
            for handle in handles:
                handle.remove()
            torch.set_grad_enabled(True)
        answer = {"value": value, "names": sorted(self.recorder.names), "trace": self.recorder.steps}
        answer["type"] = [type(v).__name__ for v in (value if isinstance(value, list | tuple) else [value])]
        answer["events"] = self.events
        if pull is not None:
            out = value if torch.is_tensor(value) else next(v for v in value if torch.is_tensor(v))
            owner = self.resolve(what.split(".")[0])
            named = dict(owner.named_parameters()) if isinstance(owner, nn.Module) else {}
            named = {name: p for name, p in named.items() if p.requires_grad}
            wanted = [*inputs, *named.values()]
            grads = torch.autograd.grad((out * pull.to(out.dtype)).sum(), wanted, allow_unused=True)
            grads = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, grads)]
            answer.update(inputs=grads[: len(inputs)], gradients=dict(zip(named, grads[len(inputs) :])))
        return answer

    def hooks(self, model: nn.Module) -> list:
        handles = []
        for name, module in model.named_modules():

            def enter(module, args, kwargs, name=name):
                self.recorder.note("enter", name, (args, kwargs), ())

            def leave(module, args, kwargs, output, name=name):
                self.recorder.note("exit", name, (args, kwargs), output)

            handles.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            handles.append(module.register_forward_hook(leave, with_kwargs=True))
        return handles


def serve(connection: socket.socket) -> None:
    """Answer the judge's requests until it hangs up."""
    os.register_at_fork(after_in_child=connection.close)  # what a notebook forks has nothing to tell the judge
    worker = Worker()
    wire.send(connection, {"ok": "ready"})
    while True:
        try:
            request = wire.receive(connection)
        except (EOFError, OSError):
            return
        operation = request.pop("ask")
        try:
            if operation != "run":
                worker.limit.set(CALL_SECONDS)
            answer = {"ok": getattr(worker, operation)(**request)}
        except BaseException as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:300], "kind": type(error).__name__}
            answer["name"] = getattr(error, "name", None) if isinstance(error, NameError) else None
        worker.limit.end = math.inf
        try:
            wire.send(connection, answer)
        except ValueError as error:  # too long
            wire.send(connection, {"error": str(error), "kind": "Unfit", "name": None})


def work(connection: socket.socket, folder: str) -> None:
    """Limit this process, fill its folder with what notebooks find beside themselves, serve, and empty the folder."""
    standins.restrict()
    root, before = Path(__file__).resolve().parent.parent, set(os.listdir(folder))
    for name in ("common", "data"):
        shutil.copytree(root / name, Path(folder, name), ignore=shutil.ignore_patterns("cache", "__pycache__"))
    shutil.copy(root / "requirements.txt", folder)
    os.chdir(folder)
    sys.path[:0] = [folder]
    serve(connection)
    for name in set(os.listdir(folder)) - before:
        path = Path(folder, name)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def files(folder: str) -> set[str]:
    """All files in the folder and, in the sandbox, wherever else a notebook may write."""
    places = (folder, "/tmp", "/dev/shm") if folder == "/notebook" else (folder,)
    return {os.path.join(top, x) for place in places for top, inner, names in os.walk(place) for x in (*inner, *names)}


def main(descriptor: int, folder: str) -> None:
    """Import what takes seconds, then fork a worker for each connection that the judge sends."""
    sys.dont_write_bytecode = True
    torch.set_num_threads(1)
    for name in ("matplotlib.pyplot", "torchtext.data", "torchvision"):
        importlib.import_module(name)
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no notebook may look into the process that forks the next
    control, before = socket.socket(fileno=descriptor), files(folder)
    while True:
        _, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not descriptors:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            try:
                work(socket.socket(fileno=descriptors[0]), folder)
            finally:
                os._exit(0)
        os.close(descriptors[0])
        os.waitpid(pid, 0)
        if files(folder) != before:
            return
        control.send(b".")  # nothing is left that the next notebook would find


if __name__ == "__main__":
    from grader.worker import main as start  # not as __main__, which is the notebook

    start(int(sys.argv[1]), sys.argv[2])
