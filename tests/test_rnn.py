"""Homework 4-1, beyond what the grader's judges check of it: the recipe's parts, and the search."""

import itertools
import math
from collections import Counter
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torchtext.vocab import Vocab

WORDS = ("a b", "b c c", "d", "e e e a")  # a topic each
TEXTS = [(1 + i % 4, WORDS[i % 4]) for i in range(64)]
OPTIONS = {"optimizer": "AdamW", "learning_rate": 0.02, "schedule": "cosine", "input_size": 8, "hidden_size": 16}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.fixture(scope="module", autouse=True)
def text_pipeline(rnn):
    """What a cell makes of the data, for words of one letter."""
    vocab = Vocab(Counter("abcde"), specials=("<pad>", "<unk>"))

    def text_pipeline(text):
        return [vocab.stoi.get(token, 1) for token in text.split()]

    def label_pipeline(label):
        return label - 1

    rnn.text_pipeline, rnn.label_pipeline = text_pipeline, label_pipeline
    return text_pipeline


def network(rnn, kind: str = "FastRNN") -> nn.Module:
    model = getattr(rnn, kind)(11, 5, 6, 4).double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


# ------------------------------------------------------------------------------------ Part I


def test_the_gradient_of_the_last_state_neither_vanishes_nor_explodes_from_the_identity(rnn):
    W, projected = 0.5 * torch.eye(8), torch.zeros(10, 8)
    halved = rnn.state_gradients(W, projected)
    assert halved == pytest.approx([0.5 ** (10 - t) for t in range(11)])
    assert rnn.state_gradients(torch.eye(8), projected) == pytest.approx([1.0] * 11)


@pytest.mark.parametrize(
    ("warmup", "expected"),
    ((4, [0.5, 1.0, 1.5, 2.0, 1.0, 0.5, 0.25]), (1, [2.0, 1.0, 0.5]), (0, [1.0, 0.5, 0.25])),
)
def test_each_step_is_taken_at_the_rate_of_the_update_before_it(rnn, warmup, expected):
    parameter = nn.Parameter(torch.zeros(1))
    scheduler = rnn.ScheduledOptim(torch.optim.SGD([parameter], lr=2.0), warmup, 0.5)

    class Model(nn.Module):
        embedding = parameter

        def forward(self, text, length):
            return self.embedding

        def compute_loss(self, prediction, label):
            return prediction.sum(), 0  # a gradient of 1, so that the step is the rate

    rates, places = [], [0.0]
    batch = (torch.zeros(1, 1), torch.zeros(1), torch.ones(1))
    for _ in expected:
        rnn.train(Model(), [batch], scheduler, log=lambda loss, rate: rates.append(rate))
        places.append(parameter.item())
    assert rates == pytest.approx(expected)
    assert [a - b for a, b in itertools.pairwise(places)] == pytest.approx(expected)


def test_cosine_schedule_rises_to_the_peak_and_falls_to_zero(rnn):
    scheduler, rates = rnn.CosineOptim(torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0), 2, 6), []
    for _ in range(6):
        scheduler.update()
        rates.append(scheduler.get_lr())
    assert rates == pytest.approx([1.0, *(1 + math.cos(math.pi * k / 4) for k in range(5))], abs=1e-6)


def test_clipping_bounds_the_gradients_norm(rnn):
    parameter = nn.Parameter(torch.zeros(2))
    scheduler = rnn.ScheduledOptim(torch.optim.SGD([parameter], lr=1.0), 0, 1.0, clip=1.0)
    parameter.grad = torch.tensor([30.0, 40.0])
    scheduler.step()
    assert torch.allclose(parameter, torch.tensor([-0.6, -0.8]), atol=1e-5)


