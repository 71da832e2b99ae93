"""An API server in memory, behind the official client: a request takes microseconds, and nothing is sent to anyone.

All of meshkit above the connection is the real one. Streams are not served, but for what pods answer to a GET.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import Any, NoReturn
from urllib.parse import parse_qsl, urlsplit

from kubernetes.client import ApiClient, Configuration

from meshkit.errors import MeshkitError, UnreachableError
from meshkit.kube import transport
from meshkit.kube.cluster import Cluster
from meshkit.kube.identity import Identity, Static
from meshkit.kube.kubeconfig import Access
from meshkit.kube.transport import NotFoundError
from tests.support.held import Object

Answer = tuple[int, bytes]
Answerer = Callable[[str, str, Mapping[str, str]], Answer]
"""Of a method, a path and a query. What it raises is what the connection raises; a body that is cut ends in `CUT`."""
CUT = b"\0cut"
_KINDS: Mapping[str, tuple[str, ...]] = {
    "": ("Namespace", "Node", "Pod", "Service", "ConfigMap", "Secret", "ServiceAccount", "ResourceQuota", "LimitRange"),
    "apps": ("Deployment", "DaemonSet", "StatefulSet", "ReplicaSet"),
    "discovery.k8s.io": ("EndpointSlice",),
    "admissionregistration.k8s.io": ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"),
    "authorization.k8s.io": ("SelfSubjectAccessReview",),
    "networking.k8s.io": ("NetworkPolicy",),
    "networking.istio.io": ("Sidecar", "VirtualService", "DestinationRule", "ServiceEntry", "Gateway"),
    "security.istio.io": ("PeerAuthentication", "AuthorizationPolicy", "RequestAuthentication"),
}
_CLUSTER_WIDE = ("Namespace", "Node", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")


def plural(kind: str) -> str:
    """Return the plural of a kind."""
    return f"{kind.lower()[:-1]}ies" if kind.endswith("y") else f"{kind.lower()}s"


class MemoryApi:
    """What a healthy cluster holds, by plural, and what its pods answer, by `pod:port/path`."""

    def __init__(self, objects: Mapping[str, list[Object]], pods: Mapping[str, Any]) -> None:
        self._objects, self._pods = objects, pods

    def __call__(self, method: str, path: str, query: Mapping[str, str]) -> Answer:
        """Answer a request."""
        status, document = self._document(method, path, query)
        return status, json.dumps(document).encode()

    def _document(self, method: str, path: str, query: Mapping[str, str]) -> tuple[int, Any]:
        if path.startswith("pod/"):
            answer = self._pods.get(path.removeprefix("pod/"))
            return (200, answer) if answer is not None else (404, {})
        if method == "POST":
            return 201, {"kind": "SelfSubjectAccessReview", "status": {"allowed": True}}
        if path in ("/api", "/apis"):
            return 200, _discovery(core=path == "/api")
        if path == "/version":
            return 200, {"gitVersion": "v1.34.1"}
        words = path.strip("/").split("/")[2 if path.startswith("/api/") else 3 :]
        space, words = (words[1], words[2:]) if words[0] == "namespaces" and len(words) > 2 else ("", words)
        found = [one for one in self._objects.get(words[0], []) if space in ("", one["metadata"].get("namespace"))]
        if len(words) > 1:
            one = next((one for one in found if one["metadata"]["name"] == words[1]), None)
            return (200, one) if one else (404, {"kind": "Status"})
        wanted = dict(part.split("=", 1) for part in query.get("labelSelector", "").split(",") if "=" in part)
        found = [one for one in found if wanted.items() <= one["metadata"].get("labels", {}).items()]
        return 200, {"kind": "List", "apiVersion": "v1", "metadata": {}, "items": found}


def _discovery(*, core: bool) -> Object:
    groups = [
        {
            "metadata": {"name": group},
            "versions": [
                {
                    "version": "v1",
                    "resources": [
                        {
                            "resource": plural(kind),
                            "responseKind": {"group": group, "version": "v1", "kind": kind},
                            "scope": "Cluster" if kind in _CLUSTER_WIDE else "Namespaced",
                            "verbs": ["get", "list"],
                        }
                        for kind in kinds
                    ],
                }
            ],
        }
        for group, kinds in _KINDS.items()
        if core is (group == "")
    ]
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": groups}


class _Response:
    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data.removesuffix(CUT))
        self._cut = data.endswith(CUT)

    def read1(self, amount: int) -> bytes:
        """Return the next piece, as urllib3's response does."""
        from urllib3.exceptions import IncompleteRead

        if not (piece := self._data.read(amount)) and self._cut:
            raise IncompleteRead(0, 1)
        return piece

    def close(self) -> None:
        """Do nothing."""


class _Client(ApiClient):
    answer: Answerer

    def call_api(self, method: str, url: str, *_: Any, **__: Any) -> Any:
        """Return what the server in memory answers, as the official client does."""
        parts = urlsplit(url)
        status, data = self.answer(method, parts.path, dict(parse_qsl(parts.query)))
        answer = type("Answered", (), {})()
        answer.status, answer.headers, answer.response = status, {"Date": formatdate(usegmt=True)}, _Response(data)
        return answer


class _Session(transport.Session):
    def __init__(self, answer: Answerer) -> None:
        super().__init__(Access(Configuration(host="http://memory"), Identity(Static("Bearer canary-token"))))
        self.answer = answer
        self._client = _Client(self.settings)
        self._client.answer = answer


class MemoryCluster(Cluster):
    """A cluster whose API server is in memory."""

    @classmethod
    def of(cls, name: str, answer: Answerer) -> MemoryCluster:
        """Return a cluster whose requests a function answers."""
        made = cls(name, name, lambda: NotImplemented, 2.0)
        made._session = _Session(answer)
        return made

    def with_token(self, *_: Any, **__: Any) -> MemoryCluster:
        """Return the same API server, which takes any token."""
        return self.of(self.name, self._answer)

    @property
    def _answer(self) -> Answerer:
        session = self.session
        assert isinstance(session, _Session)
        return session.answer

    def _http_get(self, pod: str, _: str, port: int, path: str, timeout: float) -> bytes:
        with transport.translated(self.where, timeout):
            status, data = self._answer("GET", f"pod/{pod}:{port}{path}", {})
            transport.note()
            data = _Response(data).read1(-1)
        if status == 404:
            raise NotFoundError("no such path", where=self.where)
        if status != 200:
            raise MeshkitError(f"{pod} answered {status}", where=self.where)
        return data

    def _stream(self, *_: Any, **__: Any) -> NoReturn:
        raise UnreachableError("no streams here", where=self.where)
