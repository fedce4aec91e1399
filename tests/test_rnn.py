"""The hand-written recurrent network against PyTorch's own, and its data on odd input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F


@pytest.fixture
def model(rnn):
    torch.manual_seed(0)
    model = rnn.RNN(vocab_size=11, input_size=5, hidden_size=6, num_class=4).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def reference(model, text, length):
    """The same network from nn.RNN on packed sequences."""
    layer = nn.RNN(5, 6).double()
    with torch.no_grad():
        layer.weight_ih_l0.copy_(model.W_xh.T)
        layer.weight_hh_l0.copy_(model.W_hh.T)
        layer.bias_ih_l0.copy_(model.b_xh)
        layer.bias_hh_l0.copy_(model.b_hh)
    packed = nn.utils.rnn.pack_padded_sequence(model.embedding[text], length, enforce_sorted=False)
    _, last = layer(packed)
    return (last[0] @ model.W_hy + model.b_hy).softmax(1), layer


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_network_and_its_gradients_equal_packed_torch_rnn_for_any_lengths(rnn, data):
    T, B = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 6))
    length = torch.tensor(data.draw(st.lists(st.integers(1, T), min_size=B, max_size=B)))
    model = rnn.RNN(vocab_size=11, input_size=5, hidden_size=6, num_class=4).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    text = torch.randint(11, (T, B))
    ours = model(text, length)
    theirs, layer = reference(model, text, length)
    assert torch.allclose(ours, theirs, atol=1e-9)
    ours_grad = torch.autograd.grad(ours.log().sum(), [model.W_hh, model.W_xh, model.b_hh, model.embedding])
    theirs_grad = torch.autograd.grad(
        theirs.log().sum(), [layer.weight_hh_l0, layer.weight_ih_l0, layer.bias_hh_l0, model.embedding]
    )
    assert torch.allclose(ours_grad[0], theirs_grad[0].T, atol=1e-9)
    assert torch.allclose(ours_grad[1], theirs_grad[1].T, atol=1e-9)
    assert torch.allclose(ours_grad[2], theirs_grad[2], atol=1e-9)
    assert torch.allclose(ours_grad[3], theirs_grad[3], atol=1e-9)


def test_float32_network_equals_torch_rnn_within_1e_5(model):
    text, length = torch.randint(11, (9, 4)), torch.tensor([3, 9, 1, 6])
    theirs, _ = reference(model, text, length)
    assert torch.allclose(model.float()(text, length), theirs.float(), atol=1e-5)


def test_recurrence_backward_passes_gradcheck(rnn):
    inputs = [torch.randn(*s, dtype=torch.double, requires_grad=True) for s in ((4, 3, 2), (3, 2), (2, 2))]
    assert torch.autograd.gradcheck(lambda *x: rnn.Recurrence.apply(*x, [3, 3, 1, 1]), inputs)


def test_padding_never_changes_a_probability(model):
    text, length = torch.randint(11, (6, 3)), torch.tensor([2, 6, 4])
    padded = torch.cat([text, torch.zeros(4, 3, dtype=torch.long)])
    other = text.clone()
    other[2:, 0] = torch.randint(11, (4,))  # behind the first text's end
    assert torch.equal(model(padded, length), model(text, length))
    assert torch.equal(model(other, length), model(text, length))


def test_a_text_of_padding_alone_still_gets_probabilities(model):
    probabilities = model(torch.zeros(3, 2, dtype=torch.long), torch.tensor([1, 1]))
    assert torch.allclose(probabilities.sum(1), torch.ones(2, dtype=torch.double))


def test_evaluation_is_deterministic_and_training_draws_h0(rnn, model):
    model.dropout_ratio = model.word_dropout = 0.0
    text, length = torch.randint(11, (5, 3)), torch.tensor([5, 5, 5])
    assert torch.equal(model(text, length), model(text, length))
    model.train()
    assert not torch.equal(model(text, length), model(text, length))


def test_parameters_carry_the_assignments_names(rnn):
    model = rnn.RNN(11, 5, 6, 4)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes == {
        "embedding": (11, 5), "W_xh": (5, 6), "W_hh": (6, 6), "W_hy": (6, 4), "b_xh": (6,), "b_hh": (6,), "b_hy": (4,),
    }  # fmt: skip


@pytest.mark.parametrize("length", ([0, 2], [2, 4]))
def test_length_outside_the_text_is_refused(model, length):
    with pytest.raises(ValueError, match="expected 1 to 3"):
        model(torch.zeros(3, 2, dtype=torch.long), torch.tensor(length))


def test_loss_equals_torch_cross_entropy_and_counts_hits(model):
    logits, label = torch.randn(7, 4), torch.randint(4, (7,))
    loss, correct = model.compute_loss(logits.softmax(1), label)
    assert torch.allclose(loss, F.cross_entropy(logits, label), atol=1e-5)
    assert type(correct) is int and correct == int((logits.argmax(1) == label).sum())


def test_loss_is_finite_where_a_probability_underflowed(model):
    prediction = torch.tensor([[1.0, 0.0]], requires_grad=True)
    loss, _ = model.compute_loss(prediction, torch.tensor([1]))
    loss.backward()
    assert math.isfinite(loss.item()) and prediction.grad.isfinite().all()


@pytest.mark.parametrize("label", (-1, 4))
def test_loss_names_a_label_out_of_range(model, label):
    with pytest.raises(ValueError, match=f"label {label} is out of range"):
        model.compute_loss(torch.full((1, 4), 0.25), torch.tensor([label]))


def test_collate_cuts_and_pads_to_the_average_length(rnn):
    text, label, length = rnn.collate_batch([(1, "a b c d e"), (4, "a"), (2, "b c")])  # 8 tokens: average 2
    assert text.shape == (2, 3) and text.dtype == label.dtype == length.dtype == torch.long
    assert length.tolist() == [2, 1, 2] and label.tolist() == [0, 3, 1]
    assert text[1, 1] == 0 and (text[:, 0] != 0).all()


def test_collate_handles_empty_texts_and_single_words(rnn):
    text, _, length = rnn.collate_batch([(1, ""), (2, "")])
    assert text.shape == (1, 2) and length.tolist() == [1, 1] and not text.any()
    assert rnn.collate_batch([(3, "zzz")])[0].tolist() == [[1]]  # unknown


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


def make_scheduler(rnn, warmup=4, decay=0.5):
    parameter = nn.Parameter(torch.zeros(1))
    return rnn.ScheduledOptim(torch.optim.SGD([parameter], lr=2.0), warmup, decay)


def test_scheduler_warms_up_linearly_then_decays_by_a_factor(rnn):
    scheduler, rates = make_scheduler(rnn), []
    for _ in range(7):
        scheduler.update()
        rates.append(scheduler.get_lr())
    assert rates == [0.5, 1.0, 1.5, 2.0, 1.0, 0.5, 0.25]
    assert scheduler.optimizer.param_groups[0]["lr"] == 0.25


def test_scheduler_state_goes_on_where_it_was(rnn):
    scheduler, other = make_scheduler(rnn), make_scheduler(rnn)
    for _ in range(5):
        scheduler.update()
    other.load_state_dict(scheduler.state_dict())
    scheduler.update(), other.update()
    assert other.get_lr() == scheduler.get_lr() == 0.5


def test_evaluate_averages_over_texts_not_batches(rnn, model):
    text, label, length = torch.randint(11, (5, 10)), torch.randint(4, (10,)), torch.full((10,), 5)
    whole = [(text, label, length)]
    parts = [(text[:, :9], label[:9], length[:9]), (text[:, 9:], label[9:], length[9:])]
    assert rnn.evaluate(model, parts) == pytest.approx(rnn.evaluate(model, whole))
    loss = F.nll_loss(model(text, length).log(), label).item()
    assert rnn.evaluate(model, whole)[0] == pytest.approx(loss)


def test_train_updates_the_schedule_every_batch_and_learns(rnn):
    torch.manual_seed(0)
    model = rnn.RNN(11, 5, 6, 4)
    scheduler = rnn.ScheduledOptim(torch.optim.AdamW(model.parameters(), lr=0.02), 2, 1.0)
    batch = (torch.randint(11, (5, 8)), torch.arange(8) % 4, torch.full((8,), 5))
    model.dropout_ratio = model.word_dropout = 0.0
    first, _ = rnn.train(model, [batch] * 2, scheduler)
    assert scheduler.get_lr() == 0.02
    for _ in range(30):
        last, accuracy = rnn.train(model, [batch] * 2, scheduler)
    assert last < 0.2 < first and accuracy == 100.0
