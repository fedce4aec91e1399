"""Runs a notebook in a sandbox and asks its worker: what the checks know of the notebook, they know from here.

Bubblewrap gives notebooks a root of their own: Python and the project's ``common``, ``data`` and ``grader``,
read-only; a folder in memory; no network, no other process, no home. A sandbox takes one notebook after the other, and
is given up once one has left a file or a process or has died. One deadline holds for each request; at its end, or when
all processes together use too much memory, everything in the sandbox is killed.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from grader import wire
from grader.questions import OPEN, PASSED, QUESTIONS, WRONG, Finding, Grade

ROOT = Path(__file__).resolve().parent.parent
LOAD_SECONDS = 6.0  # of processor time, for all statements but definitions
STATEMENT_SECONDS, ANSWER_SECONDS, NOTEBOOK_SECONDS = 90, 150, 1_200  # by the clock
RESTARTS = 5  # of a notebook's worker
MEMORY, PROCESSES, FOLDER = 6 << 30, 48, 300 << 20  # of all processes of a notebook: bytes, count; bytes of files
TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-4}  # absolute, beside values of about 1
stopping = threading.Event()  # set: whatever is being graded ends at once


class Wrong(Exception):
    """A check's finding, in plain words."""


class Open(Exception):
    """A check could not decide, and why."""


class Died(Exception):
    """The worker is gone."""


class Stopped(BaseException):
    """The grading is to end now."""


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


# ------------------------------------------------------------------------------------ the sandbox


@cache
def fonts() -> Path:
    """A folder with matplotlib's list of fonts, which takes seconds to make, made once for all notebooks."""
    folder = Path(tempfile.gettempdir(), f"grader-fonts-{os.getuid()}")
    if not any(folder.glob("fontlist*.json")):
        environment = {**os.environ, "MPLCONFIGDIR": str(folder)}
        subprocess.run([sys.executable, "-c", "import matplotlib.font_manager"], env=environment, check=False)
    folder.mkdir(exist_ok=True)
    return folder


def command(isolated: bool, *arguments: str) -> list[str]:
    """Python with these arguments, in the sandbox or not."""
    if not isolated:
        return [sys.executable, *arguments]
    bwrap = "--die-with-parent --new-session --cap-drop ALL "
    if os.getuid():
        bwrap += "--unshare-all --unshare-user --uid 65534 --gid 65534"
    else:  # root is under no limit of processes, so that the worker becomes a user of its own: standins.restrict
        bwrap += "--unshare-ipc --unshare-pid --unshare-net --unshare-uts --cap-add CAP_SETUID --cap-add CAP_SETGID"
    line = [shutil.which("bwrap") or "bwrap", *bwrap.split(), "--hostname", "grader", "--ro-bind", "/usr", "/usr"]
    above = {p for path in (sys.base_prefix, sys.prefix, "/etc/x", "/grader/x") for p in Path(path).parents[:-1]}
    for path in sorted(above - {Path("/usr")}):  # for all to enter; bwrap makes what is above a bind for root alone
        line += [] if Path("/usr") in path.parents else ["--dir", str(path)]
    for path in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(path):
            line += ["--symlink", os.readlink(path), path]
        elif os.path.isdir(path):
            line += ["--ro-bind", path, path]
    for path in ("/etc/alternatives", "/etc/ld.so.cache", "/etc/fonts"):
        line += ["--ro-bind-try", path, path]
    for path in dict.fromkeys(map(str, (sys.base_prefix, sys.prefix))):
        line += [] if path.startswith("/usr") else ["--ro-bind", path, path]
    for name in ("common", "data", "grader", "requirements.txt"):
        line += ["--ro-bind", str(ROOT / name), f"/grader/{name}"]
    line += ["--tmpfs", "/grader/data/cache"] if (ROOT / "data" / "cache").is_dir() else []  # it may hold real data
    size = ["--perms", "1777", "--size", str(FOLDER)]
    line += ["--proc", "/proc", "--dev", "/dev", *size, "--tmpfs", "/dev/shm", *size, "--tmpfs", "/notebook", *size]
    line += ["--tmpfs", "/tmp", "--perms", "0777", "--dir", "/notebook/.matplotlib"]
    for file in fonts().glob("fontlist*.json"):
        line += ["--ro-bind", str(file), f"/notebook/.matplotlib/{file.name}"]
    line += ["--remount-ro", "/dev", "--remount-ro", "/", "--chdir", "/notebook"]
    return [*line, sys.executable, *arguments]


