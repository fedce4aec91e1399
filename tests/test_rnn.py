"""Homework 4-1: the hand-written recurrent network against PyTorch's own, through the assignment's interface.

Tests without a question are about what our notebook adds to that interface.
"""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from questions import question
from rules import RULES, call_violations, module_violations, source_violations
from torch import nn
from torch.nn import functional as F

RULE = RULES["hw4_rnn"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def network(rnn) -> nn.Module:
    model = rnn.RNN(vocab_size=11, input_size=5, hidden_size=6, num_class=4).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture
def model(rnn):
    return network(rnn)


def reference(model: nn.Module, text: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, nn.RNN]:
    """The same network from nn.RNN on packed sequences."""
    layer = nn.RNN(5, 6).to(model.W_xh.dtype)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(model.W_xh.T)
        layer.weight_hh_l0.copy_(model.W_hh.T)
        layer.bias_ih_l0.copy_(model.b_xh.flatten())
        layer.bias_hh_l0.copy_(model.b_hh.flatten())
    packed = nn.utils.rnn.pack_padded_sequence(model.embedding[text], length, enforce_sorted=False)
    _, last = layer(packed)
    return (last[0] @ model.W_hy + model.b_hy).softmax(1), layer


# ------------------------------------------------------------------------------------ 1(a)


@question("1a")
def test_collate_cuts_and_pads_to_the_average_length(rnn):
    text, label, length = rnn.collate_batch([(1, "a b c d e"), (4, "a"), (2, "b c")])  # 8 tokens: average 2
    assert text.shape == (2, 3) and text.dtype == label.dtype == length.dtype == torch.long
    assert length.tolist() == [2, 1, 2] and label.tolist() == [0, 3, 1]
    assert text.T.tolist() == [rnn.text_pipeline("a b"), [*rnn.text_pipeline("a"), 0], rnn.text_pipeline("b c")]


@question("1a")
def test_collate_handles_empty_texts_and_unknown_words(rnn):
    text, _, length = rnn.collate_batch([(1, ""), (2, "")])
    assert text.shape == (1, 2) and length.tolist() == [1, 1] and not text.any()
    assert rnn.collate_batch([(3, "zzz")])[0].tolist() == [rnn.text_pipeline("zzz")]


def test_collate_refuses_an_empty_batch_and_a_wrong_label(rnn):
    with pytest.raises(ValueError, match="batch is empty"):
        rnn.collate_batch([])
    with pytest.raises(ValueError, match="label 5 is out of range"):
        rnn.collate_batch([(5, "a")])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 4), st.text("abcxy ", max_size=20)), min_size=1, max_size=9))
def test_index_arithmetic_builds_the_batches_of_collate_batch(rnn, data):
    batches = rnn.NewsBatches(data, batch_size=4, shuffle=False, device=torch.device("cpu"))
    for rows, fast in zip(batches.order, batches, strict=True):
        plain = rnn.collate_batch([data[i] for i in rows])
        assert all(torch.equal(a, b) for a, b in zip(fast, plain, strict=True))


# ------------------------------------------------------------------------------------ 1(b), 1(c)


@question("1b")
def test_parameters_have_the_assignments_names_and_shapes(rnn):
    shapes = {name: tuple(p.shape) for name, p in rnn.RNN(11, 5, 6, 4).named_parameters()}
    expected = {"embedding": (11, 5), "W_xh": (5, 6), "W_hh": (6, 6), "W_hy": (6, 4)}
    assert {name: shapes[name] for name in expected} == expected
    biases = {"b_xh": 6, "b_hh": 6, "b_hy": 4}
    assert {name: math.prod(shapes[name]) for name in biases} == biases
    assert shapes.keys() == expected.keys() | biases.keys()


@question("1c")
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_network_and_all_its_gradients_equal_packed_torch_rnn_for_any_lengths(rnn, data):
    T, B = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 6))
    length = torch.tensor(data.draw(st.lists(st.integers(1, T), min_size=B, max_size=B)))
    model, text = network(rnn), torch.randint(11, (T, B))
    ours = model(text, length)
    theirs, layer = reference(model, text, length)
    assert torch.allclose(ours, theirs, atol=1e-9)
    mine = [model.W_hh, model.W_xh, model.b_hh, model.b_xh, model.embedding, model.W_hy, model.b_hy]
    other = [layer.weight_hh_l0, layer.weight_ih_l0, layer.bias_hh_l0, layer.bias_ih_l0, *mine[4:]]
    grads = zip(
        torch.autograd.grad(ours.log().sum(), mine), torch.autograd.grad(theirs.log().sum(), other), strict=True
    )
    for i, (a, b) in enumerate(grads):
        assert torch.allclose(a.flatten(), (b.T if i < 2 else b).flatten(), atol=1e-9)


