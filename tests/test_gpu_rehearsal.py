"""The notebooks on a GPU that is not there: nothing mixes devices, and how often the host waits is known."""

import io
import math
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import fake_gpu
import nbformat
import pytest
import torch
from torch import nn

from common import session
from common.checkpoint import Checkpoint
from common.training import Run
from data.data import Lang
from tools.notebooks import ROOT, definitions

pytestmark = pytest.mark.skipif(bool(fake_gpu.why_not()), reason=fake_gpu.why_not())

MACHINES = {"CPU": None, "T4": False, "A100": True}  # whether its GPU multiplies bfloat16 in hardware
WAITS = {  # of one training step
    # the texts and labels sent, the order by length sent, the number of correct predictions read
    "hw4_rnn": {"upload": 2, "upload of memory that is not pinned": 1, "number read": 1},
    # the lengths read for packing; there, PyTorch sends the order of the lengths and reads its inverse back
    "hw4_seq2seq": {"copy to the host": 2, "upload": 1},
    "hw4_vit": {},
}


class Rehearsal(NamedTuple):
    train: Callable[[int], Any]  # on so many batches
    use: Callable[[nn.Module], Any]  # evaluate and predict
    fit: Callable[[Path], tuple[nn.Module, list[dict[str, float]]]]  # two epochs


def news(nb: ModuleType, device: torch.device) -> Rehearsal:
    config = nb.Config(epochs=2, batch_size=4, input_size=3, hidden_size=5)
    vocab = nb.Vocab(Counter("abcdef"), specials=("<pad>", "<unk>"))
    pipeline = nb.make_pipeline(vocab, str.split)
    texts = [(1 + i % 4, "a b c d e f"[: 1 + 2 * (i % 4)]) for i in range(12)]

    def loader(batches: int) -> torch.utils.data.DataLoader:
        return nb.length_loader(texts[: 4 * batches], pipeline, nb.make_collate(pipeline), config, shuffle=True)

    def make_model(config: Any) -> nn.Module:
        return nb.make_rnn(config, len(vocab), device)

    def use(model: nn.Module) -> None:
        bag = nb.make_bag(config, len(vocab), device)
        for network in (model, bag, nb.RNN(len(vocab), 3, 5, 4).to(device)):
            nb.train(network, loader(1), nb.make_scheduler(network, config, 3))
            nb.evaluate(network, loader(3))
        _, path = nb.read_along(model, "a c e z", pipeline, str.split)
        assert path.shape == (4, 4) and path.device.type == "cpu"

    model = make_model(config)
    scheduler = nb.make_scheduler(model, config, 10)
    return Rehearsal(
        lambda batches: nb.train(model, loader(batches), scheduler),
        use,
        lambda folder: nb.fit(config, make_model, loader(3), loader(1), str(folder), shown=True, keep=("model",)),
    )


