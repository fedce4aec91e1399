"""Homework 4-3: the Vision Transformer, part by part, from what its parts are given and return."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from grader.rules import RULES, call_violations, module_violations
from grader.student import Model, Student, Wrong, check, is_close, require, tensor

NAME = "hw4_vit"
SHAPE, PATCH, CLASSES, DIM, HEADS, DEPTH, MLP_DIM = [3, 8, 12], [4, 4], 5, 8, 2, 2, 16
PATCHES = 6
ALL_PARTS = (("3a", ""), ("3b", "one head"), ("3b", "several heads"), ("3c", ""), ("3d", ""), ("3e", ""))


def draw(name: str, parameter: Tensor) -> Tensor:
    return 0.4 * torch.randn_like(parameter)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@dataclass
class Run:
    """One call of a model: what went in and came out, and every step between."""

    model: Model
    input: Tensor
    output: Tensor
    steps: list[tuple[str, str, list[Tensor], list[Tensor]]]  # enter, exit or op; name; inputs; outputs
    functions: list[str]

    def modules(self, kind: str) -> list[tuple[str, Tensor, Tensor]]:
        """Name, input and output of every call of the modules of a class, in the order in which they ended."""
        names = self.model.of_class(kind)
        return [
            (name, inputs[0], outputs[0])
            for step, label, inputs, outputs in self.steps
            if step == "exit" and (name := label.partition(":")[0]) in names and inputs and outputs
        ]

    def normalized(self, x: Tensor, name: str) -> Tensor:
        """``x`` after one of the model's LayerNorms."""
        weight, bias = (self.model.parameters[f"{name}.{kind}"].to(x) for kind in ("weight", "bias"))
        return F.layer_norm(x, weight.shape, weight, bias)


def run(student: Student, kind: str, args: list, x: Tensor, training: bool = False) -> Run:
    """Build a part with random parameters and call it, in the best precision that it supports."""

    def use(model: Model) -> dict:
        if training:
            student.ask("set", key=kind, values=None, dtype=str(model.dtype)[6:], training=True)
        return student.call(kind, x.to(model.dtype), trace=True)

    model, answer = student.in_best_precision(lambda dtype: student.model(kind, kind, args, draw, dtype=dtype), use)
    value = answer["value"]
    if isinstance(value, list) and value:
        student.grade.remark(f"{kind}.forward returns more than its output")
        value = value[0]
    output = tensor(value, f"{kind}.forward returned a {answer['type'][0]}, expected a tensor")
    return Run(model, x, output, answer["trace"], answer["names"])


# ------------------------------------------------------------------------------------ rules


@check(NAME, "3a")
@check(NAME, "3b", "one head", "several heads")
@check(NAME, "3c")
@check(NAME, "3d")
@check(NAME, "3e")
def nothing_forbidden_is_in_the_source(student: Student) -> None:
    found = [what for what, _ in student.rules]
    require(not found, "; ".join(found[:3]) + " (the assignment gives 0 points for all of question 3)")


@check(NAME, "3b", "one head", "several heads")
@check(NAME, "3c")
@check(NAME, "3d")
def no_forbidden_layer_is_in_the_built_model_or_called_by_it(student: Student) -> None:
    args = [SHAPE, PATCH, CLASSES, DIM, HEADS, DEPTH, MLP_DIM, 0.1]
    whole = run(student, "ViT", args, images(2, *SHAPE), training=True)
    found = module_violations([module[:3] for module in whole.model.modules], RULES[NAME])
    found += [f"{name} is called" for name in call_violations(whole.functions, RULES[NAME])]
    require(not found, "; ".join(found[:3]))


# ------------------------------------------------------------------------------------ 3(a)


