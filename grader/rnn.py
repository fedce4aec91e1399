"""Homework 4-1: the recurrent network against PyTorch's own; train and evaluate by how they use a model of ours."""

import itertools
import math
import re
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grader.rules import LOSS, RULES, violations
from grader.runner import Died, Model, Open, Student, Wrong, check, is_close, require, straight_steps, tensor
from grader.wire import Ref

NAME = "hw4_rnn"
VOCABULARY, INPUT, HIDDEN, CLASSES = 11, 5, 6, 4
LOSS_TOLERANCE = 1e-3  # so that log(p + 1e-7) and its like pass
WORDS = "market minister team company coach court season shares software network".split()
SIZES = [VOCABULARY, INPUT, HIDDEN, CLASSES]
MATRICES = {
    "embedding": (VOCABULARY, INPUT),
    "W_xh": (INPUT, HIDDEN),
    "W_hh": (HIDDEN, HIDDEN),
    "W_hy": (HIDDEN, CLASSES),
}
BIASES = {"b_xh": HIDDEN, "b_hh": HIDDEN, "b_hy": CLASSES}


def draw(name: str, parameter: Tensor) -> Tensor:
    return 0.5 * torch.randn_like(parameter)


def network(student: Student, dtype: torch.dtype = torch.float32, values=draw, dropout: float = 0.0) -> Model:
    return student.model("model", "RNN", [*SIZES, dropout], values, dtype=dtype, least=4)


def weight(model: Model, name: str) -> Tensor:
    """A parameter by the assignment's name; the embedding may be the layer that the skeleton hands out."""
    for candidate in (name, f"{name}.weight"):
        if candidate in model.parameters:
            return model.parameters[candidate]
    raise Wrong(f"the network has no parameter {name}")


# ------------------------------------------------------------------------------------ 1(a)


def collated(student: Student, batch: list) -> list[Tensor]:
    value = student.call("collate_batch", batch)["value"]
    require(isinstance(value, list) and len(value) == 3, "collate_batch does not return (text, label, length)")
    return [tensor(part, f"the {what} is no tensor") for part, what in zip(value, ("text", "label", "length"))]


@check(NAME, "1a")
def collate_batch_cuts_and_pads_to_the_average_length(student: Student) -> None:
    alone = [" ".join(WORDS[i : i + n]) for i, n in ((0, 5), (1, 1), (2, 2))]
    require(len({int(collated(student, [[1, word]])[0].flatten()[0]) for word in WORDS[:3]}) > 1, "all words are one")
    require(collated(student, [[1, alone[0]]])[0].shape == (5, 1), "a text of 5 words alone gives no text (5, 1)")
    for counts in ((5, 1, 2), (7, 3, 2, 4)):  # 8 words of 3 texts: average 2; 16 of 4: 4
        texts = [" ".join(WORDS[i : i + n]) for i, n in enumerate(counts)]
        encoded = [collated(student, [[1, text]])[0].flatten().tolist() for text in texts]
        labels = [1 + (3 * i) % 4 for i in range(len(counts))]
        text, label, length = collated(student, [list(pair) for pair in zip(labels, texts)])
        average = sum(counts) // len(counts)
        shape = (average, len(counts))
        require(tuple(text.shape) == shape, f"texts of {counts} words gave shape {tuple(text.shape)}, expected {shape}")
        kinds = [str(t.dtype)[6:] for t in (text, label, length)]
        require(set(kinds) == {"int64"}, f"text, label and length are {', '.join(kinds)}, expected int64 (long)")
        kept = [min(n, average) for n in counts]
        rows = [(row + [0] * average)[:average] for row in encoded]
        right = list(zip(rows, [n - 1 for n in labels], kept))
        full = list(zip(rows, [n - 1 for n in labels], counts))
        found = list(zip(text.T.tolist(), label.flatten().tolist(), length.flatten().tolist()))
        if sorted(found) == sorted(full) != sorted(right):
            require_clamped(student, average)
            student.grade.remark("length is not cut to T: forward takes care of it", student.cell_of("collate_batch"))
            right = full
        if found == right:
            continue
        if sorted(found) == sorted(right):
            student.grade.remark("collate_batch sorts the batch: text, label and length together")
            continue
        require([f[2] for f in found] == [f[2] for f in right], f"length is {length.tolist()}, expected {kept}")
        require([f[1] for f in found] == [f[1] for f in right], f"labels {labels} became {label.tolist()}")
        raise Wrong("the texts are not cut to the average length and padded with 0, in their order")
    try:
        text, _, length = collated(student, [[1, ""], [2, ""]])
        empty = text.shape != (1, 2) or length.tolist() != [1, 1]
    except Wrong:
        empty = True
    if empty:
        student.grade.remark("collate_batch gives texts without words no step, or a length of 0")


