"""Homework 4-2: the translation model by what the whole of it does; encoder and decoder alone where the whole fails.

The assignment leaves open what encoder and decoder take and return, so attention is recognized by its numbers and then
by intervention: some function gives softmax(states . query) states for a query of the decoder, and disturbing what it
gives changes the output.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from grader.rules import RULES, violations
from grader.runner import Died, Open, Student, Wrong, check, is_close, require, straight_steps, tensor
from grader.wire import Ref

NAME = "hw4_seq2seq"
SOS, EOS, WIDTH = 0, 1, 10  # the course pads every sentence to ten tokens
LSTM = {"lstm", "lstm_cell"}


class Setting:
    """Sizes and sentences that fit the notebook, found once."""

    def __init__(self, student: Student):
        facts = student.ask("facts")
        langs = facts["langs"]

        def lang(*words: str) -> list:
            return next((langs[name] for name in langs if any(w in name.lower() for w in words)), [14, None])

        source, target = lang("input", "src", "source", "fra"), lang("output", "trg", "target", "eng")
        (self.inputs, pad_in), (self.outputs, pad_out) = source, target
        known = facts.get("pad")
        self.pad_in = next(p for p in (pad_in, known, self.inputs - 1) if p is not None)
        self.pad_out = next(p for p in (pad_out, known, self.outputs - 1) if p is not None)
        self.inputs, self.outputs = max(self.inputs, self.pad_in + 1, 14), max(self.outputs, self.pad_out + 1, 14)
        self.widths = [(6, 8), (facts.get("emb_dim", 256), facts.get("hid_dim", 256))]
        self.emb, self.hid = self.widths[0]

    def sentence(self, words: int, size: int, pad: int) -> list[int]:
        """SOS, so many different words, EOS, and padding."""
        choice = [i for i in range(2, size) if i != pad]
        picked = [choice[int(i)] for i in torch.randperm(len(choice))[:words]]
        return [SOS, *picked, EOS, *[pad] * (WIDTH - words - 2)]

    def batch(self, words: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        src = [self.sentence(n, self.inputs, self.pad_in) for n in words]
        trg = [self.sentence(n, self.outputs, self.pad_out) for n in words]
        return torch.tensor(src), torch.tensor(trg)

    def std(self) -> float:
        return 0.5 if self.hid < 50 else 2 / math.sqrt(self.hid)

    def other(self, word: Tensor, size: int, pad: int) -> int:
        return next(i for i in range(2, size) if i not in (int(word), pad))


def translator(student: Student) -> Setting:
    """Build a model with random parameters; small if the notebook's code allows it, else of its own width."""
    setting, problem = Setting(student), None
    batch = setting.batch((8, 8))
    for emb, hid in setting.widths:
        setting.emb, setting.hid = emb, hid
        args = [setting.inputs, setting.outputs, emb, hid, "cpu", 0.5]
        try:
            student.in_best_precision(
                lambda dtype, args=args: student.model("model", "LSTMSeq2Seq", args, None, setting.std(), dtype),
                lambda _: student.call("model", *batch),
            )
            return setting
        except Wrong as error:
            problem = error
    raise problem


def output_of(student: Student, setting: Setting, src: Tensor, trg: Tensor, **options) -> tuple[Tensor, dict]:
    answer = student.call("model", src, trg, **options)
    value = answer["value"][0] if isinstance(answer["value"], list) and answer["value"] else answer["value"]
    out = tensor(value, f"forward returned a {answer['type'][0]}, expected a tensor (B, out_dim, T)")
    shape, found = (len(src), setting.outputs, trg.shape[1]), tuple(out.shape)
    require(found == shape, f"forward returned shape {found}, expected {shape}")
    return out, answer


def fine(out: Tensor) -> float:
    """A difference that is none."""
    return 1e-7 if out.dtype == torch.float64 else 2e-5


# ------------------------------------------------------------------------------------ 2(a): attention


def module_calls(steps: list, names: list[str]) -> list[dict]:
    """What every call of these modules was given, did and returned."""
    found, begin = [], None
    for i, (step, name, inputs, outputs) in enumerate(steps):
        if step == "enter" and name in names and begin is None:
            begin = i
        elif step == "exit" and begin is not None and name == steps[begin][1]:
            found.append({"given": inputs, "steps": steps[begin + 1 : i], "returned": outputs})
            begin = None
    return found


