"""Model."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cryptography.x509 import Certificate

from meshkit.istio.ca import cacerts
from meshkit.istio.ca.x509_rules import PrivateKey

SECRET = cacerts.SECRET
FILES = cacerts.FILES


MAKE = "`meshkit ca root` makes a root, `meshkit ca request` what your own PKI has to sign; see docs/trust.md"


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its certificate, and the key that signs with it."""

    certificate: Certificate
    key: PrivateKey = field(repr=False)


@dataclass(frozen=True)
class CaCerts:
    """What a cluster's Secret `cacerts` holds: the intermediate, its root, and the four files."""

    certificate: Certificate
    root: Certificate
    files: dict[str, bytes] = field(repr=False)

    def secret(self, namespace: str) -> dict[str, Any]:
        """Return the Secret as a manifest."""
        data = {name: base64.b64encode(pem).decode() for name, pem in self.files.items()}
        metadata = {"name": SECRET, "namespace": namespace}
        return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data}


SHORT = 16
NEW_ROOT = (
    "`meshkit ca root DIR` makes a root, or your PKI does; name its folder in trust.rootDirectory of the mesh file"
)


class StrategyOutcome(StrEnum):
    """What stage 04 has to do."""

    NOTHING = "nothing to do"
    ADOPT = "adopt"
    OVERLAP = "overlap"
    NO_WAY = "no way yet"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ClusterCaState:
    """What is known of one cluster.

    `live`: it has proxies, whose trust must not break. `root` and `signer` are SHA-256 fingerprints of the CA that its
    istiod takes (empty: it has none), `plugged` whether that is the Secret cacerts, `bundle` the roots that it hands
    out and `anchors` those that its proxies' chains end at (both cut to `SHORT`), `ends` whether its intermediate is to
    be renewed, `problem` why istiod could not sign with it, `keys` the fingerprints of self-signed roots whose keys its
    Secrets hold, `reason` why all of this is unknown.

    `owner` is what keeps its CA as it is (cert-manager, Argo CD), and `owner_source` where that is changed: meshkit
    never writes there. With `signs_elsewhere` that is another CA, such as istio-csr; istiod's Secrets prove nothing.
    """

    name: str
    live: bool = False
    root: str = ""
    signer: str = ""
    plugged: bool = False
    bundle: frozenset[str] = frozenset()
    anchors: frozenset[str] = frozenset()
    ends: bool = False
    problem: str = ""
    keys: frozenset[str] = frozenset()
    owner: str = ""
    owner_source: str = ""
    signs_elsewhere: bool = False
    reason: str = ""

    def settled(self, root: str) -> bool:
        """Whether a root is the only one that it signs under, hands out, and shows."""
        only = {root[:SHORT]}
        return self.root == root and self.bundle == only and self.anchors <= only


@dataclass(frozen=True)
class Offer:
    """The user's own CA: its root, and the intermediate of each cluster that has one (fingerprints)."""

    root: str
    signers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Choice:
    """What is to be done, why, and what the user can do where meshkit cannot.

    `root` is the common root's fingerprint, `key_in` the cluster whose Secrets hold its key (empty: the user's own
    files), `plug` the clusters that need an intermediate of it.
    """

    outcome: StrategyOutcome
    why: str
    remedy: str = ""
    root: str = ""
    key_in: str = ""
    plug: tuple[str, ...] = ()

    @property
    def cost(self) -> str:
        """What it costs in key hygiene to take a root whose key a cluster's own istiod made; empty where none is."""
        if not self.key_in:
            return ""
        return (
            f"whoever could read Secrets of {self.key_in}, or a backup of them, since it was made could do that then, "
            "and can for as long as the root lives: no deletion takes a copied key back, and nothing is signed offline"
        )
