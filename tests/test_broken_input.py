"""What a user can get wrong or a machine can refuse: one clear error, nothing half-written, nothing good replaced.

Broken data files and servers are in ``test_data.py``, damaged checkpoints in ``test_training.py``.
"""

import inspect
import os
import resource
import sys
import types
from dataclasses import FrozenInstanceError, dataclass, replace
from unittest.mock import Mock

import pytest
import torch

from common import session
from common.config import check, configure, training_settings
from common.files import atomic_write

# ------------------------------------------------------------------------------------ settings


@dataclass(frozen=True)
class Example:
    epochs: int = 3
    learning_rate: float = 0.1
    dropout: float = 0.5
    seed: int = 0
    data: str = "auto"
    resume: bool = True

    def __post_init__(self):
        check(self, choices={"data": ("auto", "real")}, fractions=("dropout",), zero_allowed=("seed",))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    (
        ({"epoch": 4}, TypeError, "unexpected keyword argument 'epoch'"),
        ({"epochs": 0}, ValueError, "Example.epochs is 0: expected more than 0"),
        ({"epochs": 2.5}, TypeError, "Example.epochs is 2.5, a float: expected int"),
        ({"epochs": True}, TypeError, "Example.epochs is True, a bool: expected int"),
        ({"epochs": "3"}, TypeError, "Example.epochs is '3', a str: expected int"),
        ({"learning_rate": -1.0}, ValueError, "Example.learning_rate is -1.0: expected more than 0"),
        ({"learning_rate": float("nan")}, ValueError, "Example.learning_rate is nan"),
        ({"dropout": 1.0}, ValueError, "Example.dropout is 1.0: expected a fraction"),
        ({"seed": -1}, ValueError, "Example.seed is -1: expected 0 or more"),
        ({"data": "reel"}, ValueError, "Example.data is 'reel': expected one of auto, real"),
        ({"resume": "no"}, TypeError, "Example.resume is 'no', a str: expected bool"),
    ),
)
def test_a_setting_that_cannot_be_meant_is_refused_when_made_replaced_or_preset(values, error, message):
    for attempt in (
        lambda: Example(**values),
        lambda: replace(Example(), **values),
        lambda: configure(Example, **values),
    ):
        with pytest.raises(error) as raised:
            attempt()
        assert message in str(raised.value)


def test_good_settings_are_kept_and_cannot_be_changed_later():
    example = replace(Example(learning_rate=1), dropout=0.0)
    assert (example.epochs, example.learning_rate, example.dropout) == (3, 1, 0.0)
    with pytest.raises(FrozenInstanceError):
        example.epochs = 5


def test_the_environment_goes_before_a_preset_and_a_preset_before_defaults(monkeypatch):
    for name, value in {"EPOCHS": "7", "RESUME": "0", "LEARNING_RATE": "1e-3", "DATA": ""}.items():
        monkeypatch.setenv(f"HW4_{name}", value)
    assert configure(Example, epochs=5, dropout=0.1) == Example(7, 1e-3, 0.1, resume=False)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    (
        ("EPOCHS", "2.5", "HW4_EPOCHS is '2.5': expected int"),
        ("RESUME", "no", "HW4_RESUME is 'no': expected 1 or 0"),
        ("DATA", "reel", "Example.data is 'reel'"),
    ),
)
def test_a_wrong_environment_variable_is_refused(monkeypatch, name, value, message):
    monkeypatch.setenv(f"HW4_{name}", value)
    with pytest.raises(ValueError, match=message):
        configure(Example)


def test_a_training_does_not_depend_on_where_it_runs():
    assert training_settings(Example(), "seed") == {"epochs": 3, "learning_rate": 0.1, "dropout": 0.5}
    with pytest.raises(ValueError, match="sead: not among the settings"):
        training_settings(Example(), "sead")


@pytest.mark.parametrize("name", ("rnn", "seq2seq", "vit"))
def test_every_notebook_refuses_a_misspelled_kind_of_data_and_a_negative_number_of_epochs(name, request):
    notebook = request.getfixturevalue(name)
    for values, message in (({"data": "reel"}, "data is 'reel'"), ({"epochs": -1}, "epochs is -1")):
        with pytest.raises(ValueError, match=rf"Config\.{message}"):
            notebook.Config(**values)


