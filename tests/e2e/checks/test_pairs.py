"""The N x N truth on the real mesh: against istioctl, broken link by link, with two replicas, beside a sick cluster."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
import yaml

from meshkit.checks import pair_table, pairs
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import arrow
from meshkit.istio.ca import certificates
from meshkit.kube.mesh import Mesh
from meshkit.snapshot.snapshot import PAIRS, Snapshot
from tests.support.api_server import write_kubeconfig
from tests.support.lab import Lab, broken, until
from tests.support.sick import Sickness, sick_api_server

pytestmark = [pytest.mark.lab, pytest.mark.drill]

PAIR, BACK = "east → west", "west → east"
DEADLINE = 90.0


def looked(mesh: Mesh) -> tuple[Snapshot, list[Finding]]:
    """Return what was read, and all findings of it."""
    facts = Snapshot(mesh).read(*PAIRS)
    return facts, pairs.check_all(mesh, facts)


def first_links(mesh: Mesh) -> dict[str, tuple[str, str]]:
    """Return verdict and first broken link (with its check) of each pair."""
    facts, findings = looked(mesh)
    rows = pair_table.table(mesh, facts, findings).to_dict("records")
    return {
        arrow(row["client"], row["server"]): (row["verdict"], f"{row['broken']} {row['why'][:5]}".strip())
        for row in rows
    }


WHOLE = {PAIR: ("pass", ""), BACK: ("pass", "")}


def test_the_table_says_what_istioctl_says(meshed_lab: Lab) -> None:
    """remote-clusters for sync and ids, proxy-config for endpoints and certificates, internal-debug for gateways."""
    mesh = Mesh.open(meshed_lab.mesh_file)
    facts, findings = looked(mesh)
    assert {f.verdict for f in findings} <= {Verdict.PASS, Verdict.SKIPPED}
    for row in pair_table.table(mesh, facts, findings).to_dict("records"):
        client, server = row["client"], row["server"]
        remote = remote_clusters(meshed_lab, client)
        assert remote[row["istiod"], server] == (row["secret"], row["sync"])
        own = next(name for (_, name), (secret, _) in remote_clusters(meshed_lab, server).items() if not secret)
        assert row["server_id"] == row["key"] == row["annotation"] == own
        endpoints = said_endpoints(meshed_lab, client)
        assert set(row["endpoints"].split(",")) <= endpoints
        assert len(endpoints) == row["local"] + len(row["endpoints"].split(","))
        seen = json.loads(meshed_lab.istioctl(f"lab-{client}", "x", "internal-debug", "networkz"))
        assert row["gateway_seen"] == ",".join(g["Addr"] for g in seen if g["Network"] == f"net-{server}")
        assert row["knows"] == row["ready"] == 1
        assert (row["credential"], row["rights"]) == ("ok", "ok")
        assert row["api_answer"] in ("200", "401")
    shown = facts.hellos.set_index("server")["sha256"]
    for name in mesh.clusters:
        assert shown[name] == certificate(meshed_lab, name), "the certificate of httpbin's own proxy"


def remote_clusters(lab: Lab, name: str) -> dict[tuple[str, str], tuple[str, str]]:
    """Return secret and status by istiod and remote cluster, as istioctl tells them."""
    found = {}
    for line in lab.istioctl(f"lab-{name}", "remote-clusters").splitlines()[1:]:
        match = re.match(r"(\S+)\s+(\S+/\S+)?\s+(\S+)\s+(\S+)", line)
        assert match, line
        found[match[4], match[1]] = (match[2] or "", match[3])
    return found


def said_endpoints(lab: Lab, name: str) -> set[str]:
    """Return the sample service's endpoints of a cluster's client."""
    host = "outbound|8000||httpbin.sample.svc.cluster.local"
    said = lab.istioctl(f"lab-{name}", "pc", "endpoints", "deploy/sleep", "-n", "sample", "--cluster", host)
    return {line.split()[0] for line in said.splitlines()[1:]}


def certificate(lab: Lab, name: str) -> str:
    """Return the fingerprint of the certificate that a cluster's httpbin holds."""
    held = json.loads(lab.istioctl(f"lab-{name}", "pc", "secret", "deploy/httpbin", "-n", "sample", "-o", "json"))
    chain = {s["name"]: s["secret"] for s in held["dynamicActiveSecrets"]}["default"]["tlsCertificate"]
    return certificates.fingerprint(
        certificates.parse_chain(base64.b64decode(chain["certificateChain"]["inlineBytes"]))[0]
    )


