"""The shared helpers against PyTorch's own and against files made to be broken."""

import io
import json
import math
import resource

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from common import loss, plotting, session, tracking
from common.checkpoint import Checkpoint, forget
from common.collate import LengthBatches, pad


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
    assert torch.allclose(ours, theirs, atol=1e-9)
    assert torch.allclose(*(torch.autograd.grad(value, logits)[0] for value in (ours, theirs)), atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(B=st.integers(1, 6), C=st.integers(2, 6))
def test_cross_entropy_of_probabilities_equals_torchs_with_gradients(B, C):
    logits, target = torch.randn(B, C, dtype=torch.double, requires_grad=True), torch.randint(C, (B,))
    values = loss.probability_cross_entropy(logits.softmax(1), target), F.cross_entropy(logits, target)
    assert torch.allclose(*values, atol=1e-9)
    assert torch.allclose(*(torch.autograd.grad(value, logits)[0] for value in values), atol=1e-9)


@pytest.mark.parametrize("ignored", (-1, 0, 2))
def test_ignored_targets_count_nowhere(ignored):
    log_probs, target = torch.randn(4, 5, 6).log_softmax(1), torch.randint(5, (4, 6))
    target[:, 3:] = ignored
    ours = loss.negative_log_likelihood(log_probs, target, ignored)
    assert torch.allclose(ours, F.nll_loss(log_probs, target, ignore_index=ignored), atol=1e-6)


def test_a_target_of_padding_alone_costs_nothing():
    assert loss.negative_log_likelihood(torch.zeros(2, 3), torch.full((2,), -1), -1) == 0


@pytest.mark.parametrize(
    ("scores", "target", "message"),
    (
        (torch.zeros(2, 3), torch.zeros(3, dtype=torch.long), "do not match"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "batch is empty"),
        (torch.zeros(1, 3), torch.tensor([3]), "label 3 is out of range"),
    ),
)
def test_losses_name_what_does_not_fit(scores, target, message):
    for function in (loss.cross_entropy, loss.negative_log_likelihood, loss.probability_cross_entropy):
        with pytest.raises(ValueError, match=message):
            function(scores, target)


def test_pad_cuts_fills_and_counts():
    tokens, kept = pad([[1, 2, 3], [4], []], value=9, length=2)
    assert tokens.tolist() == [[1, 2], [4, 9], [9, 9]] and kept.tolist() == [2, 1, 1]
    assert pad([[1, 2, 3], [4]], value=0)[0].shape == (2, 3)


@pytest.mark.parametrize(("sequences", "length"), (([], None), ([[1]], 0)))
def test_pad_refuses_an_empty_batch_and_no_length(sequences, length):
    with pytest.raises(ValueError, match="expected at least"):
        pad(sequences, 0, length)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.integers(1, 9))
def test_length_batches_hold_every_index_once(lengths, size):
    batches = LengthBatches(lengths, size, generator=torch.Generator().manual_seed(0))
    seen = list(batches)
    assert len(seen) == len(batches) and sorted(torch.cat(seen).tolist()) == list(range(len(lengths)))


def test_length_batches_are_of_similar_length_and_change_every_epoch():
    lengths = torch.randint(1, 100, (1000,))
    batches = LengthBatches(lengths, 50, generator=torch.Generator().manual_seed(0))
    first, second = list(batches), list(batches)
    assert max(int(lengths[rows].max() - lengths[rows].min()) for rows in first) < 25
    assert not all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


# ------------------------------------------------------------------------------------ checkpoints


def make(folder, outputs=2, **parameters):
    model = nn.Linear(3, outputs)
    optimizer = torch.optim.AdamW(model.parameters())
    generator = torch.Generator().manual_seed(1)
    return Checkpoint(folder, {"dim": 3} | parameters, model=model, optimizer=optimizer, generator=generator)


def steps(checkpoint, count):
    """Training steps whose data depends on both random states."""
    model, optimizer, generator = (checkpoint.parts[name] for name in ("model", "optimizer", "generator"))
    for _ in range(count):
        optimizer.zero_grad()
        (model(torch.randn(4, 3)) * torch.randn(4, 2, generator=generator)).square().sum().backward()
        optimizer.step()


