"""How much the results depend on the seed: the notebooks executed with other seeds, and what their RESULT lines say.

The seed decides over the split into training and validation (for translation, test as well), the first weights, the
order of the batches and dropout. On real data the saved notebook counts as one of the seeds. Values are kept in
benchmarks/results/, and dropped once the code that they belong to has changed.

Usage: python -m benchmarks.seeds [--data sample|real] [--seed 1 --seed 2] [--write] [notebook ...]
"""

import argparse
import json
import statistics
import sys
from pathlib import Path

import torch

from tools import tables
from tools.notebooks import TASKS, chosen, fingerprint, read, results
from tools.run_notebooks import BUILD, execute

RESULTS = Path(__file__).parent / "results"
Values = dict[str, dict[str, float]]  # quantity -> seed -> value


def measured(result: dict) -> dict[str, float]:
    """The quantities that a result states: its metric, and what was measured beside it."""
    others = {name: item for name, item in result.items() if isinstance(item, float) and "seconds" not in name}
    others = {name.replace("_", " "): item for name, item in others.items() if name not in ("value", "target")}
    return {result["metric"]: result["value"], **others}


def add(known: dict[str, dict], name: str, code: str, result: dict) -> None:
    """Add a result to the known values of a notebook; values of other code than ``code`` are dropped."""
    if known.get(name, {}).get("fingerprint") != code:
        known[name] = {"fingerprint": code, "values": {}}
    for quantity, value in measured(result).items():
        known[name]["values"].setdefault(quantity, {})[str(result["seed"])] = value


def table(known: dict[str, dict]) -> list[str]:
    """Markdown: mean, lowest and highest value of each quantity."""
    lines = ["| notebook | measured | seeds | mean | lowest | highest |", "| --- " * 6 + "|"]
    for name in known:
        for quantity, by_seed in known[name]["values"].items():
            values = list(by_seed.values())
            spread = f"**{statistics.mean(values):.2f}** | {min(values):.2f} | {max(values):.2f}"
            lines.append(f"| {name} | {quantity} | {', '.join(sorted(by_seed, key=int))} | {spread} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("real", "sample"), default="sample")
    parser.add_argument("--seed", type=int, action="append", help="may be given several times; by default 1 and 2")
    parser.add_argument("--write", action="store_true", help="put the table into docs/results.md")
    parser.add_argument("notebooks", nargs="*", metavar="notebook", help=f"by default {', '.join(TASKS)}")
    arguments = parser.parse_args()
    commit = tables.current_commit("seeds")
    path = RESULTS / f"seeds-{arguments.data}-{'cuda' if torch.cuda.is_available() else 'cpu'}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    for name in chosen(parser, [Path(name).stem for name in arguments.notebooks], TASKS):
        code, saved = fingerprint(read(name)), read(name)
        if arguments.data == "real" and saved.metadata.get("hw4", {}).get("fingerprint") == code:
            add(known, name, code, *results(saved))
        for seed in arguments.seed or (1, 2):
            result = execute(name, arguments.data, {"seed": seed}, build=BUILD / f"seed-{seed}")
            if "error" in result:
                sys.exit(f"{name} with seed {seed} stopped: {result['error']}")
            add(known, name, code, result)
            path.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    codes = {name: fingerprint(read(name)) for name in TASKS}
    lines = table({name: known[name] for name in TASKS if known.get(name, {}).get("fingerprint") == codes[name]})
    print("\n".join(lines))
    if arguments.write:
        tables.write("seeds", lines, commit)
    return 0


if __name__ == "__main__":
    sys.exit(main())
