"""A live mesh's own root adopted, then intermediates renewed that end soon, under load: nobody's trust changes.

East is live with a self-signed root; west is, too, with an intermediate of it, so that they call each other all along.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from meshlab import lifecycle, scenarios
from meshlab.layout import sites
from meshlab.tools import Timed, Tools, each

from meshkit.istio.ca import ca_files, certificates, issuing, istiod_ca, model
from meshkit.kube.manifests import MANAGED
from meshkit.kube.mesh import Mesh
from tests.e2e.runs.test_migration import FORGIVEN, Done, meshkit
from tests.e2e.stages.trust.test_root_rotation import QUIET
from tests.support.boundaries import Trust, astray, entries
from tests.support.lab import Lab, in_folder, until
from tests.support.loads import Count, Loads

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.timeout(1200)]

SYSTEM = "istio-system"
NAMES = ("east", "west")


@dataclass(frozen=True)
class Adopting:
    """Two live clusters under east's self-signed root, and the load in and between them."""

    lab: Lab
    loads: Loads
    home: Path

    @property
    def mesh_file(self) -> str:
        """A mesh file that names no root: what is there is to be adopted."""
        return self.loads.mesh_file("local")

    @property
    def mesh(self) -> Mesh:
        """The mesh, with nothing remembered."""
        return Mesh.open(self.mesh_file)

    def carried_out(self, name: str) -> tuple[Done, list[Count]]:
        """Run stage 04, and go on for a while; return what became of the requests from its begin on."""
        state, begun = self.home / name, time.time()
        done = meshkit(state, "run", self.mesh_file, "--only", "04", "--mode", "apply")
        took = time.time() - begun
        time.sleep(QUIET)
        counts = self.loads.counts(begun, time.time())
        changes = [f"{e.cluster}: {e.action} {e.object} {e.seconds:.1f} s" for e in entries(state)]
        print(f"\n{name}: exit code {done.code}, {took:.1f} s", *changes, *counts, sep="\n")
        return done, counts


@pytest.fixture(scope="module")
def adopting(short_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adopting]:
    """A mesh of a test's own."""
    lab = Lab(short_folder / "adopt")
    try:
        with in_folder(lab.home):
            settings = lifecycle.start(2, 40, False, print)
        tools, (east, west), timed = Tools(lab.home), sites(settings.clusters), Timed(print)
        scenarios.primary(tools, east, timed, flat=False)
        take_root(lab)
        scenarios.primary(tools, west, timed, flat=False)
        each([(east, west), (west, east)], lambda pair: scenarios.remote_secret(tools, *pair))
        each([east, west], lambda site: scenarios.sample(tools, site, load=False))
        with Loads(lab) as loads:
            time.sleep(QUIET)
            yield Adopting(lab, loads, tmp_path_factory.mktemp("adopt"))
    finally:
        lab.stop()


def secret(lab: Lab, name: str, what: str) -> dict[str, bytes]:
    """Return what a Secret of a cluster holds."""
    document = json.loads(lab.kubectl(f"lab-{name}", "get", "secret", what, "-n", SYSTEM, "-o", "json"))
    return {key: base64.b64decode(value) for key, value in document["data"].items()}


def take_root(lab: Lab) -> None:
    """Lay east's self-signed root where the lab's common one would be."""
    held, folder = secret(lab, "east", istiod_ca.SELF_SIGNED), lab.home / "certs"
    folder.mkdir(mode=0o700)
    (folder / "root-cert.pem").write_bytes(held["ca-cert.pem"])
    (folder / "root-key.pem").write_bytes(held["ca-key.pem"])


def assert_none_lost(counts: list[Count]) -> None:
    """No request within a cluster failed; between them next to none, for none is tried again."""
    local = [count for count in counts if count.kind == "local"]
    assert all(count.sent > 1000 for count in counts), counts
    assert [str(count) for count in local if count.failed] == []
    assert [str(c) for c in counts if c.kind == "across" and len(c.failed) > FORGIVEN * c.sent] == []


def test_a_live_root_is_adopted_and_no_request_fails(adopting: Adopting) -> None:
    """East gets an intermediate of its own root, and one restart of istiod; west is left alone."""
    done, counts = adopting.carried_out("adopted")
    assert done.code == 0, done.said[-6000:]
    changes = [(e.cluster, e.action, e.object) for e in entries(adopting.home / "adopted")]
    assert changes == [
        ("east", "create", f"Secret {SYSTEM}/cacerts"),
        ("east", "restart", f"Deployment {SYSTEM}/istiod"),
    ]
    assert astray(adopting.mesh, dict.fromkeys(NAMES, common(adopting.lab))) == []
    assert_none_lost(counts)


def common(lab: Lab) -> Trust:
    """Return what both clusters trust: east's root, by intermediates."""
    (root,) = certificates.parse_chain((lab.home / "certs" / "root-cert.pem").read_bytes())
    return Trust(certificates.fingerprint(root), model.SECRET)


def test_intermediates_that_end_soon_are_renewed_and_no_request_fails(adopting: Adopting) -> None:
    """Both get another one of the same root, which their istiods take while they run."""
    given = {name: end_soon(adopting, name) for name in NAMES}
    for name in NAMES:
        until(lambda name=name: signer(adopting, name) == given[name], f"{name} signs with what ends soon", 120)
    done, counts = adopting.carried_out("renewed")
    assert done.code == 0, done.said[-6000:]
    changes = [(e.cluster, e.action, e.object) for e in entries(adopting.home / "renewed")]
    what = f"Secret {SYSTEM}/cacerts"
    assert changes == [("east", "update", what), ("west", "patch", what)]
    assert astray(adopting.mesh, dict.fromkeys(NAMES, common(adopting.lab))) == []
    assert not {signer(adopting, name) for name in NAMES} & set(given.values())
    assert_none_lost(counts)


def end_soon(adopting: Adopting, name: str) -> str:
    """Give a cluster another intermediate of the same root that lives 20 days; return its fingerprint.

    As who made its Secret did: east's is meshkit's own since it was adopted.
    """
    folder = adopting.lab.home / "certs"
    files = [(folder / file).read_bytes() for file in ("root-cert.pem", "root-key.pem")]
    root = ca_files.load(files[0], files[1], where="the test's root", signs_authorities=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(issuing, "LIFE", timedelta(days=20))
        plugged = issuing.intermediate(root, name, SYSTEM)
    made = plugged.secret(SYSTEM)
    if name == "east":
        made["metadata"]["labels"] = MANAGED
        ours = ("apply", "--server-side", "--field-manager=meshkit", "-f", "-")
        adopting.lab.kubectl("lab-east", *ours, stdin=json.dumps(made))
    else:
        data = json.dumps({"data": made["data"]})
        adopting.lab.kubectl(f"lab-{name}", "patch", "secret", "cacerts", "-n", SYSTEM, "-p", data)
    return certificates.fingerprint(plugged.certificate)


def signer(adopting: Adopting, name: str) -> str:
    """Return the fingerprint of what a cluster's istiod signs with, an empty text while that is not in its Secret."""
    rows = istiod_ca.signers(adopting.mesh)
    (found,) = rows[rows["cluster"] == name]["signer"]
    return str(found)
