"""Whole runs with real kernels: what passes, what does not, and what is left behind."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from meshkit.errors import InputError
from meshkit.runs import verification
from meshkit.runs.folder import verify
from meshkit.runs.run import RunResult, execute, stages
from tests.support.receiver import receiver

PASS = "conclude('08 verify', [finding(Verdict.PASS)])"
JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJrdWJlcm5ldGVzL3NlcnZpY2VhY2NvdW50In0.c2lnbmF0dXJlLW9mLWl0"


@pytest.fixture
def go(mesh_file: Path, tmp_path: Path) -> Callable[..., RunResult]:
    """Run stages of the fixture's notebook folder as an audit."""

    def run(*chosen: str, **options: Any) -> RunResult:
        options = {"say": lambda _: None, "notebooks": tmp_path / "stages", **options}
        return execute(mesh_file, chosen or ("08",), options.pop("mode", "audit"), tmp_path / "runs", **options)

    return run


def evidence(result: RunResult) -> str:
    """Return all that a run wrote, as one text."""
    return "\n".join(p.read_text(errors="replace") for p in sorted(result.folder.rglob("*")) if p.is_file())


def test_a_stage_that_passes_leaves_the_whole_evidence(
    notebook: Callable[..., Path], go: Callable[..., RunResult]
) -> None:
    """The run folder is as the README says, and verifies."""
    notebook("table(pd.DataFrame({'n': [1, 2]}), 'numbers')", "record('istio', '1.31.0')", PASS)
    result = go()
    names = {p.relative_to(result.folder).as_posix() for p in result.folder.rglob("*") if p.is_file()}
    assert names == {
        "08-verify.ipynb", "08-verify.html", "SHA256SUMS", "events.jsonl", "junit.xml", "mesh.yaml", "plan.json",
        "record.json", "report.html", "results.json", "signature.json", "tables/numbers.csv",
    }  # fmt: skip
    assert (result.exit_code, result.outcomes[0].status, verify(result.folder)) == (0, "passed", [])
    assert re.fullmatch(r"shop/\d{8}T\d{6}Z-audit", result.folder.relative_to(result.folder.parents[1]).as_posix())
    assert (result.folder / "tables" / "numbers.csv").read_text() == "n\n1\n2\n"
    record = json.loads((result.folder / "record.json").read_text())
    assert record["stages"][0]["facts"] == {"istio": "1.31.0"}
    assert (record["previous"], record["exit_code"]) == (None, 0)
    assert all(path.stat().st_mode & 0o222 == 0 for path in result.folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("cells", "status", "code", "reason"),
    [
        (["conclude('s', [finding(Verdict.FAIL)])"], "failed", 1, "MK801 call"),
        (["conclude('s', [finding(Verdict.UNKNOWN)])"], "failed", 3, "1 unknown"),
        (["conclude('s', [finding(Verdict.WARN)])"], "passed", 0, ""),
        (["pass"], "incomplete", 4, "ended without a verdict"),
        ([PASS, "raise ValueError('too late')"], "aborted", 4, "ValueError: too late"),
        (["import sys; sys.exit(0)", PASS], "incomplete", 4, r"sys.exit\(0\)"),
        (["import os; os._exit(0)", PASS], "aborted", 4, "the kernel died in this cell"),
        (["import time; time.sleep(60)", PASS], "timed-out", 4, "ran longer than 2 s"),
        (
            ["from meshkit.errors import InputError", "raise InputError('no context x')", PASS],
            "aborted",
            2,
            "no context x",
        ),
    ],
)
def test_only_a_good_verdict_passes(
    notebook: Callable[..., Path],
    go: Callable[..., RunResult],
    *,
    cells: list[str],
    status: str,
    code: int,
    reason: str,
) -> None:
    """Whatever ends a notebook early, its evidence is written and the run says why."""
    notebook(*cells)
    result = go(cell_timeout=2 if status == "timed-out" else 60)
    outcome = result.outcomes[0]
    assert (outcome.status, result.exit_code) == (status, code)
    assert re.search(reason, outcome.reason)
    assert verify(result.folder) == []
    nb = json.loads((result.folder / "08-verify.ipynb").read_text())
    statuses = [c["metadata"]["papermill"]["status"] for c in nb["cells"] if "papermill" in c["metadata"]]
    assert statuses == sorted(statuses, key=["completed", "failed", "pending"].index)
    assert ("failed" in statuses) == (status not in ("passed", "incomplete") or "exit" in reason)


