"""Trainings that are interrupted, resumed, killed or run twice: nothing lost, nothing taken that does not belong."""

import errno
import io
import linecache
import os
import random
import resource
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import torch
from conftest import ROOT
from tensorboard.summary.writer import event_file_writer
from torch import nn
from torch.utils.data import DataLoader

from common import checkpoint
from common.checkpoint import digest
from common.training import Run, progress, read_run

EPOCHS = 4


@pytest.fixture(autouse=True)
def files_in_order(monkeypatch):
    """TensorBoard reads the files of one second in the order of their names, which end in a number: "10" before "9"."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


def fit(folder, *, epochs=EPOCHS, until=None, dim=3, steps=5, rate=0.01, **options):
    """A training whose data depends on the global random state and on a generator; interrupted after ``until``."""
    torch.manual_seed(0)
    model = nn.Linear(dim, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(1)
    parts = {"model": model, "optimizer": optimizer, "generator": generator}
    run = Run(folder, epochs, depends_on=(dim, fit), hparams={"rate": rate, "name": "AdamW"}, **options, **parts)
    for epoch in run.epochs():
        for _ in run.progress(range(steps)):
            loss = (model(torch.randn(4, dim)) * torch.randn(4, 2, generator=generator)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss, rate)
        run.record(train_loss=loss.item(), validation_loss=1.0 / epoch, validation_accuracy=50.0 + epoch)
        if epoch == until:
            break
    return model, run


def epoch_lines(printed: str) -> list[str]:
    """The lines of the epochs, as a terminal shows them."""
    lines = [line.rpartition("\r")[2] for line in printed.splitlines()]
    return [line for line in lines if line.strip()[:1].isdigit()]


def without_seconds(folder) -> dict:
    return {tag: points for tag, points in read_run(folder).items() if "seconds" not in tag}


# ------------------------------------------------------------------------------------ resuming


@pytest.mark.parametrize("steps", (3, 25))  # fewer than one point of the curve by step, and more
def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path, steps):
    calm, straight = fit(tmp_path / "calm", steps=steps)
    fit(tmp_path / "cut", steps=steps, until=2)
    torch.rand(7)  # whatever happens in between
    resumed, run = fit(tmp_path / "cut", steps=steps)
    assert torch.equal(calm.weight, resumed.weight) and run.steps == 4 * steps and run.resumed == 2
    curves = without_seconds(run.folder)
    assert curves == without_seconds(straight.folder)
    assert curves["accuracy/validation"] == ([1, 2, 3, 4], [51, 52, 53, 54]) and curves["step/loss"][0][-1] == 4


def test_fit_twice_in_one_namespace_takes_the_finished_run_and_prints_its_log_again(tmp_path, capsys):
    model, run = fit(tmp_path)
    first = epoch_lines(capsys.readouterr().out)
    again, same = fit(tmp_path)
    printed = capsys.readouterr().out
    assert torch.equal(model.weight, again.weight) and run.history == same.history and same.resumed == EPOCHS
    assert "4 of 4 epochs were done on 20" in printed and "set resume = False or delete that folder" in printed
    assert [line for line in printed.splitlines() if line.strip()[:1].isdigit()] == [
        f.rpartition("\r")[2] for f in first
    ]


def test_a_setting_tried_in_between_destroys_nothing(tmp_path):
    """A, B, A: an interrupted training goes on after another one in the same folder."""
    fit(tmp_path, until=2)
    _, other = fit(tmp_path, dim=4, until=1)
    _, run = fit(tmp_path)
    assert other.resumed == 0 and run.resumed == 2 and fit(tmp_path, dim=4)[1].resumed == 1


def search(folder, stop=None):
    """Three trainings, the last one cut short."""
    return [fit(folder, rate=rate, until=2 if rate == stop else None, shown=False)[1] for rate in (0.1, 0.2, 0.3)]


def test_an_interrupted_search_goes_on_in_the_same_kernel_and_in_a_new_one(tmp_path):
    search(tmp_path, stop=0.3)
    command = "import test_training as t, sys; print([run.resumed for run in t.search(sys.argv[1])])"
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    new = [sys.executable, "-c", command, str(tmp_path)]
    done = subprocess.run(new, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.stdout == "[4, 4, 2]\n", done.stderr
    assert [run.resumed for run in search(tmp_path)] == [4, 4, 4]


def test_the_resumed_clock_goes_on(tmp_path):
    _, run = fit(tmp_path, until=2)
    saved = checkpoint.read(run.path)
    saved["progress"]["history"][-1]["seconds"] = 100.0
    checkpoint.write(run.path, saved)
    assert fit(tmp_path)[1].history[-1]["seconds"] > 100


def test_without_resume_the_training_starts_from_scratch(tmp_path, capsys):
    fit(tmp_path, until=2)
    capsys.readouterr()
    _, run = fit(tmp_path, resume=False)
    assert run.resumed == 0 and "resumed" not in capsys.readouterr().out
    assert read_run(run.folder)["accuracy/validation"][0] == [1, 2, 3, 4]


def test_an_epoch_without_its_record_is_an_error(tmp_path):
    run = Run(tmp_path, 2, depends_on=())
    with pytest.raises(RuntimeError, match="epoch 1 ended without a call of record"):
        for _ in run.epochs():
            pass


def test_a_finished_training_keeps_only_what_is_used_later(tmp_path):
    (_, kept), (_, nothing) = fit(tmp_path / "a"), fit(tmp_path / "b", keep=())
    assert set(checkpoint.read(kept.path)["parts"]) == {"model"} and checkpoint.read(nothing.path)["parts"] == {}


# ------------------------------------------------------------------------------------ what a training depends on


class Tripled(nn.Linear):
    def forward(self, x):
        return 3 * super().forward(x)


def optimizer(kind=torch.optim.AdamW, **options):
    return kind([nn.Parameter(torch.zeros(2))], lr=0.1, **options)


def loader(numbers=(1, 2, 3), **options):
    return DataLoader(list(numbers), **options)


def model(seed):
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


changed = np.arange(5000)
changed[2500] += 1
DIFFERENT = {
    "an argument of a partial": (partial(torch.optim.SGD, lr=0.1), partial(torch.optim.SGD, lr=0.1, nesterov=True)),
    "an option of an optimizer": (optimizer(), optimizer(amsgrad=True)),
    "another optimizer": (optimizer(torch.optim.Adam), optimizer(torch.optim.NAdam)),
    "swapped optimizers": ([optimizer(), optimizer(eps=1e-6)], [optimizer(eps=1e-6), optimizer()]),
    "swapped numbers": ((0.5, 0.2), (0.2, 0.5)),
    "data of a loader": (loader(), loader((1, 2, 4))),
    "batches of a loader": (loader(), loader(batch_size=2)),
    "what a loader makes of them": (loader(collate_fn=list), loader(collate_fn=tuple)),
    "one element of many": (np.arange(5000), changed),
    "tensors in nested lists": ([[torch.zeros(2)]], [[torch.tensor([0.0, 1.0])]]),
    "a 0-d tensor": (torch.tensor(1), torch.tensor(2)),
    "the type of numbers": (torch.zeros(2), torch.zeros(2, dtype=torch.double)),
    "the shape": (torch.zeros(2, 3), torch.zeros(3, 2)),
    "the source of a function": (fit, search),
    "the source of a class": (nn.Linear, Tripled),
    "the weights of a model": (model(1), model(2)),
    "the classes of a model": (nn.Linear(3, 2), Tripled(3, 2)),
    "where one ends": (["ab", "c"], ["a", "bc"]),
    "a seed": (torch.Generator().manual_seed(1), torch.Generator().manual_seed(2)),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_a_change_of_what_a_training_depends_on_is_noticed(what):
    one, other = DIFFERENT[what]
    assert digest(one) == digest(one) != digest(other)


def test_a_changed_class_of_a_notebook_is_noticed_although_python_cannot_find_its_text():
    """As in a kernel, where a class belongs to a module without a file."""
    text = "class Model:\n    size = 3\n    def forward(self, x):\n        return x * 2\n"
    found = []
    for number, source in enumerate((text, text, text.replace("* 2", "* 3"), text.replace("= 3", "= 4"))):
        file, space = f"made in a kernel, cell {number}", {"__name__": "made"}
        linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
        exec(compile(source, file, "exec"), space)
        found.append(digest(space["Model"]))
    assert found[0] == found[1] and len(set(found)) == 3


# ------------------------------------------------------------------------------------ damaged files and full disks


def foreign() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("damage", "reason"),
    (
        (lambda content: b"", "not a checkpoint of this project"),
        (lambda content: foreign(), "not a checkpoint of this project"),
        (lambda content: content[: len(content) // 2], "checksum"),
        (lambda content: content[:-900] + bytes([content[-900] ^ 1]) + content[-899:], "checksum"),
    ),
    ids=("empty", "foreign", "half", "one bit flipped"),
)
def test_a_damaged_checkpoint_is_kept_aside_and_not_used(tmp_path, capsys, damage, reason):
    _, run = fit(tmp_path, until=1)
    run.path.write_bytes(damage(run.path.read_bytes()))
    _, run = fit(tmp_path)
    assert reason in capsys.readouterr().out and run.resumed == 0 and run.path.with_suffix(".damaged").exists()


def test_a_checkpoint_never_runs_code(tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    checkpoint.save(tmp_path / "checkpoint.pt", {"history": Evil()}, {})
    assert checkpoint.restore(tmp_path / "checkpoint.pt", {}) is None
    assert "more than numbers and texts" in capsys.readouterr().out and not (tmp_path / "evil").exists()


def test_parts_are_loaded_all_or_none(tmp_path, capsys):
    first, second, path = nn.Linear(3, 2), nn.Linear(3, 2), tmp_path / "checkpoint.pt"
    checkpoint.save(path, {}, {"first": first, "second": second})
    fits, fits_not = nn.Linear(3, 2), nn.Linear(3, 5)
    before = fits.weight.clone()
    assert checkpoint.restore(path, {"first": fits, "second": fits_not}) is None
    assert torch.equal(fits.weight, before) and "size mismatch" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path, limits = tmp_path / "checkpoint.pt", resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoint.save(path, {"steps": 1}, {"model": nn.Linear(3, 2)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))  # answers like a full disk
    try:
        with pytest.raises(OSError, match=r"checkpoint\.pt was not written .*: free some space"):
            checkpoint.save(path, {"steps": 2}, {"model": nn.Linear(3, 2)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (
        os.listdir(tmp_path) == ["checkpoint.pt"] and checkpoint.restore(path, {"model": nn.Linear(3, 2)})["steps"] == 1
    )


FULL = """
import errno, sys
from tensorboard.summary.writer import event_file_writer
import test_training as t
class Full:
    def __init__(self, *_): pass
    def write(self, *_): raise OSError(errno.ENOSPC, "No space left on device")
    flush = close = write
