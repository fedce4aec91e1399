"""An interrupted training of each notebook goes on as if nothing had happened: equal weights, bit for bit."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from common.checkpoint import Checkpoint
from common.loss import cross_entropy


def vit_training(vit, path):
    budget = vit.Budget(8, 1, 2, 16, 4, 1, 0.5, 4, 1e-2)
    model = vit.build(budget)
    optimizers = vit.make_optimizers(model, budget)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (12, 3, 32, 32), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    scaler = torch.amp.GradScaler("cpu", enabled=False)

    def epoch(number):
        vit.train_epoch(model, (images, torch.arange(12) % 10), optimizers, scaler, budget, number, generator)

    parts = dict(model=model, muon=optimizers[0], adamw=optimizers[1], scaler=scaler, generator=generator)
    assert cross_entropy(model.eval()(vit.normalize(images)), torch.arange(12) % 10).isfinite()
    return Checkpoint(path, {}, **parts), model, epoch


def rnn_training(rnn, path):
    budget = rnn.replace(rnn.BUDGETS["sample"], average=0.9)
    model = rnn.RNN(len(rnn.vocab), 4, 5, 4)
    scheduler = rnn.make_scheduler(model, rnn.Options("AdamW", 1e-2, "cosine"), 12, budget)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    generator = torch.Generator().manual_seed(1)
    data = [(1 + i % 4, "a b c d e"[: 1 + 2 * (i % 5)]) for i in range(12)]
    batches = rnn.NewsBatches(data, 4, True, torch.device("cpu"), 2.0, generator)
    checkpoint = Checkpoint(path, {}, model=model, scheduler=scheduler, average=average, generator=generator)
    return checkpoint, average, lambda number: rnn.train(model, batches, scheduler, average)


def seq2seq_training(seq2seq, path):
    model = seq2seq.LSTMSeq2Seq(6, 6, 4, 4, "cpu", dropout=0.3, word_dropout=0.2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 / (1 + i))
    batch = (torch.tensor([[2, 3, 1], [4, 1, -1]]), torch.tensor([[0, 2, 1], [0, 5, 1]]))
    checkpoint = Checkpoint(path, {}, model=model, optimizer=optimizer, schedule=schedule)

    def epoch(number):
        seq2seq.train(model, [batch] * 3, optimizer, seq2seq.translation_loss, 1.0, schedule)

    return checkpoint, model, epoch


@pytest.mark.parametrize("name", ("vit", "rnn", "seq2seq"))
def test_resumed_training_equals_an_uninterrupted_one(name, request, tmp_path):
    notebook, start = request.getfixturevalue(name), globals()[f"{name}_training"]
    torch.manual_seed(0)
    checkpoint, whole, epoch = start(notebook, tmp_path / "c.pt")
    epoch(0)
    checkpoint.save(1, [])
    epoch(1)
    torch.manual_seed(99)
    checkpoint, resumed, epoch = start(notebook, tmp_path / "c.pt")
    assert checkpoint.restore() == (1, [])
    epoch(1)
    pairs = zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
