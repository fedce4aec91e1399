"""Execute the notebooks from top to bottom and say in one table what they reached.

Usage: python -m tools.run_notebooks [--data sample|real|auto] [--in-place] [notebook ...]
"""

import argparse
import json
import os
import shutil
import sys
import time
from pathlib import Path

import nbformat
import papermill
import psutil

from tools.notebooks import ROOT, TASKS, chosen, clean


def servers() -> set[psutil.Process]:
    """The TensorBoard servers that run in this folder."""
    found = set()
    for process in psutil.process_iter(["cmdline", "cwd"]):
        command = process.info["cmdline"] or []
        if any("tensorboard" in part for part in command[:2]) and process.info["cwd"] == str(ROOT):
            found.add(process)
    return found


def execute(name: str, data: str, in_place: bool) -> dict:
    """Run one notebook; returns its result, or what went wrong under ``error``."""
    os.environ["HW4_DATA"] = data
    os.environ["TQDM_MININTERVAL"] = "10"  # seconds; a bar's every refresh would land in the notebook
    os.environ["PATH"] = (
        f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where the kernel's Python is
    )
    runs = ROOT / "runs" / TASKS[name]
    result_file = runs / "result.json"
    result_file.unlink(missing_ok=True)
    if in_place or data == "sample":  # one whole training, never from a checkpoint of an earlier state of the code
        shutil.rmtree(runs / data, ignore_errors=True)
    copy = ROOT / "build" / data / f"{name}.ipynb"
    copy.parent.mkdir(parents=True, exist_ok=True)
    print(f"\n--- {name} on {data} data -> {copy.relative_to(ROOT)}", flush=True)
    began, error, running = time.time(), None, servers()
    try:
        papermill.execute_notebook(
            str(ROOT / f"{name}.ipynb"), str(copy), cwd=str(ROOT), kernel_name="python3",
            stdout_file=sys.stdout, progress_bar=sys.stderr.isatty(),
        )  # fmt: skip
    except papermill.PapermillExecutionError as failure:
        error = f"{failure.ename}: {failure.evalue}"
        print(failure, file=sys.stderr)
    finally:
        for server in servers() - running:  # they would outlive the notebook that started them
            server.terminate()
    if error or not result_file.exists():
        return {"error": error or "no RESULT", "seconds": time.time() - began}
    notebook = clean(nbformat.read(copy, as_version=4), publish=in_place)
    nbformat.write(notebook, copy)
    result = json.loads(result_file.read_text())
    if in_place and result["data"] != "real":
        return {"error": f"data is {result['data']}, nothing replaced", "seconds": result["seconds"]}
    if in_place:
        shutil.copyfile(copy, ROOT / f"{name}.ipynb")
    return result | {"seconds": time.time() - began}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("auto", "real", "sample"), default="sample")
    parser.add_argument("--in-place", action="store_true", help="replace the committed notebooks; real data only")
    parser.add_argument("notebooks", nargs="*", metavar="notebook", help=f"by default {', '.join(TASKS)}")
    arguments = parser.parse_args()
    names = chosen(parser, [Path(name).stem for name in arguments.notebooks], TASKS)
    data = "real" if arguments.in_place else arguments.data
    results = {name: execute(name, data, arguments.in_place) for name in names}
    print(f"\n{'notebook':<12} {'data':<7} {'metric':<20} {'value':>8} {'bar':>6} {'passed':<7} {'seconds':>7}")
    for name, r in results.items():
        if "error" in r:
            print(f"{name:<12} {data:<7} {r['error'][:60]:<44} {'no':<7} {r['seconds']:>7.0f}")
        else:
            print(f"{name:<12} {r['data']:<7} {r['metric']:<20} {r['value']:>8.2f} {r['bar']:>6g} "
                  f"{'yes' if r['passed'] else 'no':<7} {r['seconds']:>7.0f}")  # fmt: skip
    return 0 if all(r.get("passed") for r in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