def state_candidates(calls: list[dict], batch: int, hid: int) -> list[Tensor]:
    """The encoder's states of all source words, ``(B, S, H)``, in whatever layout it returned them."""
    found = []
    for call in calls:
        for out in call["returned"]:
            if out.dim() == 3 and out.shape[2] == hid and WIDTH in out.shape[:2]:
                found += [out] if out.shape[:2] == (batch, WIDTH) else [out.transpose(0, 1)]
    for words in (calls, calls[1:]):
        if len(words) >= WIDTH - 1:  # one call for every word
            for k in range(min(len(call["returned"]) for call in words)):
                states = [call["returned"][k] for call in words]
                if all(state.numel() == batch * hid for state in states):
                    found.append(torch.stack([state.reshape(batch, hid) for state in states], 1))
    return [states.double() for states in found if states.shape[0] == batch]


def rows_of(t: Tensor, batch: int, hid: int) -> list[Tensor]:
    """A tensor as states ``(B, K, H)`` of K steps, in each layout that fits."""
    t = t.double()
    if t.numel() == batch * hid:
        return [t.reshape(batch, 1, hid)]
    if t.dim() != 3 or t.numel() % (batch * hid):
        return []
    layouts = [t, t.transpose(0, 1), t.transpose(1, 2)]
    return [x for x in layouts if x.shape[0] == batch and x.shape[2] == hid and x.shape[1] <= WIDTH]


@dataclass
class Attended:
    """A function that gave a context, and by which reading of dot-product attention."""

    place: int
    way: str
    softmax_over: str


WAYS = (("", 1.0), ("attention's scores are scaled by 1 / sqrt(hid_dim)", None))


def contexts(query: Tensor, states: Tensor) -> Iterator[tuple[str, str, Tensor]]:
    """What attention may give for queries ``(Q, B, K, H)``: right, and in ways that are wrong."""
    for way, scale in WAYS:
        scores = torch.einsum("qbkh,bsh->qbks", query, states) * (scale or states.shape[2] ** -0.5)
        yield way, "", torch.einsum("qbks,bsh->qbkh", scores.softmax(3), states)
        if not way:
            yield way, "sentences", torch.einsum("qbks,bsh->qbkh", scores.softmax(1), states)
            yield way, "nothing", torch.einsum("qbks,bsh->qbkh", scores, states)


def find_attention(steps: list, given: list[Tensor], states: list[Tensor], batch: int, hid: int) -> list[Attended]:
    """Every function whose result is a context, among the steps; the first two sentences are full, so a mask of
    padding makes no difference to them."""
    tensors = [*given, *(t for _, _, inputs, outputs in steps for t in (*inputs, *outputs))]
    results = [(int(name.split()[0]), t) for step, name, _, outputs in steps if step == "op" for t in outputs]
    found: list[Attended] = []
    for K in range(1, WIDTH + 1):
        queries = [r for t in tensors if t.is_floating_point() for r in rows_of(t, batch, hid) if r.shape[1] == K]
        queries = [q for q in queries if q.abs().amax() > 1e-6]  # attention that asks for nothing is none
        outs = [(place, r[:2]) for place, t in results for r in rows_of(t, batch, hid) if r.shape[1] == K]
        if not queries or not outs:
            continue
        unique = torch.unique(torch.stack(queries).flatten(1), dim=0).view(-1, batch, K, hid)[:200]
        for candidate in states:
            for way, softmax_over, context in contexts(unique, candidate):
                flat = context[:, :2].flatten(1)
                close = torch.cdist(torch.stack([o.flatten() for _, o in outs]), flat, p=float("inf")).amin(1)
                atol = 1e-7 if all(t.dtype != torch.float32 for t in tensors) else 1e-3
                found += [
                    Attended(place, way, softmax_over) for (place, _), distance in zip(outs, close) if distance < atol
                ]
    return found


