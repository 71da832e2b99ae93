"""Faults of the lab: their list, their names, and a mesh that is broken and healed to what it was."""

from __future__ import annotations

import json
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
from meshlab.faults import clock, drills, health, remotes
from meshlab.faults.bench import Bench, Note
from meshlab.faults.catalogue import KNOWN, find
from meshlab.layout import Settings

from meshkit.checks.catalogue import checks
from meshkit.errors import ChangeError, InputError
from tests.support import sameness
from tests.support.lab import Lab, Object, broken, in_folder, until
from tests.support.remedies import BROKEN, BY_HAND, ELSEWHERE

NAMES = [
    "expired-credential",
    "revoked-credential",
    "wrong-cluster-id",
    "duplicate-id",
    "secret-in-wrong-namespace",
    "loopback-server",
    "unreachable-api-server",
    "reader-without-rbac",
    "gateway-down",
    "gateway-without-address",
    "namespace-without-network-label",
    "gateway-without-network-label",
    "wrong-gateway-port",
    "exposure-missing",
    "exposure-selector-wrong",
    "different-roots",
    "combined-root-missing",
    "skewed-clock",
    "firewall-15443",
    "firewall-15012",
    "nacked-envoyfilter",
    "paused-proxy",
    "version-skew",
    "injection-label-missing",
    "mtls-disabled",
    "subset-pinned-to-old-cluster-name",
    "service-missing",
    "headless-over-networks",
    "stale-istiod-replica",
    "wrong-tls-server-name",
    "gateway-of-all-networks",
    "former-values",
    "discovery-selectors",
    "selector-without-pods",
    "export-to-own-namespace",
    "cluster-local-service",
    "sidecar-without-the-server",
    "service-entry-of-the-same-host",
    "port-named-otherwise",
    "locality-without-the-others",
    "denied-client",
    "istiod-not-offered",
    "discovery-address-wrong",
    "wrong-injection-path",
    "remote-secret-missing",
    "primary-not-named",
    "stale-webhook-ca",
    "external-istiod-off",
    "own-istiod",
]
GIVEN = ("uid", "resourceVersion", "creationTimestamp", "generation")
TOUCHED = "services,secrets,gateways.networking.istio.io,namespaces"


