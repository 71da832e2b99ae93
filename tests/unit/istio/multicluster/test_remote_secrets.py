"""Remote secrets as typed items: what istiod refuses of a kubeconfig, and readings as frames."""

from __future__ import annotations

import base64
import json
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from meshkit.checks import remote_secrets as checks_remote_secrets
from meshkit.errors import UnreachableError
from meshkit.istio.multicluster import credentials, remote_secret_manifest, remote_secrets, secret_kubeconfig
from meshkit.istio.multicluster.credentials import Credential, Proof
from meshkit.istio.multicluster.reader_tokens import Token
from meshkit.istio.multicluster.remote_secrets import RemoteSecret
from meshkit.istio.multicluster.secret_kubeconfig import Auth
from meshkit.istio.reading import Unread
from meshkit.kube import api_server
from meshkit.kube.mesh import Mesh
from meshkit.probing import api_server_reach
from meshkit.spec import ClusterSpec, MeshSpec
from tests.support import healthy

Row = dict[str, Any]


def kubeconfig(*, cluster: Row | None = None, change: Row | None = None, **users: Row) -> str:
    """Return a kubeconfig with these users; the current one is `west`."""
    document = {
        "clusters": [{"name": "west", "cluster": {"server": "https://192.0.2.7:6443", **(cluster or {})}}],
        "contexts": [{"name": "west", "context": {"cluster": "west", "user": "west"}}],
        "current-context": "west",
        "users": [{"name": name, "user": user} for name, user in users.items()],
        **(change or {}),
    }
    return base64.b64encode(yaml.safe_dump(document).encode()).decode()


TAKEN: list[Row] = [
    {"token": "t"},
    {"client-certificate-data": "YQ==", "client-key-data": "YQ=="},
    {"username": "u", "password": "p"},
    {"auth-provider": {"name": "oidc"}},
]
REFUSED = [
    ({"exec": {"command": "x"}}, "exec is not allowed"),
    ({"tokenFile": "/t"}, "tokenFile is not allowed"),
    ({"client-certificate": "/c", "client-key-data": "YQ=="}, "clientCertificate is not allowed"),
    ({"client-key": "/k"}, "clientKey is not allowed"),
    ({"auth-provider": {"name": "gcp"}}, "auth provider gcp is not allowed"),
]


@pytest.mark.parametrize("user", TAKEN)
def test_what_is_inside_the_file_is_taken(user: Row) -> None:
    """Tokens, client certificates, passwords, and OIDC."""
    assert secret_kubeconfig.parse(kubeconfig(west=user)).refusal(()) == ""


@pytest.mark.parametrize(("user", "why"), REFUSED)
def test_files_and_programs_are_refused_of_every_user(user: Row, why: str) -> None:
    """Also of one that is not the current, unless istiod's options allow it."""
    assert secret_kubeconfig.parse(kubeconfig(west=user)).refusal(()) == why
    beside = secret_kubeconfig.parse(kubeconfig(west={"token": "t"}, other=user))
    assert (beside.auth, beside.refusal(())) == (Auth.TOKEN, why)
    assert beside.refusal(["exec", "tokenFile", "clientCertificate", "clientKey", "gcp"]) == ""


@pytest.mark.parametrize(
    ("user", "why"),
    [
        ({"token": "t", "username": "u"}, "both a token and a password"),
        ({"token": "t", "password": "p"}, "both a token and a password"),
        ({"client-certificate-data": "YQ=="}, "a client certificate without its key"),
        ({"client-certificate-data": "YQ==", "client-certificate": "/c"}, "both client-certificate and"),
        ({"client-key-data": "YQ==", "client-key": "/k"}, "both client-key and client-key-data"),
        ({"token": "t", "as-groups": ["g"]}, "without as"),
    ],
)
def test_what_contradicts_itself_is_refused_of_every_user_whatever_istiod_allows(user: Row, why: str) -> None:
    """As client-go's Validate does; a token beside it would open the API server from here."""
    for held in ({"west": user}, {"west": {"token": "t"}, "other": user}):
        assert why in secret_kubeconfig.parse(kubeconfig(**held)).refusal(["clientCertificate", "clientKey"])


