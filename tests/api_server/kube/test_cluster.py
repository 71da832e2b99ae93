"""Cluster against a real API server, and against what only looks like one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meshkit.errors import ChangeError, ConflictError, InputError, UnreachableError
from meshkit.kube.cluster import Cluster
from meshkit.kube.transport import NotFoundError
from tests.support.api_server import ApiServer, certificate_pem, write_kubeconfig
from tests.unit.kube.test_cluster import _everything


@pytest.fixture(scope="session")
def admin(api_server: ApiServer) -> Cluster:
    """The API server, seen by one who may do everything."""
    return api_server.connect("admin")


def config_map(name: str, **data: Any) -> dict[str, Any]:
    """Return a ConfigMap of the default namespace."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"},
        "data": data,
    }


class TestReading:
    """get, find, version, uid, clock_skew, can_i."""

    def test_objects_come_raw_and_know_their_kind(self, admin: Cluster) -> None:
        """A list's items carry apiVersion and kind, which the API leaves out."""
        names = {n["metadata"]["name"]: (n["apiVersion"], n["kind"]) for n in admin.get("namespaces")}
        assert names["kube-system"] == ("v1", "Namespace")

    @pytest.mark.parametrize("kind", ["cm", "configmaps", "ConfigMap", "configmap"])
    def test_a_kind_goes_by_all_its_kubectl_names(self, admin: Cluster, kind: str) -> None:
        """Short, plural and singular names and the kind itself mean the same."""
        assert admin.resource(kind).plural == "configmaps"

    def test_a_kind_of_two_groups_is_distinguished_by_its_group(self, admin: Cluster) -> None:
        """`events.events.k8s.io` is not the core group's events."""
        assert admin.resource("events").group == ""
        assert admin.resource("events.events.k8s.io").group == "events.k8s.io"

    def test_a_long_list_is_read_in_pages_to_its_end(self, admin: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
        """Seven objects in pages of two are seven objects, each once."""
        monkeypatch.setattr("meshkit.kube.cluster.PAGE", 2)
        for number in range(7):
            admin.apply({**config_map(f"page-{number}"), "metadata": _labelled(f"page-{number}")})
        found = admin.get("configmaps", "default", labels={"test": "pages"})
        assert sorted(item["metadata"]["name"] for item in found) == [f"page-{n}" for n in range(7)]

    def test_what_is_not_there_is_a_typed_error_or_none(self, admin: Cluster) -> None:
        """`get` raises NotFoundError, `find` returns None; so for an object and for a kind."""
        with pytest.raises(NotFoundError, match="configmaps/ghost does not exist"):
            admin.get("configmaps", "default", "ghost")
        with pytest.raises(NotFoundError, match=r"it serves no 'gateways.networking.istio.io'"):
            admin.get("gateways.networking.istio.io")
        assert admin.find("configmaps", "default", "ghost") is None
        assert admin.find("gateways.networking.istio.io", "default", "ghost") is None

    def test_the_uid_is_that_of_kube_system(self, admin: Cluster) -> None:
        """It identifies the cluster, whatever its context is called."""
        assert admin.uid() == admin.get_json("/api/v1/namespaces/kube-system")["metadata"]["uid"]

    def test_the_version_is_the_servers(self, admin: Cluster) -> None:
        """It is what `kubectl version` shows."""
        assert admin.version().startswith("v1.")

    def test_the_clock_of_this_machine_agrees_with_itself(self, admin: Cluster) -> None:
        """A server on this machine has no skew, within the stated uncertainty."""
        skew = admin.clock_skew()
        assert abs(skew.seconds) <= skew.uncertainty < 2

    def test_rights_are_asked_of_the_server(self, admin: Cluster, api_server: ApiServer) -> None:
        """One who may do everything may exec; one without a role may not."""
        assert admin.can_i("create", "pods/exec", "default")
        assert not api_server.connect("nobody").can_i("create", "pods/exec", "default")


class TestWriting:
    """apply and delete."""

    def test_a_dry_run_changes_nothing(self, admin: Cluster) -> None:
        """It returns the object as it would be, and leaves none."""
        assert admin.apply(config_map("dry", a="1"), dry_run=True)["data"] == {"a": "1"}
        assert admin.find("configmaps", "default", "dry") is None

    def test_apply_creates_then_updates_as_meshkit(self, admin: Cluster) -> None:
        """The same call does both, under our field manager."""
        admin.apply(config_map("ours", a="1"))
        changed = admin.apply(config_map("ours", a="2"))
        assert changed["data"] == {"a": "2"}
        assert {m["manager"] for m in changed["metadata"]["managedFields"]} == {"meshkit"}

    def test_another_managers_field_is_never_taken(self, admin: Cluster) -> None:
        """A conflict is an error that names the other manager, and the object stays as it was."""
        theirs = config_map("theirs", a="theirs")
        path = "/api/v1/namespaces/default/configmaps"
        admin._request("POST", path, query=[("fieldManager", "kubectl")], body=theirs, content_type="application/json")
        with pytest.raises(ConflictError, match=r"kubectl owns \.data\.a") as caught:
            admin.apply(config_map("theirs", a="ours"))
        assert caught.value.conflicts == [("kubectl", ".data.a")]
        assert admin.get("configmaps", "default", "theirs")[0]["data"] == {"a": "theirs"}

    def test_an_unknown_field_is_refused(self, admin: Cluster) -> None:
        """A typing mistake must not be dropped in silence."""
        with pytest.raises(ChangeError, match="dtaa"):
            admin.apply({**config_map("typo"), "dtaa": {}})

    def test_a_refused_secret_is_not_quoted(self, admin: Cluster) -> None:
        """Neither the message nor any cause carries what stood in the Secret."""
        secret = {**config_map("broken"), "kind": "Secret", "data": {"key": "canary!not-base64"}}
        with pytest.raises(ChangeError) as caught:
            admin.apply(secret)
        assert "canary" not in _everything(caught.value)

    def test_delete_says_whether_there_was_anything(self, admin: Cluster) -> None:
        """The second time there is not."""
        admin.apply(config_map("short-lived"))
        assert admin.delete(config_map("short-lived"))
        assert not admin.delete(config_map("short-lived"))

    def test_a_manifest_without_a_name_is_our_mistake(self, admin: Cluster) -> None:
        """It is refused before anything is sent."""
        with pytest.raises(InputError, match=r"metadata\.name"):
            admin.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}})


