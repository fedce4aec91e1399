"""Homework 4-3: the Vision Transformer against PyTorch's and torchvision's own, through the assignment's interface.

Tests without a question are about what our notebook adds to that interface.
"""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from questions import question
from rules import RULES, call_violations, module_violations, source_violations
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer

RULE = RULES["hw4_vit"]


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def shaken(model: nn.Module) -> nn.Module:
    """In double precision, with every parameter drawn at random, so that none is zero or one by luck."""
    model = model.double().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


def small(vit, **changes) -> nn.Module:
    options = dict(
        image_shape=(3, 8, 8), patch_size=(4, 4), num_classes=5, dim=8, num_heads=2, depth=2, mlp_dim=16
    )  # fmt: skip
    return shaken(vit.ViT(**options | changes))


def same_with_gradients(ours, theirs, *inputs, **options) -> bool:
    """Whether both functions give equal values and equal gradients by their inputs, to 1e-9."""
    values = [function(*inputs, **options) for function in (ours, theirs)]
    weights = torch.randn_like(values[0])
    grads = [torch.autograd.grad((value * weights).sum(), inputs) for value in values]
    return torch.allclose(*values, atol=1e-9) and all(torch.allclose(a, b, atol=1e-9) for a, b in zip(*grads))


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.double, requires_grad=True)


# ------------------------------------------------------------------------------------ 3(a)


@question("3a")
@settings(max_examples=20, deadline=None)
@given(B=st.integers(1, 3), patch=st.tuples(st.integers(1, 4), st.integers(1, 4)), rows=st.integers(1, 4),
       columns=st.integers(1, 4))  # fmt: skip
def test_patchification_equals_unfold_and_a_linear_map(vit, B, patch, rows, columns):
    patchify = shaken(vit.Patchification(3, patch, 8))
    (conv,) = [m for m in patchify.modules() if isinstance(m, nn.Conv2d)]

    def reference(x):
        cut = F.unfold(x, patch, stride=patch).transpose(1, 2)  # (B, N, 3 * height * width)
        return F.linear(cut, conv.weight.flatten(1), conv.bias)

    assert same_with_gradients(patchify, reference, images(B, 3, rows * patch[0], columns * patch[1]))


@question("3a")
def test_patchification_has_one_convolution_and_no_other_layer(vit):
    leaves = [m for m in vit.Patchification(3, (4, 4), 8).modules() if not list(m.children())]
    assert [type(m) for m in leaves if not isinstance(m, nn.Identity)] == [nn.Conv2d]


# ------------------------------------------------------------------------------------ 3(b)


def plain_attention(module: nn.Module, heads: int) -> list:
    """What the module's linear maps give under each usual reading of them, with PyTorch's own attention."""
    linears = [m for m in module.modules() if isinstance(m, nn.Linear)]
    wide = [m for m in linears if m.out_features == 3 * m.in_features]
    readings = []
    for order in ("q k v, each by heads", "heads, each by q k v"):

        def attend(x, order=order):
            B, N, D = x.shape
            if wide:
                joint, project = wide[0](x), next(m for m in linears if m is not wide[0])
            else:
                joint, project = torch.cat([m(x) for m in linears[:3]], 2), linears[3]
            if order.startswith("q"):
                q, k, v = joint.view(B, N, 3, heads, D // heads).permute(2, 0, 3, 1, 4)
            else:
                q, k, v = joint.view(B, N, heads, 3, D // heads).permute(3, 0, 2, 1, 4)
            return project(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, D))

        readings.append(attend)
    return readings


@question("3b", "one head")
@settings(max_examples=15, deadline=None)
@given(B=st.integers(1, 3), N=st.integers(1, 6), width=st.integers(1, 8))
def test_attention_of_one_head_equals_torchs(vit, B, N, width):
    ours, x = shaken(vit.Attention(width, 1)), images(B, N, width)
    assert any(same_with_gradients(ours, theirs, x) for theirs in plain_attention(ours, 1))


@question("3b", "several heads")
@settings(max_examples=15, deadline=None)
@given(B=st.integers(1, 3), N=st.integers(1, 6), heads=st.integers(2, 4), width=st.integers(1, 5))
def test_attention_of_several_heads_equals_torchs(vit, B, N, heads, width):
    ours, x = shaken(vit.Attention(heads * width, heads)), images(B, N, heads * width)
    assert any(same_with_gradients(ours, theirs, x) for theirs in plain_attention(ours, heads))


def test_attention_equals_torch_multihead_attention_weights_too(vit):
    ours = shaken(vit.Attention(12, 3))
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    theirs.load_state_dict({
        "in_proj_weight": ours.to_qkv.weight, "in_proj_bias": ours.to_qkv.bias,
        "out_proj.weight": ours.project.weight, "out_proj.bias": ours.project.bias,
    })  # fmt: skip
    x = images(2, 7, 12)
    assert same_with_gradients(ours, lambda x: theirs(x, x, x)[0], x)
    assert torch.allclose(ours.attend(x)[1], theirs(x, x, x, average_attn_weights=False)[1], atol=1e-9)


# ------------------------------------------------------------------------------------ 3(c)


@question("3c")
@settings(max_examples=15, deadline=None)
@given(B=st.integers(1, 3), N=st.integers(1, 6), heads=st.integers(1, 3), width=st.integers(1, 4))
def test_block_adds_attention_and_mlp_to_the_path_each_after_its_norm(vit, B, N, heads, width):
    D = heads * width + heads  # at least two numbers, so that a norm has something to do
    block, x = shaken(vit.Block(D, heads, 2 * D)), images(B, N, D)
    parts = list(block.modules())
    attention = next(m for m in parts if isinstance(m, vit.Attention))
    mlp = next(m for m in parts if isinstance(m, vit.MLP))
    norms = [m for m in parts if isinstance(m, nn.LayerNorm)]

    def reference(first, second):
        def run(x):
            x = x + attention(first(x))
            return x + mlp(second(x))

        return run

    assert any(same_with_gradients(block, reference(*pair), x) for pair in itertools.permutations(norms, 2))


@question("3c")
def test_mlp_is_two_linear_maps_with_gelu_between(vit):
    mlp = shaken(vit.MLP(6, 24))
    expand, contract = [m for m in mlp.modules() if isinstance(m, nn.Linear)]
    assert expand.out_features == contract.in_features == 24
    assert same_with_gradients(mlp, lambda x: contract(F.gelu(expand(x))), images(2, 5, 6))


# ------------------------------------------------------------------------------------ 3(d)


@question("3d")
def test_attributes_have_the_assignments_names_and_shapes(vit):
    model = small(vit)
    assert model.pos_embedding.shape == (1, 5, 8) and model.cls_token.shape == (1, 1, 8)
    assert isinstance(model.pos_embedding, nn.Parameter) and isinstance(model.cls_token, nn.Parameter)
    assert sum(isinstance(m, vit.Block) for m in model.attention_blocks.modules()) == 2
    assert [m for m in model.classification_head.modules() if isinstance(m, nn.Linear)][-1].out_features == 5
    assert isinstance(model.patchify, vit.Patchification)
    assert model(images(3, 3, 8, 8)).shape == (3, 5)


@question("3d")
def test_the_blocks_get_class_token_and_patches_with_their_positions(vit):
    model, x, seen = small(vit), images(2, 3, 8, 8), []
    first = next(m for m in model.attention_blocks.modules() if isinstance(m, vit.Block))
    first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(x)
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), model.patchify(x)], 1)
    assert torch.allclose(seen[0], tokens + model.pos_embedding, atol=1e-9)


