"""The questions of the assignment, what each is worth, and what a notebook earned."""

from dataclasses import dataclass, field

NOTEBOOKS = {"hw4_rnn": "RNN", "hw4_seq2seq": "LSTMSeq2Seq", "hw4_vit": "ViT"}  # homework -> the class it defines


@dataclass(frozen=True)
class Question:
    notebook: str
    asks: str
    parts: dict[str, int]  # part -> points; most questions have a single part

    @property
    def points(self) -> int:
        return sum(self.parts.values())


def _undivided(notebook: str, asks: str, points: int) -> Question:
    return Question(notebook, asks, {"": points})


QUESTIONS = {
    "1a": _undivided("hw4_rnn", "collate_batch", 3),
    "1b": _undivided("hw4_rnn", "shapes of the parameters", 2),
    "1c": _undivided("hw4_rnn", "forward, without a layer of PyTorch", 10),
    "1d": _undivided("hw4_rnn", "compute_loss, without a loss of PyTorch", 5),
    "1e": _undivided("hw4_rnn", "train, evaluate and the schedule", 5),
    "1f": _undivided("hw4_rnn", "search, TensorBoard, above 70 %", 5),
    "2a": _undivided("hw4_seq2seq", "encoder and attending decoder", 10),
    "2b": _undivided("hw4_seq2seq", "LSTMSeq2Seq", 10),
    "2c": _undivided("hw4_seq2seq", "perplexity below 7, curves", 10),
    "3a": _undivided("hw4_vit", "Patchification", 5),
    "3b": Question("hw4_vit", "Attention: one head 5, several heads 5", {"one head": 5, "several heads": 5}),
    "3c": _undivided("hw4_vit", "Block", 10),
    "3d": _undivided("hw4_vit", "ViT", 10),
    "3e": _undivided("hw4_vit", "65 % on CIFAR-10, with its log", 5),
}
FROM_OUTPUTS = ("1f", "2c", "3e")  # decided, at least in part, by what the notebook's outputs say


@dataclass(frozen=True)
class Verdict:
    """One check's outcome; ``problem`` is empty if it passed."""

    letter: str
    part: str
    check: str
    problem: str = ""

    def __post_init__(self) -> None:
        if self.part not in QUESTIONS[self.letter].parts:
            parts = list(QUESTIONS[self.letter].parts)
            raise ValueError(f"question {self.letter} has no part {self.part!r}: expected one of {parts}")


@dataclass
class Grade:
    """What the checks found in one notebook."""

    notebook: str
    verdicts: list[Verdict] = field(default_factory=list)
    found: list[str] = field(default_factory=list)  # results read from the outputs, and where they stand
    remarks: list[str] = field(default_factory=list)  # for a person; they cost nothing

    def remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)

    def letters(self) -> list[str]:
        return [letter for letter, question in QUESTIONS.items() if question.notebook == self.notebook]

    def earned(self, letter: str) -> int:
        """The points of the parts that some check decided and none refused."""
        points = 0
        for part, worth in QUESTIONS[letter].parts.items():
            problems = [v.problem for v in self.verdicts if (v.letter, v.part) == (letter, part)]
            points += worth if problems and not any(problems) else 0
        return points

    def points(self) -> dict[str, int]:
        return {letter: self.earned(letter) for letter in self.letters()}

    def lines(self) -> list[str]:
        """The report on this notebook."""
        lines = [f"{'question':<9} {'asks':<42} {'earned':>6} {'of':>4}"]
        for letter in self.letters():
            question = QUESTIONS[letter]
            note = "  (depends on saved outputs)" if letter in FROM_OUTPUTS else ""
            lines.append(f"{letter:<9} {question.asks:<42} {self.earned(letter):>6} {question.points:>4}{note}")
            verdicts = [v for v in self.verdicts if v.letter == letter]
            lines += [f"{'':<9} - {v.part + ': ' if v.part else ''}{v.problem}" for v in verdicts if v.problem]
            lines += [] if verdicts else [f"{'':<9} - nothing was checked"]
        lines += [f"  found   {text}" for text in self.found]
        lines += [f"  remark  {text}" for text in self.remarks]
        return lines