def meshkit(home: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run `meshkit lab` on a lab's folder."""
    with in_folder(home):
        command = [sys.executable, "-m", "meshkit", "lab", *argv]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_every_fault_says_what_it_breaks_why_who_sees_what_and_which_check_names_it() -> None:
    """The names are those that people rely on; no description is empty, none said twice."""
    assert sorted(KNOWN) == sorted(NAMES)
    for each in KNOWN.values():
        assert re.fullmatch(r"([PFS]\d+ ?)+", each.behind), each
        assert re.fullmatch(r"MK\d{3,4}", each.finding), each
        assert len(each.breaks.split()) >= 5, each
        assert each.users, each
    assert len({each.breaks for each in KNOWN.values()}) == len(KNOWN)


def test_the_catalogue_says_which_remedies_are_followed() -> None:
    """Those of faults, unless each fault of a check is one for other hands; and those that are broken by commands."""
    followed = {fault.finding for fault in KNOWN.values() if fault.name not in BY_HAND}
    assert {check.id for check in checks().values() if check.remedy == "drill"} == followed | {*BROKEN} | ELSEWHERE


def test_an_unknown_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    """Exit code 2, and no lab is needed for it."""
    with pytest.raises(InputError, match="no fault is called 'gatway-down'; the nearest is gateway-down"):
        find("gatway-down")
    done = meshkit(tmp_path, "break", "diferent-rots")
    assert done.returncode == 2
    assert done.stderr == (
        "Error: meshkit lab: no fault is called 'diferent-rots'; the nearest is different-roots\n"
        "  → `meshkit lab faults` lists them\n"
    )


@pytest.mark.parametrize("argv", [("break", "gateway-down"), ("heal", "gateway-down"), ("heal", "--all")])
def test_without_a_lab_the_remedy_is_up(tmp_path: Path, argv: tuple[str, ...]) -> None:
    """Exit code 3, and the command that starts one."""
    done = meshkit(tmp_path / "none", *argv)
    assert done.returncode == 3
    assert "no lab runs\n  → start one: `meshkit lab up --start meshed`\n" in done.stderr


@pytest.mark.parametrize("argv", [("heal",), ("heal", "gateway-down", "--all")])
def test_heal_wants_names_or_all(tmp_path: Path, argv: tuple[str, ...]) -> None:
    """Neither and both are usage errors."""
    done = meshkit(tmp_path, *argv)
    assert done.returncode == 2
    assert "give the names of faults, or --all" in done.stderr


def test_the_list_is_a_table_in_three_formats(tmp_path: Path) -> None:
    """As JSON and CSV every fault is there, and none is broken where there is no lab."""
    rows = json.loads(meshkit(tmp_path, "faults", "-o", "json").stdout)
    assert [row["name"] for row in rows] == list(KNOWN)
    assert {row["broken"] for row in rows} == {""}
    assert meshkit(tmp_path, "faults", "-o", "csv").stdout.startswith("name,breaks,behind,users,finding,shape,broken\n")
    assert "exposure-missing" in meshkit(tmp_path, "faults").stdout


def test_faults_of_a_shape_are_those_of_its_labs_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another lab does not list them, and refuses to be broken by one; a lab of that shape can have all."""
    monkeypatch.setattr(drills, "running", lambda: tmp_path)
    with in_folder(tmp_path):
        Settings(shapes=("older",)).save(tmp_path)
        assert {*drills.table()["shape"]} == {""}
        with pytest.raises(InputError, match="own-istiod is a fault of the shape primary-remote") as refused:
            drills.break_("own-istiod", "west", print)
        assert refused.value.remedy == "`meshkit lab up --start meshed --shape primary-remote`"
        Settings(shapes=("primary-remote", "older")).save(tmp_path)
        assert [*drills.table()["name"]] == [*KNOWN]
        assert {name: one.shape for name, one in KNOWN.items() if one.shape} == dict.fromkeys(
            NAMES[-8:], "primary-remote"
        )


def test_a_primary_is_no_remote(tmp_path: Path) -> None:
    """Nothing of it is read or changed."""
    Settings(clusters=3, shapes=("primary-remote",)).save(tmp_path)
    for name in NAMES[-8:]:
        with pytest.raises(InputError, match=r"expected a remote \(west, north\), got the primary east"):
            KNOWN[name].make(Bench(tmp_path, Note(tmp_path, name), "east"))
    assert remotes.remote(bench := Bench(tmp_path, Note(tmp_path, "own-istiod"), "north")).name == "north"
    assert bench.peer.name == "east"


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the code that is written is x86-64's")
def test_a_running_process_is_given_another_clock_and_its_own_again() -> None:
    """A child's time of day jumps by ten minutes and back; its monotonic clock does not, and it lives on."""
    say = "import time\nwhile True:\n  print(time.time() - time.monotonic(), flush=True); time.sleep(0.05)"
    child = subprocess.Popen([sys.executable, "-c", say], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None

    def offset() -> float:
        assert child.stdout is not None
        return float(child.stdout.readline())

    try:
        base = offset()
        at, whole = clock.original()
        for code, seconds in ((clock.machine_code(600), 600), (whole, 0)):
            assert clock.give(child.pid, at, whole, code)
            until(lambda s=seconds: abs(offset() - base - s) < 1, f"{seconds} s ahead", 5)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def exact(lab: Lab) -> dict[tuple[str, str], Object]:
    """Return the objects that quick faults touch, whole: with Secrets' data and their fields' managers."""
    found = {}
    for context in sameness.CONTEXTS:
        for item in json.loads(lab.kubectl(context, "get", TOUCHED, "-A", "-o", "json"))["items"]:
            meta = {key: value for key, value in item["metadata"].items() if key not in GIVEN}
            name = f"{context} {item['kind']} {meta.get('namespace', '')}/{meta['name']}"
            found[context, name] = {**item, "metadata": meta, "status": None}
    return found


@pytest.mark.lab
@pytest.mark.drill
@pytest.mark.parametrize("name", ["secret-in-wrong-namespace", "gateway-without-address", "exposure-missing"])
def test_a_mesh_is_broken_once_and_healed_by_another_process_to_what_it_was(meshed_lab: Lab, name: str) -> None:
    """The list shows it, a second break is refused, the mesh is not whole; after `heal` every object is as before."""
    before, all_before = exact(meshed_lab), sameness.snapshot(meshed_lab)
    with in_folder(meshed_lab.home):
        drills.break_(name, "west", print)
        try:
            assert drills.table().set_index("name").loc[name, "broken"].startswith("west, since 20")
            with pytest.raises(InputError, match=f"{name} is broken already"):
                drills.break_(name, "west", print)
            until(lambda: health.complaints(meshed_lab.home), "not whole", 60)
        finally:
            done = meshkit(meshed_lab.home, "heal", name)
        assert done.returncode == 0, done.stderr
        assert re.search(r"the mesh is whole after \d+\.\d s", done.stderr)
        assert not drills.broken(meshed_lab.home)
        with pytest.raises(InputError, match=f"{name} is not broken"):
            drills.heal([name], print)
    assert exact(meshed_lab) == before
    assert sameness.differences(all_before, sameness.snapshot(meshed_lab)) == []


@pytest.mark.lab
@pytest.mark.drill
def test_what_one_fault_changed_another_may_not(meshed_lab: Lab) -> None:
    """The second is refused with the first's name, nothing of it stays, and `heal --all` takes the first back."""
    with broken(meshed_lab, "gateway-without-network-label"):
        with (
            in_folder(meshed_lab.home),
            pytest.raises(ChangeError, match="gateway-without-network-label changed Service"),
        ):
            drills.break_("wrong-gateway-port", "west", print)
        assert list(drills.broken(meshed_lab.home)) == ["gateway-without-network-label"]
        assert meshkit(meshed_lab.home, "heal", "--all").returncode == 0
