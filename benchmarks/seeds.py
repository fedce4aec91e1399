"""How much the results hang on the seed: the final training and the test of each notebook, repeated with other seeds.

The seed decides over the split into training, validation and (for translation) test parts, the first weights, the
order of the batches and dropout. The news classifier keeps the options that the search of the saved notebook chose.
The saved notebook's own result counts as one of the seeds.

Usage: python -m benchmarks.seeds [--data sample|real|auto] [--seed 1 --seed 2] [rnn] [seq2seq] [vit]
"""

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from dataclasses import replace
from types import ModuleType

import nbformat
import torch

from benchmarks.bench import RESULTS, save
from benchmarks.rows import DEVICE
from common import session
from data import ag_news, cifar10, eng_fra
from tools.notebooks import ROOT, TASKS, chosen, definitions, printed, results


def _open(name: str, seed: int, folder: str) -> ModuleType:
    notebook = definitions(name)
    notebook.PARAMETERS = replace(notebook.PARAMETERS, seed=seed, runs=folder)
    notebook.device = session.start(seed)
    return notebook


def rnn(data: str, seed: int, folder: str) -> dict[str, float]:
    notebook, news = _open("hw4_rnn", seed, folder), ag_news.load(data)
    budget = notebook.BUDGETS[news.kind]
    order = torch.randperm(len(news.train), generator=torch.Generator().manual_seed(seed)).tolist()
    held, texts = ([news.train[i] for i in part] for part in (order[: budget.validation], order[budget.validation :]))
    notebook.tokenizer = notebook.get_tokenizer("basic_english")
    counts = notebook.Counter(word for _, text in texts for word in notebook.tokenizer(text))
    notebook.vocab = notebook.Vocab(counts, min_freq=notebook.PARAMETERS.min_frequency, specials=("<pad>", "<unk>"))

    def batches(part: list, size: int, shuffle: bool) -> object:
        generator = torch.Generator().manual_seed(seed)
        return notebook.NewsBatches(part, size, shuffle, DEVICE, budget.jitter, generator)

    notebook.validation_loader = batches(held, 500, False)
    saved = nbformat.read(ROOT / "hw4_rnn.ipynb", as_version=4)
    best = re.search(r"best: Options\((.*)\)", "\n".join(printed(cell) for cell in saved.cells))[1]
    options = notebook.Options(**{name: eval(value) for name, value in re.findall(r"(\w+)=('[^']*'|[\d.e-]+)", best)})
    train = batches(texts, budget.batch_size, True)
    found = {}
    patient = replace(options, learning_rate=2 * options.learning_rate)
    for what, make, rates, epochs in (
        ("test accuracy (%)", notebook.make_rnn, options, budget.epochs),
        ("bag of embeddings (%)", notebook.make_bag, patient, 3 * budget.epochs),
    ):
        model, _ = notebook.fit(make, train, rates, budget, epochs, f"{folder}/{what[:3]}")
        found[what] = notebook.evaluate(model, batches(news.test, 500, False))[1]
    return found


def seq2seq(data: str, seed: int, folder: str) -> dict[str, float]:
    notebook, file = _open("hw4_seq2seq", seed, folder), eng_fra.locate(data)
    notebook.input_lang, notebook.output_lang, notebook.pairs = notebook.prepareData(
        "eng", "fra", notebook.PARAMETERS.max_length, reverse=True, folder=file.path.parent
    )
    budget, found = notebook.BUDGETS[file.kind], {}
    splits = {
        "test perplexity": notebook.split_pairs(len(notebook.pairs), seed),
        "perplexity on unseen sentences": notebook.split_sentences(notebook.pairs, seed),
    }
    for what, split in splits.items():
        model = notebook.fit(split, budget, budget.epochs, f"{folder}/{what}")
        found[what] = notebook.perplexity(model, notebook.batches(split[2]))
    return found


def vit(data: str, seed: int, folder: str) -> dict[str, float]:
    notebook, images = _open("hw4_vit", seed, folder), cifar10.load(data)
    kind = "sample" if images.kind == "sample" else "gpu" if DEVICE.type == "cuda" else "cpu"
    order = torch.randperm(len(images.train[1]), generator=torch.Generator().manual_seed(seed))
    held = int(notebook.PARAMETERS.validation * len(order))
    notebook.validation = tuple(part[order[:held]].to(DEVICE) for part in images.train)
    notebook.train = tuple(part[order[held:]].to(DEVICE) for part in images.train)
    model, _ = notebook.fit(notebook.BUDGETS[kind], folder)
    return {"test accuracy (%)": notebook.evaluate(model, tuple(part.to(DEVICE) for part in images.test))[1]}


TRAININGS = {"rnn": rnn, "seq2seq": seq2seq, "vit": vit}
SAVED = {  # names of the saved notebooks' results, where they differ from those above
    "bag of embeddings (%)": "bag_of_embeddings",
    "perplexity on unseen sentences": "perplexity_unseen",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("auto", "real", "sample"), default="sample")
    parser.add_argument("--seed", type=int, action="append", help="may be given several times; by default 1 and 2")
    parser.add_argument("models", nargs="*", metavar="model", help=f"by default {', '.join(TRAININGS)}")
    arguments = parser.parse_args()
    path = RESULTS / f"seeds-{arguments.data}-{DEVICE.type}.json"
    known = json.loads(path.read_text()) if path.exists() else {}  # model -> quantity -> seed -> value
    for name in chosen(parser, arguments.models, TRAININGS):
        for seed in arguments.seed or (1, 2):
            with tempfile.TemporaryDirectory() as folder:
                found = TRAININGS[name](arguments.data, seed, os.path.join(folder, "runs"))
            for what, value in found.items():
                known.setdefault(name, {}).setdefault(what, {})[str(seed)] = round(value, 4)
        if arguments.data == "real":
            (notebook,) = [file for file, task in TASKS.items() if task == name]
            (said,) = results(nbformat.read(ROOT / f"{notebook}.ipynb", as_version=4))
            for what, values in known[name].items():
                values[str(said["seed"])] = said[SAVED.get(what, "value")]
        path.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    lines = ["| notebook | measured on the test set | seeds | mean | lowest | highest |", "| --- " * 6 + "|"]
    for name, quantities in known.items():
        for what, values in quantities.items():
            v = list(values.values())
            lines.append(f"| {name} | {what} | {', '.join(values)} | **{statistics.mean(v):.2f}** "
                         f"| {min(v):.2f} | {max(v):.2f} |")  # fmt: skip
    save(path.with_suffix(".md"), f"Spread over seeds, {arguments.data} data, {DEVICE.type}", lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