def test_a_swallowed_failure_still_fails(notebook: Callable[..., Path], go: Callable[..., RunResult]) -> None:
    """The verdict counts, not how the cell ended."""
    notebook("try:\n    conclude('s', [finding(Verdict.FAIL)])\nexcept Exception:\n    pass")
    result = go()
    assert (result.outcomes[0].status, result.exit_code) == ("failed", 1)


def test_a_skipped_cell_is_no_pass(notebook: Callable[..., Path], go: Callable[..., RunResult]) -> None:
    """Every code cell has to run."""
    folder = notebook("x = 1", PASS)
    path = folder / "08-verify.ipynb"
    nb = json.loads(path.read_text())
    next(c for c in nb["cells"] if c["source"] == ["x = 1"])["metadata"]["tags"] = ["skip-execution"]
    path.write_text(json.dumps(nb))
    assert go().outcomes[0].reason == "1 of its code cells never ran"


def test_the_first_bad_stage_ends_the_run(notebook: Callable[..., Path], go: Callable[..., RunResult]) -> None:
    """What did not run is recorded as not run."""
    notebook("conclude('s', [finding(Verdict.FAIL)])")
    notebook(PASS, name="09-observe")
    result = go("08", "09")
    assert [o.status for o in result.outcomes] == ["failed", "not run"]
    assert result.exit_code == 1
    assert verify(result.folder) == []


def test_an_audit_runs_both_stages_and_fails_before_unknown(
    notebook: Callable[..., Path], go: Callable[..., RunResult]
) -> None:
    """The exit code is the worst of the two."""
    notebook("conclude('s', [finding(Verdict.UNKNOWN)])")
    notebook("conclude('s', [finding(Verdict.FAIL)])", name="09-observe")
    result = go("8", "observe", keep_going=True)
    assert [o.exit_code for o in result.outcomes] == [3, 1]
    assert result.exit_code == 1


def test_parameters_reach_the_notebooks_that_declare_them(
    notebook: Callable[..., Path], go: Callable[..., RunResult]
) -> None:
    """The mesh file and the mode are meshkit's to give; the rest comes from -p."""
    notebook(
        "record('got', [mode, samples, __import__('pathlib').Path(mesh_file).read_text()[:13]])", PASS,
        parameters="mesh_file: str = 'x'\nmode: str = 'none'\nsamples: int = 1",
    )  # fmt: skip
    result = go(parameters={"samples": "3"}, mode="apply")
    assert result.outcomes[0].facts == {"got": ["apply", 3, "\nmesh: {id: s"]}


@pytest.mark.parametrize(
    ("chosen", "parameters", "told"),
    [
        ("08", {"nope": "1"}, "no notebook of this run has a parameter 'nope'"),
        ("08", {"samples": "many"}, "expected int, got 'many'"),
        ("08", {"mode": "apply"}, "set by meshkit itself"),
        ("07", {}, "no stage '07'; there are 08-verify"),
    ],
)
def test_bad_input_starts_nothing(
    notebook: Callable[..., Path],
    go: Callable[..., RunResult],
    tmp_path: Path,
    *,
    chosen: str,
    parameters: dict[str, str],
    told: str,
) -> None:
    """No kernel, no folder."""
    notebook(PASS, parameters="samples: int = 1")
    with pytest.raises(InputError, match=told):
        go(chosen, parameters=parameters)
    assert not (tmp_path / "runs").exists()


