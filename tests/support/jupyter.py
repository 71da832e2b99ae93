"""A real JupyterLab in a real browser: Debian's Chromium, driven by playwright."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Browser, Locator, Page, expect

TOKEN = "meshkit"
PATIENCE = 60_000
"""Milliseconds until something is seen: of a browser on a busy machine."""
SERIOUS = ("serious", "critical")
THEMES = "@jupyterlab/apputils-extension:themes"
QUIET = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}

OPENED = "window.jupyterapp?.shell.currentWidget?.sessionContext !== undefined"
RUN_ALL = """async () => {
  const { shell, commands } = window.jupyterapp;
  await shell.currentWidget.context.ready;
  await shell.currentWidget.sessionContext.ready;
  await commands.execute("notebook:run-all-cells");
}"""
RUN_ONE = """async (place) => {
  const { shell, commands } = window.jupyterapp;
  shell.currentWidget.content.activeCellIndex = place;
  await commands.execute("notebook:run-cell");
}"""


class JupyterLab:
    """JupyterLab on a folder, and a browser page in it."""

    def __init__(self, folder: Path, url: str, page: Page) -> None:
        self.folder, self.url, self.page = folder, url, page

    def set(self, plugin: str, settings: dict[str, Any]) -> None:
        """Change settings, as the user's settings editor does."""
        body = json.dumps({"raw": json.dumps(settings)}).encode()
        address = f"{self.url}/lab/api/settings/{plugin}?token={TOKEN}"
        with urllib.request.urlopen(urllib.request.Request(address, body, method="PUT"), timeout=30) as answer:  # noqa: S310
            assert answer.status == 204

    def write(self, name: str, *cells: str) -> str:
        """Write a notebook of code cells, and return its name."""
        metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3"}, "language_info": {"name": "python"}}
        nbformat.write(new_notebook(cells=[new_code_cell(one) for one in cells], metadata=metadata), self.folder / name)
        return name

    def run(self, name: str) -> None:
        """Open a notebook and run all of its cells."""
        self.page.goto(f"{self.url}/lab/tree/{name}?token={TOKEN}&reset")
        self.page.wait_for_function(OPENED)
        self.page.evaluate(RUN_ALL)

    def run_cell(self, place: int) -> None:
        """Run one cell."""
        self.page.evaluate(RUN_ONE, place)

    def panel(self, label: str) -> Locator:
        """Return the widget of the notebook with a label, once it is there."""
        found = self.page.get_by_role("region", name=label, exact=True)
        found.wait_for()
        return found

    def picture(self, panel: Locator, name: str) -> None:
        """Take a picture for the docs, if $MESHKIT_PICTURES names a folder."""
        if folder := os.environ.get("MESHKIT_PICTURES"):
            panel.screenshot(path=Path(folder) / f"{name}.png")

    def save(self, name: str) -> Any:
        """Save the open notebook, and return what is in its file."""
        self.page.evaluate("window.jupyterapp.commands.execute('docmanager:save')")
        return nbformat.read(self.folder / name, as_version=4)

    def serious(self, within: str = ".mk-panel") -> list[str]:
        """Return what axe-core finds that keeps people out: rule, and the first place."""
        found = Axe().run(self.page, context=within).response["violations"]
        return [f"{one['id']}: {one['nodes'][0]['html'][:200]}" for one in found if one["impact"] in SERIOUS]


@contextlib.contextmanager
def jupyterlab(folder: Path, browser: Browser) -> Iterator[JupyterLab]:
    """Start JupyterLab on a folder, open a page of a browser, and end both."""
    private = folder / ".jupyter"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    env = {**os.environ, "JUPYTER_CONFIG_DIR": str(private), "JUPYTERLAB_SETTINGS_DIR": str(private / "settings")}
    options = [
        "--no-browser", "--allow-root", f"--ServerApp.root_dir={folder}", f"--ServerApp.port={port}",
        f"--IdentityProvider.token={TOKEN}", "--ServerApp.port_retries=0", "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    with (
        (folder / "jupyterlab.log").open("wb") as log,
        subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=env, stdout=log, stderr=log) as server,
    ):
        try:
            _wait(url, server, folder / "jupyterlab.log")
            page = browser.new_page(viewport={"width": 1280, "height": 1500})
            page.set_default_timeout(PATIENCE)
            expect.set_options(PATIENCE)
            lab = JupyterLab(folder, url, page)
            for plugin, settings in QUIET.items():
                lab.set(plugin, settings)
            yield lab
            page.close()
        finally:
            server.terminate()


def _wait(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 300
    while time.monotonic() < until and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/api?token={TOKEN}", timeout=5):  # noqa: S310
            return
        time.sleep(0.5)
    pytest.fail(f"JupyterLab does not answer:\n{log.read_text()[-2000:]}")
