"""Homework 4-3: the Vision Transformer, part by part, from what its parts are given and return.

A part is judged with the grader's own stand-ins for the others, so that no question depends on another. Norms, layouts
and orders are recognized by their numbers: a normalized token is one that an affine map of ``layer_norm(token)`` gives.
"""

import itertools
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from grader.rules import LAYER_PACKAGES, RULES, foreign_imports, violations
from grader.runner import Died, Model, Open, Student, Wrong, check, is_close, require, tensor

NAME = "hw4_vit"
SHAPE, PATCH, PATCHES, CLASSES, DIM, HEADS, DEPTH, MLP_DIM = [3, 12, 12], [4, 4], 9, 5, 8, 2, 2, 16
ALL = {"3a": [""], "3b": ["one head", "several heads"], "3c": ["attention path", "MLP path", "MLP"]}
ALL |= {"3d": ["tokens", "blocks", "class token's head"], "3e": [""]}


def draw(name: str, parameter: Tensor) -> Tensor:
    return 0.4 * torch.randn_like(parameter) + (1.0 if "norm" in name and name.endswith("weight") else 0.0)


@dataclass
class Run:
    """One call of a model: what went in and came out, and what its modules were given and returned."""

    model: Model
    input: Tensor
    output: Tensor
    steps: list
    names: list[str]

    def modules(self, kind: str) -> list[tuple[str, Tensor, Tensor]]:
        """Name, input and output of every call of the modules of a class, in the order in which they ended."""
        names = self.model.of_class(kind)
        return [
            (name, inputs[0], outputs[0])
            for step, name, inputs, outputs in self.steps
            if step == "exit" and name in names and inputs and outputs
        ]


def run(student: Student, kind: str, args: list, x: Tensor) -> Run:
    """Build a part with random parameters and call it, in the best precision that it supports; nothing is random."""

    def use(model: Model) -> dict:
        found = [student.call("part", x.to(model.dtype), seed=seed, trace=True) for seed in (2, 3)]
        first, second = (a["value"][0] if isinstance(a["value"], list) and a["value"] else a["value"] for a in found)
        if isinstance(first, Tensor) and isinstance(second, Tensor):
            require(
                is_close(first, second), "two evaluations differ: dropout is applied although model.eval() was called"
            )
        return found[0]

    model, answer = student.in_best_precision(lambda dtype: student.model("part", kind, args, draw, dtype=dtype), use)
    value = answer["value"]
    if isinstance(value, list) and value:
        student.grade.remark(f"{kind}.forward returns more than its output")
        value = value[0]
    output = tensor(value, f"{kind}.forward returned a {answer['type'][0]}, expected a tensor")
    return Run(model, x, output.double(), answer["trace"], answer["names"])


def rest(x: Tensor, y: Tensor) -> float:
    """How far ``y`` is from the best affine map of ``x``, both with features last, relative to y's spread."""
    x, y = x.double().flatten(0, -2), y.double().flatten(0, -2)
    x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
    return ((x @ torch.linalg.lstsq(x, y, driver="gelsd").solution - y).norm() / (y - y.mean(0)).norm()).item()


def normalized(x: Tensor) -> Tensor:
    return F.layer_norm(x.double(), x.shape[-1:])


def is_norm(x: Tensor, y: Tensor, kind=normalized) -> bool:
    """Whether each feature of ``y`` is an affine function of the same feature of the normalized ``x``."""
    if x.shape != y.shape:
        return False
    hat, y = kind(x).flatten(0, -2), y.double().flatten(0, -2)
    return (
        all(rest(hat[:, [i]], y[:, [i]]) < 1e-3 for i in range(x.shape[-1]) if y[:, i].std() > 1e-9) and y.std() > 1e-9
    )


def root_mean_square(x: Tensor) -> Tensor:
    return x.double() / x.double().square().mean(-1, keepdim=True).sqrt()


# ------------------------------------------------------------------------------------ rules


def nothing_else_is_imported(student: Student) -> None:
    used, idle = foreign_imports(student.cells)
    for cell, package in idle:
        student.grade.remark(f"{package} is imported and never used: question 3 allows no additional modules", cell)
    layers = [f"{package} (cell {cell})" for cell, package in used if package in LAYER_PACKAGES]
    require(not layers, f"{', '.join(layers)}: the assignment gives 0 points for imported layers in question 3")
    if used:
        raise Open(f"the notebook uses {', '.join(package for _, package in used)}: is that an additional module?")


