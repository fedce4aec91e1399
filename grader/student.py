"""The judge's handle on one notebook: starts its worker, asks it, starts it again if it died."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grader import wire
from grader.questions import Grade, Verdict
from grader.sandbox import Process, Sandbox
from grader.wire import Ref

LOAD_SECONDS = 8.0  # of processor time, for all statements but definitions
ANSWER_SECONDS = 60  # by the clock, for one request: the worker's own limits come first
CPU_SECONDS = 150  # of a worker, beside those for loading
RESTARTS = 3
TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-4}  # absolute, beside values of about 1


class Wrong(Exception):
    """What a check found, in plain words."""


class Died(Exception):
    """The worker is gone."""


def require(condition: object, problem: str) -> None:
    if not condition:
        raise Wrong(problem)


def is_close(a: Tensor, b: Tensor, atol: float | None = None) -> bool:
    """Whether two tensors agree in shape and, by the coarser of their precisions, in every number."""
    if a.shape != b.shape:
        return False
    if atol is None:
        atol = max(TOLERANCE.get(x.dtype, 0.0) for x in (a, b))
    return bool(torch.allclose(a.double(), b.double(), rtol=0, atol=atol))


@dataclass
class Model:
    """A model that lives in the worker, and what the judge knows of it."""

    key: str
    dtype: torch.dtype
    parameters: dict[str, Tensor]
    modules: list  # name, class, package and the names of all base classes
    trainable: list[str]

    def of_class(self, name: str) -> list[str]:
        """The names of the modules of a class or one derived from it."""
        return [module for module, _, _, bases in self.modules if name in bases]


class Student:
    """One notebook under examination."""

    def __init__(
        self,
        sandbox: Sandbox,
        cells: dict[int, str],
        grade: Grade,
        seconds: float = LOAD_SECONDS,
        keep_output: bool = False,
    ):
        self.cells, self.grade = {str(number): source for number, source in cells.items()}, grade
        self.sandbox, self.seconds, self.keep_output = sandbox, seconds, keep_output
        self.process: Process | None = None
        self.skip: list[list[int]] = []  # statements that ended the process: [cell, place]
        self.starts, self.notes, self.rules = 0, [], []
        self.wait = ANSWER_SECONDS

    # ------------------------------------------------------------------ the process

    def start(self) -> None:
        """Load the notebook; a statement that ends the process is left out the next time."""
        while True:
            if self.starts > RESTARTS:
                raise Died(f"its process ended {self.starts} times")
            self.starts += 1
            try:
                self.process = self.sandbox.worker(CPU_SECONDS + int(self.seconds))
            except (OSError, EOFError, ValueError) as error:
                raise Died(f"no process could be started: {error}") from error
            if self.process.missing:
                self.grade.remark(f"sandbox: {self.process.missing}")
            try:
                if self.starts == 1:
                    self.rules = self.ask("rules", cells=self.cells, notebook=self.grade.notebook)
                self.notes = self.ask(
                    "load", cells=self.cells, skip=self.skip, seconds=self.seconds, keep_output=self.keep_output
                )
                return
            except Died as death:
                self.grade.remark(
                    f"cell {self.at[0]} ended the grader's process ({death}); that statement was left out"
                )
                self.skip.append(self.at)

    def ask(self, operation: str, /, **options: Any) -> Any:
        """The worker's answer.

        Raises:
            Wrong: if what was asked for failed.
            Died: if the process is gone or does not answer.
        """
        if self.process is None:
            self.start()
        self.at = [-1, 0]
        wait = self.wait if operation != "load" else max(self.wait, 3 * self.seconds)
        try:
            wire.send(self.process.connection, {"ask": operation, **options})
            while True:
                self.process.wait_for_message(wait)
                answer = wire.receive(self.process.connection, wait)
                if not isinstance(answer, dict):
                    raise ValueError("a message of another form")
                if "at" not in answer:
                    break
                self.at = [int(n) for n in answer["at"]]
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            self.end()
            reason = f"no answer within {wait:.0f} s" if isinstance(error, TimeoutError) else str(error)
            raise Died(reason) from error
        if "ok" not in answer:
            raise Wrong(str(answer.get("error", "no answer")))
        return answer["ok"]

    def end(self) -> None:
        if self.process is not None:
            self.process.end()
            self.process = None

    # ------------------------------------------------------------------ models

    def model(
        self,
        key: str,
        kind: str,
        args: list,
        values: Callable[[str, Tensor], Tensor] | None = None,
        std: float = 0.0,
        dtype: torch.dtype = torch.float64,
        **options: Any,
    ) -> Model:
        """Build a model in evaluation mode, its parameters set to ``values`` or drawn at random."""
        info = self.ask("build", key=key, kind=kind, args=args, options=options)
        parameters = {name: p.to(dtype) for name, p in info["parameters"].items()}
        given = {name: values(name, p) for name, p in parameters.items()} if values else None
        self.ask("set", key=key, values=given, dtype=str(dtype)[6:], training=False, std=std)
        return Model(key, dtype, given or parameters, info["modules"], info["trainable"])

    def in_best_precision(self, make: Callable[[torch.dtype], Model], use: Callable[[Model], Any]) -> tuple[Model, Any]:
        """A model in double precision with the outcome of ``use``; in single, if its code supports nothing else."""
        try:
            model = make(torch.float64)
            return model, use(model)
        except Wrong:
            model = make(torch.float32)
            return model, use(model)

    def call(self, what: str, *args: Any, **options: Any) -> dict:
        return self.ask("call", what=what, args=list(args), **options)


def tensor(value: Any, problem: str) -> Tensor:
    """The value, which must be a tensor."""
    require(isinstance(value, Tensor), problem)
    return value


CHECKS: dict[str, list[tuple[str, str, str, Callable[[Student], None]]]] = {}  # notebook -> letter, part, name, check


def check(notebook: str, letter: str, *parts: str) -> Callable:
    """Register a function as a check that decides over (parts of) a question."""

    def register(function: Callable[[Student], None]) -> Callable[[Student], None]:
        for part in parts or ("",):
            name = function.__name__.replace("_", " ").strip()
            CHECKS.setdefault(notebook, []).append((letter, part, name, function))
        return function

    return register


def examine(student: Student) -> None:
    """Run every check of the notebook's homework and write the verdicts into its grade."""
    known: dict[Callable, str] = {}
    try:
        student.start()
    except (Died, Wrong) as problem:
        student.grade.remark(f"the notebook could not be loaded ({problem})")
    for letter, part, name, function in CHECKS[student.grade.notebook]:
        if function not in known:
            torch.manual_seed(0)
            try:
                function(student)
                known[function] = ""
            except Wrong as problem:
                known[function] = f"{name}: {problem}"
            except Died as death:
                known[function] = f"{name}: the notebook's process did not survive this ({death})"
            except Exception as error:  # an answer of a form that no check expects
                known[function] = f"{name}: the answer cannot be judged ({type(error).__name__}: {error})"[:300]
        student.grade.verdicts.append(Verdict(letter, part, name, known[function]))


__all__ = ["CHECKS", "Died", "Model", "Ref", "Student", "Wrong", "check", "examine", "is_close", "require", "tensor"]
