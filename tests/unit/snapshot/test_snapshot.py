"""A snapshot: each reading asked once, searched for secrets before it is kept, and judged as of its moment."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest

from meshkit import clock
from meshkit.checks import certificates, comparison
from meshkit.checks.finding import Finding, Verdict
from meshkit.errors import InputError
from meshkit.istio.control_plane import inventory
from meshkit.istio.control_plane.revisions import ControlPlanes, InjectionWebhook
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.snapshot import snapshot as module
from meshkit.snapshot.snapshot import Snapshot
from tests.support import healthy

URL = "https://me:hunter2-hunter2@host/"


@pytest.fixture
def live() -> Snapshot:
    """A snapshot of a mesh whose clusters nobody may ask for real."""
    return Snapshot(Mesh(healthy.mesh().spec, {}))


def test_a_reading_is_asked_once_however_many_want_it(live: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads, and a reading that needs another one."""
    asked: list[str] = []

    def slow(_: Mesh) -> pd.DataFrame:
        asked.append("clocks")
        time.sleep(0.2)
        return inventory.CLOCKS.frame([{"cluster": "east"}])

    monkeypatch.setattr(module.inventory, "clocks", slow)
    with ThreadPoolExecutor(8) as pool:
        frames = list(pool.map(lambda _: live.clocks, range(8)))
    assert all(frame is frames[0] for frame in frames)
    assert live.read("clocks").known.keys() == {"clocks"}
    assert asked == ["clocks"]


def test_what_is_still_being_read_is_reported(live: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """By name, and not before it takes long."""
    monkeypatch.setattr(module, "SPEAKS_AFTER", 0.1)
    monkeypatch.setattr(module.inventory, "clocks", lambda _: time.sleep(0.35) or inventory.CLOCKS.frame([]))
    monkeypatch.setattr(module.inventory, "root_namespaces", lambda _: inventory.ROOT_NAMESPACES.frame([]))
    lines: list[str] = []
    live.read("clocks", "root_namespaces", tell=lines.append)
    assert lines[0] == "1 of 2 read; clocks …"


def test_a_secret_in_a_reading_is_replaced_before_it_is_kept(live: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a cell, in a field of an object inside, in a reason; what was left out is listed with cluster and field."""
    row = {"cluster": "west", "reason": f"proxy {URL} refuses"}
    monkeypatch.setattr(module.inventory, "clocks", lambda _: inventory.CLOCKS.frame([{"cluster": "east"}, row]))
    hook = InjectionWebhook("a", "b", "", "", {}, {}, True, False, "Fail", URL, ("default",))
    known = {"east": ControlPlanes(webhooks=(hook,)), "west": Unknown(URL)}
    monkeypatch.setattr(module.revisions, "look", lambda _: known)
    secrets = healthy.facts().remote_secrets
    east = replace(secrets.of("east")[0], server=URL)
    monkeypatch.setattr(module.remote_secrets, "remote_secrets", lambda _: secrets.with_items([east]))
    live.read("clocks", "revisions", "remote_secrets")
    assert list(live.clocks["reason"]) == ["", "proxy https://[password]@host/ refuses"]
    assert live.revisions["west"] == Unknown("https://[password]@host/")
    assert live.remote_secrets.of("east")[0].server == "https://[password]@host/"
    assert {(one.reading, one.cluster, one.field, one.instead) for one in live.left_out} == {
        ("clocks", "west", "reason", "[password]"),
        ("revisions", "east", "service", "[password]"),
        ("revisions", "west", "reason", "[password]"),
        ("remote_secrets", "east", "server", "[password]"),
    }


def test_a_table_of_another_schema_is_a_bug_that_shows(live: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file with it could not be read back."""
    monkeypatch.setattr(module.inventory, "clocks", lambda _: pd.DataFrame({"other": ["x"]}))
    with pytest.raises(TypeError, match="reading clocks is no table"):
        _ = live.clocks


def test_requests_that_nobody_sent_are_not_known(live: Snapshot) -> None:
    """And an attribute that asks for them says how to send some."""
    assert live.sent is None
    with pytest.raises(InputError, match="gather --samples"):
        _ = live.traffic


def test_a_snapshot_is_judged_as_of_its_moment() -> None:
    """A certificate that was good then is good in its findings, however late they are asked for."""
    then = datetime(2026, 3, 1, 12, tzinfo=UTC)
    row = healthy.certificate("east") | {"not_before": then - timedelta(hours=1), "not_after": then + timedelta(days=1)}
    held = healthy.certificates([row])

    def verdict(moment: datetime) -> Verdict:
        with clock.at(moment):
            (found,) = certificates.check_certificates(healthy.mesh(), held)
        return found.verdict

    assert [verdict(then), verdict(then + timedelta(days=2))] == [Verdict.PASS, Verdict.FAIL]
    assert abs((clock.now() - datetime.now(UTC)).total_seconds()) < 60


def test_snapshots_of_two_meshes_are_not_compared() -> None:
    """Nothing in common could have changed."""
    with pytest.raises(InputError, match="of mesh other, this one of mesh1"):
        healthy.facts().require_same_mesh(Snapshot(healthy.mesh(mesh={"id": "other"}), {}))


def finding(identifier: str, verdict: Verdict, observed: str = "x") -> Finding:
    """Return a finding about east."""
    return Finding(id=identifier, check="c", subject="east", expected="e", observed=observed, verdict=verdict)


@pytest.mark.parametrize(
    ("before", "now", "row"),
    [
        ([], [finding("MK1", Verdict.PASS)], ("new", "", "pass")),
        ([finding("MK1", Verdict.FAIL)], [], ("gone", "fail", "")),
        ([finding("MK1", Verdict.PASS)], [finding("MK1", Verdict.FAIL)], ("changed", "pass", "fail")),
        (
            [finding("MK1", Verdict.FAIL, "2 of 9")],
            [finding("MK1", Verdict.FAIL, "8 of 9")],
            ("changed", "fail", "fail"),
        ),
        ([finding("MK1", Verdict.PASS, "3 ms")], [finding("MK1", Verdict.PASS, "4 ms")], None),
    ],
)
def test_a_change_is_another_verdict_or_another_fault(
    before: list[Finding], now: list[Finding], row: tuple[str, ...] | None
) -> None:
    """What passes may be measured again each time."""
    rows: list[dict[Any, Any]] = comparison.table(before, now).to_dict("records")
    assert [(r["change"], r["before"], r["now"]) for r in rows] == ([row] if row else [])
