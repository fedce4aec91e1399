"""Results read out of a notebook's saved outputs, whatever printed them: for 1(f), 2(c) and 3(e).

Every number that may be a result is a candidate, with a score for what stands around it; the best of those with the
highest score counts, and the report tells where it was found.
"""

import html
import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from grader.questions import OPEN, PASSED, WRONG, Finding, Grade

TEXT_LIMIT, LINE_LIMIT = 2_000_000, 400  # characters
TEST_SIZE = {"hw4_rnn": 7_600, "hw4_seq2seq": 1_000, "hw4_vit": 10_000}  # examples, of our RESULT line at least
TARGET = {"hw4_rnn": 70.0, "hw4_seq2seq": 7.0, "hw4_vit": 65.0}
LETTER = {"hw4_rnn": "1f", "hw4_seq2seq": "2c", "hw4_vit": "3e"}
PART = {"hw4_rnn": "test accuracy", "hw4_seq2seq": "test perplexity", "hw4_vit": ""}
OTHER = {  # models that the question does not ask for
    "hw4_rnn": r"\b(lstm|gru|transformer|bert|cnn|bag)\b",
    "hw4_seq2seq": r"\b(gru|transformer|without attention|no attention|vanilla)\b",
    "hw4_vit": r"\b(resnet\w*|cnn|vgg\w*|pre-?trained|mixer|convnet)\b",
}
_OTHER = r"|\b(baseline|majority|chance|random guess\w*|harness|bleu)\b"
_ACCURACY = re.compile(r"(?i)\bacc(?:urac(?:y|ies))?(?:@1|_?top-?1)?(?![a-z])|정확도")
_PERPLEXITY = re.compile(r"(?i)\b(?:ppl|perplexit(?:y|ies))(?![a-z])|퍼플렉서티|혼란도")
_METRIC = re.compile(r"(?i)\b(loss|acc(uracy)?|ppl|perplexity|lr|time|f1|bleu)(?![a-z])|정확도|손실|퍼플렉서티")
_LABEL = re.compile(r"(?i)(test|테스트|시험)|(val(?:id(?:ation)?)?|eval|dev|검증)|(train(?:ing)?|훈련|학습)")
_NUMBER = re.compile(r"(?<![\w.])(\d{1,3}(?:,\d{3})+|\d+)?(\.\d+)?(?:e([+-]?\d+))?\s*(%?)(?!\d)", re.I)
_FRACTION = re.compile(r"(\d+)\s*/\s*(\d+)")
_NOISE = re.compile(  # numbers that are no result
    r"""(?ix) (acc\w*\s*@|top-?)\s*[2-9]\d*\s*(acc\w*)?\s*[:=]?\s*[\d.]+\s*%?
    | \d+%\|[^|]*\|\s*\d+/\d+ | @\s*\d+ | top-?\s*\d+ | ^\W*\[\s*\d+\s*(/\s*\d+)?\]
    | \b(epochs?|ep|steps?|iter(ation)?s?|batch(es)?|lr|learning.rates?
       |seed|heads?|layers?|depth|dim|trial|run|fold|target
       |goal|threshold|required?|expected|above|below|over|under|at\ least|less\ than|more\ than|에폭|에포크|목표)
      (?![a-z]) \s*[:=\#]?\s*[\[(<>]*\s* \d[\d.,]*(e[+-]?\d+)? \s*%? (\s*/\s*\d+)?
    | \b\d[\d,]*\s+(test|train\w*|valid\w*)?\s*(images?|samples?|examples?|texts?|sentences?|pairs|tokens|epochs?)\b
    | \d+(\.\d+)?\s*(s|sec|seconds|ms|min|minutes|it/s|s/it)\b | \d+:\d+(:\d+)? | [~±]\s*\d+(\.\d+)?"""
)


@dataclass(frozen=True)
class Line:
    cell: int
    text: str


@dataclass(frozen=True)
class Candidate:
    value: float
    label: str  # test, valid, train or ""
    score: int
    line: Line
    stated: dict | None = None  # a RESULT line's content


def printed(cells: list[dict]) -> list[Line]:
    """The lines of all outputs; what a progress bar overwrote counts as a line."""
    lines, left = [], TEXT_LIMIT
    for number, cell in enumerate(cells):
        for output in cell["outputs"]:
            data = output.get("data", {})
            text = output.get("text") or data.get("text/plain") or ""
            if "text/html" in data and "<table" not in data["text/html"][:20]:
                text = f"{text}\n{html.unescape(re.sub(r'<(style|script).*?</.*?>|<[^>]*>', ' ', data['text/html']))}"
            text = str(text)[:left]
            left -= len(text)
            for part in re.split(r"[\r\n]+", text):
                if part.strip():
                    lines.append(Line(number, part if part.startswith("RESULT ") else part[:LINE_LIMIT].strip()))
    return lines