def test_a_resumed_training_equals_an_uninterrupted_one_bit_for_bit(tmp_path):
    torch.manual_seed(0)
    one = make(tmp_path)
    steps(one, 3)
    one.save(1, [{"loss": 0.5}])
    steps(one, 3)
    torch.manual_seed(99)
    two = make(tmp_path)
    assert two.restore() == (1, [{"loss": 0.5}])
    steps(two, 3)
    assert all(torch.equal(a, b) for a, b in zip(*(c.parts["model"].parameters() for c in (one, two)), strict=True))


def test_nothing_to_resume_means_a_fresh_start(tmp_path):
    checkpoint = make(tmp_path / "one")
    assert checkpoint.restore() == (0, [])
    checkpoint.save(1, [])
    assert checkpoint.restore(resume=False) == (0, [])
    forget(tmp_path)
    assert checkpoint.restore() == (0, [])


def foreign() -> bytes:
    buffer = io.BytesIO()
    torch.save({"model": torch.zeros(3)}, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("damage", "reason"),
    (
        (lambda content: b"", "not one of this project"),
        (lambda content: b"no checkpoint", "not one of this project"),
        (lambda content: foreign(), "not one of this project"),
        (lambda content: content[: len(content) // 2], "checksum"),
        (lambda content: content[:-900] + bytes([content[-900] ^ 1]) + content[-899:], "checksum"),
    ),
    ids=("empty", "text", "foreign", "half", "one bit flipped"),
)
def test_a_damaged_or_foreign_checkpoint_is_named_kept_aside_and_not_used(tmp_path, capsys, damage, reason):
    checkpoint = make(tmp_path)
    checkpoint.save(1, [])
    checkpoint.path.write_bytes(damage(checkpoint.path.read_bytes()))
    assert checkpoint.restore() == (0, [])
    said = capsys.readouterr().out
    assert "checkpoint.pt is no usable checkpoint" in said and reason in said
    assert (tmp_path / "checkpoint.damaged").exists() and not checkpoint.path.exists()


def test_a_checkpoint_holds_no_code_to_run(tmp_path):
    """It is read with ``weights_only=True``, so a file from a stranger cannot execute anything."""

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "evil"), "w"))

    checkpoint = make(tmp_path)
    checkpoint.parameters = {"dim": Evil()}
    checkpoint.save(1, [])
    with pytest.raises(Exception, match="Weights only load failed"):
        checkpoint.restore()
    assert not (tmp_path / "evil").exists()


def test_a_checkpoint_of_a_model_of_another_shape_is_refused(tmp_path):
    make(tmp_path).save(1, [])
    with pytest.raises(ValueError, match=r"does not fit \(.*size mismatch.*set resume to False"):
        make(tmp_path, outputs=5).restore()


def test_a_finished_training_keeps_only_what_is_used_later(tmp_path):
    one = make(tmp_path)
    one.save(1, [{"loss": 1.0}])
    size = one.path.stat().st_size
    one.save(2, [{"loss": 0.5}], only=("model",))
    two = make(tmp_path)
    assert two.restore() == (2, [{"loss": 0.5}]) and one.path.stat().st_size < size
    assert torch.equal(one.parts["model"].weight, two.parts["model"].weight)


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path):
    make(tmp_path).save(1, [])
    (tmp_path / "checkpoint.pt.abc.part").write_bytes(b"half")
    assert make(tmp_path).restore()[0] == 1 and [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_checkpoint_of_other_parameters_is_refused_with_the_difference(tmp_path):
    make(tmp_path).save(1, [])
    with pytest.raises(ValueError, match=r"dim: 3 there, 4 now; seed: None there, 7 now"):
        make(tmp_path, dim=4, seed=7).restore()


def test_a_save_that_fails_leaves_the_old_checkpoint_and_no_rest(tmp_path):
    checkpoint = make(tmp_path)
    checkpoint.save(1, [])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, limits[1]))  # answers like a full disk
    try:
        with pytest.raises(OSError, match=r"checkpoint\.pt was not written"):
            checkpoint.save(2, [])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"] and checkpoint.restore()[0] == 1


