"""The roles `meshkit-read` and `meshkit-apply`: as files for kubectl, and as the single rights that they grant.

tests/api_server/access holds them to what a whole run asked for: all of that is allowed, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import yaml

from meshkit.errors import InputError
from meshkit.spec import Mesh, MeshSpec, Probe

Role = Literal["read", "apply"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
Subject = Mapping[str, str]
_GROUP: Final = "rbac.authorization.k8s.io"


@dataclass(frozen=True)
class Places:
    """What the roles depend on: the root namespace, the probe's, other namespaces with a gateway, and the revision."""

    root: str = Mesh().root_namespace
    probe: str = Probe().namespace
    gateways: tuple[str, ...] = ()
    revision: str = ""

    @classmethod
    def of(cls, spec: MeshSpec, gateways: Sequence[str] = ()) -> Places:
        """Return the places of a mesh file."""
        return cls(spec.mesh.root_namespace, spec.probe.namespace, tuple(gateways), spec.istio.revision)


@dataclass(frozen=True, order=True)
class Right:
    """One right: `resource` is `deployments.apps` or `pods/exec`; without a namespace it is for the whole cluster."""

    namespace: str
    resource: str
    verb: str
    name: str = ""


def published(role: Role, places: Places, subject: Subject | None = None) -> str:
    """Return a role as YAML, with its reasons as comments, and with its bindings to a subject if one is given.

    The role apply is what is needed besides the role read.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined)  # noqa: S701  (YAML, no HTML)
    suffix = f"-{places.revision}" if places.revision not in ("", "default") else ""
    text = environment.get_template(f"{role}.yaml.j2").render(
        root=places.root, probe=places.probe, installed=[places.root, *places.gateways], revision=suffix
    )
    bindings = [_binding(one, subject) for one in yaml.safe_load_all(text)] if subject else []
    return "\n---\n".join([text.strip(), *(yaml.safe_dump(one, sort_keys=False).strip() for one in bindings)]) + "\n"


def subject(kind: str, name: str) -> Subject:
    """Return whom a binding is for, as RBAC names it; a service account is `NAMESPACE:NAME`, as for kubectl.

    Raises:
        InputError: a service account without its namespace.
    """
    if kind != "ServiceAccount":
        return {"apiGroup": _GROUP, "kind": kind, "name": name}
    namespace, colon, account = name.partition(":")
    if not (namespace and colon and account):
        raise InputError(f"expected a service account as NAMESPACE:NAME, got {name!r}", where="--serviceaccount")
    return {"kind": kind, "name": account, "namespace": namespace}


def rights(role: Role, places: Places) -> list[Right]:
    """Return what a role grants, each right once, in order."""
    documents = yaml.safe_load_all(published(role, places))
    return sorted({right for document in documents for right in _granted(document)})


def _granted(document: Mapping[str, Any]) -> Iterator[Right]:
    namespace = document["metadata"].get("namespace", "")
    for rule in document["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                plain, slash, sub = resource.partition("/")
                kind = f"{plain}.{group}{slash}{sub}" if group else resource
                for verb in rule["verbs"]:
                    yield from (Right(namespace, kind, verb, name) for name in rule.get("resourceNames", [""]))


def _binding(role: Mapping[str, Any], subject: Subject) -> dict[str, Any]:
    kind, metadata = role["kind"], role["metadata"]
    return {
        "apiVersion": role["apiVersion"],
        "kind": f"{kind}Binding",
        "metadata": dict(metadata),
        "roleRef": {"apiGroup": _GROUP, "kind": kind, "name": metadata["name"]},
        "subjects": [dict(subject)],
    }
