"""The shared helpers against PyTorch's own and against files made to be broken."""

import json
import math

import matplotlib.pyplot as plt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from common import loss, plotting, session
from common.collate import LengthBatches, pad
from common.dropout import dropout
from common.schedule import warmup_cosine


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
    ),
)
def test_losses_report_shapes_that_do_not_fit(scores, target, message):
    for function in (loss.cross_entropy, loss.negative_log_likelihood):
        with pytest.raises(ValueError, match=message):
            function(scores, target)


def test_other_errors_reach_the_caller_unchanged():
    with pytest.raises(RuntimeError, match="int64"):
        loss.cross_entropy(torch.zeros(2, 3), torch.zeros(2))


def test_dropout_keeps_the_mean_and_drops_whole_blocks_where_asked():
    torch.manual_seed(0)
    x = torch.ones(400, 10, 4)
    dropped = dropout(x, 0.25, shape=(400, 10, 1))
    assert dropped.unique().tolist() == [0, pytest.approx(4 / 3)] and abs(dropped.mean() - 1) < 0.03
    assert torch.equal(dropped.amin(2), dropped.amax(2))
    assert dropout(x, 0.25, training=False) is x and dropout(x, 0.0) is x


@pytest.mark.parametrize("warmup", (0, 1, 4))
def test_the_schedule_rises_linearly_and_falls_along_half_a_cosine(warmup):
    factors = [warmup_cosine(step, 20, warmup) for step in range(1, 21)]
    for step, factor in enumerate(factors, 1):
        falling = 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / (20 - warmup))
        assert factor == pytest.approx(step / warmup if step < warmup else falling)
    assert factors[-1] == pytest.approx(0) and max(factors) <= 1


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


# ------------------------------------------------------------------------------------ plotting


def test_a_figure_is_described_by_its_titles_and_axes_each_once():
    figure, axes = plt.subplots(1, 3)
    plotting.curves({"train": ([1], [2.0])}, "Loss", "nats", ax=axes[0])
    axes[1].set_title("one\npicture")
    axes[2].set_title("one picture")
    figure.suptitle("All of it")
    assert plotting.described(figure) == "All of it; Loss (nats against step); one picture"
    plt.close(figure)


def test_the_colors_can_be_told_apart_by_their_lightness_alone():
    """As on a gray print: luminance by Rec. 709."""

    def luminance(color: str) -> float:
        return sum(weight * int(color[i : i + 2], 16) for weight, i in ((0.2126, 1), (0.7152, 3), (0.0722, 5))) / 255

    shown_together = (("train", "validation"), ("train", "target"), ("validation", "target"))
    for one, other in shown_together:
        assert abs(luminance(plotting.COLORS[one]) - luminance(plotting.COLORS[other])) > 0.05


# ------------------------------------------------------------------------------------ session


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
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor)
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
def test_report_prints_and_writes_the_same_result(tmp_path, capsys, value, higher, passed):
    session.report(
        tmp_path,
        task="rnn",
        metric="m",
        value=value,
        target=70.0 if higher else 6.9,
        higher_is_better=higher,
        data="sample",
        train_size=1,
        test_size=2,
        seed=3,
        device=torch.device("cpu"),
        seconds=4.0,
        options={"optimizer": "AdamW"},
    )
    line = capsys.readouterr().out.strip()
    result = json.loads(line.removeprefix("RESULT "))
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["passed"] is passed and math.isclose(result["value"], value)
    names = "task metric value target passed data train_size test_size seed device seconds torch options"
    assert list(result) == [*names.split(), "peak_host_mb"] and result["peak_host_mb"] > 50
