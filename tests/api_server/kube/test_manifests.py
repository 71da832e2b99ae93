"""Diffs: what differs is never hidden, what is secret is; who owns which field, by the server's own word."""

from __future__ import annotations

import copy

import pytest

from meshkit.errors import ConflictError
from meshkit.kube.cluster import Cluster
from meshkit.kube.manifests import bare, managers, owned, unified, without
from tests.support.objects import CANARY, config_map, core, create, deployment, edit, labelled


class TestDifference:
    """unified, bare, masked."""

    def test_what_the_server_keeps_is_no_difference(self, east: Cluster, space: str) -> None:
        """A new version of an object that says the same; kubectl's copy of a Secret in an annotation is not shown."""
        note = {"kubectl.kubernetes.io/last-applied-configuration": f'{{"data": "{CANARY}"}}'}
        manifest = core("Secret", "x", space, stringData={"a": CANARY})
        manifest["metadata"]["annotations"] = note
        before = create(east, manifest)
        edit(east, labelled(core("Secret", "x", space), a="1"))
        place = core("Secret", "x", space)
        after = edit(east, {**place, "metadata": {**place["metadata"], "labels": None}})
        assert before["metadata"]["resourceVersion"] != after["metadata"]["resourceVersion"]
        assert unified(before, after) == ""
        assert CANARY not in unified(None, after)
        assert "annotations" not in bare(after)["metadata"]


class TestOwnership:
    """owned and without, against a server that keeps the books."""

    def test_owned_is_what_was_said_and_nothing_else(self, east: Cluster, space: str) -> None:
        """Lists by key and by value, keys with dots and slashes, numbers; neither defaults nor what others said."""
        said = deployment("app", space, labels={"app.kubernetes.io/name": "x", "a": "1"}, finalizers=["test/one"])
        said["spec"]["template"]["spec"]["containers"][0] |= {
            "env": [{"name": "A", "value": "1"}],
            "ports": [{"containerPort": 80, "protocol": "TCP"}, {"containerPort": 80, "protocol": "UDP"}],
            "args": ["--x", "--y"],
        }
        east.apply(said)
        other = {**said["metadata"], "labels": {"theirs": "1"}, "finalizers": ["test/one", "test/two"]}
        live = edit(east, {**said, "metadata": other, "spec": {"paused": True}})
        assert {"meshkit", "kubectl-edit"} <= managers(live)
        assert live["metadata"]["finalizers"] == ["test/one", "test/two"]
        assert owned(live, "meshkit") == said
        assert owned(live, "kubectl-edit") is None  # it did not apply
        edit(east, {**said, "metadata": {**said["metadata"], "finalizers": None}})

    def test_applying_what_was_owned_reverts_what_was_said_since(self, east: Cluster, space: str) -> None:
        """And leaves what others said."""
        east.apply(config_map("x", space, a="1"))
        before = owned(east.get("configmaps", space, "x")[0], "meshkit")
        east.apply(config_map("x", space, a="2", b="2"))
        edit(east, config_map("x", space, c="3"))
        assert before is not None
        assert east.apply(before)["data"] == {"a": "1", "c": "3"}

    def test_an_empty_map_that_was_said_owns_nothing_in_it(self, east: Cluster, space: str) -> None:
        """What others put there is theirs."""
        east.apply({**config_map("x", space), "data": {}})
        live = edit(east, config_map("x", space, theirs="1"))
        assert (owned(live, "meshkit") or {}).get("data", {}) == {}

    def test_fields_of_a_conflict_are_taken_out_as_the_server_names_them(self, east: Cluster, space: str) -> None:
        """What is left is taken by the server; nothing else was taken out."""
        theirs = deployment("app", space, labels={"app.kubernetes.io/name": "x", "a": "1", "a.b": "1"})
        container = theirs["spec"]["template"]["spec"]["containers"][0]
        container |= {
            "args": ["--x"],
            "env": [{"name": "A", "value": "1"}, {"name": 'Q"]', "value": "1"}],
            "ports": [{"containerPort": 80, "name": "one"}, {"containerPort": 81, "name": "two"}],
        }
        create(east, theirs)
        ours = copy.deepcopy(theirs)
        ours["metadata"]["labels"] = {"app.kubernetes.io/name": "y", "a": "2", "a.b": "1", "ours": "1"}
        container = ours["spec"]["template"]["spec"]["containers"][0]
        container |= {"args": ["--y"], "image": "other"}
        container["env"][1]["value"] = "2"
        container["ports"][0]["name"] = "three"
        with pytest.raises(ConflictError) as caught:
            east.apply(ours)
        fields = [field for _, field in caught.value.conflicts]
        assert len(fields) == 6, fields
        rest = without(ours, fields)
        done = east.apply(rest)
        assert done["metadata"]["labels"] == {"app.kubernetes.io/name": "x", "a": "1", "a.b": "1", "ours": "1"}
        left = rest["spec"]["template"]["spec"]["containers"][0]
        assert left == {
            "name": "main",
            "env": [{"name": "A", "value": "1"}, {"name": 'Q"]'}],
            "ports": [{"containerPort": 80}, {"containerPort": 81, "name": "two"}],
        }
