"""Homework 4-2: the translation model by what the whole of it does.

The assignment leaves open what encoder and decoder take and return, so attention is recognized by its numbers: some
operation of the decoder is given the sum of the encoder's states, weighted by the softmax of their dot products with
a state of the decoder.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from grader.rules import RULES, call_violations, module_violations
from grader.student import Model, Student, Wrong, check, is_close, require, tensor
from grader.wire import Ref

NAME = "hw4_seq2seq"
SOS, EOS, WIDTH = 0, 1, 10  # the course pads every sentence to ten tokens
USES = {  # operations that do something with what they are given
    "linear",
    "lstm",
    "lstm_cell",
    "addmm",
    "matmul",
    "__matmul__",
    "mm",
    "bmm",
    "einsum",
    "baddbmm",
    "tanh",
    "add",
    "__add__",
}


class Setting:
    """Sizes and sentences that fit the notebook, found once."""

    def __init__(self, student: Student):
        facts = student.ask("facts")
        langs = facts["langs"]

        def lang(*words: str) -> list:
            return next((langs[name] for name in langs if any(w in name.lower() for w in words)), [14, None])

        (self.inputs, pad_in), (self.outputs, pad_out) = (
            lang("input", "src", "source", "fra"),
            lang("output", "trg", "target", "eng"),
        )
        known = facts.get("pad")
        self.pad_in = next(p for p in (pad_in, known, self.inputs - 1) if p is not None)
        self.pad_out = next(p for p in (pad_out, known, self.outputs - 1) if p is not None)
        self.inputs, self.outputs = max(self.inputs, self.pad_in + 1, 8), max(self.outputs, self.pad_out + 1, 8)
        own = (facts.get("emb_dim", 256), facts.get("hid_dim", 256))
        self.widths, self.emb, self.hid = [(6, 8), own], 6, 8

    def sentence(self, words: int, size: int, pad: int) -> list[int]:
        """SOS, so many different words, EOS, and padding."""
        choice = [i for i in range(2, size) if i != pad]
        picked = [choice[int(i) % len(choice)] for i in torch.randperm(max(len(choice), words))[:words]]
        return [SOS, *picked, EOS, *[pad] * (WIDTH - words - 2)]

    def batch(self, words: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        src = [self.sentence(n, self.inputs, self.pad_in) for n in words]
        trg = [self.sentence(n, self.outputs, self.pad_out) for n in words]
        return torch.tensor(src), torch.tensor(trg)


def build(student: Student, setting: Setting, dtype: torch.dtype, dropout: float = 0.5) -> Model:
    std = 0.5 if setting.hid < 50 else 2 / math.sqrt(setting.hid)
    args = [setting.inputs, setting.outputs, setting.emb, setting.hid, "cpu", dropout]
    return student.model("model", "LSTMSeq2Seq", args, None, std, dtype)


def translator(student: Student) -> tuple[Setting, Model]:
    """A model with random parameters; small if the notebook's code allows it, else of its own width."""
    setting = Setting(student)
    batch = setting.batch((8, 8))
    for emb, hid in setting.widths:
        setting.emb, setting.hid = emb, hid
        try:
            model, _ = student.in_best_precision(
                lambda dtype: build(student, setting, dtype), lambda _: student.call("model", *batch)
            )
            return setting, model
        except Wrong as error:
            problem = error
    raise problem


def output_of(student: Student, setting: Setting, src: Tensor, trg: Tensor, **options) -> tuple[Tensor, dict]:
    answer = student.call("model", src, trg, **options)
    value = answer["value"][0] if isinstance(answer["value"], list) and answer["value"] else answer["value"]
    out = tensor(value, f"forward returned a {answer['type'][0]}, expected a tensor (B, out_dim, T)")
    shape = (len(src), setting.outputs, trg.shape[1])
    require(out.shape == shape, f"forward returned shape {tuple(out.shape)}, expected {shape}")
    return out, answer


