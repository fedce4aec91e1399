"""Execute the notebooks from top to bottom, with other settings where asked, and print their results as a table.

Everything is written below build/; a user's runs/ is never touched.

Usage: python -m tools.run_notebooks [--data sample|real|auto] [--in-place] [notebook ...] [--set seed=2 epochs=1]
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from unittest.mock import patch

import nbformat
import papermill

from common.config import ELSEWHERE, FURTHER, configure
from tools.notebooks import ROOT, TASKS, clean, definitions, fingerprint, read, results

BUILD = ROOT / "build"
PLACES = {"data_dir", "device"}  # where the data lie and what computes: fine for saved notebooks too
REPLACED = {"data": "choose it by --data (make: DATA=...)", "runs": "whatever is executed here writes below build/"}


def from_environment() -> dict[str, str]:
    """The settings that the user's environment holds; a line names those that are not used here."""
    given = {name.removeprefix("HW4_").lower(): os.environ[name] for name in os.environ if name.startswith("HW4_")}
    given = {key: value for key, value in given.items() if f"HW4_{key.upper()}" not in ELSEWHERE and value}
    for key in given.keys() & REPLACED.keys():
        print(f"HW4_{key.upper()}={given.pop(key)} in the environment is not used: {REPLACED[key]}")
    return given


