"""For every test: options, and fixtures that tests of meshkit and of the lab share: the lab and the browser."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from meshkit.kube import mesh

# One lab serves both folders: a fixture that each of two conftest.py had would start it twice.
pytest_plugins = ["tests.support.lab_fixtures", "tests.support.browser"]

# What is wrong in our own reading of good answers must fail a test, not become an unknown.
mesh.mistakes_are_raised = True
# A test judges what is said, not how fast a shared machine says it. CI repeats the same examples: whose change did not
# touch them is not stopped by a new one. Everybody else's run tries new ones.
settings.register_profile("meshkit", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("meshkit")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option by which a changed contract is written down; see tests/api_server/test_contracts.py."""
    parser.addoption("--update-golden", action="store_true", help="write the present contracts into the golden files")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to rewrite contracts where nobody looks at the difference.

    Raises:
        pytest.UsageError: it was asked for in CI.
    """
    if config.getoption("--update-golden") and os.environ.get("CI"):
        raise pytest.UsageError("--update-golden is refused in CI: run it on your machine, and commit the difference")
