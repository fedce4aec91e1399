"""Homework 4-3: the Vision Transformer against PyTorch's and torchvision's own, and its training."""

import math
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

from data import samples


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def randomized(model: nn.Module) -> nn.Module:
    """In double precision, with every parameter drawn at random, so that none is zero or one by luck."""
    model = model.double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


SMALL = dict(image_shape=(3, 8, 8), patch_size=(4, 4), num_classes=5, dim=8, num_heads=2, depth=2, mlp_dim=16)


def small(vit: ModuleType, kind: str = "ViT", **changes) -> nn.Module:
    return randomized(getattr(vit, kind)(**SMALL | changes))


def same_with_gradients(ours, theirs, *inputs) -> bool:
    """Whether both functions give equal values and equal gradients by their inputs, to 1e-9."""
    values = [function(*inputs) for function in (ours, theirs)]
    weights = torch.randn_like(values[0])
    grads = [torch.autograd.grad((value * weights).sum(), inputs) for value in values]
    return torch.allclose(*values, atol=1e-9) and all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*grads))


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.double, requires_grad=True)


def tiny(vit: ModuleType, **changes):
    """Settings for a training of a second."""
    size = dict(dim=16, depth=2, num_heads=2, mlp_dim=32, batch_size=20, epochs=3, full_epochs=1, cutmix=0.5)
    return vit.Config(**vit.SAMPLE | size | changes)


def parts(vit: ModuleType, train: int = 100, validation: int = 50) -> tuple:
    pictures, labels = samples.images(train_size=train + validation, test_size=0)[0]
    return vit.Part(pictures[:train], labels[:train]), vit.Part(pictures[train:], labels[train:])


# ------------------------------------------------------------------------------------ 3(a)


@settings(max_examples=20, deadline=None)
@given(
    B=st.integers(1, 3),
    patch=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
)
def test_patchification_equals_unfold_and_a_linear_map(vit, B, patch, rows, columns):
    patchify = randomized(vit.Patchification(3, patch, 8))
    (conv,) = [m for m in patchify.modules() if isinstance(m, nn.Conv2d)]

    def reference(x):
        cut = F.unfold(x, patch, stride=patch).transpose(1, 2)  # (B, N, 3 * height * width)
        return F.linear(cut, conv.weight.flatten(1), conv.bias)

    assert same_with_gradients(patchify, reference, images(B, 3, rows * patch[0], columns * patch[1]))


def test_patchification_has_one_convolution_and_no_other_layer(vit):
    leaves = [m for m in vit.Patchification(3, (4, 4), 8).modules() if not list(m.children())]
    assert [type(m) for m in leaves] == [nn.Conv2d]


# ------------------------------------------------------------------------------------ 3(b)


@settings(max_examples=20, deadline=None)
@given(B=st.integers(1, 3), N=st.integers(1, 6), heads=st.integers(1, 4), width=st.integers(1, 5))
def test_attention_equals_torchs_weights_and_gradients_too(vit, B, N, heads, width):
    ours = randomized(vit.Attention(heads * width, heads))
    theirs = nn.MultiheadAttention(heads * width, heads, batch_first=True).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.to_qkv.weight,
            "in_proj_bias": ours.to_qkv.bias,
            "out_proj.weight": ours.project.weight,
            "out_proj.bias": ours.project.bias,
        }
    )
    x = images(B, N, heads * width)
    assert same_with_gradients(ours, lambda x: theirs(x, x, x)[0], x)
    assert torch.allclose(ours.attend(*ours.heads(x))[1], theirs(x, x, x, average_attn_weights=False)[1], atol=1e-9)


# ------------------------------------------------------------------------------------ 3(c)