def check_settings(names: Iterable[str], settings: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The settings that each notebook has, all of them tried out.

    Raises:
        ValueError, TypeError: for a name that no notebook has, or a value that a notebook refuses.
    """
    with patch.dict(os.environ, _environment({}), clear=True):
        modules = {name: definitions(name) for name in names}
    known = {
        name: {field.name for field in fields(module.Config)}
        | {f"further_{field.name}" for field in fields(module.Further)}
        for name, module in modules.items()
    }
    for setting in settings:
        if setting in REPLACED:
            raise ValueError(f"{setting}={settings[setting]}: {REPLACED[setting]}")
        if not any(setting in each for each in known.values()):
            expected = ", ".join(sorted(set().union(*known.values()) - REPLACED.keys()))
            raise ValueError(f"{setting}={settings[setting]}: no setting of {', '.join(known)}: expected {expected}")
    chosen = {name: {key: value for key, value in settings.items() if key in known[name]} for name in known}
    for name, module in modules.items():
        with patch.dict(os.environ, _environment(chosen[name]), clear=True):
            configure(module.Config)
            configure(module.Further, FURTHER)
    return chosen


def _environment(settings: Mapping[str, object]) -> dict[str, str]:
    """The user's environment with these settings in place of the user's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HW4_") or name in ELSEWHERE}
    return kept | {f"HW4_{name.upper()}": str(value) for name, value in settings.items()}


def run_file(notebook: Path, copy: Path, folder: Path, settings: Mapping[str, object]) -> str:
    """Execute a notebook in a folder; returns the error that ended it, or "". Its TensorBoard servers end with it."""
    environment = _environment(settings)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"  # the kernel's Python
    environment["TQDM_MININTERVAL"] = "10"  # seconds; every refresh of a progress bar would land in the notebook
    with tempfile.TemporaryDirectory() as temporary:
        try:
            with patch.dict(os.environ, environment | {"TMPDIR": temporary}, clear=True):
                papermill.execute_notebook(
                    str(notebook),
                    str(copy),
                    cwd=str(folder),
                    kernel_name="python3",
                    stdout_file=sys.stdout,
                    progress_bar=sys.stderr.isatty(),
                    start_timeout=600,
                    iopub_timeout=600,  # seconds, for busy machines
                )
        except papermill.PapermillExecutionError as failure:
            print(failure, file=sys.stderr)
            return f"{failure.ename}: {failure.evalue}"
        finally:
            for server in Path(temporary).glob(".tensorboard-info/*.info"):
                with suppress(ProcessLookupError):
                    os.kill(json.loads(server.read_text(encoding="utf-8"))["pid"], signal.SIGTERM)
    return ""


def execute(
    name: str,
    data: str = "sample",
    settings: Mapping[str, object] | None = None,
    *,
    build: Path = BUILD,
    publish: bool = False,
) -> tuple[list[dict], str]:
    """Execute one notebook; the copy is ``build/<data>/<name>.ipynb``, logs and checkpoints go to ``build/runs``.

    Args:
        name: ``hw4_rnn``, ``hw4_seq2seq`` or ``hw4_vit``.
        data: ``sample``, ``real`` or ``auto``.
        settings: fields of the notebook's settings to override, such as ``{"seed": 2, "further_epochs": 3}``.
        build: a folder.
        publish: leave out of the copy what may not be published, see :func:`tools.notebooks.clean`.

    Returns:
        What its ``RESULT`` lines state, each with the ``seconds`` of its part, and the error that ended it, or "".
    """
    runs, copy = build / "runs", build / data / f"{name}.ipynb"
    if publish or data == "sample":  # one whole training, never from a checkpoint of an earlier state of the code
        shutil.rmtree(runs / TASKS[name] / data, ignore_errors=True)
    copy.parent.mkdir(parents=True, exist_ok=True)
    code = fingerprint(read(name, ROOT), ROOT)
    settings = {**(settings or {}), "data": data, "runs": os.path.relpath(runs, ROOT)}
    error = run_file(ROOT / f"{name}.ipynb", copy, ROOT, settings)
    executed = nbformat.read(copy, as_version=4)
    nbformat.write(clean(executed, publish), copy)
    stated = results(executed)
    if not error and [result["part"] for result in stated] != ["assignment", "further"]:
        error = f"it states {[result['part'] for result in stated]}: expected a result for assignment and for further"
    if not error and publish and any(result["data"] != "real" for result in stated):
        error = "its results are not all on real data"
    if not error and publish and fingerprint(read(name, ROOT), ROOT) != code:
        error = "the code was changed while it ran"
    return stated, error


def table(outcomes: Mapping[str, tuple[list[dict], str, float]]) -> str:
    """Two lines a notebook; one that stopped has a line with its error."""
    form = "{:<12} {:<7} {:<10} {:<20} {:>8} {:>6} {:<6} {:>7}"
    lines = [form.format("notebook", "data", "part", "metric", "value", "target", "passed", "seconds")]
    for name, (stated, error, seconds) in outcomes.items():
        for result in stated:
            words = [name, result["data"], result["part"], result["metric"], f"{result['value']:.2f}"]
            passed = "yes" if result["passed"] else "no"
            lines.append(form.format(*words, f"{result['target']:g}", passed, f"{result['seconds']:.0f}"))
        if error:
            lines.append(f"{name:<12} stopped after {seconds:.0f} s: {error[:90]}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=("auto", "real", "sample"), default="sample")
    parser.add_argument("--in-place", action="store_true", help="replace the committed notebooks; real data only")
    parser.add_argument("--set", nargs="+", default=[], metavar="name=value", help="settings, such as further_epochs=3")
    parser.add_argument("notebooks", nargs="*", metavar="notebook", help=f"by default {', '.join(TASKS)}")
    arguments = parser.parse_args()
    names = [Path(name).stem for name in arguments.notebooks] or list(TASKS)
    data = "real" if arguments.in_place else arguments.data
    try:
        if unknown := sorted(set(names) - set(TASKS)):
            raise ValueError(f"unknown notebook {unknown[0]}: expected {', '.join(TASKS)}")
        if wrong := [setting for setting in arguments.set if "=" not in setting]:
            raise ValueError(f"--set {wrong[0]}: expected name=value, such as seed=2")
        given = from_environment() | dict(setting.split("=", 1) for setting in arguments.set)
        if arguments.in_place and (own := sorted(given.keys() - PLACES)):
            raise ValueError(f"{own[0]}={given[own[0]]}: a saved notebook shows its own settings: leave this one out")
        settings = check_settings(names, given)
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    outcomes = {}
    for name in names:
        words = "".join(f" {key}={value}" for key, value in settings[name].items())
        print(f"\n--- {name} on {data} data{words} -> {(BUILD / data / name).relative_to(ROOT)}.ipynb", flush=True)
        began = time.time()
        stated, error = execute(name, data, settings[name], build=BUILD, publish=arguments.in_place)
        outcomes[name] = stated, error, time.time() - began
        if arguments.in_place and not error:
            shutil.copyfile(BUILD / data / f"{name}.ipynb", ROOT / f"{name}.ipynb")
    print(f"\n{table(outcomes)}")
    return 0 if all(not error and all(r["passed"] for r in stated) for stated, error, _ in outcomes.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