def translation(nb: ModuleType, device: torch.device) -> Rehearsal:
    config = nb.Config(epochs=2, batch_size=4, emb_dim=4, hid_dim=6, min_piece_frequency=1)
    langs, pairs = (
        (Lang("fra"), Lang("eng")),
        [["a b c"[: 1 + 2 * (i % 3)], "d e f"[: 1 + 2 * (i % 3)]] for i in range(12)],
    )
    for lang, sentence in zip(langs, ("a b c", "d e f"), strict=True):
        lang.addSentence(sentence)

    def batches(count: int) -> Any:
        return nb.PairBatches(langs, pairs[: 4 * count], 4, device)

    def use(model: nn.Module) -> None:
        assert nb.perplexity(model, batches(3)) > 1
        assert 0 <= nb.translation_scores(model, batches(3), langs[1], beam=3).bleu <= 100
        assert nb.translate_sentence(model, langs, "a b", beam=3).attention.device.type == "cpu"
        plain = nb.build(nb.LSTMSeq2Seq, langs, config, device)
        nb.train(plain, batches(1), torch.optim.AdamW(plain.parameters()), nb.translation_loss, 1.0)

    model = nb.build_spelled(langs, config, device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    return Rehearsal(
        lambda count: nb.train(model, batches(count), optimizer, nb.translation_loss, 1.0),
        use,
        lambda folder: nb.fit(langs, pairs, pairs[:4], config, str(folder), device),
    )


def images(nb: ModuleType, device: torch.device) -> Rehearsal:
    config = nb.Config(
        patch_size=8, dim=8, depth=1, num_heads=2, mlp_dim=16, epochs=2, full_epochs=1, batch_size=4, cutmix=0.999
    )
    pictures = torch.randint(256, (12, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data = nb.send((pictures, torch.arange(12) % 10), device)

    def part(batches: int) -> Any:
        return nb.Part(data.images[: 4 * batches], data.labels[: 4 * batches])

    def use(model: nn.Module) -> None:
        loss, accuracy = nb.evaluate(model, data)
        assert math.isfinite(loss) and 0 <= accuracy <= 100
        assert nb.predict(model, data.images, nb.MOVED).shape == (12, 10)
        assert nb.class_attention(model, data.images).shape == (12, 4, 4)
        nb.position_similarity(model).numpy()
        nb.compare_muon(config, device, steps=2) if hasattr(nb, "compare_muon") else None

    model, generator = nb.build(config).to(device), torch.Generator()
    optimizers, scaler = nb.make_optimizers(model, config), nb.make_scaler(device)
    return Rehearsal(
        lambda batches: nb.train_epoch(model, part(batches), optimizers, scaler, config, 1, generator),
        use,
        lambda folder: nb.fit(config, data, part(1), str(folder)),
    )


REHEARSALS = {"hw4_rnn": news, "hw4_seq2seq": translation, "hw4_vit": images}


def machine(name: str) -> Any:
    """The machine as a context: nothing but its name and its GPU."""
    return nullcontext() if MACHINES[name] is None else fake_gpu.fake_gpu(bfloat16=MACHINES[name])


def waits_per_step(gpu: fake_gpu.FakeGpu, train: Callable[[int], Any]) -> dict[str, float]:
    train(1)  # what is made once is made now
    for batches in (1, 3):
        gpu.phase = str(batches)
        train(batches)
    more, gpu.phase = gpu.waited("3"), ""
    more.subtract(gpu.waited("1"))
    return {kind: count / 2 for kind, count in more.items() if count}


def lines(gpu: fake_gpu.FakeGpu) -> str:
    """Where the host waited while three batches were trained on, for a failing test's message."""
    found = Counter(f"{event.name} at {event.line}" for event in gpu.waits if event.phase == "3")
    return "\n".join(f"{count} x {where}" for where, count in found.items())


@pytest.fixture(scope="module")
def notebooks() -> dict[str, ModuleType]:
    return {name: definitions(name) for name in REHEARSALS}


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
    with fake_gpu.fake_gpu() as gpu:
        parameters = list(model.parameters())
        model.to("cuda")
        assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
        found = step(x.to("cuda"))
        assert {p.device.type for p in model.parameters()} == {"cuda"} and gpu.kernels
    assert found == expected


@pytest.mark.parametrize("place", ["T4", "A100"])
@pytest.mark.parametrize("name", REHEARSALS)
def test_training_and_prediction_stay_on_the_gpu(notebooks, tmp_path, name, place):
    if place == "A100" and name != "hw4_vit":
        pytest.skip("float32 on every GPU")
    with machine(place) as gpu:
        device = session.choose_device("auto")
        rehearsal = REHEARSALS[name](notebooks[name], device)
        model, history = rehearsal.fit(tmp_path)
        assert {p.device.type for p in model.parameters()} == {"cuda"}
        assert len(history) == 2 and all(math.isfinite(number) for row in history for number in row.values())
        rehearsal.use(model)
        found = waits_per_step(gpu, rehearsal.train)
    assert found == WAITS[name], f"waits of a training step; of three:\n{lines(gpu)}"


@pytest.mark.parametrize("name", REHEARSALS)
def test_a_training_goes_on_on_any_other_machine(notebooks, tmp_path, name, monkeypatch, capsys):
    places = MACHINES if name == "hw4_vit" else ("CPU", "T4")
    save = Checkpoint.save

    def save_and_stop(self, *args, **kwargs):
        save(self, *args, **kwargs)
        raise KeyboardInterrupt

    def fit(place: str, folder: Path) -> list[dict[str, float]]:
        with machine(place):
            return REHEARSALS[name](notebooks[name], session.choose_device("auto")).fit(folder)[1]

    for begun in places:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Checkpoint, "save", save_and_stop)
            fit(begun, tmp_path / begun)
        for ended in places:
            shutil.copytree(tmp_path / begun, folder := tmp_path / f"{begun}-{ended}")
            capsys.readouterr()
            assert len(fit(ended, folder)) == 2
            printed = capsys.readouterr().out
            assert "1 of 2 epochs" in printed and "scratch" not in printed, f"from {begun} to {ended}: {printed}"


def test_curves_by_step_read_the_loss_every_ten_steps(tmp_path):
    with fake_gpu.fake_gpu() as gpu:
        model = nn.Linear(1, 1).to("cuda")
        run = Run(tmp_path, {}, code=machine, shown=False, model=model)
        for _ in run.epochs(1):
            gpu.phase = "steps"
            for _ in range(25):
                run.step(model.weight.sum(), 0.1)
            gpu.phase = ""
            run.record(train_loss=0.0)
    assert gpu.waited("steps") == {"number read": 2}


FAULTS = {
    "hw4_rnn": [
        ("h = self.W_hh.new_zeros(batch_size, len(self.W_hh))", "h = torch.zeros(batch_size, len(self.W_hh))"),
        ("torch.zeros((), dtype=torch.double, device=device)", "torch.zeros((), dtype=torch.double)"),
        ("order.argsort()]).to(inputs.device, non_blocking=True)", "order.argsort()])"),
        ("total_loss += loss.detach() * len(label)", "total_loss += loss.item() * len(label)"),
        ("h.normal_(std=self.h0_scale)", "torch.randn(h.shape) * self.h0_scale"),
    ],
    "hw4_seq2seq": [
        ("torch.full((B, beam), -math.inf, device=device)", "torch.full((B, beam), -math.inf)"),
        ("torch.arange(B, device=device)", "torch.arange(B)"),
        ("tokens = (trg[:, 1:] != PAD).sum()", "tokens = int((trg[:, 1:] != PAD).sum())"),
        ("self.src, self.trg = src.to(device), trg.to(device)", "self.src, self.trg = src.to(device), trg"),
        ("on_device = torch.cat(batches).to(self.src.device)", "on_device = torch.cat(batches)"),
    ],
    "hw4_vit": [
        ("torch.rand(B, N, device=patches.device)", "torch.rand(B, N)"),
        ("mirrored = torch.rand(B, 1, device=device)", "mirrored = torch.rand(B, 1)"),
        ("(logits.argmax(1) == labels).sum()]", "(logits.argmax(1) == labels).sum().cpu()]"),
        ("if torch.rand(()).item() <", "if torch.rand((), device=labels.device).item() <"),
        ("@cache\ndef color_statistics", "def color_statistics"),
        ("generator=generator).to(data.labels.device)", "generator=generator)"),
        ("first = Muon(matrices", "first = torch.optim.Muon(matrices"),
    ],
}


@pytest.mark.parametrize(("name", "right", "wrong"), [(name, *fault) for name in FAULTS for fault in FAULTS[name]])
def test_a_planted_fault_is_noticed(tmp_path, monkeypatch, name, right, wrong):
    notebook = nbformat.read(ROOT / f"{name}.ipynb", as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and right in cell.source]
    assert cells, f"{name} has no {right!r}: plant this fault elsewhere"
    for cell in cells:
        cell.source = cell.source.replace(right, wrong)
    nbformat.write(notebook, tmp_path / "faulty.ipynb")
    monkeypatch.setitem(sys.modules, name, None)  # put back afterwards
    faulty = definitions(name, tmp_path / "faulty.ipynb")
    with fake_gpu.fake_gpu() as gpu, redirect_stdout(io.StringIO()):
        rehearsal = REHEARSALS[name](faulty, torch.device("cuda"))
        try:
            model, _ = rehearsal.fit(tmp_path / "runs")
            rehearsal.use(model)
        except RuntimeError as error:
            assert "mixes devices" in str(error)
            return
        assert waits_per_step(gpu, rehearsal.train) != WAITS[name]


def test_the_environment_chooses_the_device(notebooks, monkeypatch):
    for nb in notebooks.values():
        for name, expected in (("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")):
            monkeypatch.setenv("HW4_DEVICE", name)
            with fake_gpu.fake_gpu():
                assert session.start(1, nb.configure(nb.Config).device).type == expected
        monkeypatch.setenv("HW4_DEVICE", "tpu")
        with pytest.raises(ValueError, match="device is 'tpu'"):
            nb.configure(nb.Config)