def require_clamped(student: Student, steps: int) -> None:
    """Lengths beyond the text's steps are all right where forward reads the last step for them."""
    text = torch.randint(VOCABULARY, (steps, 2))
    network(student)
    try:
        beyond, last = (
            student.call("model", text, torch.tensor([n, n]), quiet=True)["value"] for n in (steps + 3, steps)
        )
    except Wrong as problem:
        raise Wrong(f"length counts more tokens than T, and forward cannot read there ({problem})") from problem
    require(is_close(beyond, last), "length counts more tokens than T, and forward does not read the last of them")


# ------------------------------------------------------------------------------------ 1(b), 1(c)


@check(NAME, "1b")
def parameters_have_the_assignments_names_and_shapes(student: Student) -> None:
    model = network(student)
    for name, shape in MATRICES.items():
        found = tuple(weight(model, name).shape)
        if found == shape[::-1] != shape and name != "embedding":
            student.grade.remark(f"{name} is stored as (out, in): {found}")
        else:
            require(found == shape, f"{name} has shape {found}, expected {shape} or the other way round")
    for name, count in BIASES.items():
        found = tuple(weight(model, name).shape)
        require(math.prod(found) == count, f"{name} has shape {found}, expected {count} numbers")
    frozen = [name for name in model.shapes if name not in model.trainable]
    require(not frozen, f"{', '.join(frozen)} cannot be trained (requires_grad is off)")
    known = {*MATRICES, *BIASES, "embedding.weight"}
    if more := sorted(set(model.shapes) - known):
        student.grade.remark(f"RNN has further parameters: {', '.join(more)}")


def probabilities(student: Student, text: Tensor, length: Tensor, **options) -> tuple[Tensor, dict]:
    """What forward returns, made a distribution if it holds logits or log-probabilities, which cost points alone."""
    answer = student.call("model", text, length, **options)
    value = answer["value"]
    if isinstance(value, list) and value:
        student.grade.remark("RNN.forward returns more than the probabilities")
        value = value[0]
    value = tensor(value, f"forward returned a {answer['type'][0]}, expected a tensor (B, C)")
    expected = (text.shape[1], CLASSES)
    require(value.shape == expected, f"forward returned shape {tuple(value.shape)}, expected {expected}")
    return value, answer


def distribution(value: Tensor) -> Tensor:
    if (value >= 0).all() and is_close(value.sum(1), torch.ones_like(value[:, 0]), 1e-3):
        return value
    return value.softmax(1)


