"""The questions of the assignment, what their parts are worth, and what a notebook earned."""

from dataclasses import asdict, dataclass, field

NOTEBOOKS = {"hw4_rnn": "RNN", "hw4_seq2seq": "LSTMSeq2Seq", "hw4_vit": "ViT"}  # homework -> the class it defines
PASSED, WRONG, OPEN = "passed", "wrong", "not judged"  # open: a person decides, nothing is lost yet


@dataclass(frozen=True)
class Question:
    notebook: str
    asks: str
    parts: dict[str, int]  # part -> points; the only part of an undivided question is ""
    names: tuple[str, ...] = ()  # what the notebook defines for it

    @property
    def points(self) -> int:
        return sum(self.parts.values())


QUESTIONS = {
    "1a": Question("hw4_rnn", "collate_batch", {"": 3}, ("collate_batch",)),
    "1b": Question("hw4_rnn", "shapes of the parameters", {"": 2}, ("RNN",)),
    "1c": Question("hw4_rnn", "forward", {"recurrence": 5, "each text's last word": 3, "probabilities": 2}, ("RNN",)),
    "1d": Question("hw4_rnn", "compute_loss", {"loss": 3, "correct predictions": 2}, ("RNN",)),
    "1e": Question(
        "hw4_rnn", "train, evaluate, schedule", {"train": 2, "evaluate": 2, "schedule": 1}, ("train", "evaluate")
    ),
    "1f": Question("hw4_rnn", "search, TensorBoard, above 70 %", {"test accuracy": 3, "TensorBoard": 2}),
    "2a": Question(
        "hw4_seq2seq",
        "encoder and attending decoder",
        {"encoder": 3, "attention": 5, "decoder": 2},
        ("AttnLSTMDecoder", "LSTMEncoder"),
    ),
    "2b": Question(
        "hw4_seq2seq",
        "LSTMSeq2Seq",
        {"a prediction for every word": 4, "from the source": 3, "from earlier words alone": 3},
        ("LSTMSeq2Seq",),
    ),
    "2c": Question(
        "hw4_seq2seq",
        "perplexity below 7, curves",
        {"test perplexity": 5, "train and evaluate": 2, "perplexity curve": 2, "learning rate curve": 1},
    ),
    "3a": Question("hw4_vit", "Patchification", {"": 5}, ("Patchification",)),
    "3b": Question("hw4_vit", "Attention", {"one head": 5, "several heads": 5}, ("Attention",)),
    "3c": Question("hw4_vit", "Block", {"attention path": 4, "MLP path": 3, "MLP": 3}, ("Block", "MLP")),
    "3d": Question("hw4_vit", "ViT", {"tokens": 4, "blocks": 2, "class token's head": 4}, ("ViT",)),
    "3e": Question("hw4_vit", "65 % on CIFAR-10, with its log", {"": 5}),
}


@dataclass(frozen=True)
class Finding:
    """The outcome of one check of one part; ``reason`` says in words what was expected and found."""

    letter: str
    part: str
    outcome: str
    reason: str = ""
    cell: int | None = None

    def __post_init__(self) -> None:
        parts = QUESTIONS[self.letter].parts
        if self.part not in parts or self.outcome not in (PASSED, WRONG, OPEN):
            raise ValueError(f"{self.letter} {self.part!r}: {self.outcome!r}, expected one of the parts {list(parts)}")


@dataclass(frozen=True)
class Remark:
    """Something for a person to know; it costs nothing."""

    text: str
    cell: int | None = None


@dataclass
class Grade:
    """What the checks found in one notebook."""

    notebook: str
    findings: list[Finding] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    found: list[str] = field(default_factory=list)  # results read from the outputs, and where they stand

    def remark(self, text: str, cell: int | None = None) -> None:
        if all(text != remark.text for remark in self.remarks):
            self.remarks.append(Remark(text, cell))

    def letters(self) -> list[str]:
        return [letter for letter, question in QUESTIONS.items() if question.notebook == self.notebook]

    def outcome(self, letter: str, part: str) -> tuple[str, list[str]]:
        """Wrong if any check says so; else not judged if any check, or none at all, could decide."""
        findings = [f for f in self.findings if (f.letter, f.part) == (letter, part)]
        for outcome in (WRONG, OPEN):
            if reasons := [f.reason for f in findings if f.outcome == outcome]:
                return outcome, list(dict.fromkeys(reasons))
        return (PASSED, []) if findings else (OPEN, ["nothing was checked"])

    def earned(self, letter: str) -> tuple[float, float]:
        """The fewest and the most points: they differ by what is not judged."""
        outcomes = {part: self.outcome(letter, part)[0] for part in QUESTIONS[letter].parts}
        low = sum(n for part, n in QUESTIONS[letter].parts.items() if outcomes[part] == PASSED)
        return low, low + sum(n for part, n in QUESTIONS[letter].parts.items() if outcomes[part] == OPEN)

    def to_dict(self) -> dict:
        return asdict(self)

    @classmethod
    def from_dict(cls, stored: dict) -> "Grade":
        findings = [Finding(**f) for f in stored["findings"]]
        return cls(stored["notebook"], findings, [Remark(**r) for r in stored["remarks"]], stored["found"])