def no_forbidden_layer_is_built_or_called(student: Student) -> None:
    args = [SHAPE, PATCH, CLASSES, DIM, HEADS, DEPTH, MLP_DIM, 0.1]
    layers, names = set(), set()
    for kind, inputs, x in (
        ("ViT", args, torch.randn(2, *SHAPE)),
        ("Block", [DIM, HEADS, MLP_DIM, 0.1], torch.randn(2, 5, DIM)),
        ("Attention", [DIM, HEADS, 0.1], torch.randn(2, 5, DIM)),
    ):
        with suppress(Wrong, Open, Died):  # what cannot be built or called loses its points below
            student.model("any", kind, inputs, std=0.2, dtype=torch.float32)
            layers |= set(student.ask("layers", key="any"))
            names |= set(student.call("any", x)["names"])
            layers |= set(student.ask("layers", key="any"))
    found = violations(RULES[NAME], layers, names)
    require(not found, "; ".join(found[:3]) + " (question 3 allows Conv2d, Linear, activations and norms alone)")


for letter, parts in ALL.items():
    check(NAME, letter, *parts)(nothing_else_is_imported)
    check(NAME, letter, *parts)(no_forbidden_layer_is_built_or_called)


# ------------------------------------------------------------------------------------ 3(a)


@check(NAME, "3a")
def patchification_is_one_convolution_over_separate_patches(student: Student) -> None:
    for patch, grid in (([4, 4], (2, 3)), ([2, 2], (3, 3))):
        compare_with_unfold(student, patch, grid)
    try:
        compare_with_unfold(student, [2, 3], (3, 1))
    except (Wrong, Open) as problem:
        student.grade.remark(f"Patchification works for square patches alone ({problem})")


def compare_with_unfold(student: Student, patch: list[int], grid: tuple[int, int]) -> None:
    x = torch.randn(2, 3, patch[0] * grid[0], patch[1] * grid[1], dtype=torch.float64)
    part = run(student, "Patchification", [3, patch, 8], x)
    convolutions = part.modules("Conv2d")
    require(len(convolutions) == 1, f"Conv2d layers called: {len(convolutions)}, expected one")
    others = {
        n: b[0] for n, b in part.model.modules.items() if {"Linear", "_ConvNd", "_NormBase", "LayerNorm"} & set(b)
    }
    others.pop(convolutions[0][0])
    require(not others, f"it holds {', '.join(others.values())} beside the Conv2d")
    weight = part.model.parameters[f"{convolutions[0][0]}.weight"].double()
    require(weight.shape == (8, 3, *patch), f"the kernel has shape {tuple(weight.shape)}, expected {(8, 3, *patch)}")
    bias = part.model.parameters.get(f"{convolutions[0][0]}.bias")
    expected = F.linear(F.unfold(x, patch, stride=patch).mT, weight.flatten(1), None if bias is None else bias.double())
    found, wanted = tuple(part.output.shape), tuple(expected.shape)
    if part.output.shape == expected.transpose(0, 1).shape and is_close(part.output, expected.transpose(0, 1), 1e-3):
        student.grade.remark("Patchification returns the patches first: (N, B, D)")
        return
    require(found == wanted, f"images {tuple(x.shape)} with patches {patch} gave {found}, expected {wanted}")
    atol = 1e-8 if part.model.dtype == torch.float64 else 1e-3
    require(is_close(part.output, expected, atol), "the tokens are not the embedded patches, row after row")


# ------------------------------------------------------------------------------------ 3(b)


