"""Undo: what stood before is put back, what was made goes, and what others did since stays."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from meshkit import stages
from meshkit.changes import journal, undo
from meshkit.changes.change import RESTARTED
from meshkit.changes.journal import Entry, Journal
from meshkit.changes.plan import Plan
from meshkit.checks.finding import Verdict
from meshkit.errors import ChangeError
from meshkit.istio.control_plane import istioctl
from meshkit.istio.multicluster import reader_tokens, remote_secret_manifest, remote_secrets
from meshkit.istio.multicluster.credentials import Credential, Proof
from meshkit.kube import rollout
from meshkit.kube.cluster import Cluster
from meshkit.kube.manifests import identify
from meshkit.kube.mesh import Mesh
from meshkit.spec import MeshSpec
from meshkit.stages.rollback import stage as rollback
from tests.support.api_server import ApiServer
from tests.support.healthy import remotes
from tests.support.lab import until
from tests.support.objects import (
    config_map,
    core,
    create,
    definition,
    deployment,
    edit,
    labelled,
    live,
    mesh_document,
    there,
)


def made(mesh: Mesh, want: Callable[[Plan], None]) -> None:
    """Carry a plan out, in the journal `run`."""
    plan = Plan(mesh, "06 gateways")
    want(plan)
    assert not plan.empty
    assert set(plan.carry_out("apply", journal="run")["status"]) == {"done"}


def applied(mesh: Mesh, *manifests: dict[str, Any]) -> None:
    """Apply objects, each by a plan of its own."""
    for manifest in manifests:
        made(mesh, lambda plan, manifest=manifest: plan.apply("east", manifest, "the test"))  # type: ignore[misc]


def undone(mesh: Mesh, name: str = "run", *, consent: bool = False) -> list[str]:
    """Undo a journal as stage 12 does; return what its proof says is left or kept. A second undo is empty."""
    stage = stages.Rollback(mesh, mode="apply", journal=name, consent=consent)
    stage.look()
    stage.check()
    stage.plan()
    assert not [c.problem for plan in stage.plans for c in plan.changes if c.problem]
    stage.apply()
    after = rollback.look(mesh, name)
    assert rollback.plan(mesh, after, consent=consent).empty
    left = list(rollback.check_left(mesh, after))
    assert {f.verdict for f in left} == {Verdict.PASS}, left
    return [f.observed for f in left]


class TestObjects:
    """Create, update and delete."""

    def test_what_meshkit_patched_itself_is_put_back(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """As the way back of stage 04 does in between; what another changed since is his."""
        east.apply(config_map("x", space, a="1", b="1"))
        applied(mesh, config_map("x", space, a="2", b="2"))
        east.patch(config_map("x", space, a="3"))
        edit(east, config_map("x", space, b="theirs"))
        undone(mesh)
        assert live(east, config_map("x", space))["data"] == {"a": "1", "b": "theirs"}

    def test_create_update_and_delete_are_reverted(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """What a user added meanwhile stays, in objects that were there before."""
        create(east, labelled(config_map("old", space, a="1"), team="pay"))
        create(east, core("Secret", "gone", space, stringData={"key": "value"}))
        applied(mesh, config_map("new", space), labelled(config_map("old", space, b="2"), network="n"))
        made(mesh, lambda plan: plan.delete("east", core("Secret", "gone", space), "the test"))
        edit(east, labelled(config_map("old", space, c="3"), theirs="1"))
        assert not there(east, core("Secret", "gone", space))
        assert undone(mesh) == ["nothing"]
        old = live(east, config_map("old", space))
        assert old["data"] == {"a": "1", "c": "3"}
        assert old["metadata"]["labels"] == {"team": "pay", "theirs": "1"}
        assert live(east, core("Secret", "gone", space))["data"] == {"key": "dmFsdWU="}
        assert not there(east, config_map("new", space))

    def test_several_changes_of_one_object_are_all_reverted(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """There and back, and made and removed: what stood before the first one stands again."""
        create(east, config_map("x", space, theirs="1"))
        for value in ("1", "2", "1"):
            applied(mesh, config_map("x", space, a=value))
        applied(mesh, config_map("y", space))
        made(mesh, lambda plan: plan.delete("east", config_map("y", space), "the test"))
        assert undone(mesh) == ["nothing"]
        assert live(east, config_map("x", space))["data"] == {"theirs": "1"}
        assert not there(east, config_map("y", space))

    def test_what_an_earlier_journal_said_and_others_took_over_stays_theirs(
        self, mesh: Mesh, east: Cluster, space: str
    ) -> None:
        """The rest is put back; nothing is forced."""
        east.apply(config_map("x", space, a="1", b="1"))
        applied(mesh, config_map("x", space, a="2", b="2"))
        edit(east, config_map("x", space, a="theirs"))
        assert undone(mesh) == ["nothing"]
        assert live(east, config_map("x", space))["data"] == {"a": "theirs", "b": "1"}

    def test_what_is_made_again_has_no_owner_that_is_gone(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """The garbage collector would remove it at once; and nobody may be there who would end its finalizer."""
        owner = create(east, config_map("owner", space))
        one = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner["metadata"]["uid"]}
        owned = core("Secret", "owned", space, stringData={"key": "value"})
        owned["metadata"] |= {"ownerReferences": [one], "finalizers": ["example.com/theirs"]}
        create(east, owned)
        made(mesh, lambda plan: plan.delete("east", owned, "the test"))
        edit(east, {**core("Secret", "owned", space), "metadata": {**owned["metadata"], "finalizers": None}})
        east.delete(owner)
        assert undone(mesh) == ["nothing"]
        again = live(east, owned)
        assert again["data"] == {"key": "dmFsdWU="}
        assert not {"ownerReferences", "finalizers"} & set(again["metadata"])

    def test_what_others_removed_is_not_brought_back(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """Neither what we made nor what we changed; and that is no failure."""
        create(east, config_map("x", space, a="1"))
        applied(mesh, config_map("x", space, b="2"), config_map("y", space))
        east.delete(config_map("x", space))
        east.delete(config_map("y", space))
        assert undone(mesh) == ["nothing"]
        assert not there(east, config_map("x", space))

    def test_a_change_that_was_noted_and_never_made_leaves_nothing(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """The run was killed between the note and the change."""
        book = Journal.open("shop", "run")
        book.about(clusters={"east": east.uid()})
        book.begin(
            {"before": [None], "manifests": [config_map("x", space)]},
            stage="06 gateways", cluster="east", action="create", object="ConfigMap x", why="", manager="meshkit",
            temporary=False,
        )  # fmt: skip
        assert undone(mesh) == ["nothing"]


class TestOthers:
    """What others changed or use is kept until they consent."""

    def test_what_others_changed_is_kept_and_said(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """By name; with consent it goes. What only controllers touched is not theirs."""
        applied(mesh, config_map("x", space, a="1"), config_map("y", space))
        edit(east, config_map("x", space, b="2"))
        edit(east, config_map("y", space, b="2"), manager="kube-controller-manager")
        facts = rollback.look(mesh, "run")
        assert facts.kept == {("east", f"ConfigMap {space}/x"): "changed since by kubectl-edit"}
        [warned] = [f for f in rollback.check(mesh, facts) if f.id == "MK1202"]
        assert warned.verdict is Verdict.WARN
        assert warned.observed == "changed since by kubectl-edit: it stays"
        assert undone(mesh) == [f"kept: ConfigMap {space}/x"]
        assert not there(east, config_map("y", space))
        assert live(east, config_map("x", space))["data"] == {"a": "1", "b": "2"}
        assert undone(mesh, consent=True) == ["nothing"]
        assert not there(east, config_map("x", space))

    @pytest.mark.usefixtures("controllers")
    def test_a_namespace_that_holds_others_objects_is_kept(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """Whoever deployed them; with what is our own and the cluster's only, it goes."""
        deployers = ("kubectl-create", "argocd-controller", "node-fetch", "kapp-controller", "unknown")
        holding = {by: core("Namespace", f"{space}-{by}", "") for by in deployers}
        empty = core("Namespace", f"{space}-empty", "")
        applied(mesh, *holding.values(), empty, config_map("ours", empty["metadata"]["name"]))
        for by, namespace in holding.items():
            # Who wrote an object without a field is not known to the server.
            fields = {} if by == "unknown" else {"a": "1"}
            create(east, config_map("theirs", namespace["metadata"]["name"], **fields), by)
        account = core("ServiceAccount", "default", empty["metadata"]["name"])
        until(lambda: there(east, account), "the cluster's own account")
        names = ", ".join(f"Namespace {namespace['metadata']['name']}" for namespace in holding.values())
        assert undone(mesh) == [f"kept: {names}"]
        assert not there(east, empty)
        for namespace in holding.values():
            assert there(east, config_map("theirs", namespace["metadata"]["name"]))

    def test_a_definition_with_others_objects_is_kept(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """To remove it would remove them."""
        group = f"{space}.example.com"
        crd = definition("widgets", group)
        applied(mesh, crd)
        until(lambda: f"widgets.{group}" in east.kinds(lambda g: g == group), "the kind is served")
        theirs = {**core("Widget", "w", space), "apiVersion": f"{group}/v1"}
        create(east, theirs)
        assert undone(mesh) == [f"kept: CustomResourceDefinition widgets.{group}"]
        assert there(east, theirs)
        east.delete(theirs)
        assert undone(mesh) == ["nothing"]
        assert not there(east, crd)

    def test_what_others_came_to_use_since_the_plan_was_made_stays(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """Stages that go first may take minutes; removed with consent only, as if it had been seen at the look."""
        group = f"{space}.example.com"
        crd, theirs = definition("widgets", group), {**core("Widget", "w", space), "apiVersion": f"{group}/v1"}
        applied(mesh, config_map("x", space, a="1"), crd)
        until(lambda: f"widgets.{group}" in east.kinds(lambda g: g == group), "the kind is served")

        def late(change: Callable[[], Any], *, consent: bool = False) -> None:
            facts = rollback.look(mesh, "run")
            plan = rollback.plan(mesh, facts, consent=consent)
            change()
            plan.carry_out("apply", gates=rollback.check(mesh, facts, consent=consent), journal="run")

        with pytest.raises(ChangeError, match=f"widgets.{group} contains Widget {space}/w of other clients, since"):
            late(lambda: create(east, theirs))
        assert there(east, theirs)
        with pytest.raises(ChangeError, match=f"ConfigMap {space}/x changed since by kubectl-edit, since the undo was"):
            late(lambda: edit(east, config_map("x", space, b="2")))
        assert undone(mesh) == [f"kept: ConfigMap {space}/x, CustomResourceDefinition widgets.{group}"]
        late(lambda: edit(east, config_map("x", space, b="3")), consent=True)
        assert not there(east, config_map("x", space))
        assert not there(east, crd)


@pytest.mark.usefixtures("controllers")
class TestWorkloads:
    """Restart and scale, with Kubernetes' own controllers."""

    def test_restart_and_scale_are_reverted(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """Both wait until rolled out; what others said of the workload stays."""
        app = create(east, deployment("app", space))
        made(mesh, lambda plan: plan.restart("east", "Deployment", space, "app", "the test"))
        made(mesh, lambda plan: plan.scale("east", "Deployment", space, "app", 2, "the test"))
        changed = live(east, app)
        assert RESTARTED in changed["spec"]["template"]["metadata"]["annotations"]
        assert changed["spec"]["replicas"] == 2
        until(lambda: len(east.get("pods", space)) == 2, "two pods")
        edit(east, labelled(deployment("app", space, replicas=2), theirs="1"))
        assert undone(mesh) == ["nothing"]
        back = live(east, app)
        assert back["spec"] == app["spec"]
        assert back["metadata"]["labels"] == {"theirs": "1"}
        assert east.get("pods", space) == []

    def test_replicas_that_others_set_since_stay(self, mesh: Mesh, east: Cluster, space: str) -> None:
        """Who is on call may have set them by hand, under load."""
        app = create(east, deployment("app", space))
        made(mesh, lambda plan: plan.scale("east", "Deployment", space, "app", 1, "the test"))
        edit(east, deployment("app", space, replicas=3))
        assert undone(mesh) == ["nothing"]
        assert live(east, app)["spec"]["replicas"] == 3

    def test_pods_without_annotations_are_recreated_twice_in_one_plan(
        self, mesh: Mesh, east: Cluster, space: str
    ) -> None:
        """The second restart is shown as it will be after the first; nobody else changed what that one did."""
        app = create(east, deployment("app", space))
        assert "annotations" not in app["spec"]["template"]["metadata"]

        def twice(plan: Plan) -> None:
            for why in ("widen", "renew"):
                plan.restart("east", "Deployment", space, "app", why)

        made(mesh, twice)
        assert undone(mesh) == ["nothing"]
        assert live(east, app)["spec"] == app["spec"]

    def test_a_restart_waits_for_what_is_rolled_out(self, east: Cluster, space: str) -> None:
        """A pod that no node runs is never ready: what is missing is named."""
        create(east, deployment("app", space, replicas=1))
        wait = rollout.rolled_out(east, "Deployment", space, "app")
        assert wait() in ("its controller has not seen the change", "0 of 1 pods updated, 0 available")
        until(lambda: wait() == "1 of 1 pods updated, 0 available", wait())


class TestControlPlanes:
    """Two of them in one cluster."""

    @pytest.fixture
    def istiod(self, east: Cluster, space: str) -> Iterator[Callable[[str], dict[str, Any]]]:
        """Return what makes an istiod of a revision; they are gone after the test, or others would see an Istio."""
        made = []

        def make(revision: str) -> dict[str, Any]:
            name = "istiod" if revision == "default" else f"istiod-{revision}"
            labels = {"app": "istiod", "istio.io/rev": revision}
            made.append(deployment(name, space, labels=labels))
            return create(east, made[-1])

        yield make
        for manifest in made:
            east.delete(manifest)

    @pytest.fixture
    def tag(self, east: Cluster, space: str) -> Iterator[Callable[[str, str], dict[str, Any]]]:
        """Return what makes a tag's webhook, which leads to a revision."""
        made = []

        def make(name: str, revision: str) -> dict[str, Any]:
            labels = {"istio.io/tag": name, "istio.io/rev": revision}
            kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
            made.append({**kind, "metadata": {"name": f"{space}-{name}", "labels": labels}})
            return create(east, made[-1])

        yield make
        for manifest in made:
            east.delete(manifest)

    def test_the_one_that_was_there_keeps_its_tags_and_what_it_writes(
        self, east: Cluster, space: str, istiod: Callable[[str], Any], tag: Callable[[str, str], Any]
    ) -> None:
        """Without the tag nothing is injected any more; what istiod writes goes with the last one only."""
        first = istiod("default")
        known, later = tag("default", "default"), tag("later", "default")
        root = create(east, config_map("istio-ca-root-cert", space), "pilot-discovery")
        blue, own = istiod("blue"), tag("blue", "blue")
        private = {"manifests": [blue, known], "before": [None, known]}
        planned = undo.steps(east, installed_in(east), private)
        assert {step.action for step in planned} == {"remove"}
        assert [step.manifest["metadata"]["name"] for step in planned] == [f"{space}-blue", "istiod-blue"]
        assert there(east, own)
        east.delete(first)
        left = {identify(step.manifest) for step in undo.steps(east, installed_in(east), private)}
        assert left >= {identify(obj) for obj in (blue, own, later, root)}
        assert identify(known) not in left

    def test_of_a_remote_cluster_what_its_primary_wrote_there_goes_with_its_webhooks(
        self, east: Cluster, space: str
    ) -> None:
        """Unless another control plane still injects there."""
        labels = {"app": "sidecar-injector", "istio.io/rev": "default"}
        kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
        made, other = (
            create(east, {**kind, "metadata": {"name": f"{space}-{name}", "labels": labels}}) for name in ("a", "b")
        )
        try:
            root = create(east, config_map("istio-ca-root-cert", space), "pilot-discovery")
            private = {"manifests": [made], "before": [None]}
            left = {identify(step.manifest) for step in undo.steps(east, installed_in(east), private)}
            assert left == {identify(made)}
            east.delete(other)
            left = {identify(step.manifest) for step in undo.steps(east, installed_in(east), private)}
            assert left >= {identify(made), identify(root)}
        finally:
            for one in (made, other):
                east.delete(one)

    def test_one_that_others_changed_stays_with_what_it_writes(
        self, east: Cluster, space: str, istiod: Callable[[str], Any]
    ) -> None:
        """The wait for it to go would never end."""
        blue = istiod("blue")
        create(east, config_map("istio-ca-root-cert", space), "pilot-discovery")
        private = {"manifests": [blue], "before": [None]}
        assert undo.steps(east, installed_in(east), private, keep=[identify(blue)]) == []


def installed_in(cluster: Cluster) -> Entry:
    """Return the entry of a control plane's installation."""
    return Entry(1, "done", "05 install", cluster.name, "install", "Istio", "", istioctl.MANAGER, False, "")


def test_a_journal_of_another_cluster_is_not_undone(mesh: Mesh, east: Cluster, space: str) -> None:
    """The gate fails, the plan is empty, and nothing is touched."""
    applied(mesh, config_map("x", space))
    Journal.open("shop", "run").about(clusters={"east": "another-uid"})
    facts = rollback.look(mesh, "run")
    [gate] = [f for f in rollback.check(mesh, facts) if f.id == "MK1201"]
    assert gate.verdict is Verdict.FAIL
    assert gate.observed == f"UID {east.uid()}, the journal's is another-uid"
    assert rollback.plan(mesh, facts).empty
    assert there(east, config_map("x", space))


def test_a_journal_of_a_cluster_that_the_mesh_file_does_not_name_is_not_undone(
    api_server: ApiServer, mesh: Mesh, east: Cluster, space: str
) -> None:
    """It was taken out, or renamed, since; nothing is touched in the others, either."""
    document = mesh_document(api_server.kubeconfig)
    document["clusters"] += [{**document["clusters"][0], "name": "north", "context": "north", "network": "net-north"}]
    two = Mesh(MeshSpec.parse(document, where="test"), dict.fromkeys(("east", "north"), east))
    for name in two.clusters:
        made(two, lambda plan, name=name: plan.apply(name, config_map(f"of-{name}", space), "the test"))  # type: ignore[misc]
    facts = rollback.look(mesh, "run")
    gates = {f.subject: (f.verdict, f.observed) for f in rollback.check(mesh, facts) if f.id == "MK1201"}
    assert gates == {"east": (Verdict.PASS, "it is"), "north": (Verdict.FAIL, "the mesh file does not name it")}
    assert rollback.plan(mesh, facts).empty
    assert there(east, config_map("of-north", space))


def test_the_newest_change_of_trust_goes_back_first(mesh: Mesh, east: Cluster, space: str) -> None:
    """Else what stands is under a root that nobody signs under any more. A run that changed no trust goes any time."""

    def run(stage: str, name: str) -> None:
        plan = Plan(mesh, stage)
        plan.apply("east", config_map(name, space), "the test")
        plan.carry_out("apply", journal=name)

    def verdicts(name: str) -> list[Verdict]:
        return [f.verdict for f in rollback.check(mesh, rollback.look(mesh, name)) if f.id == "MK1206"]

    run("04 trust", "first")
    run("06 gateways", "other")
    assert (verdicts("first"), verdicts("other")) == ([Verdict.PASS], [])
    run("04 trust", "second")
    assert (verdicts("first"), verdicts("second")) == ([Verdict.FAIL], [Verdict.PASS])


def test_what_a_later_run_stands_on_goes_back_after_it(mesh: Mesh, east: Cluster, space: str) -> None:
    """The same object, or a credential in it; other objects of the cluster are a warning."""

    def run(name: str, *manifests: dict[str, Any]) -> None:
        plan = Plan(mesh, "07 discovery")
        for manifest in manifests:
            plan.apply("east", manifest, "the test")
        assert set(plan.carry_out("apply", journal=name)["status"]) == {"done"}

    def order(name: str) -> tuple[Verdict, str]:
        [found] = [f for f in rollback.check(mesh, rollback.look(mesh, name)) if f.id == "MK1208"]
        return found.verdict, found.observed

    create(east, config_map("x", space, z="1"))
    token = core("Secret", "token", space)
    run("one", config_map("x", space, a="1"), token)
    assert order("one") == (Verdict.PASS, "none")
    run("other", config_map("y", space))
    assert order("one") == (Verdict.WARN, "other: other objects of the same clusters")
    run("two", config_map("x", space, a="2"))
    assert (order("two")[0], order("one")) == (Verdict.PASS, (Verdict.FAIL, f"two: east: ConfigMap {space}/x"))
    facts = rollback.look(mesh, "one")
    rollback.plan(mesh, facts).carry_out("apply", gates=rollback.check(mesh, facts), journal="one")
    assert live(east, config_map("x", space))["data"] == {"z": "1", "a": "2"}
    for name in ("two", "other"):
        assert undone(mesh, name) == ["nothing"]
    joined = read_by(token, "")
    run("join", {**joined, "data": {"east": joined["data"]["west"]}})
    assert order("one") == (Verdict.FAIL, f"join: east: Secret {space}/token")
    (journal.Journal.open("shop", "join").folder / "0001.json").unlink()
    assert order("one")[0] is Verdict.UNKNOWN


def test_what_is_kept_in_one_cluster_goes_in_the_other(api_server: ApiServer, east: Cluster, space: str) -> None:
    """Objects of one name are two; the other cluster here is the same server under another name."""
    two = two_of(api_server, east)
    for name in two.clusters:
        made(two, lambda plan, name=name: plan.apply(name, config_map(f"of-{name}", space, a="1"), "the test"))  # type: ignore[misc]
    facts = rollback.look(two, "run")
    what = f"ConfigMap {space}/of-west"
    planned = rollback.plan(two, dataclasses.replace(facts, kept={("east", what): "changed since"}))
    assert planned.changes[0].cluster == "west"
    assert planned.changes[0].object == what


def test_ways_stay_open_until_who_is_parted_has_forgotten(
    mesh: Mesh, east: Cluster, space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what the run itself joined is waited for; who cannot be asked has not forgotten, nor in a second undo."""
    watched: list[dict[str, str]] = []
    monkeypatch.setattr(remote_secrets, "remote_clusters", lambda _: remotes(watched))
    monkeypatch.setattr("meshkit.kube.wait.wait_for.__kwdefaults__", {"deadline": 0.1})

    def run(stage: str, *manifests: dict[str, Any]) -> None:
        for manifest in manifests:
            plan = Plan(mesh, stage)
            plan.apply("east", manifest, "the test")
            assert set(plan.carry_out("apply", journal="run")["status"]) == {"done"}

    def gates() -> dict[str, str]:
        planned = rollback.plan(mesh, rollback.look(mesh, "run")).changes
        return {change.object: change.gate() for change in planned if change.gate}

    west, north = (core("Secret", f"istio-remote-secret-{n}", space, data={n: "YQ=="}) for n in ("west", "north"))
    east.apply(west)
    watched += [{"cluster": "east", "istiod": "istiod-1", "remote": "west", "status": "synced"}]
    token = core("Secret", "istio-reader-service-account-istio-remote-secret-token", space)
    run("06 gateways", config_map("way", space))
    run("07 discovery", token, {**west, "data": {"west": "Yg=="}})
    assert gates() == {}
    run("07 discovery", north)
    way = f"ConfigMap {space}/way"
    assert gates() == {way: ""}
    watched += [{"cluster": "east", "istiod": "istiod-1", "remote": "north", "status": "synced"}]
    assert gates() == {way: "istiod-1 still watches north"}
    watched[:] = [{"cluster": "east", "istiod": "istiod-1", "status": "UNKNOWN", "reason": "no answer"}]
    for _ in range(2):
        with pytest.raises(ChangeError, match="istiod-1 still watches no answer"):
            undone(mesh)
        assert there(east, config_map("way", space))
        assert not there(east, north)
    watched.clear()
    assert undone(mesh) == ["nothing"]
    assert not there(east, config_map("way", space))
    assert live(east, west)["data"] == west["data"]


def two_of(api_server: ApiServer, east: Cluster, root: str = "istio-system") -> Mesh:
    """Return a mesh of east and west, both the same server."""
    document = mesh_document(api_server.kubeconfig)
    document["mesh"]["rootNamespace"] = root
    document["clusters"] += [{**document["clusters"][0], "name": "west", "context": "west", "network": "net-west"}]
    return Mesh(MeshSpec.parse(document, where="test"), dict.fromkeys(("east", "west"), east))


def read_by(token: dict[str, Any], uid: str) -> dict[str, Any]:
    """Return the remote secret of west that holds the token of a Secret; a long-lived one names no UID."""
    name = token["metadata"]["name"]
    bound = {"kubernetes.io": {"secret": {"name": name, "uid": uid}}}
    said = bound if uid else {"kubernetes.io/serviceaccount/secret.name": name}
    claims = base64.urlsafe_b64encode(json.dumps(said).encode()).decode()
    credential = reader_tokens.Token(name, f"h.{claims}.s", b"ca")
    return remote_secret_manifest.manifest("west", "https://192.0.2.1", credential, token["metadata"]["namespace"])


@pytest.mark.usefixtures("state")
@pytest.mark.parametrize("ends", [True, False])
def test_a_replaced_credential_that_ends_does_not_come_back(
    api_server: ApiServer, east: Cluster, space: str, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    """The one that replaced it stays as long as it is read by; one that never ends is put back."""
    two = two_of(api_server, east, space)
    monkeypatch.setattr(remote_secrets, "_prove", lambda *_: Proof(Credential.OK, leads_to="west"))
    held = remote_secrets.remote_secrets  # the one server would show them in both
    monkeypatch.setattr(remote_secrets, "remote_secrets", lambda mesh: (rows := held(mesh)).with_items(rows.of("east")))
    kind = reader_tokens.EXPIRING_TYPE if ends else "Opaque"  # no controller here fills one of Kubernetes' own type
    monkeypatch.setattr(reader_tokens, "TOKEN_TYPE", "Opaque")
    first, second = (core("Secret", name, space, type=kind) for name in ("first", "second"))

    def run(name: str, cluster: str, manifest: dict[str, Any], *, gone: bool = False) -> dict[str, Any]:
        plan = Plan(two, "07 discovery")
        plan.delete(cluster, manifest, "replaced") if gone else plan.apply(cluster, manifest, "the test")
        assert set(plan.carry_out("apply", journal=name)["status"]) == {"done"}
        return {} if gone else live(east, manifest)

    def uid(secret: dict[str, Any]) -> str:
        return str(secret["metadata"]["uid"]) if ends else ""

    before = run("join", "east", read_by(first, uid(run("join", "west", first))))
    after = run("renew", "east", read_by(second, uid(run("renew", "west", second))))
    run("renew", "west", first, gone=True)
    warned = [f for f in rollback.check(two, rollback.look(two, "renew")) if f.id == "MK1207"]
    assert undone(two, "renew", consent=True) == (
        ["nothing", f"kept: Secret {space}/second"] if ends else ["nothing"] * 2
    )
    assert live(east, after)["data"] == (after if ends else before)["data"]
    assert (there(east, first), there(east, second)) == (not ends, ends)
    assert [f.observed for f in warned] == (["it is read by east with this: it stays"] if ends else [])
    assert undone(two, "join") == ["nothing"] * 2
    assert undone(two, "renew") == ["nothing"] * 2
    assert [there(east, one) for one in (first, second, after)] == [False] * 3