@settings(max_examples=15, deadline=None)
@given(B=st.integers(1, 3), N=st.integers(1, 6), heads=st.integers(1, 3), width=st.integers(1, 4))
def test_block_equals_torchs_encoder_layer(vit, B, N, heads, width):
    D = heads * width + heads  # at least two numbers, so that a norm has something to do
    block, x = randomized(vit.Block(D, heads, 2 * D)), images(B, N, D)
    theirs = nn.TransformerEncoderLayer(D, heads, 2 * D, 0.0, "gelu", batch_first=True, norm_first=True).double()
    names = {
        "norm1.": "attention_norm.",
        "self_attn.in_proj_": "attention.to_qkv.",
        "self_attn.out_proj.": "attention.project.",
        "norm2.": "mlp_norm.",
        "linear1.": "mlp.expand.",
        "linear2.": "mlp.contract.",
    }
    state = block.state_dict()
    theirs.load_state_dict({t + kind: state[o + kind] for t, o in names.items() for kind in ("weight", "bias")})
    assert same_with_gradients(block, theirs, x)


def test_mlp_is_two_linear_maps_with_gelu_between(vit):
    mlp = randomized(vit.MLP(6, 24))
    expand, contract = [m for m in mlp.modules() if isinstance(m, nn.Linear)]
    assert expand.out_features == contract.in_features == 24
    assert same_with_gradients(mlp, lambda x: contract(F.gelu(expand(x))), images(2, 5, 6))


# ------------------------------------------------------------------------------------ 3(d)


def test_attributes_have_the_assignments_names_and_shapes(vit):
    model = small(vit)
    assert model.pos_embedding.shape == (1, 5, 8) and model.cls_token.shape == (1, 1, 8)
    assert isinstance(model.pos_embedding, nn.Parameter) and isinstance(model.cls_token, nn.Parameter)
    assert sum(isinstance(m, vit.Block) for m in model.attention_blocks.modules()) == 2
    assert [m for m in model.classification_head.modules() if isinstance(m, nn.Linear)][-1].out_features == 5
    assert isinstance(model.patchify, vit.Patchification)
    assert model(images(3, 3, 8, 8)).shape == (3, 5)


def test_the_blocks_get_class_token_and_patches_with_their_positions(vit):
    model, x, seen = small(vit), images(2, 3, 8, 8), []
    first = next(m for m in model.attention_blocks.modules() if isinstance(m, vit.Block))
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(x)
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), model.patchify(x)], 1)
    assert torch.allclose(seen[0], tokens + model.pos_embedding, atol=1e-9)


def test_logits_are_read_from_the_class_token_alone(vit):
    model, x = small(vit), images(2, 3, 8, 8)
    last = [m for m in model.attention_blocks.modules() if isinstance(m, vit.Block)][-1]

    def logits(place):
        def disturb(module, inputs, output):
            output = output.clone()
            output[:, place] += 1 + torch.arange(8.0)
            return output

        handle = last.register_forward_hook(disturb)
        out = model(x)
        handle.remove()
        return out

    assert torch.allclose(logits(slice(1, None)), model(x), atol=1e-9)
    assert not torch.allclose(logits(0), model(x), atol=1e-3)


