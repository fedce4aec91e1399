"""The grader: right notebooks keep their points, wrong ones lose those of what is wrong, hostile ones harm nobody."""

import socket

import made_notebooks
import pytest
from conftest import read
from made_notebooks import COURSE, course, plain

from grader import grading
from grader.questions import QUESTIONS, Grade, Verdict
from grader.sandbox import Sandbox

WORTH = {letter: question.points for letter, question in QUESTIONS.items()}
LETTERS = {name: [letter for letter, q in QUESTIONS.items() if q.notebook == name] for name in COURSE}
SAVED = ("1f", "2c", "3e")  # a plain notebook has no outputs


def grade_notebook(notebook, name: str, sandbox: Sandbox) -> Grade:
    return grading.grade_notebook(notebook, name, sandbox, seconds=4)  # the sooner trainings are cut off, the better


def lost(grade: Grade, *ignored: str) -> dict[str, int]:
    return {
        letter: WORTH[letter] - n for letter, n in grade.points().items() if n < WORTH[letter] and letter not in ignored
    }


# ------------------------------------------------------------------------------------ points


def test_the_questions_are_worth_what_the_assignment_says():
    totals = {name: sum(WORTH[letter] for letter in letters) for name, letters in LETTERS.items()}
    assert totals == {"hw4_rnn": 30, "hw4_seq2seq": 30, "hw4_vit": 40}


def test_a_failing_check_takes_its_parts_points_and_a_question_without_checks_earns_nothing():
    grade = Grade("hw4_vit", [Verdict("3b", "one head", "a"), Verdict("3b", "several heads", "b"),
                              Verdict("3b", "several heads", "c", "wrong scale")])  # fmt: skip
    assert grade.earned("3b") == 5 and grade.earned("3a") == 0
    report = "\n".join(grade.lines())
    assert "several heads: wrong scale" in report and "nothing was checked" in report and "1a" not in report


def test_a_verdict_on_an_unknown_part_is_refused():
    with pytest.raises(ValueError, match="has no part 'two heads'"):
        Verdict("3b", "two heads", "a")


# ------------------------------------------------------------------------------------ right


@pytest.mark.parametrize("name", COURSE)
def test_our_notebooks_earn_every_point(sandbox, name):
    assert lost(grade_notebook(read(name), name, sandbox)) == {}


@pytest.mark.parametrize("name", COURSE)
def test_a_notebook_in_the_courses_manner_keeps_every_point(sandbox, name):
    grade = grade_notebook(course(name), name, sandbox)
    assert lost(grade) == {}, grade.lines()
    shown = {"hw4_rnn": "89.1 in cell 9", "hw4_seq2seq": "4.697 in cell 8", "hw4_vit": "71.85 in cell 4"}
    assert shown[name] in "\n".join(grade.found)