def stated(line: Line) -> Candidate | None:
    """What a line ``RESULT {...}`` says."""
    try:
        content = json.loads(line.text.removeprefix("RESULT "))
        part = content.get("part", "assignment")
        return Candidate(float(content["value"]), "test", 20 if part == "assignment" else -1, line, content)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def numbers(text: str) -> list[tuple[float, bool, bool]]:
    """The numbers in a text: value, whether a percent sign follows, whether they have decimals."""
    found = []
    for match in _NUMBER.finditer(text):
        whole, decimals, exponent, percent = match.groups()
        if whole or decimals:
            value = float((whole or "0").replace(",", "") + (decimals or "")) * 10.0 ** int(exponent or 0)
            found.append((value, bool(percent), bool(decimals)))
    return found


def read(line: Line, notebook: str, heading: str = "") -> list[Candidate]:
    """Every accuracy (in percent) or perplexity that a line states, in its order."""
    if line.text.startswith("RESULT "):
        candidate = stated(line)
        return [candidate] if candidate else []
    is_accuracy = notebook != "hw4_seq2seq"
    text = re.sub(r"(?<=[A-Za-z])_|_(?=[A-Za-z])", " ", line.text)
    plain, text = text, _NOISE.sub(lambda m: " " * len(m[0]), text)
    found = []
    for match in (_ACCURACY if is_accuracy else _PERPLEXITY).finditer(text):
        following = _METRIC.search(text, match.end())
        end = following.start() if following else len(text)
        after = text[match.end() : end]
        label = _LABEL.findall(plain[: match.end()]) or _LABEL.findall(plain[match.end() : end])
        kind = next((n for n, hit in zip(("test", "valid", "train"), label[-1]) if hit), "") if label else ""
        values = numbers(after)
        fraction = _FRACTION.search(after)
        if is_accuracy and fraction and int(fraction[2]) >= 200 and not any(percent for _, percent, _ in values):
            values = [(100 * int(fraction[1]) / int(fraction[2]), True, True)]
        if not values and is_accuracy:  # 72% test accuracy
            values = [n for n in numbers(text[: match.start()]) if n[1]][-1:]
        values = [n for n in values if n[1]] or values
        if not values:
            continue
        value, percent, decimals = values[0]
        if is_accuracy and value <= 1 and decimals and not percent:
            value *= 100
        score = {"test": 4, "valid": 2, "": 1, "train": 0}[kind]
        if re.search(OTHER[notebook] + _OTHER, f"{heading} {line.text}", re.I):
            score -= 5
        if not is_accuracy or 0 <= value <= 100:
            found.append(Candidate(value, kind, score, line))
    return found


def candidates(cells: list[dict], notebook: str) -> list[Candidate]:
    headings, heading = [], ""
    for cell in cells:
        if cell["cell_type"] == "markdown" and (titles := re.findall(r"(?m)^#+ (.*)", cell["source"])):
            heading = titles[-1]
        headings.append(heading)
    return [c for line in printed(cells) for c in read(line, notebook, headings[line.cell])]


def best(found: list[Candidate], lower: bool) -> Candidate | None:
    """Of the candidates with the highest score the best; of equals the last."""
    top = [c for c in found if c.score == max(c.score for c in found)]
    return min(reversed(top), key=lambda c: c.value if lower else -c.value) if top else None


def epochs_logged(lines: list[Line]) -> int:
    """The most lines with two numbers or more that one cell printed about its training."""
    about = r"(?i)epoch|에폭|에포크|\bep\b|\bsteps?\b|\biter|batch|\bit/s|^\W*\[?\s*\d+\s*[\],/:|]|\d+/\d+"
    log = {line.cell for line in lines if re.search(about, line.text)}
    rows = [
        line.cell
        for line in lines
        if line.cell in log
        and not line.text.startswith("RESULT ")
        and len(numbers(re.sub(r"[\[\](),|/:=]", " ", line.text))) >= 2
    ]
    return max(Counter(rows).values(), default=0)


def figures(cells: list[dict]) -> list[str]:
    """For every cell that shows a figure: its source, that of the notebook's functions that it calls, its text."""
    found = []
    for cell in cells:
        kinds = {kind for output in cell["outputs"] for kind in output.get("data", {})}
        if any(kind.startswith(("image/", "application/vnd.")) for kind in kinds):
            text, known = cell["source"], set()
            for _ in range(3):
                for name in set(re.findall(r"\b(\w+)\(", text)) - known:
                    known.add(name)
                    text += "".join(c["source"] for c in cells if re.search(rf"\bdef {name}\b", c["source"]))
            found.append(text + "".join(str(output.get("text", "")) for output in cell["outputs"]))
    return found


