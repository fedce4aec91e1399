"""Starts processes for code that cannot be trusted.

A server imports torch once and forks a worker for every notebook. A worker gets, as far as the machine allows it,
namespaces of its own (no network, no other process in sight, every file read-only but for a folder in memory that
vanishes with it) and limits on time, memory, processes and file size.
"""

import contextlib
import ctypes
import gc
import os
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from grader import wire

ROOT = Path(__file__).resolve().parent.parent
BESIDE = ("common", "data", "requirements.txt", "constraints.txt")  # what a notebook finds beside itself
MEMORY, PROCESSES, FILE_SIZE, FOLDER_SIZE = 3 << 30, 64, 100 << 20, 300 << 20  # bytes, but for the processes
_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
_PRIVATE, _BIND, _NOSUID, _NODEV = 0x40000 | 0x4000, 0x1000 | 0x4000, 2, 4  # mount flags; the first two recursive
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _ATTR_RDONLY = 442, -100, 0x8000, 1
_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS = 1, 4, 38  # prctl


def _call(function: str, *arguments) -> None:
    if getattr(_LIBC, function)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{function}: {os.strerror(ctypes.get_errno())}")


def _isolate(folder: str) -> str:
    """Enter new namespaces, with all files read-only but for ``folder``; returns what could not be had."""
    uid, gid = os.getuid(), os.getgid()
    try:
        _call("unshare", _NEWNS | _NEWIPC | _NEWPID | _NEWNET | (_NEWUSER if uid else 0))
        if uid:
            for file, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
                Path(f"/proc/self/{file}").write_text(text)
    except OSError as error:
        return f"no namespaces ({error.strerror}): network and files were not shut off"
    attributes = (ctypes.c_uint64 * 4)(_ATTR_RDONLY, 0, 0, 0)
    try:
        _call("mount", b"none", b"/", None, _PRIVATE, None)
        if not uid:
            _show(folder, [Path(sys.base_prefix), Path(sys.prefix), ROOT])
        _call("syscall", _MOUNT_SETATTR, _AT_FDCWD, b"/", _AT_RECURSIVE, ctypes.byref(attributes), 32)
        options = f"size={FOLDER_SIZE},mode=1777".encode()
        _call("mount", b"tmpfs", folder.encode(), b"tmpfs", _NOSUID | _NODEV, options)
    except OSError as error:
        return f"files were not made read-only ({error.strerror})"
    return ""


def _hide_processes() -> str:
    """Show only the processes of this new namespace, from inside of it; returns what could not be had."""
    try:
        _call("mount", b"proc", b"/proc", b"proc", _NOSUID | _NODEV, None)
    except OSError as error:
        return f"other processes were not hidden ({error.strerror})"
    return ""


def _show(folder: str, needed: list[Path]) -> None:
    """Where only root may look into a directory, leave in it just what the worker needs to read."""
    for hidden in sorted({p for path in needed for p in path.parents if not p.stat().st_mode & 1}):
        inside = [path for path in dict.fromkeys(needed) if hidden in path.parents]
        stash = [Path(folder, f"{hidden.name}-{number}") for number in range(len(inside))]
        for path, place in zip(inside, stash, strict=True):
            place.mkdir()
            _call("mount", str(path).encode(), str(place).encode(), None, _BIND, None)
        _call("mount", b"tmpfs", str(hidden).encode(), b"tmpfs", _NOSUID | _NODEV, b"mode=755")
        for path, place in zip(inside, stash, strict=True):
            path.mkdir(parents=True, exist_ok=True)
            _call("mount", str(place).encode(), str(path).encode(), None, _BIND, None)


