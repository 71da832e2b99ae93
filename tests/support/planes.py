"""Control planes of a test: istiods, their Services, and webhooks as Istio's charts render them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from meshkit.istio.control_plane import revisions
from meshkit.istio.control_plane.revisions import ControlPlanes
from tests.support.held import Held, Object

FOLDER = Path(__file__).parent / "webhooks"


def webhooks(name: str) -> list[Object]:
    """Return the MutatingWebhookConfigurations of a rendered file: `revision` (1-31-0 with a tag) or `unnamed`."""
    return list(yaml.safe_load_all((FOLDER / f"{name}.yaml").read_text()))


def istiod(revision: str, namespace: str = "istio-system") -> Object:
    """Return a pod of istiod; `default` is the revision without a name."""
    name = "istiod" if revision == "default" else f"istiod-{revision}"
    labels = {"app": "istiod", "istio": "pilot", "istio.io/rev": revision}
    metadata = {"name": f"{name}-x1", "namespace": namespace, "labels": labels}
    return {"metadata": metadata, "spec": {"containers": [{"name": "discovery"}]}}


def service(revision: str, namespace: str = "istio-system") -> Object:
    """Return an istiod's Service."""
    name = "istiod" if revision == "default" else f"istiod-{revision}"
    more = {"istio": "pilot"} if revision == "default" else {"istio.io/rev": revision}
    metadata = {"name": name, "namespace": namespace, "labels": {"istio.io/rev": revision}}
    return {"metadata": metadata, "spec": {"selector": {"app": "istiod", **more}}}


def cluster(*files: str, run: tuple[str, ...] = (), **more: Any) -> Held:
    """Return a cluster with the webhooks of these files, and running istiods of these revisions."""
    objects = {
        "pods": [istiod(revision) for revision in run],
        "services": [service(revision) for revision in run],
        "mutatingwebhookconfigurations": [obj for name in files for obj in webhooks(name)],
    }
    return Held(**{**objects, **more})


def planes(*files: str, run: tuple[str, ...] = ()) -> ControlPlanes:
    """Return what is read of such a cluster."""
    return revisions.read(cluster(*files, run=run))  # type: ignore[arg-type]


NAMED = ("1-31-0",)
NONE = ControlPlanes()


def named() -> ControlPlanes:
    """Return a cluster whose istiod is 1-31-0, with the tag prod-stable."""
    return planes("revision", run=NAMED)


def tagless() -> ControlPlanes:
    """Return a cluster whose istiod is 1-31-0, without a tag."""
    only = [obj for obj in webhooks("revision") if "istio.io/tag" not in obj["metadata"]["labels"]]
    held = cluster(run=NAMED, mutatingwebhookconfigurations=only)
    return revisions.read(held)  # type: ignore[arg-type]


def unnamed() -> ControlPlanes:
    """Return a cluster whose istiod has no revision."""
    return planes("unnamed", run=("default",))