def judge_attention(student: Student, rerun, out: Tensor, steps: list, given: list, states: list, sizes: tuple) -> None:
    """``rerun(disturb)`` calls again what gave ``out``, with these functions' results disturbed."""
    found = find_attention(steps, given, states, *sizes)
    right = [a for a in found if not a.softmax_over]
    if right:
        moved = rerun([a.place for a in right])
        require(not is_close(moved, out, fine(out)), "attention is computed, and what it gives is thrown away")
        for way in {a.way for a in right} - {""}:
            if all(a.way for a in right):
                student.grade.remark(way)
        return
    for wrong, what in (
        ("sentences", "the softmax runs over the sentences of the batch, not over the source words"),
        ("nothing", "the scores are not normalized by a softmax"),
    ):
        require(not any(a.softmax_over == wrong for a in found), what)
    for candidate in states:  # weights that ask for nothing
        mean = candidate.mean(1, keepdim=True)[:2]
        results = [
            r for s, _, _, outs in steps if s == "op" for t in outs for r in rows_of(t, *sizes) if r.shape[1] == 1
        ]
        same = any(is_close(result[:2], mean, 1e-4) for result in results)
        require(not same, "every source word has the same weight: the scores do not depend on the decoder's state")
    raise Open("no sum of the encoder's states, weighted by the softmax of dot products with a state of the decoder")


def whole(student: Student) -> tuple[Setting, Tensor, Tensor, Tensor, list, list[dict], list[dict]]:
    """A traced call of the whole model: setting, batch, output, steps, and its encoder's and decoder's calls."""
    setting = translator(student)
    src, trg = setting.batch((8, 8, 4))
    out, answer = output_of(student, setting, src, trg, trace=True)
    modules = student.ask("describe", key="model")["modules"]
    encoders, decoders = (
        [name for name, bases in modules.items() if kind in bases] for kind in ("LSTMEncoder", "AttnLSTMDecoder")
    )
    steps = answer["trace"]
    return setting, src, trg, out, steps, module_calls(steps, encoders), module_calls(steps, decoders)


def first_fit(student: Student, key: str, choices: list[list]) -> tuple[list, dict]:
    """The first arguments that the module can be called with, and the traced answer."""
    problem: Exception = Open("nothing fits")
    for args in choices:
        try:
            return args, student.call(key, *args, trace=True)
        except (Wrong, Open) as error:
            problem = error
    raise Open(f"2(b) fails, and {key} alone cannot be called in any way that the grader knows ({problem})")


def decoder_alone(student: Student, setting: Setting) -> tuple[list, dict, list[Tensor], list[Tensor]]:
    """One step of the decoder without the rest: its arguments, answer, the tensors it returned, its states."""
    B, H = 3, setting.hid
    states = torch.randn(B, WIDTH, H)
    args = [setting.emb, H, setting.outputs, 0.0, states]
    student.model("decoder", "AttnLSTMDecoder", args, None, 0.5, torch.float32)
    hidden, cell, word = torch.randn(1, B, H), torch.randn(1, B, H), torch.randint(2, setting.outputs, (B, 1))
    turned = (hidden.transpose(0, 1), cell.transpose(0, 1))
    ways = [[w, *s] for w in (word, word[:, 0]) for s in ((hidden, cell), turned)]
    ways += [[w, hidden, cell, states] for w in (word, word[:, 0])]
    args, answer = first_fit(student, "decoder", ways)
    return args, answer, floats(answer["value"]), [states.double()]


def encoder_alone(student: Student, setting: Setting) -> tuple[list, dict]:
    args = [setting.inputs, setting.emb, setting.hid]
    student.model("encoder", "LSTMEncoder", args, None, 0.5, torch.float32)
    src, _ = setting.batch((8, 8, 8))
    zero = torch.zeros(1, 3, setting.hid)
    length = torch.full((3,), WIDTH)
    ways = [[src], [src, length], [src, zero, zero], [src[:, 1], zero, zero], [src[:, 1:2], zero, zero]]
    return first_fit(student, "encoder", ways)


def floats(value: object) -> list[Tensor]:
    values = value if isinstance(value, list) else [value]
    flat = [v for item in values for v in (item if isinstance(item, list) else [item])]
    return [v for v in flat if isinstance(v, Tensor) and v.is_floating_point()]


def functions(calls: list[dict]) -> set[str]:
    """The names of the functions that ran within modules' calls."""
    return {name.split()[1] for call in calls for step, name, _, _ in call["steps"] if step == "op"}


def require_lstm(names: set[str], who: str) -> None:
    if not names & LSTM:
        raise Open(f"no LSTM layer runs in the {who}: one written by hand needs a person to look")


