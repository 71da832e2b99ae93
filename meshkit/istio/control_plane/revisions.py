"""Which istiod serves whom in a cluster: running revisions, tags, and the webhooks that inject new pods.

Whether a pod is injected is decided twice: the API server calls the webhooks whose rules and selectors match it, and
the istiod behind them looks at the pod itself. Both are evaluated here as those programs do it:

- the webhook's rules, `namespaceSelector` and `objectSelector`: k8s.io/apiserver, admission/plugin/webhook;
- the injector's own conditions: `injectRequired`, pkg/kube/inject/inject.go;
- revisions and tags are the labels `istio.io/rev` and `istio.io/tag` of the configurations and of tags' Services:
  istioctl/pkg/tag, pkg/revisions/tag_watcher.go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from meshkit.istio.control_plane import istioctl
from meshkit.istio.control_plane.istiods_and_proxies import istiods
from meshkit.kube.cluster import Cluster
from meshkit.kube.manifests import Object
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.kube.selectors import Labels, matches, valid
from meshkit.kube.transport import NotFoundError

DEFAULT: Final = "default"
REVISION: Final = istioctl.REVISION
INJECTION, INJECT = "istio-injection", "sidecar.istio.io/inject"
INJECTOR: Final = "sidecar-injector.istio.io"
"""How the names of Istio's injection webhooks end (istioctl/pkg/tag, istioInjectionWebhookSuffix)."""
_IGNORED: Final = frozenset({"kube-system", "kube-public", "kube-node-lease", "local-path-storage"})
"""Namespaces that the injector leaves alone (pkg/kube/inject/initializer.go, IgnoredNamespaces)."""
Pod = Mapping[str, Any]
PLAIN: Final[Pod] = {"metadata": {}, "spec": {}}
"""A pod of which only its namespace tells whether it is injected."""
ASKING: Final[Pod] = {"metadata": {"labels": {INJECT: "true"}}, "spec": {}}
"""A pod that asks for it itself: an injector whose policy is `disabled` injects no other."""


def named(revision: str) -> str:
    """Return a revision by its name: the one without a name is `default`, as its labels say."""
    return revision or DEFAULT


@dataclass(frozen=True)
class RunningIstiod:
    """A running istiod; `labels` are its pod's."""

    name: str
    namespace: str
    revision: str
    labels: Labels = field(default_factory=dict)


@dataclass(frozen=True)
class Tag:
    """A name that namespaces may use in place of a revision's."""

    name: str
    revision: str


@dataclass(frozen=True)
class InjectionWebhook:
    """A webhook that injects pods, as far as that decides which ones.

    `revision` and `tag` are labels of its configuration; `service` is `namespace/name` of the Service that it calls, or
    a URL. `served_by` are the revisions of the running istiods behind that; a URL or a Service without selector leads
    out of the cluster, and then it is the label's. `conditional` says that it has matchConditions, which are CEL.
    """

    configuration: str
    name: str
    revision: str
    tag: str
    namespace_selector: Mapping[str, Any]
    object_selector: Mapping[str, Any]
    for_pods: bool
    conditional: bool
    failure_policy: str
    service: str
    served_by: tuple[str, ...]

    def selects(self, namespace: Labels, pod: Labels) -> bool:
        """Return whether the API server calls it for a new pod with these labels, in a namespace with those."""
        return self.for_pods and matches(self.namespace_selector, namespace) and matches(self.object_selector, pod)


@dataclass(frozen=True)
class Injector:
    """What an istiod's injector goes by: `policy`, and the label selectors of pods that it always or never injects."""

    policy: str = "enabled"
    always: tuple[Mapping[str, Any], ...] = ()
    never: tuple[Mapping[str, Any], ...] = ()

    def injects(self, namespace: str, pod: Pod) -> bool:
        """Return whether it injects a pod that a webhook sent it.

        Source: injectRequired, pkg/kube/inject/inject.go.
        """
        metadata = pod["metadata"]
        labels = metadata.get("labels") or {}
        if pod["spec"].get("hostNetwork") or namespace in _IGNORED:
            return False
        asked = labels.get(INJECT, (metadata.get("annotations") or {}).get(INJECT, ""))
        if asked in ("true", "false"):
            return bool(asked == "true" and self.policy in ("enabled", "disabled"))
        if any(matches(selector, labels) for selector in self.never if _counts(selector)):
            return False
        if any(matches(selector, labels) for selector in self.always if _counts(selector)):
            return self.policy in ("enabled", "disabled")
        return self.policy == "enabled"


def _counts(selector: Mapping[str, Any]) -> bool:
    """Return whether an injector heeds a selector: not an empty one, unlike a webhook's, and none that is invalid."""
    return bool(selector.get("matchLabels") or selector.get("matchExpressions")) and valid(selector)