@pytest.mark.parametrize("kind", ["ViT", "FastViT"])
@settings(max_examples=6, deadline=None)
@given(side=st.integers(1, 3), patch=st.integers(1, 4), depth=st.integers(1, 3), heads=st.integers(1, 3))
def test_whole_model_equals_torchvision_with_copied_weights_gradients_too(vit, kind, side, patch, depth, heads):
    size, dim = side * patch, 4 * heads
    changes = dict(image_shape=(3, size, size), patch_size=(patch, patch), depth=depth, num_heads=heads, dim=dim)
    ours = small(vit, kind, **changes)
    theirs = VisionTransformer(size, patch, depth, heads, dim, 16, num_classes=5, norm_layer=nn.LayerNorm).double()
    state = {"class_token": ours.cls_token, "encoder.pos_embedding": ours.pos_embedding}
    layers = {"conv_proj.": ours.patchify.projection, "encoder.ln.": ours.norm}
    layers["heads.head."] = ours.classification_head
    names = {
        "ln_1.": "attention_norm",
        "self_attention.in_proj_": "attention.to_qkv",
        "self_attention.out_proj.": "attention.project",
        "ln_2.": "mlp_norm",
        "mlp.0.": "mlp.expand",
        "mlp.3.": "mlp.contract",
    }
    for i, block in enumerate(ours.attention_blocks):
        for theirs_name, ours_name in names.items():
            layers[f"encoder.layers.encoder_layer_{i}.{theirs_name}"] = block.get_submodule(ours_name)
    for name, layer in layers.items():
        state |= {name + "weight": layer.weight, name + "bias": layer.bias}
    theirs.load_state_dict(state)
    x, copies = images(3, 3, size, size), dict(theirs.named_parameters())
    assert same_with_gradients(ours, theirs.eval(), x)
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    assert all(torch.allclose(p.grad, copies[name].grad, atol=1e-9) for name, p in state.items())


def test_only_allowed_layers_are_in_the_model(vit):
    leaves = {type(m) for m in vit.build(tiny(vit)).modules() if not list(m.children())}
    assert leaves == {nn.Conv2d, nn.Linear, nn.LayerNorm, nn.GELU}


def test_arguments_are_those_of_the_assignment(vit):
    names = vit.ViT.__init__.__code__.co_varnames[1 : vit.ViT.__init__.__code__.co_argcount]
    assert list(names) == "image_shape patch_size num_classes dim num_heads depth mlp_dim dropout".split()


def test_shapes_that_do_not_fit_are_refused(vit):
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        small(vit, image_shape=(3, 10, 8))
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        vit.Patchification(3, (4, 4), 8)(torch.randn(1, 3, 8, 10))
    with pytest.raises(ValueError, match="dim 8 cannot be divided among 3 heads"):
        small(vit, num_heads=3)
    with pytest.raises(ValueError, match="the model was built for"):
        small(vit)(images(1, 3, 16, 16))


def test_dropout_acts_in_training_alone_and_in_every_part(vit):
    x = images(2, 5, 8)
    for part in (vit.MLP(8, 16, dropout=0.5), vit.Attention(8, 2, dropout=0.5), vit.Block(8, 2, 16, dropout=0.5)):
        part = randomized(part)
        assert torch.equal(part(x), part(x)) and not torch.equal(part.train()(x), part(x))
    model = small(vit, dropout=0.5, depth=1).train()
    model.attention_blocks.eval()
    assert not torch.equal(model.embed(images(1, 3, 8, 8)), model.embed(images(1, 3, 8, 8)))


def test_before_training_all_classes_are_equally_likely(vit):
    model = vit.build(tiny(vit))
    assert torch.equal(model(torch.randn(2, 3, 32, 32)), torch.zeros(2, 10))


# ------------------------------------------------------------------------------------ what makes training faster


def test_patch_dropout_keeps_the_class_token_and_different_patches_of_each_image(vit):
    model, x = small(vit, "FastViT", image_shape=(3, 16, 16)), images(2, 3, 16, 16)
    every = model.embed(x)
    model.patch_dropout = 0.25
    assert torch.equal(model.embed(x), every)
    kept = model.train().embed(x)
    assert kept.shape == (2, 13, 8) and torch.equal(kept[:, 0], every[:, 0])
    places = [[(every[b] == token).all(1).nonzero().item() for token in kept[b, 1:]] for b in range(2)]
    assert all(len(set(row)) == 12 for row in places) and places[0] != places[1]
    model.patch_dropout = 0.99
    assert model.embed(x).shape == (2, 2, 8)  # one patch stays


