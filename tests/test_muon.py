"""Muon, all matrices of a shape at once: against the singular values, and against torch's own, matrix by matrix."""

import copy

import pytest
import torch

from common import muon
from common.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonalize

SHAPES = [(24, 8), (8, 8), (16, 8), (8, 16)] * 3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def matrices() -> list[torch.nn.Parameter]:
    torch.manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape)) for shape in SHAPES]


def give_gradients(*models: list[torch.nn.Parameter], factor: float = 1.0) -> None:
    for parameters in zip(*models):
        gradient = torch.randn_like(parameters[0])
        for p in parameters:
            p.grad = factor * gradient


def apart(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(ours, theirs))


@pytest.mark.parametrize("shape", [(3, 5, 9), (2, 9, 5), (4, 6, 6)])
def test_orthogonalize_maps_each_singular_value_by_the_polynomial(shape):
    matrices = torch.randn(shape, dtype=torch.double)
    u, s, vt = torch.linalg.svd(matrices / matrices.norm(dim=(1, 2), keepdim=True), full_matrices=False)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        s = a * s + b * s**3 + c * s**5
    assert torch.allclose(orthogonalize(matrices, torch.double), u * s.unsqueeze(1) @ vt, atol=1e-9)


def test_no_gradient_at_all_changes_nothing_but_the_decay():
    weights = matrices()
    before = copy.deepcopy(weights)
    for p in weights:
        p.grad = torch.zeros_like(p)
    Muon(weights, lr=0.1, weight_decay=0.5).step()
    assert all(torch.allclose(p, 0.95 * q) for p, q in zip(weights, before))


@pytest.mark.parametrize("options", [{}, {"momentum": 0.8, "weight_decay": 0.3, "lr": 0.05}])
def test_steps_equal_torchs_within_the_rounding_of_bfloat16(options):
    ours, theirs = matrices(), matrices()
    optimizer = Muon(ours, **options, dtype=torch.bfloat16)
    reference = torch.optim.Muon(theirs, **options, adjust_lr_fn="match_rms_adamw")
    start = [p.detach().clone() for p in ours]
    for _ in range(6):
        give_gradients(ours, theirs)
        optimizer.step(), reference.step()
    moved = [p.detach() - s for p, s in zip(ours, start)]
    assert apart(moved, [p.detach() - s for p, s in zip(theirs, start)]) < 0.02


def test_steps_equal_torchs_closely_with_its_multiplications_in_float32(monkeypatch):
    ours, theirs = matrices(), matrices()
    optimizer = Muon(ours, lr=0.05, dtype=torch.float32)
    reference = torch.optim.Muon(theirs, lr=0.05, adjust_lr_fn="match_rms_adamw")
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # where the library rounds
    for _ in range(6):
        give_gradients(ours, theirs)
        optimizer.step(), reference.step()
    assert apart(ours, theirs) < 1e-5


def test_a_restored_optimizer_goes_on_as_if_nothing_had_happened():
    one, other = matrices(), matrices()
    first, second = Muon(one), Muon(other)
    give_gradients(one, other)
    first.step(), second.step()
    restored = Muon(other, lr=0.5)
    restored.load_state_dict(copy.deepcopy(second.state_dict()))
    give_gradients(one, other)
    first.step(), restored.step()
    assert all(torch.equal(p, q) for p, q in zip(one, other))


def test_under_a_scaler_gradients_are_unscaled_and_an_overflow_skips_the_step():
    ours, theirs = matrices(), matrices()
    optimizer, reference = Muon(ours, lr=0.05, dtype=torch.float32), Muon(theirs, lr=0.05, dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    scaler.scale(torch.ones(()))  # makes the scale
    for step in range(4):
        give_gradients(ours, theirs)
        for p in ours:
            p.grad *= scaler.get_scale()
        if step == 2:
            ours[5].grad[0, 0] = float("inf")
            before = copy.deepcopy(ours)
        scaler.step(optimizer)
        scaler.update()
        if step == 2:
            assert all(torch.equal(p, q) for p, q in zip(ours, before))
            assert scaler.get_scale() == 32
        else:
            reference.step()
    assert apart(ours, theirs) < 1e-5


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_an_overflow_in_the_first_step_leaves_numbers(value):
    weights = matrices()
    before = copy.deepcopy(weights)
    give_gradients(weights)
    weights[0].grad[:] = value
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(torch.ones(()))
    scaler.step(optimizer := Muon(weights))
    assert all(torch.equal(p, q) for p, q in zip(weights, before))
    assert all(state["mean"].isfinite().all() for state in optimizer.state.values())


def test_multiplications_are_in_a_type_of_the_devices_hardware(monkeypatch):
    for device, able, expected in (
        ("cpu", True, torch.bfloat16),
        ("cpu", False, torch.float32),
        ("cuda", True, torch.bfloat16),
        ("cuda", False, torch.float16),
    ):
        monkeypatch.setattr(muon, "has_bfloat16", lambda device, able=able: able)
        assert muon.multiplication_dtype(torch.device(device)) == expected


@pytest.mark.parametrize("factor", [1e-8, 1.0, 1e8])
def test_float16_is_wide_enough_for_gradients_of_any_size(factor):
    matrices = factor * torch.randn(2, 96, 192)
    exact = orthogonalize(matrices.double(), torch.double)
    half = orthogonalize(matrices, torch.float16).double()
    assert ((half - exact).norm() / exact.norm()).item() < 0.01


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="matrices alone"):
        Muon([torch.nn.Parameter(torch.ones(3))])