@dataclass(frozen=True)
class Injection:
    """What becomes of a new pod: the configurations that are called for it, and the revisions that inject it.

    `problem` is why nobody injects it although a webhook is called, or why that cannot be known (`unknown`).
    """

    configurations: tuple[str, ...] = ()
    revisions: tuple[str, ...] = ()
    problem: str = ""
    unknown: bool = False


@dataclass(frozen=True)
class ControlPlanes:
    """The istiods of a cluster, and whom they serve.

    `injectors` are by revision; `validator` is the revision that the default validating webhook leads to, or empty.
    """

    istiods: tuple[RunningIstiod, ...] = ()
    tags: tuple[Tag, ...] = ()
    webhooks: tuple[InjectionWebhook, ...] = ()
    injectors: Mapping[str, Injector] = field(default_factory=dict)
    validator: str = ""

    def running(self, namespace: str = "") -> tuple[str, ...]:
        """Return the revisions that run, in a namespace or in all."""
        return tuple(sorted({one.revision for one in self.istiods if namespace in ("", one.namespace)}))

    def pods(self, revision: str) -> frozenset[str]:
        """Return the names of the istiods of a revision."""
        return frozenset(one.name for one in self.istiods if one.revision == named(revision))

    def target(self, tag: str) -> str:
        """Return the revision that a tag leads to, or an empty text where there is no such tag."""
        return next((one.revision for one in self.tags if one.name == tag), "")

    @property
    def default(self) -> str:
        """The revision that namespaces with `istio-injection=enabled` get: the default tag wins over the validator."""
        return self.target(DEFAULT) or self.validator or (DEFAULT if DEFAULT in self.running() else "")

    def injection(self, namespace: str, labels: Labels, pod: Pod = PLAIN) -> Injection:
        """Return what becomes of a new pod in a namespace with these labels."""
        # The API server gives each namespace this label itself.
        known = {"kubernetes.io/metadata.name": namespace, **labels}
        called = [hook for hook in self.webhooks if hook.selects(known, pod["metadata"].get("labels") or {})]
        configurations = tuple(dict.fromkeys(hook.configuration for hook in called))
        if conditional := [hook.configuration for hook in called if hook.conditional]:
            return Injection(configurations, problem=f"{conditional[0]} has matchConditions", unknown=True)
        silent = [hook for hook in called if not hook.served_by]
        refusing = [hook for hook in silent if hook.failure_policy == "Fail"]
        if refusing or (silent and len(silent) == len(called)):
            return Injection(configurations, problem=_silent((refusing or silent)[0]))
        served = dict.fromkeys(revision for hook in called for revision in hook.served_by)
        by = tuple(r for r in served if self._injector(r).injects(namespace, pod))
        declined = f"{configurations[0]} is called, and istiod leaves them alone" if served and not by else ""
        return Injection(configurations, by, problem=declined)

    def to_come(self, labels: Labels, revision: str) -> bool:
        """Return whether stage 05 will serve a namespace with these labels: it installs `revision` where none runs."""
        if self.istiods:
            return False
        if INJECTION in labels:
            return labels[INJECTION] == "enabled"
        return labels.get(REVISION, "") in (named(revision), DEFAULT)

    def _injector(self, revision: str) -> Injector:
        return self.injectors.get(revision, Injector())


def _silent(hook: InjectionWebhook) -> str:
    then = "pods are refused" if hook.failure_policy == "Fail" else "pods get no sidecar"
    return f"{hook.configuration} calls Service {hook.service}, behind which no istiod runs: {then}"


def will_inject(planes: ControlPlanes, namespace: str, labels: Labels, revision: str) -> bool:
    """Return whether new pods in a namespace with these labels get sidecars, now or once stage 05 has installed.

    Where no istiod runs, stage 05 installs `revision`, and istioctl makes the tag `default` for it.
    """
    return bool(planes.injection(namespace, labels).revisions) or planes.to_come(labels, revision)


def configured(cluster: Cluster, root_namespace: str, kind: str) -> list[Object]:
    """Return the objects of a kind of Istio's that a running istiod reads: not those of another revision's label.

    The label's value is a revision's name, and no tag's. Where no istiod runs, all are returned; none where Istio's
    definitions are not installed.

    Source: LabelsInRevision, pkg/config/model.go; inRevision, pilot/pkg/config/kube/crdclient/client.go.
    """
    try:
        found = cluster.get(kind)
    except NotFoundError:
        return []
    if not any(REVISION in _labels(obj) for obj in found):
        return found
    running = {named(one.revision) for one in istiods(cluster, root_namespace)}
    return [obj for obj in found if not running or _labels(obj).get(REVISION) in {None, *running}]


def look(mesh: Mesh) -> dict[str, ControlPlanes | Unknown]:
    """Return the control planes of each cluster, or why they could not be read."""
    return mesh.each(read)