def test_augmentation_shifts_and_mirrors_each_picture_as_a_whole(vit):
    pictures = torch.arange(2 * 3 * 6 * 6, dtype=torch.int32).view(2, 3, 6, 6).repeat(20, 1, 1, 1)
    out = vit.augment(pictures, shift=2)
    padded = F.pad(pictures.float(), (2,) * 4, mode="reflect").to(torch.int32)
    seen = set()
    for picture, source in zip(out, padded, strict=True):
        places = [
            (top, left, mirror)
            for top in range(5)
            for left in range(5)
            for mirror in (False, True)
            if torch.equal(picture.flip(2) if mirror else picture, source[:, top : top + 6, left : left + 6])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 10


def test_cutmix_pastes_the_neighbors_rectangle_and_tells_its_area(vit):
    pictures, labels = torch.arange(4).view(4, 1, 1, 1).expand(4, 3, 10, 10).contiguous(), torch.arange(4)
    areas = []
    for _ in range(200):
        mixed, other, kept = vit.cutmix(pictures, labels)
        assert other.tolist() == [3, 0, 1, 2]
        for picture, label, neighbor in zip(mixed, labels, other, strict=True):
            assert (picture == label).double().mean().item() == pytest.approx(kept)
            assert ((picture == label) | (picture == neighbor)).all()
        areas.append(kept)
    assert min(areas) < 0.1 and max(areas) > 0.9 and torch.equal(pictures[:, 0, 0, 0], labels)


def test_normalized_images_have_zero_mean_and_unit_spread_and_constants_are_sent_once(vit):
    mean, spread = torch.tensor(vit.MEAN), torch.tensor(vit.SPREAD)
    pictures = (mean + spread * torch.randn(20_000, 3)).view(-1, 3, 1, 1)
    assert torch.allclose(vit.normalize(pictures).mean((0, 2, 3)), torch.zeros(3), atol=0.05)
    assert torch.allclose(vit.normalize(pictures).std((0, 2, 3)), torch.ones(3), atol=0.05)
    cpu = torch.device("cpu")
    assert vit.color_statistics(cpu)[0] is vit.color_statistics(torch.device("cpu"))[0]


def test_every_parameter_has_exactly_one_optimizer(vit):
    for optimizer, kind in (("muon", vit.Muon), ("adamw", torch.optim.AdamW)):
        config = tiny(vit, optimizer=optimizer)
        model = vit.build(config)
        optimizers = vit.make_optimizers(model, config)
        assert isinstance(optimizers[0], kind)
        held = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in model.parameters())


def test_mixed_precision_and_scaler_match_the_device(vit, monkeypatch):
    cpu = torch.device("cpu")
    for able, kind in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(vit.session, "has_bfloat16", lambda device, able=able: able)
        with vit.mixed_precision(cpu):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == kind
        assert not vit.make_scaler(cpu).is_enabled()


