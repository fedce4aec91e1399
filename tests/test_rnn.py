"""Homework 4-1: the hand-written recurrent network against PyTorch's own, and the notebook's parts around it."""

import copy
import itertools
import math
import types
from collections import Counter
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torchtext.data.utils import get_tokenizer
from torchtext.vocab import Vocab

DATA = [(1 + i % 4, ("a b c d e " * 3)[: 2 * (1 + i % 9)]) for i in range(40)]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def text_pipeline(rnn):
    vocab = Vocab(Counter("abcde"), specials=("<pad>", "<unk>"))
    return rnn.make_pipeline(vocab, get_tokenizer("basic_english"))


@pytest.fixture(scope="module")
def collate_batch(rnn, text_pipeline):
    return rnn.make_collate(text_pipeline)


def network(rnn: types.ModuleType, kind: str) -> nn.Module:
    model = getattr(rnn, kind)(vocab_size=11, input_size=5, hidden_size=6, num_class=4).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture(params=("RNN", "FastRNN"))
def model(rnn, request):
    return network(rnn, request.param)


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


# ------------------------------------------------------------------------------------ 1(a) and the loaders


def test_collate_cuts_and_pads_to_the_average_length(collate_batch, text_pipeline):
    text, label, length = collate_batch([(1, "a b c d e"), (4, "a"), (2, "b c")])  # 8 tokens: average 2
    assert text.shape == (2, 3) and text.dtype == label.dtype == length.dtype == torch.long
    assert length.tolist() == [2, 1, 2] and label.tolist() == [0, 3, 1]
    assert text.T.tolist() == [text_pipeline("a b"), [*text_pipeline("a"), 0], text_pipeline("b c")]


def test_collate_handles_empty_texts_and_unknown_words(collate_batch):
    text, _, length = collate_batch([(1, ""), (2, "")])
    assert text.shape == (1, 2) and length.tolist() == [1, 1] and not text.any()
    assert collate_batch([(3, "zzz")])[0].tolist() == [[1]]


def test_collate_refuses_an_empty_batch_and_a_wrong_label(collate_batch):
    with pytest.raises(ValueError, match="batch is empty"):
        collate_batch([])
    with pytest.raises(ValueError, match="label 5 is out of range"):
        collate_batch([(5, "a")])


@settings(max_examples=50, deadline=None)
@given(batch=st.lists(st.tuples(st.integers(1, 4), st.text("abcxy ", max_size=20)), min_size=1, max_size=9))
def test_collate_keeps_the_first_words_of_every_text_and_nothing_else(collate_batch, text_pipeline, batch):
    text, label, length = collate_batch(batch)
    tokens = [text_pipeline(words) for _, words in batch]
    T = max(1, sum(len(words) for words in tokens) // len(tokens))
    assert text.shape == (T, len(batch)) and label.tolist() == [label - 1 for label, _ in batch]
    for column, kept, words in zip(text.T.tolist(), length.tolist(), tokens, strict=True):
        assert kept == min(max(1, len(words)), T) and column == (words + [0] * T)[:T]


def test_a_text_is_tokenized_once(rnn):
    calls = []
    pipeline = rnn.make_pipeline(Vocab(Counter("ab")), lambda text: calls.append(text) or text.split())
    assert pipeline("a b") == pipeline("a b") and calls == ["a b"]


def test_loaders_hold_every_text_once_and_their_batches_come_from_collate_batch(rnn, text_pipeline, collate_batch):
    seen = []

    def collate(batch):
        seen.extend(batch)
        return collate_batch(batch)

    config = rnn.Config(batch_size=16, jitter=0.0)
    for shuffle in (True, False):
        seen.clear()
        loader = rnn.length_loader(DATA, text_pipeline, collate, config, shuffle=shuffle)
        batches = list(loader)
        assert sorted(seen) == sorted(DATA) and len(batches) == len(loader) == 3
        assert all(int(length.max() - length.min()) <= 4 for _, _, length in batches)
    seen.clear()
    course = rnn.course_loader(DATA * 4, collate, seed=1)
    assert [text.shape[1] for text, _, _ in course] == [64, 64, 32] and sorted(seen) == sorted(DATA * 4)


def test_tokens_kept_counts_what_cutting_leaves(rnn, text_pipeline, collate_batch):
    loader = rnn.course_loader([(1, "a b c d e"), (2, "a"), (3, "")], collate_batch, seed=1)  # T = 2: 2 + 1 + 1 of 7
    assert rnn.tokens_kept(loader, text_pipeline) == pytest.approx(100 * 4 / 7)


# ------------------------------------------------------------------------------------ 1(b), 1(c)


def test_parameters_have_the_assignments_names_and_shapes(rnn):
    shapes = {name: tuple(p.shape) for name, p in rnn.RNN(11, 5, 6, 4).named_parameters()}
    matrices = {"embedding": (11, 5), "W_xh": (5, 6), "W_hh": (6, 6), "W_hy": (6, 4)}
    assert shapes == matrices | {"b_xh": (6,), "b_hh": (6,), "b_hy": (4,)}


@pytest.mark.parametrize("kind", ("RNN", "FastRNN"))
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_network_and_all_its_gradients_equal_packed_torch_rnn_for_any_lengths(rnn, kind, data):
    T, B = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 6))
    length = torch.tensor(data.draw(st.lists(st.integers(1, T), min_size=B, max_size=B)))
    model, text = network(rnn, kind), torch.randint(11, (T, B))
    ours = model(text, length)
    theirs, layer = reference(model, text, length)
    assert torch.allclose(ours, theirs, atol=1e-9)
    mine = [model.W_hh, model.W_xh, model.b_hh, model.b_xh, model.embedding, model.W_hy, model.b_hy]
    other = [layer.weight_hh_l0, layer.weight_ih_l0, layer.bias_hh_l0, layer.bias_ih_l0, *mine[4:]]
    grads = zip(
        torch.autograd.grad(ours.log().sum(), mine), torch.autograd.grad(theirs.log().sum(), other), strict=True
    )
    for i, (a, b) in enumerate(grads):
        assert torch.allclose(a, b.T if i < 2 else b, atol=1e-9)