event_file_writer.RecordWriter = Full
t.fit(sys.argv[1], steps=500)
"""


def test_a_disk_that_fills_under_tensorboards_writer_gives_path_and_advice_alone(tmp_path):
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    command = [sys.executable, "-c", FULL, str(tmp_path)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)
    assert f"[Errno {errno.ENOSPC}] the curves in {tmp_path}" in done.stderr
    assert done.stderr.rstrip().endswith("free some space, or choose another folder for runs")
    assert "Exception in thread" not in done.stderr


# ------------------------------------------------------------------------------------ killed


KILLED = """
import os, random, signal, sys
import test_training as t
from common import files
moment, count = sys.argv[2], int(sys.argv[3])
replace = os.replace
def kill_around(*paths):
    global count
    count -= 1
    if count == 0 and moment == "before": os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)
    if count == 0 and moment == "after": os.kill(os.getpid(), signal.SIGKILL)
files.os.replace = kill_around
t.torch.set_num_threads(1)
t.fit(sys.argv[1], epochs=16, steps=60)
"""


@pytest.mark.slow
def test_a_training_killed_at_random_and_around_its_checkpoints_ends_bit_for_bit_as_an_undisturbed_one(tmp_path):
    path = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    draw, kills = random.Random(1), 0
    for attempt in range(40):
        moment = ("before", "after", "any")[attempt % 3]
        command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), moment, str(draw.randint(1, 2))]
        process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, text=True)
        if moment == "any":  # some time after the first line, which comes after starting or resuming
            process.stdout.readline()
            time.sleep(draw.random() / 10)
            process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert process.returncode == 0 and kills >= 4
    calm, straight = fit(tmp_path / "calm", epochs=16, steps=60)
    disturbed, run = fit(tmp_path / "killed", epochs=16, steps=60)
    assert run.resumed == 16 and torch.equal(calm.weight, disturbed.weight)
    assert without_seconds(run.folder) == without_seconds(straight.folder)


# ------------------------------------------------------------------------------------ other devices


@pytest.mark.parametrize("written", (0, 1, 2))
@pytest.mark.parametrize("read", (0, 1, 2))
def test_a_checkpoint_moves_between_machines_with_any_number_of_gpus(tmp_path, monkeypatch, written, read):
    states = [torch.full((16,), gpu, dtype=torch.uint8) for gpu in range(2)]
    found = []

    def on_machine(gpus: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states[:gpus])
        monkeypatch.setattr(torch.cuda, "set_rng_state_all", found.extend)

    on_machine(written)
    checkpoint.save(tmp_path / "x", {"epoch": 3}, {})
    on_machine(read)
    assert checkpoint.restore(tmp_path / "x", {}) == {"epoch": 3}
    assert [state[0].item() for state in found] == list(range(min(written, read)))


# ------------------------------------------------------------------------------------ curves and progress bars


def test_a_progress_bar_leaves_no_line_behind(capsys):
    bar = progress("abc", "training", "batch", done=6, total=12)
    assert (bar.initial, bar.total, list(bar)) == (6, 12, ["a", "b", "c"])
    print("epoch 3")
    out, err = capsys.readouterr()
    assert "50%" in out and out.splitlines()[-1] == "epoch 3" and not err
