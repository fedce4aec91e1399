"""What a change of device must not break: checkpoints that move, errors that keep their meaning."""

import fake_gpu
import pytest
import torch
from torch import nn

from common import loss, session
from common.checkpoint import Checkpoint

needs_fake_gpu = pytest.mark.skipif(bool(fake_gpu.why_not()), reason=fake_gpu.why_not())


@pytest.mark.parametrize("written", (False, True))
@pytest.mark.parametrize("read", (False, True))
def test_a_checkpoint_moves_between_devices_with_and_without_a_loss_scaler(tmp_path, written, read, capsys):
    def training(scaled: bool) -> tuple[nn.Linear, torch.amp.GradScaler, Checkpoint]:
        model, scaler = nn.Linear(2, 1), torch.amp.GradScaler("cpu", init_scale=8.0, enabled=scaled)
        return model, scaler, Checkpoint(tmp_path, {"seed": 1}, model=model, scaler=scaler)

    before, scaler, checkpoint = training(written)
    if written:  # the next scale is half as large, or twice
        scaler.load_state_dict({**scaler.state_dict(), "scale": 32.0})
    checkpoint.save({"epoch": 3})
    after, scaler, checkpoint = training(read)
    assert checkpoint.restore() == {"epoch": 3} and capsys.readouterr().out == ""
    assert torch.equal(after.weight, before.weight)
    if read:
        assert scaler.state_dict()["scale"] == (32.0 if written else 8.0)


@pytest.mark.parametrize("written", (0, 1, 2))
@pytest.mark.parametrize("read", (0, 1, 2))
def test_a_checkpoint_moves_between_machines_with_any_number_of_gpus(tmp_path, monkeypatch, written, read):
    states = [torch.full((16,), gpu, dtype=torch.uint8) for gpu in range(2)]
    found = []

    def set_states(given: list[torch.Tensor]) -> None:
        assert len(given) <= read, "a state for a GPU that is not there"
        found.extend(given)

    def on_machine(gpus: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: states[:gpus])
        monkeypatch.setattr(torch.cuda, "set_rng_state_all", set_states)

    model = nn.Linear(2, 1)
    on_machine(written)
    Checkpoint(tmp_path, {}, model=model).save({"epoch": 3})
    on_machine(read)
    assert Checkpoint(tmp_path, {}, model=model).restore() == {"epoch": 3}
    assert [state[0].item() for state in found] == list(range(min(written, read)))


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
def test_memory_that_runs_out_in_the_loss_gets_advice(monkeypatch, message):
    def gather(*_: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr(torch.Tensor, "gather", gather)
    with pytest.raises(MemoryError, match="lower batch_size") as error, session.memory_advice("batch_size"):
        loss.cross_entropy(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    assert message in str(error.value.__cause__)


def test_other_errors_get_no_advice():
    with pytest.raises(RuntimeError, match="device-side assert"), session.memory_advice("batch_size"):
        raise RuntimeError("CUDA error: device-side assert triggered")


@needs_fake_gpu
def test_labels_on_another_device_are_called_that():
    with fake_gpu.fake_gpu(), pytest.raises(RuntimeError, match="mixes devices"):
        loss.cross_entropy(torch.zeros(2, 3, device="cuda"), torch.zeros(2, dtype=torch.long))


@needs_fake_gpu
@pytest.mark.parametrize("options", ({}, {"ignore_index": -1}, {"smoothing": 0.1, "reduction": "sum"}))
def test_the_loss_makes_no_gpu_wait(options):
    with fake_gpu.fake_gpu() as gpu:
        logits = torch.zeros(2, 3, device="cuda", requires_grad=True)
        labels = torch.zeros(2, dtype=torch.long, device="cuda")
        loss.cross_entropy(logits, labels, **options).backward()
        assert gpu.kernels and not gpu.waits