@check(NAME, "3a")
def patchification_equals_one_convolution_over_separate_patches(student: Student) -> None:
    for patch, grid in (([4, 4], (2, 3)), ([2, 3], (3, 1))):
        x = images(2, 3, patch[0] * grid[0], patch[1] * grid[1])
        part = run(student, "Patchification", [3, patch, 8], x)
        convolutions = part.model.of_class("Conv2d")
        require(len(convolutions) == 1, f"it holds {len(convolutions)} Conv2d layers, expected 1")
        layers = [kind for _, kind, package, _ in part.model.modules if package.startswith("torch.nn")]
        others = [kind for kind in layers if kind not in ("Conv2d", "Identity", "Flatten", "Unflatten", "Sequential")]
        require(not others, f"it holds {', '.join(others)} beside the Conv2d")
        weight = part.model.parameters[f"{convolutions[0]}.weight"].double()
        require(
            weight.shape == (8, 3, *patch),
            f"the kernel has shape {tuple(weight.shape)}, expected (8, 3, {patch[0]}, {patch[1]})",
        )
        bias = part.model.parameters.get(f"{convolutions[0]}.bias")
        cut = F.unfold(x, patch, stride=patch).transpose(1, 2)  # (B, N, 3 * height * width)
        expected = F.linear(cut, weight.flatten(1), None if bias is None else bias.double())
        require(
            part.output.shape == expected.shape,
            f"images {tuple(x.shape)} with patches {patch} gave "
            f"{tuple(part.output.shape)}, expected {tuple(expected.shape)}",
        )
        require(is_close(part.output, expected), "the tokens are not the embedded patches, row after row")


# ------------------------------------------------------------------------------------ 3(b)