@check(NAME, "2a", "encoder")
def encoder_reads_the_sentence_with_an_lstm(student: Student) -> None:
    try:
        setting, src, trg, _, _, calls, _ = whole(student)
    except (Wrong, Open):
        calls = []
    if calls:
        before = state_candidates(calls, 3, setting.hid)
        last = calls[-1]["returned"]
        changed = src.clone()
        changed[0, 1] = setting.other(src[0, 1], setting.inputs, setting.pad_in)
        answer = student.call("model", changed, trg, trace=True)
        modules = student.ask("describe", key="model")["modules"]
        encoders = [name for name, bases in modules.items() if "LSTMEncoder" in bases]
        again = module_calls(answer["trace"], encoders)
        after = state_candidates(again, 3, setting.hid)
        pairs = [(a[0, 8], b[0, 8]) for a, b in zip(before, after)] or list(zip(last, again[-1]["returned"]))
        known = any(not is_close(a, b, 1e-9) for a, b in pairs if a.is_floating_point())
        names = functions(calls)
    else:
        setting = Setting(student)
        args, answer = encoder_alone(student, setting)
        names = set(answer["names"])
        word = args[0].clone()
        word[(0, 1) if word.dim() == 2 and word.shape[1] > 1 else 0] = setting.other(
            args[0].flatten()[1], setting.inputs, setting.pad_in
        )
        after = floats(student.call("encoder", word, *args[1:])["value"])
        known = any(not is_close(a, b, 1e-9) for a, b in zip(floats(answer["value"]), after))
    require(known, "what the encoder returns last knows nothing of the first word")
    require_lstm(names, "encoder")


@check(NAME, "2a", "attention")
def decoder_attends_to_the_encoders_states_by_dot_product(student: Student) -> None:
    try:
        setting, src, trg, out, steps, encodings, decodings = whole(student)
        if not (encodings and decodings):
            raise Open("2(b) does not call both modules")
    except (Wrong, Open):
        setting = Setting(student)
        args, answer, returned, states = decoder_alone(student, setting)

        def again(disturb: list[int]) -> Tensor:
            moved = floats(student.call("decoder", *args, disturb=disturb, trace=True)["value"])
            return torch.cat([t.flatten() for t in moved])

        first = torch.cat([t.flatten() for t in returned])
        floating = [a for a in args if a.is_floating_point()]
        judge_attention(student, again, first, answer["trace"], floating, states, (3, setting.hid))
        return

    def rerun(disturb: list[int]) -> Tensor:
        return output_of(student, setting, src, trg, trace=True, disturb=disturb)[0]

    states = state_candidates(encodings, 3, setting.hid)
    if not states:
        raise Open(f"the encoder returned no states of all {WIDTH} source words")
    inside = [step for call in decodings for step in call["steps"]]
    given = [t for call in decodings for t in call["given"] if t.is_floating_point()]
    places = find_attention(inside, given, states, 3, setting.hid)
    judged = inside if any(not a.softmax_over for a in places) else steps  # it may stand in the model itself
    judge_attention(student, rerun, out, judged, given, states, (3, setting.hid))


@check(NAME, "2a", "decoder")
def decoder_reads_the_word_that_it_is_given(student: Student) -> None:
    try:
        setting, _, _, _, _, _, calls = whole(student)
        given, path = calls[-1]["given"], "model.decoder"
        words = [i for i, t in enumerate(given) if not t.is_floating_point()]
        before = floats(student.call(path, *given)["value"])
        names = functions(calls)
    except (Wrong, Open, IndexError):
        setting = Setting(student)
        given, answer, before, _ = decoder_alone(student, setting)
        path, words, names = "decoder", [0], set(answer["names"])
    if len(words) != 1:
        raise Open("the grader cannot tell which argument of the decoder is the word")
    changed = [t.clone() for t in given]
    word = setting.other(changed[words[0]].flatten()[0], setting.outputs, setting.pad_out)
    changed[words[0]].fill_(word)
    after = floats(student.call(path, *changed)["value"])
    require(
        any(not is_close(a, b, 1e-9) for a, b in zip(before, after)), "another word makes no difference to the decoder"
    )
    state = [t * 0.5 if t.is_floating_point() and t.shape[-1] == setting.hid else t for t in given]
    after = floats(student.call(path, *state)["value"])
    require(any(not is_close(a, b, 1e-9) for a, b in zip(before, after)), "the decoder ignores the state before")
    require_lstm(names, "decoder")


@check(NAME, "2a", "encoder", "attention", "decoder")
@check(NAME, "2b", "a prediction for every word", "from the source", "from earlier words alone")
def no_ready_made_attention_is_built_or_called(student: Student) -> None:
    try:
        setting = translator(student)
        names = student.call("model", *setting.batch((8, 8)))["names"]
    except (Wrong, Open, Died):
        return  # it does not run: judged elsewhere
    found = violations(RULES[NAME], student.ask("layers", key="model"), names)
    require(not found, "; ".join(found[:3]))