CONTEXT = {"name": "west", "context": {"cluster": "west", "user": "west"}}
BAD = [
    ({"certificate-authority-data": "YQ==", "certificate-authority": "/ca"}, {}, "has both certificate-authority and"),
    ({"certificate-authority-data": "YQ==", "insecure-skip-tls-verify": True}, {}, "both a CA and insecure-skip"),
    ({"certificate-authority-data": "no base64"}, {}, "no complete kubeconfig"),
    ({"server": ""}, {}, "its cluster west has no server"),
    ({"server": "https://[fd00::7"}, {}, "no complete kubeconfig"),
    ({"proxy-url": "proxy.example:3128"}, {}, "its cluster west has a proxy-url that does not begin with http://"),
    ({"proxy-url": "socks5h://proxy.example"}, {}, "its cluster west has a proxy-url that does not begin with"),
    ({}, {"users": [{"name": "west", "user": {"token": "t\n"}}]}, "its token has a line end"),
    ({}, {"current-context": ""}, "no complete kubeconfig"),
    ({}, {"users": None}, "no complete kubeconfig"),
    ({}, {"users": [{"name": "another"}]}, "no complete kubeconfig"),
    ({}, {"contexts": [CONTEXT, {"name": "old", "context": {"cluster": "west"}}]}, "context old names no user"),
    ({}, {"contexts": [CONTEXT, {"name": "old", "context": {"user": "west"}}]}, "context old names no cluster"),
]


@pytest.mark.parametrize(("cluster", "change", "why"), BAD)
def test_what_client_go_does_not_load_is_refused(cluster: Row, change: Row, why: str) -> None:
    """Also for what is not the current context."""
    held = secret_kubeconfig.parse(kubeconfig(cluster=cluster, change=change, west={"token": "t"}))
    assert why in held.refusal(())


def test_line_ends_in_a_ca_and_empty_fields_are_no_defect() -> None:
    """A current context with a user is enough; `certificate-authority-data` may be wrapped, or null."""
    wrapped, empty = "YQ\n==", {"certificate-authority-data": None, "tls-server-name": None}
    for said in ({"certificate-authority-data": wrapped}, empty):
        held = secret_kubeconfig.parse(kubeconfig(cluster=said, west={"token": "t"}))
        assert (held.refusal(()), held.tls_server_name, held.auth) == ("", "", Auth.TOKEN)


@pytest.mark.parametrize(
    ("cluster", "address"),
    [
        ({"server": "192.0.2.7:6443", "certificate-authority-data": "YQ=="}, "https://192.0.2.7:6443"),
        ({"server": "[fd00::7]:6443", "insecure-skip-tls-verify": True}, "https://[fd00::7]:6443"),
        ({"server": "192.0.2.7:8080", "certificate-authority-data": None}, "http://192.0.2.7:8080"),
    ],
)
def test_an_address_without_a_scheme_is_completed_as_client_go_does(cluster: Row, address: str) -> None:
    """It is no missing address (MK833), and is asked as istiod asks it."""
    held = secret_kubeconfig.parse(kubeconfig(cluster=cluster, west={"token": "t"}))
    assert (held.server, held.refusal(())) == (address, "")


class East:
    """A cluster with one remote secret, and istiods with these environments."""

    name, server = "east", "https://192.0.2.6:6443"

    def __init__(self, data: str, *environments: list[Row]) -> None:
        self.data, self.environments = data, environments

    def get(self, kind: str, *_: Any, **__: Any) -> list[Row]:
        """Return the secret, or istiod's pods."""
        if kind == "pods":
            return [{"spec": {"containers": [{"name": "discovery", "env": env}]}} for env in self.environments]
        metadata = {"name": "s", "namespace": "istio-system", "labels": {remote_secrets.LABEL: "true"}}
        return [{"metadata": metadata, "data": {"west": self.data}}]

    def get_json(self, *_: Any, **__: Any) -> Row:
        """Return that there is nothing else."""
        return {"items": []}