def roles(features: Tensor, heads: int, count: int) -> Iterator[tuple[Tensor, ...]]:
    """The maps, each ``(B, heads, N, d)``, that features may hold: every order of role, head and place in a head."""
    B, N, width = features.shape
    sizes = {"role": count, "head": heads, "place": width // count // heads}
    for order in itertools.permutations(sizes):
        if count == 1 and order[0] != "role":
            continue
        split = features.reshape(B, N, *(sizes[axis] for axis in order))
        axes = [2 + order.index(axis) for axis in ("role", "head", "place")]
        yield split.permute(axes[0], 0, axes[1], 1, axes[2]).unbind(0)


def readings(maps: list[Tensor], heads: int) -> Iterator[tuple[Tensor, ...]]:
    """Queries, keys and values for every way in which Linear layers may hold them, together or each its own."""
    width = sum(m.shape[-1] for m in maps) // 3
    choices = [[roles(torch.cat(maps, 2), heads, 3)]]
    if len(maps) in (2, 3) and all(m.shape[-1] % width == 0 for m in maps):
        choices.append([roles(m, heads, m.shape[-1] // width) for m in maps])
    for choice in choices:
        for parts in itertools.product(*choice):
            yield from itertools.permutations([role for part in parts for role in part])


def follows(maps: list[Tensor], heads: int, scale: float, joined: Tensor) -> bool:
    """Whether what the heads give follows from the maps with so many heads."""
    for q, k, v in readings(maps, heads):
        out = (scale * q @ k.mT).softmax(3) @ v  # (B, heads, N, d)
        if any(is_close(joined, out.permute(0, 2, *order).flatten(2)) for order in ((1, 3), (3, 1))):
            return True
    return False


def require_attention(student: Student, part: Run, maps: list[Tensor], heads: int, d: int, joined: Tensor) -> None:
    """Joined heads that are softmax(q k / sqrt(d)) v of the maps, for tokens along the second or the first axis."""
    mistakes = {
        "scores are not divided by the square root of the head's width": (heads, 1.0),
        "scores are multiplied by the square root of the head's width": (heads, d**0.5),
        "scores are divided by the square root of the whole width": (heads, (heads * d) ** -0.5),
        "scores are divided by the head's width": (heads, 1 / d),
        "num_heads is ignored: there is one head over the whole width": (1, (heads * d) ** -0.5),
    }
    layouts = [[*maps, joined], [t.transpose(0, 1) for t in (*maps, joined)]]
    for *features, out in layouts:
        if follows(features, heads, d**-0.5, out):
            return
    for *features, out in layouts:
        for what, (count, scale) in mistakes.items():
            require(not follows(features, count, scale, out), what)
    raise Wrong("the result is no softmax(q k / sqrt(d)) v of its Linear layers' outputs, in whatever order")


def judge_attention(student: Student, heads: int) -> None:
    for width, N in ((4, 5), (3, 2), (6, 7)):
        D = heads * width
        x = torch.randn(3, N, D, dtype=torch.float64)
        part = run(student, "Attention", [D, heads], x)
        require(part.output.shape == x.shape, f"tokens {tuple(x.shape)} became {tuple(part.output.shape)}")
        linears = part.modules("Linear")
        if not linears:
            raise Open("no Linear layer was called: the grader does not know this form of attention")
        total = sum(out.shape[-1] for _, _, out in linears)
        last = linears[-1]
        project = last if len(linears) > 1 and last[2].shape[-1] == D and 3 * last[1].shape[-1] == total - D else None
        calls = linears[:-1] if project else linears
        features = total - (D if project else 0)
        if features % (3 * heads):
            raise Wrong(
                f"its Linear layers give {features} features: expected queries, keys and values for {heads} heads"
            )
        d = features // 3 // heads
        for name, given, _ in calls:
            pieces = [
                t for y in (x, x.transpose(0, 1)) for t in y.to(given).unfold(2, min(given.shape[-1], D), 1).unbind(2)
            ]
            require(any(is_close(given, piece) for piece in pieces), f"{name} is not given the tokens")
        maps, joined = [out for _, _, out in calls], project[1] if project else part.output
        if project:
            same = any(is_close(part.output, t) for t in (project[2].double(), project[2].double().transpose(0, 1)))
            require(same, "the result is not what the last Linear layer gives")
        require_attention(student, part, maps, heads, d, joined)
    if project is None:
        require(heads == 1, "the heads are not mixed by an output projection (W^O in the paper)")
        student.grade.remark("Attention has no output projection (W^O in the paper)")


@check(NAME, "3b", "one head")
def attention_of_one_head(student: Student) -> None:
    judge_attention(student, 1)


@check(NAME, "3b", "several heads")
def attention_of_several_heads(student: Student) -> None:
    for heads in (2, 3):
        judge_attention(student, heads)


# ------------------------------------------------------------------------------------ 3(c)


def block_run(student: Student) -> tuple[Run, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A block's call, and what its attention and its MLP were given and returned: the grader's, else its own."""
    x = torch.randn(4, 7, DIM, dtype=torch.float64) * torch.rand(4, 7, 1).double().add(0.3) + torch.randn(4, 7, 1)
    with student.stand_ins("Attention", "MLP"):
        try:
            part = run(student, "Block", [DIM, HEADS, MLP_DIM, 0.5], x)
        except (Wrong, Open):
            part = None
    if part is None or not (part.modules("Attention") and part.modules("MLP")):
        part = run(student, "Block", [DIM, HEADS, MLP_DIM, 0.5], x)
    require(part.output.shape == x.shape, f"tokens {tuple(x.shape)} became {tuple(part.output.shape)}")
    calls = [part.modules(kind) for kind in ("Attention", "MLP")]
    for kind, found in zip(("Attention", "MLP"), calls):
        if not found:
            raise Open(f"Block calls no module of the class {kind}: a person should look")
        require(len(found) == 1, f"{kind} was called {len(found)} times in a block, expected once")
    return part, calls[0][0][1:], calls[1][0][1:]


def require_norm(student: Student, given: Tensor, x: Tensor, who: str, what: str) -> None:
    if is_norm(x, given):
        return
    if is_norm(x, given, root_mean_square):
        student.grade.remark("tokens are normalized by their root mean square, not by a LayerNorm")
        return
    require(rest(x, given) > 1e-6, f"{who} is given {what} without a normalization of each token before it")
    raise Wrong(f"{who} is not given {what}, normalized")


@check(NAME, "3c", "attention path")
def attention_is_added_after_its_norm(student: Student) -> None:
    part, (given, out), (mlp_in, mlp_out) = block_run(student)
    require_norm(student, given, part.input, "attention", "the tokens")
    x, added = part.input, part.output - mlp_out.double()
    if is_close(added, x + out.double(), 1e-5 if part.model.dtype == torch.float32 else None):
        return
    require(is_norm(x + out.double(), mlp_in), "the tokens are not added to what attention returns (residual path)")


@check(NAME, "3c", "MLP path")
def mlp_is_added_after_its_norm(student: Student) -> None:
    part, _, (given, mlp_out) = block_run(student)
    middle = part.output - mlp_out.double()  # what the MLP is added to
    require(middle.std() > 1e-3, "the block does not add the MLP's output to what the MLP was given (residual path)")
    require_norm(student, given, middle, "the MLP", "the sum that it is added to")


@check(NAME, "3c", "MLP")
def mlp_is_two_linear_maps_with_gelu_between(student: Student) -> None:
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    part = run(student, "MLP", [6, 24], x)
    linears, p = part.modules("Linear"), part.model.parameters
    if not linears:
        raise Open("no Linear layer was called: the grader does not know this form of MLP")
    require(len(linears) == 2, f"{len(linears)} Linear layers were called, expected 2")
    weights = [
        (p[f"{n}.weight"].double(), p[f"{n}.bias"].double() if f"{n}.bias" in p else None) for n, _, _ in linears
    ]
    found = tuple(weights[0][0].shape)
    require(found == (24, 6), f"the hidden layer has shape {found}, expected (24, 6)")

    def mlp(activation) -> Tensor:
        return F.linear(activation(F.linear(x, *weights[0])), *weights[1])

    tanh = mlp(lambda h: F.gelu(h, approximate="tanh"))
    if is_close(part.output, mlp(F.gelu)) or is_close(part.output, tanh):
        return
    require(not is_close(part.output, x + mlp(F.gelu)), "the MLP adds its input: the block's residual is there already")
    for what, activation in (("ReLU", F.relu), ("no activation", lambda h: h), ("SiLU", F.silu), ("tanh", torch.tanh)):
        require(not is_close(part.output, mlp(activation)), f"there is {what} between the linear maps, expected GELU")
    require(not is_close(part.output, F.gelu(mlp(F.gelu))), "there is a GELU behind the second linear map too")
    raise Wrong("the output is not linear(GELU(linear(x)))")


# ------------------------------------------------------------------------------------ 3(d)


def vit_run(student: Student) -> tuple[Run, Tensor, list[tuple[str, Tensor, Tensor]]]:
    """A call of the whole, what its patchification returned, and its blocks' calls: the grader's, else its own."""
    x = torch.randn(24, *SHAPE, dtype=torch.float64)
    args = [SHAPE, PATCH, CLASSES, DIM, HEADS, DEPTH, MLP_DIM, 0.5]
    problem: Exception | None = None
    for names in (["Patchification", "Block"], ["Block"], ["Patchification"], []):
        with student.stand_ins(*names):
            try:
                part = run(student, "ViT", args, x)
            except (Wrong, Open) as error:
                problem = error
                continue
            patches, blocks = part.modules("Patchification"), part.modules("Block")
            if patches and blocks:
                break
    else:
        raise problem or Open("ViT calls no Patchification and no Block: a person should look")
    found = tuple(part.output.shape)
    require(found == (24, CLASSES), f"images {tuple(x.shape)} gave {found}, expected (24, {CLASSES})")
    require(len(patches) == 1, f"Patchification was called {len(patches)} times, expected once")
    return part, patches[0][2].double(), blocks


def class_place(student: Student, part: Run, patches: Tensor, blocks: list) -> tuple[int, bool]:
    """Where the class token stands among the tokens, 0 or -1, and whether tokens are first: (N, B, D)."""
    p, given = part.model.parameters, blocks[0][1].double()
    for name, shape in (("pos_embedding", (1, 1 + PATCHES, DIM)), ("cls_token", (1, 1, DIM))):
        require(name in p, f"{name} is no parameter of the model")
        require(p[name].numel() == 8 * shape[1], f"{name} has shape {tuple(p[name].shape)}, expected {shape}")
        if p[name].shape != shape:
            student.grade.remark(f"{name} has shape {tuple(p[name].shape)}, the assignment says {shape}")
        require(name in part.model.trainable, f"{name} cannot be trained (requires_grad is off)")
    position, cls = p["pos_embedding"].double().reshape(1, -1, DIM), p["cls_token"].double().reshape(1, 1, DIM)
    for first in (False, True):
        tokens = given.transpose(0, 1) if first else given
        for own in (patches, patches.transpose(0, 1)):
            if len(own) == 24:
                for place, parts in ((0, [cls.expand(24, 1, -1), own]), (-1, [own, cls.expand(24, 1, -1)])):
                    if is_close(tokens, torch.cat(parts, 1) + position, 1e-4):
                        if place or first:
                            student.grade.remark(
                                "the class token stands last" if place else "tokens are first: (N, B, D)"
                            )
                        return place, first
    raise Wrong("the first block is not given class token and patches plus the position embedding")


@check(NAME, "3d", "tokens")
def class_token_and_patches_get_their_positions(student: Student) -> None:
    part, patches, blocks = vit_run(student)
    class_place(student, part, patches, blocks)
    other = [name for name in part.model.shapes if name not in part.model.trainable]
    require(not other, f"{', '.join(other)} cannot be trained (requires_grad is off)")
    try:
        with student.stand_ins("Patchification"):
            args = [[3, 8, 12], PATCH, CLASSES, DIM, HEADS, DEPTH, MLP_DIM]
            student.model("wide", "ViT", args, std=0.2, dtype=torch.float32)
            student.call("wide", torch.randn(2, 3, 8, 12))
    except (Wrong, Open):
        student.grade.remark("ViT works for square images alone")


@check(NAME, "3d", "blocks")
def every_block_is_given_what_the_one_before_returned(student: Student) -> None:
    _, _, blocks = vit_run(student)
    names = {name for name, _, _ in blocks}
    require(len(blocks) == DEPTH, f"{len(blocks)} calls of blocks for a depth of {DEPTH}")
    require(len(names) == DEPTH, "the same block is called again and again: each has parameters of its own in ViT")
    for (_, _, before), (_, after, _) in itertools.pairwise(blocks):
        require(is_close(before, after), "a block is not given what the block before it returned")


@check(NAME, "3d", "class token's head")
def the_head_reads_the_normalized_class_token(student: Student) -> None:
    part, patches, blocks = vit_run(student)
    last, logits = blocks[-1][2].double(), part.output
    try:
        place, first = class_place(student, part, patches, blocks)
    except Wrong:  # the tokens are judged above
        place, first = 0, last.shape[0] != 24
    tokens = last.transpose(0, 1) if first else last
    cls = tokens[:, place]
    if (logits > 0).all() and is_close(logits.sum(1), torch.ones(24).double(), 1e-4):
        raise Wrong("the output holds probabilities, expected logits (the loss applies the softmax)")
    if rest(normalized(cls), logits) < 1e-3:
        return
    if rest(root_mean_square(cls), logits) < 1e-3:
        student.grade.remark("the head's norm is no LayerNorm")
        return
    require(rest(cls, logits) > 1e-3, "the class token is not normalized before the head (ViT's last LayerNorm)")
    for mean in (tokens.mean(1), tokens[:, 1:].mean(1)):
        for readout in (mean, normalized(mean)):
            require(rest(readout, logits) > 1e-3, "the head reads the mean over the tokens, not the class token")
    mean = normalized(tokens).mean(1)
    require(rest(mean, logits) > 1e-3, "the head reads the mean over the tokens, not the class token")
    changed = [n for n, bases in part.model.modules.items() if "Linear" in bases and "head" in n]
    if len(changed) > 1:
        raise Open("the head has several Linear layers: a person should look whether it reads the class token")
    raise Wrong("the head is not given the normalized class token of the last block")