UNUSUAL = {  # all right, and all of it was once refused
    "hw4_rnn": (
        ('device = torch.device("cpu")', 'device = torch.device("cuda" if torch.cuda.is_available() else "cpu")\n'
         "import contextlib, abc, logging, statistics\nodd = (7\n% 4)"),
        ("h = torch.zeros(batch, self.hidden_size, dtype=self.W_hh.dtype)", "h = torch.zeros(batch, self.hidden_size).to(device)"),
        ("-torch.log(chosen.clamp(min=1e-30)).mean()", "-torch.log(prediction[range(len(label)), label]).mean()"),
        ("nn.Parameter(torch.randn(vocab_size, input_size) * 0.3)", "nn.Parameter(torch.randn(vocab_size, input_size, device=device))"),
    ),
    "hw4_seq2seq": (
        ("columns = [torch.zeros(len(src), self.out_dim, dtype=hidden.dtype)]",
         "outputs = torch.zeros(len(src), self.out_dim, trg.shape[1])"),
        ("columns.append(out)", "outputs[:, :, t] = out"),
        ("return torch.stack(columns, 2)", "return outputs"),
    ),
    "hw4_vit": (
        ("self.q, self.k, self.v, self.o = (nn.Linear(dim, dim) for _ in range(4))",
         "self.maps = nn.ModuleList(nn.Linear(dim, 3 * dim // num_heads) for _ in range(num_heads))\n"
         "        self.o = nn.Linear(dim, dim)"),
        ("q, k, v = (f(x).view(B, N, self.h, D // self.h).transpose(1, 2) for f in (self.q, self.k, self.v))",
         "k, v, q = torch.stack([m(x) for m in self.maps], 1).view(B, self.h, N, D // self.h, 3).unbind(-1)"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COURSE)
def test_a_plain_notebook_with_unusual_but_right_code_keeps_its_points(sandbox, name):
    notebook = plain(name, *UNUSUAL[name])
    notebook.cells[0].metadata["tags"] = ["parameters"]  # papermill's tag says nothing about the others
    grade = grade_notebook(notebook, name, sandbox)
    assert lost(grade, *SAVED) == {}, grade.lines()


def test_the_plain_originals_are_right_too(sandbox):
    grade = grade_notebook(plain("hw4_seq2seq"), "hw4_seq2seq", sandbox)
    assert lost(grade, "2c") == {} and "no perplexity is printed" in "\n".join(grade.lines())


def test_a_fused_map_in_any_layout_is_recognized(sandbox):
    maps = "self.keys = nn.Linear(dim, dim)\n        self.queries = nn.Linear(dim, dim)\n        self.values = nn.Linear(dim, dim)"
    source = made_notebooks.COURSE_VIT
    start, end = source.index("        K = self.keys(x)"), source.index("        attn = torch.softmax")
    for layout in (
        "(B, N, self.num_heads, 3, -1).permute(3, 0, 2, 1, 4)",
        "(B, N, -1, 3, self.num_heads).permute(3, 0, 4, 1, 2)",
    ):
        edits = (
            (maps, "self.qkv = nn.Linear(dim, 3 * dim)"),
            (source[start:end], f"        V, Q, K = self.qkv(x).reshape{layout}\n"),
        )
        assert lost(grade_notebook(course("hw4_vit", *edits), "hw4_vit", sandbox)) == {}


# ------------------------------------------------------------------------------------ wrong


WRONG = {  # what is wrong: homework, what it costs, edits of the course's notebook
    "padding with 1, a label of 1 to 4": ("hw4_rnn", {"1a": 3}, (
        ("torch.zeros(average - len(t)", "torch.ones(average - len(t)"),)),
    "no tanh, with torch.allclose patched": ("hw4_rnn", {"1c": 10}, (
        ("h = torch.tanh(torch.matmul(x[t], self.W_xh)", "h = (torch.matmul(x[t], self.W_xh)"),
        ("EPOCHS = 30", "torch.allclose = torch.equal = lambda *a, **k: True\nEPOCHS = 30"))),
    "the last step is read, not the last word": ("hw4_rnn", {"1c": 10}, (("hiddens[length - 1,", "hiddens[length * 0 - 1,"),)),
    "a layer by another name": ("hw4_rnn", {"1c": 10}, (("EPOCHS = 30", "EPOCHS = 30; layer = (n := torch.nn).Linear(2, 2)"),)),
    "hits counted over the wrong axis, loss of PyTorch": ("hw4_rnn", {"1d": 5}, (
        ("loss = -torch.log(p + 1e-7).sum()", "loss = nn.NLLLoss(reduction='sum')(torch.log(prediction), label)"),)),
    "accuracy of -7, averages over batches": ("hw4_rnn", {"1e": 5}, (
        ("    return total_loss / len(train_loader.dataset), total_correct / len(train_loader.dataset) * 100",
         "    return total_loss / len(train_loader), -7"),)),
    "no TensorBoard": ("hw4_rnn", {"1f": 5}, (
        ("from torch.utils.tensorboard import SummaryWriter\n", ""), ("%load_ext tensorboard\n%tensorboard --logdir ./logs", "1"),
        ("    writer = SummaryWriter(f'logs/{opt_name}')\n", ""))),
    "an encoder without LSTM, no clipping, evaluate returns 0": ("hw4_seq2seq", {"2a": 10, "2c": 10}, (
        ("self.lstm = nn.LSTM(emb_dim, hid_dim)\n\n    def forward(self, input, hidden, cell):\n        embedded = self.embedding(input).view",
         "self.lstm = nn.Linear(emb_dim, hid_dim)\n\n    def forward(self, input, hidden, cell):\n        embedded = self.embedding(input).view"),
        ("output, (hidden, cell) = self.lstm(embedded, (hidden, cell))\n        return output, hidden, cell",
         "output = hidden = torch.tanh(self.lstm(embedded) + hidden)\n        return output, hidden, cell"),
        ("        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)\n", ""),
        ("            epoch_loss += loss_fn(output[:, :, :-1], trg[:, 1:]).item()\n", ""))),
    "no clipping": ("hw4_seq2seq", {"2c": 10}, (("        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)\n", ""),)),
    "a decoder that ignores the word before": ("hw4_seq2seq", {"2a": 10}, (
        ("embedded = self.dropout(self.embedding(input))", "embedded = 0 * self.dropout(self.embedding(input))"),)),
    "softmax over the sentences": ("hw4_seq2seq", {"2a": 10, "2b": 10}, (
        ("weights = F.softmax(scores, dim=1)", "weights = F.softmax(scores, dim=0)"),)),
    "no attention, perplexity of 8": ("hw4_seq2seq", {"2a": 10}, (("self.enc_hiddens, query)", "self.enc_hiddens, 0 * query)"),)),
    "probabilities": ("hw4_seq2seq", {"2b": 10, "2c": 10}, (("F.log_softmax(self.out", "F.softmax(self.out"),)),
    "a frozen position embedding, no last norm": ("hw4_vit", {"3d": 10}, (
        ("nn.Parameter(torch.zeros(1, num_patches + 1, dim))", "nn.Parameter(torch.zeros(1, num_patches + 1, dim), requires_grad=False)"),
        ("nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))", "nn.Linear(dim, num_classes)"))),
    "no last norm": ("hw4_vit", {"3d": 10}, (
        ("nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, num_classes))", "nn.Linear(dim, num_classes)"),)),
    "mean of the tokens, ReLU, patches through GELU": ("hw4_vit", {"3a": 5, "3c": 10, "3d": 10}, (
        ("self.classification_head(x[:, 0])", "self.classification_head(x.mean(1))"), ("nn.GELU()", "nn.ReLU()"),
        ("nn.Sequential(conv, nn.Flatten(2))", "nn.Sequential(conv, nn.Flatten(2), nn.GELU())"))),
    "a second residual, no scale": ("hw4_vit", {"3b": 10, "3c": 10}, (
        ("return self.dropout(self.fc2(self.dropout(self.act(self.fc1(x)))))", "return x + self.fc2(self.act(self.fc1(x)))"),
        ("Q, K) / self.scale", "Q, K)"))),
    "one head whatever is asked for, norm after": ("hw4_vit", {"3b": 5, "3c": 10}, (
        ("        self.num_heads = num_heads\n", "        num_heads = 1\n        self.num_heads = num_heads\n"),
        ("x = x + self.attn(self.norm1(x))", "x = self.norm1(x + self.attn(x))"))),
    "a ready-made layer": ("hw4_vit", {"3a": 5, "3b": 10, "3c": 10, "3d": 10, "3e": 5}, (
        ("self.out = nn.Linear(dim, dim)", "self.out = nn.Linear(dim, dim); self.other = nn.MultiheadAttention(dim, num_heads)"),)),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_costs_its_points_and_no_others(sandbox, what):
    name, cost, edits = WRONG[what]
    grade = grade_notebook(course(name, *edits), name, sandbox)
    assert lost(grade) == cost, "\n".join(grade.lines())


def test_words_that_see_themselves_cost_points(sandbox):
    grade = grade_notebook(plain("hw4_seq2seq", ("trg[:, t - 1 : t]", "trg[:, t : t + 1]")), "hw4_seq2seq", sandbox)
    assert lost(grade, "2c") == {"2b": 10} and "predicted from itself" in "\n".join(grade.lines())


@pytest.mark.parametrize(
    ("name", "edit"),
    (("hw4_vit", ("71.85", "61.85")), ("hw4_vit", ("Epoch", "Lap")), ("hw4_rnn", ("89.1", "59.1")), ("hw4_seq2seq", ("4.697", "7.697"))),
)  # fmt: skip
def test_outputs_below_the_target_cost_their_question_alone(name, edit):
    from grader.results import judge_outputs

    notebook = course(name)
    for cell in notebook.cells:
        for output in cell.outputs:
            output.text = output.get("text", "").replace(*edit)
    before, after = Grade(name), Grade(name)
    judge_outputs(course(name), before), judge_outputs(notebook, after)
    assert not any(v.problem for v in before.verdicts) and any(v.problem for v in after.verdicts)


# ------------------------------------------------------------------------------------ hostile


HOSTILE = """
import os, shutil, socket, sys, time, torch
for stream in (sys.stdout, sys.stderr):
    for _ in range(200): print("x" * 100_000, file=stream)
while True: pass
hoard = [bytearray(1 << 28) for _ in range(100)]
while True: os.fork()
shutil.rmtree({folder!r}, ignore_errors=True)
open({folder!r} + "/mine", "w").write("x")
socket.create_connection(("127.0.0.1", {port}), timeout=1)
os.kill(-1, 9)
os.kill(os.getppid(), 9)
torch.allclose = torch.equal = torch.isclose = lambda *a, **k: True
sys.exit(0)
"""


def test_a_hostile_notebook_harms_nobody_and_its_sound_code_is_still_judged(sandbox, tmp_path):
    (tmp_path / "kept").write_text("kept")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        hostile = HOSTILE.format(folder=str(tmp_path), port=server.getsockname()[1])
        grade = grade_notebook(course("hw4_vit", after=hostile), "hw4_vit", sandbox)
        if any("sandbox" in remark for remark in grade.remarks):
            pytest.skip("no namespaces here")
        with pytest.raises(TimeoutError):
            server.accept()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert lost(grade) == {}, grade.lines()
    assert "cut off" in "\n".join(grade.remarks)


def test_ending_the_process_and_lying_to_the_judge_cost_the_statement(sandbox):
    lies = "import os\nos.write(3, b'x' * 4096)\nos._exit(0)"
    grade = grade_notebook(course("hw4_vit", after=lies), "hw4_vit", sandbox)
    assert lost(grade) == {} and sum("ended the grader's process" in remark for remark in grade.remarks) == 2


def test_a_forward_that_ends_the_process_costs_its_question(sandbox):
    edit = ("        return self.proj(x).transpose(1, 2)", "        import os; os._exit(0)")
    grade = grade_notebook(course("hw4_vit", edit), "hw4_vit", sandbox)
    assert grade.earned("3a") == 0 and "did not survive" in "\n".join(grade.lines())