def test_the_annotation_of_a_secret_with_several_clusters_names_one_of_them() -> None:
    """It says nothing of the others; what it names and does not hold is a mistake."""
    notes = {remote_secrets.ANNOTATION: "west"}
    for keys, told in ((("west", "north"), ["west", ""]), (("north",), ["west"])):
        data = {key: kubeconfig(west={"token": "t"}) for key in keys}
        held = {"metadata": {"name": "s", "namespace": "istio-system", "annotations": notes}, "data": data}
        assert [one.annotation for one, _ in remote_secrets._keys("east", held)] == told


OPTION = secret_kubeconfig.ALLOWED


@pytest.mark.parametrize(
    ("user", "environments", "credential", "detail"),
    [
        ({"exec": {"command": "x"}}, [[]], Credential.REJECTED, "istiod refuses it: exec is not allowed"),
        ({"exec": {"command": "x"}}, [[{"name": OPTION, "value": "exec"}]], Credential.NOT_TESTED, "istiod takes it"),
        ({"exec": {"command": "x"}}, [[{"name": OPTION, "value": "exec"}], []], Credential.REJECTED, "istiod refuses"),
        ({"exec": {"command": "x"}}, [], Credential.NOT_TESTED, "unless its PILOT_INSECURE"),
        ({"exec": {"command": "x"}}, [[{"name": OPTION, "valueFrom": {}}]], Credential.NOT_TESTED, "unless its PILOT"),
        (TAKEN[1], [[]], Credential.NOT_TESTED, "istiod takes it (clientCertificate)"),
        ({"token": "t", "username": "u"}, [], Credential.REJECTED, "its user west has both a token and a password"),
        ({"token": "t", "as": "root"}, [[]], Credential.NOT_TESTED, "istiod acts as root with it"),
        ({"username": "u"}, [[]], Credential.NOT_TESTED, "istiod takes it (basic)"),
        ({"auth-provider": {"name": "oidc"}}, [[]], Credential.NOT_TESTED, "istiod takes it (authProvider)"),
    ],
)
def test_what_istiod_refuses_is_rejected_and_what_it_takes_is_only_not_tried(
    user: Row, environments: list[list[Row]], credential: Credential, detail: str
) -> None:
    """By the options of the istiods that run; where those are not known, neither is the outcome."""
    spec = MeshSpec.parse({"clusters": [{"name": "east", "context": "east", "network": "n"}] * 1}, where="test")
    one: Any = {"east": East(kubeconfig(west=user), *environments)}
    (secret,) = remote_secrets.remote_secrets(Mesh(spec, one))
    assert secret.credential is credential
    assert detail in secret.detail


def test_a_reading_is_its_items_and_what_could_not_be_read() -> None:
    """As a frame it has the columns of its table and a row for each cluster that was not read."""
    held = RemoteSecret("east", "istio-system", "s", "west", Credential.OK, auth=Auth.TOKEN)
    reading = remote_secrets.secret_reading([held], [Unread("west", "no answer")])
    assert reading.of("east", "west") == reading.of("east") == [held]
    assert reading.of("east", "north") == reading.of("west") == []
    assert (reading.unknown("east"), reading.unknown("west")) == ("", "no answer")
    frame = reading.frame()
    assert list(frame["credential"]) == ["ok", "UNKNOWN"]
    assert frame.iloc[1]["detail"] == "no answer"
    assert dict(frame.dtypes.astype(str)) == dict(remote_secrets.REMOTE_SECRETS.frame([]).dtypes.astype(str))
    assert "no answer" in reading.bundle()["text/html"]


def test_a_tls_server_name_is_written_and_read() -> None:
    """As `istioctl create-remote-secret --tls-server-name` does; without one the field is left out."""
    token = Token("s", "t", b"ca")
    for name in ("api.example", ""):
        made = remote_secret_manifest.manifest("west", "https://192.0.2.7:6443", token, "istio-system", name)
        assert secret_kubeconfig.parse(made["data"]["west"]).tls_server_name == name
        assert ("tls-server-name" in base64.b64decode(made["data"]["west"]).decode()) is bool(name)