def references(model: Model, text: Tensor, length: Tensor) -> list[tuple[Tensor, dict[str, Tensor]]]:
    """The same network from nn.RNN on packed sequences, probabilities and parameters, for each reading of W_hh."""
    found = []
    for turned in (False, True):  # a square matrix does not tell whether it is stored as (out, in)
        w = {n: weight(model, n).double().clone().requires_grad_() for n in (*MATRICES, *BIASES)}
        m = {name: w[name].T if w[name].shape != shape else w[name] for name, shape in MATRICES.items()}
        inner = {
            "weight_ih_l0": m["W_xh"].T,
            "weight_hh_l0": m["W_hh"] if turned else m["W_hh"].T,
            "bias_ih_l0": w["b_xh"].flatten(),
            "bias_hh_l0": w["b_hh"].flatten(),
        }
        packed = nn.utils.rnn.pack_padded_sequence(m["embedding"][text], length, enforce_sorted=False)
        _, last = torch.func.functional_call(nn.RNN(INPUT, HIDDEN).double(), inner, (packed,))
        found.append(((last[0] @ m["W_hy"] + w["b_hy"].flatten()).softmax(1), w))
    return found


def compare_with_torch(student: Student, length: Tensor, extra: int, gradients: bool = True) -> None:
    """Values and gradients for texts of these lengths, with some steps behind the longest."""
    text = torch.randint(VOCABULARY, (int(length.max()) + extra, len(length)))
    pull = torch.randn(len(length), CLASSES).double()
    model, (value, answer) = student.in_best_precision(
        lambda dtype: network(student, dtype), lambda _: probabilities(student, text, length, quiet=True, pull=pull)
    )
    where = f"for texts of lengths {length.tolist()} in {len(text)} steps"
    exact = value.dtype == model.dtype == torch.float64
    differences = []
    for expected, parameters in references(model, text, length):
        difference = (distribution(value).double() - expected).abs().max().item()
        differences.append(difference)
        if difference < (1e-8 if exact else 2e-4):
            if not gradients or not is_close(distribution(value), value):
                return  # gradients of another function of the same network
            grads = torch.autograd.grad((expected * pull).sum(), list(parameters.values()))
            for name, gradient in zip(parameters, grads):
                found = answer["gradients"].get(name, answer["gradients"].get(f"{name}.weight"))
                close = found is not None and is_close(found.flatten(), gradient.flatten(), 1e-8 if exact else 1e-3)
                require(close, f"the gradient of {name} differs from nn.RNN's {where}")
            return
    raise Wrong(f"the probabilities differ from nn.RNN's by up to {min(differences):.2g} {where}")


@check(NAME, "1c", "recurrence")
def full_texts_equal_torchs_rnn_with_its_gradients(student: Student) -> None:
    for length in ([1], [4, 4], [7, 7, 7]):
        compare_with_torch(student, torch.tensor(length), extra=0)


@check(NAME, "1c", "each text's last word")
def each_text_is_read_at_its_own_last_word(student: Student) -> None:
    text, length = torch.randint(VOCABULARY, (6, 3)), torch.tensor([2, 6, 4])
    network(student)
    first = probabilities(student, text, length, quiet=True)[0]
    other = text.clone()
    other[2:, 0] = (text[2:, 0] + 1) % VOCABULARY
    again = probabilities(student, other, length, quiet=True)[0]
    require(is_close(again, first), "words behind a text's end change its result: padding is read")
    longer = torch.cat([text, torch.randint(VOCABULARY, (4, 3))])
    again = probabilities(student, longer, length, quiet=True)[0]
    require(is_close(again, first), "steps behind all texts change the result: padding is read")
    alone = probabilities(student, text[:2, :1], length[:1], quiet=True)[0]
    require(is_close(alone, first[:1]), "a text alone and in a batch gives different results")
    changed = text.clone()
    changed[1, 0], changed[5, 1] = (text[1, 0] + 1) % VOCABULARY, (text[5, 1] + 1) % VOCABULARY
    again = probabilities(student, changed, length, quiet=True)[0]
    for b in (0, 1):
        require(not is_close(again[b], first[b]), f"the last word of a text of {length[b]} words does not matter")


@check(NAME, "1c", "each text's last word")
def short_and_long_texts_together_equal_torchs_rnn(student: Student) -> None:
    try:
        compare_with_torch(student, torch.tensor([5]), extra=0, gradients=False)
    except Wrong:
        return  # the recurrence differs, which costs its own points; the check above tells what is read
    for length in ([3, 9, 1, 6], [2, 7, 7, 5, 1]):
        compare_with_torch(student, torch.tensor(length), extra=1)


