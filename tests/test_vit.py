"""Homework 4-3, what goes beyond the assignment's classes: the faster model, augmentation, and the training."""

import math
from functools import partial

import pytest
import torch
from conftest import read, run_cell
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from data import samples


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


SIZES = dict(image_shape=(3, 8, 8), patch_size=(4, 4), num_classes=5, dim=8, num_heads=2, depth=2, mlp_dim=16)


def randomized(model: nn.Module) -> nn.Module:
    """In double precision, with every parameter drawn at random, so that none is zero or one by luck."""
    for parameter in model.double().parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


# ------------------------------------------------------------------------------------ the model


def test_the_fast_model_is_the_plain_one_with_its_gradients(vit):
    plain, fast = randomized(vit.ViT(**SIZES)), vit.FastViT(**SIZES).double()
    fast.load_state_dict(plain.state_dict())
    x, pull = torch.randn(3, 3, 8, 8).double(), torch.randn(3, 5).double()
    results = []
    for model in (plain, fast):
        logits = model(x)
        results.append([logits, *torch.autograd.grad((logits * pull).sum(), list(model.parameters()))])
    for a, b in zip(*results):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("rate", "left"), ((0.5, 2), (0.25, 3), (0.9, 1)))
def test_patch_dropout_keeps_the_class_token_and_so_many_different_patches(vit, rate, left):
    model, x = randomized(vit.FastViT(**SIZES)), torch.randn(6, 3, 8, 8).double()
    every = model.embed(x)
    model.patch_dropout = rate
    kept = model.embed(x)
    assert kept.shape == (6, 1 + left, 8) and torch.equal(kept[:, 0], every[:, 0])
    for tokens, all_tokens in zip(kept[:, 1:], every[:, 1:]):
        places = [int((all_tokens == token).all(1).nonzero()) for token in tokens]
        assert len(set(places)) == left
    assert torch.equal(model.eval().embed(x), every)


@pytest.mark.parametrize(
    ("make", "message"),
    (
        (lambda vit: vit.ViT(**SIZES | {"patch_size": (3, 4)}), r"patches of \(3, 4\) pixels do not fill"),
        (lambda vit: vit.Attention(8, 3), "dim 8 and 3 heads"),
        (lambda vit: vit.Config(validation=1.0), "Config.validation is 1.0: expected a fraction"),
        (lambda vit: vit.Further(learning_rate=math.inf), "Further.learning_rate is inf"),
    ),
)
def test_sizes_that_do_not_fit_are_refused(vit, make, message):
    with pytest.raises(ValueError, match=message):
        make(vit)


# ------------------------------------------------------------------------------------ augmentation


def test_an_image_is_moved_with_reflected_borders_and_mirrored(vit):
    images = torch.randint(256, (4, 3, 6, 7), dtype=torch.uint8)
    down, right = torch.tensor([[0], [2], [-1], [3]]), torch.tensor([[1], [0], [-3], [2]])
    mirrored = torch.tensor([[False], [True], [True], [False]])
    moved = vit.move(images, down, right, mirrored)
    for b in range(4):
        padded = F.pad(images[b].double(), (4, 4, 4, 4), mode="reflect")
        top, left = 4 - int(down[b]), 4 - int(right[b])
        expected = padded[:, top : top + 6, left : left + 7]
        assert torch.equal(moved[b].double(), expected.flip(-1) if mirrored[b] else expected)


def test_shifts_and_flips_differ_from_image_to_image_and_reach_four_pixels(vit):
    images = torch.zeros(500, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 16, 10] = 1  # one pixel, off the middle, tells the move
    places = vit.shift_and_flip(images)[:, 0].flatten(1).argmax(1)
    rows, columns = places // 32, places % 32
    assert set(rows.tolist()) == set(range(12, 21))
    assert set(columns.tolist()) == {*range(6, 15), *range(17, 26)}
    assert 150 < (columns > 15).sum() < 350


def test_cutmix_pastes_one_rectangle_of_the_neighbor_and_tells_how_much_is_kept(vit):
    images = torch.arange(4, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, 8, 8)
    for _ in range(20):
        mixed, other, kept = vit.cutmix(images, torch.arange(4))
        assert other.tolist() == [3, 0, 1, 2]
        for b in range(4):
            own = (mixed[b] == b).double()
            assert math.isclose(own.mean(), kept) and torch.isin(mixed[b], torch.tensor([b, (b - 1) % 4])).all()
            changed = (own[0] == 0).nonzero()
            if len(changed):
                height, width = (changed.amax(0) - changed.amin(0) + 1).tolist()
                assert height * width == len(changed)


