"""The shared helpers against PyTorch's own, and what a user can get wrong or a machine can refuse."""

import json
import math
import os
import resource
import signal
import subprocess
import sys
import types
from dataclasses import FrozenInstanceError, dataclass, replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from common import files, loss, plotting, session
from common.collate import LengthBatches, pad
from common.config import FURTHER, Shared, check, configure
from common.files import atomic_write
from common.training import warmup_cosine

# ------------------------------------------------------------------------------------ losses and batches


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 5), st.integers(2, 6), st.integers(1, 4)),
    smoothing=st.sampled_from((0.0, 0.1, 0.5)),
    reduction=st.sampled_from(("mean", "sum")),
)
def test_cross_entropy_equals_torchs_with_gradients(shape, smoothing, reduction):
    logits = torch.randn(shape, dtype=torch.double, requires_grad=True)
    target = torch.randint(shape[1], (shape[0], shape[2]))
    ours = loss.cross_entropy(logits, target, smoothing=smoothing, reduction=reduction)
    theirs = F.cross_entropy(logits, target, label_smoothing=smoothing, reduction=reduction)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(value, logits)[0] for value in (ours, theirs)))


@pytest.mark.parametrize("ignored", (-1, 0, 2))
def test_ignored_targets_count_nowhere(ignored):
    log_probs, target = torch.randn(4, 5, 6).log_softmax(1), torch.randint(5, (4, 6))
    target[:, 3:] = ignored
    ours = loss.negative_log_likelihood(log_probs, target, ignored)
    torch.testing.assert_close(ours, F.nll_loss(log_probs, target, ignore_index=ignored))
    assert loss.negative_log_likelihood(torch.zeros(2, 3), torch.full((2,), ignored), ignored) == 0


@pytest.mark.parametrize(("shape", "targets", "message"), (((2, 3), 3, "do not match"), ((0, 3), 0, "is empty")))
def test_losses_report_shapes_that_do_not_fit(shape, targets, message):
    for function in (loss.cross_entropy, loss.negative_log_likelihood):
        with pytest.raises(ValueError, match=message):
            function(torch.zeros(shape), torch.zeros(targets, dtype=torch.long))


@pytest.mark.parametrize("warmup", (0, 1, 4))
def test_the_schedule_rises_linearly_and_falls_along_half_a_cosine(warmup):
    factors = [warmup_cosine(step, 20, warmup) for step in range(1, 21)]
    for step, factor in enumerate(factors, 1):
        falling = 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (20 - warmup))
        assert factor == pytest.approx(step / warmup if step < warmup else falling)


def test_pad_cuts_fills_and_counts():
    tokens, kept = pad([[1, 2, 3], [4], []], value=9, length=2)
    assert tokens.tolist() == [[1, 2], [4, 9], [9, 9]] and kept.tolist() == [2, 1, 1]
    assert pad([[1, 2, 3], [4]], value=0)[0].shape == (2, 3)
    for sequences, length in (([], None), ([[1]], 0)):
        with pytest.raises(ValueError, match="expected at least"):
            pad(sequences, 0, length)


def test_length_batches_hold_all_once_are_of_similar_length_and_change_every_epoch():
    lengths = torch.randint(1, 100, (1000,))
    batches = LengthBatches(lengths, 50, generator=torch.Generator().manual_seed(0))
    first, second = list(batches), list(batches)
    assert len(first) == len(batches) and sorted(torch.cat(first).tolist()) == list(range(1000))
    assert max(int(lengths[rows].max() - lengths[rows].min()) for rows in first) < 25
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ------------------------------------------------------------------------------------ settings