# ------------------------------------------------------------------------------------ devices and memory


def test_unknown_and_missing_devices_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="device 'tpu' is unknown"):
        session.choose_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="finds no GPU"):
        session.choose_device("cuda")
    assert session.choose_device("auto") == torch.device("cpu")


def test_running_out_of_memory_says_which_setting_to_lower():
    @session.memory_advice("batch_size", "hidden_size")
    def greedy():
        torch.empty(1 << 60)  # more than any machine has

    with pytest.raises(MemoryError, match="lower batch_size or hidden_size"):
        greedy()


@pytest.mark.parametrize(
    "error",
    (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ),
)
def test_every_way_in_which_a_gpu_runs_out_of_memory_is_known(error):
    with pytest.raises(MemoryError, match="lower dim"), session.memory_advice("dim"):
        raise error


def test_other_errors_pass_the_memory_advice_unchanged():
    with pytest.raises(RuntimeError, match="must match"), session.memory_advice("dim"):
        torch.ones(2) + torch.ones(3)


@pytest.mark.parametrize("name", ("rnn", "seq2seq", "vit"))
def test_every_notebooks_training_gives_that_advice(name, request, monkeypatch):
    notebook = request.getfixturevalue(name)

    def full(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(notebook.session, "seed_everything", full)
    needed = [p for p in inspect.signature(notebook.fit).parameters.values() if p.default is p.empty]
    with pytest.raises(MemoryError, match="lower batch_size or"):
        notebook.fit(
            *[Mock() for p in needed if p.kind is not p.KEYWORD_ONLY],
            **{p.name: Mock() for p in needed if p.kind is p.KEYWORD_ONLY},
        )


# ------------------------------------------------------------------------------------ disks


@pytest.fixture
def small_disk():
    """No file may grow beyond 100 kB, which the kernel answers like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", (150_000, 3_000_000))
def test_a_disk_that_fills_while_writing_leaves_the_old_file_and_no_rest(tmp_path, small_disk, size):
    path = tmp_path / "file"
    path.write_bytes(b"good")
    message = r"file was not written \(File too large\): free some space"
    with pytest.raises(OSError, match=message), atomic_write(path) as file:
        file.write(bytes(size))
    assert path.read_bytes() == b"good" and os.listdir(tmp_path) == ["file"]


@pytest.fixture
def as_nobody():
    """Not as root, for whom no folder is read-only."""
    if os.geteuid() == 0:
        os.seteuid(65534)
        yield
        os.seteuid(0)
    else:
        yield


@pytest.fixture
def read_only(tmp_path):
    folder = tmp_path / "read-only"
    folder.mkdir()
    for parent in [*tmp_path.parents][:-2]:
        parent.chmod(parent.stat().st_mode | 0o005)  # so that nobody may look in
    tmp_path.chmod(0o755)
    folder.chmod(0o555)
    return folder


def test_a_read_only_folder_is_named_before_training_begins(read_only, as_nobody):
    with pytest.raises(PermissionError, match=r"read-only.* was not written \(Permission denied\): .*choose a folder"):
        session.run_folder(str(read_only), "rnn", "sample")


def test_a_file_where_the_run_folder_should_be_is_named(tmp_path):
    (tmp_path / "runs").write_text("")
    with pytest.raises(OSError, match=r"runs/rnn.* was not written"):
        session.run_folder(str(tmp_path / "runs"), "rnn", "sample")


# ------------------------------------------------------------------------------------ Colab's Drive


def test_a_run_folder_on_drive_mounts_drive_in_colab_and_only_there(tmp_path, monkeypatch):
    mounted = []
    drive = types.ModuleType("google.colab.drive")
    drive.mount = mounted.append
    monkeypatch.setattr(session, "atomic_write", lambda path: (tmp_path / "writable").open("wb"))
    monkeypatch.setattr(session.Path, "unlink", lambda path: None)
    monkeypatch.setattr(session, "lock", lambda folder: None)
    assert session.run_folder("/content/drive/MyDrive/hw4-runs", "vit") == "/content/drive/MyDrive/hw4-runs/vit"
    assert mounted == []
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
    session.run_folder("/content/drive/MyDrive/hw4-runs", "vit")
    session.run_folder("runs", "vit")
    assert mounted == ["/content/drive"]
