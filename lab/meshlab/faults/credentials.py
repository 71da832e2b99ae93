"""Faults of remote secrets: the credentials by which one cluster's istiod reads another's API server."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from meshkit.errors import ChangeError
from meshlab.faults.bench import Bench
from meshlab.faults.fault import fault
from meshlab.faults.objects import Ref, fresh
from meshlab.faults.pods import ISTIOD
from meshlab.kube import Object
from meshlab.layout import API_PORT

CLUSTER = "networking.istio.io/cluster"
UNSEEN = (
    "nothing at first: istiod keeps what it knew; later calls go to pods that no longer exist, and never to new ones"
)


def remote(bench: Bench) -> Ref:
    """Return the Secret by which the peer reads the cluster."""
    return Ref("Secret", f"istio-remote-secret-{bench.site.name}")


@fault(behind="P6 F3 F4", users=UNSEEN, finding="MK809")
def expired_credential(bench: Bench) -> None:
    """The token of the remote secret in the other cluster expired an hour ago."""
    token = expired(token_of(bench), bench.home / bench.site.name / "sa.key")
    rewrite(bench, lambda kubeconfig: kubeconfig["users"][0]["user"].update(token=token))


@fault(behind="P6 P8 F4 F15", users=UNSEEN, finding="MK803")
def revoked_credential(bench: Bench) -> None:
    """The token Secret behind the remote secret is deleted, so the API server refuses it."""
    name = claims(token_of(bench)).get("kubernetes.io/serviceaccount/secret.name")
    if not name:
        raise ChangeError("the remote secret's token is of no Secret, and cannot be revoked by itself", where="lab")
    bench.delete(bench.site, Ref("Secret", name))


@fault(behind="P5 F1", users="503 where a subset or a rule names the cluster by its id; else nothing", finding="MK830")
def wrong_cluster_id(bench: Bench) -> None:
    """The remote secret in the other cluster calls the cluster by another id than its istiod does."""
    before, wrong = bench.delete(bench.peer, remote(bench)), f"{bench.site.name}-old"
    bench.create(bench.peer, named(before, f"istio-remote-secret-{wrong}", bench.site.name, wrong))


@fault(behind="F2", users="nothing, until istiod restarts and takes the wrong one of the two", finding="MK831")
def duplicate_id(bench: Bench) -> None:
    """A second remote secret in the other cluster has the same cluster id, and a token that is worth nothing."""
    before = bench.get(bench.peer, remote(bench))
    second = named(before, f"istio-remote-secret-{bench.site.name}-2", bench.site.name, bench.site.name)
    with_kubeconfig(second, bench.site.name, lambda kubeconfig: kubeconfig["users"][0]["user"].update(token="gone"))  # noqa: S106
    bench.create(bench.peer, second)


@fault(behind="P15 F1", users="others get only answers from their own cluster", finding="MK832")
def secret_in_wrong_namespace(bench: Bench) -> None:
    """The remote secret in the other cluster landed in the namespace default, where istiod does not look."""
    before = bench.delete(bench.peer, remote(bench))
    bench.create(bench.peer, {**fresh(before), "metadata": {**fresh(before)["metadata"], "namespace": "default"}})


@fault(behind="P14 F16", users="others get only answers from their own cluster", finding="MK833")
def loopback_server(bench: Bench) -> None:
    """The remote secret in the other cluster says that the API server is at 127.0.0.1."""
    server = f"https://127.0.0.1:{API_PORT}"
    rewrite(bench, lambda kubeconfig: kubeconfig["clusters"][0]["cluster"].update(server=server))


@fault(behind="P14", users=UNSEEN, finding="MK835")
def wrong_tls_server_name(bench: Bench) -> None:
    """The remote secret in the other cluster expects a name that the API server's certificate does not have."""
    name = f"api.{bench.site.name}.example"
    rewrite(bench, lambda kubeconfig: kubeconfig["clusters"][0]["cluster"].update({"tls-server-name": name}))