@pytest.mark.parametrize(("said", "held", "asked"), [("", "", ""), ("", "a.example", "a.example"), ("b", "a", "b")])
def test_the_api_server_is_asked_by_the_name_that_istiod_asks_for(
    said: str, held: str, asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MK702 judges what the mesh file says, or the remote secret that is there: see MK835."""
    clusters = [{"name": n, "context": n, "network": n, "apiServer": "https://192.0.2.7"} for n in ("east", "west")]
    spec = MeshSpec.parse({"clusters": [clusters[0], {**clusters[1], "tlsServerName": said}]}, where="test")
    secret = remote_secret_manifest.manifest("west", "https://192.0.2.7", Token("s"), "istio-system", held)
    east, west = (
        SimpleNamespace(name=n, get=lambda *_, found=f, **__: found) for n, f in (("east", [secret]), ("west", []))
    )
    given: dict[tuple[str, str], tuple[str, str]] = {}
    monkeypatch.setattr(api_server_reach, "_reach", lambda _, pair, told, *__: given.update({pair: told}) or {})
    monkeypatch.setattr(api_server_reach, "_authority", lambda _: "")
    monkeypatch.setattr(api_server_reach, "_vantages", lambda *_: [])
    api_server_reach.reach(Mesh(spec, {"east": east, "west": west}))  # type: ignore[dict-item]
    assert given["east", "west"] == ("https://192.0.2.7", asked)


@pytest.mark.parametrize(
    ("said", "held", "asked"),
    [("", "https://10.0.0.7", "https://10.0.0.7"), ("", "https://127.0.0.1:1", "https://192.0.2.9"),
     ("https://192.0.2.7", "https://10.0.0.7", "https://192.0.2.7")],
)  # fmt: skip
def test_the_address_for_others_is_the_mesh_files_the_secrets_or_ours(said: str, held: str, asked: str) -> None:
    """Istiod may go to a private endpoint, and we to a public one, or by a proxy."""
    entry = ClusterSpec(name="west", context="west", network="n", apiServer=said)
    ours: Any = SimpleNamespace(server="https://192.0.2.9")
    assert api_server.server(entry, ours, held) == asked


RANCHER, TELEPORT = "https://rancher.example/k8s/clusters/c-1", "https://teleport.example:3026"
GOOD = {"authenticated": True, "user": {"username": "system:serviceaccount:istio-system:reader", "groups": ["all"]}}


@pytest.mark.parametrize(
    ("server", "gone", "answers", "credential"),
    [
        (RANCHER, False, (None, True), Credential.NOT_TESTED),
        (RANCHER, True, (GOOD, True), Credential.REFUSED),
        (TELEPORT, False, (None, True), Credential.REFUSED),
        (RANCHER, False, (GOOD, True), Credential.OK),
        (TELEPORT, False, (GOOD, True), Credential.OK),
        (RANCHER, False, (GOOD, False), Credential.FORBIDDEN),
        (RANCHER, False, (GOOD, None), Credential.NOT_TESTED),
        (RANCHER, False, ({"authenticated": False, "error": "invalid bearer token"}, True), Credential.REFUSED),
        (TELEPORT, False, ({}, True), Credential.REFUSED),
    ],
)
def test_what_an_authenticating_proxy_refuses_is_asked_by_our_own_credential(
    server: str, gone: bool, answers: tuple[Any, Any], credential: Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4.3: istiod asks the API server at another address than we do.

    `answers`: TokenReview's and SubjectAccessReview's; None: we may not ask.
    """
    said = {"sub": "system:serviceaccount:istio-system:reader"}
    token = f"h.{base64.urlsafe_b64encode(json.dumps(said).encode()).decode()}.s"
    monkeypatch.setattr(credentials, "_ask", lambda *_: Proof(Credential.REFUSED, "(401)"))
    found = None if gone else {"metadata": {"uid": ""}}

    def answer(known: Any) -> Any:
        if known is None:
            raise UnreachableError("the API server refused (403)")
        return known

    status, allowed = answers
    asked: list[Any] = []
    cluster: Any = SimpleNamespace(
        server=server,
        find=lambda *_: found,
        with_token=lambda *_, **__: None,
        review_token=lambda given: asked.append(given) or answer(status),
        can_i=lambda *_, user: asked.append(user) or answer(allowed),
    )
    proof = credentials.try_token(cluster, token, b"", "istio-system")
    assert proof.credential is credential
    assert token not in proof.detail
    assert asked[1:] == [GOOD["user"]] * len(asked[1:])


def test_a_proxy_url_is_kept_at_a_renewal_and_is_nowhere_else() -> None:
    """It may hold a password."""
    url = "http://u:canary@proxy.example:3128"
    made = remote_secret_manifest.manifest("west", "https://192.0.2.7", Token("s", "t"), "istio-system", "", url)
    spec = MeshSpec.parse({"clusters": [{"name": "east", "context": "east", "network": "n"}]}, where="test")
    east: Any = East(made["data"]["west"], [])
    east.find = lambda *_: made
    east.with_token = lambda *_, **__: east
    east.can_i = lambda *_: True
    reading = remote_secrets.remote_secrets(Mesh(spec, {"east": east}))
    (secret,) = reading
    assert (secret.proxied, remote_secrets.proxy_url(east, secret)) == (True, url)
    assert "canary" not in repr(reading.items) + reading.frame().to_csv()
    assert "canary" not in repr(secret_kubeconfig.parse(made["data"]["west"]))


def tried_with(cluster: Row, monkeypatch: pytest.MonkeyPatch) -> tuple[list[bytes], RemoteSecret]:
    """Return the CAs with which a secret's token was tried at an API server of a private CA, and the outcome."""
    cas: list[bytes] = []
    spec = MeshSpec.parse({"clusters": [{"name": "west", "context": "west", "network": "n"}]}, where="test")
    west: Any = East(kubeconfig(cluster=cluster, west={"token": "t"}), [])
    west.name = "west"

    def with_token(_: str, ca: bytes = b"", **__: Any) -> int:
        cas.append(ca)
        return len(cas)

    west.with_token = with_token
    private, good = Proof(Credential.UNREACHABLE, "no issuer"), Proof(Credential.OK)
    monkeypatch.setattr(credentials, "_ask", lambda at, _: private if at == 1 else good)
    monkeypatch.setattr(credentials, "_strange", lambda *_: True)
    (secret,) = remote_secrets.remote_secrets(Mesh(spec, {"west": west}))
    return cas, secret


def test_a_secret_without_a_ca_is_tried_with_public_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """As istiod does; our own CA would open a private API server that istiod refuses."""
    cas, secret = tried_with({}, monkeypatch)
    assert b"BEGIN CERTIFICATE" in cas[0]
    assert (secret.credential, secret.detail[:18]) == (Credential.WRONG_CA, "it names no CA, an")


def test_a_secret_that_asks_no_certificate_is_tried_as_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a CA in a file of istiod's pod cannot be tried at all."""
    assert tried_with({"insecure-skip-tls-verify": True}, monkeypatch)[0][0] == b""
    cas, secret = tried_with({"certificate-authority": "/etc/ca.crt"}, monkeypatch)
    assert (cas, secret.credential) == ([], Credential.NOT_TESTED)
    assert "a file of its own pod (/etc/ca.crt)" in secret.detail


@pytest.mark.parametrize(
    ("fields", "manager"),
    [
        ([("kubectl-client-side-apply", {"f:data": {"f:west": {}}})], "kubectl-client-side-apply"),
        ([("meshkit", {"f:metadata": {}}), ("argocd", {"f:data": {"f:west": {}}})], "argocd"),
        ([("meshkit", {"f:data": {"f:west": {}}})], "meshkit"),
        ([("kubectl", {"f:data": {"f:north": {}}})], ""),
        ([], ""),
    ],
)
def test_who_wrote_a_secret_decides_who_makes_it_recreated(fields: Any, manager: str) -> None:
    """Stage 07 forces nobody: what istioctl and kubectl made, they make again."""
    written = [{"manager": name, "fieldsV1": known} for name, known in fields]
    assert remote_secrets._manager({"managedFields": written}, "west") == manager
    expired = RemoteSecret(
        "east", "istio-system", "istio-remote-secret-west", "west", Credential.REFUSED, manager=manager
    )
    remedy = checks_remote_secrets._recreated(healthy.mesh(), expired, "east", "west", "run stage 07")
    assert (remedy == "run stage 07") == (manager in ("", "meshkit"))
    assert ("istioctl create-remote-secret" in remedy) == (manager not in ("", "meshkit"))