def test_float32_network_equals_torch_rnn_within_1e_5(model):
    text, length = torch.randint(11, (9, 4)), torch.tensor([3, 9, 1, 6])
    theirs, _ = reference(model, text, length)
    assert torch.allclose(model.float()(text, length), theirs.float(), atol=1e-5)


def test_plain_and_fast_network_are_equal_in_training_too(rnn):
    plain, fast = network(rnn, "RNN").train(), network(rnn, "FastRNN").train()
    fast.load_state_dict(plain.state_dict())
    text, length, outputs = torch.randint(11, (6, 5)), torch.tensor([2, 6, 4, 6, 1]), []
    for model in (plain, fast):
        model.dropout_ratio = model.word_dropout = model.h0_scale = 0.0  # what is drawn, is drawn in another order
        probabilities = model(text, length)
        probabilities.log().sum().backward()
        outputs.append([probabilities, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*outputs, strict=True))


def test_padding_never_changes_a_probability(model):
    text, length = torch.randint(11, (6, 3)), torch.tensor([2, 6, 4])
    output = model(text, length)
    assert torch.allclose(model(torch.cat([text, torch.zeros(4, 3, dtype=torch.long)]), length), output, atol=1e-12)
    other = text.clone()
    other[2:, 0] = (text[2:, 0] + 1) % 11  # behind the first text's end
    assert torch.allclose(model(other, length), output, atol=1e-12)
    assert torch.allclose(model(text[:2, :1], length[:1]), output[:1], atol=1e-12)  # alone, without padding


def test_a_text_of_padding_alone_still_gets_probabilities(model):
    probabilities = model(torch.zeros(3, 2, dtype=torch.long), torch.tensor([1, 1]))
    assert torch.allclose(probabilities.sum(1), torch.ones(2, dtype=torch.double))


def test_evaluation_is_deterministic_and_training_draws_h0_even_without_dropout(model):
    text, length = torch.randint(11, (5, 3)), torch.tensor([5, 5, 5])
    assert torch.equal(model(text, length), model(text, length))
    model.dropout_ratio = model.word_dropout = 0.0
    model.train()
    assert not torch.equal(model(text, length), model(text, length))


def test_dropout_acts_in_training_on_numbers_and_on_whole_words(model):
    words = torch.randint(11, (400,))
    assert torch.equal(model.embed(words), model.embedding[words])
    model.train()
    model.dropout_ratio, model.word_dropout = 0.0, 0.5
    dropped = (model.embed(words) == 0).all(1)
    assert 0.3 < dropped.double().mean() < 0.7

    model.dropout_ratio, model.word_dropout = 0.5, 0.0
    assert 0.4 < (model.embed(words) == 0).double().mean() < 0.6