def test_the_command_measures_each_pair_and_its_time_stands_beside_istioctls(meshed_lab: Lab) -> None:
    """200 samples, exit code 0, JSON whole; the probe's Services are gone."""
    began = time.monotonic()
    done = command(meshed_lab.mesh_file, "--samples", "200", "-o", "json")
    took = time.monotonic() - began
    began = time.monotonic()
    for context in ("lab-east", "lab-west"):
        meshed_lab.istioctl(context, "remote-clusters")
        meshed_lab.istioctl(context, "proxy-status")
    print(f"pairs with 200 samples: {took:.1f} s; istioctl's two commands: {time.monotonic() - began:.1f} s")
    assert (done.returncode, done.stderr.count("\n")) == (0, 1), done.stderr
    for row in json.loads(done.stdout):
        assert (row["sent"], row["answered"], row["answered_in"]) == (200, 200, row["server"])
        assert 40 <= row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"], "the round trip of the WAN at least"
    for context in ("lab-east", "lab-west"):
        assert "meshkit-probe" not in meshed_lab.kubectl(context, "get", "services", "-n", "sample")


def command(mesh_file: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run `meshkit pairs`."""
    argv = [sys.executable, "-m", "meshkit", "pairs", str(mesh_file), *flags]
    return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)


@dataclass(frozen=True)
class Break:
    """A fault, the link of east → west that breaks first, with its check, and `back`: what becomes of west → east."""

    name: str
    link: str
    back: tuple[str, str] = ("pass", "")
    cluster: str = "west"


BREAKS = [
    Break("exposure-missing", "gateway MK805"),
    Break("gateway-without-network-label", "gateway MK805"),
    Break("gateway-down", "gateway MK805"),
    Break("firewall-15443", "hello MK840"),
    Break("wrong-cluster-id", "secret MK830"),
    Break("duplicate-id", "secret MK831"),
    Break("secret-in-wrong-namespace", "secret MK832"),
    Break("loopback-server", "server MK833"),
    Break("unreachable-api-server", "server MK834"),
    Break("revoked-credential", "credential MK803"),
    Break("expired-credential", "credential MK803"),
    Break("reader-without-rbac", "credential MK836"),
    Break("stale-istiod-replica", "server MK834"),
    Break("different-roots", "hello MK841", ("fail", "hello MK841")),
]


@pytest.mark.parametrize("fault", BREAKS, ids=lambda fault: fault.name)
def test_a_fault_breaks_its_own_link_of_its_own_pair_until_it_is_healed(meshed_lab: Lab, fault: Break) -> None:
    """By reading alone: not a single call is sent."""
    mesh = Mesh.open(meshed_lab.mesh_file)
    wanted = {PAIR: ("fail", fault.link), BACK: fault.back}
    with broken(meshed_lab, fault.name, fault.cluster):
        until(lambda: first_links(mesh) == wanted or None, f"{wanted}", 120)
    until(lambda: first_links(mesh) == WHOLE or None, "whole again", 90)


def test_without_exposure_the_gateway_closes_and_without_its_label_clients_get_raw_addresses(meshed_lab: Lab) -> None:
    """What istioctl does not tell: P13 and P11, seen from the client."""
    mesh = Mesh.open(meshed_lab.mesh_file)

    def failed() -> dict[str, str]:
        return {f.id: f.observed for f in looked(mesh)[1] if f.verdict is Verdict.FAIL and f.subject == PAIR}

    with broken(meshed_lab, "exposure-missing"):
        until(lambda: "closed" in failed().get("MK840", ""), "the hello is not let through", 60)
    with broken(meshed_lab, "gateway-without-network-label"):
        until(lambda: "raw pod address" in failed().get("MK839", ""), "raw addresses", 60)
    until(lambda: first_links(mesh) == WHOLE or None, "whole again", 90)


def test_each_replica_has_its_row_and_they_agree(meshed_lab: Lab) -> None:
    """Two istiods in east: two rows of east → west, one of west → east."""
    scale = ("scale", "deployment", "istiod", "-n", "istio-system")
    autoscaled = "horizontalpodautoscaler.autoscaling" in meshed_lab.kubectl(
        "lab-east", "get", "hpa", "-n", "istio-system", "-o", "name"
    )
    mesh = Mesh.open(meshed_lab.mesh_file)
    try:
        meshed_lab.kubectl("lab-east", *scale, "--replicas=2")
        if autoscaled:
            patch = '{"spec":{"minReplicas":2}}'
            meshed_lab.kubectl("lab-east", "patch", "hpa", "istiod", "-n", "istio-system", "-p", patch)
        until(lambda: agreeing(mesh) or None, "two replicas agree", 120)
        facts, findings = looked(mesh)
        rows = pair_table.table(mesh, facts, findings)
        assert sorted(rows["client"]) == ["east", "east", "west"]
        assert set(rows["sync"]) == {"synced"}
    finally:
        if autoscaled:
            patch = '{"spec":{"minReplicas":1}}'
            meshed_lab.kubectl("lab-east", "patch", "hpa", "istiod", "-n", "istio-system", "-p", patch)
        meshed_lab.kubectl("lab-east", *scale, "--replicas=1")
        until(lambda: first_links(mesh) == WHOLE or None, "whole again", 90)


def agreeing(mesh: Mesh) -> bool:
    """Tell whether MK837 passes of east → west."""
    return [f.verdict for f in looked(mesh)[1] if (f.id, f.subject) == ("MK837", PAIR)] == [Verdict.PASS]


@pytest.mark.parametrize("sickness", [500, 429, "refuses", "slow"])
def test_a_sick_cluster_leaves_unknown_rows_within_the_deadline_and_all_others_right(
    meshed_lab: Lab, tmp_path: Path, sickness: Sickness
) -> None:
    """A third cluster of which there is only an API server that is not well; no real one could be made so at will."""
    with sick_api_server(sickness) as server:
        kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", server, None, {"lab-north": "canary-token"})
        document = yaml.safe_load(meshed_lab.mesh_file.read_text())
        north = {"name": "north", "context": "lab-north", "kubeconfig": str(kubeconfig), "network": "net-north"}
        document["clusters"].append(north)
        (tmp_path / "mesh.yaml").write_text(yaml.safe_dump(document))
        mesh = Mesh.open(tmp_path / "mesh.yaml")
        began = time.monotonic()
        facts, findings = looked(mesh)
        took = time.monotonic() - began
        rows = pair_table.table(mesh, facts, findings)
    print(f"{sickness}: {took:.1f} s")
    assert took < DEADLINE
    own = rows[(rows["client"] != "north") & (rows["server"] != "north")]
    assert set(own["verdict"]) == {"pass"}, own.to_dict("records")
    assert cell_verdicts(mesh, findings, "north") == {"unknown"}
    assert "canary-token" not in rows.to_csv()


def cell_verdicts(mesh: Mesh, findings: list[Finding], client: str) -> set[str]:
    """Return the verdicts of all links of all pairs of a client."""
    cells: pd.DataFrame = pair_table.cells(mesh, findings)
    return set(cells[cells["client"] == client]["verdict"]) - {"skipped"}