# ------------------------------------------------------------------------------------ 2(b)


def prediction_columns(out: Tensor) -> list[int]:
    """The columns that hold a prediction; the others are zero."""
    columns = [t for t in range(out.shape[2]) if out[:, :, t].any()]
    missing = out.shape[2] - len(columns)
    require(missing <= 1, f"{missing} columns of the output are zero, expected one at most")
    return columns


@check(NAME, "2b", "a prediction for every word")
def output_is_a_distribution_for_every_word(student: Student) -> None:
    setting = translator(student)
    src, trg = setting.batch((8, 8, 3))
    out, _ = output_of(student, setting, src, trg)
    filled = out[:, :, prediction_columns(out)].double()
    ones = torch.ones_like(filled[:, 0])
    if not is_close(filled.exp().sum(1), ones, 1e-3):
        probable = filled.min() >= 0 and is_close(filled.sum(1), ones, 1e-3)
        require(not probable, "the output holds probabilities, expected log-probabilities or logits")
        used = any("CrossEntropyLoss" in source or "cross_entropy" in source for source in student.cells.values())
        require(used, "the output holds no log-probabilities: their exponentials do not sum to 1")
        student.grade.remark("the model returns logits, and CrossEntropyLoss normalizes them")
    again, _ = output_of(student, setting, src, trg, seed=3)
    if not is_close(out, again, fine(out)):
        quiet = [output_of(student, setting, src, trg, seed=seed, quiet=True)[0] for seed in (2, 3)]
        require(is_close(*quiet, fine(out)), "dropout is applied in evaluation too: two evaluations differ")
        student.grade.remark("something is drawn at random in evaluation too", student.cell_of("LSTMSeq2Seq"))
    wide = torch.cat([src, torch.full((3, 2), setting.pad_in)], 1)
    try:
        if not is_close(output_of(student, setting, wide, trg)[0], out):
            student.grade.remark("padding behind a source sentence changes the output (no padding mask in attention)")
    except (Wrong, Open):
        student.grade.remark("source sentences longer than ten tokens are not supported")


def shift_of_loss(student: Student, setting: Setting) -> int | None:
    """How far the notebook's ``evaluate`` shifts the output against the target: 1 if column t is compared with
    ``trg[:, t + 1]``, 0 if with ``trg[:, t]``; None if it cannot be told."""
    try:
        events, _ = probed(student, setting, "evaluate", ["probe", "loader", "loss"])
    except (Wrong, Open):
        return None
    shifts = [shift for event in events if event[0] == "loss" for shift in event[2]]
    return max(set(shifts), key=shifts.count) if shifts else None


@check(NAME, "2b", "from earlier words alone")
def every_word_depends_on_earlier_words_alone(student: Student) -> None:
    setting = translator(student)
    src, trg = setting.batch((8, 8, 5))
    out, _ = output_of(student, setting, src, trg)
    columns = prediction_columns(out)
    changed = trg.clone()
    changed[0, 4] = trg[0, 5]
    after, _ = output_of(student, setting, src, changed)
    moved = [t for t in range(WIDTH) if not is_close(out[0, :, t], after[0, :, t], fine(out))]
    require(is_close(out[1:], after[1:]), "a sentence's result depends on the other sentences of its batch")
    if not moved:
        student.grade.remark("forward does not read the reference translation: it is fed with its own predictions")
        return
    early = trg.clone()
    early[0, 1] = trg[0, 2]
    last = max(columns) if 0 not in columns else WIDTH - 2
    later, _ = output_of(student, setting, src, early)
    forgotten = is_close(out[0, :, last], later[0, :, last], 1e-9)
    require(not forgotten, "earlier words of the translation are forgotten: no state is carried")
    require(moved[0] >= 4, "a word is predicted from a later one: trg[:, 4] changes an earlier column of the output")
    if moved[0] > 4:
        return
    # Column 4 is given trg[:, 4]: right if it is compared with the word after it.
    shift = shift_of_loss(student, setting)
    if shift is None:
        raise Open(
            "column t of the output depends on trg[:, t], and the grader cannot tell what train compares it with"
        )
    require(
        shift >= 1, "a word is predicted from itself: trg[:, t] is fed to column t, which is compared with trg[:, t]"
    )
    student.grade.remark("outputs are stored one column earlier than the words they predict, and compared so")