def test_no_secret_and_no_path_of_this_machine_is_in_the_evidence(
    notebook: Callable[..., Path], go: Callable[..., RunResult], tmp_path: Path
) -> None:
    """Printed, tabled, recorded, raised, drawn from a config: nothing of it is anywhere."""
    key = f"{tmp_path}/key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, capture_output=True)
    body = (tmp_path / "key.pem").read_text().splitlines()[1]
    notebook(
        f"for line in open({key!r}): print(line, end='', flush=True)",
        f"import base64; base64.b64encode(open({key!r}, 'rb').read()).decode()",
        f"t = '{JWT[:60]}' + '{JWT[60:]}'; table(pd.DataFrame({{'t': [t]}}), 't'); record('t', {{'a': [t]}})",
        "print('users:\\n- user:\\n    token: opaque-canary-1\\n    client-key-data: LS0tc2VjcmV0')",
        "print('plain-' + 'canary')",
        "conclude('s', [finding(Verdict.FAIL, subject=t, remedy='kubectl --token ' + t)])",
    )
    result = go(secrets=["plain-canary"])
    text = evidence(result)
    assert result.withheld == []
    assert "[redacted private key]" in text
    for canary in (body, JWT, "opaque-canary-1", "LS0tc2VjcmV0", "plain-canary"):
        assert canary not in text
    assert str(Path.home()) + "/" not in text
    assert str(tmp_path / "runs") not in text