@question("1c")
def test_float32_network_equals_torch_rnn_within_1e_5(model):
    text, length = torch.randint(11, (9, 4)), torch.tensor([3, 9, 1, 6])
    theirs, _ = reference(model, text, length)
    assert torch.allclose(model.float()(text, length), theirs.float(), atol=1e-5)


@question("1c")
def test_padding_never_changes_a_probability(model):
    text, length = torch.randint(11, (6, 3)), torch.tensor([2, 6, 4])
    output = model(text, length)
    assert torch.allclose(model(torch.cat([text, torch.zeros(4, 3, dtype=torch.long)]), length), output, atol=1e-12)
    other = text.clone()
    other[2:, 0] = (text[2:, 0] + 1) % 11  # behind the first text's end
    assert torch.allclose(model(other, length), output, atol=1e-12)
    assert torch.allclose(model(text[:2, :1], length[:1]), output[:1], atol=1e-12)  # alone, without padding


@question("1c")
def test_a_text_of_padding_alone_still_gets_probabilities(model):
    probabilities = model(torch.zeros(3, 2, dtype=torch.long), torch.tensor([1, 1]))
    assert torch.allclose(probabilities.sum(1), torch.ones(2, dtype=torch.double))


@question("1c")
def test_evaluation_is_deterministic_and_training_is_not(model):
    text, length = torch.randint(11, (5, 3)), torch.tensor([5, 5, 5])
    assert torch.equal(model(text, length), model(text, length))
    model.train()
    assert not torch.equal(model(text, length), model(text, length))


def test_training_draws_h0_even_without_dropout(model):
    model.dropout_ratio = model.word_dropout = 0.0
    text, length = torch.randint(11, (5, 3)), torch.tensor([5, 5, 5])
    model.train()
    assert not torch.equal(model(text, length), model(text, length))


@question("1c")
@question("1d")
def test_no_layer_and_no_loss_of_torch_is_in_the_source(notebook):
    assert [str(violation) for violation in source_violations(notebook, RULE)] == []


@question("1c")
def test_no_layer_of_torch_is_in_the_built_model_or_called_by_it(model):
    assert module_violations(model, RULE) == []
    text, length = torch.randint(11, (5, 3)), torch.tensor([5, 2, 3])
    assert call_violations(lambda: model.train()(text, length), RULE) == []


def test_recurrence_backward_passes_gradcheck(rnn):
    running = [3, 3, 1, 1]
    shapes = ((sum(running), 2), (2, 2), (2,), (3, 2), (2, 2))  # words, W_xh, bias, h0, W_hh
    inputs = [torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *x: rnn.Recurrence.apply(*x, running), inputs)


@pytest.mark.parametrize("length", ([0, 2], [2, 4]))
def test_length_outside_the_text_is_refused(model, length):
    with pytest.raises(ValueError, match="expected 1 to 3"):
        model(torch.zeros(3, 2, dtype=torch.long), torch.tensor(length))


# ------------------------------------------------------------------------------------ 1(d)


@question("1d")
def test_loss_equals_torch_cross_entropy_with_its_gradient_and_counts_hits(model):
    logits, label = torch.randn(7, 4, dtype=torch.double, requires_grad=True), torch.randint(4, (7,))
    loss, correct = model.compute_loss(logits.softmax(1), label)
    expected = F.cross_entropy(logits, label)
    assert torch.allclose(loss, expected, atol=1e-9)
    assert torch.allclose(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)), atol=1e-9)
    assert isinstance(correct, int) and correct == int((logits.argmax(1) == label).sum())


@question("1d")
def test_no_loss_function_of_torch_is_called_by_the_loss(model):
    prediction, label = torch.randn(3, 4).softmax(1), torch.tensor([0, 1, 3])
    assert call_violations(lambda: model.compute_loss(prediction, label), RULE) == []


@question("1d")
def test_loss_is_finite_where_a_probability_underflowed(model):
    prediction = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss, _ = model.compute_loss(prediction, torch.tensor([1]))
    loss.backward()
    assert math.isfinite(loss.item()) and prediction.grad.isfinite().all()


