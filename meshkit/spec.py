"""The mesh file: the user's description of the mesh, as a typed model.

`MeshSpec.load("mesh.yaml")` reads it; a wrong file or field is one `InputError` that names the file, the
field, what came and what was expected. Unknown fields are errors that name the nearest known one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from meshkit.display import grid, styled
from meshkit.errors import InputError
from meshkit.run_spec import Approvals, Model, Notify, Record, require_address

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$"
Name = Annotated[str, Field(pattern=DNS_LABEL)]
ClusterId = Annotated[str, Field(pattern=r"^[_a-zA-Z0-9][-._a-zA-Z0-9]*$", max_length=253)]
"""Valid cluster ids for istiod: the id is a key in the data of a remote secret."""
_WANTED = {
    "apiServer": "an address such as https://10.0.0.1:6443, by which other clusters reach it",
    "prometheus": "an address such as http://10.0.0.1:9090",
    "renewBefore": "a duration such as 720h, a year (8760h) at most",
    "life": "a duration such as 720h, from ten minutes (10m) to ten years (87600h)",
    "name": "an Istio cluster id such as east or PROD_EU1 (letters, digits, -, _ and .; 253 at most)",
    "requestTimeout": "a duration such as 30s, from one second (1s) to ten minutes (10m)",
    "hosts": 'at least one host that the gateway accepts, such as "*.local"',
}
"""Readable expectations of fields, for error messages."""
_PATHS = (
    ("istio", "overlay"), ("trust", "rootDirectory"), ("trust", "passphraseFrom", "file"), ("record", "timestampRoots"),
)  # fmt: skip
"""Paths in a mesh file: they are relative to it, wherever the notebook runs."""
_SECRET = (("notify",), ("record",))  # an address may hold a token, or a password: nothing of these is quoted
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str | float) -> float:
    """Return a duration such as `500ms`, `5s` or `2m` as seconds; a bare number is seconds.

    Raises:
        ValueError: the text is no such duration.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|)\s*", str(text))
    if not match:
        raise ValueError(f"expected a duration such as 500ms, 5s or 2m, got {text!r}")
    return float(match[1]) * _UNITS[match[2] or "s"]


def expanded(path: str) -> Path:
    """Return a path, with the home that its `~` means.

    Raises:
        ValueError: nobody has that home, or it can be no path.
    """
    if "\0" in path:
        raise ValueError("expected a path, which has no NUL")
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"no home is known of {Path(path).parts[0]}") from None


class _Loader(yaml.SafeLoader):
    """Refuses a repeated key: YAML would silently drop the first value."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        known = set()
        for key, _ in node.value:
            if (name := (key.tag, str(key.value))) in known:
                raise yaml.composer.ComposerError(None, None, f"{key.value} occurs twice", key.start_mark)
            known.add(name)
        return node


def read_yaml(text: str) -> Any:
    """Return the document of a YAML text.

    Raises:
        yaml.YAMLError: it is none, or has a key twice.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506  (it is a SafeLoader)
    except ValueError as error:  # such as a date that there is not
        raise yaml.constructor.ConstructorError(None, None, str(error), None) from None


class Mesh(Model):
    """Mesh-wide identity, as in Istio's `values.global` and `meshConfig`."""

    id: Name = "mesh1"
    trust_domain: str = Field(default="cluster.local", alias="trustDomain")
    root_namespace: Name = Field(default="istio-system", alias="rootNamespace")


class Topology(Model):
    """How control planes and networks relate.

    `network: multi` is of two networks or more; clusters of one network reach each other without a gateway.
    """

    control_plane: Literal["multi-primary", "primary-remote", "external"] = Field(
        default="multi-primary", alias="controlPlane"
    )
    network: Literal["multi", "flat"] = "multi"
    mesh_networks: bool = Field(default=False, alias="meshNetworks")


class Istio(Model):
    """Which Istio, and how it is installed.

    `installer: none` leaves it to its owner (Helm, Sail, a pipeline): what is to be installed is requested as values
    and waited for, and nothing of Istio's own installation is changed.
    """

    version: str = Field(default="", pattern=r"^(\d+\.\d+(\.\d+)?([-.+].*)?)?$")
    profile: str = "default"
    revision: str = ""
    installer: Literal["istioctl", "none"] = "istioctl"
    overlay: str = ""


class Gateway(Model):
    """The east-west gateway: its Service, and the hosts that it lets other clusters reach.

    `hosts` are all Services of the mesh unless given: "*.local", or those of another cluster domain. A new one is of
    this `kind`: a Deployment that istioctl installs, or a Gateway of the Gateway API, whose pods istiod makes.
    """

    kind: Literal["classic", "gateway-api"] = "classic"
    annotations: dict[str, str] = Field(default={})
    service_type: Literal["LoadBalancer", "NodePort", "ClusterIP"] = Field(default="LoadBalancer", alias="serviceType")
    hosts: list[str] | None = Field(default=None, min_length=1)