def log_probabilities(student: Student, out: Tensor) -> tuple[Tensor, list[int]]:
    """The output as log-probabilities, and the columns that hold a prediction; the others are zero."""
    columns = [t for t in range(out.shape[2]) if out[:, :, t].any()]
    require(
        len(columns) >= out.shape[2] - 1,
        f"{out.shape[2] - len(columns)} columns of the output are zero, expected one at most",
    )
    filled = out[:, :, columns].double()
    if is_close(filled.exp().sum(1), torch.ones_like(filled[:, 0]), 1e-3):
        return out, columns
    require(
        not (filled.min() >= 0 and is_close(filled.sum(1), torch.ones_like(filled[:, 0]), 1e-3)),
        "the output holds probabilities, expected log-probabilities (or logits with CrossEntropyLoss)",
    )
    require(
        any("CrossEntropyLoss" in source or "cross_entropy" in source for source in student.cells.values()),
        "the output holds no log-probabilities: their exponentials do not sum to 1",
    )
    student.grade.remark("the model returns logits, and CrossEntropyLoss normalizes them")
    return out.log_softmax(1), columns


# ------------------------------------------------------------------------------------ 2(a)


def calls_of(steps: list, kind: str) -> list[dict]:
    """What every call of a module of this class (outermost, by the model's attribute) was given, did and returned."""
    found, open_at = [], None
    for i, (step, label, inputs, outputs) in enumerate(steps):
        name = label.partition(":")[2]
        if step == "enter" and name == kind:
            open_at = (i, inputs)
        elif step == "exit" and name == kind and open_at is not None:
            found.append({"given": open_at[1], "steps": steps[open_at[0] + 1 : i], "returned": outputs})
            open_at = None
    return found


def encoder_states(encodings: list[dict], batch: int, hid: int) -> list[Tensor]:
    """The encoder's states of all source words, ``(B, S, H)``, in whatever layout it returned them."""
    found = []
    for call in encodings:
        for out in call["returned"]:
            if out.dim() == 3 and out.shape[2] == hid:
                found += [out] * (out.shape[:2] == (batch, WIDTH)) + [out.transpose(0, 1)] * (
                    out.shape[:2] == (WIDTH, batch)
                )
    for steps in (encodings, encodings[1:]):
        if len(steps) >= WIDTH - 1:  # one call for every word
            for k in range(min(len(call["returned"]) for call in steps)):
                states = [call["returned"][k] for call in steps]
                if all(state.numel() == batch * hid for state in states):
                    found.append(torch.stack([state.reshape(batch, hid) for state in states], 1))
    return found


def context_is_used(call: dict, states: Tensor, hid: int, rows: list[int], scale: float) -> bool:
    """Whether some operation of one decoder call reads softmax(states query) states, for some query of that call."""
    batch = len(states)
    tensors = [*call["given"], *(t for step in call["steps"] for t in (*step[2], *step[3]))]
    queries = [t.reshape(batch, hid) for t in tensors if t.is_floating_point() and t.numel() == batch * hid]
    queries = [q for q in queries if q.abs().amax() > 1e-6]  # attention that asks for nothing is none
    queries = torch.stack(queries[:60]).double() if queries else torch.zeros(0, batch, hid).double()
    weights = (torch.einsum("qbh,bsh->qbs", queries, states) * scale).softmax(2)
    contexts = torch.einsum("qbs,bsh->qbh", weights, states)[:, rows]
    atol = 1e-7 if all(t.dtype == torch.float64 for t in tensors if t.is_floating_point()) else 1e-3
    for step, name, inputs, _ in call["steps"]:
        if step != "op" or name not in USES:
            continue
        for t in inputs:
            if t.is_floating_point() and t.numel() % batch == 0 and hid <= t.numel() // batch <= 6 * hid + 64:
                windows = t.reshape(batch, -1)[rows].double().unfold(1, hid, 1)  # (rows, places, H)
                if ((windows.unsqueeze(0) - contexts.unsqueeze(2)).abs().amax(3).amax(1) < atol).any():
                    return True
    return False


@check(NAME, "2a")
def encoder_reads_the_sentence_with_an_lstm(student: Student) -> None:
    setting, model = translator(student)
    require(model.of_class("LSTMEncoder"), "the model holds no LSTMEncoder")
    src, trg = setting.batch((8, 8))
    answer = student.call("model", src, trg, trace=True)
    encodings = calls_of(answer["trace"], "LSTMEncoder")
    require(encodings, "the model never calls its encoder")
    names = {name for call in encodings for step, name, _, _ in call["steps"] if step == "op"}
    require(
        names & {"lstm", "lstm_cell"}, "no LSTM layer runs in the encoder (one written by hand needs a person to look)"
    )
    if states := encoder_states(encodings, 2, setting.hid):
        changed = src.clone()
        changed[0, 1] = src[0, 2]
        other = student.call("model", changed, trg, trace=True)
        again = encoder_states(calls_of(other["trace"], "LSTMEncoder"), 2, setting.hid)
        require(
            not is_close(states[0][0, -1], again[0][0, -1], 1e-9),
            "the encoder's last state knows nothing of the first word",
        )