@dataclass(frozen=True)
class Example(Shared):
    epochs: int = 3
    rate: float = 0.1
    dropout: float = 0.5
    decay: float = 0.0
    optimizer: str = "Adam"

    def __post_init__(self):
        check(self, choices={"optimizer": ("Adam", "SGD")}, fractions=("dropout",), zero_allowed=("decay",))


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    (
        ("epoch", 4, TypeError, "unexpected keyword argument 'epoch'"),
        ("epochs", 0, ValueError, "Example.epochs is 0: expected more than 0"),
        ("epochs", 2.5, TypeError, "Example.epochs is 2.5, a float: expected int"),
        ("epochs", True, TypeError, "Example.epochs is True, a bool: expected int"),
        ("epochs", "3", TypeError, "Example.epochs is '3', a str: expected int"),
        ("rate", -1.0, ValueError, "Example.rate is -1.0: expected more than 0"),
        ("rate", math.nan, ValueError, "Example.rate is nan"),
        ("rate", math.inf, ValueError, "Example.rate is inf: expected more than 0, and finite"),
        ("decay", math.inf, ValueError, "Example.decay is inf"),
        ("dropout", 1.0, ValueError, "Example.dropout is 1.0: expected a fraction"),
        ("seed", -1, ValueError, "Example.seed is -1: expected 0 or more"),
        ("data", "reel", ValueError, "Example.data is 'reel': expected one of auto, real, sample"),
        ("optimizer", "adam", ValueError, "Example.optimizer is 'adam': expected one of Adam, SGD"),
        ("resume", "no", TypeError, "Example.resume is 'no', a str: expected bool"),
    ),
)
def test_a_setting_that_cannot_be_meant_is_refused_when_made_replaced_or_preset(name, value, error, message):
    for attempt in (Example, lambda **given: replace(Example(), **given), lambda **given: configure(Example, **given)):
        with pytest.raises(error) as raised:
            attempt(**{name: value})
        assert message in str(raised.value)


def test_good_settings_are_kept_and_cannot_be_changed_later():
    example = replace(Example(rate=1), dropout=0.0)
    assert (example.epochs, example.rate, example.dropout) == (3, 1, 0.0)
    with pytest.raises(FrozenInstanceError):
        example.epochs = 5


def test_the_environment_goes_before_a_preset_and_a_preset_before_defaults(monkeypatch):
    values = {"EPOCHS": "7", "RESUME": "0", "RATE": "1e-3", "DATA": "", "FURTHER_EPOCHS": "9", "CIFAR10_URL": "x"}
    for name, value in values.items():
        monkeypatch.setenv(f"HW4_{name}", value)
    assert configure(Example, epochs=5, dropout=0.1) == Example(epochs=7, rate=1e-3, dropout=0.1, resume=False)
    assert configure(Example, FURTHER, rate=2.0) == Example(epochs=9, rate=2.0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    (
        ("HW4_EPOCHS", "2.5", "HW4_EPOCHS is '2.5': expected int"),
        ("HW4_RESUME", "no", "HW4_RESUME is 'no': expected 1 or 0"),
        ("HW4_RATE", "inf", "Example.rate is inf"),
        ("HW4_EPOCH", "2", "HW4_EPOCH is no setting: expected one of HW4_DATA, HW4_DATA_DIR"),
        ("HW4_FURTHER_EPOCH", "2", "HW4_FURTHER_EPOCH is no setting: expected one of HW4_FURTHER_DATA"),
    ),
)
def test_an_environment_variable_with_a_wrong_value_or_name_is_refused(monkeypatch, name, value, message):
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=message):
        configure(Example), configure(Example, FURTHER)


# ------------------------------------------------------------------------------------ disks and run folders


