"""What is predicted of an istiod is what the lab's does: by its log, by what it serves, and by what proxies hold.

The tests run in their order, on one lab: each stands on what the one before left.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from meshkit.istio.ca import certificates, issuing, istiod_ca, root_bundles, trust_store
from meshkit.istio.ca.root_bundles import ReloadMode
from meshkit.istio.control_plane import istiods_and_proxies, versions
from meshkit.istio.proxies import workloads
from meshkit.kube.mesh import Mesh
from tests.support.lab import Lab, until
from tests.unit.istio.ca.test_issuing import load, root

pytestmark = [pytest.mark.lab, pytest.mark.drill, pytest.mark.timeout(900)]

EAST, SYSTEM, SAMPLE = "lab-east", "istio-system", "sample"
PATIENCE = 120.0
QUIET = 5.0
SIGNER = ("ca-cert.pem", "ca-key.pem", "cert-chain.pem")
WORDS = {
    root_bundles.RELOADED,
    root_bundles.UPDATING,
    root_bundles.REFUSED,
    root_bundles.DISABLED,
    root_bundles.SKIPPED,
}
DEAF = "httpbin"
"""This one's agents are not told of other roots; all others are."""

Files = dict[str, bytes]


@dataclass
class Bench:
    """A lab with one live cluster, whose root is `old`, and another root, `new`, with what signs under either."""

    lab: Lab
    mesh: Mesh
    old: bytes
    new: bytes
    below_old: Files = field(repr=False)
    below_new: Files = field(repr=False)
    loaded: bytes | None = None
    """The root-cert.pem that istiod has in memory; of its own CA, none."""

    def istiod(self) -> istiods_and_proxies.Istiod:
        """Return the one istiod."""
        (one,) = until(self._settled, "one istiod", PATIENCE)
        return one

    def _settled(self) -> list[istiods_and_proxies.Istiod]:
        found = istiods_and_proxies.istiods(self.mesh.clusters["east"])
        return found if len(found) == 1 else []

    def said(self, istiod: istiods_and_proxies.Istiod) -> list[str]:
        """Return what an istiod has said of its CA, in its order."""
        lines = self.lab.kubectl(EAST, "logs", istiod.name, "-n", SYSTEM).splitlines()
        return [words for line in lines if (words := line.rsplit("\t", 1)[-1]) in WORDS]

    def write(self, signer: Files, bundle: bytes) -> root_bundles.Prediction:
        """Write `cacerts`, and return what was predicted, after the istiod has said just that."""
        istiod = self.istiod()
        before = len(self.said(istiod))
        told = root_bundles.predict(self.loaded, bundle, versions.istiod_version(istiod), istiod.env)
        files = {name: signer[name] for name in SIGNER} | {"root-cert.pem": bundle}
        data = {name: base64.b64encode(pem).decode() for name, pem in files.items()}
        metadata = {"name": "cacerts", "namespace": SYSTEM}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}
        self.lab.kubectl(EAST, "apply", "-f", "-", stdin=json.dumps(secret))
        if told.log:
            said = until(lambda: self.said(istiod)[before:], f"istiod: {told.log}", PATIENCE)
            assert said[0] == told.log
        else:
            time.sleep(6)  # nothing is to come; the lab's pods have other Secrets within two seconds
            assert self.said(istiod)[before:] == []
        if told.taken is ReloadMode.LIVE:
            self.loaded = bundle
        self.serves(self.loaded or self.old)
        return told

    def restart(self, bundle: bytes) -> None:
        """Restart istiod: whatever it refused, it has then."""
        self.lab.kubectl(EAST, "rollout", "restart", "deployment/istiod", "-n", SYSTEM)
        self.lab.kubectl(EAST, "rollout", "status", "deployment/istiod", "-n", SYSTEM, "--timeout=120s")
        self.loaded = bundle
        self.serves(bundle)

    def serves(self, bundle: bytes) -> None:
        """Wait until the ConfigMap that istiod writes has the roots of a bundle, and no others."""
        show = ("get", "configmap", "istio-ca-root-cert", "-n", SAMPLE, "-o", "jsonpath={.data.root-cert\\.pem}")
        until(lambda: roots(self.lab.kubectl(EAST, *show).encode()) == roots(bundle), "roots served", PATIENCE)

    def holds(self, bundle: bytes, *, deaf: bytes) -> dict[str, trust_store.ProxyCertificate]:
        """Wait until each proxy holds the roots of a bundle, or the other if its agent is late; return them."""

        def ask() -> dict[str, trust_store.ProxyCertificate]:
            found = trust_store.certificates(self.mesh).items
            alike = [one.bundle == set(roots(deaf if one.proxy.startswith(DEAF) else bundle)) for one in found]
            return {one.proxy.split("-")[0]: one for one in found} if len(found) == 4 and all(alike) else {}

        return until(ask, "roots held", PATIENCE)

    def leaves(self) -> dict[str, str]:
        """Return each proxy's certificate, once all have what they were to request before."""

        def ask() -> dict[str, str]:
            before = self._leaves()
            time.sleep(QUIET)
            return before if before == self._leaves() else {}

        return until(ask, "no new certificates", PATIENCE)

    def _leaves(self) -> dict[str, str]:
        return {name: one.sha256 for name, one in self.holds(self.loaded or b"", deaf=self.old).items()}

    def signed_below(self, bundle: bytes) -> bool:
        """Tell whether istiod's own certificate is of a signer under a root."""
        signer = next(iter(certificates.parse_chain(self.below_new["ca-cert.pem"] if bundle == self.new else self.old)))
        return certificates.signed_by(istiod_ca.serving_certificate(self.istiod()), signer)


