"""Wrong values of notebooks' parameters, and of what stages read of the mesh file: reported before anything is done."""

from __future__ import annotations

import contextlib
import io
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshkit import errors, parameters
from meshkit.cli import main
from meshkit.runs import parameters as runs_parameters
from meshkit.runs.run import stages
from meshkit.spec import MeshSpec
from tests.processes.cli.test_bad_input import GOOD, mesh_file, meshkit, refused

NOTEBOOKS = stages()


DECLARED = {number: runs_parameters.read(path) for number, path in NOTEBOOKS.items()}


TYPED = [(number, p) for number, known in DECLARED.items() for p in known if p.type != "str"]


NUMBERS = [(number, p) for number, p in TYPED if p.type in ("int", "float")]


ALL_STAGES = ("run", "mesh.yaml", "--mode", "apply")


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A private store of the test's own, in which no journal may appear."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    yield folder
    assert list(folder.rglob("journal.jsonl")) == []


def in_process(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the command line here: a new process for each of so many values takes minutes."""
    out, err = io.StringIO(), io.StringIO()
    quiet = contextlib.redirect_stdout(out), contextlib.redirect_stderr(err)
    with contextlib.chdir(folder), quiet[0], quiet[1], pytest.raises(SystemExit) as ended:
        main.main(argv)
    return subprocess.CompletedProcess(argv, int(str(ended.value.code)), out.getvalue(), err.getvalue())


def refuse(folder: Path, argv: tuple[str, ...], *words: str, spec: dict[str, Any] | None = None) -> None:
    """Assert that a command line is refused, with exit code 2 and all of the words, and that nothing is written."""
    mesh_file(folder, {**GOOD, **(spec or {})})
    before = sorted(folder.rglob("*"))
    refused(in_process(folder, *argv), 2, *words)
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("number", NOTEBOOKS)
def test_an_unknown_name_is_refused_for_each_notebook(tmp_path: Path, number: str) -> None:
    """With the nearest that the notebook knows."""
    refuse(
        tmp_path,
        ("run", "mesh.yaml", "--only", number, "-p", "mush_file", "1"),
        "'mush_file'",
        "did you mean 'mesh_file'",
    )


@pytest.mark.parametrize(("number", "parameter"), TYPED, ids=[f"{n}-{p.name}" for n, p in TYPED])
def test_a_wrong_type_is_refused_for_each_parameter_that_is_no_text(
    tmp_path: Path, number: str, parameter: runs_parameters.Parameter
) -> None:
    """With the type that is expected, and what the parameter is for."""
    argv = ("run", "mesh.yaml", "--mode", "apply", "--only", number, "-p", parameter.name, "maybe")
    refuse(tmp_path, argv, parameter.name, NOTEBOOKS[number].name, f"expected {parameter.type}", parameter.help)


@pytest.mark.parametrize(("number", "parameter"), NUMBERS, ids=[f"{n}-{p.name}" for n, p in NUMBERS])
def test_each_number_has_a_least_that_is_held_before_the_first_stage_runs(
    tmp_path: Path, number: str, parameter: runs_parameters.Parameter
) -> None:
    """Not by its own stage, after nine others changed the mesh."""
    wrong = [str(parameters.LEAST[parameter.name] - 1), *(("nan", "inf") if parameter.type == "float" else ())]
    for value in wrong:
        refuse(
            tmp_path, (*ALL_STAGES, "-p", parameter.name, value), f"parameter {parameter.name}", f"got {value}", "from"
        )
    assert number in ("08", "09", "10")


@pytest.mark.parametrize("name", ["mesh_file", "mode", "journal"])
def test_what_the_run_sets_itself_is_not_a_parameter(tmp_path: Path, name: str) -> None:
    """A path for a journal's name never gets through."""
    refuse(tmp_path, (*ALL_STAGES, "-p", name, "../x"), f"parameter {name} is set by meshkit itself")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("run", "mesh.yaml", "--mode", "aply"), ["--mode", "'aply'", "apply"]),
        ((*ALL_STAGES, "-p", "cluster", "nowhere"), ["no cluster 'nowhere'", "it has east"]),
        ((*ALL_STAGES, "--resume", "runs/none"), ["runs/none", "not a run folder"]),
        (("undo", "runs/none", "--mode", "apply"), ["runs/none", "not a run folder"]),
    ],
    ids=["mode", "cluster", "resume", "undo"],
)
def test_a_wrong_word_is_refused(tmp_path: Path, argv: tuple[str, ...], words: list[str]) -> None:
    """A mode, a cluster, a run; by the command in a process of its own, too."""
    refuse(tmp_path, argv, *words)
    refused(meshkit(tmp_path, *argv), 2, *words)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"istio": {"overlay": "none.yaml"}}, ["none.yaml", "istio.overlay", "No such file"]),
        ({"istio": {"overlay": "mesh.yaml"}}, ["mesh.yaml", "istio.overlay", "expected an IstioOperator"]),
        ({"clusters": [{**GOOD["clusters"][0], "apiServer": "http://10.0.0.1"}]}, ["apiServer", "https://", "'http"]),
        ({"clusters": [{**GOOD["clusters"][0], "gateway": {"hosts": []}}]}, ["gateway.hosts", "at least one host"]),
        ({"clusters": [{**GOOD["clusters"][0], "primary": "north"}]}, ["primary of east", "primary-remote"]),
        ({"topology": {"controlPlane": "external"}}, ["controlPlane", "external is not yet built"]),
        ({"topology": {"controlPlane": "primary"}}, ["controlPlane", "'multi-primary'", "'primary'"]),
        ({"trust": {"rootDirectory": "none"}}, ["none", "no such folder", "trust.rootDirectory"]),
        (
            {"trust": {"rootDirectory": ".", "passphraseFrom": {"env": "MK_NOT_SET"}}},
            ["passphraseFrom", "MK_NOT_SET is not set", "export MK_NOT_SET"],
        ),
        ({"trust": {"rootDirectory": "."}}, ["neither root-key.pem nor a folder for east"]),
        *[
            ({"clusters": [{**GOOD["clusters"][0], field: value}]}, [f"clusters.0.{field}", *words])
            for field, value, *words in (
                ("apiServer", "https://[2001:db8::1:6443", "expected an address", "'https://[2001"),
                ("apiServer", "https://10.0.0.1:99999", "expected an address", ":99999'"),
                ("apiServer", "https://:6443", "expected an address", "'https://:6443'"),
                ("prometheus", "http://[::1", "expected an address"),
                ("kubeconfig", "~no-such-user/x", "no home is known of ~no-such-user"),
                ("kubeconfig", "a\0b", "no NUL"),
            )
        ],
        ({"istio": {"overlay": "~no-such-user/x"}}, ["istio.overlay: no home is known of ~no-such-user"]),
        ({"trust": {"rootDirectory": "~no-such-user/x"}}, ["trust.rootDirectory: no home is known"]),
        ({"trust": {"rootDirectory": "a\0b"}}, ["trust.rootDirectory", "no NUL"]),
        ({"trust": {"passphraseFrom": {"file": "~no-such-user/x"}}}, ["trust.passphraseFrom.file: no home is known"]),
    ],
    ids=[
        "no overlay",
        "no operator",
        "http",
        "hosts",
        "remote",
        "external",
        "topology",
        "no CA",
        "passphrase",
        "empty",
        "bracket",
        "port",
        "no host",
        "prometheus",
        "home",
        "NUL",
        "overlay's home",
        "CA's home",
        "CA's NUL",
        "passphrase's home",
    ],
)
def test_a_file_or_field_that_a_later_stage_needs_is_judged_before_the_first(
    tmp_path: Path, spec: dict[str, Any], words: list[str]
) -> None:
    """Otherwise the run would stop half way."""
    refuse(tmp_path, ALL_STAGES, *words, spec=spec)


def test_a_path_with_a_nul_is_no_mesh_file() -> None:
    """A notebook's parameter may hold anything."""
    with pytest.raises(errors.InputError, match="cannot be read"):
        MeshSpec.load("mesh\0.yaml")


def test_a_text_is_never_consent() -> None:
    """To Python "no" is true."""
    with pytest.raises(errors.InputError, match="expected True or False, got 'no'"):
        parameters.require_bool("consent", "no")


def test_the_example_overlay_passes() -> None:
    """The judge is not so strict that nothing gets through."""
    from meshkit.runs import preflight

    spec = MeshSpec.load(Path("parameters/lab.yaml"))
    assert yaml.safe_load(Path(spec.istio.overlay).read_text())["kind"] == "IstioOperator"
    given: dict[Path, dict[str, Any]] = {path: {} for path in NOTEBOOKS.values()}
    preflight.require_valid(spec, {**given, NOTEBOOKS["10"]: {"cluster": "west", "hold": 0}})
