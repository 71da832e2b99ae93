"""The kubeconfig in a remote secret: what it says, and whether an istiod takes it at all."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import yaml

ALLOWED: Final = "PILOT_INSECURE_MULTICLUSTER_KUBECONFIG_OPTIONS"
"""The variable of istiod that lists what it is to take all the same, comma-separated."""
_FILES: Final = {
    "client-key": "clientKey",
    "client-certificate": "clientCertificate",
    "tokenFile": "tokenFile",
    "exec": "exec",
}
"""Fields of a user that read a file of istiod's or run a program there, and the option that allows each."""


class Auth(StrEnum):
    """How the current user of a kubeconfig proves itself."""

    TOKEN = "token"  # noqa: S105 - a kind, no token
    TOKEN_FILE = "tokenFile"  # noqa: S105
    EXEC = "exec"
    AUTH_PROVIDER = "authProvider"
    CLIENT_CERTIFICATE = "clientCertificate"
    BASIC = "basic"
    NONE = "none"
    UNREADABLE = "unreadable"


_KINDS: Final = {
    "token": Auth.TOKEN,
    "tokenFile": Auth.TOKEN_FILE,
    "exec": Auth.EXEC,
    "auth-provider": Auth.AUTH_PROVIDER,
    "client-certificate": Auth.CLIENT_CERTIFICATE,
    "client-certificate-data": Auth.CLIENT_CERTIFICATE,
    "username": Auth.BASIC,
}


@dataclass(frozen=True)
class SecretKubeconfig:
    """What one key of a remote secret holds. Its token and its CA are for a live try only, and never shown."""

    server: str = ""
    tls_server_name: str = ""
    auth: Auth = Auth.NONE
    token: str = field(default="", repr=False)
    ca: bytes = field(default=b"", repr=False)
    users: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    def refusal(self, allowed: Collection[str]) -> str:
        """Return why an istiod refuses it, or an empty text; every user of the file counts, not only the current one.

        Tokens, client certificates and passwords inside the file are taken, and so is the auth provider `oidc`; what
        reads a file of istiod's or runs a program there is refused unless `allowed` names it.

        Source: pkg/kube/util.go, sanitizeKubeConfig and NewUntrustedRestConfig.
        """
        if self.auth is Auth.UNREADABLE:
            return "it is no complete kubeconfig"
        return next(filter(None, (_refused(user, allowed) for user in self.users)), "")


def _refused(user: Mapping[str, Any], allowed: Collection[str]) -> str:
    provider = str((user.get("auth-provider") or {}).get("name", ""))
    if user.get("auth-provider") and provider != "oidc" and provider not in allowed:
        return f"auth provider {provider} is not allowed"
    return next((f"{name} is not allowed" for key, name in _FILES.items() if user.get(key) and name not in allowed), "")


def parse(value: str) -> SecretKubeconfig:
    """Return the kubeconfig in a base64 value of a Secret; one that istiod could not load is `Auth.UNREADABLE`."""
    try:
        document = yaml.safe_load(base64.b64decode(value))
        named = {kind: {e["name"]: e[kind[:-1]] for e in document[kind]} for kind in ("clusters", "contexts", "users")}
        context = named["contexts"][document["current-context"]]
        cluster, user = named["clusters"][context["cluster"]], named["users"].get(context["user"]) or {}
        return SecretKubeconfig(
            server=str(cluster["server"]),
            tls_server_name=str(cluster.get("tls-server-name", "")),
            auth=next((kind for name, kind in _KINDS.items() if user.get(name)), Auth.NONE),
            token=str(user.get("token", "")),
            ca=base64.b64decode(cluster.get("certificate-authority-data", "")),
            users=tuple(dict(one or {}) for one in named["users"].values()),
        )
    except (yaml.YAMLError, binascii.Error, KeyError, TypeError, AttributeError, ValueError):
        return SecretKubeconfig(auth=Auth.UNREADABLE)