@question("3d")
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


@settings(max_examples=10, deadline=None)
@given(side=st.integers(1, 3), patch=st.integers(1, 4), depth=st.integers(1, 3), heads=st.integers(1, 3))
def test_whole_model_equals_torchvision_with_copied_weights_gradients_too(vit, side, patch, depth, heads):
    size, dim = side * patch, 4 * heads
    ours = small(vit, image_shape=(3, size, size), patch_size=(patch, patch), depth=depth, num_heads=heads, dim=dim)
    theirs = VisionTransformer(
        image_size=size, patch_size=patch, num_layers=depth, num_heads=heads, hidden_dim=dim, mlp_dim=16, num_classes=5,
        norm_layer=nn.LayerNorm,
    ).double().eval()  # fmt: skip
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
    x, copies = images(3, 3, size, size), dict(theirs.named_parameters())
    assert same_with_gradients(ours, theirs, x)
    ours(x).square().sum().backward()
    theirs(x).square().sum().backward()
    assert all(torch.allclose(p.grad, copies[name].grad, atol=1e-9) for name, p in state.items())


@question("3a")
@question("3b", "one head")
@question("3b", "several heads")
@question("3c")
@question("3d")
@question("3e")
def test_no_forbidden_layer_is_in_the_source_else_all_of_it_earns_nothing(notebook):
    assert [str(violation) for violation in source_violations(notebook, RULE)] == []


@question("3b", "one head")
@question("3b", "several heads")
@question("3c")
@question("3d")
def test_no_forbidden_layer_is_in_the_built_model_or_called_by_it(vit):
    model, x = small(vit, dropout=0.1), images(2, 3, 8, 8)
    assert module_violations(model, RULE) == []
    assert call_violations(lambda: model.train()(x), RULE) == []


def test_shapes_that_do_not_fit_are_refused(vit):
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        small(vit, image_shape=(3, 10, 8))
    with pytest.raises(ValueError, match="cannot be cut into patches"):
        vit.Patchification(3, (4, 4), 8)(torch.randn(1, 3, 8, 10))
    with pytest.raises(ValueError, match="dim 8 cannot be divided among 3 heads"):
        small(vit, num_heads=3)
    with pytest.raises(ValueError, match="the model was built for"):
        small(vit)(images(1, 3, 16, 16))


def test_patch_dropout_drops_in_training_only_and_keeps_the_class_token(vit):
    model, x = small(vit, patch_dropout=0.5), images(2, 3, 8, 8)
    every = model.embed(x)
    assert every.shape == (2, 5, 8)
    kept = model.train().embed(x)
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


def test_cutmix_pastes_the_neighbors_rectangle_and_tells_its_area(vit):
    pictures, labels = torch.arange(4).view(4, 1, 1, 1).expand(4, 3, 10, 10).contiguous(), torch.arange(4)
    areas = []
    for _ in range(200):
        mixed, other, own = vit.cutmix(pictures, labels)
        assert other.tolist() == [3, 0, 1, 2]
        for picture, label, neighbor in zip(mixed, labels, other, strict=True):
            assert (picture == label).double().mean().item() == pytest.approx(own)
            assert ((picture == label) | (picture == neighbor)).all()
        areas.append(own)
    assert min(areas) < 0.1 and max(areas) > 0.9 and torch.equal(pictures[:, 0, 0, 0], labels)


def test_mixed_precision_and_scaler_match_the_device(vit, monkeypatch):
    cpu = torch.device("cpu")
    for able, kind in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(vit.session, "has_bfloat16", lambda device, able=able: able)
        with vit.mixed_precision(cpu):
            assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == kind
        assert not vit.make_scaler(cpu).is_enabled()