# ------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"validation": 0.0}, "validation is 0"),
        ({"validation": 1.0}, "expected a fraction"),
        ({"epochs": 0}, "expected more than 0"),
        ({"optimizer": "sgd"}, "one of muon, adamw"),
        ({"patch_dropout": 1.0}, "expected a fraction"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(vit, change, message):
    with pytest.raises(ValueError, match=message):
        vit.Config(**change)


def test_presets_are_settings_and_smaller_or_larger_than_the_defaults(vit):
    sample, default, gpu = (vit.Config(**preset) for preset in (vit.SAMPLE, {}, vit.GPU))
    sizes = [sum(p.numel() for p in vit.build(config).parameters()) for config in (sample, default, gpu)]
    assert sizes == sorted(sizes)


def test_a_part_of_the_images_is_drawn_for_validation(vit):
    data = torch.arange(50).view(50, 1, 1, 1), torch.arange(50)
    train, validation = vit.split(data, 0.1, seed=1)
    assert len(validation.labels) == 5
    assert sorted([*train.labels.tolist(), *validation.labels.tolist()]) == list(range(50))
    assert validation.labels.tolist() != sorted(validation.labels.tolist())
    assert torch.equal(train.images.flatten(), train.labels)
    assert torch.equal(vit.split(data, 0.1, seed=1)[1].labels, validation.labels)
    assert len(vit.split(data, 0.001, seed=1)[1].labels) == 1


# ------------------------------------------------------------------------------------ 3(e)


def test_schedule_rises_then_falls_to_zero_also_without_a_warmup(vit):
    assert [vit.schedule(p, 0.2) for p in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert [vit.schedule(p, 0.0) for p in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])


def test_an_epoch_shows_every_image_once_and_follows_the_schedule(vit, monkeypatch):
    config = tiny(vit, cutmix=0.0, patch_dropout=0.0, smoothing=0.0)
    train, _ = parts(vit, train=50)
    train = vit.Part(torch.arange(50, dtype=torch.uint8).view(50, 1, 1, 1).expand(50, 3, 32, 32), train.labels)
    model, shown, rates = vit.build(config), [], []
    optimizers = vit.make_optimizers(model, config)
    monkeypatch.setattr(vit, "normalize", lambda pictures: (shown.append(pictures[:, 0, 0, 0]), pictures / 255)[1])
    optimizers[1].register_step_pre_hook(lambda *_: rates.append([o.param_groups[0]["lr"] for o in optimizers]))
    scaler = vit.make_scaler(torch.device("cpu"))
    loss, accuracy = vit.train_epoch(model, train, optimizers, scaler, config, 2, torch.Generator())
    assert [len(batch) for batch in shown] == [20, 20, 10]
    assert sorted(torch.cat(shown).tolist()) == list(range(50)) and torch.cat(shown).tolist() != list(range(50))
    expected = [2e-3 * vit.schedule((3 + i) / 9, config.warmup) for i in (1, 2, 3)]
    assert rates == [[pytest.approx(rate)] * 2 for rate in expected]
    assert abs(loss - math.log(10)) < 0.5 and accuracy / 2 == pytest.approx(round(accuracy / 2), abs=1e-3)


def test_each_step_follows_the_gradient_of_its_own_batch(vit, monkeypatch):
    config, device = tiny(vit, cutmix=0.0, patch_dropout=0.0, smoothing=0.0, learning_rate=1e-12), torch.device("cpu")
    train, _ = parts(vit, train=40)
    model = vit.build(config)
    nn.init.normal_(model.classification_head.weight)
    monkeypatch.setattr(vit, "augment", lambda pictures: pictures)
    optimizers = vit.make_optimizers(model, config)
    vit.train_epoch(model, train, optimizers, vit.make_scaler(device), config, 1, torch.Generator())
    last = torch.randperm(40, generator=torch.Generator())[20:]
    with vit.mixed_precision(device):
        logits = model(vit.normalize(train.images[last]))
    gradients = torch.autograd.grad(vit.cross_entropy(logits, train.labels[last]), list(model.parameters()))
    assert all(torch.allclose(p.grad, g, atol=1e-5) for p, g in zip(model.parameters(), gradients, strict=True))


def test_the_last_epochs_show_whole_images(vit, monkeypatch):
    config = tiny(vit, epochs=3, full_epochs=2, patch_dropout=0.5, cutmix=0.99, full_cutmix=0.0)
    train, _ = parts(vit, train=40)
    lengths, mixed = [], []
    for epoch in (1, 2, 3):
        model = vit.build(config)
        model.attention_blocks[0].register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
        plain = vit.cutmix
        monkeypatch.setattr(
            vit, "cutmix", lambda *args, epoch=epoch, plain=plain: (mixed.append(epoch), plain(*args))[1]
        )
        scaler = vit.make_scaler(torch.device("cpu"))
        vit.train_epoch(model, train, vit.make_optimizers(model, config), scaler, config, epoch, torch.Generator())
        monkeypatch.setattr(vit, "cutmix", plain)
    assert lengths == [33, 33, 65, 65, 65, 65] and set(mixed) == {1}


def test_the_loss_of_mixed_pictures_asks_for_both_labels_by_their_area(vit, monkeypatch):
    config = tiny(vit, cutmix=0.99, patch_dropout=0.0, batch_size=40, smoothing=0.0)
    train, _ = parts(vit, train=40)
    model, seen = vit.build(config).eval(), {}
    nn.init.normal_(model.classification_head.weight)
    plain = vit.cutmix
    monkeypatch.setattr(vit, "cutmix", lambda *args: seen.setdefault("mixed", plain(*args)))
    monkeypatch.setattr(vit.session, "has_bfloat16", lambda device: False)
    model.register_forward_hook(lambda _, inputs, logits: seen.update(logits=logits.detach()))
    monkeypatch.setattr(vit, "augment", lambda pictures: pictures)
    generator = torch.Generator().manual_seed(3)
    labels = train.labels[torch.randperm(40, generator=torch.Generator().manual_seed(3))]
    scaler = vit.make_scaler(torch.device("cpu"))
    loss, _ = vit.train_epoch(model, train, vit.make_optimizers(model, config), scaler, config, 1, generator)
    mixed, log_probs = seen["mixed"], seen["logits"].log_softmax(1)
    target = mixed.kept * F.one_hot(labels, 10) + (1 - mixed.kept) * F.one_hot(mixed.other_labels, 10)
    assert 0 < mixed.kept < 1 and loss == pytest.approx(-(target * log_probs).sum(1).mean().item(), rel=1e-5)


def test_predictions_are_the_mean_over_the_views(vit):
    model, pictures = vit.build(tiny(vit)), parts(vit)[0].images
    nn.init.normal_(model.classification_head.weight)
    padded = F.pad(pictures.float(), (1, 1, 1, 1), mode="reflect").byte()
    views = [pictures, padded[..., :-2, :-2], padded[..., 2:, 2:]]  # at its place, down and right, up and left
    views += [view.flip(-1) for view in views]
    mean = sum(vit.predict(model, view) for view in views) / len(views)
    assert torch.allclose(vit.predict(model, pictures, vit.MOVED, batch_size=30), mean, atol=1e-3)
    mirrored = vit.predict(model, pictures, vit.MIRRORED)
    assert torch.allclose(mirrored, (vit.predict(model, views[0]) + vit.predict(model, views[3])) / 2, atol=1e-3)
    assert torch.allclose(vit.predict(model, pictures.flip(-1), vit.MIRRORED), mirrored, atol=1e-3)
    for name, logits in vit.predict_by_views(model, pictures).items():
        assert torch.allclose(logits, vit.predict(model, pictures, vit.VIEWS[name]), atol=1e-3)


def test_evaluation_counts_examples_not_batches(vit):
    model, data = vit.build(tiny(vit)), parts(vit, train=107)[0]
    nn.init.normal_(model.classification_head.weight)
    logits = vit.predict(model, data.images, batch_size=50)
    loss, accuracy = vit.evaluate(model, data)
    assert loss == pytest.approx(F.cross_entropy(logits, data.labels).item(), rel=1e-3)
    assert accuracy == pytest.approx(100 * (logits.argmax(1) == data.labels).sum().item() / 107)


def test_a_resumed_training_prints_the_log_of_all_epochs_and_ends_in_the_same_weights(
    vit, tmp_path, monkeypatch, capsys
):
    config, (train, validation) = tiny(vit), parts(vit)
    whole, history = vit.fit(config, train, validation, str(tmp_path / "whole"))
    record = vit.Run.record

    def interrupted(run, **numbers):
        record(run, **numbers)
        if len(run.history) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(vit.Run, "record", interrupted)
    with pytest.raises(KeyboardInterrupt):
        vit.fit(config, train, validation, str(tmp_path / "again"))
    monkeypatch.setattr(vit.Run, "record", record)
    capsys.readouterr()
    resumed, again = vit.fit(config, train, validation, str(tmp_path / "again"))
    lines = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()[:1].isdigit()]
    assert [(line[0], line[-1] == "restored") for line in lines] == [("1", True), ("2", True), ("3", False)]
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values()))
    assert [row["validation_loss"] for row in again] == [row["validation_loss"] for row in history]
    vit.fit(config, train, validation, str(tmp_path / "again"))  # finished
    assert sum("restored" in line for line in capsys.readouterr().out.splitlines()) == 4