def judge_result(grade: Grade, cells: list[dict], decide: Any) -> None:
    name, part = grade.notebook, PART[grade.notebook]
    lower, what = name == "hw4_seq2seq", "perplexity" if name == "hw4_seq2seq" else "accuracy"
    found = candidates(cells, name)
    for c in found:
        if c.stated:
            grade.found.append(
                f"RESULT line, part {c.stated.get('part', 'assignment')}: {c.value:g} in cell {c.line.cell}"
            )
    result = best([c for c in found if c.score >= 0], lower)
    if result is None:
        losses = [numbers(m[1]) for line in printed(cells) for m in re.finditer(r"(?i)test loss\W*([\d.]+)", line.text)]
        if lower and losses and losses[-1]:
            loss = losses[-1][0][0]
            told = f"only a test loss of {loss:g} is printed; its perplexity would be {math.exp(min(loss, 50)):.3g}"
            decide(part, OPEN, told)
        elif any(re.search(what[:3], text, re.I) for text in figures(cells)):
            decide(part, OPEN, f"no {what} is printed in the outputs, but a figure may show it")
        else:
            decide(part, WRONG, f"no {what} of the model is printed in the outputs")
        return
    rivals = [c for c in found if c.score == result.score]
    told = (
        f"{result.label or 'unlabeled'} {what} {result.value:g} in cell {result.line.cell}: {result.line.text[:100]!r}"
    )
    grade.found.append(told + (f" (the best of {len(rivals)})" if len(rivals) > 1 else ""))
    cell, target = result.line.cell, TARGET[name]
    reached = 1 < result.value < target if lower else 100 >= result.value > target
    side = "below" if lower else "above"
    if not reached:
        decide(part, WRONG, f"the {what} printed is {result.value:g}, expected {side} {target:g}", cell)
    elif result.label == "train":
        decide(part, WRONG, f"the only {what} printed is of the training data", cell)
    else:
        decide(part, PASSED, "", cell)
        if result.label != "test":
            grade.remark(f"no test {what} is printed: the one found is {result.label or 'unlabeled'}", cell)
    if result.stated:
        kind, size = result.stated.get("data"), result.stated.get("test_size", 0)
        real = kind == "real" and isinstance(size, int) and size >= TEST_SIZE[name]
        told = f"the result is of {size} examples of {kind} data, expected the real test set"
        decide(part, PASSED if real else WRONG, "" if real else told, cell)


def judge_outputs(cells: list[dict], grade: Grade) -> None:
    """Decide over what the saved outputs show, and note where it was found."""
    name = grade.notebook
    letter, source = LETTER[name], "\n".join(cell["source"] for cell in cells if cell["cell_type"] == "code")

    def decide(part: str, outcome: str, reason: str = "", cell: int | None = None) -> None:
        grade.findings.append(Finding(letter, part, outcome, reason, cell))

    judge_result(grade, cells, decide)
    if epochs_logged(printed(cells)) < 2:
        if name == "hw4_vit":
            drawn = any(re.search(r"(?i)acc|loss", text) for text in figures(cells))
            told = "no log of the training is printed"
            decide("", OPEN if drawn else WRONG, f"{told}, though a figure shows it" if drawn else told)
        else:
            grade.remark("no log of the training is printed")
    elif name == "hw4_vit":
        decide("", PASSED)
    logged = re.search(r"SummaryWriter|%tensorboard|tensorboard|tracking\.", source)
    if name == "hw4_rnn":
        other = re.search(r"\bwandb\b|\bmlflow\b", source)
        told = (
            f"the experiments are logged to {other[0]}, not to TensorBoard"
            if other
            else "nothing is logged to TensorBoard"
        )
        decide("TensorBoard", PASSED if logged else OPEN if other else WRONG, "" if logged else told)
        optimizers = set(re.findall(r"\b(SGD|RMSprop|Adagrad|Adadelta|AdamW|Adam|NAdam|RAdam|Adamax|LBFGS)\b", source))
        if len(optimizers) < 2:
            grade.remark("no comparison of optimizers was found: a person should look at the search")
    if name == "hw4_seq2seq":
        shown = figures(cells)
        for part, words in (
            ("perplexity curve", r"perplexit|ppl"),
            ("learning rate curve", r"learning.?rate|\blrs?\b|_lrs?\b|\blr_"),
        ):
            if any(re.search(words, text, re.I) for text in shown) or (logged and re.search(words, source, re.I)):
                decide(part, PASSED)
            elif shown:
                decide(part, OPEN, f"figures are shown, but none can be told to be the {part}")
            else:
                decide(part, WRONG, f"no {part} is among the outputs")
    for number, cell in enumerate(cells):
        if any(output.get("output_type") == "error" for output in cell["outputs"]):
            grade.remark(f"cell {number} ended with an error when the notebook was saved", number)