@check(NAME, "2a")
def decoder_attends_to_the_encoders_states_by_dot_product(student: Student) -> None:
    setting, model = translator(student)
    src, trg = setting.batch((8, 8, 4))
    rows, hid = [0, 1], setting.hid  # the full sentences, so that masks of padding make no difference
    steps, found = student.call("model", src, trg, trace=True)["trace"], []
    decodings = calls_of(steps, "AttnLSTMDecoder")
    states = encoder_states(calls_of(steps, "LSTMEncoder"), 3, hid)
    if not decodings:  # the model decodes all words at once: judge one step of the decoder alone
        args = [setting.emb, hid, setting.outputs, 0.0, torch.randn(3, WIDTH, hid).to(model.dtype)]
        student.model("decoder", "AttnLSTMDecoder", args, None, 0.5, model.dtype)
        hidden, cell = torch.randn(2, 1, 3, hid).to(model.dtype)
        steps = student.call("decoder", trg[:, 1:2], hidden, cell, trace=True)["trace"]
        decodings, states = calls_of(steps, "AttnLSTMDecoder"), [args[-1]]
    require(decodings, "the model never calls its decoder")
    names = {name for call in decodings for step, name, _, _ in call["steps"] if step == "op"}
    require(
        names & {"lstm", "lstm_cell"}, "no LSTM layer runs in the decoder (one written by hand needs a person to look)"
    )
    require(states, f"the encoder returned no states of all {WIDTH} source words")
    for scale in (1.0, 1 / math.sqrt(hid)):
        found = [
            any(context_is_used(call, candidate.double(), hid, rows, scale) for candidate in states)
            for call in decodings[1:3] or decodings
        ]
        if all(found):
            if scale != 1:
                student.grade.remark("attention's scores are scaled by 1 / sqrt(hid_dim)")
            return
    raise Wrong(
        "the decoder uses no sum of the encoder's states weighted by the softmax of their dot products with its state"
    )


@check(NAME, "2a")
def decoder_reads_the_word_that_it_is_given(student: Student) -> None:
    setting, _ = translator(student)
    steps = student.call("model", *setting.batch((8, 8)), trace=True)["trace"]
    calls = calls_of(steps, "AttnLSTMDecoder")
    if not calls:
        return  # 2(b) tells
    given = calls[-1]["given"]
    words = [i for i, t in enumerate(given) if not t.is_floating_point() and t.numel() == 2]
    if len(words) != 1:
        return  # 2(b) tells
    changed = list(given)
    others = [i for i in range(2, setting.outputs) if i != setting.pad_out and i not in changed[words[0]]]
    changed[words[0]] = torch.full_like(changed[words[0]], others[0])
    try:
        before, after = (student.call("model.decoder", *tensors)["value"] for tensors in (given, changed))
    except Wrong:
        return  # it takes what it is given in another way
    floats = [(a, b) for a, b in zip(before, after, strict=True) if isinstance(a, Tensor) and a.is_floating_point()]
    require(any(not is_close(a, b, 1e-9) for a, b in floats), "another word makes no difference to the decoder")


@check(NAME, "2a")
@check(NAME, "2b")
def no_ready_made_attention_is_used(student: Student) -> None:
    found = [what for what, _ in student.rules]
    require(not found, "; ".join(found[:3]))
    setting, model = translator(student)
    found = module_violations([module[:3] for module in model.modules], RULES[NAME])
    names = student.call("model", *setting.batch((8, 8)), trace=True)["names"]
    found += [f"{name} is called" for name in call_violations(names, RULES[NAME])]
    require(not found, "; ".join(found[:3]))


# ------------------------------------------------------------------------------------ 2(b)


@check(NAME, "2b")
def output_is_a_distribution_for_every_word(student: Student) -> None:
    setting, _ = translator(student)
    src, trg = setting.batch((8, 8, 3))
    out, _ = output_of(student, setting, src, trg)
    log_probabilities(student, out)
    require(
        is_close(out, output_of(student, setting, src, trg)[0], 0.0), "two evaluations of the same sentences differ"
    )
    wide = torch.cat([src, torch.full((3, 2), setting.pad_in)], 1)
    try:
        if not is_close(output_of(student, setting, wide, trg)[0], out):
            student.grade.remark("padding behind a source sentence changes the output (no padding mask in attention)")
    except Wrong:
        student.grade.remark("source sentences longer than ten tokens are not supported")


