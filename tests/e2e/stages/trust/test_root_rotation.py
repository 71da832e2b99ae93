"""Two live clusters with a root each get a common one, under load in and between them; openssl and istioctl agree.

Both ways of Istio: one that takes a changed bundle while it runs, and one that takes it at a restart only.
"""

from __future__ import annotations

import base64
import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from meshlab import scenarios
from meshlab.certificates import make_root
from meshlab.tools import Tools

from meshkit.changes.journal import Journal
from meshkit.istio.ca import certificates, trust_store
from meshkit.kube.mesh import Mesh
from tests.e2e.runs.test_migration import FORGIVEN, Done, meshkit
from tests.support.lab import Lab
from tests.support.loads import Count, Loads, clock

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.timeout(1800)]

QUIET = 10.0
ENOUGH = 10_000
CERTIFICATE = re.compile(b"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)


@dataclass(frozen=True)
class Overlapped:
    """What became of the requests before the stage, while it was carried out, and after it."""

    lab: Lab
    mesh_file: str
    state: Path
    root: Path
    done: Done
    seconds: float
    before: list[Count]
    during: list[Count]
    after: list[Count]


@pytest.fixture(scope="module", params=[True, False], ids=["live roots", "default"])
def overlapped(request: pytest.FixtureRequest, short_folder: Path) -> Iterator[Overlapped]:
    """A mesh of strangers to which stage 04 gave a root made by openssl; the private store is the test's own."""
    lab = Lab(short_folder / f"overlap-{int(request.param)}")
    try:
        lab.start("strangers", live_roots=request.param)
        make_root(Tools(lab.home))
        with Loads(lab) as loads:
            found = overlap(lab, loads)
            print("", summary(found), sep="\n")
            yield found
    finally:
        lab.stop()


def overlap(lab: Lab, loads: Loads) -> Overlapped:
    """Carry the stage out, and go on until enough requests were sent within clusters."""
    root, state = lab.home / "certs", lab.home / "state"
    mesh_file = loads.mesh_file("local", trust={"strategy": "overlap", "rootDirectory": str(root)})
    time.sleep(QUIET)
    begun = time.time()
    done = meshkit(state, "run", mesh_file, "--mode", "apply", "--only", "04")
    ended = time.time()
    time.sleep(QUIET)
    while within(loads.counts(begun, time.time())) < ENOUGH:
        time.sleep(QUIET)
    before, during = loads.counts(begun - QUIET, begun), loads.counts(begun, ended)
    after = loads.counts(ended, time.time())
    return Overlapped(lab, mesh_file, state, root, done, ended - begun, before, during, after)


def within(counts: list[Count]) -> int:
    """Return how many requests were sent within clusters."""
    return sum(count.sent for count in counts if count.kind == "local")


def summary(found: Overlapped) -> str:
    """Return what came of it, and when each change was made, as lines."""
    lines = [f"stage 04: exit code {found.done.code}, {found.seconds:.1f} s"]
    for when in ("before", "during", "after"):
        lines += [f"{when:>7} {count}" for count in getattr(found, when)]
    moments = {c.cluster: (c.first_good, c.last_bad) for c in found.during if c.kind == "across"}
    for name, (good, bad) in moments.items():
        words = [clock(moment) if moment else "never" for moment in (good, bad)]
        lines.append(f"from {name} to the other: first good {words[0]}, last bad {words[1]}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(found.state))
        entries = [entry for journal in Journal.all_of(scenarios.MESH_ID) for entry in journal.entries]
    lines += [f"{e.begun} {e.event} {e.seconds:5.1f} s {e.cluster}: {e.action} {e.object} ({e.why})" for e in entries]
    return "\n".join(lines)


def test_no_request_within_a_cluster_fails(overlapped: Overlapped) -> None:
    """Of at least ten thousand, from the begin of the stage on."""
    assert overlapped.done.code == 0, overlapped.done.said[-6000:]
    counts = [count for count in (*overlapped.during, *overlapped.after) if count.kind == "local"]
    assert within(counts) >= ENOUGH
    assert [str(count) for count in counts if count.failed] == []


def test_calls_between_the_clusters_fail_before_and_pass_after(overlapped: Overlapped) -> None:
    """All of them before, both ways; afterwards next to none: a call of the other cluster is not tried again."""
    before = {c.cluster: c.sent - len(c.failed) for c in overlapped.before if c.kind == "across"}
    assert before == {"east": 0, "west": 0}
    assert all(c.sent > 0 for c in (*overlapped.before, *overlapped.after))
    bad = [str(c) for c in overlapped.after if c.kind == "across" and len(c.failed) > FORGIVEN * c.sent]
    assert bad == []


def test_istioctl_and_openssl_agree_for_every_proxy(overlapped: Overlapped, tmp_path: Path) -> None:
    """Leaf and roots are those of meshkit's table, the chain ends at the new root, which is the only one trusted."""
    lab, root = overlapped.lab, overlapped.root / "root-cert.pem"
    found = trust_store.certificates(Mesh.open(overlapped.mesh_file))
    assert {(one.cluster, one.namespace, one.proxy) for one in found} == proxies(lab)
    for one in found:
        name = f"{one.proxy}.{one.namespace}"
        shown = json.loads(lab.istioctl(f"lab-{one.cluster}", "proxy-config", "secret", name, "-o", "json"))
        held = {s["name"]: s["secret"] for s in shown["dynamicActiveSecrets"]}
        chain = pems(held["default"]["tlsCertificate"]["certificateChain"])
        roots = {fingerprint(pem) for pem in pems(held["ROOTCA"]["validationContext"]["trustedCa"])}
        assert one.sha256 == fingerprint(chain[0])
        assert one.bundle == {digest[: certificates.SHORT] for digest in roots}
        assert roots == {fingerprint(root.read_bytes())}
        (tmp_path / "leaf.pem").write_bytes(chain[0])
        (tmp_path / "above.pem").write_bytes(b"".join(chain[1:]))
        at = {file: str(tmp_path / f"{file}.pem") for file in ("leaf", "above")}
        openssl("verify", "-CAfile", str(root), "-untrusted", at["above"], at["leaf"])


def test_a_second_plan_is_empty(overlapped: Overlapped) -> None:
    """Nothing is left to do."""
    again = meshkit(overlapped.state, "run", overlapped.mesh_file, "--only", "04")
    assert again.code == 0, again.said[-6000:]
    assert [plan.to_dict("records") for plan in again.plans()] == [[]]


def proxies(lab: Lab) -> set[tuple[str, str, str]]:
    """Return cluster, namespace and name of every pod with a proxy, by kubectl's word."""
    found = set()
    for name in ("east", "west"):
        for pod in json.loads(lab.kubectl(f"lab-{name}", "get", "pods", "-A", "-o", "json"))["items"]:
            containers = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
            if "istio-proxy" in {container["name"] for container in containers}:
                found.add((name, pod["metadata"]["namespace"], pod["metadata"]["name"]))
    return found


def pems(source: dict[str, Any]) -> list[bytes]:
    """Return the certificates of a data source of Envoy's."""
    return CERTIFICATE.findall(base64.b64decode(source["inlineBytes"]))


def fingerprint(pem: bytes) -> str:
    """Return the SHA-256 of a certificate, as openssl has it."""
    said = openssl("x509", "-noout", "-fingerprint", "-sha256", stdin=pem)
    return said.partition("=")[2].strip().replace(":", "").lower()


def openssl(*argv: str, stdin: bytes = b"") -> str:
    """Run openssl; it must succeed."""
    done = subprocess.run(["openssl", *argv], input=stdin, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
