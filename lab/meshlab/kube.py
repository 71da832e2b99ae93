"""The node's small client of its API server: REST by urllib3, and a Store that lists, watches and remembers.

The official client costs each node 60 MiB and half a second; the node needs six verbs.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import urllib3
import yaml

Object = dict[str, Any]
Key = tuple[str, str]


class Refused(Exception):  # noqa: N818 - it is the API server's answer, not always an error
    """The API server's answer was not 2xx."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class Kube:
    """REST calls to one API server, by the token of a kubeconfig."""

    def __init__(self, kubeconfig: Path) -> None:
        config = yaml.safe_load(kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        self.server = cluster["server"]
        self.pool = urllib3.PoolManager(
            maxsize=16,
            retries=False,
            ca_cert_data=base64.b64decode(cluster["certificate-authority-data"]).decode(),
            headers={"Authorization": f"Bearer {user['token']}"},
            timeout=urllib3.Timeout(connect=2, read=20),
        )

    def call(self, method: str, path: str, body: Any = None, *, kind: str = "application/json", **query: str) -> Object:
        """Make one call and return the answer's JSON.

        Raises:
            Refused: the status is not 2xx.
            urllib3.exceptions.HTTPError: there was no answer.
        """
        url = f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")
        data = None if body is None else json.dumps(body)
        answer = self.pool.request(method, url, body=data, headers={**self.pool.headers, "Content-Type": kind})
        content: Object = json.loads(answer.data) if answer.data.startswith(b"{") else {}
        if answer.status >= 300:
            raise Refused(answer.status, content.get("message", ""))
        return content

    def merge(self, path: str, body: Object) -> Object:
        """Merge-patch an object."""
        return self.call("PATCH", path, body, kind="application/merge-patch+json")

    def watch(self, path: str, version: str) -> Iterator[Object]:
        """Yield watch events from a resourceVersion on, until the server ends the stream."""
        query = urlencode({"watch": "true", "resourceVersion": version, "timeoutSeconds": "600"})
        answer = self.pool.request("GET", f"{self.server}{path}?{query}", preload_content=False,
                                   timeout=urllib3.Timeout(connect=2, read=None))  # fmt: skip
        if answer.status >= 300:
            raise Refused(answer.status, "watch")
        rest = b""
        for chunk in answer.stream(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from (json.loads(line) for line in lines if line)


class Store:
    """All objects of one kind as last seen, kept by list and watch in a thread of its own."""

    def __init__(self, kube: Kube, path: str, on_change: Callable[[], None] = lambda: None) -> None:
        self.kube, self.path, self.on_change = kube, path, on_change
        self.items: dict[Key, Object] = {}
        self.synced = threading.Event()
        threading.Thread(target=self._run, daemon=True, name=path).start()

    def __iter__(self) -> Iterator[Object]:
        return iter(list(self.items.values()))

    def get(self, namespace: str, name: str) -> Object | None:
        """Return the object, or None where there is none."""
        return self.items.get((namespace, name))

    def _run(self) -> None:
        while True:
            try:
                listed = self.kube.call("GET", self.path)
                self.items = {key(item): item for item in listed["items"]}
                self.synced.set()
                self.on_change()
                self._follow(listed["metadata"]["resourceVersion"])
            except (Refused, urllib3.exceptions.HTTPError, ValueError) as error:
                if self.synced.is_set():
                    print(f"watch of {self.path}: {error}; listing again", flush=True)
                time.sleep(0.2)

    def _follow(self, version: str) -> None:
        for event in self.kube.watch(self.path, version):
            item = event["object"]
            if event["type"] == "ERROR":
                return
            if event["type"] == "DELETED":
                self.items.pop(key(item), None)
            else:
                self.items[key(item)] = item
            self.on_change()


def key(item: Object) -> Key:
    """Return (namespace, name) of an object."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]
