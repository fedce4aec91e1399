"""Results read out of a notebook's saved outputs, whatever printed them: for 1(f), 2(c) and 3(e)."""

import json
import re
from dataclasses import dataclass

from nbformat import NotebookNode

from grader.questions import Grade, Verdict

TEXT_LIMIT, LINE_LIMIT = 2_000_000, 400  # characters
TEST_SIZE = {"hw4_rnn": 7_600, "hw4_seq2seq": 1_000, "hw4_vit": 10_000}  # examples, of our RESULT line at least
TARGET = {"hw4_rnn": 70.0, "hw4_seq2seq": 7.0, "hw4_vit": 65.0}
_NUMBER = r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?![\w.]*\d)"
_ACCURACY = re.compile(rf"(?i)\bacc(?:uracy)?\b[^\d\n]{{0,40}}?{_NUMBER}\s*(%?)")
_PERPLEXITY = re.compile(rf"(?i)\b(?:ppl|perplexity)\b[^\d\n]{{0,40}}?{_NUMBER}")
_PART = re.compile(r"(?i)\b(test|valid(?:ation)?|val|eval|dev|train(?:ing)?)")
_WORDS = re.compile(r"[_|:=\[\](),]+")
_HARNESS = re.compile(r"(?i)harness|average|baseline|bag of|majority")  # lines of ours that are no result of the model


@dataclass(frozen=True)
class Line:
    cell: int
    text: str


@dataclass(frozen=True)
class Result:
    value: float
    part: str  # test, valid, train or ""
    line: Line
    stated: dict | None = None  # a RESULT line's content


def printed(notebook: NotebookNode) -> list[Line]:
    """The lines of all outputs; what a progress bar overwrote counts as a line."""
    lines, left = [], TEXT_LIMIT
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            text = str(output.get("text", "") or output.get("data", {}).get("text/plain", ""))[:left]
            left -= len(text)
            lines += [
                Line(number, part[:LINE_LIMIT].strip() if not part.startswith("RESULT ") else part)
                for part in re.split(r"[\r\n]+", text)
                if part.strip()
            ]
    return lines


def read(lines: list[Line], notebook: str) -> list[Result]:
    """Every accuracy (in percent) or perplexity that the lines state, in their order."""
    found, pattern = [], _PERPLEXITY if notebook == "hw4_seq2seq" else _ACCURACY
    for line in lines:
        if line.text.startswith("RESULT "):
            try:
                stated = json.loads(line.text.removeprefix("RESULT "))
                found.append(Result(float(stated["value"]), "test", line, stated))
            except (ValueError, KeyError, TypeError):
                pass
            continue
        text = _WORDS.sub(" ", line.text)
        if _HARNESS.search(text):
            continue
        for match in pattern.finditer(text):
            value = float(match[1])
            if notebook != "hw4_seq2seq" and value <= 1 and "." in match[1] and not match[2]:
                value *= 100
            before = _PART.findall(text[: match.end()])
            part = {"t": "test", "v": "valid", "e": "valid", "d": "valid"}[before[-1][0].lower()] if before else ""
            if before and before[-1].lower().startswith("train"):
                part = "train"
            found.append(Result(value, part, line))
    return found


def best(results: list[Result]) -> Result | None:
    """What the notebook claims for itself: its RESULT line, else the last test result, else the last on validation."""
    for wanted in (lambda r: r.stated, lambda r: r.part == "test", lambda r: r.part == "valid", lambda r: not r.part):
        if chosen := [result for result in results if wanted(result)]:
            return chosen[-1]
    return None


def epochs_logged(lines: list[Line]) -> int:
    """The most lines with two numbers or more that one cell printed about epochs."""
    count: dict[int, int] = {}
    about = {line.cell for line in lines if re.search(r"(?i)epoch|\bit/s|batch", line.text)}
    for line in lines:
        if line.cell in about and len(re.findall(r"(?<![\w.])\d+(?:\.\d+)?", line.text)) >= 2:
            count[line.cell] = count.get(line.cell, 0) + 1
    return max(count.values(), default=0)


def drawn(notebook: NotebookNode, words: str) -> bool:
    """Whether a cell that speaks of this shows a figure."""
    for cell in notebook.cells:
        figure = any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        text = str(cell.source) + "".join(str(output.get("text", "")) for output in cell.get("outputs", []))
        if figure and re.search(words, text, re.I):
            return True
    return False


def judge_outputs(notebook: NotebookNode, grade: Grade) -> None:
    """Decide over what the saved outputs show, and note where it was found."""
    name, lines = grade.notebook, printed(notebook)
    source = "\n".join(str(cell.source) for cell in notebook.cells if cell.cell_type == "code")
    letter = {"hw4_rnn": "1f", "hw4_seq2seq": "2c", "hw4_vit": "3e"}[name]
    what = "perplexity" if name == "hw4_seq2seq" else "accuracy"
    lower = name == "hw4_seq2seq"

    def decide(check: str, problem: str) -> None:
        grade.verdicts.append(Verdict(letter, "", check, problem))

    result = best(read(lines, name))
    if result is None:
        decide("result", f"no {what} is printed in the outputs")
    else:
        grade.found.append(
            f"{result.part or 'unlabeled'} {what} {result.value:g} in cell {result.line.cell}: "
            f"{result.line.text[:100]!r}"
        )
        reached = 1 < result.value < TARGET[name] if lower else 100 >= result.value > TARGET[name]
        decide(
            "result",
            ""
            if reached
            else f"the {what} printed is {result.value:g}, expected {'below' if lower else 'above'} {TARGET[name]:g}",
        )
        if result.part == "train":
            decide("result", f"the only {what} printed is of the training data")
        elif result.part != "test":
            grade.remark(f"no test {what} is printed: the one found is {result.part or 'unlabeled'}")
        if result.stated:
            kind, size = result.stated.get("data"), result.stated.get("test_size", 0)
            real = kind == "real" and isinstance(size, int) and size >= TEST_SIZE[name]
            decide(
                "data", "" if real else f"the result is of {size} examples of {kind} data, expected the real test set"
            )
    logged = epochs_logged(lines)
    if name == "hw4_vit" or logged:
        decide("log", "" if logged >= 2 else "no log of the training is printed")
    else:
        grade.remark("no log of the training is printed")
    tensorboard = re.search(r"SummaryWriter|%tensorboard|tensorboard|tracking\.", source)
    if name == "hw4_rnn":
        decide("TensorBoard", "" if tensorboard else "the experiments are not logged to TensorBoard")
        optimizers = set(re.findall(r"\b(SGD|RMSprop|Adagrad|Adadelta|AdamW|Adam|NAdam|RAdam|Adamax|LBFGS)\b", source))
        if len(optimizers) < 2:
            grade.remark("no comparison of optimizers was found: a person should look at the search")
    if name == "hw4_seq2seq":
        for shown, words in (
            ("perplexities", r"perplexit|ppl"),
            ("learning rates", r"learning.?rate|\blrs?\b|_lr\b|lr_"),
        ):
            done = drawn(notebook, words) or (tensorboard and re.search(words, source, re.I))
            decide("curves", "" if done else f"no plot of {shown} is in the outputs")
    errors = [
        i for i, cell in enumerate(notebook.cells) for o in cell.get("outputs", []) if o.get("output_type") == "error"
    ]
    if errors:
        grade.remark(f"cell {errors[0]} ended with an error when the notebook was saved")
