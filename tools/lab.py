"""Open JupyterLab on the three notebooks, each in a tab.

Usage: python -m tools.lab [options of jupyter lab ...]
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from tools.notebooks import ROOT, TASKS


def workspace() -> dict:
    """What JupyterLab calls a workspace: the documents that are open, and where."""
    widgets = {f"notebook:{name}.ipynb": {"data": {"path": f"{name}.ipynb", "factory": "Notebook"}} for name in TASKS}
    dock = {"type": "tab-area", "currentIndex": 0, "widgets": list(widgets)}
    layout = {"main": {"dock": dock, "current": next(iter(widgets))}}
    return {"data": {"layout-restorer:data": layout, **widgets}, "metadata": {"id": "hw4"}}


def main() -> None:
    state = ROOT / "build" / "lab"  # apart from what the user keeps in a Jupyter of their own
    state.mkdir(parents=True, exist_ok=True)
    (state / "workspace.json").write_text(json.dumps(workspace()))
    environment = os.environ | {
        "JUPYTERLAB_WORKSPACES_DIR": str(state / "workspaces"),
        "JUPYTERLAB_SETTINGS_DIR": os.environ.get("JUPYTERLAB_SETTINGS_DIR", str(state / "settings")),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # where kernels look for tensorboard
    }
    lab = [sys.executable, "-m", "jupyterlab"]
    subprocess.run([*lab, "workspaces", "import", state / "workspace.json"], env=environment, check=True)
    options = ["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    options += [f"--ServerApp.root_dir={ROOT}", "--LabApp.default_url=/lab/workspaces/hw4", *sys.argv[1:]]
    os.chdir(ROOT)
    os.execve(sys.executable, [*lab, *options], environment)


if __name__ == "__main__":
    main()
