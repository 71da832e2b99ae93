"""Root bundles: predict how an istiod reloads a changed root-cert.pem, and build bundles that it reloads.

Source: pilot/pkg/bootstrap/istio_ca.go (`handleEvent`) of the versions that `RULES` names; 1.31 is tried on the lab.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from meshkit.istio.control_plane.istiods_and_proxies import is_on
from meshkit.istio.control_plane.versions import Version
from meshkit.kube.pem import blocks, bundle, same

MULTI_ROOT = "ISTIO_MULTIROOT_MESH"
AUTO_RELOAD = "AUTO_RELOAD_PLUGIN_CERTS"

RELOADED = "Istiod has detected the newly added intermediate CA and updated its key and certs accordingly"
UPDATING = "Updating new ROOT-CA"
REFUSED = "Updating new ROOT-CA not supported"
DISABLED = "Multi root is disabled, updating new ROOT-CA not supported"
SKIPPED = "No changes detected in root cert or CRL file data, skipping update"


class ReloadMode(StrEnum):
    """When an istiod loads a changed Secret `cacerts`; until then it uses the former content, also for signing."""

    LIVE = "live"
    RESTART = "after a restart"


@dataclass(frozen=True)
class Prediction:
    """How an istiod will react to a changed `cacerts`: when it loads it, why, and its log message, if any."""

    taken: ReloadMode
    why: str
    log: str = ""


def append_roots(old: bytes, others: Iterable[bytes]) -> bytes:
    """Return a bundle with more roots in a form that every version reloads: the old text, then the other roots.

    A certificate that is there already is not repeated.
    """
    text, known = old, {*bundle(old)}
    for other in others:
        for block in blocks(other):
            if (found := same(block)) not in known:
                known.add(found)
                text = _and(text, block + b"\n")
    return text


def duplicate_root(bundle: bytes, root: bytes) -> bytes:
    """Return a different text of the same roots, with one repeated at its end: agents then request new certificates."""
    return _and(bundle, root)


def _and(text: bytes, more: bytes) -> bytes:
    return text + (b"" if text.endswith(b"\n") or not text else b"\n") + more


def _subset(old: bytes, new: bytes) -> bool:
    before, after = bundle(old), bundle(new)
    return bool(before and after) and (before <= after or after <= before)


def _part(old: bytes, new: bytes) -> bool:
    return old in new or new in old


def _never(_old: bytes, _new: bytes) -> bool:
    return False


@dataclass(frozen=True)
class Rule:
    """Which other bundles an istiod takes live, from a version on, where ISTIO_MULTIROOT_MESH is on."""

    since: Version
    words: str
    takes: Callable[[bytes, bytes], bool]
    source: str


RULES = (
    Rule(Version(1, 30), "all certificates of one bundle must be in the other", _subset, "istio/istio#59909"),
    Rule(Version(1, 20), "the text of one bundle must be part of the other's", _part, "istio/istio#47063"),
    Rule(Version(1, 18), "no other bundle", _never, "istio/istio#43104"),
)
"""Newest first. Versions before the last read `cacerts` only at start, unless configured otherwise."""

KNOWN = Version(1, 31)
"""The newest version whose source was read: a fix that cannot be dated counts from this version."""
SKIPS = re.compile(r"v?1\.27(\.0)?-(alpha|beta)")
"""These pre-releases may pass over a new signer below the same root-cert.pem (istio/istio#57271); no release does."""
ONE_ROOT = (Version(1, 24, 4), Version(1, 25, 1))
"""These versions distribute only one root of a bundle to proxies (istio/istio#55793)."""


def predict(old: bytes | None, new: bytes, version: str, env: Mapping[str, str]) -> Prediction:
    """Predict how an istiod reloads a Secret `cacerts` that changes while it runs.

    Args:
        old: the root-cert.pem that it has loaded; None if it signs with a CA of its own.
        new: the root-cert.pem of the changed Secret; the same if its signer changes only.
        version: of the istiod. Of one that cannot be read, or is too old, the answer is a restart.
        env: of the istiod's container.
    """
    number = Version.parse(version)
    rule = next((rule for rule in RULES if number and rule.since <= number), None)
    if old is None:
        return Prediction(ReloadMode.RESTART, "it signs with its self-signed CA, and reads cacerts only when it starts")
    if number is None or rule is None:
        return Prediction(ReloadMode.RESTART, f"what Istio {version or 'of an unknown version'} does is not known")
    if number < KNOWN and not is_on(env, AUTO_RELOAD, default=True):
        return Prediction(ReloadMode.RESTART, f"{AUTO_RELOAD} is off")
    prediction = _same(version) if old == new else _other(old, new, rule, env)
    if number in ONE_ROOT and len(bundle(new)) > 1:
        return Prediction(
            prediction.taken,
            f"{prediction.why}; but Istio {version} distributes only one root to proxies",
            prediction.log,
        )
    return prediction


def _same(version: str) -> Prediction:
    if SKIPS.match(version):
        return Prediction(ReloadMode.RESTART, "it may pass over a new signer below the same root-cert.pem", SKIPPED)
    return Prediction(ReloadMode.LIVE, "root-cert.pem is the same, byte by byte", RELOADED)


def _other(old: bytes, new: bytes, rule: Rule, env: Mapping[str, str]) -> Prediction:
    if rule.takes is not _never and not is_on(env, MULTI_ROOT):
        return Prediction(ReloadMode.RESTART, f"{MULTI_ROOT} is off", DISABLED)
    if not rule.takes(old, new):
        return Prediction(ReloadMode.RESTART, f"it takes live: {rule.words}", REFUSED)
    return Prediction(ReloadMode.LIVE, f"it takes live: {rule.words}", UPDATING)
