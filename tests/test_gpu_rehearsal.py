"""The notebooks on a GPU that is not there, from top to bottom on small samples: nothing mixes devices."""

import re
from contextlib import nullcontext

import fake_gpu
import pytest
import torch
from conftest import planted, read
from torch import nn

from common import checkpoint
from common.training import Run
from tools.notebooks import TASKS

pytestmark = [
    pytest.mark.skipif(bool(fake_gpu.why_not()), reason=fake_gpu.why_not()),
]


def test_the_fake_gpu_computes_what_the_cpu_computes():
    torch.manual_seed(0)
    lstm, norm, head = nn.LSTM(3, 4, batch_first=True, bidirectional=True), nn.LayerNorm(8), nn.Linear(8, 2)
    head.weight = nn.Parameter(norm.weight.detach().repeat(2, 1))
    model, x = nn.ModuleList([lstm, norm, head]), torch.randn(2, 5, 3)

    def step(x: torch.Tensor) -> list[list[float]]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        for _ in range(2):
            optimizer.zero_grad()
            head(norm(lstm(x)[0]).relu()).square().mean().backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        return [p.tolist() for p in model.parameters()]

    start = {name: value.clone() for name, value in model.state_dict().items()}
    expected = step(x)
    model.load_state_dict(start)
    with fake_gpu.fake_gpu():
        model.to("cuda")
        found = step(x.to("cuda"))
        assert {p.device.type for p in model.parameters()} == {"cuda"}
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_the_whole_notebook_runs_on_the_gpu(run_cells, name, capsys):
    with fake_gpu.fake_gpu():
        made = run_cells(name, read(name), whole=True)
    assert {p.device.type for p in made["model"].parameters()} == {"cuda"}
    assert re.findall('RESULT .*?"part": "(.*?)".*?"device": "fake GPU"', capsys.readouterr().out) == [
        "assignment",
        "further",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("first", ("CPU", "GPU"))
def test_a_training_begun_on_one_machine_goes_on_on_the_other(run_cells, monkeypatch, first, capsys):
    machines = {"CPU": nullcontext, "GPU": fake_gpu.fake_gpu}
    save = checkpoint.save

    def save_and_stop(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), machines.pop(first)():
        patch.setattr(checkpoint, "save", save_and_stop)
        run_cells("hw4_vit", read("hw4_vit"), whole=False)
    with machines.popitem()[1]():
        run_cells("hw4_vit", read("hw4_vit"), whole=False)
    assert "resumed: 1 of 2 epochs were done" in capsys.readouterr().out


def test_curves_by_step_read_the_loss_every_ten_steps(tmp_path):
    with fake_gpu.fake_gpu() as gpu:
        model = nn.Linear(1, 1).to("cuda")
        run = Run(tmp_path, 1, depends_on=(), shown=False, model=model)
        for _ in run.epochs():
            before = gpu.reads
            for _ in range(25):
                run.step(model.weight.sum(), 0.1)
            assert gpu.reads - before == 2
            run.record(train_loss=0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    (
        ("hw4_rnn", "h = self.W_hh.new_zeros(B, len(self.W_hh))", "h = self.W_hh.cpu().new_zeros(B, len(self.W_hh))"),
        ("hw4_rnn", "text, label = text.to(device), label.to(device)", "text = text.to(device)"),
        ("hw4_seq2seq", "outputs = [hidden.new_zeros(", "outputs = [torch.zeros("),
        ("hw4_vit", "mirrored=torch.rand(B, 1, device=device) < 0.5", "mirrored=torch.rand(B, 1) < 0.5"),
        ("hw4_vit", "torch.zeros(2, device=device), 0  # loss", "torch.zeros(2), 0  # loss"),
    ),
)
def test_a_tensor_on_the_wrong_device_is_noticed(run_cells, name, right, wrong):
    with fake_gpu.fake_gpu(), pytest.raises(RuntimeError, match="mixes devices"):
        run_cells(name, planted(read(name), right, wrong), whole=False)