def isolation_problem() -> str:
    """Why notebooks cannot be isolated here; empty if they can."""
    if shutil.which("bwrap") is None:
        return "bwrap is not installed (Debian and Ubuntu: apt-get install bubblewrap)"
    done = subprocess.run(command(True, "-c", ""), env={}, capture_output=True, text=True, timeout=60, check=False)
    return "" if done.returncode == 0 else f"bwrap was refused: {done.stderr.strip()[-300:]}"


class Server:
    """A process in the sandbox that has imported what takes seconds, and forks a worker for each notebook."""

    def __init__(self, isolated: bool):
        self.control, theirs = socket.socketpair()
        self.folder = None if isolated else tempfile.mkdtemp(prefix="grader-")
        place = self.folder or "/notebook"
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": str(ROOT) if self.folder else "/grader",
            "LANG": "C.UTF-8",
            "HOME": place,
            "TMPDIR": place,
            "USER": "student",
            "MPLCONFIGDIR": f"{place}/.matplotlib",
            "MPLBACKEND": "Agg",
            "HW4_DATA": "sample",
            "HW4_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "ignore",
        }
        line = command(isolated, "-m", "grader.worker", str(theirs.fileno()), place)
        nothing = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        options = {"env": environment, "cwd": self.folder, "start_new_session": True, **nothing}
        with theirs:
            self.popen = subprocess.Popen(line, pass_fds=[theirs.fileno()], **options)
        self.watched = psutil.Process(self.popen.pid)

    def connect(self) -> socket.socket:
        """A connection to a new worker."""
        mine, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.control, [b"."], [theirs.fileno()])
        return mine

    def family(self) -> list[psutil.Process]:
        with suppress(psutil.Error):
            return [self.watched, *self.watched.children(recursive=True)]
        return []

    def is_idle(self) -> bool:
        """Whether nothing of the last notebook goes on: in the sandbox are its first process and the server."""
        self.control.settimeout(10)
        with suppress(OSError):
            return self.control.recv(1) == b"." and len(self.family()) <= 3
        return False

    def end(self) -> None:
        """Kill it, and with it every process that it has started."""
        for process in self.family() if self.folder else []:  # in the sandbox, they end with it
            with suppress(psutil.Error):
                process.kill()
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        self.control.close()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


_idle: list[Server] = []  # wait for the next notebook, and end with this process at the latest


class Process:
    """A worker: it is asked and killed, no more."""

    def __init__(self, isolated: bool):
        try:
            self.server = _idle.pop() if isolated else Server(False)
        except IndexError:
            self.server = Server(True)
        try:
            self.connection = self.server.connect()
        except OSError as error:
            self.server.end()
            raise Died("its sandbox is gone") from error

    def answer(self, seconds: float) -> Any:
        """What it says, within so many seconds, not counting those in which a busy machine keeps it waiting.

        Raises:
            Died: if it does not, is gone, uses too much memory, or says what nobody can read.
        """
        spent, last, problem = 0.0, time.monotonic(), ""
        worked = self.worked()[1]
        while not problem:
            if stopping.is_set():
                raise Stopped
            try:
                self.connection.settimeout(0.5)
                self.connection.recv(1, socket.MSG_PEEK)
                answer = wire.receive(self.connection, time.monotonic() + seconds)
                if isinstance(answer, dict) and ("ok" in answer or "error" in answer):
                    return answer
                problem = "its answer has no known form"
            except TimeoutError:
                before, (waiting, worked), now = worked, self.worked(), time.monotonic()
                starved = waiting and worked - before < 0.3 * (now - last)
                spent += worked - before if starved else now - last
                problem = self.excess() or (f"no answer within {seconds:.0f} s" if spent > seconds else "")
                last = now
            except (OSError, EOFError, ValueError) as error:
                problem = str(error) or "it ended"
        raise Died(problem)

    def worked(self) -> tuple[bool, float]:
        """Whether one of its processes wants a processor, and how much time on one all have had."""
        waiting, seconds = False, 0.0
        for process in self.server.family():
            with suppress(psutil.Error):
                waiting |= process.status() in (psutil.STATUS_RUNNING, psutil.STATUS_DISK_SLEEP)
                seconds += sum(process.cpu_times()[:2])
        return waiting, seconds

    def settle(self) -> None:
        """Give processes that a statement has started two seconds to end.

        Raises:
            Died: if they use too much.
        """
        end = time.monotonic() + 2
        while len(self.server.family()) > 4 and time.monotonic() < end:  # bubblewrap's two, the server, the worker
            if problem := self.excess():
                raise Died(problem)
            time.sleep(0.02)

    def excess(self) -> str:
        """What all its processes together use too much of."""
        family, used = self.server.family(), 0
        for process in family:
            with suppress(psutil.Error):
                info = process.memory_info()
                used += info.rss - info.shared
        if len(family) > PROCESSES:
            return f"it started {len(family)} processes"
        return f"its processes use {used >> 20:,} MB" if used > MEMORY else ""

    def end(self, died: bool = False) -> None:
        """Hang up. Its server is kept for the next notebook if nothing of this one is left."""
        self.connection.close()
        if self.server.folder is None and not (died or stopping.is_set()) and self.server.is_idle():
            _idle.append(self.server)
        else:
            self.server.end()