def test_a_disk_that_fills_while_writing_leaves_the_old_file_and_no_rest(tmp_path):
    path, before = tmp_path / "file", resource.getrlimit(resource.RLIMIT_FSIZE)
    path.write_bytes(b"good")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # the kernel answers as if the disk were full
    try:
        with pytest.raises(OSError, match=r"file was not written .*: free some space"), atomic_write(path) as file:
            file.write(bytes(3_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"good" and os.listdir(tmp_path) == ["file"]


def test_a_read_only_folder_is_named_before_training_begins(tmp_path):
    for folder in (tmp_path, *list(tmp_path.parents)[:-2]):
        folder.chmod(folder.stat().st_mode | 0o005)  # so that nobody may look in
    (tmp_path / "read-only").mkdir(mode=0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # for root, no folder is read-only
    try:
        with pytest.raises(PermissionError, match=r"read-only.* was not written \(Permission denied\): .*choose a"):
            session.run_folder(str(tmp_path / "read-only"), "rnn", "sample")
    finally:
        os.seteuid(user)


def test_a_tilde_in_the_run_folder_is_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert session.run_folder("~/my runs", "rnn") == f"{tmp_path}/my runs/rnn" and (tmp_path / "my runs/rnn").is_dir()


HOLD = "import sys, time; from common import session; session.run_folder(sys.argv[1]); print('held', flush=True)"


def test_a_run_folder_in_use_is_refused_and_is_free_once_its_holder_dies(tmp_path):
    command = [sys.executable, "-c", f"{HOLD}; time.sleep(1e6)", str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
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
        assert os.listdir(tmp_path) == ["lock"]
    finally:
        holder.kill()
        files._locks.pop(tmp_path.resolve(), None)


def test_a_run_folder_on_drive_mounts_drive_in_colab_and_only_there(tmp_path, monkeypatch):
    mounted, drive = [], types.ModuleType("google.colab.drive")
    drive.mount = mounted.append
    monkeypatch.setattr(session, "atomic_write", lambda path: (tmp_path / "writable").open("wb"))
    monkeypatch.setattr(session.Path, "unlink", lambda path: None)
    monkeypatch.setattr(session, "lock", lambda folder: None)
    assert session.run_folder("/content/drive/MyDrive/hw4-runs", "vit") == "/content/drive/MyDrive/hw4-runs/vit"
    assert mounted == []
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    monkeypatch.setitem(sys.modules, "google.colab.drive", drive)
    for folder in ("/content/drive/MyDrive/hw4-runs", "runs"):
        session.run_folder(folder, "vit")
    assert mounted == ["/content/drive"]


# ------------------------------------------------------------------------------------ devices and memory


def test_unknown_and_missing_devices_are_refused(monkeypatch, capsys):
    with pytest.raises(ValueError, match="device 'tpu' is unknown"):
        session.choose_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="finds no GPU"):
        session.choose_device("cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert session.choose_device("auto") == torch.device("cpu") and "GPU of this Mac" in capsys.readouterr().out


@pytest.mark.parametrize(
    "message",
    (
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory",
    ),
)
def test_running_out_of_memory_says_which_setting_to_lower(message):
    with (
        pytest.raises(MemoryError, match="lower dim or batch_size") as error,
        session.memory_advice("dim", "batch_size"),
    ):
        raise RuntimeError(message)
    assert message in str(error.value.__cause__)


def test_other_errors_pass_the_memory_advice_unchanged():
    with pytest.raises(RuntimeError, match="must match"), session.memory_advice("dim"):
        torch.ones(2) + torch.ones(3)


@pytest.mark.parametrize(
    ("processor", "able"),
    (
        ({"avx512_bf16": True}, True),  # AMD Zen 4
        ({"avx512_bf16": True, "avx512_fp16": True}, False),  # Intel Sapphire Rapids whose AMX is hidden from the guest
        ({"avx512_bf16": True, "avx512_fp16": True, "amx_bf16": True}, True),
        ({"avx2": True}, False),
    ),
)
def test_bfloat16_is_taken_on_a_processor_that_gains_from_it(monkeypatch, processor, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor, raising=False)
    assert session.has_bfloat16(torch.device("cpu")) is able


def test_on_a_cpu_a_started_run_sums_in_the_same_order_every_time():
    before, fill = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    try:
        session.start(0, "cpu")
        assert torch.are_deterministic_algorithms_enabled()
        table = torch.randn(50, 64, requires_grad=True)
        words, pull = torch.randint(50, (20_000,)), torch.randn(20_000, 64)
        gradients = [torch.autograd.grad((table[words] * pull).sum(), table)[0] for _ in range(5)]
        assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
    finally:
        torch.use_deterministic_algorithms(before)
        torch.utils.deterministic.fill_uninitialized_memory = fill


@pytest.mark.parametrize(("value", "higher", "passed"), ((71.0, True, True), (70.0, True, False), (6.9, False, False)))
def test_a_result_is_printed_for_people_and_for_programs(capsys, value, higher, passed):
    given = {"task": "rnn", "metric": "test m", "target": 70.0 if higher else 6.9, "higher_is_better": higher}
    sizes = {"train_size": 1, "test_size": 2, "seed": 3, "device": torch.device("cpu"), "seconds": 90.0}
    result = session.report("assignment", **given, value=value, data="sample", **sizes, options={"optimizer": "AdamW"})
    first, second, line = capsys.readouterr().out.splitlines()
    assert f"test m {value:.2f} on 2 test examples of sample data" in first and "1.5 minutes" in second
    assert json.loads(line.removeprefix("RESULT ")) == result
    assert result["passed"] is passed and math.isclose(result["value"], value) and result["peak_host_mb"] > 50
    names = "part task metric value target passed data train_size test_size seed device seconds torch options"
    assert list(result) == [*names.split(), "peak_host_mb"]


# ------------------------------------------------------------------------------------ plotting


@pytest.fixture
def figures():
    yield
    plt.close("all")


def test_a_figure_is_described_by_its_titles_and_axes_each_once(figures):
    figure, axes = plotting.row(3)
    plotting.curves({"train": ([1], [2.0])}, "Loss", "nats", ax=axes[0])
    axes[1].set_title("one\npicture")
    axes[2].set_title("one picture")
    figure.suptitle("All of it")
    assert plotting.described(figure) == "All of it; Loss (nats vs. epoch); one picture"


def test_a_training_is_drawn_over_epochs_with_the_raw_loss_faint_and_the_target_dashed(figures):
    epochs = ([1.0, 2.0], [3.0, 2.0])
    logged = {"step/loss": ([0.1, 2.0], [4.0, 2.0]), "step/learning_rate": ([0.5], [0.1])}
    logged |= {"perplexity/train": epochs, "perplexity/validation": epochs, "loss/train": epochs}
    panels = {"perplexity": "perplexity", "loss": "loss (nats)", "learning_rate": ""}
    first, second, third = plotting.training(logged, panels, target=7.0, note="with smoothing").axes
    assert [line.get_label() for line in first.lines] == ["train", "validation", "target: 7"]
    assert first.lines[2].get_linestyle() == "--" and first.get_yscale() == "log"
    assert second.lines[0].get_alpha() < 0.5 and list(second.lines[0].get_xdata()) == [0.1, 2.0]
    assert second.get_legend().get_texts()[0].get_text().split() == ["train", "(with", "smoothing)"]
    assert third.lines[0].get_color() == plotting.GRAY and third.get_xlabel() == "epoch"


def test_confusion_counts_true_classes_in_rows_and_leaves_the_diagonal_blank(figures):
    ax = plotting.confusion(np.array([0, 0, 0, 1]), np.array([1, 1, 0, 1]), ("cat", "dog"), "Title")
    assert [text.get_text() for text in ax.texts] == ["2", "0"] and ax.get_ylabel() == "true class"
    assert ax.images[0].get_array().filled(-1).tolist() == [[-1, 2], [0, -1]]


def test_the_colors_can_be_told_apart_by_their_lightness_alone():
    """As on a gray print: luminance by Rec. 709."""

    def luminance(color: str) -> float:
        return sum(weight * int(color[i : i + 2], 16) for weight, i in ((0.2126, 1), (0.7152, 3), (0.0722, 5))) / 255

    shown = [luminance(color) for color in (plotting.BLUE, plotting.ORANGE, plotting.GRAY)]
    assert min(abs(a - b) for i, a in enumerate(shown) for b in shown[:i]) > 0.05