def test_a_training_writes_the_curves_that_are_drawn(vit, tmp_path):
    config, (train, validation) = tiny(vit, batch_size=5, epochs=2), parts(vit)
    vit.fit(config, train, validation, str(tmp_path))
    curves = vit.tracking.read_run(tmp_path)
    assert curves["learning_rate"][0] == curves["loss/train"][0] == [10, 20, 30, 40]
    for tag in ("loss/validation", "accuracy/train", "accuracy/validation"):
        assert curves[tag][0] == [20, 40]


def test_class_attention_is_the_mean_of_what_torchs_attention_gives(vit):
    model, pictures = vit.build(tiny(vit)), parts(vit)[0].images[:3]
    maps = vit.class_attention(model, pictures)
    assert maps.shape == (3, 8, 8)
    inputs = []
    last = model.attention_blocks[-1]
    last.attention_norm.register_forward_hook(lambda _, args, output: inputs.append(output))
    model.eval()(vit.normalize(pictures))
    theirs = nn.MultiheadAttention(16, 2, batch_first=True)
    theirs.in_proj_weight, theirs.in_proj_bias = last.attention.to_qkv.weight, last.attention.to_qkv.bias
    weights = theirs(inputs[0], inputs[0], inputs[0])[1]  # (B, N, N), mean over the heads
    assert torch.allclose(maps.flatten(1), weights[:, 0, 1:], atol=1e-5)