def test_the_loss_of_a_mixed_batch_weighs_both_labels_by_their_area(vit, monkeypatch):
    images, labels = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 2, 3])
    model = randomized(vit.ViT(**SIZES)).float()
    monkeypatch.setattr(vit, "cutmix", lambda images, labels: vit.Mixed(images, labels.roll(1), 0.7))
    loss, correct = vit.cutmix_loss(model, images, labels, smoothing=0.1, fraction=0.999999)
    with vit.mixed_precision(images.device):
        logits = model(vit.normalize(images)).float()
    parts = [F.cross_entropy(logits, each, label_smoothing=0.1) for each in (labels, labels.roll(1))]
    torch.testing.assert_close(loss, 0.7 * parts[0] + 0.3 * parts[1])
    assert correct == (logits.argmax(1) == labels).sum()


def test_views_begin_alike_and_their_mean_is_blind_to_mirroring(vit, monkeypatch):
    sizes = [len(views) for views in vit.VIEWS.values()]
    assert sizes == [1, 2, 10] and all(vit.MOVED[:n] == views for n, views in zip(sizes, vit.VIEWS.values()))
    model, images = randomized(vit.ViT(**SIZES)).float(), torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8)
    monkeypatch.setattr(vit, "mixed_precision", lambda device: torch.autocast("cpu", enabled=False))
    there, back = (vit.logits_by_view(model, x)[:2].mean(0) for x in (images, images.flip(-1)))
    torch.testing.assert_close(there, back)


# ------------------------------------------------------------------------------------ training


def test_the_learning_rate_rises_and_falls_to_zero(vit):
    rates = [vit.warmup_linear(step, total_steps=10, warmup=0.2) for step in range(10)]
    assert rates == pytest.approx([0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0], abs=1e-12)


def test_each_parameter_has_one_optimizer_and_the_matrices_of_the_blocks_have_muon(vit):
    model = vit.ViT(**SIZES)
    muon, adamw = ([p for group in o.param_groups for p in group["params"]] for o in vit.make_optimizers(model, 1, 0))
    assert sorted(map(id, [*muon, *adamw])) == sorted(map(id, model.parameters()))
    assert {id(p) for p in muon} == {id(m.weight) for m in model.attention_blocks.modules() if type(m) is nn.Linear}


def fitted(vit, folder, stop_after=None, **changes):
    """A small training of Part II; interrupted after an epoch, it returns None."""
    (pictures, labels), _ = samples.images(train_size=80, test_size=0)
    settings = vit.Further(epochs=3, batch_size=20, **changes)
    sizes = vit.Config(dim=16, depth=2, num_heads=2, mlp_dim=32)
    torch.manual_seed(0)
    model = vit.build(vit.FastViT, sizes, torch.device("cpu"))

    def before(epoch):
        if stop_after is not None and epoch > stop_after:
            raise KeyboardInterrupt
        vit.falling(model, settings.patch_dropout, settings.epochs, epoch)

    before.__qualname__ = "before"
    loss_fn = partial(vit.cutmix_loss, smoothing=0.1, fraction=0.5)
    data = TensorDataset(pictures[:60], labels[:60]), TensorDataset(pictures[60:], labels[60:])
    try:
        run = vit.fit(model, settings, *data, loss_fn, folder, seed=1, resume=True, before_epoch=before)
    except KeyboardInterrupt:
        return None
    return model, run


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(vit, tmp_path):
    whole, run = fitted(vit, tmp_path / "whole")
    assert fitted(vit, tmp_path / "parts", stop_after=1) is None
    resumed, again = fitted(vit, tmp_path / "parts")
    assert again.resumed == 1 and run.resumed == 0
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))
    _, other = fitted(vit, tmp_path / "parts", learning_rate=1e-3)
    assert other.resumed == 0 and other.folder != again.folder
    assert fitted(vit, tmp_path / "parts")[1].resumed == 3  # A, B, A


def test_patch_dropout_falls_to_none(vit):
    model, seen = vit.FastViT(**SIZES), []
    for epoch in range(1, 6):
        vit.falling(model, 0.5, 5, epoch)
        seen.append(model.patch_dropout)
    assert seen == pytest.approx([0.5, 0.375, 0.25, 0.125, 0])


@pytest.mark.parametrize(("hours", "told"), ((0.9, False), (2, True)))
def test_a_machine_that_takes_more_than_an_hour_is_told_which_setting_to_lower(vit, capsys, hours, told):
    (cell,) = [cell for cell in read("hw4_vit").cells if "minutes on this machine" in cell.source]
    further, model = vit.Further(epochs=26), vit.FastViT(**SIZES)
    steps = 26 * math.ceil(47_500 / further.batch_size)
    space = vars(vit) | {"model": model, "fast": model, "batch": None, "further": further, "train_set": range(47_500)}
    space |= {"one_step": lambda *_: None, "minutes_needed": lambda _, count: count / steps * 60 * hours}
    run_cell("hw4_vit", 1000, cell, space)
    assert ("set epochs = 13" in capsys.readouterr().out) is told
