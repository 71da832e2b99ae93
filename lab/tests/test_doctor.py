"""`meshkit doctor`: each need named, tried for real, with the command that fixes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from meshlab import doctor, sandbox
from meshlab.doctor import Need

from meshkit.errors import InputError, UnreachableError


def test_the_table_as_json_has_every_need() -> None:
    """Columns are need, found, verdict, remedy; whatever is not passed has a remedy; the exit code follows."""
    done = subprocess.run(
        [sys.executable, "-m", "meshkit", "doctor", "-o", "json"], capture_output=True, text=True, check=False
    )
    rows = json.loads(done.stdout)
    assert set(rows[0]) == {"need", "found", "verdict", "remedy"}
    assert {"unshare", "iptables-restore", "curl", "openssl", "envoy", "kubectl", "memory"} <= {r["need"] for r in rows}
    assert all(r["remedy"] for r in rows if r["verdict"] != "pass")
    assert done.returncode == (3 if any(r["verdict"] == "fail" for r in rows) else 0)


def test_a_missing_program_comes_with_debian_s_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without `ip`, the remedy is the package that has it, and nothing is tried without it."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(doctor, "ADMIN_PATHS", ())
    needs = doctor.examine()
    lacking = next(n for n in needs if n.need == "ip")
    assert lacking.verdict == "fail"
    assert "apt-get install -y iproute2" in lacking.remedy
    assert not {n.need for n in needs} & set(doctor.TRIALS)


@pytest.mark.lab
def test_the_kernel_is_tried_and_its_words_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A feature that the kernel refuses is a failure with the reason; the others are tried all the same."""
    refused = {**doctor.TRIALS, "iptables owner match": "iptables -t nat -A OUTPUT -m nonsense -j RETURN"}
    monkeypatch.setattr(doctor, "TRIALS", refused)
    found = {n.need: n for n in doctor.trials()}
    assert found["iptables owner match"].verdict == "fail"
    assert "nonsense" in found["iptables owner match"].found
    assert {n.verdict for name, n in found.items() if name != "iptables owner match"} == {"pass"}


def test_a_refused_sandbox_is_reported_in_the_kernel_s_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where namespaces are refused, that is the one thing said."""
    monkeypatch.setattr(
        sandbox, "command", lambda _: ["sh", "-c", "echo unshare: not permitted >&2; exit 1", sys.executable]
    )
    assert [(n.need, n.found, n.verdict) for n in doctor.trials()] == [("namespaces", "unshare: not permitted", "fail")]


def test_subordinate_ids_are_counted_by_name_and_number(tmp_path: Path) -> None:
    """Lines for the user's name and for their number count; others and torn lines do not."""
    path = tmp_path / "subuid"
    path.write_text("ann:100000:65536\n1000:200000:10\nbob:300000:65536\ntorn\n")
    assert doctor.subordinate(path, {"ann", "1000"}) == 65546
    assert doctor.subordinate(tmp_path / "none", {"ann"}) == 0


def test_fixing_prints_each_command_before_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As root, the commands of failed needs run once each; a command that fails is an error."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    said: list[str] = []
    needs = [
        Need("one", "not found", "fail", "true", ("true",)),
        Need("two", "not found", "fail", "true", ("true",)),
        Need("fine", "here", "pass", "", ("false",)),
    ]
    doctor.fix(needs, said.append)
    assert said == ["running: true"]
    with pytest.raises(UnreachableError, match="`false` failed with exit code 1"):
        doctor.fix([Need("three", "not found", "fail", "false", ("false",))], said.append)


def test_fixing_without_root_is_refused_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary user gets the sudo line instead."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InputError, match="`--mend` needs root") as caught:
        doctor.fix([Need("one", "not found", "fail", "true", ("true",))], print)
    assert "sudo" in caught.value.remedy


def test_up_refuses_a_machine_that_lacks_something(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything lacking is named at once, with the first remedy."""
    lacking = [Need("ip", "not found", "fail", "apt-get install -y iproute2"), Need("curl", "not found", "fail", "x")]
    monkeypatch.setattr(doctor, "examine", lambda: lacking)
    with pytest.raises(UnreachableError, match=r"ip \(not found\); curl \(not found\)") as caught:
        doctor.require()
    assert caught.value.remedy == "apt-get install -y iproute2"
