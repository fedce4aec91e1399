"""Execute the notebooks from top to bottom, with other settings where asked, and print their results as a table.

Everything is written below build/; a user's runs/ is never touched.

Usage: python -m tools.run_notebooks [--data sample|real|auto] [--in-place] [notebook ...] [--set seed=2 epochs=1]
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from unittest.mock import patch

import nbformat
import papermill
import psutil

from tools.notebooks import ROOT, TASKS, chosen, clean, definitions, fingerprint, read

BUILD = ROOT / "build"
PLACES = {"HW4_DATA_DIR", "HW4_DEVICE"}  # where the data lie and what computes: fine for saved notebooks too


def tensorboard_servers() -> set[psutil.Process]:
    """The TensorBoard servers that run in this folder."""
    found = set()
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        if any("tensorboard" in part for part in command[:2]) and process.info["cwd"] == str(ROOT):
            found.add(process)
    return found


def _environment(settings: Mapping[str, object], publish: bool) -> dict[str, str]:
    """The environment of the notebook's kernel; a notebook to publish gets none of the user's own settings."""
    kept = {
        name: value for name, value in os.environ.items() if not (publish and name.startswith("HW4_")) or name in PLACES
    }
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"  # where the kernel's Python is
    kept["TQDM_MININTERVAL"] = "10"  # seconds; every refresh of a progress bar would land in the notebook
    return kept | {f"HW4_{name.upper()}": str(value) for name, value in settings.items()}


def execute(
    name: str,
    data: str = "sample",
    settings: Mapping[str, object] | None = None,
    *,
    build: Path = BUILD,
    publish: bool = False,
) -> dict:
    """Execute one notebook and return its result.

    Args:
        name: ``hw4_rnn``, ``hw4_seq2seq`` or ``hw4_vit``.
        data: ``sample``, ``real`` or ``auto``.
        settings: fields of the notebook's ``Config`` to override, such as ``{"seed": 2}``.
        build: a folder; logs and checkpoints go to ``build/runs``, the executed copy to ``build/<data>/<name>.ipynb``.
        publish: leave out of the copy what may not be published, see :func:`tools.notebooks.clean`.

    Returns:
        What ``RESULT`` states, with ``seconds`` of the whole execution; after a failure, ``error`` in its place.
    """
    runs = build / "runs" / TASKS[name]
    if publish or data == "sample":  # one whole training, never from a checkpoint of an earlier state of the code
        shutil.rmtree(runs / data, ignore_errors=True)
    for result in runs.glob("*/result.json"):
        result.unlink()
    copy = build / data / f"{name}.ipynb"
    copy.parent.mkdir(parents=True, exist_ok=True)
    folder = os.path.relpath(build / "runs", ROOT)  # no path of this machine in the outputs
    environment = _environment({**(settings or {}), "data": data, "runs": folder}, publish)
    code, servers = fingerprint(read(name)), tensorboard_servers()
    began, error = time.time(), None
    try:
        with patch.dict(os.environ, environment, clear=True):
            papermill.execute_notebook(
                str(ROOT / f"{name}.ipynb"),
                str(copy),
                cwd=str(ROOT),
                kernel_name="python3",
                stdout_file=sys.stdout,
                progress_bar=sys.stderr.isatty(),
            )
    except papermill.PapermillExecutionError as failure:
        error = f"{failure.ename}: {failure.evalue}"
        print(failure, file=sys.stderr)
    finally:
        for server in tensorboard_servers() - servers:  # they would outlive the notebook that started them
            server.terminate()
    nbformat.write(clean(nbformat.read(copy, as_version=4), publish), copy)
    seconds, results = time.time() - began, list(runs.glob("*/result.json"))
    if not error and not results:
        error = "it wrote no result.json"
    if not error and publish and fingerprint(read(name)) != code:
        error = "the code was changed while it ran"
    result = {"error": error} if error else json.loads(results[0].read_text())
    if publish and result.get("data", "real") != "real":
        result = {"error": f"its data is {result['data']}, expected real"}
    return result | {"seconds": seconds}


def row(name: str, data: str, result: dict) -> str:
    """A line of the table."""
    if "error" in result:
        return f"{name:<12} {data:<7} {result['error'][:60]:<44} {'no':<7} {result['seconds']:>7.0f}"
    passed = "yes" if result["passed"] else "no"
    figures = f"{result['metric']:<20} {result['value']:>8.2f} {result['target']:>6g}"
    return f"{name:<12} {result['data']:<7} {figures} {passed:<7} {result['seconds']:>7.0f}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("auto", "real", "sample"), default="sample")
    parser.add_argument("--in-place", action="store_true", help="replace the committed notebooks; real data only")
    parser.add_argument("--set", nargs="+", default=[], metavar="name=value", help="settings of the notebook's Config")
    parser.add_argument("notebooks", nargs="*", metavar="notebook", help=f"by default {', '.join(TASKS)}")
    arguments = parser.parse_args()
    names = chosen(parser, [Path(name).stem for name in arguments.notebooks], TASKS)
    data = "real" if arguments.in_place else arguments.data
    if wrong := [setting for setting in arguments.set if "=" not in setting]:
        parser.error(f"--set {wrong[0]}: expected name=value, such as seed=2")
    if arguments.in_place and arguments.set:
        parser.error(
            "--in-place with --set: a saved notebook shows what its own settings lead to; leave one of them out"
        )
    settings = dict(setting.split("=", 1) for setting in arguments.set)
    known = {field.name for name in names if settings for field in fields(definitions(name).Config)}
    if unknown := sorted(settings.keys() - known):
        parser.error(
            f"--set {unknown[0]}=...: there is no such setting in {', '.join(names)}: {', '.join(sorted(known))}"
        )
    results = {}
    for name in names:
        print(f"\n--- {name} on {data} data -> {(BUILD / data / name).relative_to(ROOT)}.ipynb", flush=True)
        results[name] = execute(name, data, settings, publish=arguments.in_place)
        if arguments.in_place and "error" not in results[name]:
            shutil.copyfile(BUILD / data / f"{name}.ipynb", ROOT / f"{name}.ipynb")
    print(f"\n{'notebook':<12} {'data':<7} {'metric':<20} {'value':>8} {'target':>6} {'passed':<7} {'seconds':>7}")
    for name, result in results.items():
        print(row(name, data, result))
    return 0 if all(result.get("passed") for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
