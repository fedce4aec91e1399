"""Kill trainings at random moments, resume them, and compare what comes out with an uninterrupted run.

Each notebook's own ``fit`` trains a small model in a process of its own. SIGKILL meets that process at random times,
in the middle of writing a checkpoint, and just before and just after the finished file gets its name; the next process
goes on from what is left. In the end the weights must equal those of a run that nobody disturbed, bit for bit, and
TensorBoard's curves must have one point for each epoch.

Usage: python -m tools.chaos [--kills 20] [--seed 1] [rnn] [seq2seq] [vit]
"""

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from common import checkpoint, files, tracking
from data import samples
from data.data import Lang
from tools.notebooks import chosen, definitions

EPOCHS = 80
AIMED = ("half written", "before its name", "after its name")  # of the checkpoint's file


def rnn() -> Callable[[str], torch.nn.Module]:
    notebook = definitions("hw4_rnn")
    notebook.vocab = notebook.Vocab(notebook.Counter("abcdefgh"), specials=("<pad>", "<unk>"))
    notebook.tokenizer, notebook.device = str.split, torch.device("cpu")
    draw = random.Random(0)
    texts = [(1 + i % 4, " ".join(draw.choices("abcdefgh", k=draw.randint(1, 12)))) for i in range(300)]
    budget = notebook.replace(notebook.BUDGETS["sample"], batch_size=16, average=0.9)

    def train(folder: str) -> torch.nn.Module:
        def batches(part: list) -> object:
            return notebook.NewsBatches(part, 16, True, notebook.device, 2.0, torch.Generator())

        notebook.validation_loader = batches(texts[:50])
        make = lambda budget: notebook.RNN(len(notebook.vocab), 16, 32, 4)  # noqa: E731
        options = notebook.Options("AdamW", 3e-3, "cosine")
        return notebook.fit(make, batches(texts[50:]), options, budget, EPOCHS, folder)[0]

    return train


def seq2seq() -> Callable[[str], torch.nn.Module]:
    notebook = definitions("hw4_seq2seq")
    notebook.pairs = [[french.lower(), english.lower()] for english, french in samples.sentence_pairs(count=200)]
    notebook.input_lang, notebook.output_lang, notebook.device = Lang("fra"), Lang("eng"), torch.device("cpu")
    for french, english in notebook.pairs:
        notebook.input_lang.addSentence(french)
        notebook.output_lang.addSentence(english)
    budget = notebook.Budget(emb_dim=16, hid_dim=16, epochs=EPOCHS, ablation_epochs=1, batch_size=32)
    split = [list(range(160)), list(range(160, 200)), []]
    return lambda folder: notebook.fit(split, budget, EPOCHS, folder)


def vit() -> Callable[[str], torch.nn.Module]:
    notebook = definitions("hw4_vit")
    notebook.device = torch.device("cpu")
    (images, labels), _ = samples.images(train_size=120, test_size=0)
    notebook.train, notebook.validation = (images[:100], labels[:100]), (images[100:], labels[100:])
    budget = notebook.replace(
        notebook.BUDGETS["sample"], dim=16, depth=2, num_heads=2, mlp_dim=32, batch_size=20, epochs=EPOCHS, cutmix=0.5
    )
    return lambda folder: notebook.fit(budget, folder)[0]


MODELS = {"rnn": rnn, "seq2seq": seq2seq, "vit": vit}