def _restrict(seconds: int, folder: str, isolated: bool) -> None:
    """Give up every privilege and set the limits."""
    _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    with contextlib.suppress(OSError):
        _call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: size + MEMORY,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 256,
    }
    if os.getuid() == 0 or isolated:  # elsewhere, the user's other processes would be counted too
        limits[resource.RLIMIT_NPROC] = PROCESSES
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))
    if os.getuid() == 0:
        number = 1_000_000 + int(Path("/proc/sys/kernel/random/uuid").read_text()[:6], 16)  # a user of its own
        os.chown(folder, number, number)
        os.setgroups([])
        os.setresgid(number, number, number)
        os.setresuid(number, number, number)
        _call("prctl", _PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # forgotten when the user changed
    elif isolated:
        header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        _call("capset", ctypes.byref(header), ctypes.byref(nothing))


def _become_worker(connection: socket.socket, folder: str, seconds: int) -> None:
    """In a fork of the server: isolate, fork the worker proper, and stay behind until it ends."""
    os.setsid()
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("900")
    missing = _isolate(folder)
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with open(reader) as told:
            visible = told.read()
        wire.send(connection, {"pid": child, "missing": missing or visible})
        connection.close()
        os.waitpid(child, 0)
        os._exit(0)
    os.close(reader)
    with open(writer, "w") as tell:
        if not missing:
            tell.write(_hide_processes())
    for name in BESIDE:
        source, target = ROOT / name, Path(folder, name)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("cache", "__pycache__"))
        else:
            shutil.copy(source, target)
    kept = os.dup(connection.fileno())
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    os.dup2(kept, 3)
    os.closerange(4, 4096)
    os.chdir(folder)
    os.environ.update(HOME=folder, TMPDIR=folder, MPLCONFIGDIR=folder, TORCHINDUCTOR_CACHE_DIR=folder)
    sys.path[0], tempfile.tempdir = folder, folder
    _restrict(seconds, folder, not missing)

    from grader.worker import serve

    serve(socket.socket(fileno=3))
    os._exit(0)


def _server(control: socket.socket) -> None:
    """Fork a worker for every connection that arrives, until the other side is gone."""
    from grader import worker

    worker.prepare()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, numbers, _, _ = socket.recv_fds(control, 4096, 1)
        if not message:
            return
        connection = socket.socket(fileno=numbers[0])
        if os.fork() == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                control.close()
                seconds, folder = message.decode().split(" ", 1)
                _become_worker(connection, folder, int(seconds))
            finally:
                os._exit(1)
        connection.close()


@dataclass
class Process:
    """A worker, as the judge sees it."""

    connection: socket.socket
    pid: int
    pidfd: int
    folder: str
    missing: str  # what the sandbox lacks here, in words; empty if nothing

    def wait_for_message(self, seconds: float) -> None:
        """Wait so long for it to speak, and longer while it waits for a processor of a busy machine.

        Raises:
            TimeoutError: if it is silent and asleep, or silent for twenty times as long.
        """
        for _ in range(20):
            if select.select([self.connection], [], [], seconds)[0]:
                return
            with contextlib.suppress(OSError):
                if Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0] != "R":
                    break
        raise TimeoutError

    def end(self) -> None:
        """Kill it, and with it every process that it has started."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        self.connection.close()
        os.close(self.pidfd)
        shutil.rmtree(self.folder, ignore_errors=True)


class Sandbox:
    """The server, started when it is first needed; may be used by several threads."""

    def __init__(self) -> None:
        self._lock, self._server, self._control = threading.Lock(), None, None

    def _start(self) -> None:
        self._control, other = socket.socketpair()
        environment = {
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": "/nonexistent",
            "USER": "student",
            "HW4_DATA": "sample",
            "HW4_DEVICE": "cpu",
            "MPLBACKEND": "Agg",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONWARNINGS": "ignore",
        }
        with other:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "grader.sandbox", str(other.fileno())],
                cwd=ROOT,
                env=environment,
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def worker(self, seconds: int) -> Process:
        """A new worker that may use the processor for so many seconds."""
        mine, theirs = socket.socketpair()
        folder = tempfile.mkdtemp(prefix="grader-")
        os.chmod(folder, 0o755)
        with theirs, self._lock:
            if self._server is None or self._server.poll() is not None:
                self._start()
            socket.send_fds(self._control, [f"{seconds} {folder}".encode()], [theirs.fileno()])
        first = wire.receive(mine, 900)  # the server may still be importing; if it dies, the connection ends
        return Process(mine, first["pid"], os.pidfd_open(first["pid"]), folder, first["missing"])

    def close(self) -> None:
        if self._server is not None:
            self._control.close()
            self._server.wait()
            self._server = None


if __name__ == "__main__":
    _server(socket.socket(fileno=int(sys.argv[1])))