@fault(behind="P9 F4", users=UNSEEN + "; a new istiod is not ready for 30 s and then knows nothing", finding="MK702")
def unreachable_api_server(bench: Bench) -> None:
    """A firewall drops what the other clusters send to the API server.

    Once it is open again their istiods' watches come back by TCP's retransmission and client-go's back-off only: for up
    to a minute they see no new endpoint there, while `istioctl remote-clusters` says synced. So they are restarted.
    """
    for reader in bench.sites:
        if reader != bench.site:
            bench.restart_later(reader, ISTIOD)
    bench.firewall("", "PREROUTING", "-p", "tcp", "-d", bench.site.api_ip, "--dport", str(API_PORT), "-j", "DROP")


@fault(behind="F15", users=UNSEEN, finding="MK836")
def reader_without_rbac(bench: Bench) -> None:
    """The account that others read the cluster with has lost its rights: its ClusterRoleBinding is deleted."""
    bench.delete(bench.site, Ref("ClusterRoleBinding", "istio-reader-clusterrole-istio-system", ""))


def named(secret: Object, name: str, key: str, identifier: str) -> Object:
    """Return a remote secret under another name, and for another cluster id."""
    made = fresh(secret)
    annotations = {**made["metadata"].get("annotations", {}), CLUSTER: identifier}
    metadata = {**made["metadata"], "name": name, "annotations": annotations}
    return {**made, "metadata": metadata, "data": {identifier: made["data"][key]}}


def with_kubeconfig(secret: Object, key: str, change: Callable[[Any], object]) -> None:
    """Change the kubeconfig in a remote secret."""
    kubeconfig = yaml.safe_load(base64.b64decode(secret["data"][key]))
    change(kubeconfig)
    secret["data"][key] = base64.b64encode(yaml.safe_dump(kubeconfig).encode()).decode()


def rewrite(bench: Bench, change: Callable[[Any], object]) -> None:
    """Change the kubeconfig by which the peer reads the cluster to one by which it cannot.

    An istiod of 1.31 whose secret is fixed while it tries the bad one keeps a dead entry of it, and then loads no
    remote secret once this one is removed: so it is restarted at the end.
    """
    bench.restart_later(bench.peer, ISTIOD)
    bench.edit(bench.peer, remote(bench), lambda secret: with_kubeconfig(secret, bench.site.name, change))


def token_of(bench: Bench) -> str:
    """Return the token by which the peer reads the cluster."""
    kubeconfig = yaml.safe_load(base64.b64decode(bench.get(bench.peer, remote(bench))["data"][bench.site.name]))
    return str(kubeconfig["users"][0]["user"]["token"])


def claims(token: str) -> dict[str, Any]:
    """Return the claims of a token."""
    part = token.split(".")[1]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return decoded


def expired(token: str, key_file: Path) -> str:
    """Return a token of the same account that ended an hour ago, signed by the API server's own key."""
    key = serialization.load_pem_private_key(key_file.read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ChangeError("expected an EC key", where=str(key_file))
    claimed, now = claims(token), int(time.time())
    namespace, account = claimed["sub"].split(":")[2:]
    uid = (
        claimed.get("kubernetes.io/serviceaccount/service-account.uid")
        or claimed["kubernetes.io"]["serviceaccount"]["uid"]
    )
    issuer = "https://kubernetes.default.svc"
    body = {
        "iss": issuer, "aud": [issuer], "sub": claimed["sub"], "iat": now - 7200, "nbf": now - 7200, "exp": now - 3600,
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": account, "uid": uid}},
    }  # fmt: skip
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "ES256", "kid": encoded(hashlib.sha256(der).digest())}
    signed = f"{encoded(json.dumps(header).encode())}.{encoded(json.dumps(body).encode())}"
    r, s = utils.decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def encoded(data: bytes) -> str:
    """Return data as a token has it: base64 for URLs, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
