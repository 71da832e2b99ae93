"""Debian's Chromium, driven by playwright: pages as people see and print them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser of this machine: `MESHKIT_TEST_BROWSER`, or one on the PATH. Without one a test fails, never skips.

    One for all tests: playwright refuses to begin a second time while it runs.
    """
    from playwright.sync_api import sync_playwright

    program = os.environ.get("MESHKIT_TEST_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.fail("no Chromium on the PATH: apt-get install -y chromium, or name one in MESHKIT_TEST_BROWSER")
    # Chromium's own sandbox refuses to run as root.
    flags = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=flags)
        yield chromium
        chromium.close()
