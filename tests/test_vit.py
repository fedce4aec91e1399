"""The hand-written Vision Transformer against PyTorch's and torchvision's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small(vit, **changes):
    options = (
        dict(image_shape=(3, 8, 8), patch_size=(4, 4), num_classes=5, dim=8, num_heads=2, depth=2, mlp_dim=16) | changes
    )
    model = vit.ViT(**options).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def test_patchification_equals_unfold_and_a_linear_map(vit):
    patchify, images = vit.Patchification(3, (4, 2), 8), torch.randn(2, 3, 8, 6)
    patches = F.unfold(images, (4, 2), stride=(4, 2)).transpose(1, 2)  # (B, N, 3 * 4 * 2)
    expected = F.linear(patches, patchify.projection.weight.flatten(1), patchify.projection.bias)
    assert torch.allclose(patchify(images), expected, atol=1e-5)


def test_attention_equals_torch_multihead_attention_with_gradients(vit):
    ours = vit.Attention(12, 3).double()
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    theirs.load_state_dict({
        "in_proj_weight": ours.to_qkv.weight, "in_proj_bias": ours.to_qkv.bias,
        "out_proj.weight": ours.project.weight, "out_proj.bias": ours.project.bias,
    })  # fmt: skip
    x = torch.randn(2, 7, 12, dtype=torch.double, requires_grad=True)
    expected, weights = theirs(x, x, x, average_attn_weights=False)
    assert torch.allclose(ours(x), expected, atol=1e-9)
    assert torch.allclose(ours.attend(x)[1], weights, atol=1e-9)
    mine, other = (torch.autograd.grad(out.square().sum(), x)[0] for out in (ours(x), expected))
    assert torch.allclose(mine, other, atol=1e-9)


def test_attention_equals_scaled_dot_product_attention(vit):
    ours, x = vit.Attention(12, 3), torch.randn(2, 7, 12)
    q, k, v = (part.unflatten(2, (3, 4)).transpose(1, 2) for part in ours.to_qkv(x).chunk(3, 2))
    expected = ours.project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    assert torch.allclose(ours(x), expected, atol=1e-5)


def test_whole_model_equals_torchvision_with_copied_weights(vit):
    ours = small(vit)
    theirs = VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=5,
        norm_layer=nn.LayerNorm,
    ).eval()  # fmt: skip
    state = {
        "class_token": ours.cls_token, "encoder.pos_embedding": ours.pos_embedding,
        "conv_proj.weight": ours.patchify.projection.weight, "conv_proj.bias": ours.patchify.projection.bias,
        "encoder.ln.weight": ours.norm.weight, "encoder.ln.bias": ours.norm.bias,
        "heads.head.weight": ours.classification_head.weight, "heads.head.bias": ours.classification_head.bias,
    }  # fmt: skip
    names = {"ln_1": "attention_norm", "self_attention.in_proj": "attention.to_qkv", "mlp.0": "mlp.expand",
             "self_attention.out_proj": "attention.project", "ln_2": "mlp_norm", "mlp.3": "mlp.contract"}  # fmt: skip
    for i, block in enumerate(ours.attention_blocks):
        for theirs_name, ours_name in names.items():
            layer = block.get_submodule(ours_name)
            joint = "_" if theirs_name.endswith("in_proj") else "."
            for kind in ("weight", "bias"):
                state[f"encoder.layers.encoder_layer_{i}.{theirs_name}{joint}{kind}"] = getattr(layer, kind)
    theirs.load_state_dict(state)
    images = torch.randn(3, 3, 8, 8)
    assert torch.allclose(ours(images), theirs(images), atol=1e-5)
    ours(images).square().sum().backward()
    theirs(images).square().sum().backward()
    assert torch.allclose(ours.cls_token.grad, theirs.class_token.grad, rtol=1e-4, atol=1e-5)


def test_logits_are_read_from_the_class_token_alone(vit):
    model = small(vit, depth=1)
    nn.init.zeros_(model.attention_blocks[0].attention.to_qkv.weight)
    nn.init.zeros_(model.attention_blocks[0].attention.to_qkv.bias)  # values are zero: no token hears of another
    assert torch.equal(model(torch.randn(1, 3, 8, 8)), model(torch.randn(1, 3, 8, 8)))


def test_attributes_have_the_assignments_names_and_shapes(vit):
    model = small(vit)
    assert model.pos_embedding.shape == (1, 5, 8) and model.cls_token.shape == (1, 1, 8)
    assert len(model.attention_blocks) == 2 and model.classification_head.out_features == 5
    assert isinstance(model.patchify, vit.Patchification)


def test_only_allowed_layers_are_in_the_built_model(vit):
    allowed = {nn.Conv2d, nn.Linear, nn.GELU, nn.LayerNorm, nn.Sequential}
    ours = {vit.ViT, vit.Patchification, vit.MLP, vit.Attention, vit.Block}
    assert {type(m) for m in small(vit, dropout=0.1).modules()} <= allowed | ours


def test_shapes_that_do_not_fit_are_refused(vit):
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        small(vit, image_shape=(3, 10, 8))
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        vit.Patchification(3, (4, 4), 8)(torch.randn(1, 3, 8, 10))
    with pytest.raises(ValueError, match="dim 8 cannot be divided among 3 heads"):
        small(vit, num_heads=3)
    with pytest.raises(ValueError, match="the model was built for"):
        small(vit)(torch.randn(1, 3, 16, 16))


def test_patch_dropout_drops_in_training_only_and_keeps_the_class_token(vit):
    model, images = small(vit, patch_dropout=0.5), torch.randn(2, 3, 8, 8)
    every = model.embed(images)
    assert every.shape == (2, 5, 8)
    kept = model.train().embed(images)
    assert kept.shape == (2, 3, 8) and torch.equal(kept[:, 0], every[:, 0])
    for b in range(2):  # each kept patch is one of the image's own, with its position
        assert all(any(torch.equal(token, other) for other in every[b, 1:]) for token in kept[b, 1:])


def test_dropout_keeps_the_mean_and_does_nothing_in_evaluation(vit):
    x = torch.ones(100_000)
    dropped = vit.dropout(x, 0.25, training=True)
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert dropped.unique().tolist() == pytest.approx([0, 1 / 0.75])
    assert vit.dropout(x, 0.25, training=False) is x


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


def test_schedule_rises_then_falls_to_zero(vit):
    assert [vit.schedule(p, 0.2) for p in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])


def test_every_parameter_has_exactly_one_optimizer(vit):
    model = vit.build(vit.BUDGETS["sample"])
    for muon in (True, False):
        optimizers = vit.make_optimizers(model, vit.BUDGETS["sample"], muon)
        held = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in model.parameters())