@check(NAME, "2b")
def every_word_depends_on_earlier_words_and_the_source_alone(student: Student) -> None:
    setting, _ = translator(student)
    src, trg = setting.batch((8, 8, 5))
    out, _ = output_of(student, setting, src, trg)
    _, columns = log_probabilities(student, out)
    changed = trg.clone()
    changed[0, 4] = trg[0, 5]
    after, _ = output_of(student, setting, src, changed)
    moved = [
        t
        for t in range(WIDTH)
        if not is_close(out[0, :, t], after[0, :, t], 1e-7 if out.dtype == torch.float64 else 1e-5)
    ]
    if not moved:
        student.grade.remark("forward does not read the reference translation: it is fed with its own predictions")
    else:
        expected = 4 if 0 in columns else 5  # outputs may be stored one place earlier, over SOS
        require(
            moved[0] >= expected, "a word is predicted from itself: a change of trg[:, 4] changes the output for it"
        )
        if expected == 4:
            student.grade.remark("column 0 of the output is no zero column: outputs are read as stored at t - 1")
        early = trg.clone()
        early[0, 1] = trg[0, 2]
        last = max(columns) if 0 not in columns else WIDTH - 2
        later, _ = output_of(student, setting, src, early)
        require(
            not is_close(out[0, :, last], later[0, :, last], 1e-9),
            "earlier words of the translation are forgotten: no state is carried",
        )
    require(is_close(out[1:], after[1:]), "a sentence's result depends on the other sentences of its batch")
    for place in (1, 4, 7):
        changed = src.clone()
        changed[0, place] = next(i for i in range(2, setting.inputs) if i not in (int(src[0, place]), setting.pad_in))
        after, _ = output_of(student, setting, changed, trg)
        require(
            not is_close(out[0], after[0], 1e-7 if out.dtype == torch.float64 else 1e-6),
            f"word {place} of the source does not matter",
        )
        require(is_close(out[1:], after[1:]), "a sentence's result depends on the other sentences of its batch")


@check(NAME, "2b")
def gradients_reach_encoder_and_decoder(student: Student) -> None:
    setting, _ = translator(student)
    src, trg = setting.batch((8, 8, 3))
    pull = torch.zeros(3, setting.outputs, WIDTH)
    pull[:, :, 2:9] = torch.randn(3, setting.outputs, 7)
    answer = student.call("model", src, trg, pull=pull)
    idle = [name for name, gradient in answer["gradients"].items() if not gradient.abs().max() > 0]
    for part in ("encoder", "decoder"):
        named = [name for name in answer["gradients"] if part in name.lower()]
        require(not named or set(named) - set(idle), f"no gradient reaches the {part}")
    if idle:
        student.grade.remark(f"no gradient reaches {', '.join(idle[:4])}")


# ------------------------------------------------------------------------------------ 2(c)


def trainer(student: Student, dropout: float = 0.0) -> tuple[Setting, list, str]:
    """A model as the notebook makes it, with a loader, and the loss function that the notebook uses."""
    setting = Setting(student)
    setting.emb, setting.hid = 16, 32
    args = [setting.inputs, setting.outputs, 16, 32, "cpu", dropout]
    try:
        student.model("model", "LSTMSeq2Seq", args, dtype=torch.float32)
        student.call("model", *setting.batch((8, 8)))
    except Wrong:
        setting.emb, setting.hid = args[2:4] = setting.widths[1]
        student.model("model", "LSTMSeq2Seq", args, dtype=torch.float32)
    batches = [list(setting.batch(words)) for words in ((8, 5, 3), (4,))]
    student.ask("make", key="loader", kind="loader", batches=batches, count=4)
    text = "\n".join(student.cells.values())
    loss = "CrossEntropyLoss" if "CrossEntropyLoss" in text and "NLLLoss" not in text else "NLLLoss"
    student.ask("make", key="loss", kind="loss", name=loss, ignore=setting.pad_out)
    return setting, batches, loss


def first_number(value: object, what: str) -> float:
    while isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    require(isinstance(value, int | float) and math.isfinite(value), f"{what} returned no number")
    return float(value)


