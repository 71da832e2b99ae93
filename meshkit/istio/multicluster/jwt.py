"""What a ServiceAccount's token says of itself. Nothing is verified: the API server does that."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any


def claims(token: str) -> dict[str, Any]:
    """Return the claims of a JWT; none of what is no JWT."""
    try:
        payload = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def ends(token: str) -> datetime | None:
    """Return when a token ends, or None: it never does, or it is no JWT."""
    return _moment(token, "exp")


def begun(token: str) -> datetime | None:
    """Return when a token was issued, or None where it does not say."""
    return _moment(token, "iat")


def _moment(token: str, claim: str) -> datetime | None:
    try:
        return datetime.fromtimestamp(int(claims(token)[claim]), UTC)
    except (KeyError, ValueError, TypeError, OverflowError, OSError):
        return None


def told_end(token: str) -> str:
    """Return when a token ends, in words: `never`, a moment, or an empty text of what is no JWT."""
    moment = ends(token)
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else "never" if claims(token) else ""


def account(token: str) -> tuple[str, str]:
    """Return the namespace and the name of the ServiceAccount that a token is of; empty texts where it says none."""
    kind, _, rest = str(claims(token).get("sub", "")).partition("system:serviceaccount:")
    namespace, _, name = rest.partition(":")
    return (namespace, name) if not kind else ("", "")


def secret(token: str) -> tuple[str, str]:
    """Return name and UID of the Secret that a token stands on; a long-lived one names no UID."""
    said = claims(token)
    inner = said.get("kubernetes.io")
    bound = inner.get("secret") if isinstance(inner, dict) else None
    if isinstance(bound, dict):
        return str(bound.get("name", "")), str(bound.get("uid", ""))
    return str(said.get("kubernetes.io/serviceaccount/secret.name", "")), ""
