"""Trainings that are interrupted, resumed, reused or run twice: nothing lost, nothing taken that does not belong."""

import io
import os
import resource
import signal
import subprocess
import sys
import types

import pytest
import torch
from torch import nn

from common import files, fingerprint, session, tracking
from common.checkpoint import Checkpoint, finish, read
from common.fingerprint import code_fingerprint, data_fingerprint
from common.training import Run

EPOCHS = 4


def fit(folder, *, until=EPOCHS, dim=3, **options):
    """A training whose data depends on the global random state and on a generator; interrupted after ``until``."""
    torch.manual_seed(0)
    model = nn.Linear(dim, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    generator = torch.Generator().manual_seed(1)
    parts = {"model": model, "optimizer": optimizer, "generator": generator}
    run = Run(folder, {"dim": dim}, code=fit, data=([1],), log_every=2, **parts, **options)
    for epoch in run.epochs(EPOCHS):
        for _ in run.progress(range(5)):
            loss = (model(torch.randn(4, dim)) * torch.randn(4, 2, generator=generator)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.step(loss, 0.1)
        run.record(train_loss=loss.item(), validation_accuracy=50.0 + epoch, learning_rate=0.1)
        if epoch == until:
            break
    return model, run


def lines(capsys) -> list[str]:
    """The printed lines, as a terminal shows them."""
    return [line.rpartition("\r")[2] for line in capsys.readouterr().out.splitlines()]


# ------------------------------------------------------------------------------------ resuming


def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    calm, _ = fit(tmp_path / "calm")
    fit(tmp_path / "cut", until=2)
    torch.rand(7)  # whatever happens in between
    resumed, run = fit(tmp_path / "cut")
    assert torch.equal(calm.weight, resumed.weight) and run.steps == 20
    curves = {name: tracking.read_run(tmp_path / name) for name in ("calm", "cut")}
    assert curves["calm"] == curves["cut"]
    assert curves["cut"]["accuracy/validation"] == ([5, 10, 15, 20], [51, 52, 53, 54])
    assert len(curves["cut"]["loss/train"][0]) == len(set(curves["cut"]["loss/train"][0])) == 8


def test_a_resumed_and_a_finished_training_print_the_whole_log_marked_as_restored(tmp_path, capsys):
    fit(tmp_path, until=3)
    first = [line for line in lines(capsys) if line.strip()[:1].isdigit()]
    for marks in ([True, True, True, False], [True] * 4):
        fit(tmp_path)
        log = [line for line in lines(capsys) if line.strip()[:1].isdigit()]
        assert [line.endswith("restored") for line in log] == marks
        assert [line.split()[:3] for line in log[:3]] == [line.split()[:3] for line in first]


def test_the_resumed_clock_goes_on(tmp_path):
    _, run = fit(tmp_path, until=2)
    run.history[-1]["seconds"] = 100.0
    run.checkpoint.save({"history": run.history, "steps": run.steps})
    assert fit(tmp_path)[1].history[-1]["seconds"] > 100


def test_without_resume_the_training_starts_from_scratch(tmp_path, capsys):
    fit(tmp_path, until=2)
    capsys.readouterr()
    _, run = fit(tmp_path, resume=False)
    assert len(run.history) == EPOCHS and "restored" not in capsys.readouterr().out
    assert tracking.read_run(tmp_path)["accuracy/validation"][0] == [5, 10, 15, 20]


def test_an_epoch_without_its_record_is_an_error(tmp_path):
    run = Run(tmp_path, {}, code=fit)
    with pytest.raises(RuntimeError, match="epoch 1 ended without a call of record"):
        for _ in run.epochs(2):
            pass


def test_a_quiet_training_prints_nothing(tmp_path, capsys):
    fit(tmp_path, until=2, shown=False)
    fit(tmp_path, shown=False)
    assert capsys.readouterr().out == ""


def test_options_and_outcome_join_the_curves_of_their_run(tmp_path):
    fit(tmp_path, options={"optimizer": "AdamW", "rate": 0.1})
    assert tracking.read_run(tmp_path)["outcome/validation_accuracy"] == ([20], [54.0])


# ------------------------------------------------------------------------------------ finished


def test_final_weights_stay_and_are_taken_on_request_alone(tmp_path, capsys):
    model, _ = fit(tmp_path / "run")
    finish(tmp_path, {"value": 90.0})
    assert not (tmp_path / "run" / "checkpoint.pt").exists()
    assert read(tmp_path / "run" / "final.pt")["result"] == {"value": 90.0}
    capsys.readouterr()
    reused, run = fit(tmp_path / "run", reuse=True)
    assert torch.equal(model.weight, reused.weight) and len(run.history) == EPOCHS
    assert "restored" in capsys.readouterr().out
    fit(tmp_path / "run", until=1)
    assert "restored" not in capsys.readouterr().out
    assert read(tmp_path / "run" / "final.pt")["progress"]["steps"] == 20  # until the new training is done


def test_final_weights_of_other_settings_are_not_taken_and_stay(tmp_path, capsys):
    fit(tmp_path)
    finish(tmp_path, {})
    fit(tmp_path, dim=4, reuse=True, until=1)
    assert "belongs to another training (dim: 3 there, 4 now): training starts from scratch" in capsys.readouterr().out
    assert read(tmp_path / "final.pt")["key"]["dim"] == 3


def test_a_finished_training_keeps_only_what_is_used_later(tmp_path):
    fit(tmp_path / "a")
    fit(tmp_path / "b", keep=())
    assert set(read(tmp_path / "a" / "checkpoint.pt")["parts"]) == {"model"}
    assert read(tmp_path / "b" / "checkpoint.pt")["parts"] == {} and len(fit(tmp_path / "b")[1].history) == EPOCHS


# ------------------------------------------------------------------------------------ what a checkpoint belongs to


def test_a_checkpoint_of_other_settings_is_kept_aside_and_not_used(tmp_path, capsys):
    fit(tmp_path, until=2)
    _, run = fit(tmp_path, dim=4)
    assert "dim: 3 there, 4 now): kept as checkpoint.previous" in capsys.readouterr().out
    assert len(run.history) == EPOCHS and read(tmp_path / "checkpoint.previous")["key"]["dim"] == 3


CODE = """
import torch
from common.loss import cross_entropy
RATE = 0.1
OPTIMIZERS = {"plain": torch.optim.SGD, "adaptive": lambda p, rate: torch.optim.Adam(p, rate)}
class Model(torch.nn.Module):
    def forward(self, x):
        return x * 2
def start(model):
    torch.nn.init.zeros_(model)
def fit(config):
    \"\"\"Train.\"\"\"
    start(Model())
    return cross_entropy(OPTIMIZERS[config](RATE), 0)
def other():
    return 1
"""


def of(code: str) -> str:
    module = types.ModuleType("made_notebook")
    exec(compile(code, "made", "exec"), module.__dict__)
    return code_fingerprint(module.fit)


@pytest.mark.parametrize(
    ("old", "new"),
    (
        ("torch.optim.SGD", "torch.optim.AdamW"),
        ("torch.optim.Adam(p", "torch.optim.RMSprop(p"),
        ("RATE = 0.1", "RATE = 0.2"),
        ("zeros_", "ones_"),
        ("x * 2", "x * 3"),
        ("def fit(config)", "def fit(config, more=3)"),
    ),
)
def test_a_change_of_the_code_that_a_training_runs_is_noticed(old, new):
    assert old in CODE and of(CODE.replace(old, new)) != of(CODE)


@pytest.mark.parametrize(
    ("old", "new"),
    (("return 1", "return 2"), ('"Train."', '"Train the model."'), ("    start(", "    # a comment\n\n    start(")),
)
def test_a_change_of_other_code_of_comments_and_docstrings_is_not(old, new):
    changed = CODE.replace(old, new).replace('\\"\\"\\"Train.', '"""Train the model.')
    assert changed != CODE and of(changed) == of(CODE)


def test_a_change_in_a_module_of_the_project_is_noticed_unless_it_only_watches(monkeypatch):
    before = of(CODE)
    monkeypatch.setattr("common.loss._check_shapes", lambda scores, target: None)
    assert of(CODE) != before
    assert {"common.training", "common.tracking"} < fingerprint.NEUTRAL


def test_code_has_the_same_fingerprint_in_every_process():
    command = "import sys; sys.path.insert(0, 'tests'); from test_training import CODE, of; print(of(CODE))"
    codes = [
        subprocess.run(
            [sys.executable, "-c", command], capture_output=True, text=True, env={**os.environ, "PYTHONHASHSEED": s}
        )
        for s in ("1", "2")
    ]
    assert codes[0].stdout == codes[1].stdout == of(CODE) + "\n"


def test_other_data_is_noticed():
    same = data_fingerprint([(1, "a")], torch.arange(3)), data_fingerprint([(1, "a")], torch.arange(3))
    assert same[0] == same[1]
    others = ([(2, "a")], torch.arange(3)), ([(1, "a")], torch.tensor([0, 1, 3])), ([(1, "a")], torch.arange(3.0))
    assert len({same[0], *(data_fingerprint(*parts) for parts in others)}) == 4


# ------------------------------------------------------------------------------------ damaged files


def make(folder, outputs=2):
    model = nn.Linear(3, outputs)
    return Checkpoint(folder, {"dim": 3}, model=model)


def foreign() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("damage", "reason"),
    (
        (lambda content: b"", "not a checkpoint of this project"),
        (lambda content: b"no checkpoint", "not a checkpoint of this project"),
        (lambda content: foreign(), "not a checkpoint of this project"),
        (lambda content: content[: len(content) // 2], "checksum"),
        (lambda content: content[:-900] + bytes([content[-900] ^ 1]) + content[-899:], "checksum"),
    ),
    ids=("empty", "text", "foreign", "half", "one bit flipped"),
)
def test_a_damaged_checkpoint_is_kept_aside_not_used_and_survives_the_next_training(tmp_path, capsys, damage, reason):
    fit(tmp_path, until=1)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(damage(path.read_bytes()))
    _, run = fit(tmp_path)
    printed = capsys.readouterr().out
    assert "cannot be used" in printed and reason in printed and len(run.history) == EPOCHS
    assert (tmp_path / "checkpoint.damaged").exists()


def test_a_checkpoint_never_runs_code(tmp_path, capsys):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    checkpoint = make(tmp_path)
    checkpoint.key = {"dim": Evil()}
    checkpoint.save({})
    assert make(tmp_path).restore() is None and "more than numbers and texts" in capsys.readouterr().out
    assert not (tmp_path / "evil").exists()


def test_a_checkpoint_of_a_model_of_another_shape_is_kept_aside(tmp_path, capsys):
    make(tmp_path).save({"steps": 1})
    assert make(tmp_path, outputs=5).restore() is None
    assert "size mismatch" in capsys.readouterr().out and (tmp_path / "checkpoint.previous").exists()


def test_a_save_that_fails_leaves_the_old_checkpoint_and_no_rest(tmp_path):
    checkpoint = make(tmp_path)
    checkpoint.save({"steps": 1})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))  # answers like a full disk
    try:
        with pytest.raises(OSError, match=r"checkpoint\.pt was not written"):
            checkpoint.save({"steps": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"] and checkpoint.restore() == {"steps": 1}


# ------------------------------------------------------------------------------------ two at once

HOLD = """
import sys, time
from common import session
session.run_folder(sys.argv[1])
print("held", flush=True)
time.sleep(60)
"""


def test_a_run_folder_in_use_is_refused_and_is_free_once_its_holder_dies(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        (tmp_path / "checkpoint.pt.abc.part").write_bytes(b"half")  # what the holder is writing
        with pytest.raises(RuntimeError, match=rf"in use by process {holder.pid} on .* since 20"):
            session.run_folder(str(tmp_path))
        assert (tmp_path / "checkpoint.pt.abc.part").exists()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        session.run_folder(str(tmp_path))
        session.run_folder(str(tmp_path))  # the cell is run again
        assert [p.name for p in tmp_path.iterdir()] == ["lock"]
    finally:
        holder.kill()
        files._locks.pop(tmp_path.resolve(), None)


# ------------------------------------------------------------------------------------ curves and progress bars


def test_a_fresh_run_removes_event_files_alone(tmp_path):
    for value in (1.0, 2.0):
        with tracking.open_run(tmp_path) as writer:
            writer.add_scalar("loss/train", value, 1)
        (tmp_path / "checkpoint.damaged").touch()
    assert tracking.read_run(tmp_path)["loss/train"] == ([1], [2.0]) and (tmp_path / "checkpoint.damaged").exists()


def test_numbers_that_belong_together_share_a_chart():
    names = ("train_loss", "validation_loss", "learning_rate", "validation_perplexity")
    assert [tracking.tag(name) for name in names] == [
        "loss/train",
        "loss/validation",
        "learning_rate",
        "perplexity/validation",
    ]


def test_reading_a_run_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the training cell first"):
        tracking.read_run(tmp_path)


def test_a_progress_bar_shows_the_time_left_for_all_rounds_and_leaves_no_line_behind(capsys):
    bar = tracking.progress("abc", "training", "batch", finished=2, rounds=4)
    assert (bar.initial, bar.total, list(bar)) == (6, 12, ["a", "b", "c"])
    print("epoch 3")
    out, err = capsys.readouterr()
    assert "50%" in out and out.splitlines()[-1] == "epoch 3" and not err


def test_a_hidden_progress_bar_prints_nothing(capsys):
    assert list(tracking.progress("abc", "training", "batch", shown=False)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")
