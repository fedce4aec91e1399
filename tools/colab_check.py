"""Open the project as Colab would, on Colab's own Python: a throw-away Debian root that holds what a stock Colab has.

The notebooks lie alone in ``/content``, the project on a Drive that appears when it is mounted, and ``google.colab`` is
a stand-in. Each notebook runs on samples. The last table tells what the setup cell installed or changed; it is put
into the README. Needs root rights, Debian's debootstrap, a network, 8 GB of disk and some fifteen minutes.

Usage: python -m tools.colab_check [--root build/colab] [--keep]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tools.notebooks import ROOT, TASKS, copy_project
from tools.proof import head, put_into_readme

# Colab's own, too old for the papermill that the tests run, and therefore not in constraints.txt.
RUNTIME = ["ipython==7.34.0", "ipykernel==6.17.1", "ipywidgets==7.7.1", "nbclient==0.10.4"]
PYTHON = "/opt/colab/bin/python"
STAND_IN = """
import os, sys, types
colab, drive = types.ModuleType("google.colab"), types.ModuleType("google.colab.drive")
def mount(place):
    os.makedirs(place, exist_ok=True)
    if not os.path.islink(place + "/MyDrive"):
        os.symlink("/hidden-drive", place + "/MyDrive")
drive.mount, colab.drive = mount, drive
sys.modules.update({"google.colab": colab, "google.colab.drive": drive})  # beside the real google.protobuf
"""
EXECUTE = """
import sys, nbformat, nbclient
notebook = nbformat.read(sys.argv[1], 4)
place = {"metadata": {"path": "/content"}}
nbclient.NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=place).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        if output.get("name") == "stdout" and ("installing" in output.text or "RESULT" in output.text):
            print(cell.execution_count, output.text.strip().splitlines()[-1])
"""
PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "http_proxy", "https_proxy", "no_proxy")


def inside(root: Path, *command: str, **environment: str) -> str:
    """Run a command in the root, with a bare environment; returns what it printed."""
    own = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    own |= {
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        "PATH": "/opt/colab/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LANG": "C.UTF-8",
    } | environment
    done = subprocess.run(["chroot", root, *command], env=own, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode} in {root}: {done.stdout[-500:]}")
    return done.stdout


def make_root(root: Path) -> None:
    """Debian trixie with Python, and a virtual environment with the stock packages."""
    include = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(["debootstrap", "--variant=minbase", include, "trixie", root], check=True, stdout=subprocess.DEVNULL)
    certificates = Path("/etc/ssl/certs/ca-certificates.crt")
    for file in (certificates, Path("/etc/resolv.conf")):  # this machine's own way to the network
        if file.exists():
            shutil.copy(file, root / file.relative_to("/"))
    stock = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line and line[0] != "#"]
    stock = [line for line in stock if not line.startswith("torchtext")] + RUNTIME
    inside(root, "python3", "-m", "venv", "/opt/colab")
    inside(root, PYTHON, "-m", "pip", "install", "-q", "--no-cache-dir", f"--cert={certificates}", *stock)


def put_project(root: Path) -> None:
    """The project on Drive, its notebooks alone in /content, and the stand-in for google.colab."""
    copy_project(root / "hidden-drive" / "hw4")
    (root / "content").mkdir(exist_ok=True)
    for name in TASKS:
        shutil.copy(ROOT / f"{name}.ipynb", root / "content")
    startup = root / "root" / ".ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "00-colab.py").write_text(STAND_IN)
    (root / "execute.py").write_text(EXECUTE)


def packages(root: Path) -> dict[str, str]:
    listed = json.loads(inside(root, PYTHON, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"))
    return {package["name"]: package["version"] for package in listed}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=ROOT / "build" / "colab")
    parser.add_argument("--keep", action="store_true", help="keep the root, and use one that was kept")
    arguments = parser.parse_args()
    root, commit = arguments.root.resolve(), head()
    if os.geteuid() or not shutil.which("debootstrap"):
        sys.exit("this needs root rights and debootstrap: on Debian, apt-get install debootstrap")
    if os.path.ismount(root / "proc"):  # left by a run that was killed
        subprocess.run(["umount", root / "proc"], check=True)
    if not (root / "opt" / "colab" / "bin" / "jupyter").exists() or not arguments.keep:
        shutil.rmtree(root, ignore_errors=True)
        print(f"making {root}: Debian trixie with Colab's packages", flush=True)
        make_root(root)
    else:
        inside(root, PYTHON, "-m", "pip", "uninstall", "-q", "-y", "torchtext")
        shutil.rmtree(root / "hidden-drive", ignore_errors=True)
    put_project(root)
    before, python = packages(root), inside(root, PYTHON, "-c", "import platform; print(platform.python_version())")
    lines = ["| Python | torch | installed by the setup cell | changed or removed |", "| --- | --- | --- | --- |"]
    said, passed = [], True
    subprocess.run(["mount", "-t", "proc", "proc", root / "proc"], check=True)
    try:
        for name in TASKS:
            print(f"{name} ...", flush=True)
            output = inside(root, PYTHON, "/execute.py", f"/content/{name}.ipynb", HW4_DATA="sample",
                            PIP_CERT="/etc/ssl/certs/ca-certificates.crt")  # fmt: skip
            print(output, flush=True)
            (stated,) = [line.partition("RESULT ")[2] for line in output.splitlines() if "RESULT " in line]
            result = json.loads(stated)
            said.append(f"| {name} | {result['metric']} | {result['value']:.2f} | {result['bar']:g} |")
            passed &= result["passed"]
    finally:
        subprocess.run(["umount", root / "proc"], check=True)
    after = packages(root)
    added = sorted(f"{name} {after[name]}" for name in after.keys() - before.keys())
    changed = sorted(f"{name} {before[name]} -> {after.get(name, 'removed')}"
                     for name in before if after.get(name) != before[name])  # fmt: skip
    lines.append(f"| {python.strip()} | {before['torch']} | {', '.join(added)} | {', '.join(changed) or 'nothing'} |")
    lines += ["", "| notebook, on samples | metric | reached | bar |", "| --- | --- | --- | --- |", *said]
    print("\n".join(lines))
    put_into_readme("colab-check", "\n".join(lines), commit)
    if not arguments.keep:
        shutil.rmtree(root)
    return 0 if passed and not changed and [name.split()[0] for name in added] == ["torchtext"] else 1


if __name__ == "__main__":
    sys.exit(main())