def roots(bundle: bytes) -> set[str]:
    """Return the fingerprints of a bundle's certificates."""
    return {certificates.fingerprint(one, certificates.SHORT) for one in certificates.parse_bundle(bundle)}


@pytest.fixture(scope="module")
def bench(short_folder: Path) -> Iterator[Bench]:
    """East live with a root of its own; istiod and agents take other roots live, but for one deployment's agents."""
    lab = Lab(short_folder / "bundles")
    try:
        lab.start("single", clusters=1, live_roots=True)
        config = json.dumps({"proxyMetadata": {workloads.XDS_AGENT: "false"}})
        patch = {"spec": {"template": {"metadata": {"annotations": {"proxy.istio.io/config": config}}}}}
        lab.kubectl(EAST, "patch", "deployment", DEAF, "-n", SAMPLE, "-p", json.dumps(patch))
        lab.kubectl(EAST, "rollout", "status", f"deployment/{DEAF}", "-n", SAMPLE, "--timeout=120s")
        mesh = Mesh.open(lab.mesh_file)
        own = istiod_ca.secret_data(mesh.clusters["east"], SYSTEM, istiod_ca.SELF_SIGNED)
        other = root("rsa")
        below = dict(zip(SIGNER, (own["ca-cert.pem"], own["ca-key.pem"], own["ca-cert.pem"]), strict=True))
        below_new = issuing.intermediate(load(other), "east", SYSTEM).files
        yield Bench(lab, mesh, own["ca-cert.pem"], other.certificate, below, below_new)
    finally:
        lab.stop()


def test_a_ca_of_its_own_looks_for_no_cacerts(bench: Bench) -> None:
    """Not one word of it in the log, until it starts again."""
    assert bench.write(bench.below_old, bench.old).taken is ReloadMode.RESTART
    bench.restart(bench.old)


def test_a_wider_bundle_is_hot_reloaded_and_reaches_connected_proxies(bench: Bench) -> None:
    """The others go on with what they have."""
    wide = root_bundles.append_roots(bench.old, [bench.new])
    assert bench.write(bench.below_old, wide).taken is ReloadMode.LIVE
    bench.holds(wide, deaf=bench.old)


def test_another_order_is_taken_live(bench: Bench) -> None:
    """Up to 1.29 it would be refused."""
    assert bench.write(bench.below_old, bench.new + bench.old).taken is ReloadMode.LIVE


def test_a_new_signer_below_the_same_bundle_is_hot_reloaded_and_distributed_to_no_proxy(bench: Bench) -> None:
    """Certificates stay until proxies ask for new ones: at another text of the same roots."""
    assert bench.loaded
    before = bench.leaves()
    assert bench.write(bench.below_new, bench.loaded).taken is ReloadMode.LIVE
    assert bench.signed_below(bench.new)
    assert bench.leaves() == before
    assert bench.write(bench.below_new, root_bundles.duplicate_root(bench.loaded, bench.new)).taken is ReloadMode.LIVE
    (new,), (old,) = roots(bench.new), roots(bench.old)
    wanted = {name: old if name == DEAF else new for name in before}
    until(
        lambda: {n: one.anchor for n, one in bench.holds(bench.loaded or b"", deaf=bench.old).items()} == wanted,
        "new certificates",
        PATIENCE,
    )


def test_a_narrower_bundle_is_taken_live(bench: Bench) -> None:
    """And proxies that get the update trust the new root only."""
    assert bench.write(bench.below_new, bench.new).taken is ReloadMode.LIVE
    bench.holds(bench.new, deaf=bench.old)


def test_a_bundle_that_shares_nothing_is_refused_whole_until_a_restart(bench: Bench) -> None:
    """Its signer, too."""
    assert bench.write(bench.below_old, bench.old).taken is ReloadMode.RESTART
    assert bench.signed_below(bench.new)
    bench.restart(bench.old)
    assert bench.signed_below(bench.old)


def test_without_the_switch_only_the_signer_is_taken_live(bench: Bench) -> None:
    """Even a wider bundle is refused; the same text is not."""
    wide = root_bundles.append_roots(bench.old, [bench.new])
    bench.lab.kubectl(EAST, "set", "env", "deployment/istiod", "-n", SYSTEM, f"{root_bundles.MULTI_ROOT}=false")
    bench.restart(bench.old)
    assert bench.write(bench.below_old, wide).taken is ReloadMode.RESTART
    assert bench.write(bench.below_new, wide).taken is ReloadMode.RESTART
    assert bench.signed_below(bench.old)
    bench.restart(wide)
    assert bench.signed_below(bench.new)
    assert bench.write(bench.below_old, wide).taken is ReloadMode.LIVE
    assert bench.signed_below(bench.old)
