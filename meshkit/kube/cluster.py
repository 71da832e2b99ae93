"""Cluster: one kube context, with the verbs that kubectl users know.

    east = Cluster.connect("lab-east")
    pods = east.get("pods", namespace="sample", labels={"app": "httpbin"})
    east.http_get("sleep-5f9…", "sample", 15000, "/clusters?format=json")

Objects are the API server's raw JSON. Every call ends within its timeout. Every failure is a `MeshkitError` that names
the cluster.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import http.client
import json
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self, TypeVar
from urllib.parse import quote

from meshkit.display import Shown, grid, styled
from meshkit.errors import ConflictError, InputError, MeshkitError, UnreachableError
from meshkit.kube import discovery, transport
from meshkit.kube.answers import checked, decoded, strange
from meshkit.kube.discovery import Resource, served
from meshkit.kube.identity import Hidden
from meshkit.kube.kubeconfig import Access, access, contexts, other_token
from meshkit.kube.kubeconfig import files as paths_of
from meshkit.kube.memory import Memory
from meshkit.kube.transport import NotFoundError

T = TypeVar("T")

FIELD_MANAGER = "meshkit"
PAGE = 500
_APPLY = "application/apply-patch+yaml"
_STDOUT, _STDERR, _ERROR = 1, 2, 3


@dataclass(frozen=True)
class ExecResult:
    """The result of a command in a container: its output as text, and its exit code."""

    stdout: str
    stderr: str
    exit_code: int

    @property
    def not_run(self) -> bool:
        """The container has no such command, or cannot execute it: the exit codes that a shell has for these."""
        return self.exit_code in (126, 127)


@dataclass(frozen=True)
class ClockSkew:
    """How far the API server's clock is ahead of ours, in seconds, give or take `uncertainty`."""

    seconds: float
    uncertainty: float