def test_a_file_that_still_holds_a_secret_is_withheld(
    notebook: Callable[..., Path], go: Callable[..., RunResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last look is over the files as they are, and fails the run."""
    notebook("table(pd.DataFrame({'a': [1]}), 'leaky')", PASS)
    monkeypatch.setattr("meshkit.runs.record.to_csv", lambda _: JWT)
    result = go()
    assert result.withheld == ["tables/leaky.csv was withheld: it held a JSON web token"]
    assert result.exit_code == 4
    assert JWT not in evidence(result)
    assert verify(result.folder) == result.withheld


def test_two_tables_of_one_name_are_both_kept(notebook: Callable[..., Path], go: Callable[..., RunResult]) -> None:
    """Nothing is written over, and nothing is lost."""
    notebook("table(pd.DataFrame({'a': [1]}), 't')", "table(pd.DataFrame({'a': [2]}), 't')", PASS)
    folder = go().folder
    assert [(folder / "tables" / name).read_text() for name in ("t.csv", "t.2.csv")] == ["a\n1\n", "a\n2\n"]


def test_progress_is_reported_by_heading_and_every_cell_is_an_event(
    notebook: Callable[..., Path], go: Callable[..., RunResult]
) -> None:
    """A person sees where the run is; events.jsonl has it all."""
    notebook("x = 1", PASS)
    lines: list[str] = []
    result = go(say=lines.append)
    assert any(re.fullmatch(r"  08 +2/3 +\d+\.\d s  Calls from each side", line) for line in lines)
    assert re.match(r"08 verify: passed in .* \(1 pass\)", lines[-1])
    events = [json.loads(line) for line in (result.folder / "events.jsonl").read_text().splitlines()]
    assert [e["event"] for e in events if e.get("cell") in (None, 3)] == [
        "run started", "stage started", "cell started", "cell ended", "stage ended", "run ended",
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_cleans_up_and_leaves_its_evidence(
    notebook: Callable[..., Path], mesh_file: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """The cell's own `finally` runs, the rest does not, and the exit code is 130."""
    cleaned = tmp_path / "cleaned"
    notebook(f"import time\ntry:\n    time.sleep(60)\nfinally:\n    open({str(cleaned)!r}, 'w').close()", PASS)
    notebook(PASS, name="09-observe")
    code = (
        "import sys; from pathlib import Path; from meshkit.runs.run import execute; "
        f"sys.exit(execute(Path({str(mesh_file)!r}), ['08', '09'], 'plan', Path({str(tmp_path / 'runs')!r}), "
        f"notebooks=Path({str(tmp_path / 'stages')!r}), keep_going=True).exit_code)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    _wait_for(lambda: '"cell": 2' in "".join(p.read_text() for p in tmp_path.glob("runs/*/*/events.jsonl")))
    time.sleep(0.5)
    process.send_signal(number)
    assert process.wait(timeout=60) == 130
    (run,) = tmp_path.glob("runs/shop/*")
    record = json.loads((run / "record.json").read_text())
    assert [stage["status"] for stage in record["stages"]] == ["interrupted", "not run"]
    assert cleaned.exists()
    assert verify(run) == []


def test_a_kernel_that_ignores_the_timeout_is_killed(
    notebook: Callable[..., Path], go: Callable[..., RunResult]
) -> None:
    """A cell that will not be interrupted does not hold the run."""
    notebook(
        "import time\nwhile True:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt:\n        pass", PASS
    )
    began = time.monotonic()
    assert go(cell_timeout=1).outcomes[0].status == "timed-out"
    assert time.monotonic() - began < 40


def test_a_cell_may_ask_for_more_time(notebook: Callable[..., Path], go: Callable[..., RunResult]) -> None:
    """By a tag, as the latency cells do."""
    notebook("import time; time.sleep(12)", PASS, tags=["timeout-60"])
    assert go(cell_timeout=10).outcomes[0].status == "passed"


def test_the_end_of_a_run_calls_the_webhook_whose_address_is_no_evidence(
    notebook: Callable[..., Path], go: Callable[..., RunResult], mesh_file: Path
) -> None:
    """Also where the notebook prints the mesh file."""
    notebook("print(open(mesh_file).read())", PASS, parameters="mesh_file: str = 'x'")
    with receiver() as there:
        url = f"{there.url}/services/T0KEN-canary"
        mesh_file.write_text(mesh_file.read_text() + f"notify: {{url: '{url}', on: [passed]}}\n")
        result = go()
    (body,) = there.bodies
    told = json.loads(body)
    assert (told["mesh"], told["run"], told["verdict"]) == ("shop", result.folder.name, "passed")
    assert (told["stages"], told["counts"]) == ([{"stage": "08-verify", "status": "passed"}], {"pass": 1})
    assert "T0KEN-canary" not in evidence(result)
    assert "[redacted known secret]" in (result.folder / "mesh.yaml").read_text()
    assert '"event": "webhook", "status": "called"' in (result.folder / "events.jsonl").read_text()
    assert verification.verify(result.folder).exit_code == 0


def test_a_webhook_that_fails_is_reported_and_fails_nothing(
    notebook: Callable[..., Path], go: Callable[..., RunResult], mesh_file: Path
) -> None:
    """On stderr and in the events, without its address."""
    notebook(PASS)
    lines: list[str] = []
    with receiver(lambda _: (403, b"no")) as there:
        mesh_file.write_text(mesh_file.read_text() + f"notify: {{url: '{there.url}/T0KEN-canary'}}\n")
        result = go(say=lines.append)
    assert lines[-1] == "the webhook was not reached: failed: it answered 403"
    assert '"status": "failed: it answered 403"' in (result.folder / "events.jsonl").read_text()
    assert (result.exit_code, verification.verify(result.folder).exit_code) == (0, 0)
    assert "T0KEN-canary" not in evidence(result) + "".join(lines)


def test_a_run_without_a_key_is_made_and_says_that_it_is_not_signed(
    notebook: Callable[..., Path], go: Callable[..., RunResult], state: Path
) -> None:
    """Its record, too; to verify it is no pass."""
    state.write_text("a file where the folder would be")
    notebook(PASS)
    lines: list[str] = []
    result = go(say=lines.append)
    assert lines[-1] == "the record is not signed: the key cannot be written: Not a directory"
    assert (result.exit_code, verification.verify(result.folder).exit_code) == (0, 3)


def test_stages_are_found_by_number(notebook: Callable[..., Path]) -> None:
    """In a folder, or with the package."""
    folder = notebook(PASS)
    (folder / "notes.ipynb").write_text("{}")
    assert stages(folder) == {"08": folder / "08-verify.ipynb"}


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