@pytest.mark.parametrize("optimizer", ("SGD", "RMSprop", "AdamW"))
@pytest.mark.parametrize("schedule", ("constant", "decay", "cosine"))
def test_every_optimizer_and_schedule_of_the_search_gives_each_parameter_its_rate(rnn, optimizer, schedule):
    model, options = rnn.RNN(11, 5, 6, 4), rnn.Options(**{**OPTIONS, "optimizer": optimizer, "schedule": schedule})
    scheduler, rates = rnn.make_scheduler(model, options, rnn.Config(), steps=20), []
    found = {id(p): group["lr"] for group in scheduler.optimizer.param_groups for p in group["params"]}
    relative = {"W_hh": 0.02, "embedding": 300.0 if optimizer == "SGD" else 1.0}
    for name, parameter in model.named_parameters():
        assert found[id(parameter)] == pytest.approx(0.02 * relative.get(name, 1.0))
    for _ in range(20):
        scheduler.update()
        rates.append(scheduler.get_lr())
    assert type(scheduler.optimizer).__name__ == optimizer
    assert max(rates) == pytest.approx(0.02) and rates.index(max(rates)) == (0 if schedule == "constant" else 1)
    ends = {"constant": 1.0, "decay": 0.02, "cosine": 0.0}
    assert rates[-1] / max(rates) == pytest.approx(ends[schedule], abs=1e-9)


def trainer(rnn, **changes):
    config = rnn.Config(**{"epochs": 12, "batch_size": 16, "dropout": 0.0, **changes})
    return partial(rnn.fit, config=config, validation_texts=TEXTS, vocab_size=7, device=torch.device("cpu"))


def test_training_learns_and_is_found_finished_by_its_options_and_data_alone(rnn, tmp_path, capsys):
    options, fit = rnn.Options(**OPTIONS), trainer(rnn)
    model, run = fit(options, TEXTS, str(tmp_path), shown=True)
    assert run.history[-1]["validation_accuracy"] == 100.0 and run.resumed == 0
    again, resumed = fit(options, TEXTS, str(tmp_path), shown=True)
    assert resumed.history == run.history and resumed.resumed == 12 and "resumed" in capsys.readouterr().out
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    fit = trainer(rnn, epochs=1)
    other = [
        fit(options, TEXTS, str(tmp_path)),
        fit(options, TEXTS[:-1], str(tmp_path)),
        fit(rnn.Options(**OPTIONS | {"schedule": "decay"}), TEXTS, str(tmp_path)),
        trainer(rnn, epochs=1, dropout=0.1)(options, TEXTS, str(tmp_path)),
    ]
    assert [run.resumed for _, run in other] == [0, 0, 0, 0]


@pytest.mark.parametrize(("rates", "schedules"), (((0.02,), ("cosine",)), ((1e-9, 0.02, 1e-3), ("cosine", "decay"))))
def test_search_sends_on_two_candidates_or_more_and_finds_the_rate_that_learns(rnn, tmp_path, rates, schedules):
    start = rnn.Options(**OPTIONS)
    candidates = [rnn.replace(start, learning_rate=r, schedule=s) for r in rates for s in schedules]
    rounds = rnn.search(candidates, trainer(rnn, epochs=2), TEXTS, 32, ((8, 16), (4, 8), (4, 16)), str(tmp_path))
    assert set(rounds[0]) == set(candidates)
    assert len(rounds[1]) >= 2 and next(iter(rounds[1])).learning_rate == 0.02
    losses = [history[-1]["validation_loss"] for history, _ in rounds[1].values()]
    assert losses == sorted(losses)


# ------------------------------------------------------------------------------------ Part II


def test_buckets_hold_every_text_once_and_texts_of_similar_length_together(rnn):
    texts = [(1 + i % 4, "a " * (1 + i % 9)) for i in range(40)]
    further = rnn.Further(batch_size=16, jitter=0.0)
    for generator in (None, torch.Generator()):
        loader = rnn.bucketed(texts, further, generator=generator)
        batches = list(loader)
        assert sorted(int(i) for batch in loader.batch_sampler for i in batch) == list(range(40))
        assert all(int(length.max() - length.min()) <= 4 for _, _, length in batches) and len(batches) == 3