def arm(moment: str, checkpoints: int) -> None:
    """Let this process be killed at that moment of its writing the checkpoint of that number, counted from 1."""
    written = 0

    def kill() -> None:
        nonlocal written
        written += 1
        if written == checkpoints:
            os.kill(os.getpid(), signal.SIGKILL)

    plain_file, rename = files.atomic_write, os.replace

    @contextlib.contextmanager
    def half_a_file(path):
        with plain_file(path) as file:
            write = file.write

            def half(content):
                write(content[: len(content) // 2])
                file.flush()
                if len(content) > 1000:  # the head of the file is a short write of its own
                    kill()
                write(content[len(content) // 2 :])

            file.write = half
            yield file

    def replace(*paths):
        if moment == "before its name":
            kill()
        rename(*paths)
        if moment == "after its name":
            kill()

    if moment == "half written":
        checkpoint.atomic_write = half_a_file
    else:
        files.os.replace = replace


def start(train: Callable, folder: Path, moment: str | None = None, checkpoints: int = 1) -> int:
    """A process that trains in ``folder`` and leaves its weights there; returns its number."""
    process = os.fork()
    if process:
        return process
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        if moment:
            arm(moment, checkpoints)
        torch.save(train(str(folder / "run")).state_dict(), folder / "weights.pt")
        os._exit(0)
    except BaseException as error:
        (folder / "error").write_text(f"{type(error).__name__}: {error}")
        os._exit(1)


def finished_epochs(folder: Path) -> int:
    path = folder / "run" / checkpoint.NAME
    return checkpoint._read(path)["epoch"] if path.exists() else 0


def wait_for_a_checkpoint(folder: Path, seconds: float = 20.0) -> None:
    """Return as soon as a checkpoint is written anew."""
    path = folder / "run" / checkpoint.NAME
    before, end = path.stat().st_mtime_ns if path.exists() else 0, time.monotonic() + seconds
    while time.monotonic() < end and (not path.exists() or path.stat().st_mtime_ns == before):
        time.sleep(0.001)


def torment(name: str, kills: int, draw: random.Random) -> dict:
    """Train with so many kills and without any; returns what the table says."""
    train = MODELS[name]()
    with tempfile.TemporaryDirectory() as temporary:
        calm, torn = Path(temporary) / "calm", Path(temporary) / "torn"
        calm.mkdir(), torn.mkdir()
        began = time.monotonic()
        os.waitpid(start(train, calm), 0)
        epoch_seconds = (time.monotonic() - began) / EPOCHS
        moments = [AIMED[i % 3] if i % 2 else None for i in range(kills)]
        draw.shuffle(moments)
        done, after = 0, []
        for moment in moments:
            process = start(train, torn, moment, draw.randint(1, 5))
            if moment is None:
                if draw.random() < 0.7:  # else it may still be starting when it is killed
                    wait_for_a_checkpoint(torn)
                time.sleep(draw.uniform(0, 4 * epoch_seconds))
                os.kill(process, signal.SIGKILL)
            _, status = os.waitpid(process, 0)
            done += os.WIFSIGNALED(status)
            after.append(finished_epochs(torn))
        os.waitpid(start(train, torn), 0)
        for folder in (calm, torn):
            if (folder / "error").exists():
                return {"model": name, "kills": done, "equal": False, "error": (folder / "error").read_text()}
        one, other = (torch.load(folder / "weights.pt", weights_only=True) for folder in (calm, torn))
        curves = tracking.read_run(torn / "run")
        return {
            "model": name,
            "kills": done,
            "writing": sum(moment is not None for moment in moments),
            "after": after,
            "equal": one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one),
            "curves": all(steps == list(range(1, EPOCHS + 1)) for tag, (steps, _) in curves.items() if "/" in tag
                          and not tag.startswith("outcome")),
        }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each model's training (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument("models", nargs="*", metavar="model", help=f"by default {', '.join(MODELS)}")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # a process made by fork cannot use its parent's threads
    draw, fine = random.Random(arguments.seed), True
    print(f"| model | killed | of these while a checkpoint was written | epochs saved at the kills, of {EPOCHS} "
          "| final weights | curves |\n| --- | --- | --- | --- | --- | --- |")  # fmt: skip
    for name in chosen(parser, arguments.models, MODELS):
        said = torment(name, arguments.kills, draw)
        if "error" in said:
            print(f"| {name} | {said['kills']} | | | {said['error']} | |")
        else:
            weights = "equal, bit for bit" if said["equal"] else "DIFFERENT"
            curves = "one point an epoch" if said["curves"] else "GAPS OR DOUBLE POINTS"
            saved = " ".join(map(str, said["after"]))
            print(f"| {name} | {said['kills']} | {said['writing']} | {saved} | {weights} | {curves} |", flush=True)
        fine &= said["equal"] and said.get("curves", False) and said["kills"] == arguments.kills
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