class TestRefusals:
    """What goes wrong between us and an API server."""

    def test_an_unknown_context_names_those_there_are(self, api_server: ApiServer) -> None:
        """And the file they were read from, and the nearest."""
        with pytest.raises(InputError) as caught:
            api_server.connect("amdin")
        text = str(caught.value)
        assert "admin, nobody, stranger" in text
        assert str(api_server.kubeconfig) in text
        assert "did you mean 'admin'?" in text

    def test_kubeconfig_is_found_when_called_and_merged(
        self, api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """$KUBECONFIG counts at call time; its list is merged, missing files are passed over."""
        other = write_kubeconfig(tmp_path / "other", "https://127.0.0.1:1", None, {"other": "t"})
        monkeypatch.setenv("KUBECONFIG", f"{tmp_path}/none:{other}:{api_server.kubeconfig}")
        assert Cluster.connect("other").context == "other"
        with pytest.raises(UnreachableError):
            Cluster.connect("nobody", timeout=1).get("pods")

    def test_a_refused_credential_is_reported_as_such(self, api_server: ApiServer) -> None:
        """401, and exit code 3."""
        with pytest.raises(UnreachableError, match=r"refuses the credential \(401\)") as caught:
            api_server.connect("stranger").get("pods")
        assert caught.value.exit_code == 3
        assert "no-such-token" not in _everything(caught.value)

    def test_a_missing_right_is_named(self, api_server: ApiServer) -> None:
        """403 names the verb and the resource."""
        with pytest.raises(UnreachableError, match=r"may not GET namespaces/default/pods \(403\)"):
            api_server.connect("nobody").get("pods", "default")

    def test_streams_are_refused_in_the_same_words(self, api_server: ApiServer) -> None:
        """401, 403 and 404 of an upgrade are those of a request."""
        with pytest.raises(UnreachableError, match="401"):
            api_server.connect("stranger").exec("pod", "default", "app", ["true"])
        with pytest.raises(UnreachableError, match="403"):
            api_server.connect("nobody").http_get("pod", "default", 15000, "/")
        with pytest.raises(NotFoundError, match="pods/pod"):
            api_server.connect("admin").exec("pod", "default", "app", ["true"])

    def test_an_untrusted_certificate_is_distinguished(self, api_server: ApiServer, tmp_path: Path) -> None:
        """It is neither a timeout nor a bad credential; a stream says the same."""
        authority = tmp_path / "other.crt"
        authority.write_bytes(certificate_pem("another"))
        path = write_kubeconfig(tmp_path / "k", api_server.server, authority, {"admin": "admin-token"})
        cluster = Cluster.connect("admin", str(path))
        with pytest.raises(UnreachableError, match="certificate is not trusted"):
            cluster.version()
        with pytest.raises(UnreachableError, match="certificate is not trusted"):
            cluster.exec("pod", "default", "app", ["true"])

    def test_a_credential_of_another_can_be_tried(self, api_server: ApiServer) -> None:
        """Another token, with another CA, at the same address; our own credential is not sent along."""
        admin = api_server.connect()
        assert admin.with_token("admin-token", api_server.ca).uid() == admin.uid()
        with pytest.raises(UnreachableError, match="401"):
            admin.with_token("expired").get("pods")
        with pytest.raises(UnreachableError, match="certificate is not trusted"):
            admin.with_token("admin-token", certificate_pem("another")).version()


def _labelled(name: str) -> dict[str, Any]:
    return {"name": name, "namespace": "default", "labels": {"test": "pages"}}
