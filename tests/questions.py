"""The questions of the assignment, what each is worth, and the table of what was earned."""

from dataclasses import dataclass, field

import pytest


@dataclass(frozen=True)
class Question:
    notebook: str
    asks: str
    parts: dict[str, int]  # part -> points; most questions have a single part

    @property
    def points(self) -> int:
        return sum(self.parts.values())


def _whole(notebook: str, asks: str, points: int) -> Question:
    return Question(notebook, asks, {"": points})


QUESTIONS = {
    "1a": _whole("hw4_rnn", "collate_batch", 3),
    "1b": _whole("hw4_rnn", "shapes of the parameters", 2),
    "1c": _whole("hw4_rnn", "forward, without a layer of PyTorch", 10),
    "1d": _whole("hw4_rnn", "compute_loss, without a loss of PyTorch", 5),
    "1e": _whole("hw4_rnn", "train, evaluate and the schedule", 5),
    "1f": _whole("hw4_rnn", "search, TensorBoard, above 70 %", 5),
    "2a": _whole("hw4_seq2seq", "encoder and attending decoder", 10),
    "2b": _whole("hw4_seq2seq", "LSTMSeq2Seq", 10),
    "2c": _whole("hw4_seq2seq", "perplexity below 7, curves", 10),
    "3a": _whole("hw4_vit", "Patchification", 5),
    "3b": Question("hw4_vit", "Attention: one head 5, several heads 5", {"one head": 5, "several heads": 5}),
    "3c": _whole("hw4_vit", "Block", 10),
    "3d": _whole("hw4_vit", "ViT", 10),
    "3e": _whole("hw4_vit", "65 % on CIFAR-10, with its log", 5),
}


def question(letter: str, part: str = "") -> pytest.MarkDecorator:
    """Mark a test as one that decides over a question; if it fails, that part's points are lost."""
    if part not in QUESTIONS[letter].parts:
        raise ValueError(f"question {letter} has no part {part!r}: expected one of {list(QUESTIONS[letter].parts)}")
    return pytest.mark.question(letter, part)


@dataclass
class Grade:
    """What the tests said, question by question."""

    passed: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    failed: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def add(self, letter: str, part: str, test: str, passed: bool) -> None:
        (self.passed if passed else self.failed).setdefault((letter, part), []).append(test)

    def earned(self, letter: str) -> int:
        """The points of the parts that some test decided and none refused."""
        return sum(
            points
            for part, points in QUESTIONS[letter].parts.items()
            if (letter, part) in self.passed and (letter, part) not in self.failed
        )

    def table(self, notebooks: set[str]) -> list[str]:
        """The lines of the table, for the questions of these notebooks."""
        lines = [f"{'question':<9} {'asks':<42} {'earned':>6} {'of':>4}  tests"]
        total = possible = 0
        for letter, asked in QUESTIONS.items():
            if asked.notebook not in notebooks:
                continue
            keys = [(letter, part) for part in asked.parts]
            passed = sum(len(self.passed.get(key, ())) for key in keys)
            failed = [test for key in keys for test in self.failed.get(key, ())]
            said = f"{passed} passed" if passed or failed else "none ran"
            lines.append(f"{letter:<9} {asked.asks:<42} {self.earned(letter):>6} {asked.points:>4}  {said}")
            lines += [f"{'':<14} failed: {test}" for test in failed]
            total, possible = total + self.earned(letter), possible + asked.points
        return [*lines, f"{'total':<52} {total:>6} {possible:>4}"]
