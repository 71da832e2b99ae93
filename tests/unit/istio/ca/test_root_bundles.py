"""How an istiod takes another bundle of roots: by version and environment, each row with its source.

The row of 1.31 is tried on a real istiod by tests/e2e/istio/ca/test_root_bundles.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from meshkit.istio.ca import root_bundles
from meshkit.istio.ca.root_bundles import DISABLED, REFUSED, RELOADED, SKIPPED, UPDATING, ReloadMode, predict
from meshkit.istio.control_plane.istiods_and_proxies import is_on
from meshkit.istio.proxies import workloads
from tests.support.api_server import certificate_pem

A, B = certificate_pem("cluster.local"), certificate_pem("cluster.local")
ON = {root_bundles.MULTI_ROOT: "true"}
LIVE, RESTART = ReloadMode.LIVE, ReloadMode.RESTART

CHANGES = {
    "the same text": (A, A),
    "one more": (A, A + B),
    "one less": (B + A, A),
    "one less, from the middle": (A + B + A, A + A),
    "repeated": (A + B, A + B + B),
    "another order": (A + B, B + A),
    "one more, before it, after a comment": (A, b"# B\n" + B + A),
    "the same, after a comment": (A + B, A + b"# B\n" + B),
    "disjoint": (A, B),
}

# istio/istio#47063, in 1.20.0's announcement: "Plugged Root Cert Rotation"; bytes.Contains in handleEvent.
PART = {
    "the same text": RELOADED,
    "one more": UPDATING,
    "one less": UPDATING,
    "one less, from the middle": REFUSED,
    "repeated": UPDATING,
    "another order": REFUSED,
    "one more, before it, after a comment": UPDATING,
    "the same, after a comment": REFUSED,
    "disjoint": REFUSED,
}
# istio/istio#59909, release note ca-bundle-order-independent-comparison, in 1.30.0: pemBundleHasSubsetRelation.
SUBSET = {**dict.fromkeys(CHANGES, UPDATING), "the same text": RELOADED, "disjoint": REFUSED}
# istio/istio#57271: in betas of 1.27.0, which brought CRLs (istio/istio#56529), a new signer below the same roots.
SKIPPING = {"the same text": SKIPPED}

# Without the switch: the same handleEvent, `!features.MultiRootMesh`.
OFF = {**dict.fromkeys(CHANGES, DISABLED), "the same text": RELOADED}
# Before istio/istio#47063: "Only updating intermediate CA is supported now".
NO_ROOTS = {**dict.fromkeys(CHANGES, REFUSED), "the same text": RELOADED}
# Before istio/istio#43104 (release note of 1.18.0) AUTO_RELOAD_PLUGIN_CERTS was off; and what cannot be read.
UNKNOWN = dict.fromkeys(CHANGES, "")

TABLE = [
    ("1.31.0", ON, SUBSET),
    ("1.31-eed52ebb66ad", ON, SUBSET),
    ("1.31.0", {}, OFF),
    ("1.31.0", {root_bundles.MULTI_ROOT: "false"}, OFF),
    ("1.31.0", {root_bundles.MULTI_ROOT: "yes"}, OFF),
    ("1.31.0", {root_bundles.MULTI_ROOT: "1", root_bundles.AUTO_RELOAD: "false"}, SUBSET),
    ("1.32.0", ON, SUBSET),
    ("1.30.0", ON, SUBSET),
    ("1.30.3", {}, OFF),
    ("1.30.3", ON | {root_bundles.AUTO_RELOAD: "false"}, UNKNOWN),
    ("1.29.6", ON, PART),
    ("1.29.6", {}, OFF),
    ("1.27.0", ON, PART),
    ("1.27.0-beta.1", ON, PART | SKIPPING),
    ("1.27-beta.0", {}, OFF | SKIPPING),
    ("1.26.8", ON, PART),
    ("1.20.0", ON, PART),
    ("1.20.0", {}, OFF),
    ("1.19.10", ON, NO_ROOTS),
    ("1.18.0", {}, NO_ROOTS),
    ("1.17.8", ON, UNKNOWN),
    ("unknown", ON, UNKNOWN),
    ("", {}, UNKNOWN),
]


@pytest.mark.parametrize(("version", "env", "said"), TABLE, ids=[f"{v} {e}" for v, e, _ in TABLE])
@pytest.mark.parametrize("change", CHANGES)
def test_by_version(version: str, env: dict[str, str], said: dict[str, str], change: str) -> None:
    """What the log will say, and so whether it is taken live; what is not known is a restart."""
    told = predict(*CHANGES[change], version, env)
    assert told.log == said[change]
    assert told.taken is (LIVE if told.log in (UPDATING, RELOADED) else RESTART)
    assert told.why


@pytest.mark.parametrize("version", ["1.31.0", "1.20.0", "unknown"])
def test_a_ca_of_its_own_gives_way_to_cacerts_at_a_restart(version: str) -> None:
    """In createIstioCA only a plugged-in CA has its files watched; so nothing is logged, either."""
    assert predict(None, A, version, ON).taken is RESTART
    assert predict(None, A, version, ON).log == ""


@pytest.mark.parametrize(
    ("version", "told"), [("1.24.3", 0), ("1.24.4", 1), ("1.24.5", 0), ("1.25.1", 1), ("1.25.2", 0)]
)
def test_versions_that_hand_out_one_root_only_are_named(version: str, told: int) -> None:
    """istio/istio#55793, fixed in 1.24.5 and 1.25.2 by their release notes."""
    assert ("only one root" in predict(A, A + B, version, ON).why) == told
    assert "only one root" not in predict(A + B, A, version, ON).why


