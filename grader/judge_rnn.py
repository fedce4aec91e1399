"""Homework 4-1: the recurrent network against PyTorch's own, through the assignment's interface."""

import itertools
import math
import re

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grader.rules import RULES, call_violations, module_violations
from grader.student import TOLERANCE, Model, Student, Wrong, check, is_close, require, tensor
from grader.wire import Ref

NAME = "hw4_rnn"
VOCABULARY, INPUT, HIDDEN, CLASSES = 11, 5, 6, 4
LOSS_TOLERANCE = 1e-3  # so that log(p + 1e-7) and its like pass
WORDS = "market minister team company coach court season shares software network".split()


def sizes(hidden: int = HIDDEN, width: int = INPUT, dropout: float = 0.0) -> list:
    return [VOCABULARY, width, hidden, CLASSES, dropout]  # the last one is dropped where the class takes four


def draw(name: str, parameter: Tensor) -> Tensor:
    return 0.5 * torch.randn_like(parameter)


def network(student: Student, dtype: torch.dtype, values=draw) -> Model:
    return student.model("model", "RNN", sizes(), values, dtype=dtype, **{"@least": 4})


def weight(model: Model, name: str) -> Tensor:
    """A parameter by the assignment's name; the embedding may be the layer that the skeleton hands out."""
    for candidate in (name, f"{name}.weight"):
        if candidate in model.parameters:
            return model.parameters[candidate]
    raise Wrong(f"the network has no parameter {name}")


def probabilities(student: Student, text: Tensor, length: Tensor, key: str = "model", **options) -> dict:
    answer = student.call(key, text, length, **options)
    if isinstance(answer["value"], list) and answer["value"]:
        student.grade.remark("RNN.forward returns more than the probabilities")
        answer["value"] = answer["value"][0]
    value = tensor(answer["value"], f"forward returned a {answer['type'][0]}, expected a tensor (B, C)")
    require(value.shape == (text.shape[1], CLASSES), f"forward returned shape {tuple(value.shape)}, expected (B, C)")
    return answer


