"""The notebooks as a person at a browser meets them: JupyterLab, driven in headless Chromium. ``make browser-test``."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from PIL import Image

from tools.notebooks import TASKS, copy_project

pytestmark = pytest.mark.browser
SHOTS = ROOT / "build" / "browser"


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[str]:
    """The address of a JupyterLab, in a copy of the project: the saved notebooks stay as they are."""
    folder = tmp_path_factory.mktemp("lab")
    project = copy_project(folder / "project")
    settings = {  # cells out of sight are drawn too, and nothing is fetched from outside
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }
    for place, values in settings.items():
        path = folder / "settings" / "@jupyterlab" / f"{place}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HW4_")}
    environment |= {"HW4_DATA": "sample", "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings")}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where TensorBoard is
    options = ["--no-browser", f"--ServerApp.port={port}", "--IdentityProvider.token="]
    with (SHOTS.parent / "lab.log").open("w") as log:
        command = [sys.executable, "-m", "jupyterlab", "--allow-root", *options]
        server = subprocess.Popen(command, cwd=project, env=environment, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    for _ in range(120):
        try:
            urllib.request.urlopen(f"{address}/api/status").close()
            break
        except OSError:
            assert server.poll() is None, f"JupyterLab did not start: {SHOTS.parent / 'lab.log'}"
            time.sleep(0.5)
    yield address
    os.killpg(server.pid, 15)  # with its kernels; TensorBoard servers belong to the group as well
    server.wait(30)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.fail("no Chromium found: on Debian, apt-get install chromium")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=quiet)
        yield browser
        browser.close()


def drawn(chart, enough) -> int:
    """The colored points of a chart, that is, of its curves; waits a while until there are enough of them."""
    for _ in range(20):
        picture = Image.open(io.BytesIO(chart.screenshot())).convert("HSV")
        colored = sum(saturation > 60 for saturation in picture.getdata(1))
        if enough(colored):
            break
        time.sleep(0.5)
    return colored


@pytest.mark.parametrize("name", TASKS)
def test_all_cells_run_and_tensorboard_draws_charts_whose_runs_can_be_hidden(lab, browser, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page = browser.new_page(viewport={"width": 1400, "height": 1400})
    page.goto(f"{lab}/lab/workspaces/{name}/tree/{name}.ipynb")
    page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for(timeout=60_000)
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for(timeout=120_000)  # sooner, it asks which kernel to start
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").click()
    page.locator(".lm-Menu-item", has_text="Run All Cells").first.click()
    result = page.locator(".jp-OutputArea-output", has_text='RESULT {"task"').filter(has_text='"data": "sample"')
    result.wait_for(timeout=900_000, state="attached")
    assert json.loads(result.inner_text().split("RESULT ")[1].splitlines()[0])["passed"]
    page.locator('.jp-Cell[data-status="busy"], .jp-InputPrompt:has-text("[*]")').first.wait_for(
        timeout=300_000, state="detached"
    )
    assert page.locator(".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.error']").count() == 0

    place = page.locator("iframe[id^=tensorboard-frame]")
    place.scroll_into_view_if_needed()
    frame = place.content_frame
    chart = frame.locator("scalar-card line-chart").first
    chart.wait_for(timeout=60_000)
    everything, *_, one = frame.locator("runs-data-table mat-checkbox input").all()
    assert drawn(chart, lambda colored: colored > 50) > 50
    page.screenshot(path=SHOTS / f"{name}-tensorboard.png")
    everything.click(force=True)
    assert drawn(chart, lambda colored: not colored) == 0
    one.click(force=True)
    assert drawn(chart, lambda colored: colored > 0) > 0
    one.click(force=True)
    assert drawn(chart, lambda colored: not colored) == 0
    result.scroll_into_view_if_needed()
    page.screenshot(path=SHOTS / f"{name}-result.png")
    page.close()