def test_recurrence_backward_passes_gradcheck(rnn):
    running = [3, 3, 1, 1]
    shapes = ((4, 3, 2), (3, 2), (2, 2))  # projected, h0, W_hh
    inputs = [torch.randn(*shape, dtype=torch.double, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *x: rnn.Recurrence.apply(*x, running), inputs)


def test_two_readings_pay_for_the_divergence_between_them(rnn):
    model, label = network(rnn, "RDropRNN"), torch.tensor([0, 3, 1])
    model.agreement = 0.7
    readings = torch.randn(6, 4, dtype=torch.double, requires_grad=True)
    loss, correct = model.compute_loss(readings.softmax(1), label)
    p, q = readings.log_softmax(1).chunk(2)
    there, back = (F.kl_div(a, b, reduction="batchmean", log_target=True) for a, b in ((p, q), (q, p)))
    expected = (F.nll_loss(p, label) + F.nll_loss(q, label)) / 2 + 0.7 * (there + back) / 2
    assert torch.allclose(loss, expected) and correct == (readings.argmax(1) == label.repeat(2)).sum() / 2
    gradients = [torch.autograd.grad(value, readings, retain_graph=True)[0] for value in (loss, expected)]
    assert torch.allclose(*gradients)


def test_only_in_training_is_a_text_read_twice_and_dropout_tells_the_readings_apart(rnn):
    model, fast = network(rnn, "RDropRNN"), network(rnn, "FastRNN")
    fast.load_state_dict(model.state_dict())
    text, length = torch.randint(11, (6, 3)), torch.tensor([2, 6, 4])
    once = model(text, length)
    assert torch.equal(once, fast(text, length))
    p, q = model.train()(text, length).chunk(2)
    assert p.shape == once.shape and not torch.allclose(p, q)
    model.dropout_ratio = model.word_dropout = model.h0_scale = 0.0
    p, q = model(text, length).chunk(2)
    assert torch.allclose(p, q) and torch.allclose(p, once)


@pytest.mark.parametrize("length", ([0, 2], [2, 4]))
def test_length_outside_the_text_is_refused(model, length):
    with pytest.raises(ValueError, match="expected 1 to 3"):
        model(torch.zeros(3, 2, dtype=torch.long), torch.tensor(length))


def test_orthogonal_start_is_orthogonal(rnn):
    config = rnn.Config(hidden_size=6, recurrent_start="orthogonal")
    W_hh = rnn.make_rnn(config, vocab_size=11, device=torch.device("cpu")).W_hh
    assert torch.allclose(W_hh @ W_hh.T, torch.eye(6), atol=1e-5) and not torch.allclose(W_hh, torch.eye(6))


# ------------------------------------------------------------------------------------ 1(d)


def test_loss_equals_torch_cross_entropy_with_its_gradient_and_counts_hits(model):
    logits, label = torch.randn(7, 4, dtype=torch.double, requires_grad=True), torch.randint(4, (7,))
    loss, correct = model.compute_loss(logits.softmax(1), label)
    expected = F.cross_entropy(logits, label)
    assert torch.allclose(loss, expected, atol=1e-9)
    assert torch.allclose(*(torch.autograd.grad(value, logits)[0] for value in (loss, expected)), atol=1e-9)
    assert isinstance(correct, int) and correct == int((logits.argmax(1) == label).sum())


def test_an_underflowed_probability_gives_a_finite_loss_and_spoils_no_other_gradient(model):
    prediction = torch.tensor([[1.0, 0.0], [0.5, 0.5]], requires_grad=True)
    loss, _ = model.compute_loss(prediction, torch.tensor([1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx((-math.log(torch.finfo(torch.float).tiny) + math.log(2)) / 2)
    assert prediction.grad.tolist() == [[0, 0], [0, -1.0]]


# ------------------------------------------------------------------------------------ 1(e)


def make_scheduler(rnn, warmup=4, decay=0.5):
    return rnn.ScheduledOptim(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0), warmup, decay)


@pytest.mark.parametrize(
    ("warmup", "expected"),
    ((4, [0.5, 1.0, 1.5, 2.0, 1.0, 0.5, 0.25]), (1, [2.0, 1.0, 0.5]), (0, [1.0, 0.5, 0.25])),
)
def test_schedule_warms_up_linearly_then_decays_by_a_factor(rnn, warmup, expected):
    scheduler, rates = make_scheduler(rnn, warmup), []
    for _ in expected:
        scheduler.update()
        assert scheduler.get_lr() == scheduler.optimizer.param_groups[0]["lr"]
        rates.append(scheduler.get_lr())
    assert rates == pytest.approx(expected)


def test_cosine_schedule_rises_to_the_peak_and_falls_to_zero(rnn):
    scheduler = rnn.CosineOptim(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0), 2, 6)
    assert rnn.rates(scheduler, 6) == pytest.approx([1.0, *(1 + math.cos(math.pi * k / 4) for k in range(5))], abs=1e-6)


def test_schedule_keeps_the_ratio_of_the_groups_rates(rnn):
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.02)]
    scheduler = rnn.ScheduledOptim(torch.optim.SGD(groups), 2, 0.5)
    for expected in (0.5, 1.0, 0.5):
        scheduler.update()
        assert [g["lr"] for g in scheduler.optimizer.param_groups] == pytest.approx([expected, 0.02 * expected])