@check(NAME, "1c", "probabilities")
def forward_returns_probabilities(student: Student) -> None:
    network(student)
    value, _ = probabilities(student, torch.randint(VOCABULARY, (5, 3)), torch.tensor([5, 2, 3]))
    if (value < 0).any() or not is_close(value.sum(1), torch.ones(3).to(value), 1e-3):
        raise Wrong("forward returns no probabilities: a text's numbers do not sum to 1 (softmax)")


@check(NAME, "1c", "recurrence")
def evaluation_is_deterministic(student: Student) -> None:
    text, length = torch.randint(VOCABULARY, (5, 3)), torch.tensor([5, 2, 3])
    network(student, dropout=0.5)
    first, second = (probabilities(student, text, length, seed=seed)[0] for seed in (2, 3))
    if not is_close(first, second, 1e-6):
        # Without recurrence h_0 does not matter, and what still differs is dropout.
        network(student, values=lambda name, p: draw(name, p) * (name != "W_hh"), dropout=0.5)
        first, second = (probabilities(student, text, length, seed=seed)[0] for seed in (2, 3))
        require(is_close(first, second, 1e-6), "dropout is applied in evaluation too")
        student.grade.remark("h_0 is drawn at random in evaluation too", student.cell_of("RNN"))
    student.ask("set", key="model", values=None, dtype="float32", training=True)
    first, second = (probabilities(student, text, length, seed=seed)[0] for seed in (2, 3))
    if is_close(first, second, 0.0):
        student.grade.remark("nothing is random in training: h_0 is fixed and no dropout is applied")


@check(NAME, "1c", "recurrence", "each text's last word", "probabilities")
def no_layer_of_torch_is_built_or_called(student: Student) -> None:
    network(student, dropout=0.5)
    student.ask("set", key="model", values=None, dtype="float32", training=True)
    text, names = torch.randint(VOCABULARY, (5, 2)), []
    with suppress(Wrong):  # what it is worth is judged above
        names = student.call("model", text, torch.tensor([5, 2]))["names"]
    layers = student.ask("layers", key="model")
    found = violations(RULES[NAME], [name for name in layers if not name.endswith("Loss")], names)
    require(not found, f"{'; '.join(found[:3])}: no pre-defined layer may be used")
    for name in sorted(set(layers) & {"Tanh", "Softmax", "LogSoftmax", "Sigmoid", "ReLU"}):
        student.grade.remark(f"nn.{name} is used: a function would do", student.cell_of("RNN"))


# ------------------------------------------------------------------------------------ 1(d)


def loss_of(student: Student, prediction: Tensor, label: Tensor, **options) -> tuple[Tensor, object, dict]:
    answer = student.call("model.compute_loss", prediction, label, **options)
    value = answer["value"]
    require(isinstance(value, list) and len(value) == 2, "compute_loss returned no (loss, correct)")
    loss = tensor(value[0], f"the loss is a {answer['type'][0]}, expected a tensor that gradients flow through")
    require(loss.numel() == 1, f"the loss has shape {tuple(loss.shape)}, expected a single number")
    return loss.flatten()[0], value[1], answer