def test_tokens_kept_counts_what_cutting_leaves(rnn):
    texts = [(1, "a b c d e"), (2, "a"), (3, "")]  # T = 2: 2 + 1 + 1 of 7
    loader = torch.utils.data.DataLoader(texts, batch_size=3, collate_fn=rnn.collate_batch)
    assert rnn.tokens_kept(loader) == pytest.approx(100 * 4 / 7)


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_fast_network_and_all_its_gradients_equal_packed_torch_rnn_for_any_lengths(rnn, data):
    T, B = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 6))
    length = torch.tensor(data.draw(st.lists(st.integers(1, T), min_size=B, max_size=B)))
    model, text = network(rnn), torch.randint(11, (T, B))
    names = ("W_xh", "W_hh", "b_xh", "b_hh", "embedding", "W_hy", "b_hy")
    w = {name: getattr(model, name) for name in names}
    inner = {"weight_ih_l0": w["W_xh"].T, "weight_hh_l0": w["W_hh"].T}
    inner |= {"bias_ih_l0": w["b_xh"], "bias_hh_l0": w["b_hh"]}
    packed = nn.utils.rnn.pack_padded_sequence(w["embedding"][text], length, enforce_sorted=False)
    _, last = torch.func.functional_call(nn.RNN(5, 6).double(), inner, (packed,))
    theirs = (last[0] @ w["W_hy"] + w["b_hy"]).softmax(1)
    ours = model(text, length)
    grads = [torch.autograd.grad(p.log().sum(), list(w.values())) for p in (ours, theirs)]
    torch.testing.assert_close((ours, *grads[0]), (theirs, *grads[1]), rtol=0, atol=1e-9)


def test_plain_and_fast_network_are_equal_in_training_too_but_for_what_is_drawn(rnn, monkeypatch):
    plain, fast = network(rnn, "RNN").train(), network(rnn).train()
    fast.load_state_dict(plain.state_dict())
    plain.dropout_ratio = fast.dropout_ratio = 0.0
    monkeypatch.setattr(torch, "randn_like", torch.ones_like)  # h_0
    text, length = torch.randint(11, (6, 5)), torch.tensor([2, 6, 4, 6, 1])
    outputs = [model(text, length) for model in (plain, fast)]
    grads = [torch.autograd.grad(p.log().sum(), list(m.parameters())) for p, m in zip(outputs, (plain, fast))]
    torch.testing.assert_close((outputs[0], *grads[0]), (outputs[1], *grads[1]), rtol=0, atol=1e-10)


def test_whole_words_are_dropped_in_training_alone_and_the_mean_stays(rnn):
    model = rnn.FastRNN(11, 1, 1, 4, dropout_ratio=0.0, word_dropout=0.5)
    for name in ("W_xh", "W_hh", "b_xh"):
        nn.init.zeros_(getattr(model, name))
    nn.init.ones_(model.embedding)
    nn.init.constant_(model.W_xh, 0.01)  # the last state tells whether the word was there
    model.W_hy.data[:, 0] = 1.0
    text, length = torch.randint(11, (3, 2_000)), torch.full((2_000,), 3)
    scores = model.train()(text, length).log()
    last = scores[:, 0] - scores[:, 1]
    kept = last > 0.01
    assert 0.4 < kept.double().mean() < 0.6 and torch.allclose(last[kept], torch.tensor(0.02), atol=1e-4)
    assert torch.allclose(last[~kept], torch.tensor(0.0), atol=1e-6)
    assert model.eval()(text, length).unique(dim=0).shape == (1, 4)