@check(NAME, "2c")
def evaluate_returns_the_loss_and_changes_nothing(student: Student) -> None:
    setting, batches, loss = trainer(student, dropout=0.3)
    before = student.ask("parameters", key="model")
    found = first_number(student.call("evaluate", *map(Ref, ("model", "loader", "loss")))["value"], "evaluate")
    again = first_number(student.call("evaluate", *map(Ref, ("model", "loader", "loss")))["value"], "evaluate")
    require(math.isclose(found, again, rel_tol=1e-5), f"evaluate returned {found:.4f} and then {again:.4f}")
    after = student.ask("parameters", key="model")
    require(all(torch.equal(before[name], after[name]) for name in before), "evaluate changes the parameters")
    student.ask("set", key="model", values=None, dtype="float32", training=False)
    expected: set[float] = set()
    outs = [output_of(student, setting, *batch)[0] for batch in batches]
    for skip_out, skip_trg in ((0, 0), (1, 1), (0, 1)):  # all columns; without SOS; outputs stored at t - 1
        totals = []
        for out, (_, trg) in zip(outs, batches, strict=True):
            out, trg = out[:, :, skip_out : WIDTH - (skip_trg - skip_out)], trg[:, skip_trg:]
            scores = out.log_softmax(1) if loss == "CrossEntropyLoss" else out
            total = F.nll_loss(scores, trg, ignore_index=setting.pad_out, reduction="sum").item()
            totals.append(
                (total, int((trg != setting.pad_out).sum()), int((trg[:, 1:] != setting.pad_out).sum()), len(trg))
            )
        means = [(t / n, n, k, b) for t, n, k, b in totals]
        expected.add(sum(m for m, *_ in means) / len(means))
        for weight in (1, 2, 3):  # over tokens with and without SOS, over sentences
            expected.add(sum(row[0] * row[weight] for row in means) / sum(row[weight] for row in means))
    if any(math.isclose(found, value, rel_tol=2e-3) for value in expected):
        return
    require(
        any(math.isclose(found, math.exp(value), rel_tol=2e-3) for value in expected),
        f"evaluate returned {found:.4f}, expected the mean loss ({min(expected):.4f} to {max(expected):.4f}, "
        "by what is counted)",
    )
    student.grade.remark("evaluate returns the perplexity, not the loss")


@check(NAME, "2c")
def train_clips_the_gradients(student: Student) -> None:
    trainer(student)
    before = student.ask("parameters", key="model")
    student.ask("make", key="optimizer", kind="optimizer", model="model", name="SGD", lr=1.0)
    student.call("train", *map(Ref, ("model", "loader", "optimizer", "loss")), 0.01)
    after = student.ask("parameters", key="model")
    moved = math.sqrt(sum((after[name] - before[name]).double().square().sum().item() for name in before))
    require(moved > 0, "train changes no parameter")
    problem = f"with clip = 0.01 and a rate of 1, two steps moved the parameters by {moved:.3g}, expected at most 0.02"
    require(moved <= 2 * 0.01 * 1.01, problem)


@check(NAME, "2c")
def train_learns_four_sentences(student: Student) -> None:
    setting, batches, _ = trainer(student)
    student.ask(
        "make", key="optimizer", kind="optimizer", model="model", name="Adam", lr=0.02 if setting.hid < 100 else 0.002
    )
    for _ in range(4):
        losses = student.call("train", *map(Ref, ("model", "loader", "optimizer", "loss")), 1.0, times=40)["values"]
        first_number(losses[-1], "train")
        student.ask("set", key="model", values=None, dtype="float32", training=False)
        total = count = 0.0
        for src, trg in batches:
            out, columns = log_probabilities(student, output_of(student, setting, src, trg)[0])
            out = out.log_softmax(1)
            shifted = 0 in columns and not is_close(out[:, :, 0], torch.zeros_like(out[:, :, 0]))
            out = out[:, :, : WIDTH - 1] if shifted else out[:, :, 1:]
            total += F.nll_loss(out, trg[:, 1:], ignore_index=setting.pad_out, reduction="sum").item()
            count += int((trg[:, 1:] != setting.pad_out).sum())
        perplexity = math.exp(min(total / count, 50))
        if perplexity < 1.5:
            return
    raise Wrong(f"four sentences seen 160 times have a perplexity of {perplexity:.3g}, expected below 1.5")
