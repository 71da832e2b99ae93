"""Who injects which pod: webhooks as Istio's charts render them, evaluated without a cluster."""

from __future__ import annotations

from typing import Any

import pytest

from meshkit.istio.control_plane import revisions
from meshkit.istio.control_plane.revisions import PLAIN, Injector
from meshkit.istio.proxies import injection
from tests.support import planes

REV, OLD, INJECT = "istio.io/rev", "istio-injection", "sidecar.istio.io/inject"
Pod = dict[str, Any]


def pod(labels: dict[str, str] | None = None, **spec: Any) -> Pod:
    """Return a new pod."""
    return {"metadata": {"labels": labels or {}}, "spec": spec}


@pytest.mark.parametrize(
    ("namespace", "labels", "by"),
    [
        ({REV: "1-31-0"}, {}, "1-31-0"),
        ({REV: "prod-stable"}, {}, "1-31-0"),
        ({REV: "prod-stable"}, {INJECT: "false"}, ""),
        ({REV: "prod-canary"}, {}, ""),
        ({OLD: "enabled"}, {}, ""),  # nobody is the default
        ({OLD: "disabled", REV: "prod-stable"}, {}, ""),
        ({}, {REV: "prod-stable"}, "1-31-0"),
        ({}, {INJECT: "true"}, ""),
        ({REV: "other"}, {REV: "1-31-0"}, ""),  # the namespace's label wins
        ({}, {}, ""),
    ],
)
def test_a_named_revision_injects_by_its_name_and_its_tag(
    namespace: dict[str, str], labels: dict[str, str], by: str
) -> None:
    """And by no other label."""
    assert ",".join(planes.named().injection("shop", namespace, pod(labels)).revisions) == by


@pytest.mark.parametrize(
    ("namespace", "labels", "by"),
    [
        ({OLD: "enabled"}, {}, "default"),
        ({OLD: "enabled", REV: "1-31-0"}, {}, "default"),  # the old label wins
        ({REV: "default"}, {}, "default"),
        ({REV: "prod-stable"}, {}, ""),
        ({}, {INJECT: "true"}, "default"),
        ({}, {}, "default"),  # enableNamespacesByDefault
        ({OLD: "disabled"}, {INJECT: "true"}, ""),
    ],
)
def test_the_revision_without_a_name_injects_by_the_old_label(
    namespace: dict[str, str], labels: dict[str, str], by: str
) -> None:
    """And, where the chart says so, namespaces without any label."""
    assert ",".join(planes.unnamed().injection("shop", namespace, pod(labels)).revisions) == by


def test_the_injector_leaves_pods_alone_that_a_webhook_sent() -> None:
    """Those on the host network, and those of system namespaces; annotations count as labels do, but less."""
    found, labels = planes.named(), {REV: "1-31-0"}
    assert found.injection("shop", labels, pod(hostNetwork=True)).revisions == ()
    assert found.injection("kube-system", labels, PLAIN).revisions == ()
    off = {"metadata": {"annotations": {INJECT: "false"}}, "spec": {}}
    assert found.injection("shop", labels, off).revisions == ()


def test_an_injector_that_is_off_injects_what_asks_for_it() -> None:
    """Source: injectRequired; an empty selector counts for nothing."""
    always = {"matchLabels": {"app": "web"}}
    off = Injector("disabled", always=({}, always), never=({"matchLabels": {"app": "db"}},))
    asked = [off.injects("shop", pod(labels)) for labels in ({}, {INJECT: "true"}, {"app": "web"}, {"app": "db"})]
    assert asked == [False, True, True, False]
    assert not Injector("enabled", never=(always,)).injects("shop", pod({"app": "web"}))


@pytest.mark.parametrize(
    "selector",
    ["", "{matchExpressions: [{key: app, operator: in, values: [web]}]}", "{matchExpressions: [{operator: Exists}]}",
     "{matchExpressions: [{key: app, operator: NotIn}]}"],
)  # fmt: skip
def test_an_injector_heeds_no_selector_that_is_none(selector: str) -> None:
    """They are in a text that no API server checks; istiod warns of them, and goes on."""
    data = {"config": f"policy: enabled\nneverInjectSelector:\n- {selector}"}
    config = {"metadata": {"name": "istio-sidecar-injector", "namespace": "istio-system"}, "data": data}
    held = planes.cluster("unnamed", run=("default",), configmaps=[config])
    found = revisions.read(held)  # type: ignore[arg-type]
    assert found.injection("shop", {"istio-injection": "enabled"}, pod({"app": "web"})).revisions == ("default",)


def test_a_webhook_without_an_istiod_behind_it_injects_nothing() -> None:
    """Its failure policy says what becomes of the pod."""
    found = planes.planes("revision", run=())
    told = found.injection("shop", {REV: "prod-stable"})
    assert not told.revisions
    assert "istio-system/istiod-1-31-0" in told.problem
    assert "pods are refused" in told.problem