class ClusterSpec(Model):
    """One cluster: its name is the Istio cluster id, or becomes it.

    Any id that a remote secret can hold can be read; where a stage makes one, see `meshkit.parameters.secret_id`.
    `primary` is the cluster whose istiod serves this one: see `MeshSpec.primary_of`.
    `requestTimeout` is read as seconds: in that time something must come of each request to its API server.
    `tlsServerName` is the name for which its API server's certificate is valid, where that is not `apiServer`'s host:
    the `tls-server-name` of the kubeconfig in its remote secrets.
    """

    name: ClusterId
    context: str = Field(min_length=1)
    network: str = Field(min_length=1)
    primary: str = ""
    kubeconfig: str = ""
    api_server: str = Field(default="", alias="apiServer", pattern=r"^(https://.+)?$")
    tls_server_name: str = Field(default="", alias="tlsServerName", pattern=r"^([A-Za-z0-9][A-Za-z0-9.:-]*)?$")
    prometheus: str = Field(default="", pattern=r"^(https?://.+)?$")
    request_timeout: float | None = Field(default=None, alias="requestTimeout", ge=1, le=600)
    gateway: Gateway = Gateway()

    @field_validator("request_timeout", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> float | None:
        return None if value is None else seconds(value)

    @field_validator("kubeconfig")
    @classmethod
    def _home(cls, value: str) -> str:
        return str(expanded(value)) if value else value

    @field_validator("api_server", "prometheus")
    @classmethod
    def _address(cls, value: str) -> str:
        require_address(value, "https://192.0.2.1:6443")
        return value


class Trust(Model):
    """How all clusters get a common root (stage 04).

    An intermediate with less life left than `renewBefore` is renewed; it is read as seconds.
    """

    strategy: Literal["auto", "adopt", "overlap"] = "auto"
    root_directory: str = Field(default="", alias="rootDirectory")
    passphrase_from: dict[Literal["env", "file"], str] = Field(default={}, alias="passphraseFrom")
    renew_before: float = Field(default=720 * _UNITS["h"], le=8760 * _UNITS["h"], alias="renewBefore")

    @field_validator("renew_before", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> float:
        return seconds(value)


class RemoteSecrets(Model):
    """By which credential istiods read other clusters (stage 07). Durations are read as seconds.

    `long-lived` is istioctl's own kind, which never ends; `expiring` lives for `life`, as far as the API server grants
    it. A credential that ends within `renewBefore` is replaced. `reader: least` is an account with fewer rights.
    """

    credential: Literal["long-lived", "expiring"] = "long-lived"
    life: float = Field(default=720 * _UNITS["h"], ge=10 * _UNITS["m"], le=87600 * _UNITS["h"])
    renew_before: float = Field(default=168 * _UNITS["h"], le=8760 * _UNITS["h"], alias="renewBefore")
    reader: Literal["istio", "least"] = "istio"

    @field_validator("life", "renew_before", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> float:
        return seconds(value)

    @model_validator(mode="after")
    def _lives_before_it_is_renewed(self) -> Self:
        if self.credential == "expiring" and self.renew_before >= self.life:
            raise ValueError("renewBefore must be shorter than life, or each run would replace every credential")
        return self


class Probe(Model):
    """The workloads that prove a path between clusters: a client and a server in every cluster.

    `load`, where there is one, is a workload that logs one JSON line for each request (see meshkit.probing.load_log).
    """

    namespace: Name = "sample"
    client: Name = "sleep"
    server: Name = "httpbin"
    port: int = Field(default=8000, ge=1, le=65535)
    load: str = Field(default="", pattern=rf"({DNS_LABEL})|^$")


class Gates(Model):
    """Thresholds of checks. Durations are read as seconds.

    `revisions: canary` says that a second revision of istiod beside the mesh file's is meant, for an upgrade. `accept`
    names warnings that are known and meant to stay, each with the reason: {MK407: "the root moves in May"}.
    """

    max_clock_skew: float = Field(default=5.0, alias="maxClockSkew")
    versions: Literal["same-patch", "same-minor"] = "same-patch"
    revisions: Literal["one", "canary"] = "one"
    max_error_rate: float = Field(default=0.0, ge=0, le=1, alias="maxErrorRate")
    p99: float = 0.5
    min_certificate_life: float = Field(default=3600.0, alias="minCertificateLife")
    accept: dict[str, Annotated[str, Field(min_length=1)]] = Field(default={})

    @field_validator("max_clock_skew", "p99", "min_certificate_life", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> float:
        return seconds(value)


class MeshSpec(Model):
    """The mesh file."""

    mesh: Mesh = Mesh()
    topology: Topology = Topology()
    istio: Istio = Istio()
    clusters: list[ClusterSpec] = Field(min_length=1)
    trust: Trust = Trust()
    remote_secrets: RemoteSecrets = Field(default=RemoteSecrets(), alias="remoteSecrets")
    probe: Probe = Probe()
    gates: Gates = Gates()
    approvals: Approvals | None = None
    record: Record = Record()
    notify: Notify | None = None

    @model_validator(mode="after")
    def _clusters_are_distinct(self) -> Self:
        for field in ("name", "context"):
            values = [(getattr(c, field), c.kubeconfig if field == "context" else "") for c in self.clusters]
            twice = sorted({value[0] for value in values if values.count(value) > 1})
            if twice:
                raise ValueError(f"clusters must have distinct {field}s; {', '.join(twice)} occurs twice")
        networks = {c.network for c in self.clusters}
        if self.topology.network == "multi" and len(networks) == 1 < len(self.clusters):
            raise ValueError(
                f"topology.network is multi, but {', '.join(networks)} is the network of all clusters; "
                "name the network of each, or use `network: flat`"
            )
        return self

    @model_validator(mode="after")
    def _primaries_have_an_istiod(self) -> Self:
        said = {entry.name: entry.primary for entry in self.clusters if entry.primary}
        model = self.topology.control_plane
        if said and model != "primary-remote":
            raise ValueError(f"primary of {', '.join(said)}: needs topology.controlPlane primary-remote, not {model}")
        for name, primary in said.items():
            own = [entry.name for entry in self.clusters if entry.name not in said]
            if primary not in own:
                raise ValueError(f"primary of {name}: expected a cluster that has none itself, got {primary!r}")
        if model == "primary-remote" and self.remote_secrets.reader == "least":
            raise ValueError("remoteSecrets.reader: least may not write, and a primary's istiod writes in its remotes")
        for name in self.remotes:
            if self.cluster(name).gateway.hosts:
                raise ValueError(f"gateway.hosts of {name}: say them of its primary, {self.primary_of(name)}")
            if self.cluster(name).gateway.kind == "gateway-api":
                raise ValueError(f"gateway.kind of {name} is gateway-api, and no istiod makes its pods in a remote")
        return self

    @model_validator(mode="after")
    def _can_be_requested(self) -> Self:
        if self.istio.installer == "none":
            only = "which only istio.installer istioctl makes"
            if self.topology.control_plane == "primary-remote":
                raise ValueError(f"topology.controlPlane is primary-remote, {only}")
            if self.topology.mesh_networks:
                raise ValueError(f"topology.meshNetworks is true, {only}")
            if self.istio.overlay:
                raise ValueError("istio.overlay is of istioctl's installation, and istio.installer is none")
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a mesh file.

        Raises:
            InputError: it is missing, empty, not text, not YAML, or a field is wrong.
        """
        if not isinstance(path, str | Path):
            raise InputError(f"expected the path of a mesh file, got {path!r}", where="parameter mesh_file")
        document = _read(Path(path))
        for section, field, name in _path_fields(document):
            try:
                section[field] = str(Path(path).parent / expanded(section[field]))
            except ValueError as error:
                raise InputError(f"{name}: {error}, got {section[field]!r}", where=str(path)) from None
        return cls.parse(document, where=str(path))

    @classmethod
    def parse(cls, document: Any, *, where: str) -> Self:
        """Validate a mesh file that was already read; `where` names it in errors."""
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            problems = [_explain(cls, dict(e)) for e in error.errors(include_url=False, include_context=False)]
            raise InputError(
                "; ".join(problems), where=where, remedy="see the commented examples in parameters/"
            ) from None

    def bundle(self) -> dict[str, Any]:
        """Return the mesh and its clusters for people, by MIME type."""
        networks = "multi-network" if self.topology.network == "multi" else "flat"
        model = f"{self.topology.control_plane}, {networks}"
        line = f"Mesh {self.mesh.id} ({model}, trust domain {self.mesh.trust_domain}): {len(self.clusters)} clusters"
        heads = ["cluster", "network", "context", "apiServer"]
        rows = [[c.name, c.network, c.context, c.api_server or "of the context"] for c in self.clusters]
        text, html = grid(heads, rows)
        return {"text/plain": f"{line}\n{text}", "text/html": styled(f'<p class="c">{escape(line)}</p>{html}')}

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return self.bundle()

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Every ordered pair of cluster names, (client, server), in the file's order."""
        names = [c.name for c in self.clusters]
        return [(a, b) for a in names for b in names if a != b]

    def primary_of(self, name: str) -> str:
        """Return the cluster whose istiod is to serve a cluster: itself, but for remotes of `primary-remote`.

        Where no cluster says `primary`, it is the file's first one for all others.
        """
        if self.topology.control_plane != "primary-remote":
            return name
        if any(entry.primary for entry in self.clusters):
            return self.cluster(name).primary or name
        return self.clusters[0].name

    @property
    def remotes(self) -> list[str]:
        """The clusters that are to have no istiod of their own."""
        return [entry.name for entry in self.clusters if self.primary_of(entry.name) != entry.name]

    @property
    def primaries(self) -> list[str]:
        """The clusters that are to have an istiod of their own."""
        return [entry.name for entry in self.clusters if entry.name not in self.remotes]

    def remotes_of(self, primary: str) -> list[str]:
        """Return the clusters that a cluster's istiod is to serve besides its own."""
        return [name for name in self.remotes if self.primary_of(name) == primary]

    @property
    def watched(self) -> list[tuple[str, str]]:
        """The ordered pairs (reader, target) in which the reader's istiod needs a remote secret of the target."""
        return [(reader, target) for reader, target in self.pairs if reader not in self.remotes]

    def crosses(self, client: str, server: str) -> bool:
        """Tell whether calls between two clusters go through a gateway: they are on different networks.

        Within a network pods reach each other by their own addresses; in a flat mesh all clusters are on one.
        """
        apart = self.cluster(client).network != self.cluster(server).network
        return self.topology.network == "multi" and apart

    @property
    def direct_pairs(self) -> list[tuple[str, str]]:
        """The pairs of clusters whose pods reach each other without a gateway."""
        return [pair for pair in self.pairs if not self.crosses(*pair)]

    def cluster(self, name: str) -> ClusterSpec:
        """Return the cluster of that name.

        Raises:
            InputError: there is none; the message lists those there are.
        """
        for cluster in self.clusters:
            if cluster.name == name:
                return cluster
        known = ", ".join(c.name for c in self.clusters)
        raise InputError(f"no cluster {name!r} in the mesh file; it has {known}")


def _read(path: Path) -> Any:
    expected = "expected a YAML mesh file such as parameters/multi-network.yaml"
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        remedy = "name the mesh file; `meshkit init` writes one"
        raise InputError(f"no such file; {expected}", where=str(path), remedy=remedy) from None
    except UnicodeDecodeError as error:
        raise InputError(f"not a text file (byte {error.start} is not UTF-8); {expected}", where=str(path)) from None
    except (OSError, ValueError) as error:  # a NUL in the path is no OSError
        problem = getattr(error, "strerror", None) or error
        raise InputError(f"cannot be read ({problem}); {expected}", where=str(path)) from None
    try:
        document = read_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = getattr(error, "problem", None) or "not readable"
        raise InputError(f"not YAML: {problem}{line}; {expected}", where=str(path)) from None
    if document is None:
        raise InputError(f"the file is empty; {expected}", where=str(path))
    if not isinstance(document, dict):
        raise InputError(f"expected a mapping with `clusters:`, got a {type(document).__name__}", where=str(path))
    return document


def _path_fields(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Yield each path in a mesh file: the section that has it, its field there, and its name for people."""
    clusters = document.get("clusters")
    entries: list[Any] = clusters if isinstance(clusters, list) else []
    found = [(entry, "kubeconfig", f"clusters.{i}.kubeconfig") for i, entry in enumerate(entries)]
    for *sections, field in _PATHS:
        inner: Any = document
        for section in sections:
            inner = inner.get(section) if isinstance(inner, dict) else None
        found.append((inner, field, ".".join((*sections, field))))
    for section, field, name in found:
        if isinstance(section, dict) and isinstance(section.get(field), str) and section[field]:
            yield section, field, name


def _explain(model: type[BaseModel], error: dict[str, Any]) -> str:
    loc, unknown = error["loc"], error["type"] == "extra_forbidden"
    secret = loc[:1] in _SECRET
    field = ".".join(str(part) for part in (loc[:-1] if secret and unknown else loc)) or "the file"
    if unknown:
        known = _fields_at(model, loc[:-1])
        nearest = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"known are {', '.join(known)}"
        return f"{field}: unknown field; {hint}"
    expected = _WANTED.get(str(loc[-1]) if loc else "")
    if expected and error["type"] != "missing":
        return f"{field}: expected {expected}, got {error.get('input')!r}"
    got = None if secret else error.get("input")
    shown = "" if isinstance(got, dict | list) or got is None else f", got {got!r}"
    return f"{field}: {error['msg'].removeprefix('Value error, ')}{shown}"


def _fields_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    for part in loc:
        if isinstance(part, int):
            continue
        fields = {(f.alias or name): f for name, f in model.model_fields.items()}
        if part not in fields:
            return []
        kind: Any = fields[part].annotation
        inner = [a for a in getattr(kind, "__args__", ()) if isinstance(a, type) and issubclass(a, BaseModel)]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            model = kind
        elif inner:
            model = inner[0]
        else:
            return []
    return sorted(f.alias or name for name, f in model.model_fields.items())
