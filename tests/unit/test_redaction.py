"""No secret stays in an object, wherever it is: 10,000 generated objects, each with secrets in odd places."""

from __future__ import annotations

import base64
import gzip
import json
import random
import string
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshkit import redaction

OBJECTS = 50
LETTERS = string.ascii_letters + string.digits
NAMES = (
    "PASSWORD",
    "DB_PASSWORD",
    "dbPassword",
    "api-key",
    "API_TOKEN",
    "clientSecret",
    "AWS_SECRET_ACCESS_KEY",
    "pwd",
)


def packed(text: str) -> str:
    """Return a text as base64."""
    return base64.b64encode(text.encode()).decode()


class Seeds:
    """Makes secrets, and remembers them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311
        self.made: list[str] = []

    def password(self) -> str:
        """Return a password; some have marks that URLs and shells escape."""
        marks = self.random.choice(["", "!", "+", "%21", "~", ".", "$x", "^"])
        return self._made("".join(self.random.choices(LETTERS, k=self.random.randint(6, 20))) + marks + "9z")

    def token(self) -> str:
        """Return a JSON web token."""
        parts = [json.dumps({"alg": "RS256", "kid": self._word(8)}), json.dumps({"sub": self._word(12)})]
        encoded = [base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts]
        return self._made(".".join([*encoded, self._word(43)]))

    def key(self) -> str:
        """Return a private key, as PEM."""
        lines = [self._word(64) for _ in range(4)]
        self.made += lines
        kind = self.random.choice(["RSA ", "EC ", "", "ENCRYPTED ", "OPENSSH "])
        return "\n".join([f"-----BEGIN {kind}PRIVATE KEY-----", *lines, f"-----END {kind}PRIVATE KEY-----", ""])

    def access_key(self) -> str:
        """Return a key of a cloud or a forge."""
        upper = "".join(self.random.choices(string.ascii_uppercase + string.digits, k=16))
        return self._made(self.random.choice([f"AKIA{upper}", f"ghp_{self._word(36)}", f"glpat-{self._word(20)}"]))

    def hidden(self, text: str) -> str:
        """Return base64 of a text that is itself a secret then."""
        return self._made(packed(text))

    def name(self) -> str:
        """Return the name of a field or variable that holds a secret."""
        return self.random.choice(NAMES)

    def kubeconfig(self) -> dict[str, Any]:
        """Return a kubeconfig with a credential of each kind."""
        users: list[dict[str, Any]] = [
            {"token": self.token()},
            {"token": self.password()},
            {"username": "admin", "password": self.password()},
            {"client-key-data": self.hidden(self.key())},
            {"exec": {"command": "aws", "env": [{"name": self.name(), "value": self.password()}]}},
            {"exec": {"command": "get-token", "args": ["--password", self.password(), f"--token={self.password()}"]}},
            {"auth-provider": {"name": "oidc", "config": {"client-secret": self.password(), "id-token": self.token()}}},
        ]
        user = self.random.choice(users)
        server = {"server": "https://192.0.2.1", "proxy-url": f"http://me:{self.password()}@proxy:3128"}
        return {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "east", "cluster": server}],
            "users": [{"name": "admin", "user": user}],
        }

    def _made(self, secret: str) -> str:
        self.made.append(secret)
        return secret

    def _word(self, length: int) -> str:
        return "".join(self.random.choices(LETTERS, k=length))


PLACES: dict[str, Callable[[Seeds], Any]] = {
    "env": lambda s: {"env": [{"name": s.name(), "value": s.password()}]},
    "env of a URL": lambda s: {"env": [{"name": "DATABASE", "value": f"postgres://app:{s.password()}@db:5432/app"}]},
    "env of a token": lambda s: {"env": [{"name": "X", "value": f"Bearer {s.token()}"}]},
    "args": lambda s: {"args": ["serve", f"--{s.name()}={s.password()}"]},
    "args in two": lambda s: {"args": ["serve", "--password", s.password(), "--token", s.token()]},
    "shell": lambda s: {"command": ["sh", "-c", f"export {s.name()}={s.password()}; run --token {s.password()}"]},
    "curl": lambda s: {"command": ["sh", "-c", f"curl -u admin:{s.password()} https://host/"]},
    "header": lambda s: {"args": [f"curl -H 'Authorization: Bearer {s.password()}' https://host"]},
    "basic": lambda s: {"note": f"Authorization: Basic {s.hidden(f'admin:{s.password()}')}"},
    "annotation": lambda s: {"metadata": {"annotations": {"example.com/token": s.password()}}},
    "URL": lambda s: {"metadata": {"annotations": {"source": f"https://bot:{s.password()}@git.example.com/repo"}}},
    "last applied": lambda s: {
        "metadata": {
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": json.dumps(
                    {"kind": "Pod", "spec": {"containers": [{"env": [{"name": s.name(), "value": s.password()}]}]}}
                )
            }
        }
    },
    "Secret": lambda s: {"kind": "Secret", "data": {"anything": s.hidden(s.password())}},
    "Secret in plain": lambda s: {"kind": "Secret", "stringData": {"anything": s.password()}},
    "Secret, last applied": lambda s: {
        "metadata": {"annotations": {"last": json.dumps({"kind": "Secret", "data": {"x": s.hidden(s.password())}})}}
    },
    "docker": lambda s: {
        "data": {".dockerconfigjson": packed(json.dumps({"auths": {"hub": {"auth": s.hidden(f"u:{s.password()}")}}}))}
    },
    "docker in plain": lambda s: {
        "data": {"config.json": json.dumps({"auths": {"hub": {"username": "u", "password": s.password()}}})}
    },
    "EnvoyFilter": lambda s: {
        "kind": "EnvoyFilter",
        "spec": {"patch": {"value": {"inline_code": f'headers:add("authorization", "Bearer {s.token()}")'}}},
    },
    "EnvoyFilter header": lambda s: {
        "kind": "EnvoyFilter",
        "spec": {"headers": [{"header": {"key": "x", "name": "x-api-key", "value": s.password()}}]},
    },
    "helm values": lambda s: {"data": {"values": yaml.safe_dump({"db": {"password": s.password(), "user": "me"}})}},
    "helm release": lambda s: {"data": {"release": packed(packed_gzip(json.dumps({"token": s.password()})))}},
    "kubeconfig, YAML": lambda s: {"data": {"config": yaml.safe_dump(s.kubeconfig())}},
    "kubeconfig, JSON": lambda s: {"data": {"config": json.dumps(s.kubeconfig())}},
    "kubeconfig, base64": lambda s: {"data": {"west": packed(yaml.safe_dump(s.kubeconfig()))}},
    "kubeconfig": lambda s: s.kubeconfig(),
    "key": lambda s: {"data": {"tls.key": s.key()}},
    "key, base64": lambda s: {"data": {"x": s.hidden(s.key())}},
    "key in JSON": lambda s: {"note": json.dumps({"pem": s.key()})},
    "access key": lambda s: {"note": f"uses {s.access_key()} for the bucket"},
    "AWS": lambda s: {"data": {"credentials": f"[default]\naws_access_key_id = {s.access_key()}\n"
                                              f"aws_secret_access_key = {s.password()}\n"}},
    "properties": lambda s: {"data": {"app.properties": f"user=me\nspring.datasource.password={s.password()}\n"}},
    "log line": lambda s: {"message": f"login failed: password={s.password()} from 192.0.2.1"},
    "JSON log line": lambda s: {"message": json.dumps({"level": "info", "token": s.password(), "n": 1})},
}  # fmt: skip


def packed_gzip(text: str) -> str:
    """Return a text as Helm keeps it: compressed, in base64."""
    return base64.b64encode(gzip.compress(text.encode(), mtime=0)).decode()


def test_each_place_is_searched() -> None:
    """One by one, so that a failure names the place."""
    left: dict[str, list[str]] = {}
    for name, place in PLACES.items():
        for seed in range(40):
            seeds = Seeds(seed)
            document = place(seeds)
            kept = json.dumps(redaction.strip(document))
            if held := [secret for secret in seeds.made if secret in kept]:
                left.setdefault(name, []).append(f"{held[0]} of {document}")
    assert not left, "\n".join(f"{name}: {lines[0]}" for name, lines in left.items())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(min_value=0))
def test_no_secret_stays_in_ten_thousand_objects(seed: int) -> None:
    """Fifty objects each, of one to three odd places, in lists and deeper; what is left out is counted and named."""
    seeds = Seeds(seed)
    objects = []
    for number in range(OBJECTS):
        places = seeds.random.sample([*PLACES.values()], k=seeds.random.randint(1, 3))
        inner = [place(seeds) for place in places]
        objects.append({"metadata": {"name": f"app-{number}"}, "spec": seeds.random.choice([inner, {"more": inner}])})
    found = redaction.Found()
    stripped = redaction.strip(objects, found)
    kept = json.dumps(stripped)
    assert not [secret for secret in seeds.made if secret in kept]
    assert len(found.items) >= OBJECTS
    assert [one["metadata"]["name"] for one in stripped] == [f"app-{number}" for number in range(OBJECTS)]


@pytest.mark.parametrize(
    "text",
    [
        "istio-remote-secret-west", "spiffe://cluster.local/ns/sample/sa/sleep", "https://192.0.2.1:6443",
        "O=cluster.local", "revoked: its Secret istio-system/istio-reader-token is gone",
        "expired: it ended 2026-03-01 12:00 UTC", "outbound_.8000_._.httpbin.sample.svc.cluster.local",
        "the credential may not get pods (403)", "it refuses the credential (401)", "token", "basic", "none, basic",
        "may not watch secrets, pods", "app.kubernetes.io/name=sleep", "registry.istio.io/release/pilot:1.31.0",
        "hub.example.com:5000/istio/proxyv2@sha256:" + "0a" * 32, "ab" * 32, "0a1b" * 16,
        "ConfigMap istio-system/istio in east (mesh: discoverySelectors) leaves out namespace sample",
        "Sidecar sample/default in east (spec.egress.hosts) imports ./*: the proxies that it is for do not know it",
        "http://[fd00::1]:15443/path@2", "https://host:8443/a@b", "kubernetes.default.svc.cluster.local",
        "sleep-1.auth: no answer within 10 s", "token: it could not be read",
        "neither cacerts nor istio-ca-secret in istio-system", "cert-manager.io/v1",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text: str) -> None:
    """Names, addresses, fingerprints and the messages of readings."""
    assert redaction.text(text) == text


def test_the_same_key_has_the_same_fingerprint_and_a_password_none() -> None:
    """A password could be guessed from one."""
    seeds = Seeds(1)
    token, password = seeds.token(), seeds.password()
    first, second = (redaction.text(f"{word} {token}") for word in ("one", "other"))
    assert first.split()[1:] == second.split()[1:]
    assert first.startswith("one [JSON web token sha256:")
    assert redaction.text(f"https://me:{password}@host/") == "https://[password]@host/"


def test_what_was_left_out_is_listed_with_its_field() -> None:
    """Kind, replacement and path, and nothing of the secret."""
    found = redaction.Found()
    document = {"spec": {"env": [{"name": "DB_PASSWORD", "value": "hunter2hunter2"}]}}
    assert redaction.strip(document, found) == {"spec": {"env": [{"name": "DB_PASSWORD", "value": "[credential]"}]}}
    assert found.items == [("field", "[credential]", "spec.env[0].value")]