def readings(features: Tensor, heads: int) -> itertools.chain:
    """Queries, keys and values, each ``(B, heads, N, d)``, for every order in which 3D features may hold them."""
    B, N, width = features.shape
    sizes = {"role": 3, "head": heads, "place": width // 3 // heads}
    for order in itertools.permutations(sizes):
        split = features.reshape(B, N, *(sizes[axis] for axis in order))
        axes = [2 + order.index(axis) for axis in ("role", "head", "place")]
        by_role = split.permute(axes[0], 0, axes[1], 1, axes[2])
        yield from itertools.permutations(by_role)


def judge_attention(student: Student, heads: int) -> None:
    for width, N in ((4, 5), (3, 1), (6, 7)):
        D = heads * width
        x = images(2, N, D)
        part = run(student, "Attention", [D, heads], x)
        require(part.output.shape == x.shape, f"tokens {tuple(x.shape)} became {tuple(part.output.shape)}")
        linears = part.modules("Linear")
        require(
            linears, "no Linear layer was called: the grader does not recognize this attention, a person should look"
        )
        total = sum(out.shape[-1] for _, _, out in linears)
        project = linears[-1] if total == 4 * D and linears[-1][2].shape[-1] == D else None
        maps = linears[:-1] if project else linears
        require(
            sum(out.shape[-1] for _, _, out in maps) == 3 * D,
            f"its Linear layers give {total} features for {D}: "
            "expected a query, a key and a value for each, and an output",
        )
        for name, given, out in maps:
            weight, bias = (part.model.parameters.get(f"{name}.{kind}") for kind in ("weight", "bias"))
            slices = x.to(given).unfold(2, given.shape[-1], 1).unbind(2) if given.shape[-1] <= D else ()
            require(any(is_close(given, piece) for piece in slices), f"{name} is not given the tokens")
            require(is_close(out, F.linear(given, weight, bias)), f"{name} does not return its linear map")
        features = torch.cat([out for _, _, out in maps], 2).double()
        scales = {
            "": width**-0.5,
            "scores are not divided by the square root of the head's width": 1.0,
            "scores are multiplied by the square root of the head's width": width**0.5,
            "scores are divided by the square root of the whole width": D**-0.5,
            "scores are divided by the head's width": 1 / width,
        }
        problem = "the result is no softmax(q k / sqrt(d)) v of its Linear layers' outputs, in whatever order"
        if matches(part, features, heads, scales[""], project):
            continue
        for what, scale in scales.items():
            if what and matches(part, features, heads, scale, project):
                problem = what
        if heads > 1 and matches(part, features, 1, D**-0.5, project):
            problem = "num_heads is ignored: there is one head over the whole width"
        raise Wrong(problem)
    if project is None:
        require(heads == 1, "the heads are not mixed by an output projection (W^O in the paper)")
        student.grade.remark("Attention has no output projection (W^O in the paper)")


def matches(part: Run, features: Tensor, heads: int, scale: float, project: tuple | None) -> bool:
    """Whether the attention's output follows from the features with so many heads."""
    B, N, D = part.input.shape
    if project and not is_close(part.output, project[2]):
        return False
    joined = project[1] if project else part.output
    for q, k, v in readings(features, heads):
        out = (scale * q @ k.transpose(2, 3)).softmax(3) @ v  # (B, heads, N, d)
        by_heads, by_places = out.permute(0, 2, 1, 3).reshape(B, N, D), out.permute(0, 2, 3, 1).reshape(B, N, D)
        if is_close(joined, by_heads) or is_close(joined, by_places):
            return True
    return False


@check(NAME, "3b", "one head")
def attention_of_one_head(student: Student) -> None:
    judge_attention(student, 1)


@check(NAME, "3b", "several heads")
def attention_of_several_heads(student: Student) -> None:
    for heads in (2, 3):
        judge_attention(student, heads)


# ------------------------------------------------------------------------------------ 3(c)


@check(NAME, "3c")
def block_adds_attention_and_mlp_to_the_path_each_after_its_norm(student: Student) -> None:
    x = images(2, 5, DIM)
    part = run(student, "Block", [DIM, HEADS, MLP_DIM], x)
    require(part.output.shape == x.shape, f"tokens {tuple(x.shape)} became {tuple(part.output.shape)}")
    attention, mlp, norms = part.modules("Attention"), part.modules("MLP"), part.model.of_class("LayerNorm")
    require(len(attention) == 1, f"Attention was called {len(attention)} times in a block, expected once")
    require(len(mlp) == 1, f"MLP was called {len(mlp)} times in a block, expected once")
    require(len(norms) >= 2, f"a block holds {len(norms)} LayerNorm layers, expected 2")
    (_, attention_in, attention_out), (_, mlp_in, mlp_out) = attention[0], mlp[0]
    middle = x.to(attention_out) + attention_out
    if is_close(attention_in, x.to(attention_in)):
        raise Wrong("attention is given the tokens without a normalization before it")
    first = [norm for norm in norms if is_close(attention_in, part.normalized(x.to(attention_in), norm))]
    require(first, "attention is not given the normalized tokens")
    second = [norm for norm in norms if is_close(mlp_in, part.normalized(middle.to(mlp_in), norm))]
    require(second, "the MLP is not given the normalized sum of tokens and attention (residual path, pre-norm)")
    require(set(first) != set(second) or len(first) > 1, "both normalizations are the same layer")
    require(is_close(part.output, middle + mlp_out), "the block does not return that sum plus the MLP's output")


@check(NAME, "3c")
def mlp_is_two_linear_maps_with_gelu_between(student: Student) -> None:
    x = images(2, 5, 6)
    part = run(student, "MLP", [6, 24], x)
    linears = part.modules("Linear")
    require(len(linears) == 2, f"{len(linears)} Linear layers were called, expected 2")
    (first, second), p = [name for name, _, _ in linears], part.model.parameters

    def mlp(activation) -> Tensor:
        h = activation(F.linear(x, p[f"{first}.weight"].double(), p[f"{first}.bias"].double()))
        return F.linear(h, p[f"{second}.weight"].double(), p[f"{second}.bias"].double())

    require(
        p[f"{first}.weight"].shape == (24, 6),
        f"the hidden layer has shape {tuple(p[f'{first}.weight'].shape)}, expected (24, 6)",
    )
    if is_close(part.output, mlp(F.gelu)) or is_close(part.output, mlp(lambda h: F.gelu(h, approximate="tanh"))):
        return
    require(not is_close(part.output, x + mlp(F.gelu)), "the MLP adds its input: the block's residual is there already")
    for what, activation in (("ReLU", F.relu), ("no activation", lambda h: h), ("SiLU", F.silu)):
        require(not is_close(part.output, mlp(activation)), f"there is {what} between the linear maps, expected GELU")
    raise Wrong("the output is not linear(GELU(linear(x)))")


# ------------------------------------------------------------------------------------ 3(d)


@check(NAME, "3d")
def vit_embeds_attends_and_reads_the_class_token(student: Student) -> None:
    x = images(2, *SHAPE)
    whole = run(student, "ViT", [SHAPE, PATCH, CLASSES, DIM, HEADS, DEPTH, MLP_DIM], x)
    p = whole.model.parameters
    require(
        whole.output.shape == (2, CLASSES),
        f"images {tuple(x.shape)} gave {tuple(whole.output.shape)}, expected (2, {CLASSES})",
    )
    for name, shape in (("pos_embedding", (1, 1 + PATCHES, DIM)), ("cls_token", (1, 1, DIM))):
        require(name in p, f"{name} is no parameter of the model")
        require(p[name].shape == shape, f"{name} has shape {tuple(p[name].shape)}, expected {shape}")
    frozen = sorted(set(p) - set(whole.model.trainable))
    require(not frozen, f"{', '.join(frozen)} cannot be trained (requires_grad is off)")

    patches, blocks = whole.modules("Patchification"), whole.modules("Block")
    require(len(patches) == 1, f"Patchification was called {len(patches)} times, expected once")
    require(
        len({name for name, _, _ in blocks}) == len(blocks) == DEPTH,
        f"{len(blocks)} calls of blocks for a depth of {DEPTH}, each block once expected",
    )
    tokens = torch.cat([p["cls_token"].expand(2, -1, -1).to(patches[0][2]), patches[0][2]], 1)
    require(
        is_close(blocks[0][1], tokens + p["pos_embedding"].to(tokens)),
        "the first block is not given class token and patches plus the position embedding",
    )
    for (_, _, before), (_, after, _) in itertools.pairwise(blocks):
        require(is_close(before, after), "a block is not given what the block before it returned")
    readout = blocks[-1][2][:, 0]
    linears = [
        c
        for c in whole.modules("Linear")
        if c[2].shape[-1] == CLASSES and not any(c[0].startswith(b[0] + ".") for b in blocks)
    ]
    require(linears, "no Linear layer gives the classes")
    name, given, _ = linears[-1]
    given = given if given.dim() == 2 else given[:, 0]
    norms = whole.model.of_class("LayerNorm")
    if not any(is_close(given, whole.normalized(readout.to(given), norm)) for norm in norms):
        require(
            not is_close(given, readout.to(given)),
            "the class token is not normalized before the head (ViT's last LayerNorm)",
        )
        mean = blocks[-1][2].mean(1)
        require(
            not any(is_close(given, whole.normalized(mean.to(given), norm)) for norm in norms),
            "the head reads the mean over the tokens, not the class token",
        )
        raise Wrong("the head is not given the normalized class token of the last block")
    bias = p.get(f"{name}.bias")
    logits = F.linear(given, p[f"{name}.weight"].to(given), None if bias is None else bias.to(given))
    require(
        is_close(whole.output, logits),
        "the output is not the head's logits"
        + (" but probabilities" if is_close(whole.output, logits.softmax(1)) else ""),
    )


@check(NAME, "3d")
def every_parameter_learns(student: Student) -> None:
    model = student.model("ViT", "ViT", [SHAPE, PATCH, CLASSES, DIM, HEADS, DEPTH, MLP_DIM], draw, dtype=torch.float32)
    answer = student.call("ViT", images(4, *SHAPE).float(), pull=torch.randn(4, CLASSES))
    # A key's bias shifts all scores of a query alike: no gradient reaches it.
    idle = [name for name, gradient in answer["gradients"].items() if gradient.abs().max() < 1e-7]
    idle = [name for name in idle if not (name.endswith("bias") and name.startswith("attention_blocks"))]
    require(not idle, f"no gradient reaches {', '.join(idle[:3])}")
    require(
        math.isfinite(sum(g.sum().item() for g in answer["gradients"].values())) and model, "a gradient is not finite"
    )
