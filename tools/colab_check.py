"""Open the project as Colab would, on Colab's own Python: a throw-away Debian root that holds what a stock Colab has.

Each notebook runs twice on samples, with a stand-in for ``google.colab``: opened from ``/content`` with the project on
a Drive that appears when it is mounted, and standalone in an empty folder, where Drive refuses. The last table tells
what the setup cell installed or changed. Needs root rights, Debian's debootstrap, a network, 8 GB and half an hour.

Usage: python -m tools.colab_check [--root build/colab] [--keep] [--write]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools import standalone, tables
from tools.folders import check_folder, fresh_folder
from tools.notebooks import ROOT, TASKS, copy_project
from tools.publish import publish

# Colab's own, too old for the papermill that the tests run, and therefore not in constraints.txt.
RUNTIME = ["ipython==7.34.0", "ipykernel==6.17.1", "ipywidgets==7.7.1", "nbclient==0.10.4"]
PYTHON = "/opt/colab/bin/python"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
STAND_IN = """
import os, sys, types
colab, drive = types.ModuleType("google.colab"), types.ModuleType("google.colab.drive")
def mount(place):
    if os.environ.get("STAND_IN_DRIVE") == "refused":
        raise ValueError("mount failed")
    os.makedirs(place, exist_ok=True)
    if not os.path.islink(place + "/MyDrive"):
        os.symlink("/hidden-drive", place + "/MyDrive")
drive.mount, colab.drive = mount, drive
sys.modules.update({"google.colab": colab, "google.colab.drive": drive})  # beside the real google.protobuf
"""
EXECUTE = """
import os, sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], 4)
place = {"metadata": {"path": os.path.dirname(sys.argv[1])}}
nbclient.NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=place).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        if output.get("name") == "stdout" and ("installing" in output.text or "RESULT" in output.text):
            print(cell.execution_count, output.text.strip().splitlines()[-1])
"""
PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "http_proxy", "https_proxy", "no_proxy")


def inside(root: Path, *command: str, **environment: str) -> str:
    """Run a command in the root, with a bare environment; returns what it printed."""
    bare = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    bare |= {
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PATH": "/opt/colab/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
    } | environment
    done = subprocess.run(["chroot", root, *command], env=bare, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode} in {root}: {done.stdout[-500:]}")
    return done.stdout


def make_root(root: Path) -> None:
    """Make Debian trixie with Python, and a virtual environment with the stock packages."""
    fresh_folder(root, "tools.colab_check")
    include = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", include, "trixie", root], check=True, stdout=subprocess.DEVNULL)
    for file in (Path(CERTIFICATES), Path("/etc/resolv.conf")):  # this machine's own way to the network
        if file.exists():
            shutil.copy(file, root / file.relative_to("/"))
    stock = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and line[0] != "#"]
    stock = [line for line in stock if not line.startswith("torchtext")] + RUNTIME
    inside(root, "python3", "-m", "venv", "/opt/colab")
    inside(root, PYTHON, "-m", "pip", "install", "-q", "--no-cache-dir", f"--cert={CERTIFICATES}", *stock)


def put_project(root: Path) -> None:
    """Put the project on Drive, its notebooks into /content, standalone ones into /alone/<name>; and the stand-in."""
    for place in ("hidden-drive", "content", "alone"):
        shutil.rmtree(root / place, ignore_errors=True)
    project = copy_project(root / "hidden-drive" / "hw4")
    publish("", root=project)  # a published setup cell would clone it instead
    (root / "content").mkdir()
    for name in TASKS:
        shutil.copy(project / f"{name}.ipynb", root / "content")
    for path in standalone.build(root / "alone"):
        path.with_suffix("").mkdir()
        path.rename(path.with_suffix("") / path.name)
    startup = root / "root" / ".ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "00-colab.py").write_text(STAND_IN)
    (root / "execute.py").write_text(EXECUTE)


def packages(root: Path) -> dict[str, str]:
    listed = json.loads(inside(root, PYTHON, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"))
    return {package["name"]: package["version"] for package in listed}


def run_all(root: Path) -> tuple[list[str], bool]:
    """Run every notebook from Drive and standalone; returns the table's lines, and whether all passed."""
    lines, passed = (
        ["| notebook, on samples | opened | metric | reached | target |", "| --- | --- | --- | --- | --- |"],
        True,
    )
    for name in TASKS:
        for way, path, drive in (
            ("from Drive", f"/content/{name}.ipynb", "granted"),
            ("standalone", f"/alone/{name}/{name}.ipynb", "refused"),
        ):
            print(f"{name} {way} ...", flush=True)
            settings = {"HW4_DATA": "sample", "PIP_CERT": CERTIFICATES, "STAND_IN_DRIVE": drive}
            output = inside(root, PYTHON, "/execute.py", path, **settings)
            print(output, flush=True)
            (stated,) = [line.partition("RESULT ")[2] for line in output.splitlines() if "RESULT " in line]
            result = json.loads(stated)
            lines.append(f"| {name} | {way} | {result['metric']} | {result['value']:.2f} | {result['target']:g} |")
            passed &= result["passed"]
    return lines, passed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT / "build" / "colab")
    parser.add_argument("--keep", action="store_true", help="keep the root, and use one that was kept")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/")
    arguments = parser.parse_args()
    root, commit = arguments.root.resolve(), tables.current_commit("colab-check")
    try:
        check_folder(root, "tools.colab_check")
    except FileExistsError as error:
        sys.exit(str(error))
    if os.geteuid() or not shutil.which("debootstrap"):
        sys.exit("this needs root rights and debootstrap: on Debian, apt-get install debootstrap")
    if os.path.ismount(root / "proc"):  # left by a run that was killed
        subprocess.run(["umount", root / "proc"], check=True)
    if not (root / "opt" / "colab" / "bin" / "jupyter").exists() or not arguments.keep:
        print(f"making {root}: Debian trixie with Colab's packages", flush=True)
        make_root(root)
    else:
        inside(root, PYTHON, "-m", "pip", "uninstall", "-q", "-y", "torchtext")
    put_project(root)
    before, python = packages(root), inside(root, PYTHON, "-c", "import platform; print(platform.python_version())")
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    try:
        results, passed = run_all(root)
    finally:
        subprocess.run(["umount", root / "proc"], check=True)
    after = packages(root)
    added = sorted(f"{name} {after[name]}" for name in after.keys() - before.keys())
    versions = {name: (version, after.get(name, "removed")) for name, version in before.items()}
    changed = sorted(f"{name} {old} -> {new}" for name, (old, new) in versions.items() if old != new)
    lines = ["| Python | torch | installed by the setup cell | changed or removed |", "| --- | --- | --- | --- |"]
    lines.append(f"| {python.strip()} | {before['torch']} | {', '.join(added)} | {', '.join(changed) or 'nothing'} |")
    lines += ["", *results]
    print("\n".join(lines))
    if arguments.write:
        tables.write("colab-check", lines, commit)
    if not arguments.keep:
        shutil.rmtree(root)
    return 0 if passed and not changed and [name.split()[0] for name in added] == ["torchtext"] else 1


if __name__ == "__main__":
    sys.exit(main())
