"""What is seen of a fault from outside: users' calls, istioctl's own commands, `meshkit check`; as rows of a table."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from meshlab.faults import inside
from meshlab.faults.catalogue import KNOWN, find

from tests.support.lab import Lab
from tests.support.sameness import CONTEXTS

CHOSEN = [find(name) for name in (os.environ.get("MESHKIT_TEST_FAULTS") or ",".join(KNOWN)).split(",")]
WITH_SHAPES = [pytest.param(fault.shape, fault, id=fault.name) for fault in CHOSEN]
"""Each with the shape of the lab that it needs."""
CALLS = 40
GOOD = ("pass", "skipped")
PATIENCE = 20.0
# Until istiod, or a connection that a firewall silenced, notices.
NOTICED = 90.0
SAME = "nothing new"
SILENT = "no answer"
SEEN = ("fault", "users see", "first finding", "follows from it", "of its own")
COLUMNS = (*SEEN, "proxy-status", "remote-clusters", "analyze", "seconds")
COMMANDS = {
    "proxy-status": ("proxy-status", "-v", "1"),
    "remote-clusters": ("remote-clusters",),
    "analyze": ("analyze", "-A"),
}
HASH = re.compile(r"-[0-9a-f]{8,10}-[a-z0-9]{5}\b")


@dataclass
class Seen:
    """What one look saw: the findings in their order, what each command said, and what became of calls."""

    findings: list[dict[str, Any]]
    said: dict[str, dict[str, str]]
    calls: list[str]
    seconds: float = 0.0
    first: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.first = next(iter(self.bad), {"id": "", "subject": "", "observed": "nothing", "verdict": "pass"})

    @property
    def bad(self) -> list[dict[str, Any]]:
        """The findings that are not good."""
        return [f for f in self.findings if f["verdict"] not in GOOD]

    @property
    def apart(self) -> list[dict[str, Any]]:
        """Those of them that neither are of the first one's check nor follow from another one."""
        return [f for f in self.bad if f["id"] != self.first["id"] and not f["follows_from"]]


def check(lab: Lab) -> list[dict[str, Any]]:
    """Return the findings of `meshkit check`, in its order: causes first."""
    done = lab.tool(sys.executable, "-m", "meshkit", "check", str(lab.mesh_file), "-o", "json", timeout=300)
    assert done.returncode in (0, 1, 3), done.stderr
    findings: list[dict[str, Any]] = json.loads(done.stdout)
    return findings


def bad(findings: list[dict[str, Any]]) -> list[str]:
    """Return all findings that are not good, as lines."""
    return [
        f"{f['verdict']} {f['id']} [{f['subject']}] {f['observed']} ← {f['follows_from'] or 'nothing'}"
        for f in findings
        if f["verdict"] not in GOOD
    ]


def istioctl(lab: Lab) -> dict[str, dict[str, str]]:
    """Return the lines that istioctl's commands say on every context, each by itself without what differs by call."""
    pairs = [(name, context) for name in COMMANDS for context in CONTEXTS]
    config = kubeconfig(lab)
    with ThreadPoolExecutor() as pool:
        texts = pool.map(lambda pair: ask(lab, config, *pair), pairs)
    said: dict[str, dict[str, str]] = {name: {} for name in COMMANDS}
    for (name, context), text in zip(pairs, texts, strict=True):
        where = context.removeprefix("lab-")
        lines = [HASH.sub("", line) for line in text.splitlines()]
        keys = {key: line if name == "analyze" else key for line in lines if (key := plain(name, line))}
        said[name] |= {f"{where}: {key}": f"{where}: {line}" for key, line in keys.items()}
    return said


def ask(lab: Lab, config: Path, name: str, context: str) -> str:
    """Return what a command says: its table, or else its complaint.

    On the cluster's own machine: `analyze` connects to every cluster that a remote secret names, at its address there.
    """
    program = lab.command("istioctl")[0][0]
    argv = ("--kubeconfig", str(config), "--context", context, *COMMANDS[name])
    try:
        done = inside.run(lab.home, program, *argv, netns=context.removeprefix("lab-"), check=False, timeout=PATIENCE)
    except subprocess.TimeoutExpired as expired:
        return f"{SILENT} within {expired.timeout:.0f} s"
    return done.stdout if done.stdout.strip() else done.stderr


