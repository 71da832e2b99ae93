"""Objects of a cluster, read completely and restored exactly, including their field managers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from meshkit.errors import ChangeError
from meshlab.kube import Kube, Object, Refused

ADMISSION, RBAC = "/apis/admissionregistration.k8s.io/v1", "/apis/rbac.authorization.k8s.io/v1"
CORE, APPS, ISTIO = "/api/v1", "/apis/apps/v1", "/apis/networking.istio.io/v1"
SECURITY = "/apis/security.istio.io/v1"
PLACES: Mapping[str, tuple[str, str]] = {
    "AuthorizationPolicy": (SECURITY, "authorizationpolicies"),
    "ClusterRole": (RBAC, "clusterroles"),
    "ClusterRoleBinding": (RBAC, "clusterrolebindings"),
    "ConfigMap": (CORE, "configmaps"),
    "Deployment": (APPS, "deployments"),
    "DestinationRule": (ISTIO, "destinationrules"),
    "EndpointSlice": ("/apis/discovery.k8s.io/v1", "endpointslices"),
    "EnvoyFilter": ("/apis/networking.istio.io/v1alpha3", "envoyfilters"),
    "Gateway": (ISTIO, "gateways"),
    "MutatingWebhookConfiguration": (ADMISSION, "mutatingwebhookconfigurations"),
    "Namespace": (CORE, "namespaces"),
    "PeerAuthentication": (SECURITY, "peerauthentications"),
    "Pod": (CORE, "pods"),
    "Role": (RBAC, "roles"),
    "RoleBinding": (RBAC, "rolebindings"),
    "Secret": (CORE, "secrets"),
    "Service": (CORE, "services"),
    "ServiceAccount": (CORE, "serviceaccounts"),
    "ServiceEntry": (ISTIO, "serviceentries"),
    "Sidecar": (ISTIO, "sidecars"),
    "VirtualService": (ISTIO, "virtualservices"),
}
GIVEN = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "deletionTimestamp")
PATIENCE = 30.0
WRITES = 10


@dataclass(frozen=True)
class Ref:
    """Where an object is in its cluster."""

    kind: str
    name: str
    namespace: str = "istio-system"

    @property
    def folder(self) -> str:
        """Path of all objects of its kind and namespace."""
        base, plural = PLACES[self.kind]
        return f"{base}/namespaces/{self.namespace}/{plural}" if self.namespace else f"{base}/{plural}"

    @property
    def path(self) -> str:
        """Path of the object."""
        return f"{self.folder}/{self.name}"

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def read(kube: Kube, ref: Ref) -> Object | None:
    """Return an object, or None where there is none."""
    try:
        return kube.call("GET", ref.path)
    except Refused as error:
        if error.status == 404:
            return None
        raise


def items(kube: Kube, kind: str, namespace: str = "", **query: str) -> list[Object]:
    """Return all objects of a kind, of all namespaces unless one is named."""
    listed = kube.call("GET", Ref(kind, "", namespace).folder, **query)["items"]
    base, _ = PLACES[kind]
    return [{"apiVersion": base.split("/", 2)[2], "kind": kind, **item} for item in listed]


def put(kube: Kube, ref: Ref, wanted: Object) -> None:
    """Make an object what is wanted, whether it exists or not."""
    there = read(kube, ref)
    if there is None:
        kube.call("POST", ref.folder, fresh(wanted))
    else:
        write_over(kube, ref, wanted, there)


def write_over(kube: Kube, ref: Ref, wanted: Object, there: Object | None) -> None:
    """Write an object over the one that is there; a controller that wrote in between is no conflict of ours."""
    for left in range(WRITES, 0, -1):
        if there is None:
            return
        try:
            kube.call("PUT", ref.path, at_version(wanted, there))
        except Refused as error:
            if error.status != 409 or left == 1:
                raise
            there = read(kube, ref)
        else:
            return


def put_back(kube: Kube, ref: Ref, before: Object | None) -> None:
    """Make an object what it was, or remove it where there was none; `managedFields` become what they were, too."""
    if before is None:
        remove(kube, ref)
        return
    put(kube, ref, before)
    # A write takes the fields that it changes from their managers: a second one, which changes none, gives them back.
    write_over(kube, ref, before, read(kube, ref))


def remove(kube: Kube, ref: Ref) -> None:
    """Delete an object and wait until it is gone; one that is not there is no error.

    Raises:
        ChangeError: it stays.
    """
    deadline = time.monotonic() + PATIENCE
    while read(kube, ref) is not None:
        try:
            kube.call("DELETE", ref.path)
        except Refused as error:
            if error.status != 404:
                raise
        if time.monotonic() > deadline:
            raise ChangeError(f"{ref} is not gone after {PATIENCE:.0f} s", where="lab")
        time.sleep(0.1)


def fresh(item: Object) -> Object:
    """Return an object as one creates it: without what the API server gives."""
    metadata = {key: value for key, value in item["metadata"].items() if key not in GIVEN}
    return {**{key: value for key, value in item.items() if key != "status"}, "metadata": metadata}


def at_version(item: Object, there: Object) -> Object:
    """Return an object as one writes it over another, which may have been recreated meanwhile."""
    given = {key: there["metadata"][key] for key in ("uid", "resourceVersion", "creationTimestamp")}
    return {**item, "metadata": {**item["metadata"], **given}}
