"""What keeps a client from a server: an object, by its kind, place and field, and how far it goes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from meshkit.istio.config import mesh_routes
from meshkit.istio.config.configuration import KINDS, Configuration, Manifest

MESH_CONFIG: Final = "configmaps"
SERVICE: Final = "services"
POD: Final = "pods"
DEPLOYMENT: Final = "deployments"
WORDS: Final = {
    **dict(zip(KINDS, (
        "Sidecar", "VirtualService", "DestinationRule", "ServiceEntry", "PeerAuthentication", "AuthorizationPolicy",
    ), strict=True)),
    **dict(zip(mesh_routes.KINDS, ("HTTPRoute", "GRPCRoute"), strict=True)),
    MESH_CONFIG: "ConfigMap", SERVICE: "Service", POD: "Pod", DEPLOYMENT: "Deployment",
}  # fmt: skip


class Link(StrEnum):
    """What a hindrance takes away first, in the order in which one rests on the other."""

    DISCOVERY = "discovery"
    """The client's istiod does not hold the server's endpoints."""
    ENDPOINTS = "endpoints"
    """The client's proxy does not get them."""
    GATEWAY = "gateway"
    """The server's east-west gateway does not pass the Service's SNI on."""
    ANSWERS = "answers"
    """Calls go elsewhere, or are refused."""
    PREFERENCE = "preference"
    """Calls stay with nearer endpoints while there are healthy ones: nothing is taken away."""


class Impact(StrEnum):
    """How far a hindrance goes."""

    BREAKS = "breaks"
    STEERS = "steers"
    """Calls go elsewhere, which may be meant."""
    PERHAPS = "perhaps"
    """For some pods or some calls only, or depending on what is not known here."""


@dataclass(frozen=True)
class Hindrance:
    """An object that keeps a client from a server: its kind (plural, as kubectl takes it), place, field and effect.

    `wanted` is the value that would let it pass, where there is one: a label, a port's name.
    """

    link: Link
    impact: Impact
    kind: str
    cluster: str
    namespace: str
    name: str
    field: str
    effect: str
    wanted: str = ""

    def __str__(self) -> str:
        return f"{WORDS[self.kind]} {self.namespace}/{self.name} in {self.cluster} ({self.field}) {self.effect}"


def of_object(
    where: Configuration,
    kind: str,
    obj: Manifest,
    field: str,
    effect: str,
    *,
    link: Link,
    impact: Impact = Impact.BREAKS,
    part: bool = False,
) -> Hindrance:
    """Return that an object of a cluster hinders by a field; perhaps, if that concerns a `part` of what is called."""
    place = (kind, where.source or where.cluster, obj["metadata"]["namespace"], obj["metadata"]["name"])
    return Hindrance(link, Impact.PERHAPS if part else impact, *place, field, effect)


def linked(one: Hindrance, link: Link, effect: str = "", impact: Impact | None = None) -> Hindrance:
    """Return the same hindrance with another link, effect or impact."""
    return Hindrance(**{**vars(one), "link": link, "effect": effect or one.effect, "impact": impact or one.impact})
