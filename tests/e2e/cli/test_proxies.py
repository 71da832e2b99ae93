"""`meshkit proxies` on the real lab: beside istioctl, over the clusters' borders, and with a cluster that is unwell."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from meshkit.checks import proxies
from meshkit.checks.finding import Verdict
from meshkit.istio.control_plane import versions
from meshkit.istio.proxies import proxy_status, status_summary
from meshkit.istio.proxies import reading as proxies_reading
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from tests.support.api_server import write_kubeconfig
from tests.support.lab import CURL, Lab, Space, sleeper, space, until

pytestmark = pytest.mark.lab

SYSTEM = ("-n", "istio-system")
PRIMARY = "istiod-for-remotes"
DEADLINE = 30.0
PAUSE = 2.0
REST = "all proxies are up to date, and stay so"


def meshkit(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run the real command line."""
    command = [sys.executable, "-m", "meshkit", "proxies", *argv]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_lists_every_proxy_and_compares_with_an_earlier_list(meshed_lab: Lab, tmp_path: Path) -> None:
    """All clusters at once, beside istioctl once for each; nothing changed since, then one proxy has another state."""
    mesh_file = str(meshed_lab.mesh_file)
    until(partial(at_rest, Mesh.open(mesh_file)), REST)
    began = time.monotonic()
    listed = meshkit(mesh_file, "-o", "json")
    ours = time.monotonic() - began
    names = {(row["cluster"], f"{row['proxy']}.{row['namespace']}") for row in json.loads(listed.stdout)}
    theirs = set()
    for name in ("east", "west"):
        began = time.monotonic()
        said = meshed_lab.istioctl(f"lab-{name}", "proxy-status").splitlines()[1:]
        print(f"istioctl proxy-status of lab-{name}: {time.monotonic() - began:.1f} s")
        theirs |= {(name, line.split()[0]) for line in said}
    print(f"meshkit proxies of both: {ours:.1f} s")
    assert (listed.returncode, names) == (0, theirs), listed.stderr
    assert meshkit(mesh_file, "-n", "nowhere").returncode == 1
    earlier = tmp_path / "earlier.json"
    earlier.write_text(listed.stdout)
    same = meshkit(mesh_file, "--since", str(earlier), "-o", "json")
    assert (same.returncode, json.loads(same.stdout)) == (0, [])
    rows = [
        {**row, "state": "STALE"} if row["proxy"].startswith("httpbin-") else row for row in json.loads(listed.stdout)
    ]
    earlier.write_text(json.dumps(rows))
    changed = json.loads(meshkit(mesh_file, "--since", str(earlier), "--cluster", "west", "-o", "json").stdout)
    assert [(row["cluster"], row["change"], row["before"], row["now"]) for row in changed] == [
        ("west", "mended", "STALE", "SYNCED")
    ]


@pytest.fixture
def remote(meshed_lab: Lab) -> Iterator[Space]:
    """A namespace of west whose pods are served by east's istiod, as those of a remote cluster by its primary's."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": PRIMARY, "namespace": "istio-system"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "istiod"}, "ports": [{"name": "xds", "port": 15012}]},
    }
    meshed_lab.kubectl("lab-east", "apply", "-f", "-", stdin=json.dumps(service))
    for made in space(meshed_lab, "lab-west"):
        meshed_lab.kubectl("lab-west", "label", "namespace", made.name, "istio-injection=enabled")
        yield made
        # The next test counts west's proxies.
        meshed_lab.kubectl("lab-west", "delete", "pods", "--all", "-n", made.name, "--wait")
        mesh = Mesh.open(meshed_lab.mesh_file)
        until(partial(forgotten, mesh, made.name), "every istiod has forgotten its pods")
    meshed_lab.kubectl("lab-east", "delete", "service", PRIMARY, *SYSTEM)


def test_a_remotes_proxy_is_reported_with_the_istiod_that_owns_it(meshed_lab: Lab, remote: Space) -> None:
    """It runs in west and east's istiod serves it; istioctl lists it where it does not run, and not where it does.

    A native sidecar that finds no istiod keeps its pod pending, and is reported as not connected.
    """
    path = "jsonpath={.status.loadBalancer.ingress[*].ip}"
    ask = ("get", "service", PRIMARY, *SYSTEM, "-o", path)
    address = until(lambda: meshed_lab.kubectl("lab-east", *ask).strip(), "the address of east's istiod")
    remote.apply(injected("far", f"{address}:15012"), injected("lost", "127.0.0.1:9"))
    remote.ready("pod/far", 90)
    mesh = Mesh.open(meshed_lab.mesh_file)
    row = until(lambda: far(mesh, remote.name), "east's istiod knows it")
    assert (row["cluster"], row["cluster_id"], row["istiod_cluster"], row["kind"]) == (
        "west",
        "west",
        "east",
        "sidecar",
    )
    states = status_summary.summary(proxy_status.proxy_status(mesh, remote.name)).set_index("proxy")["worst"]
    assert dict(states) == {"far": "SYNCED", "lost": "NOT CONNECTED"}
    assert remote.phase("lost") == "Pending"
    assert f"far.{remote.name}" in meshed_lab.istioctl("lab-east", "proxy-status")
    assert f"far.{remote.name}" not in meshed_lab.istioctl("lab-west", "proxy-status")
    (owners,) = [f for f in proxies.check_owners(mesh, proxies_reading.look(mesh)) if f.subject == "west"]
    assert owners.verdict is Verdict.WARN
    assert f"1 by east; 4 by west, such as far.{remote.name}" in owners.observed


def forgotten(mesh: Mesh, namespace: str) -> bool:
    """Tell whether no istiod knows a proxy of a namespace any more, and no pod there has one."""
    return bool(proxy_status.proxy_status(mesh, namespace).empty)


def injected(name: str, istiod: str) -> dict[str, Any]:
    """Return a pod whose proxy asks the istiod at an address."""
    metadata = {"ISTIOD_SAN": "istiod.istio-system.svc"}
    config = json.dumps({"discoveryAddress": istiod, "proxyMetadata": metadata})
    containers = [{"name": "main", "image": CURL, **sleeper()}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": {"proxy.istio.io/config": config}},
        "spec": {"containers": containers, "terminationGracePeriodSeconds": 1},
    }


def far(mesh: Mesh, namespace: str) -> dict[str, Any]:
    """Return the first row of that pod's proxy once an istiod knows it, or nothing."""
    rows = proxy_status.proxy_status(mesh, namespace).query("istiod != ''")
    return rows.iloc[0].to_dict() if len(rows) else {}  # type: ignore[return-value]


