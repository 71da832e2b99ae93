"""What a run writes for machines: record.json, results.json, junit.xml and the tables as CSV."""

from __future__ import annotations

import csv
import getpass
import hashlib
import io
import json
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree as ET

from meshkit import __version__
from meshkit.changes.planned import Difference
from meshkit.checks.finding import Finding, Verdict
from meshkit.runs.approval import APPROVED, PLAN
from meshkit.runs.folder import JOURNAL, sha256
from meshkit.runs.outcome import Outcome, Status
from meshkit.spec import MeshSpec

PACKAGES = ("papermill", "nbclient", "nbconvert", "ipykernel", "kubernetes", "pandas", "matplotlib")
PREDICATE = "https://in-toto.io/attestation/test-result/v0.1"
_GROUPS = {
    # The predicate knows no fourth group; what is unknown has not passed.
    "passedTests": {Verdict.PASS},
    "warnedTests": {Verdict.WARN},
    "failedTests": {Verdict.FAIL, Verdict.UNKNOWN},
}


def circumstances(spec: MeshSpec, mesh_file: Path, notebooks: Path) -> dict[str, Any]:
    """Return what stood before the run began: versions, contexts, git state, the operator's login name."""
    return {
        "schema": "meshkit.record/1",
        "tool": {"meshkit": __version__, "python": platform.python_version(), "packages": _packages()},
        "mesh": spec.mesh.id,
        "mesh_file": {"name": mesh_file.name, "sha256": sha256(mesh_file)},
        "operator": _operator(),
        "contexts": [{"cluster": c.name, "context": c.context, "network": c.network} for c in spec.clusters],
        "git": _git(notebooks),
        "authority": urlsplit(spec.record.timestamp).hostname or "",
    }


def stage_record(outcome: Outcome, files: Sequence[str]) -> dict[str, Any]:
    """Return the entry of one stage in record.json."""
    return {
        "stage": outcome.stage,
        "status": outcome.status.value,
        "verdict": outcome.verdict.value,
        "reason": outcome.reason,
        "exit_code": outcome.exit_code,
        "counts": outcome.counts,
        "cells": outcome.cells,
        "cells_run": outcome.cells_run,
        "started": outcome.started,
        "seconds": round(outcome.seconds, 3),
        "source_sha256": outcome.source,
        "facts": outcome.facts,
        "files": list(files),
    }


def changes_record(files: Mapping[str, str], found: Sequence[Difference]) -> dict[str, Any]:
    """Return which plan a run that applies had, what it did, and the difference of the two."""
    plan = APPROVED if APPROVED in files else PLAN
    return {
        "plan": {"name": plan, "sha256": files[plan]},
        "done": {"name": JOURNAL, "sha256": files[JOURNAL]},
        "difference": [{"change": str(one.change), "how": one.how.value} for one in found],
    }


def results(
    outcomes: Sequence[Outcome], tables: Mapping[str, dict[str, Any]], files: Mapping[str, str]
) -> dict[str, Any]:
    """Return results.json: all findings, an index of the tables, and the same as an in-toto test result."""
    findings = [(outcome, finding) for outcome in outcomes for finding in outcome.findings]
    stopped = [f"{o.stage}: {o.reason or o.status}" for o in outcomes if o.status not in (Status.PASSED, Status.FAILED)]
    tests = {
        group: [_test_name(o, f) for o, f in findings if f.verdict in verdicts] for group, verdicts in _GROUPS.items()
    }
    tests["failedTests"] += stopped
    result = "FAILED" if tests["failedTests"] else "WARNED" if tests["warnedTests"] else "PASSED"
    open_ones = ("mesh.yaml", "events.jsonl")  # the configuration; and what is still written to
    subjects = [{"name": name, "digest": {"sha256": sha}} for name, sha in files.items() if name not in open_ones]
    return {
        "schema": "meshkit.results/1",
        "findings": [{"stage": outcome.stage, **finding.to_dict()} for outcome, finding in findings],
        "tables": {
            name: {"stage": t["stage"], **{k: t[k] for k in ("name", "caption", "columns", "dtypes", "key")}}
            for name, t in tables.items()
        },
        "statement": {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": subjects,
            "predicateType": PREDICATE,
            "predicate": {
                "result": result,
                "configuration": [{"name": "mesh.yaml", "digest": {"sha256": files["mesh.yaml"]}}],
                **tests,
            },
        },
    }


def junit(outcomes: Sequence[Outcome]) -> bytes:
    """Return the findings as JUnit XML; a stage that did not reach its verdict is an error."""
    root = ET.Element("testsuites", name="meshkit")
    for o in outcomes:
        suite = ET.SubElement(root, "testsuite", name=_xml(o.stage), time=f"{o.seconds:.3f}", timestamp=o.started)
        for f in o.findings:
            case = ET.SubElement(
                suite, "testcase", classname=_xml(f"{o.stage}.{f.id}"), name=_xml(f"{f.check} [{f.subject}]")
            )
            tag = {Verdict.FAIL: "failure", Verdict.UNKNOWN: "error", Verdict.SKIPPED: "skipped"}.get(f.verdict)
            message = _xml(f"expected {f.expected}, observed {f.observed}" + (f"\n{f.remedy}" if f.remedy else ""))
            if tag:
                ET.SubElement(case, tag, message=message)
            elif f.verdict is Verdict.WARN:
                ET.SubElement(case, "system-out").text = f"warning: {message}"
        if o.status not in (Status.PASSED, Status.FAILED):
            case = ET.SubElement(suite, "testcase", classname=_xml(o.stage), name="the stage ran to its verdict")
            ET.SubElement(
                case, "skipped" if o.status is Status.NOT_RUN else "error", message=_xml(o.reason or o.status)
            )
        for attribute, tags in (
            ("tests", ["testcase"]),
            ("failures", ["failure"]),
            ("errors", ["error"]),
            ("skipped", ["skipped"]),
        ):
            suite.set(attribute, str(sum(len(list(suite.iter(tag))) for tag in tags)))
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root)


def to_csv(table: Mapping[str, Any]) -> str:
    """Return a table payload as CSV with a header; what is not there is empty, lists are JSON."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table["columns"])
    writer.writerows([json.dumps(v) if isinstance(v, list | dict) else v for v in row] for row in table["rows"])
    return text.getvalue()


def source_digest(nb: Any) -> str:
    """Return the SHA-256 of a notebook's cells (type, tags, source) as canonical JSON, outputs left out."""
    cells = [[c.cell_type, sorted(c.metadata.get("tags", [])), c.source] for c in nb.cells]
    return hashlib.sha256(json.dumps(cells, separators=(",", ":")).encode()).hexdigest()


def _test_name(outcome: Outcome, finding: Finding) -> str:
    return f"{outcome.stage} {finding.id} {finding.check} [{finding.subject}]"


def _packages() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _operator() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        return "unknown"


def _git(folder: Path) -> dict[str, Any] | None:
    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", ".")
    return {"commit": commit, "dirty": bool(changes)} if commit else None


def _xml(text: str) -> str:
    # XML 1.0 cannot contain most control characters, not even as a reference.
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "�", text)