@pytest.mark.parametrize("label", (-1, 4))
def test_loss_names_a_label_out_of_range(model, label):
    with pytest.raises(ValueError, match=f"label {label} is out of range"):
        model.compute_loss(torch.full((1, 4), 0.25), torch.tensor([label]))


# ------------------------------------------------------------------------------------ 1(e)


def make_scheduler(rnn, warmup=4, decay=0.5):
    return rnn.ScheduledOptim(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0), warmup, decay)


@question("1e")
def test_schedule_warms_up_linearly_then_decays_by_a_factor(rnn):
    scheduler, rates = make_scheduler(rnn), []
    for _ in range(8):
        scheduler.update()
        rates.append(scheduler.get_lr())
    peak = rates.index(max(rates))
    steps = [b - a for a, b in itertools.pairwise(rates[: peak + 1])]
    assert peak >= 2 and max(rates) == pytest.approx(2.0) and steps == pytest.approx([steps[0]] * peak)
    falling = rates[max(peak, 4) :]
    assert len(falling) > 2 and falling[1:] == pytest.approx([0.5 * rate for rate in falling[:-1]])


def test_schedule_sets_the_optimizers_rate_exactly(rnn):
    scheduler, rates = make_scheduler(rnn), []
    for _ in range(7):
        scheduler.update()
        rates.append(scheduler.optimizer.param_groups[0]["lr"])
    assert rates == [0.5, 1.0, 1.5, 2.0, 1.0, 0.5, 0.25]


def test_schedule_goes_on_where_it_was(rnn):
    scheduler, other = make_scheduler(rnn), make_scheduler(rnn)
    for _ in range(5):
        scheduler.update()
    other.load_state_dict(scheduler.state_dict())
    scheduler.update(), other.update()
    assert other.get_lr() == scheduler.get_lr() == 0.5


@pytest.mark.parametrize(("warmup", "decay"), ((-1, 0.5), (2, 0.0), (2, 1.5)))
def test_schedule_refuses_what_makes_no_schedule(rnn, warmup, decay):
    with pytest.raises(ValueError, match="expected n_warmup_steps >= 0"):
        make_scheduler(rnn, warmup, decay)


def test_an_unknown_schedule_is_named(rnn, model):
    with pytest.raises(ValueError, match="'cosin' is unknown"):
        rnn.make_scheduler(model, rnn.Options("Adam", 1e-3, "cosin"), 10, rnn.BUDGETS["sample"])


@question("1e")
def test_evaluate_averages_over_texts_not_batches(rnn, model):
    text, label, length = torch.randint(11, (5, 10)), torch.randint(4, (10,)), torch.full((10,), 5)
    whole = [(text, label, length)]
    parts = [(text[:, :9], label[:9], length[:9]), (text[:, 9:], label[9:], length[9:])]
    assert rnn.evaluate(model, parts) == pytest.approx(rnn.evaluate(model, whole))
    probabilities = model(text, length)
    loss, hits = F.nll_loss(probabilities.log(), label), (probabilities.argmax(1) == label).double().mean()
    assert rnn.evaluate(model, whole) == pytest.approx((loss.item(), 100 * hits.item()))


@question("1e")
def test_evaluate_changes_nothing_and_train_does(rnn, model):
    batch = (torch.randint(11, (5, 8)), torch.arange(8) % 4, torch.full((8,), 5))
    before = [p.clone() for p in model.parameters()]
    rnn.evaluate(model, [batch])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    rnn.train(model, [batch], rnn.ScheduledOptim(torch.optim.SGD(model.parameters(), lr=0.1), 1, 1.0))
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@question("1e")
def test_train_updates_the_schedule_every_batch_and_learns(rnn):
    model = rnn.RNN(11, 8, 16, 4)
    scheduler = rnn.ScheduledOptim(torch.optim.AdamW(model.parameters(), lr=0.02), 2, 1.0)
    label = torch.arange(8) % 4
    batch = (label.repeat(5, 1) + 2, label, torch.full((8,), 5))  # every word tells the label
    first, _ = rnn.train(model, [batch] * 2, scheduler)
    assert scheduler.get_lr() == pytest.approx(0.02)
    for _ in range(60):
        last, _ = rnn.train(model, [batch] * 2, scheduler)
    assert last < 0.5 * first and rnn.evaluate(model, [batch])[1] == 100.0