def test_bundles_without_a_certificate_are_no_subsets() -> None:
    """As in pemBundleHasSubsetRelation."""
    assert predict(A, b"", "1.31.0", ON).log == REFUSED


@pytest.mark.parametrize("old", [A, A + A, A.rstrip(), b"# ours\r\n" + A, A + b"\n\n"])
@pytest.mark.parametrize("version", ["1.20.0", "1.29.6", "1.30.0", "1.31.0"])
def test_our_texts_are_taken_live_by_every_version(old: bytes, version: str) -> None:
    """Widened, repeated, not repeated, narrowed to what was there."""
    wide = root_bundles.append_roots(old, [B + A, B])
    again = root_bundles.duplicate_root(wide, B)
    assert wide.startswith(old)
    assert wide.count(B.strip()) == 1
    assert wide.count(A.strip()) == old.count(A.strip())
    for one, other in ((old, wide), (wide, again), (again, wide), (again, B), (wide, old)):
        assert predict(one, other, version, ON).log == UPDATING


def test_a_bundle_that_has_all_roots_stays_as_it_is() -> None:
    """Byte by byte."""
    assert root_bundles.append_roots(A + B, [B, A]) == A + B
    assert root_bundles.append_roots(b"", [A]) == A


@pytest.mark.parametrize(
    ("text", "on"), [("true", True), ("T", True), ("1", True), ("", False), ("false", False), ("yes", False)]
)
def test_a_switch_is_read_as_istio_reads_it(text: str, on: bool) -> None:
    """Go's strconv.ParseBool; what it does not take is what stands without it."""
    assert is_on({workloads.XDS_AGENT: text}, workloads.XDS_AGENT) is on


def test_the_document_has_every_rule_and_every_word() -> None:
    """With their sources."""
    text = (Path(__file__).parents[4] / "docs/trust.md").read_text()
    for rule in root_bundles.RULES:
        first, told = f"| {rule.since.major}.{rule.since.minor}", f"| {rule.words} | {rule.source} |"
        assert [row for row in text.splitlines() if row.startswith(first) and told in row]
    assert all(f"`{words}`" in text for words in (UPDATING, RELOADED, REFUSED, DISABLED, SKIPPED))
    for version in root_bundles.ONE_ROOT:
        assert f"{version.major}.{version.minor}.{version.patch}" in text