# ------------------------------------------------------------------------------------ tracking


def test_curves_are_read_back_and_a_resumed_run_has_no_double_points(tmp_path):
    with tracking.open_run(tmp_path / "run") as writer:
        for epoch in (1, 2, 3):
            tracking.log(writer, epoch, train_loss=1.0 / epoch)
    with tracking.open_run(tmp_path / "run", finished=2) as writer:
        tracking.log(writer, 3, train_loss=9.0)
        tracking.log(writer, 4, train_loss=8.0)
    epochs, values = tracking.read_run(tmp_path / "run")["train/loss"]
    assert epochs == [1, 2, 3, 4] and values == pytest.approx([1, 0.5, 9, 8])


def test_a_fresh_run_forgets_the_old_one(tmp_path):
    for value in (1.0, 2.0):
        with tracking.open_run(tmp_path / "run") as writer:
            tracking.log(writer, 1, train_loss=value)
    assert tracking.read_run(tmp_path / "run")["train/loss"] == ([1], [2.0])


def test_options_join_the_curves_of_their_run(tmp_path):
    with tracking.open_run(tmp_path / "run") as writer:
        tracking.log(writer, 1, train_loss=1.0)
        tracking.log_options(writer, 1, {"optimizer": "SGD", "rate": 0.1}, {"accuracy": 88.0})
    assert tracking.read_run(tmp_path / "run")["outcome/accuracy"][1] == [88.0]
    assert [p for p in tmp_path.iterdir()] == [tmp_path / "run"]


def test_reading_a_run_that_is_not_there_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match="run the training cell first"):
        tracking.read_run(tmp_path)


def test_a_bar_tells_the_time_left_for_all_rounds_and_leaves_no_line_behind(capsys):
    bar = tracking.progress("abc", "training", "batch", finished=2, rounds=4)
    assert (bar.initial, bar.total, list(bar)) == (6, 12, ["a", "b", "c"])
    print("epoch 3")
    out, err = capsys.readouterr()
    assert "50%" in out and out.splitlines()[-1] == "epoch 3" and not err


def test_a_hidden_bar_prints_nothing(capsys):
    assert list(tracking.progress("abc", "training", "batch", shown=False)) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


# ------------------------------------------------------------------------------------ plotting


def test_a_figure_is_described_by_its_titles_and_axes_each_once():
    figure, axes = plt.subplots(1, 3)
    plotting.curves({"train": ([1], [2.0])}, "Loss", "nats", ax=axes[0])
    axes[1].set_title("one\npicture")
    axes[2].set_title("one picture")
    figure.suptitle("All of it")
    assert plotting.described(figure) == "All of it; Loss (nats against epoch); one picture"
    plt.close(figure)


def test_the_colors_can_be_told_apart_by_their_lightness_alone():
    """As on a gray print: luminance by Rec. 709."""

    def luminance(color: str) -> float:
        return sum(share * int(color[i : i + 2], 16) for share, i in ((0.2126, 1), (0.7152, 3), (0.0722, 5))) / 255

    shown_together = (("train", "validation"), ("train", "bar"), ("validation", "bar"))
    for one, other in shown_together:
        assert abs(luminance(plotting.COLORS[one]) - luminance(plotting.COLORS[other])) > 0.05


# ------------------------------------------------------------------------------------ session


@pytest.mark.parametrize(("value", "higher", "passed"), ((71.0, True, True), (70.0, True, False), (6.9, False, False)))
def test_report_prints_and_writes_the_same_result(tmp_path, capsys, value, higher, passed):
    bar = 70.0 if higher else 6.9
    session.report(
        tmp_path, task="rnn", metric="m", value=value, bar=bar, higher_is_better=higher, data="sample",
        train_size=1, test_size=2, seed=3, device=torch.device("cpu"), seconds=4.0,
    )  # fmt: skip
    line = capsys.readouterr().out.strip()
    result = json.loads(line.removeprefix("RESULT "))
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["passed"] is passed and math.isclose(result["value"], value)
    names = "task metric value bar passed data train_size test_size seed device seconds torch"
    assert list(result) == [*names.split(), "peak_host_mb"] and result["peak_host_mb"] > 50