def kubeconfig(lab: Lab) -> Path:
    """Write the lab's kubeconfig with the addresses that its API servers have inside the lab; return its path."""
    servers = {c["context"]: c["apiServer"] for c in yaml.safe_load(lab.mesh_file.read_text())["clusters"]}
    config = yaml.safe_load(lab.kubeconfig.read_text())
    for context in config["contexts"]:
        cluster = next(each for each in config["clusters"] if each["name"] == context["context"]["cluster"])
        cluster["cluster"]["server"] = servers[context["name"]]
    path = lab.home / "kubeconfig-inside"
    path.write_text(yaml.safe_dump(config))
    path.chmod(0o600)
    return path


def plain(name: str, line: str) -> str:
    """Return a line without hashes, times, and the order of what is named; nothing for headings and repetitions."""
    if not line or line.startswith(("NAME", "Error: Analyzers found", "Info: ", "✔")):
        return ""
    if name == "proxy-status":
        states = sorted(set(re.findall(r"STALE|ERROR|NOT SENT|UNKNOWN", line))) or ["in sync"]
        return f"{line.split(maxsplit=1)[0]} {', '.join(states)}"
    if name == "analyze":
        # By code and object: it names a Service of two clusters by either of them, and what differs in any order.
        return re.sub(r"\[cluster-\S+\] ", "", line).partition(")")[0]
    return " ".join(line.split()[:3])


def calls(lab: Lab) -> list[str]:
    """Return, for each cluster, how many of its calls to httpbin failed, and which clusters answered."""
    servers = {context: pods(lab, context) for context in CONTEXTS}
    url = f"http://httpbin.sample:8000/hostname?[1-{CALLS}]"
    exec_ = (
        "exec",
        "-n",
        "sample",
        "deploy/sleep",
        "-c",
        "sleep",
        "--",
        "curl",
        "-s",
        "-m",
        "5",
        "-w",
        "\n%{http_code}\n",
        url,
    )

    def one(context: str) -> str:
        told = lab.tool("kubectl", "--context", context, *exec_, timeout=400).stdout
        good = len(re.findall(r"^200$", told, re.MULTILINE))
        answered = [c.removeprefix("lab-") for c in CONTEXTS if any(name in told for name in servers[c])]
        told = f"{CALLS - good} of {CALLS} failed, answers of {' and '.join(answered) or 'none'}"
        return f"{context.removeprefix('lab-')}: {told}"

    with ThreadPoolExecutor() as pool:
        return list(pool.map(one, CONTEXTS))


def pods(lab: Lab, context: str) -> list[str]:
    """Return the names of the pods of httpbin."""
    return lab.kubectl(
        context, "get", "pods", "-n", "sample", "-l", "app=httpbin", "-o", "jsonpath={.items[*].metadata.name}"
    ).split()


def news(now: dict[str, str], healthy: dict[str, str]) -> str:
    """Return how what a command says differs from what it says of a healthy mesh."""
    silent = tuple(line.partition(": ")[0] for line in now.values() if SILENT in line)
    lines = [f"+ {now[key]}" for key in sorted(now.keys() - healthy.keys())]
    lines += [f"− {healthy[key]}" for key in sorted(healthy.keys() - now.keys()) if not key.startswith(silent)]
    return "<br>".join(f"`{shortened(line)}`" for line in lines) or SAME


def shortened(line: str, most: int = 160) -> str:
    """Return a line that fits into a cell."""
    line = line.replace("|", "\\|").replace("`", "'")
    return line if len(line) <= most else f"{line[:most]}…"


def row(name: str, seen: Seen, healthy: Seen) -> str:
    """Return a fault's row of the table, in markdown."""
    others = [f for f in seen.bad if f is not seen.first and f not in seen.apart]
    first = f"**{seen.first['id']}** [{seen.first['subject']}] {shortened(seen.first['observed'])}"
    said = [news(seen.said[command], healthy.said[command]) for command in COMMANDS]
    cells = [
        f"`{name}`",
        "<br>".join(seen.calls),
        first,
        named(others),
        named(seen.apart),
        *said,
        f"{seen.seconds:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def named(findings: list[dict[str, Any]]) -> str:
    """Return findings by their ids and subjects."""
    return ", ".join(dict.fromkeys(f"{f['id']} [{f['subject']}]" for f in findings)) or "nothing"


def heading() -> str:
    """Return the head of the table."""
    return f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"
