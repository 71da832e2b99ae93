"""The project's files agree: pyproject.toml, environment.yml, requirements.lock, Makefile."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
CONDA_NAMES = {"kubernetes": "python-kubernetes"}
CONDA_ONLY = {"python", "pip"}


def declared() -> dict[str, Requirement]:
    """Return every requirement of both distributions, meshkit with its extras and the lab, but for each other."""
    lines: list[str] = []
    for folder in (ROOT, ROOT / "lab"):
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        lines += project["dependencies"]
        lines += [line for extra in project.get("optional-dependencies", {}).values() for line in extra]
    found = {canonicalize_name(r.name): r for r in map(Requirement, lines)}
    return {name: r for name, r in found.items() if name not in {"meshkit", "meshkit-lab"}}


def locked() -> dict[str, str]:
    """Return the version of each package of requirements.lock."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def conda() -> dict[str, Requirement]:
    """Return every requirement of environment.yml by its name in PyPI, the pip section's included."""
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    plain = [line for line in lines if isinstance(line, str)]
    by_pip = [line for part in lines if isinstance(part, dict) for line in part["pip"] if not line.startswith("--")]
    pypi = {conda: name for name, conda in CONDA_NAMES.items()}
    found = [Requirement(line) for line in [*plain, *by_pip]]
    return {pypi.get(r.name, canonicalize_name(r.name)): r for r in found if r.name not in CONDA_ONLY}


def test_conda_and_pyproject_ask_for_the_same_packages_and_versions() -> None:
    """Names and ranges are equal both ways."""
    ours = {name: r.specifier for name, r in declared().items()}
    assert {name: r.specifier for name, r in conda().items()} == ours


def test_conda_asks_for_the_python_of_pyproject() -> None:
    """The Python range is the same."""
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    python = next(Requirement(line) for line in lines if isinstance(line, str) and line.startswith("python "))
    assert str(python.specifier) == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]


def test_lock_pins_what_pyproject_asks_for() -> None:
    """Every declared package is pinned, within its range."""
    pins = locked()
    outside = [name for name, r in declared().items() if name not in pins or pins[name] not in r.specifier]
    assert not outside, f"`make lock` resolves them anew: {outside}"


def test_lock_names_no_host_and_no_place_on_a_disk() -> None:
    """The lock holds names and versions only."""
    text = (ROOT / "requirements.lock").read_text()
    assert not re.search(r"://|--index|--find-links| @ |(^|\s)/", text, re.MULTILINE)


@pytest.mark.parametrize("goal", ["demo", "unit", "test", "e2e", "lint", "drills", "setup"])
def test_make_refuses_an_old_python_in_a_clear_word(goal: str, tmp_path: Path) -> None:
    """A Python that is too old ends with exit code 2 and the remedy."""
    old = tmp_path / "python"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2" && exit 0\nexit 1\n')
    old.chmod(0o755)
    variables = [f"PYTHON={old}", f"VENV={tmp_path / 'venv'}"]
    done = subprocess.run(["make", *variables, goal], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed" in done.stderr
    assert f"make {goal} PYTHON=python3.12" in done.stderr


def test_ci_ends_with_the_tests_that_the_readme_names() -> None:
    """`.ci/run` is a program that ends with `make test`, so that pytest has the last word."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert script.read_text().rstrip().splitlines()[-1] == "make test"
    assert "make test" in (ROOT / "README.md").read_text()
