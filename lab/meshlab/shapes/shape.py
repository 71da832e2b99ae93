"""A shape: how people have their mesh, as one small YAML file beside this one; several can be combined."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field

from meshkit.errors import InputError
from meshkit.tables import Table, text

FOLDER = Path(__file__).parent
Document = dict[str, Any]
SHAPES: Final = Table(
    "shapes",
    "Meshes as people have them",
    {"name": text("of `meshkit lab up --shape`"), "about": text("what is special about such a mesh")},
    key=("name",),
)


class _Model(BaseModel):
    """Unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Certificates(_Model):
    """The Secret cacerts of each cluster.

    `tiers` counts the CAs: 1, the root itself signs; 2, an intermediate below it; 3, with an issuing CA between.
    `order` is that of cert-chain.pem. cert-manager's form has tls.crt, tls.key and ca.crt, and serves every cluster,
    also one without Istio.
    """

    tiers: Literal[1, 2, 3] = 2
    order: Literal["root-last", "root-first"] = "root-last"
    form: Literal["istio", "cert-manager"] = "istio"


class Shape(_Model):
    """How a lab's mesh differs from that of Istio's documentation.

    Fields that a mesh file has, too, mean the same there.
    """

    about: str = ""
    of: list[str] = Field(default=[], description="the shapes that this one begins with")
    flat: bool = Field(default=False, description="as `meshkit lab up --flat`")
    one_vpc: bool = Field(default=False, alias="oneVpc", description="pods of all clusters share one pod network")
    domain: str = Field(default="cluster.local", description="the cluster domain, of DNS and of Istio")
    installer: Literal["istioctl", "helm"] = "istioctl"
    control_plane: Literal["multi-primary", "primary-remote"] = Field(default="multi-primary", alias="controlPlane")
    istio: str | dict[str, str] = Field(default="", description="its release (`1.30`), or those of clusters by name")
    kubeconfig: Literal["token", "token-file", "exec-plugin", "impersonation", "socks-proxy", "path-proxy"] = "token"
    nodes: Literal["internal", "external"] = Field(default="internal", description="the kind of the nodes' address")
    revision: str = Field(default="", description="of istiod")
    tags: list[str] = Field(default=[], description="of the revision")
    overlay: Document = Field(default={}, description="the spec of an IstioOperator, for every installation")
    certificates: Certificates = Certificates()
    labels: dict[str, dict[str, str | None]] = Field(default={}, description="of namespaces; null takes one away")
    gateway: Document = Field(default={}, description="as `clusters[].gateway` of a mesh file")
    gateway_api: bool = Field(default=False, alias="gatewayApi", description="the gateway is a Gateway API Gateway")
    mesh_networks: Document = Field(default={}, alias="meshNetworks", description="the gateway of each network")
    objects: list[Document] = Field(default=[], description="what users made in each cluster, after the sample")
    mesh_file: Document = Field(default={}, alias="meshFile", description="what the mesh file says of it")

    @property
    def releases(self) -> set[str]:
        """The releases of Istio that it needs beside the lab's own."""
        return {self.istio} - {""} if isinstance(self.istio, str) else {*self.istio.values()}

    def release(self, cluster: str = "") -> str:
        """Return the release of Istio, with its istioctl, of a cluster or else of all; empty for the lab's own."""
        return self.istio if isinstance(self.istio, str) else self.istio.get(cluster, "")

    @property
    def has_cacerts(self) -> bool:
        """Whether a live mesh of one cluster has cacerts."""
        return "certificates" in self.model_fields_set


def names() -> list[str]:
    """Return the names of all shapes."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def table() -> pd.DataFrame:
    """Return every shape; columns: see SHAPES."""
    return SHAPES.frame({"name": name, "about": _document(name)["about"]} for name in names())


def combined(chosen: Sequence[str]) -> Shape:
    """Return the shape that is all of the chosen ones.

    Raises:
        InputError: there is no such shape, or two of them contradict each other.
    """
    document: Document = {}
    for name in chosen:
        document = _merge(document, _whole(name), name)
    return Shape.model_validate(document)


def _whole(name: str) -> Document:
    own = _document(name)
    document: Document = {}
    for lower in own.get("of", []):
        document = _merge(document, _whole(lower), lower)
    return _merge(document, {key: value for key, value in own.items() if key not in ("about", "of")}, name)


def _document(name: str) -> Document:
    path = FOLDER / f"{name}.yaml"
    if name not in names():
        (near,) = difflib.get_close_matches(name, names(), n=1, cutoff=0.0)
        raise InputError(f"no shape is called {name!r}; the nearest is {near}", where="meshkit lab",
                         remedy="`meshkit lab shapes` lists them")  # fmt: skip
    document: Document = yaml.safe_load(path.read_text())
    return document


def _merge(one: Document, other: Document, name: str, path: str = "") -> Document:
    """Return both documents in one: mappings deeply, lists one after the other, values only if they agree."""
    merged = dict(one)
    for key, value in other.items():
        before = merged.get(key, value)
        if isinstance(before, dict) and isinstance(value, dict):
            merged[key] = _merge(before, value, name, f"{path}{key}.")
        elif isinstance(before, list) and isinstance(value, list):
            merged[key] = [*before, *(item for item in value if item not in before)]
        elif before == value:
            merged[key] = value
        else:
            raise InputError(f"shape {name} says {path}{key}: {value!r}, another one says {before!r}",
                             where="meshkit lab", remedy="choose one of them")  # fmt: skip
    return merged
