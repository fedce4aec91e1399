"""Muon, all matrices of a shape at once: against the singular values, and against torch's own, matrix by matrix."""

import copy

import pytest
import torch

from common import muon
from common.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonalize

SHAPES = [(24, 8), (8, 8), (16, 8), (8, 16)] * 3
needs_torchs = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(muon, "has_bfloat16", lambda device: False)


def matrices() -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_gradients(*models: list[torch.nn.Parameter]) -> None:
    for parameters in zip(*models):
        gradient = torch.randn_like(parameters[0])
        for p in parameters:
            p.grad = gradient.clone()


def apart(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    return max(((a - b).norm() / b.norm()).item() for a, b in zip(ours, theirs))


@pytest.mark.parametrize("shape", [(3, 5, 9), (2, 9, 5), (4, 6, 6)])
def test_orthogonalize_maps_each_singular_value_by_the_polynomial(shape):
    matrices = torch.randn(shape, dtype=torch.double)
    u, s, vt = torch.linalg.svd(matrices / matrices.norm(dim=(1, 2), keepdim=True), full_matrices=False)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonalize(matrices, torch.double), u * s.unsqueeze(1) @ vt)


@needs_torchs
@pytest.mark.parametrize("options", [{}, {"momentum": 0.8, "weight_decay": 0.3, "lr": 0.05}])
@pytest.mark.parametrize("bfloat16", [False, True])
def test_steps_equal_torchs(monkeypatch, options, bfloat16):
    ours, theirs = matrices(), matrices()
    optimizer = Muon(ours, **options)
    reference = torch.optim.Muon(theirs, **options, adjust_lr_fn="match_rms_adamw")
    if bfloat16:
        monkeypatch.setattr(muon, "has_bfloat16", lambda device: True)
    else:
        monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # where the library rounds
    start = [p.detach().clone() for p in ours]
    for _ in range(6):
        give_gradients(ours, theirs)
        optimizer.step(), reference.step()
    moved = [[p.detach() - s for p, s in zip(parameters, start)] for parameters in (ours, theirs)]
    assert apart(*moved) < (0.05 if bfloat16 else 1e-4)


def test_no_gradient_at_all_changes_nothing_but_the_decay():
    weights, before = matrices(), matrices()
    for p in weights:
        p.grad = torch.zeros_like(p)
    Muon(weights, lr=0.1, weight_decay=0.5).step()
    assert all(torch.allclose(p, 0.95 * q) for p, q in zip(weights, before))


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


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="matrices alone"):
        Muon([torch.nn.Parameter(torch.ones(3))])