# ------------------------------------------------------------------------------------ the notebook


@dataclass
class Model:
    """A model that lives in the worker, and what the judge knows of it."""

    key: str
    dtype: torch.dtype
    shapes: dict[str, tuple[int, ...]]
    trainable: list[str]
    modules: dict[str, list[str]]  # name -> the names of its class and all base classes
    parameters: dict[str, Tensor] = field(default_factory=dict)

    def of_class(self, name: str) -> list[str]:
        return [module for module, bases in self.modules.items() if name in bases]


class Student:
    """One notebook under examination."""

    def __init__(self, cells: dict[int, str], grade: Grade, isolated: bool = True, seconds: float = LOAD_SECONDS):
        self.cells, self.grade, self.isolated, self.seconds = cells, grade, isolated, seconds
        self.process: Process | None = None
        self.skip: dict[str, str] = {}  # statements that ended the process, and how
        self.starts, self.left_out = 0, []  # [(cell, line, problem)]
        self.end_of_time = time.monotonic() + NOTEBOOK_SECONDS

    def start(self) -> None:
        """Load the notebook; a statement that ends the process is left out the next time."""
        while True:
            if self.starts > RESTARTS or time.monotonic() > self.end_of_time:
                raise Died(f"its process was started {self.starts} times")
            self.starts += 1
            at = ""
            try:
                self.process = Process(self.isolated)
                self.process.answer(ANSWER_SECONDS)
                loaded = self.ask("load", cells={str(number): source for number, source in self.cells.items()})
                self.left_out = [(int(number), 0, problem) for number, problem in loaded["problems"].items()]
                left = self.seconds
                for cell, place, line, defines in loaded["statements"]:
                    at = f"{cell}.{place}"
                    if at in self.skip:
                        self.left_out.append((cell, line, self.skip[at]))
                        continue
                    seconds = None if defines else max(0.3, left / 4)
                    done = self.ask("run", at=at, seconds=seconds, wait=STATEMENT_SECONDS)
                    self.process.settle()
                    left -= 0 if defines else done["seconds"]
                    if done["problem"]:
                        self.left_out.append((cell, line, done["problem"]))
                return
            except Died as death:
                self.end(died=True)
                if at:
                    self.skip[at] = f"it ended the grader's process ({death})"

    def ask(self, operation: str, /, wait: float = ANSWER_SECONDS, **options: Any) -> Any:
        """The worker's answer.

        Raises:
            Wrong: if the notebook's code failed.
            Open: if it is not there because something could not run here, or has a form unknown to the judge.
            Died: if the process is gone or does not answer.
        """
        if self.process is None:
            self.start()
        try:
            wire.send(self.process.connection, {"ask": operation, **options})
            answer = self.process.answer(wait)
        except OSError as error:
            self.end(died=True)
            raise Died(str(error) or "it ended") from error
        except Died:
            self.end(died=True)
            raise
        if "ok" in answer:
            return answer["ok"]
        error, kind, name = (answer.get(key) for key in ("error", "kind", "name"))
        if name and any(name in self.cells.get(cell, "") for cell, _, _ in self.left_out):
            reasons = [f"cell {c}, line {line}: {what}" for c, line, what in self.left_out if name in self.cells[c]]
            raise Open(f"{name} could not be defined here ({reasons[0]})")
        raise (Open if kind in ("Unfit", "TooLong", "MemoryError", "ModuleNotFoundError") else Wrong)(str(error))

    def end(self, died: bool = False) -> None:
        if self.process is not None:
            self.process.end(died)
            self.process = None

    def cell_of(self, *names: str) -> int | None:
        """The last cell that defines one of these."""
        for name in names:
            for number, source in reversed(self.cells.items()):
                if any(f"{kind}{name}" in source for kind in ("class ", "def ")) or f"{name} =" in source:
                    return number
        return None

    # ------------------------------------------------------------------ models

    def model(
        self,
        key: str,
        kind: str,
        args: list,
        values: Callable[[str, Tensor], Tensor] | None = None,
        std: float = 0.0,
        dtype: torch.dtype = torch.float64,
        least: int | None = None,
    ) -> Model:
        """Build a model in evaluation mode, its parameters set to ``values`` or drawn at random in the worker."""
        info = self.ask("build", key=key, kind=kind, args=args, least=least)
        shapes = {name: tuple(shape) for name, shape in info["shapes"].items()}
        given = (
            {n: values(n, torch.empty(s, dtype=torch.float64)).to(dtype) for n, s in shapes.items()} if values else {}
        )
        self.ask("set", key=key, values=given or None, dtype=str(dtype)[6:], training=False, std=std)
        return Model(key, dtype, shapes, info["trainable"], info["modules"], given)

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

    @contextmanager
    def stand_ins(self, *names: str) -> Iterator[None]:
        """Within, classes of other questions are replaced by the grader's own."""
        self.ask("replace", names=list(names))
        try:
            yield
        finally:
            if self.process is not None:
                self.ask("replace", names=[])


