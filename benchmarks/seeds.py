"""How much the results depend on the seed: the notebooks executed with other seeds, and what both parts' lines say.

The seed decides over the split into training and validation (for translation, test as well), the first weights, the
order of the batches and dropout.

Usage: python -m benchmarks.seeds [--data sample|real] [--seeds 1 2] [-- notebook ...]
"""

import argparse
import statistics
import sys

from tools.notebooks import TASKS
from tools.run_notebooks import BUILD, check_settings, execute, from_environment


def measured(results: list[dict]) -> dict[tuple[str, str], float]:
    """The quantities that results state, by part and name: their metrics, and what was measured beside them."""
    found = {}
    for result in results:
        found[result["part"], result["metric"]] = result["value"]
        for name, item in result.items():
            if isinstance(item, float) and "seconds" not in name and name not in ("value", "target"):
                found[result["part"], name.replace("_", " ")] = item
    return found


def table(values: dict[str, dict[int, dict[tuple[str, str], float]]]) -> str:
    """Markdown: mean, lowest and highest value of each quantity, from notebook -> seed -> quantity -> value."""
    lines = ["| notebook | part | measured | seeds | mean | lowest | highest |", "| --- " * 7 + "|"]
    for name, by_seed in values.items():
        for part, quantity in next(iter(by_seed.values())):
            numbers = [found[part, quantity] for found in by_seed.values() if (part, quantity) in found]
            seeds = ", ".join(map(str, by_seed))
            spread = f"**{statistics.mean(numbers):.2f}** | {min(numbers):.2f} | {max(numbers):.2f}"
            lines.append(f"| {name} | {part} | {quantity} | {seeds} | {spread} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("real", "sample"), default="sample")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("notebooks", nargs="*", metavar="notebook", help=f"by default {', '.join(TASKS)}")
    arguments = parser.parse_args()
    names = arguments.notebooks or list(TASKS)
    if unknown := sorted(set(names) - set(TASKS)):
        parser.error(f"unknown notebook {unknown[0]}: expected {', '.join(TASKS)}")
    settings, values = check_settings(names, from_environment()), {}
    for name in names:
        for seed in arguments.seeds:
            build = BUILD / f"seed-{seed}"
            results, error = execute(name, arguments.data, {**settings[name], "seed": seed}, build=build)
            if error:
                sys.exit(f"{name} with seed {seed} stopped: {error}")
            values.setdefault(name, {})[seed] = measured(results)
            print(f"\n{table(values)}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