# ------------------------------------------------------------------------------------ the settings for a GPU, on a CPU


@pytest.mark.slow
def test_the_gpus_settings_learn_within_the_range_of_float16(vit):
    config = vit.Config(**vit.GPU | dict(batch_size=25, epochs=8, full_epochs=2))
    train, _ = parts(vit, train=75)
    largest = {"activation": 0.0, "gradient": 0.0}

    def watch(name):
        def hook(module, inputs, outputs):
            for tensor in outputs if isinstance(outputs, tuple) else (outputs,):
                largest[name] = max(largest[name], tensor.detach().abs().max().item())

        return hook

    model = vit.build(config)
    for module in model.modules():
        module.register_forward_hook(watch("activation"))
        if module not in (model, model.patchify, model.patchify.projection):  # pictures get no gradient
            module.register_full_backward_hook(watch("gradient"))
        for parameter in module.parameters(recurse=False):
            parameter.register_post_accumulate_grad_hook(lambda p: watch("gradient")(p, None, p.grad))
    optimizers, generator = vit.make_optimizers(model, config), torch.Generator()
    scaler = vit.make_scaler(torch.device("cpu"))
    losses = [vit.train_epoch(model, train, optimizers, scaler, config, epoch, generator)[0] for epoch in range(1, 9)]
    print("losses", [round(loss, 3) for loss in losses], "largest", largest)
    assert losses[-1] < losses[0] - 0.1 and losses[0] < math.log(10) + 0.1
    assert largest["activation"] < 65_504 / 100
    assert largest["gradient"] * 2**13 < 65_504  # the scaler starts with 2**16, and halves it where that is too much


def test_attention_drops_weights_and_outputs_in_training(vit, monkeypatch):
    dropped = []

    def record(x, rate, training):
        dropped.append((tuple(x.shape), rate, training))
        return x

    monkeypatch.setattr(vit, "dropout", record)
    vit.Attention(dim=8, num_heads=2, dropout=0.3)(torch.randn(1, 5, 8))
    assert dropped == [((1, 2, 5, 5), 0.3, True), ((1, 5, 8), 0.3, True)]