def tensor(value: Any, problem: str) -> Tensor:
    """The value, which must be a tensor of numbers."""
    require(isinstance(value, Tensor), problem)
    return value


# ------------------------------------------------------------------------------------ checks

CHECKS: dict[str, list[tuple[str, list[str], Callable[[Student], None]]]] = {}  # notebook -> letter, parts, check


def straight_steps(events: list[list]) -> list[list]:
    """The optimizer's steps among a probe's events, in training mode and each along its batch's gradient alone."""
    require(all(event[1] for event in events if event[0] == "forward"), "train does not switch to model.train()")
    steps = [event for event in events if event[0] == "step"]
    require(steps, "train never calls the optimizer's step")
    require(all(isinstance(step[1], Tensor) for step in steps), "train steps without a backward pass")
    told = "a step's gradient is not that of its batch alone: zero_grad() is missing or in the wrong place"
    for _, found, fresh in steps:
        require(isinstance(fresh, Tensor), told)
        require(torch.cosine_similarity(found.flatten(), fresh.flatten(), dim=0) > 0.999, told)
    return steps


def check(notebook: str, letter: str, *parts: str) -> Callable:
    """Register a function as a check that decides over parts of a question."""

    def register(function: Callable[[Student], None]) -> Callable[[Student], None]:
        CHECKS.setdefault(notebook, []).append((letter, list(parts) or [""], function))
        return function

    return register


def outcome(student: Student, function: Callable[[Student], None]) -> tuple[str, str]:
    """A check's outcome; if the worker dies of it, once more in a new one."""
    for attempt in (1, 2):
        torch.manual_seed(0)
        try:
            function(student)
            return PASSED, ""
        except Wrong as problem:
            return WRONG, str(problem)
        except Open as problem:
            return OPEN, str(problem)
        except Died as death:
            reason = f"the notebook's process did not survive this ({death})"
            if attempt == 2:
                return OPEN, reason
        except Exception as error:  # an answer of a form that no check expects
            return OPEN, f"the answer has a form that cannot be judged ({type(error).__name__}: {error})"[:300]
    raise AssertionError


def examine(student: Student, only: Collection[str] = ()) -> None:
    """Run every check of the homework, or of these questions alone, and write the findings into the grade."""
    known: dict[Callable, tuple[str, str]] = {}
    for letter, parts, function in CHECKS[student.grade.notebook]:
        if only and letter not in only:
            continue
        if function not in known:
            known[function] = outcome(student, function)
        cell = student.cell_of(*QUESTIONS[letter].names)
        student.grade.findings += [Finding(letter, part, *known[function], cell) for part in parts]
    for cell, line, problem in student.left_out[:5]:
        student.grade.remark(f"cell {cell}, line {line} did not run here: {problem}", cell)
    student.end()