@check(NAME, "1d", "loss")
def the_loss_is_cross_entropy_with_its_gradient(student: Student) -> None:
    network(student)
    for count in (7, 3):
        logits, label = 2 * torch.randn(count, CLASSES), torch.randint(CLASSES, (count,))
        prediction = logits.softmax(1).requires_grad_()
        loss, _, answer = loss_of(student, prediction.detach(), label, pull=torch.ones(()))
        expected = F.nll_loss(prediction.log(), label)
        factor = 1 if is_close(loss, expected.detach(), LOSS_TOLERANCE) else count
        (gradient,) = torch.autograd.grad(factor * expected, prediction)
        told = f"the loss is {loss:.4f}, expected {expected:.4f} (mean) or {count * expected:.4f} (sum)"
        require(is_close(loss, factor * expected.detach(), LOSS_TOLERANCE * factor), told)
        atol = LOSS_TOLERANCE * gradient.abs().max().item()
        require(is_close(answer["inputs"][0], gradient, atol), "the loss's gradient differs from cross-entropy's")
        if factor != 1:
            student.grade.remark("compute_loss returns the sum over the batch, not the mean")
    try:
        loss, _, answer = loss_of(student, torch.tensor([[1.0, 0.0]]), torch.tensor([1]), pull=torch.ones(()))
        finite = bool(loss.isfinite()) and bool(answer["inputs"][0].isfinite().all())
    except Wrong:
        finite = False
    if not finite:
        student.grade.remark("compute_loss or its gradient is infinite where a probability underflowed to 0")


@check(NAME, "1d", "loss")
def no_loss_of_torch_is_called(student: Student) -> None:
    network(student)
    answer = student.call("model.compute_loss", torch.randn(3, 4).softmax(1), torch.tensor([0, 1, 3]))
    found = violations(LOSS, student.ask("layers", key="model"), answer["names"])
    require(not found, f"{'; '.join(found)}: no loss of torch.nn may be used")


@check(NAME, "1d", "correct predictions")
def hits_are_counted(student: Student) -> None:
    network(student)
    for hits in (3, 0, 5):
        label = torch.tensor([0, 1, 2, 3, 1])
        prediction = F.one_hot((label + (torch.arange(5) >= hits)) % CLASSES, CLASSES).float().mul(2).softmax(1)
        _, correct, _ = loss_of(student, prediction, label)
        number = correct.item() if isinstance(correct, Tensor) and correct.numel() == 1 else correct
        require(number == hits, f"{hits} predictions were correct, compute_loss counted {number}")


# ------------------------------------------------------------------------------------ 1(e)


COUNTS = (7, 2, 1)  # texts of each batch