def read(cluster: Cluster) -> ControlPlanes:
    """Return the control planes of a cluster, of any namespace."""
    found = tuple(
        RunningIstiod(one.name, one.namespace, named(one.revision), dict(one.labels)) for one in istiods(cluster, "")
    )
    configurations = [obj for obj in cluster.get("mutatingwebhookconfigurations") if _hooks([obj])]
    called = {(client["namespace"], client["name"]) for client in map(_client, _hooks(configurations)) if client}
    services = {f"{namespace}/{name}": cluster.find("services", namespace, name) for namespace, name in called}
    tagged = [*cluster.get("services", labels=istioctl.TAG), *configurations]
    validator = cluster.find("validatingwebhookconfigurations", None, istioctl.VALIDATOR)
    return ControlPlanes(
        istiods=found,
        tags=tuple(dict.fromkeys(_tag(obj) for obj in tagged if _labels(obj).get(istioctl.TAG))),
        webhooks=tuple(_webhooks(configurations, services, found)),
        injectors={one.revision: _injector(cluster, one) for one in found},
        validator=_labels(validator).get(REVISION, "") if validator else "",
    )


def _labels(obj: Mapping[str, Any]) -> Labels:
    return obj["metadata"].get("labels") or {}


def _tag(obj: Mapping[str, Any]) -> Tag:
    return Tag(_labels(obj)[istioctl.TAG], named(_labels(obj).get(REVISION, "")))


def _hooks(configurations: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [hook for obj in configurations for hook in obj.get("webhooks") or [] if hook["name"].endswith(INJECTOR)]


def _client(hook: Mapping[str, Any]) -> Mapping[str, str] | None:
    """Return the Service that a webhook calls; None where it calls a URL."""
    return (hook.get("clientConfig") or {}).get("service")


def _webhooks(
    configurations: Iterable[Mapping[str, Any]], services: Mapping[str, Any], running: Sequence[RunningIstiod]
) -> Iterator[InjectionWebhook]:
    # The API server calls configurations in the order of their names.
    for obj in sorted(configurations, key=lambda obj: str(obj["metadata"]["name"])):
        revision = named(_labels(obj).get(REVISION, ""))
        for hook in _hooks([obj]):
            client = _client(hook)
            place = f"{client['namespace']}/{client['name']}" if client else ""
            yield InjectionWebhook(
                configuration=obj["metadata"]["name"],
                name=hook["name"],
                revision=revision,
                tag=_labels(obj).get(istioctl.TAG, ""),
                namespace_selector=hook.get("namespaceSelector") or {},
                object_selector=hook.get("objectSelector") or {},
                for_pods=any(_for_pods(rule) for rule in hook.get("rules") or []),
                conditional=bool(hook.get("matchConditions")),
                failure_policy=str(hook.get("failurePolicy") or "Fail"),
                service=place or str(hook["clientConfig"].get("url", "")),
                served_by=_behind(services[place], running) if client else (revision,),
            )


def _for_pods(rule: Mapping[str, Any]) -> bool:
    """Return whether a rule is about new pods. They have one version only, so `matchPolicy` makes no difference."""
    wanted = {"operations": "CREATE", "apiGroups": "", "apiVersions": "v1", "resources": "pods"}
    scope = rule.get("scope") or "*"
    said = {key: rule.get(key) or [] for key in wanted}
    # `pods/*` are pods and what is below them, `*` is everything but what is below.
    said["resources"] = [resource.removesuffix("/*") for resource in said["resources"]]
    return scope != "Cluster" and all({value, "*"} & {*said[key]} for key, value in wanted.items())


def _behind(service: Mapping[str, Any] | None, running: Sequence[RunningIstiod]) -> tuple[str, ...]:
    if service is None:
        return ()
    selector, own = (service.get("spec") or {}).get("selector") or {}, service["metadata"]
    if not selector:
        return (named(_labels(service).get(REVISION, "")),)
    here = [one for one in running if one.namespace == own["namespace"]]
    return tuple(sorted({one.revision for one in here if matches({"matchLabels": selector}, one.labels)}))


def _injector(cluster: Cluster, istiod: RunningIstiod) -> Injector:
    suffix = "" if istiod.revision == DEFAULT else f"-{istiod.revision}"
    found = cluster.find("configmaps", istiod.namespace, f"istio-sidecar-injector{suffix}")
    config = yaml.safe_load(((found or {}).get("data") or {}).get("config", ""))
    config = config if isinstance(config, dict) else {}
    return Injector(
        policy=str(config.get("policy", "enabled")),
        always=tuple(selector or {} for selector in config.get("alwaysInjectSelector") or ()),
        never=tuple(selector or {} for selector in config.get("neverInjectSelector") or ()),
    )
