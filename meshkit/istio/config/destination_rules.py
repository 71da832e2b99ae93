"""DestinationRules: those that a caller goes by for a host, which istiod merges, and the TLS that they set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from meshkit.istio.config.configuration import DESTINATION_RULE, Configuration, Labels, Manifest, age, home
from meshkit.istio.config.visibility import covers, full, rank


@dataclass(frozen=True)
class Rule:
    """What a caller goes by for a host: a traffic policy and subsets, each with the object that has it."""

    policy: Manifest = field(default_factory=dict)
    author: Manifest | None = None
    subsets: Mapping[str, tuple[Manifest, Manifest]] = field(default_factory=dict)


@dataclass(frozen=True)
class Tls:
    """The TLS mode that a DestinationRule sets, and where."""

    mode: str
    rule: Manifest
    field: str


def destination_rule(where: Configuration, caller: str, labels: Labels, place: str, host: str) -> Rule | None:
    """Return the DestinationRules that a pod of a namespace, `caller`, goes by for a host of a namespace, `place`.

    Those of the caller's namespace first, then of the Service's, then of the root namespace; in each those of the most
    specific host. One that selects the pod, in its own namespace, comes before those for all.

    Source: destinationRule, setDestinationRules (pilot/pkg/model/push_context.go), DestinationRule (sidecar.go).
    """
    pools = [(caller, True), (place, False), (where.mesh_wide, False)]
    for space, own in pools:
        best = _most_specific([one for one in where.objects[DESTINATION_RULE] if home(one) == space], host, where, own)
        seen = [one for one in _merged(best) if own or not _exports(one[0]) or {"*", caller} & _exports(one[0])]
        if seen:
            selecting = [one for one in seen if own and _selects(one[0], labels)]
            chosen = selecting[:1] or [one for one in seen if _picks(one[0]) is None][-1:]
            return _as_one(chosen[0]) if chosen else None
    return None


def _most_specific(rules: Sequence[Manifest], host: str, where: Configuration, own: bool) -> list[Manifest]:
    """Return a namespace's rules for a host, as its own proxies know them, or as others do.

    The root namespace's own proxies know those first that are private to it: the rest are for the whole mesh.
    """
    found: dict[str, list[Manifest]] = {}
    for rule in sorted(rules, key=lambda rule: (_picks(rule) is None, *age(rule))):
        space, to = home(rule), _exports(rule)
        private = len(to) == 1 and to <= {".", space}
        private |= not to and "." in (where.settings.get("defaultDestinationRuleExportTo") or [])
        known = (
            (private if space == where.mesh_wide else not to or bool(to & {"*", ".", space})) if own else not private
        )
        pattern = full(str((rule.get("spec") or {}).get("host", "")), space, where.domain)
        if known and covers(pattern, host):
            found.setdefault(pattern, []).append(rule)
    return found[max(found, key=rank)] if found else []


def _exports(rule: Manifest) -> set[str]:
    """Return to whom a rule is exported; one that selects pods to nobody else."""
    return {"."} if _picks(rule) is not None else {*((rule.get("spec") or {}).get("exportTo") or [])}


def _picks(rule: Manifest) -> Manifest | None:
    found: Manifest | None = (rule.get("spec") or {}).get("workloadSelector")
    return found


def _selects(rule: Manifest, labels: Labels) -> bool:
    wanted = _picks(rule)
    return wanted is not None and (wanted.get("matchLabels") or {}).items() <= labels.items()


def _merged(rules: Iterable[Manifest]) -> list[list[Manifest]]:
    """Return which rules of one host become one, the first of which says to whom it is exported and whom it selects.

    A rule is taken over by each that is exported alike, or to fewer, unless both select pods and not the same. It stays
    one of its own, too, unless the last of those that there are took it.

    Source: mergeDestinationRule (pilot/pkg/model/destination_rule.go).
    """
    found: list[list[Manifest]] = []
    for rule in rules:
        apart = True
        for one in found:
            to, wider = _exports(one[0]), _exports(rule)
            picks, others = _picks(one[0]), _picks(rule)
            taken = (to == wider or (to and to < wider)) and (None in (picks, others) or picks == others)
            apart = not taken or (to != wider and (picks is None) != (others is None))
            if taken:
                one.append(rule)
        if apart:
            found.append([rule])
    return found


def _as_one(rules: Sequence[Manifest]) -> Rule:
    """Return rules that istiod merges as one: the first policy, and the first of each subset."""
    author = next((one for one in rules if (one.get("spec") or {}).get("trafficPolicy") is not None), None)
    subsets: dict[str, tuple[Manifest, Manifest]] = {}
    for one in rules:
        for subset in (one.get("spec") or {}).get("subsets") or []:
            subsets.setdefault(str(subset.get("name", "")), (subset, one))
    return Rule(author["spec"]["trafficPolicy"] if author else {}, author, subsets)


def tls(rule: Rule | None, port: int, subset: str = "") -> Tls | None:
    """Return the TLS mode that a rule sets for a port, or for that of a subset; None if it leaves it to istiod.

    Source: tlsModeForDestinationRule (pilot/pkg/xds/endpoints/mtls_checker.go).
    """
    if rule is None or (subset and subset not in rule.subsets):
        return None
    if subset:
        own, author = rule.subsets[subset]
        if found := _tls(own.get("trafficPolicy") or {}, author, f"spec.subsets.{subset}.trafficPolicy", port):
            return found
    return _tls(rule.policy, rule.author, "spec.trafficPolicy", port) if rule.author else None


def _tls(policy: Manifest, author: Manifest, place: str, port: int) -> Tls | None:
    return next(_modes(policy, author, place, port), None)


def _modes(policy: Manifest, author: Manifest, place: str, port: int) -> Iterator[Tls]:
    for settings in policy.get("portLevelSettings") or []:
        if (settings.get("port") or {}).get("number") == port and settings.get("tls") is not None:
            yield Tls(str(settings["tls"].get("mode", "DISABLE")), author, f"{place}.portLevelSettings.tls.mode")
    if policy.get("tls") is not None:
        yield Tls(str(policy["tls"].get("mode", "DISABLE")), author, f"{place}.tls.mode")