def test_two_readings_pay_for_the_divergence_between_them(rnn):
    readings, label = torch.randn(6, 4, dtype=torch.double, requires_grad=True), torch.tensor([0, 3, 1])

    class Model:
        compute_loss = rnn.RNN.compute_loss

        def __call__(self, text, length):
            assert text.shape == (5, 6) and torch.equal(text[:, :3], text[:, 3:]) and len(length) == 6
            return readings.softmax(1)

    length = torch.full((3,), 5)
    loss, correct = rnn.rdrop_loss(Model(), torch.randint(9, (5, 3)), label, length, weight=0.7)
    p, q = readings.log_softmax(1).chunk(2)
    there, back = (F.kl_div(a, b, reduction="batchmean", log_target=True) for a, b in ((p, q), (q, p)))
    expected = (F.nll_loss(p, label) + F.nll_loss(q, label)) / 2 + 0.7 * (there + back) / 2
    gradients = [torch.autograd.grad(value, readings, retain_graph=True)[0] for value in (loss, expected)]
    torch.testing.assert_close((loss, gradients[0]), (expected, gradients[1]))
    assert correct == (readings.argmax(1) == label.repeat(2)).sum() / 2


def test_every_parameter_of_the_recipe_gets_its_rate(rnn):
    model = rnn.FastRNN(11, 5, 6, 4)
    scheduler = rnn.further_scheduler(model, rnn.Further(learning_rate=0.01, recurrent_rate=0.1), steps=20)
    found = {id(p): g["lr"] for g in scheduler.optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        assert found[id(parameter)] == pytest.approx(0.001 if name == "W_hh" else 0.01)


@pytest.mark.parametrize("kind", ("make_rnn", "make_bag"))
@pytest.mark.parametrize("rdrop_weight", (0.0, 1.0))
def test_the_recipe_learns(rnn, tmp_path, kind, rdrop_weight):
    sizes = {"input_size": 8, "hidden_size": 16, "batch_size": 16, "epochs": 12, "learning_rate": 0.02}
    further = rnn.Further(**sizes, word_dropout=0.0, dropout=0.0, rdrop_weight=rdrop_weight)
    make, device = partial(getattr(rnn, kind), vocab_size=7), torch.device("cpu")
    data = {"config": rnn.Config(), "validation_texts": TEXTS, "device": device}
    _, run = rnn.fit_further(further, make, TEXTS, str(tmp_path), **data)
    assert run.history[-1]["validation_accuracy"] == 100.0


def test_bag_of_embeddings_knows_no_order_and_no_padding(rnn):
    bag = rnn.BagOfEmbeddings(11, 5, 4).eval()
    nn.init.normal_(bag.W_hy)
    text, length = torch.randint(11, (6, 3)), torch.tensor([2, 6, 4])
    output = bag(text, length)
    for b, n in enumerate(length.tolist()):
        for order in itertools.islice(itertools.permutations(range(n)), 5):
            assert torch.allclose(bag(text[list(order), b : b + 1], length[b : b + 1])[0], output[b], atol=1e-6)


def test_own_headline_is_read_word_by_word(rnn, text_pipeline):
    model = network(rnn)
    path = rnn.read_along(model, "a b a", ["a", "b", "a"])
    assert path.shape == (3, 4)
    for n in range(1, 4):
        tokens = torch.tensor(text_pipeline("a b a")[:n]).unsqueeze(1)
        assert torch.allclose(path[n - 1], model(tokens, torch.tensor([n]))[0])
    with pytest.raises(ValueError, match="has no words"):
        rnn.read_along(model, " ", [])


@pytest.mark.parametrize("wrong", ({"dropout": 1.0}, {"validation": 0}, {"epochs": -1}))
def test_settings_that_cannot_be_meant_are_refused(rnn, wrong):
    with pytest.raises(ValueError, match=rf"Config\.{next(iter(wrong))} is"):
        rnn.Config(**wrong)
    with pytest.raises(ValueError, match=r"Further\.recurrent_start is"):
        rnn.Further(recurrent_start="zero")