def test_clipping_bounds_the_gradients_norm(rnn):
    parameter = nn.Parameter(torch.zeros(2))
    scheduler = rnn.ScheduledOptim(torch.optim.SGD([parameter], lr=1.0), 0, 1.0, clip=1.0)
    parameter.grad = torch.tensor([30.0, 40.0])
    scheduler.step()
    assert torch.allclose(parameter, torch.tensor([-0.6, -0.8]), atol=1e-5)


def test_schedule_and_optimizer_go_on_where_they_were(rnn):
    def setup():
        parameter = nn.Parameter(torch.ones(3))
        return parameter, rnn.ScheduledOptim(torch.optim.AdamW([parameter], lr=0.1), 3, 0.9)

    def step(parameter, scheduler):
        parameter.grad = parameter.detach() ** 2 + 1
        scheduler.update()
        scheduler.step()

    one, scheduler = setup()
    for _ in range(4):
        step(one, scheduler)
    other, resumed = setup()
    other.data.copy_(one)
    resumed.load_state_dict(copy.deepcopy(scheduler.state_dict()))
    for _ in range(3):
        step(one, scheduler)
        step(other, resumed)
    assert torch.equal(one, other) and scheduler.get_lr() == resumed.get_lr() == pytest.approx(0.1 * 0.9**4)


@pytest.mark.parametrize(("warmup", "decay"), ((-1, 0.5), (2, 0.0), (2, 1.5)))
def test_schedule_refuses_what_makes_no_schedule(rnn, warmup, decay):
    with pytest.raises(ValueError, match="expected n_warmup_steps >= 0"):
        make_scheduler(rnn, warmup, decay)


def test_evaluate_averages_over_texts_not_batches(rnn, model):
    text, label, length = torch.randint(11, (5, 10)), torch.randint(4, (10,)), torch.full((10,), 5)
    whole = [(text, label, length)]
    parts = [(text[:, :9], label[:9], length[:9]), (text[:, 9:], label[9:], length[9:])]
    assert rnn.evaluate(model, parts) == pytest.approx(rnn.evaluate(model, whole))
    probabilities = model(text, length)
    loss, hits = F.nll_loss(probabilities.log(), label), (probabilities.argmax(1) == label).double().mean()
    assert rnn.evaluate(model, whole) == pytest.approx((loss.item(), 100 * hits.item()))


def test_evaluate_changes_nothing_and_train_does(rnn, model):
    batch = (torch.randint(11, (5, 8)), torch.arange(8) % 4, torch.full((8,), 5))
    before = [p.clone() for p in model.parameters()]
    rnn.evaluate(model, [batch])
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    rnn.train(model, [batch], rnn.ScheduledOptim(torch.optim.SGD(model.parameters(), lr=0.1), 1, 1.0))
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_train_averages_over_texts_and_takes_each_step_by_its_own_batch(rnn, model):
    model.dropout_ratio = model.word_dropout = model.h0_scale = 0.0
    text, label, length = torch.randint(11, (5, 10)), torch.randint(4, (10,)), torch.full((10,), 5)
    parts = [(text[:, :9], label[:9], length[:9]), (text[:, 9:], label[9:], length[9:])]
    scheduler = rnn.ScheduledOptim(torch.optim.SGD(model.parameters(), lr=0.0), 4, 1.0)  # learns nothing
    assert rnn.train(model, parts, scheduler) == pytest.approx(rnn.evaluate(model, [(text, label, length)]))
    assert scheduler.updates == 2
    loss, _ = model.compute_loss(model(parts[1][0], parts[1][2]), parts[1][1])
    gradients = torch.autograd.grad(loss, list(model.parameters()))  # of the last batch alone
    assert all(torch.allclose(p.grad, gradient) for p, gradient in zip(model.parameters(), gradients, strict=True))