class Cluster(Shown):
    """One kube context. Nothing is sent, and no credential is fetched, before the first call."""

    def __init__(self, name: str, context: str, access_: Callable[[], Access], timeout: float) -> None:
        self.name = name
        self.context = context
        self.timeout = timeout
        self._access = access_
        self._lock = threading.Lock()
        self._session: transport.Session | None = None
        self._resources: list[Resource] = []
        self._memory: Memory | None = None
        self._original: Self | None = None

    def bundle(self) -> dict[str, Any]:
        """Return its name and its context; nothing is sent."""
        _, html = grid(["cluster", "context", "timeout"], [[self.name, self.context, f"{self.timeout:g} s"]])
        words = f"Cluster({self.name!r}, context={self.context!r})"
        return {"text/plain": words, "text/html": styled(html)}

    @classmethod
    def connect(cls, context: str, kubeconfig: str = "", *, timeout: float = 10.0, name: str = "") -> Self:
        """Return the cluster of a kubeconfig context; the file is found as kubectl finds it.

        Raises:
            InputError: no kubeconfig, or no such context in it.
        """
        files = paths_of(kubeconfig)
        known = contexts(files)
        if context not in known:
            nearest = difflib.get_close_matches(context, known, n=1)
            raise InputError(
                f"no context {context!r}; there {'is' if len(known) == 1 else 'are'} {', '.join(known) or 'none'}",
                where=os.pathsep.join(files),
                remedy=f"did you mean {nearest[0]!r}?" if nearest else "name one of them, or set KUBECONFIG",
            )
        return cls(name or context, context, functools.partial(access, files, context), timeout)

    def with_token(self, token: str, ca: bytes = b"", *, timeout: float = 10.0) -> Self:
        """Return the same API server at the address that we know it by, seen with another token (and another CA)."""
        return type(self)(self.name, "", functools.partial(other_token, self._access, Hidden(token), ca), timeout)

    def remembering(self) -> Self:
        """Return the same cluster, which sends the same read once: `get`, `get_json`, `find`, `can_i` and `http_get`.

        For readings of one moment. What tries, waits or writes is always sent.
        """
        twin = type(self)(self.name, self.context, self._access, self.timeout)
        vars(twin).update(_memory=Memory(), _original=self)
        return twin

    def forget(self) -> None:
        """Drop what was remembered: it holds Secrets as the API server sent them, and may be large."""
        self._memory = Memory() if self._memory else None

    @property
    def fresh(self) -> Self:
        """The cluster without a memory: for what reads again to see a change."""
        return self._original or self

    @property
    def requests(self) -> int:
        """How many requests and streams were sent to its API server."""
        return self.session.requests

    def __getstate__(self) -> dict[str, Any]:
        # An executor may run calls in another process: the lock and the open client stay in this one.
        return {**self.__dict__, "_lock": None, "_session": None, "_memory": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()

    @property
    def where(self) -> str:
        """How errors and tables name this cluster."""
        return f"cluster {self.name}" + (f" (context {self.context})" if self.context not in ("", self.name) else "")

    @property
    def session(self) -> transport.Session:
        """The connection to this context's API server, created at first use."""
        if self._original:
            return self._original.session
        # Not functools.cached_property: until Python 3.12 its lock is shared by all instances.
        with self._lock:
            if self._session is None:
                self._session = transport.Session(self._access())
            return self._session

    @property
    def server(self) -> str:
        """The API server's address."""
        return str(self.session.settings.host)

    # --- read ---

    def get(
        self,
        path_or_kind: str,
        namespace: str | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | str | None = None,
        *,
        fields: str = "",
    ) -> list[dict[str, Any]]:
        """Return objects as raw JSON, in pages of 500 as kubectl reads them.

        Args:
            path_or_kind: what kubectl takes (`pods`, `po`, `Pod`, `gateways.networking.istio.io`), or an API path.
            namespace: only there; None is all namespaces.
            name: only this object, in a list of one.
            labels: a mapping, or kubectl's `-l` text.
            fields: kubectl's `--field-selector` text.

        Raises:
            NotFoundError: no such kind or object.
            UnreachableError: as of every call.
        """
        path = path_or_kind if path_or_kind.startswith("/") else self.resource(path_or_kind).path(namespace, name)
        selector = labels if isinstance(labels, str) else ",".join(f"{k}={v}" for k, v in (labels or {}).items())
        query = [("labelSelector", selector), ("fieldSelector", fields), ("limit", "" if name else str(PAGE))]
        items: list[dict[str, Any]] = []
        token = ""
        while True:
            page = [(key, value) for key, value in [*query, ("continue", token)] if value]
            document = self.get_json(path, query=page, having="metadata")
            kind, version = str(document.get("kind", "")), document.get("apiVersion", "")
            if "items" not in document and (name or not kind.endswith("List") or "name" in document["metadata"]):
                return [checked(document, self.where)]
            found = document.get("items", [])
            if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
                raise strange(self.where)
            kind = kind.removesuffix("List")
            items += [checked({"apiVersion": version, "kind": kind, **item}, self.where) for item in found]
            before, token = token, document["metadata"].get("continue", "")
            if not token:
                return items
            if not isinstance(token, str) or token == before:
                raise strange(self.where)

    def get_json(
        self,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        accept: str = "application/json",
        timeout: float = 0.0,
        having: str = "",
    ) -> Any:
        """Return what the API server answers to GET of a path, decoded; an object with the field `having`, if named.

        Fields that are null are left out, as they are not there for any Kubernetes client.
        """
        answer = self._once(
            (path, *query, accept),
            lambda: self._request("GET", path, query=query, headers={"Accept": accept}, timeout=timeout),
        )
        return decoded(answer.data, self.where, having)

    def _once(self, question: Hashable, ask: Callable[[], T]) -> T:
        return self._memory.answer(question, ask) if self._memory else ask()

    def kinds(self, wanted: Callable[[str], bool], *, namespaced: bool = False) -> list[str]:
        """Return every kind that can be listed now in the API groups wanted, as `virtualservices.networking.istio.io`.

        Args:
            wanted: takes a group, returns whether to include it.
            namespaced: only kinds whose objects live in namespaces.
        """
        self._resources = list(self._discover())
        known = [r for r in self._resources if r.listable and wanted(r.group) and (r.namespaced or not namespaced)]
        return sorted({f"{found.plural}.{found.group}" for found in known})

    def find(self, kind: str, namespace: str | None, name: str) -> dict[str, Any] | None:
        """Return one object, or None if it, or its kind, is not there."""
        try:
            return next(iter(self.get(kind, namespace, name)), None)
        except NotFoundError:
            return None

    def version(self) -> str:
        """Return the Kubernetes version, such as `v1.37.2`."""
        return str(self.get_json("/version", having="gitVersion")["gitVersion"])

    def uid(self) -> str:
        """Return the cluster's identity: the UID of its kube-system namespace, as Istio takes it."""
        found = self.get("namespaces", name="kube-system")
        if not found or not (uid := found[0]["metadata"].get("uid")):
            raise strange(self.where)
        return str(uid)

    def clock_skew(self) -> ClockSkew:
        """Return how far the API server's clock is ahead of ours; its Date header has whole seconds only."""
        answer = self._request("GET", "/version")
        try:
            server = parsedate_to_datetime(answer.headers["Date"]).replace(tzinfo=UTC).timestamp()
        except (KeyError, TypeError, ValueError, OverflowError):
            raise UnreachableError("its answer has no Date header", where=self.where) from None
        return ClockSkew(server + 0.5 - answer.midpoint, 0.5 + answer.round_trip / 2)

    def can_i(
        self,
        verb: str,
        resource: str,
        namespace: str | None = None,
        *,
        name: str = "",
        user: Mapping[str, Any] | None = None,
    ) -> bool:
        """Return whether our credential, or another user, may do this, as `kubectl auth can-i` (`pods/exec`, `*.*`).

        A `user` is one of `review_token`; to ask that needs the right to create SubjectAccessReviews.
        """
        plain, _, subresource = resource.partition("/")
        known = None if plain == "*.*" else self.resource(plain)
        plural, group = (known.plural, known.group) if known else ("*", "*")
        attributes = {"verb": verb, "resource": plural, "group": group, "subresource": subresource}
        attributes |= {"namespace": namespace or "", "name": name}
        spec: dict[str, Any] = {"resourceAttributes": attributes}
        kind, who = "SelfSubjectAccessReview", ""
        if user is not None:
            who, named = str(user.get("username", "")), {"user": user.get("username", "")}
            kind, spec = "SubjectAccessReview", spec | named | {k: user[k] for k in ("groups", "uid") if k in user}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec}
        path = f"/apis/authorization.k8s.io/v1/{kind.lower()}s"
        answer = self._once(
            ("can", *attributes.values(), who),
            lambda: self._request("POST", path, body=review, content_type="application/json"),
        )
        return bool(decoded(answer.data, self.where, "status")["status"].get("allowed"))

    def review_token(self, token: str) -> dict[str, Any]:
        """Return what the API server says of a token: `authenticated`, `user`, `error`; the server keeps nothing of it.

        It is asked by our own credential, which must be allowed to create TokenReviews.
        """
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        path = "/apis/authentication.k8s.io/v1/tokenreviews"
        answer = self._request("POST", path, body=review, content_type="application/json")
        return dict(decoded(answer.data, self.where, "status")["status"])

    # --- write ---

    def apply(
        self, manifest: Mapping[str, Any], dry_run: bool = False, *, manager: str = FIELD_MANAGER
    ) -> dict[str, Any]:
        """Apply an object server-side as a field manager, never by force on another, and return what it became.

        Fields that the same manager changed by a patch are no conflict, although the server reports one: the server
        tracks the operations Apply and Update of one manager separately.

        Raises:
            ConflictError: others own fields of it.
            ChangeError: the server refused it for another reason: an unknown field, a webhook.
        """
        path = self._path_of(manifest)
        query = [("fieldManager", manager), ("fieldValidation", "Strict")]
        query += [("dryRun", "All")] if dry_run else []
        try:
            answer = self._request("PATCH", path, query=query, body=manifest, content_type=_APPLY)
        except ConflictError as error:
            if any(owner != manager for owner, _ in error.conflicts):
                raise
            forced = [*query, ("force", "true")]
            answer = self._request("PATCH", path, query=forced, body=manifest, content_type=_APPLY)
        result: dict[str, Any] = decoded(answer.data, self.where)
        return result

    def rehearse(self, manifest: Mapping[str, Any], *, create: bool = False) -> dict[str, Any]:
        """Return what an object would become if it were applied by force, or created; a dry run that changes nothing.

        Raises:
            ChangeError: the server would refuse it.
        """
        path, kind = self._path_of(manifest), "application/json" if create else _APPLY
        method, path = ("POST", path.rpartition("/")[0]) if create else ("PATCH", path)
        query = [("dryRun", "All"), ("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict")]
        query += [] if create else [("force", "true")]
        answer = self._request(method, path, query=query, body=manifest, content_type=kind)
        result: dict[str, Any] = decoded(answer.data, self.where)
        return result

    def patch(self, manifest: Mapping[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Merge fields into an object that exists, as `kubectl patch --type=merge`; null removes a field.

        For fields without a fixed owner, such as replicas; all other fields are applied.
        """
        query = [("fieldManager", FIELD_MANAGER), ("fieldValidation", "Strict")]
        query += [("dryRun", "All")] if dry_run else []
        kind = "application/merge-patch+json"
        answer = self._request("PATCH", self._path_of(manifest), query=query, body=manifest, content_type=kind)
        result: dict[str, Any] = decoded(answer.data, self.where)
        return result

    def delete(self, manifest: Mapping[str, Any]) -> bool:
        """Delete an object, its dependents in the background; return whether it was there."""
        try:
            self._request("DELETE", self._path_of(manifest), query=[("propagationPolicy", "Background")])
        except NotFoundError:
            return False
        return True

    def request_token(self, namespace: str, account: str, seconds: int, secret: str) -> str:
        """Return a new token of a ServiceAccount, which ends with a Secret: after `seconds`, or what the server grants.

        Raises:
            ChangeError: the server refuses it.
            NotFoundError: no such account, or no such Secret.
        """
        bound = {"apiVersion": "v1", "kind": "Secret", "name": secret}
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": seconds, "boundObjectRef": bound},
        }
        path = f"{self.resource('serviceaccounts').path(namespace, account)}/token"
        answer = self._request("POST", path, body=body, content_type="application/json")
        if not (token := decoded(answer.data, self.where, "status")["status"].get("token")):
            raise strange(self.where)
        return str(token)

    # --- into pods ---

    def exec(
        self,
        pod: str,
        namespace: str,
        container: str,
        command: Sequence[str],
        timeout: float = 0.0,
        *,
        on_output: Callable[[bytes], None] | None = None,
    ) -> ExecResult:
        """Run a command in a container, without a shell and without a terminal.

        `on_output` is called with each piece of its standard output as it arrives.

        Raises:
            UnreachableError: the pod cannot be reached, or the command does not end within `timeout` seconds.
        """
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}/exec"
        query = [("container", container), ("stdout", "true"), ("stderr", "true")]
        query += [("command", part) for part in command]
        channels = {_STDOUT: bytearray(), _STDERR: bytearray(), _ERROR: bytearray()}
        with self._stream(path, query, "v5.channel.k8s.io,v4.channel.k8s.io", timeout, pod) as stream:
            for channel, data in stream.frames():
                channels.get(channel, bytearray()).extend(data)
                if on_output and channel == _STDOUT:
                    on_output(data)
        stdout, stderr = (channels[c].decode(errors="replace") for c in (_STDOUT, _STDERR))
        return ExecResult(stdout, stderr, self._exit_code(bytes(channels[_ERROR]), f"{pod}.{namespace}/{container}"))

    def _exit_code(self, status: bytes, what: str) -> int:
        try:
            document = json.loads(status)
            if document["status"] == "Success":
                return 0
            causes = document["details"]["causes"]
            return next(int(cause["message"]) for cause in causes if cause["reason"] == "ExitCode")
        except (ValueError, KeyError, TypeError, StopIteration):
            raise UnreachableError(
                f"the command in {what} could not be run to its end", where=self.where, remedy="is the container up?"
            ) from None

    @contextlib.contextmanager
    def forward(self, pod: str, namespace: str, port: int, timeout: float = 0.0) -> Iterator[transport.Tunnel]:
        """Open a connection to a port of a pod's localhost, to be read and written, for `timeout` seconds at most.

        Raises:
            UnreachableError: nothing listens there, or it was not over in time.
        """
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}/portforward"
        with self._stream(path, [("ports", str(port))], "v4.channel.k8s.io", timeout, pod) as stream:
            yield transport.Tunnel(stream, f"{pod}.{namespace}:{port}", self.where)

    def http_get(self, pod: str, namespace: str, port: int, path: str, timeout: float = 0.0) -> bytes:
        """Return what a pod answers to GET on a port of its localhost, as istioctl asks Envoy and istiod.

        It uses the API server's port-forward, so it needs the same right as istioctl: create `pods/portforward`.

        Raises:
            UnreachableError: nothing listens there, or no complete answer within `timeout` seconds.
            NotFoundError: no such pod, or no such path on that port.
            MeshkitError: it answers with another status than 200.
        """
        return self._once((pod, namespace, port, path), lambda: self._http_get(pod, namespace, port, path, timeout))

    def _http_get(self, pod: str, namespace: str, port: int, path: str, timeout: float) -> bytes:
        ask = f"GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n"
        with self.forward(pod, namespace, port, timeout) as tunnel:
            tunnel.write(ask.encode())
            answer = http.client.HTTPResponse(tunnel)  # type: ignore[arg-type]
            answer.begin()
            body = answer.read()
        if answer.status == 200:
            return body
        kind = {404: NotFoundError, 401: UnreachableError, 403: UnreachableError}.get(answer.status, MeshkitError)
        raise kind(f"{pod}.{namespace}:{port}{path} answered {answer.status}", where=self.where)

    def follow(self, pod: str, namespace: str, container: str, since: datetime, timeout: float = 0.0) -> Iterator[str]:
        """Yield the lines that a container logs from a moment on, each after its time stamp and a blank.

        Ends when the container does. The API server knows whole seconds only, so lines of the second before `since`
        may come too.

        Raises:
            UnreachableError: the connection broke, or no line came for `timeout` seconds.
            NotFoundError: the pod is gone.
            MeshkitError: the container has not started yet.
        """
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}/log"
        moment = since.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        query = [("container", container), ("follow", "true"), ("timestamps", "true"), ("sinceTime", moment)]
        where = f"{self.where}, pod {pod}"
        return transport.lines(self.session, path, where=where, timeout=timeout or self.timeout, query=query)

    def log(self, pod: str, namespace: str, container: str, lines: int) -> list[str]:
        """Return the last lines that a container logged.

        Raises:
            NotFoundError: there is no such pod or container.
        """
        path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods/{quote(pod, safe='')}/log"
        answer = self._request("GET", path, query=[("container", container), ("tailLines", str(lines))])
        return answer.data.decode(errors="replace").splitlines()

    # --- how ---

    def resource(self, kind: str) -> Resource:
        """Return how the API server serves a kind, by any name that kubectl takes for it.

        Raises:
            NotFoundError: it does not serve it; a custom resource's definition may be missing.
        """
        wanted = kind.lower()
        for fresh in (False, True):
            if fresh or not self._resources:
                self._resources = list(self._discover())
            for resource in self._resources:
                if wanted in resource.names:
                    return resource
        raise NotFoundError(
            f"it serves no {kind!r}", where=self.where, remedy="if it is a custom resource, install its definition"
        )

    def _discover(self) -> Iterator[Resource]:
        for root in ("/api", "/apis"):
            yield from served(self.get_json(root, accept=discovery.ACCEPT, having="items")["items"])

    def _path_of(self, manifest: Mapping[str, Any]) -> str:
        metadata = manifest.get("metadata") or {}
        version, kind, name = manifest.get("apiVersion"), manifest.get("kind"), metadata.get("name")
        if not (version and kind and name):
            raise InputError("a manifest needs apiVersion, kind and metadata.name", where=self.where)
        group, _, number = str(version).rpartition("/")
        served = self.resource(f"{kind}.{number}.{group}" if group else f"{kind}.{number}.")
        return served.path(metadata.get("namespace") or "default", name)

    def _request(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str = "",
        timeout: float = 0.0,
    ) -> transport.Response:
        typed = {**(headers or {}), **({"Content-Type": content_type} if content_type else {})}
        # The official client encodes bodies of JSON types itself, those of YAML types only as text.
        payload = json.dumps(body) if body is not None and content_type.endswith("yaml") else body
        return transport.request(
            self.session,
            method,
            path,
            where=self.where,
            timeout=timeout or self.timeout,
            query=query,
            headers=typed,
            body=payload,
        )

    def _stream(
        self, path: str, query: Sequence[tuple[str, str]], protocols: str, timeout: float, pod: str
    ) -> AbstractContextManager[transport.Stream]:
        where = f"{self.where}, pod {pod}"
        return transport.stream(
            self.session, path, where=where, timeout=timeout or self.timeout, protocols=protocols, query=query
        )