@pytest.mark.parametrize(
    ("resources", "called"),
    [
        (["pods"], True),
        (["*"], True),
        (["*/*"], True),
        (["pods/*"], True),
        (["pods/exec"], False),
        (["services"], False),
    ],
)
def test_a_rule_is_about_pods_as_the_api_server_reads_it(resources: list[str], called: bool) -> None:
    """Source: k8s.io/apiserver, admission/plugin/webhook/predicates/rules (splitResource)."""
    hooks = planes.webhooks("revision")
    for rule in (rule for obj in hooks for hook in obj["webhooks"] for rule in hook["rules"]):
        rule["resources"] = resources
    held = planes.cluster(run=planes.NAMED, mutatingwebhookconfigurations=hooks)
    found = revisions.read(held).injection("shop", {REV: "1-31-0"})  # type: ignore[arg-type]
    assert bool(found.revisions) is called


def test_where_pods_have_to_ask_nothing_is_wrong_with_the_namespace() -> None:
    """global.proxy.autoInject `disabled`: pods without the label, or that are never injected, lack no sidecar."""
    never = "neverInjectSelector: [{matchLabels: {app: db}}]"
    for config, bare in (("policy: disabled", 0), (f"policy: enabled\n{never}", 1)):
        injector = {"metadata": {"name": "istio-sidecar-injector-1-31-0"}, "data": {"config": config}}
        held = planes.cluster("revision", run=planes.NAMED, configmaps=[injector])
        held.objects["namespaces"] = [{"metadata": {"name": "shop", "labels": {REV: "prod-stable"}}}]
        for name in ("db", "web"):
            metadata = {"name": name, "namespace": "shop", "labels": {"app": name}}
            held.objects["pods"].append({"metadata": metadata, "spec": {"containers": [{"name": "main"}]}})
        (row,) = injection._namespaces(held, "shop")  # type: ignore[arg-type]
        assert (row["problem"], row["bare"]) == ("", bare)


def test_pods_that_a_webhook_excludes_are_not_bare() -> None:
    """Where the namespace is served, its webhook's objectSelector is meant."""
    hooks = planes.webhooks("revision")
    for hook in (hook for obj in hooks for hook in obj["webhooks"]):
        hook["objectSelector"]["matchExpressions"].append({"key": "job-name", "operator": "DoesNotExist"})
    held = planes.cluster(run=planes.NAMED, mutatingwebhookconfigurations=hooks)
    held.objects["namespaces"] = [{"metadata": {"name": "shop", "labels": {REV: "1-31-0"}}}]
    metadata = {"name": "job", "namespace": "shop", "labels": {"job-name": "backup"}}
    held.objects["pods"].append({"metadata": metadata, "spec": {"containers": [{"name": "main"}]}})
    (row,) = injection._namespaces(held, "shop")  # type: ignore[arg-type]
    assert (row["injected_by"], row["bare"]) == ("1-31-0", 0)


def test_conditions_that_are_no_selectors_are_not_guessed() -> None:
    """CEL is the API server's: what it says is unknown here."""
    hooks = planes.webhooks("revision")
    for hook in (hook for obj in hooks for hook in obj["webhooks"]):
        hook["matchConditions"] = [{"name": "no-jobs", "expression": "!has(object.metadata.ownerReferences)"}]
    held = planes.cluster(run=planes.NAMED, mutatingwebhookconfigurations=hooks)
    told = revisions.read(held).injection("shop", {REV: "1-31-0"})  # type: ignore[arg-type]
    assert (told.unknown, told.revisions) == (True, ())


def test_tags_are_of_their_cluster() -> None:
    """What east calls prod-stable, west may not know."""
    east, west = planes.named(), planes.tagless()
    assert (east.target("prod-stable"), west.target("prod-stable")) == ("1-31-0", "")
    assert east.running() == west.running() == ("1-31-0",)
    assert not west.injection("shop", {REV: "prod-stable"}).revisions


def test_a_namespace_whose_label_no_webhook_selects_is_reported() -> None:
    """Its pods are bare, and it has a problem; one whose pods follow another revision has outdated ones."""
    held = planes.cluster("revision", run=planes.NAMED)
    labels = {"shop": {REV: "prod-canary"}, "web": {REV: "prod-stable"}}
    held.objects["namespaces"] = [{"metadata": {"name": name, "labels": own}} for name, own in labels.items()]
    proxy = {"containers": [{"name": "istio-proxy"}]}
    old = {"metadata": {"name": "b", "namespace": "web", "annotations": {REV: "1-30-2"}}, "spec": proxy}
    held.objects["pods"] += [{"metadata": {"name": "a", "namespace": "shop"}, "spec": {"containers": []}}, old]
    rows = {row["namespace"]: row for row in injection._namespaces(held, "shop")}  # type: ignore[arg-type]
    assert rows["shop"]["problem"] == "no webhook injects for istio.io/rev=prod-canary"
    assert (rows["shop"]["bare"], rows["shop"]["injected_by"]) == (1, "")
    assert (rows["web"]["injected_by"], rows["web"]["followed"], rows["web"]["outdated"]) == ("1-31-0", "1-30-2×1", 1)