def of_east(seen: pd.DataFrame, *columns: str) -> set[tuple[Any, ...]]:
    """Return what a table of proxies says of those of east."""
    wanted = ["proxy", "type", "state", *columns]
    return set(seen[seen["cluster"] == "east"][wanted].itertuples(index=False, name=None))


def at_rest(mesh: Mesh) -> set[tuple[Any, ...]]:
    """Return what there is of east once nothing is on its way: the test before this one may have moved the mesh."""
    before = proxy_status.proxy_status(mesh)
    time.sleep(PAUSE)
    now = proxy_status.proxy_status(mesh)
    stays = of_east(before, "since") == of_east(now, "since")
    return of_east(now) if stays and set(now["state"]) <= set(status_summary.GOOD) else set()


@contextlib.contextmanager
def unwell(status: int, delay: float) -> Iterator[str]:
    """Serve as an API server that answers every request so: a real one cannot be made to, at will."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            time.sleep(delay)
            body = json.dumps({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": []}).encode()
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "delay", "reason"),
    [(429, 0, "429"), (500, 0, "500"), (503, 0, "503"), (200, 10.5, "no answer within 10 s")],
    ids=["429", "500", "503", "slow"],
)
def test_a_cluster_that_is_unwell_is_unknown_and_the_others_are_right(
    meshed_lab: Lab, tmp_path: Path, status: int, delay: float, reason: str
) -> None:
    """Within the deadline; east's rows are what they are without it, and no verdict of west passes."""
    spec = MeshSpec.load(meshed_lab.mesh_file)
    known = until(partial(at_rest, Mesh.open(spec)), REST)
    with unwell(status, delay) as address:
        document = spec.model_dump(by_alias=True)
        kubeconfig = write_kubeconfig(tmp_path / "west", address, None, {"lab-west": "t"})
        document["clusters"][1]["kubeconfig"] = str(kubeconfig)
        mesh = Mesh.open(MeshSpec.parse(document, where="test"))
        began = time.monotonic()
        seen = proxy_status.proxy_status(mesh)
        assert time.monotonic() - began < DEADLINE
        facts = proxies_reading.ProxyFacts(seen, seen, versions.versions(mesh, seen))
    west = seen[seen["cluster"] == "west"]
    assert list(west["state"]) == ["UNKNOWN"]
    assert reason in west.iloc[0]["nack"]
    assert of_east(seen) == known
    checks = (proxies.check_proxies, proxies.check_skew, proxies.check_owners, proxies.check_strangers)
    verdicts = {f.verdict for check in checks for f in check(mesh, facts) if f.subject in ("west", "mesh")}
    assert verdicts == {Verdict.UNKNOWN}
    assert Verdict.UNKNOWN not in {f.verdict for f in proxies.check_proxies(mesh, facts) if f.subject == "east"}