def probe(student: Student, what: str, args: list[str]) -> tuple[list, tuple[float, float], list[tuple]]:
    """Call train or evaluate with a model of ours: its events, what it returned, and what would be right."""
    label = torch.tensor([0] * 3 + [1] * 4 + [3] * 3)  # class 0 or 3 is the most probable
    ends = list(itertools.accumulate(COUNTS))
    batches = [[torch.ones(5, n).long(), label[end - n : end], torch.full((n,), 5)] for n, end in zip(COUNTS, ends)]
    student.ask("probe", kind="RNN", args=[*SIZES, 0.0], shape=[CLASSES], batches=batches, count=10)
    answer = student.call(what, *map(Ref, args))
    events, value = answer["events"], answer["value"]
    if not any(event[0] == "forward" for event in events):
        raise Open(f"{what} does not call the model that it is given")
    if not any(event[0] == "loss" for event in events):
        raise Open(f"{what} does not call the model's compute_loss")
    require(isinstance(value, list) and len(value) == 2, f"{what} returned no (loss, accuracy)")
    try:
        found = tuple(v.item() if isinstance(v, Tensor) else float(v) for v in value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise Wrong(f"{what} returned no two numbers") from error
    losses = [event[1] for event in events if event[0] == "loss"][-len(COUNTS) :]
    return events, found, losses


def require_averages(student: Student, what: str, found: tuple[float, float], losses: list[float]) -> None:
    """Averages over texts are what the skeleton asks for; means of batch means and sums are as good."""
    weighed = sum(loss * n for loss, n in zip(losses, COUNTS))
    ways = {"over texts": weighed / 10, "over batches": sum(losses) / 3, "of sums": sum(losses) / 10}
    ways |= {"as a sum": sum(losses), "as a sum of sums": weighed}
    for order in (found, found[::-1]):
        way = next((w for w, loss in ways.items() if math.isclose(order[0], loss, rel_tol=1e-3, abs_tol=1e-4)), None)
        if way and 0 <= order[1] <= 100:
            if order is not found:
                student.grade.remark(f"{what} returns (accuracy, loss)")
            if way not in ("over texts", "of sums"):  # compute_loss may return a batch's sum
                student.grade.remark(f"{what} averages the loss {way}")
            return
    expected = f"expected the loss averaged over texts ({ways['over texts']:.4f}) and an accuracy in percent"
    raise Wrong(f"{what} returned ({found[0]:.4f}, {found[1]:.2f}), {expected}")


def require_accuracy(student: Student, what: str, found: tuple[float, float], texts: float, batches: float) -> None:
    values = {"": texts, "averaged over batches": batches, "as a fraction": texts / 100}
    for way, value in values.items():
        if any(math.isclose(number, value, abs_tol=1e-2 if value > 1 else 1e-4) for number in found):
            if way:
                student.grade.remark(f"{what} returns the accuracy {way}")
            return
    raise Wrong(
        f"{what} returned the accuracy {found[1]:.2f} of three batches, expected {texts:.2f} (percent of texts)"
    )


@check(NAME, "1e", "evaluate")
def evaluate_averages_in_evaluation_mode(student: Student) -> None:
    events, found, losses = probe(student, "evaluate", ["probe", "loader"])
    forwards = [event for event in events if event[0] == "forward"]
    require(not any(event[1] for event in forwards), "evaluate does not switch to evaluation mode: model.eval()")
    require(not any(event[0] == "step" for event in events), "evaluate updates the parameters")
    if any(event[2] for event in forwards):
        student.grade.remark("evaluate computes gradients: torch.no_grad() would save them")
    require_averages(student, "evaluate", found, losses)
    require_accuracy(student, "evaluate", found, 30.0, 100 * (3 / 7) / 3)


@check(NAME, "1e", "train")
def train_steps_along_each_batchs_gradient(student: Student) -> None:
    events, found, losses = probe(student, "train", ["probe", "loader", "optimizer"])
    steps = straight_steps(events)
    require(len(steps) == len(COUNTS), f"{len(steps)} steps for {len(COUNTS)} batches")
    require_averages(student, "train", found, losses)


@check(NAME, "1e", "schedule")
def the_schedule_is_updated(student: Student) -> None:
    events, _, _ = probe(student, "train", ["probe", "loader", "optimizer"])
    if any(event[0] == "update" for event in events):
        return
    lines = [line for source in student.cells.values() for line in source.splitlines()]
    outside = [line for line in lines if re.search(r"\bsched\w*\.update\(|\bopt\w*\.update\(", line)]
    require(outside, "neither train nor any other cell calls the schedule's update()")


@check(NAME, "1e", "schedule")
def the_schedule_warms_up_and_then_falls(student: Student) -> None:
    student.ask("probe", kind="RNN", args=[*SIZES, 0.0], shape=[CLASSES], batches=[], count=0)
    try:
        student.ask("build", key="scheduler", kind="ScheduledOptim", args=[Ref("optimizer"), 4, 0.5])
    except (Wrong, Open, Died):
        student.grade.remark("ScheduledOptim, which the skeleton hands out, is not there or cannot be built")
        return
    rates = []
    for _ in range(8):
        student.call("scheduler.update")
        rates.append(float(student.call("scheduler.get_lr")["value"]))
    shown = ", ".join(f"{rate:.3g}" for rate in rates)
    peak = rates.index(max(rates))
    rises = peak >= 2 and all(a <= b for a, b in itertools.pairwise(rates[: peak + 1]))
    falls = all(0 < b <= a for a, b in itertools.pairwise(rates[peak:])) and rates[-1] < rates[peak]
    require(
        rises and falls, f"with 4 steps of warm-up to 0.05, the rates are {shown}: expected a rise and then a decay"
    )