def reference(model: Model, text: Tensor, length: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The same network from nn.RNN on packed sequences: probabilities, and its parameters by name."""
    w = {
        name: weight(model, name).double().clone().requires_grad_()
        for name in ("W_xh", "W_hh", "W_hy", "b_xh", "b_hh", "b_hy", "embedding")
    }
    layer = nn.RNN(INPUT, HIDDEN).double()
    inner = {
        "weight_ih_l0": w["W_xh"].T,
        "weight_hh_l0": w["W_hh"].T,
        "bias_ih_l0": w["b_xh"].flatten(),
        "bias_hh_l0": w["b_hh"].flatten(),
    }
    packed = nn.utils.rnn.pack_padded_sequence(w["embedding"][text], length, enforce_sorted=False)
    _, last = torch.func.functional_call(layer, inner, (packed,))
    return (last[0] @ w["W_hy"] + w["b_hy"].flatten()).softmax(1), w


# ------------------------------------------------------------------------------------ 1(a)


def tokens(student: Student, text: str) -> list[int]:
    """A text's indices, as a batch of its own gives them."""
    value = student.call("collate_batch", [[1, text]])["value"]
    require(isinstance(value, list) and len(value) == 3, "expected (text, label, length)")
    row = tensor(value[0], "the text is no tensor")
    require(
        row.shape == (len(text.split()), 1),
        f"a batch of one text of {len(text.split())} words gave text of shape {tuple(row.shape)}, expected (T, B)",
    )
    return row.flatten().tolist()


@check(NAME, "1a")
def collate_batch_cuts_and_pads_to_the_average_length(student: Student) -> None:
    for counts in ((5, 1, 2), (7, 3, 2, 4)):  # 8 words of 3 texts: average 2; 16 of 4: 4
        texts = [" ".join(WORDS[i : i + n]) for i, n in enumerate(counts)]
        encoded = [tokens(student, text) for text in texts]
        require(len(set(encoded[0])) > 1, "different words have the same index")
        labels = [1 + (3 * i) % 4 for i in range(len(counts))]
        batch = [[label, text] for label, text in zip(labels, texts, strict=True)]
        text, label, length = student.call("collate_batch", batch)["value"]
        average = sum(counts) // len(counts)
        shape = (average, len(counts))
        require(tuple(text.shape) == shape, f"texts of {counts} words gave shape {tuple(text.shape)}, expected {shape}")
        require({text.dtype, label.dtype, length.dtype} == {torch.long}, "expected text, label and length as long")
        kept = [min(n, average) for n in counts]
        require(length.flatten().tolist() == kept, f"length is {length.tolist()}, expected {kept}")
        require(label.flatten().tolist() == [n - 1 for n in labels], f"labels {labels} became {label.tolist()}")
        expected = [(row + [0] * average)[:average] for row in encoded]
        require(text.T.tolist() == expected, "the texts are not cut and padded with 0 in their order")
    with_empty = student.call("collate_batch", [[1, ""], [2, ""]])["value"]
    if with_empty[0].shape != (1, 2) or with_empty[2].tolist() != [1, 1]:
        student.grade.remark("collate_batch gives texts without words no step, or a length of 0")


# ------------------------------------------------------------------------------------ 1(b), 1(c)


@check(NAME, "1b")
def parameters_have_the_assignments_names_and_shapes(student: Student) -> None:
    model = network(student, torch.float32)
    expected = {
        "embedding": (VOCABULARY, INPUT),
        "W_xh": (INPUT, HIDDEN),
        "W_hh": (HIDDEN, HIDDEN),
        "W_hy": (HIDDEN, CLASSES),
    }
    for name, shape in expected.items():
        found = tuple(weight(model, name).shape)
        require(found == shape, f"{name} has shape {found}, expected {shape}")
    for name, count in {"b_xh": HIDDEN, "b_hh": HIDDEN, "b_hy": CLASSES}.items():
        found = tuple(weight(model, name).shape)
        require(math.prod(found) == count, f"{name} has shape {found}, expected {count} numbers")
    untrained = set(model.parameters) - set(model.trainable)
    require(not untrained, f"{', '.join(sorted(untrained))} cannot be trained (requires_grad is off)")
    known = {*expected, "embedding.weight", "b_xh", "b_hh", "b_hy"}
    if more := sorted(set(model.parameters) - known):
        student.grade.remark(f"RNN has further parameters: {', '.join(more)}")


@check(NAME, "1c")
def forward_equals_torchs_rnn_on_packed_texts_with_its_gradients(student: Student) -> None:
    for lengths in ([3, 9, 1, 6], [1], [4, 4], [2, 7, 7, 5, 1]):
        compare_with_torch(student, torch.tensor(lengths))


def compare_with_torch(student: Student, length: Tensor) -> None:
    """Values and gradients for texts of these lengths, with a step behind the longest."""
    text = torch.randint(VOCABULARY, (int(length.max()) + 1, len(length)))
    pull = torch.randn(len(length), CLASSES).double()
    model, answer = student.in_best_precision(
        lambda dtype: network(student, dtype), lambda _: probabilities(student, text, length, pull=pull)
    )
    expected, parameters = reference(model, text, length)
    out, where = answer["value"], f"for texts of lengths {length.tolist()}"
    require(is_close(out.sum(1), torch.ones(len(length)).to(out)), "the rows do not sum to 1: no probabilities")
    atol = TOLERANCE[torch.float64 if out.dtype == model.dtype == torch.float64 else torch.float32]
    difference = (out - expected).abs().max()
    require(difference < atol, f"the probabilities differ from nn.RNN's by up to {difference:.2g} {where}")
    grads = torch.autograd.grad((expected * pull).sum(), list(parameters.values()))
    for name, gradient in zip(parameters, grads, strict=True):
        found = answer["gradients"].get(name, answer["gradients"].get(f"{name}.weight"))
        close = is_close(found.flatten(), gradient.flatten(), 1e-8 if atol < 1e-5 else 1e-3)
        require(close, f"the gradient of {name} differs from nn.RNN's {where}")


@check(NAME, "1c")
def padding_and_neighbors_change_nothing(student: Student) -> None:
    text, length = torch.randint(VOCABULARY, (6, 3)), torch.tensor([2, 6, 4])
    _, answer = student.in_best_precision(
        lambda dtype: network(student, dtype), lambda _: probabilities(student, text, length)
    )
    output = answer["value"]
    longer = torch.cat([text, torch.randint(VOCABULARY, (4, 3))])
    require(
        is_close(probabilities(student, longer, length)["value"], output), "steps behind all texts change the result"
    )
    other = text.clone()
    other[2:, 0] = (text[2:, 0] + 1) % VOCABULARY
    require(
        is_close(probabilities(student, other, length)["value"], output), "words behind a text's end change its result"
    )
    alone = probabilities(student, text[:2, :1], length[:1])["value"]
    require(is_close(alone, output[:1]), "a text alone and in a batch gives different results")


@check(NAME, "1c")
def evaluation_is_deterministic(student: Student) -> None:
    text, length = torch.randint(VOCABULARY, (5, 3)), torch.tensor([5, 2, 3])
    model = student.model("model", "RNN", sizes(dropout=0.5), draw, dtype=torch.float32, **{"@least": 4})
    first = student.call("model", text, length, times=2)["values"]
    require(is_close(first[0], first[1], 0.0), "two evaluations of the same texts differ")
    student.ask("set", key="model", values=None, dtype=str(model.dtype)[6:], training=True)
    first = student.call("model", text, length, times=2)["values"]
    if is_close(first[0], first[1], 0.0):
        student.grade.remark("nothing is random in training: h_0 is fixed and no dropout is applied")


@check(NAME, "1c")
def no_layer_of_torch_is_used(student: Student) -> None:
    found = [what for what, is_loss in student.rules if not is_loss]
    require(not found, "; ".join(found[:3]))
    model = network(student, torch.float32)
    found = module_violations([module[:3] for module in model.modules], RULES[NAME])
    student.ask("set", key="model", values=None, dtype="float32", training=True)
    names = probabilities(student, torch.randint(VOCABULARY, (5, 2)), torch.tensor([5, 2]), trace=True)["names"]
    found += [f"{name} is called" for name in call_violations(names, RULES[NAME])]
    require(not found, "; ".join(found[:3]))


# ------------------------------------------------------------------------------------ 1(d)


def loss_of(student: Student, prediction: Tensor, label: Tensor, **options) -> tuple[Tensor, object, dict]:
    answer = student.call("model.compute_loss", prediction, label, **options)
    value = answer["value"]
    require(isinstance(value, list) and len(value) == 2, "compute_loss returned no (loss, correct)")
    loss = tensor(value[0], f"the loss is a {answer['type'][0]}, expected a tensor that gradients flow through")
    require(loss.numel() == 1, f"the loss has shape {tuple(loss.shape)}, expected a single number")
    return loss.flatten()[0], value[1], answer


@check(NAME, "1d")
def loss_equals_torchs_cross_entropy_with_its_gradient_and_counts_hits(student: Student) -> None:
    network(student, torch.float32)
    for count in (7, 3):
        logits, label = 2 * torch.randn(count, CLASSES), torch.randint(CLASSES, (count,))
        prediction = logits.softmax(1).requires_grad_()
        loss, correct, answer = loss_of(student, prediction.detach(), label, pull=torch.ones(()))
        expected = F.nll_loss(prediction.log(), label)
        factor = 1 if is_close(loss, expected.detach(), LOSS_TOLERANCE) else count
        (gradient,) = torch.autograd.grad(factor * expected, prediction)
        require(
            is_close(loss, factor * expected.detach(), LOSS_TOLERANCE * factor),
            f"the loss is {loss:.4f}, expected {expected:.4f} (mean) or {count * expected:.4f} (sum)",
        )
        atol = LOSS_TOLERANCE * gradient.abs().max().item()
        require(is_close(answer["inputs"][0], gradient, atol), "the loss's gradient differs from cross-entropy's")
        if factor != 1:
            student.grade.remark("compute_loss returns the sum over the batch, not the mean")
        hits = int((prediction.argmax(1) == label).sum())
        number = correct.item() if isinstance(correct, Tensor) and correct.numel() == 1 else correct
        require(number == hits, f"{hits} predictions were correct, compute_loss counted {number}")
    try:
        loss, _, answer = loss_of(student, torch.tensor([[1.0, 0.0]]), torch.tensor([1]), pull=torch.ones(()))
        finite = bool(loss.isfinite()) and bool(answer["inputs"][0].isfinite().all())
    except Wrong:
        finite = False
    if not finite:
        student.grade.remark("compute_loss or its gradient is infinite where a probability underflowed to 0")


@check(NAME, "1d")
def no_loss_of_torch_is_used(student: Student) -> None:
    found = [what for what, is_loss in student.rules if is_loss]
    require(not found, "; ".join(found[:3]))
    network(student, torch.float32)
    names = student.ask(
        "functions", what="model.compute_loss", args=[torch.randn(3, 4).softmax(1), torch.tensor([0, 1, 3])]
    )
    found = call_violations(names, RULES[NAME])
    require(not found, f"{', '.join(found)} is called")


# ------------------------------------------------------------------------------------ 1(e)


def scheduler(student: Student, lr: float, warmup: int = 4, decay: float = 0.5, optimizer: str = "SGD") -> None:
    student.ask("make", key="optimizer", kind="optimizer", model="model", name=optimizer, lr=lr)
    student.ask("build", key="scheduler", kind="ScheduledOptim", args=[Ref("optimizer"), warmup, decay], options={})


@check(NAME, "1e")
def the_schedule_warms_up_and_then_falls(student: Student) -> None:
    network(student, torch.float32)
    scheduler(student, 2.0)
    rates = []
    for _ in range(8):
        student.call("scheduler.update")
        rates.append(float(student.call("scheduler.get_lr")["value"]))
    peak = rates.index(max(rates))
    steps = [b - a for a, b in itertools.pairwise(rates[: peak + 1])]
    shown = ", ".join(f"{rate:.3g}" for rate in rates)
    even = all(math.isclose(step, steps[0], rel_tol=1e-4) for step in steps)
    rises = peak >= 2 and even and math.isclose(max(rates), 2.0, rel_tol=1e-4)
    require(rises, f"with 4 steps of warm-up to 2, the rates are {shown}: expected a straight rise to 2")
    falling = rates[max(peak, 4) :]
    require(
        len(falling) > 2 and all(0 < b < a for a, b in itertools.pairwise(falling)), f"the rates {shown} do not fall"
    )
    if not all(math.isclose(b, 0.5 * a, rel_tol=1e-4) for a, b in itertools.pairwise(falling)):
        student.grade.remark(f"after warm-up the rate does not fall by decay_rate each time: {shown}")


def pair(answer: dict, what: str) -> tuple[float, float]:
    value = answer["value"]
    require(isinstance(value, list) and len(value) == 2, f"{what} returned no (loss, accuracy)")
    return tuple(v.item() if isinstance(v, Tensor) else float(v) for v in value)


@check(NAME, "1e")
def train_and_evaluate_average_over_texts(student: Student) -> None:
    def values(name: str, parameter: Tensor) -> Tensor:
        # Without words and recurrence, neither dropout nor a random h_0 can change the result.
        return (
            torch.zeros_like(parameter)
            if name in ("embedding", "embedding.weight", "W_hh")
            else torch.randn_like(parameter)
        )

    network(student, torch.float32, values)
    text, length = torch.randint(1, VOCABULARY, (5, 10)), torch.full((10,), 5)
    p = probabilities(student, text, length)["value"][0]
    best = int(p.argmax())
    label = torch.tensor([best] * 3 + [(best + 1) % 4] * 4 + [(best + 2) % 4] * 3)
    expected = {(-p[label].log().mean().item(), 30.0)}
    try:  # by the notebook's own loss, which 1(d) judges
        loss, correct, _ = loss_of(student, p.repeat(10, 1), label)
        expected |= {(loss.item() / n, 10 * float(correct)) for n in (1, 10)}
    except (Wrong, TypeError, ValueError):
        pass
    parts = [[text[:, a:b], label[a:b], length[a:b]] for a, b in ((0, 7), (7, 9), (9, 10))]
    student.ask("make", key="loader", kind="loader", batches=parts, count=10)
    scheduler(student, 0.0)
    for what, args in (("evaluate", ["model", "loader"]), ("train", ["model", "loader", "scheduler"])):
        found = pair(student.call(what, *map(Ref, args)), what)
        agrees = any(
            math.isclose(a, b, abs_tol=2e-3) and math.isclose(found[1], c, abs_tol=1e-2)
            for a, (b, c) in ((found[0], value) for value in expected)
        )
        loss, accuracy = max(expected, key=lambda value: value[1] == 30.0)
        require(
            agrees,
            f"{what} returned ({found[0]:.4f}, {found[1]:.2f}) for three batches of unequal size, expected the "
            f"averages over texts ({loss:.4f}, {accuracy:.2f})",
        )


@check(NAME, "1e")
def evaluate_changes_nothing_and_train_learns(student: Student) -> None:
    student.model("model", "RNN", sizes(16, 8), None, dtype=torch.float32, **{"@least": 4})
    label = torch.arange(8) % CLASSES
    student.ask(
        "make",
        key="loader",
        kind="loader",
        count=16,
        batches=[[label.repeat(5, 1) + 2, label, torch.full((8,), 5)]] * 2,
    )
    before = student.ask("parameters", key="model")
    first, _ = pair(student.call("evaluate", Ref("model"), Ref("loader")), "evaluate")
    after = student.ask("parameters", key="model")
    require(all(torch.equal(before[name], after[name]) for name in before), "evaluate changes the parameters")
    scheduler(student, 0.02, warmup=2, decay=1.0, optimizer="AdamW")
    rate = student.call("scheduler.get_lr")["value"]
    student.call("train", Ref("model"), Ref("loader"), Ref("scheduler"), times=2)
    if student.call("scheduler.get_lr")["value"] == rate:
        lines = [line for source in student.cells.values() for line in source.splitlines() if "bar" not in line]
        outside = any(re.search(r"\.update\(", line) for line in lines)
        require(outside, "neither train nor any other cell updates the schedule")
    student.call("train", Ref("model"), Ref("loader"), Ref("scheduler"), times=80)
    last, accuracy = pair(student.call("evaluate", Ref("model"), Ref("loader")), "evaluate")
    require(
        last < 0.5 * first and accuracy == 100.0,
        f"four words that tell the class were not learned in 82 epochs: "
        f"loss {first:.3f} -> {last:.3f}, accuracy {accuracy:.1f} %",
    )
