"""The webhook at the end of a run: what it holds, how often it is tried, and that its address is shown nowhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from meshkit.checks.finding import Finding, Verdict
from meshkit.errors import InputError, UnreachableError
from meshkit.run_spec import Notify
from meshkit.runs import notify, post
from meshkit.runs.outcome import Outcome, Status
from meshkit.snapshot.file import _spec
from meshkit.spec import MeshSpec
from tests.support.api_server import free_port
from tests.support.receiver import receiver

TOKEN = "T0KEN-canary-77"
URL = f"https://hooks.example/services/{TOKEN}"
CLUSTERS = [{"name": "east", "context": "east", "network": "net-east"}]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr(post, "_RETRIES", post._RETRIES.new(backoff_factor=0))


def mesh_file(where: Path, **notify: Any) -> Path:
    """Write a mesh file with a webhook."""
    path = where / "mesh.yaml"
    path.write_text(json.dumps({"clusters": CLUSTERS, "notify": {"url": URL, **notify}}))
    return path


def outcomes() -> list[Outcome]:
    """Return a stage that passed with a warning, and one that failed."""
    finding = Finding(id="MK801", check="call", subject="east", expected="200", observed="503", verdict=Verdict.FAIL)
    warned = Finding(**{**vars(finding), "verdict": Verdict.WARN})
    return [
        Outcome(stage="08-verify", status=Status.PASSED, findings=[warned]),
        Outcome(stage="09-observe", status=Status.FAILED, findings=[finding, warned]),
    ]


def test_it_holds_names_verdicts_and_counts_and_nothing_else() -> None:
    """No finding's text: it may quote what the mesh's people call theirs."""
    assert notify.payload("shop", "runs/shop/20260301T120000Z-audit", outcomes(), 1) == {
        "mesh": "shop",
        "run": "20260301T120000Z-audit",
        "verdict": "failed",
        "stages": [{"stage": "08-verify", "status": "passed"}, {"stage": "09-observe", "status": "failed"}],
        "counts": {"warn": 2, "fail": 1},
        "path": "runs/shop/20260301T120000Z-audit",
    }


@pytest.mark.parametrize(("on", "code", "sent"), [(["failed"], 0, 0), (["failed"], 4, 1), (["passed"], 0, 1)])
def test_it_is_called_at_the_ends_that_are_wanted(on: Any, code: int, sent: int) -> None:
    """Once."""
    with receiver() as there:
        wanted = Notify(url=SecretStr(there.url), on=on)
        how = notify.announce(wanted, notify.payload("shop", "runs/shop/x", [], code))
    assert (how, len(there.bodies)) == ("called" if sent else "not wanted", sent)


@pytest.mark.parametrize(
    ("answers", "how", "times"),
    [
        ([503, 429, 200], "called", 3),
        ([500] * 9, "failed: it answered 500", 4),
        ([404], "failed: it answered 404", 1),
        ([302], "failed: it answered 302", 1),
    ],
)
def test_a_bad_moment_is_waited_out_a_few_times(answers: list[int], how: str, times: int) -> None:
    """Three more times at most; a redirect is not followed, for it could lead the token anywhere."""
    with receiver(lambda _: (answers.pop(0), b"")) as there:
        assert notify.announce(Notify(url=SecretStr(there.url)), {"verdict": "passed"}) == how
    assert len(there.bodies) == times


def test_its_address_is_in_no_message(capfd: pytest.CaptureFixture[str]) -> None:
    """Neither in ours, nor in what urllib3 prints of each retry."""
    url = f"http://127.0.0.1:{free_port()}/services/{TOKEN}"
    with pytest.raises(UnreachableError, match=r"it does not answer \(\w+Error\)") as caught:
        post.post(url, b"{}", "application/json")
    assert TOKEN not in "".join([str(caught.value), *capfd.readouterr()])


def test_on_is_a_word_though_yaml_reads_it_as_true(tmp_path: Path) -> None:
    """As people write it."""
    path = tmp_path / "mesh.yaml"
    path.write_text(f"clusters: {json.dumps(CLUSTERS)}\nnotify:\n  url: {URL}\n  on: [failed]\n")
    assert (MeshSpec.load(path).notify or Notify(url=SecretStr(URL))).on == ["failed"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": TOKEN},
        {"url": f"ftp://hooks.example/{TOKEN}"},
        {"url": f"https://hooks.example:port/{TOKEN}"},
        {"url": [URL]},
        {"on": TOKEN},
        {"on": []},
        {URL: ""},
        {"ulr": URL},
    ],
)
def test_a_wrong_field_is_named_and_never_quoted(tmp_path: Path, wrong: Any) -> None:
    """Whatever is wrong with it, and wherever it was put."""
    with pytest.raises(InputError, match="notify") as caught:
        MeshSpec.load(mesh_file(tmp_path, **wrong))
    assert TOKEN not in str(caught.value)


def test_an_address_where_a_mapping_belongs_is_not_quoted(tmp_path: Path) -> None:
    """`notify: URL` is what one writes first."""
    path = tmp_path / "mesh.yaml"
    path.write_text(json.dumps({"clusters": CLUSTERS, "notify": URL}))
    with pytest.raises(InputError, match="notify") as caught:
        MeshSpec.load(path)
    assert TOKEN not in str(caught.value)


def test_it_is_no_part_of_a_snapshot_or_of_what_a_cell_shows(tmp_path: Path) -> None:
    """Both are made of the mesh file."""
    spec = MeshSpec.load(mesh_file(tmp_path))
    assert TOKEN not in json.dumps(_spec(spec)) + repr(spec) + json.dumps(spec.bundle())
    assert MeshSpec.parse(_spec(spec), where="a snapshot").notify is None


def test_an_address_that_no_search_would_find_is_refused(tmp_path: Path) -> None:
    """JSON may write a slash as an escape; then the copy of the mesh file would keep it."""
    path = mesh_file(tmp_path)
    assert notify.secrets(MeshSpec.load(path).notify, path.read_text()) == [URL]
    path.write_text(path.read_text().replace("/", "\\/"))
    with pytest.raises(InputError, match="without YAML escapes"):
        notify.secrets(MeshSpec.load(path).notify, path.read_text())