@check(NAME, "2b", "from the source")
def every_source_word_matters(student: Student) -> None:
    setting = translator(student)
    src, trg = setting.batch((8, 8, 5))
    out, _ = output_of(student, setting, src, trg)
    for place in (1, 4, 7):
        changed = src.clone()
        changed[0, place] = setting.other(src[0, place], setting.inputs, setting.pad_in)
        after, _ = output_of(student, setting, changed, trg)
        atol = 1e-9 if out.dtype == torch.float64 else 1e-6
        require(not is_close(out[0], after[0], atol), f"word {place} of the source does not matter")
        require(is_close(out[1:], after[1:]), "a sentence's result depends on the other sentences of its batch")
    pull = torch.zeros(3, setting.outputs, WIDTH)
    pull[:, :, 2:9] = torch.randn(3, setting.outputs, 7)
    gradients = student.call("model", src, trg, pull=pull)["gradients"]
    idle = [name for name, gradient in gradients.items() if not gradient.abs().max() > 0]
    for part in ("encoder", "decoder"):
        named = {name for name in gradients if part in name.lower()}
        require(not named or named - set(idle), f"no gradient reaches the {part}")
    if idle:
        student.grade.remark(f"no gradient reaches {', '.join(idle[:4])}")


# ------------------------------------------------------------------------------------ 2(c)


def probed(student: Student, setting: Setting, what: str, args: list) -> tuple[list, object]:
    """Call train or evaluate with a model of ours: its events, and what it returned."""
    size = 2 + WIDTH + 2
    trg = torch.arange(2, 2 + WIDTH).repeat(2, 1)
    trg[:, 0] = SOS
    other = torch.cat([trg[:1, :1], trg[:1, 1:].roll(3, 1)], 1)  # a batch whose gradient points elsewhere
    batches = [[trg, trg], [other, other]]
    sizes = [setting.inputs, setting.outputs, *setting.widths[0], "cpu", 0.0]
    pad = setting.pad_out if setting.pad_out > 1 + WIDTH else size
    student.ask("probe", kind="LSTMSeq2Seq", args=sizes, shape=[size, WIDTH], batches=batches, count=3, ignore=pad)
    answer = student.call(what, *(Ref(a) if isinstance(a, str) else a for a in args))
    events = answer["events"]
    for kind, told in (("forward", "the model"), ("loss", "the loss function")):
        if not any(event[0] == kind for event in events):
            raise Open(f"{what} does not call {told} that it is given")
    return events, answer["value"]


def first_number(value: object) -> float | None:
    while isinstance(value, list) and value:
        value = value[0]
    value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


@check(NAME, "2c", "train and evaluate")
def evaluate_averages_in_evaluation_mode(student: Student) -> None:
    events, value = probed(student, Setting(student), "evaluate", ["probe", "loader", "loss"])
    require(not any(event[1] for event in events if event[0] == "forward"), "evaluate does not call model.eval()")
    require(not any(event[0] == "step" for event in events), "evaluate updates the parameters")
    found, losses = first_number(value), [event[1] for event in events if event[0] == "loss"]
    require(found is not None, "evaluate returned no number")
    near = [low * 0.99 <= found <= high * 1.01 for low, high in ((min(losses), max(losses)), (sum(losses),) * 2)]
    if not any(near):
        right = math.exp(min(losses)) * 0.99 <= found <= math.exp(max(losses)) * 1.01
        told = f"evaluate returned {found:.4f}, expected the mean loss ({min(losses):.4f} to {max(losses):.4f})"
        require(right, told)
        student.grade.remark("evaluate returns the perplexity, not the loss")


@check(NAME, "2c", "train and evaluate")
def train_steps_along_each_batchs_clipped_gradient(student: Student) -> None:
    setting, args = Setting(student), ["probe", "loader", "optimizer", "loss"]
    events, value = probed(student, setting, "train", [*args, 1e6])
    straight_steps(events)
    events, value = probed(student, setting, "train", [*args, 0.01])
    norm = max(step[1].norm().item() for step in events if step[0] == "step")
    require(norm < 0.0101, f"with clip = 0.01 the gradient's norm is {norm:.3g} at a step: it is not clipped")
    if first_number(value) is None:
        student.grade.remark("train returns no number")