# ------------------------------------------------------------------------------------ training as a whole


SETTINGS = {"epochs": 12, "batch_size": 16, "input_size": 8, "hidden_size": 16, "learning_rate": 0.02, "dropout": 0.0}
WORDS = ("a b", "b c c", "d", "e e e a")  # a topic each


@pytest.mark.parametrize("kind", ("make_rnn", "make_bag"))
def test_training_through_collate_batch_learns_and_is_found_finished(
    rnn, text_pipeline, collate_batch, tmp_path, kind, capsys
):
    texts = [(1 + i % 4, WORDS[i % 4]) for i in range(64)]
    collated = []

    def counting(batch):
        collated.append(len(batch))
        return collate_batch(batch)

    config = rnn.Config(**SETTINGS, word_dropout=0.0)
    loaders = [rnn.length_loader(texts, text_pipeline, counting, config, shuffle=shuffle) for shuffle in (True, False)]
    make = partial(getattr(rnn, kind), vocab_size=7, device=torch.device("cpu"))
    model, history = rnn.fit(config, make, *loaders, str(tmp_path), shown=True, keep=("model",))
    assert sum(collated) == 2 * 12 * 64 and len(history) == 12 and history[-1]["validation_accuracy"] == 100.0
    output = capsys.readouterr().out
    assert "validation accuracy" in output

    collated.clear()
    again, restored = rnn.fit(config, make, *loaders, str(tmp_path), shown=True, keep=("model",))
    assert not collated and restored == history and "restored" in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("optimizer", ("SGD", "RMSprop", "AdamW"))
@pytest.mark.parametrize("schedule", ("constant", "decay", "cosine"))
def test_every_optimizer_and_schedule_of_the_search_gives_each_parameter_its_rate(rnn, optimizer, schedule):
    model = rnn.RNN(11, 5, 6, 4)
    config = rnn.Config(optimizer=optimizer, schedule=schedule, learning_rate=0.01)
    scheduler = rnn.make_scheduler(model, config, 20)
    rates = []
    for _ in range(20):
        scheduler.update()
        rates.append(scheduler.get_lr())
    assert max(rates) == pytest.approx(0.01) and rates.index(max(rates)) == (0 if schedule == "constant" else 1)
    falls = rates[-1] / max(rates)
    assert falls == pytest.approx({"constant": 1.0, "decay": 0.02, "cosine": 0.0}[schedule], abs=1e-9)
    scheduler = rnn.make_scheduler(model, config, 20)
    found = {id(p): g["lr"] for g in scheduler.optimizer.param_groups for p in g["params"]}
    relative = {"W_hh": config.recurrent_rate, "embedding": config.sgd_embedding_rate if optimizer == "SGD" else 1.0}
    for name, parameter in model.named_parameters():
        assert found[id(parameter)] == pytest.approx(0.01 * relative.get(name, 1.0))


def test_own_headline_is_read_word_by_word(rnn, text_pipeline):
    model, tokenizer = network(rnn, "FastRNN"), get_tokenizer("basic_english")
    words, path = rnn.read_along(model, "a b a", text_pipeline, tokenizer)
    assert words == ["a", "b", "a"] and path.shape == (3, 4)
    for n in range(1, 4):
        tokens = torch.tensor(text_pipeline("a b a")[:n]).unsqueeze(1)
        assert torch.allclose(path[n - 1], model(tokens, torch.tensor([n]))[0])
    with pytest.raises(ValueError, match="has no words"):
        rnn.read_along(model, " ", text_pipeline, tokenizer)


@pytest.mark.parametrize(
    "wrong", ({"optimizer": "Adagrad"}, {"schedule": "cosin"}, {"word_dropout": 1.0}, {"validation": 0}, {"epochs": -1})
)
def test_settings_that_cannot_be_meant_are_refused(rnn, wrong):
    with pytest.raises(ValueError, match=rf"Config\.{next(iter(wrong))} is"):
        rnn.Config(**wrong)


def test_bag_of_embeddings_knows_no_order_and_no_padding(rnn):
    bag = rnn.BagOfEmbeddings(11, 5, 4).eval()
    nn.init.normal_(bag.W_hy)
    text, length = torch.randint(11, (6, 3)), torch.tensor([2, 6, 4])
    output = bag(text, length)
    for b, n in enumerate(length.tolist()):
        for order in itertools.islice(itertools.permutations(range(n)), 5):
            assert torch.allclose(bag(text[list(order), b : b + 1], length[b : b + 1])[0], output[b], atol=1e-6)
