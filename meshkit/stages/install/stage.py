"""Stage 05: the same Istio everywhere, each control plane under its own id, network and mesh, no request lost.

A live control plane that was called `Kubernetes` gets the name of the mesh file and goes on accepting the old one
(`--clusterAliases`), since proxies claim the id that they were injected with until their pods are recreated. Then its
workloads are restarted one by one, each waited for, so that every proxy knows its network before stage 07 tells it of
another. The alias goes in a later run, when that is asked for and nobody claims it: see
meshkit.stages.install.cluster_id_rename.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pandas as pd

from meshkit import parameters
from meshkit.changes.plan import Plan, refused
from meshkit.checks import ca, certificates, control_plane, installers, namespaces, proxies, restarts, topology
from meshkit.checks import revisions as checks_revisions
from meshkit.checks.finding import Finding, Verdict
from meshkit.checks.question import Question, awaits, planned
from meshkit.display import Record
from meshkit.errors import MeshkitError
from meshkit.istio.ca import cacerts, istiod_ca, trust_store
from meshkit.istio.control_plane import inventory, istioctl, remote_install, revisions, versions
from meshkit.istio.control_plane.cluster_domain import of_mesh
from meshkit.istio.control_plane.istiods_and_proxies import istiods
from meshkit.istio.control_plane.revisions import ControlPlanes, named
from meshkit.istio.control_plane.versions import Identity, identity_reading
from meshkit.istio.multicluster import gateways, remote_secrets
from meshkit.istio.multicluster.gateway_manifests import mesh_networks
from meshkit.istio.multicluster.remote_secrets import RemoteClusters
from meshkit.istio.proxies import new_pods, workloads
from meshkit.istio.proxies import reading as proxies_reading
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.notebook import tables
from meshkit.spec import MeshSpec
from meshkit.stages import probe_workloads
from meshkit.stages.install import by_owner, cluster_id_rename
from meshkit.stages.stage import Shows, Stage
from meshkit.tables import Table, text

STAGE = "05 install"
PLANES: Final = Table(
    "control-planes",
    "Control planes, and who they become",
    {
        "cluster": text("its cluster"),
        "istiod": text("pods, comma-joined; empty: there is none yet"),
        "cluster_id": text("of the control plane now"),
        "becomes": text("the cluster's name in the mesh file"),
        "accepts": text("another cluster id that it accepts as its own now"),
        "alias": text("the cluster alias that it will accept, unless that is dropped"),
        "installed_by": text("istioctl, helm or another manager"),
        "network_label": text("of its namespace"),
        "cacerts": text("whether the Secret is there"),
        "signed_by_others": text("the signer in istiod's place; empty: istiod signs"),
        "others_cluster_id": text("the cluster id that istio-csr takes, where it is the signer"),
        "reason": text("why a cluster could not be read"),
    },
    key=("cluster",),
)


@dataclass(frozen=True)
class InstallFacts:
    """What was read; `identities` is of `cluster_id_rename`, `istioctl` its version, or why there is none."""

    planes: pd.DataFrame
    versions: pd.DataFrame
    workloads: pd.DataFrame
    identities: pd.DataFrame
    istioctl: str
    istioctl_missing: bool = False
    new_pods: new_pods.NewPodFacts | None = None
    revisions: Mapping[str, ControlPlanes | Unknown] = field(default_factory=dict)
    readers: RemoteClusters | None = None
    identity: Identity = field(default_factory=identity_reading)
    installers: Mapping[str, str | Unknown] = field(default_factory=dict)


def look(mesh: Mesh) -> InstallFacts:
    """Read control planes, versions, workloads and proxies of every cluster; changes nothing."""
    try:
        tool, missing = istioctl.version(), False
    except MeshkitError as error:
        tool, missing = error.message, True
    found = workloads.workloads(mesh)
    former = cluster_id_rename.identities(mesh)
    running = revisions.look(mesh)
    readers = remote_secrets.remote_clusters(mesh)
    return InstallFacts(
        planes(mesh),
        proxies_reading.read_versions(mesh),
        found,
        former,
        tool,
        missing,
        new_pods.look(mesh),
        running,
        readers,
        versions.identity(mesh),
        inventory.installers(mesh),
    )


def planes(mesh: Mesh) -> pd.DataFrame:
    """Return one row for each cluster: the ids of its control plane now, and those that it is to get."""
    rows = []
    for name, found in mesh.each(lambda cluster: _plane(mesh, cluster.name)).items():
        rows.append({"cluster": name, "reason": found.reason} if isinstance(found, Unknown) else found)
    return PLANES.frame(rows)


def _plane(mesh: Mesh, name: str) -> dict[str, str]:
    cluster, root = mesh.clusters[name], mesh.root_namespace
    revision = named(mesh.spec.istio.revision)
    running = [one for one in istiods(cluster, root) if named(one.revision) == revision]
    deployments = inventory.deployments(mesh, cluster)
    live = running[0].env.get("CLUSTER_ID", "") or istioctl.DEFAULT_ID if running else ""
    accepts = istioctl.alias_of(deployments[0], live) if deployments else ""
    namespace = cluster.find("namespaces", None, root) or {"metadata": {}}
    signer = cacerts.signed_by_others(cluster, root)
    return {
        "cluster": name,
        "istiod": ",".join(istiod.name for istiod in running),
        "cluster_id": live,
        "becomes": name,
        "accepts": accepts,
        "alias": accepts if live == name else live,
        "installed_by": inventory.installer(deployments) if deployments else "",
        "network_label": namespace["metadata"].get("labels", {}).get(gateways.NETWORK, ""),
        "cacerts": "yes" if cacerts.present(istiod_ca.secret_data(cluster, root, cacerts.SECRET)) else "no",
        "signed_by_others": signer,
        "others_cluster_id": _csr_id(mesh, name) if "istio-csr" in signer else "",
    }


def _csr_id(mesh: Mesh, name: str) -> str:
    cluster = mesh.clusters[name]
    ids = {
        cacerts.csr_cluster_id(cluster, cacerts.ca_address(cluster, istiod))
        for istiod in istiods(cluster, mesh.root_namespace)
    }
    return ", ".join(sorted(ids))


def check(mesh: Mesh, facts: InstallFacts, mode: str = "apply", *, drop_alias: bool = False) -> list[Finding]:
    """Judge what was read: tool, running versions, who installed, what earlier stages brought, restarts, former ids.

    MK505: there is a Secret `cacerts`, so that istiod does not sign with a root of its own; or others sign.

    Raises:
        InputError: `drop_alias` is neither True nor False.
    """
    findings = [*topology.check_served(mesh, facts.identity)]
    findings += checks_revisions.check(mesh, facts.revisions)
    findings += topology.check_ids(mesh, facts.identity)
    findings += [*check_tool(mesh, facts), *check_running(mesh, facts)]
    for row in facts.planes.to_dict("records"):
        name, reason = row["cluster"], row["reason"]
        label = namespaces.check_network(mesh, name, row["network_label"], reason, finished=True)
        # Another network than the mesh file's is nothing that stage 02 changes.
        findings.append(label if row["network_label"] else awaits(label, mode, "02 prepare"))
        certs = Question("MK505", "the common root is plugged in", name, f"Secret cacerts in {mesh.root_namespace}")
        if signer := control_plane.only_signer(mesh):
            findings.append(certs.answer(Verdict.SKIPPED, f"{signer}'s istiod signs for all clusters"))
            continue
        if name in mesh.spec.remotes:
            findings.append(certs.answer(Verdict.SKIPPED, f"{mesh.spec.primary_of(name)}'s istiod signs for it"))
            continue
        if reason:
            findings.append(certs.unknown(reason))
            continue
        if row["signed_by_others"]:
            findings.append(certs.answer(Verdict.SKIPPED, f"certificates come from {row['signed_by_others']}"))
            if "istio-csr" in row["signed_by_others"]:
                findings.append(ca.check_csr_id_before_rename(name, row["others_cluster_id"]))
            continue
        there = certs.judge(
            row["cacerts"] == "yes", "it is there" if row["cacerts"] == "yes" else "it is not there", "run stage 04"
        )
        findings.append(awaits(there, mode, "04 trust"))
    findings += installers.check_installers(mesh, facts.installers, facts.identity)
    findings += cluster_id_rename.check_former(facts.planes, facts.identities, drop_alias=drop_alias)
    findings += check_restarts(mesh, facts)
    return [*findings, *restarts.check(mesh, facts.new_pods, workloads.stale(mesh, facts.workloads))]


def check_tool(mesh: Mesh, facts: InstallFacts) -> Iterator[Finding]:
    """MK501: the istioctl at hand is of the version that the mesh file wants."""
    wanted = mesh.spec.istio.version
    ask = Question("MK501", "istioctl is of the wanted version", "this machine", wanted or "any")
    if mesh.spec.istio.installer == "none":
        yield ask.answer(Verdict.SKIPPED, "istio.installer is none: nothing is installed by istioctl")
        return
    if facts.istioctl_missing:
        yield ask.fail(facts.istioctl, "install that version of istioctl, or put it on the PATH")
        return
    good = versions.agree(facts.istioctl, wanted) if wanted else True
    remedy = f"install istioctl {wanted}, or say `istio.version: {facts.istioctl}`"
    if good is None:
        yield ask.unknown(
            f"{facts.istioctl or 'a version that is not known'}: cannot be compared with {wanted}", remedy
        )
    else:
        yield ask.judge(good, facts.istioctl, remedy)


def check_running(mesh: Mesh, facts: InstallFacts) -> Iterator[Finding]:
    """MK502: no control plane changes its version here: an upgrade is a change of its own."""
    running = facts.versions[facts.versions["component"] == "istiod"]
    by_istioctl = mesh.spec.istio.installer != "none"
    wanted = facts.istioctl if by_istioctl else mesh.spec.istio.version
    for name in mesh.clusters:
        ask = Question("MK502", "this is no upgrade", name, f"no istiod, or istiod {wanted or 'of any version'}")
        rows = running[running["cluster"] == name]
        known = facts.revisions.get(name)
        if isinstance(known, ControlPlanes) and (own := known.pods(mesh.spec.istio.revision)):
            # Of another revision this stage changes nothing: MK109 says whether there may be one.
            rows = rows[rows["name"].isin(own) | (rows["reason"] != "")]
        if rows.empty:
            yield ask.answer(Verdict.PASS, "no istiod")
        for row in rows.to_dict("records"):
            if row["reason"]:
                yield ask.unknown(row["reason"])
            elif not wanted:
                yield ask.answer(Verdict.SKIPPED, f"istiod {row['version']}: its owner's choice, see MK207")
            elif by_istioctl and facts.istioctl_missing:
                yield ask.unknown(f"istiod {row['version']}, and no istioctl to compare", "see MK501")
            else:
                other = "use its version of istioctl" if by_istioctl else "say its version in istio.version"
                remedy = f"upgrade this cluster first, or {other}"
                same = versions.agree(row["version"], wanted)
                observed = f"istiod {row['version']}"
                yield ask.unknown(observed, remedy) if same is None else ask.judge(same, observed, remedy)


def check_restarts(mesh: Mesh, facts: InstallFacts) -> Iterator[Finding]:
    """MK506: every workload that must be restarted can be, without an interruption.

    Workloads that a restart would not recreate are named, and not restarted.
    """
    for row in workloads.stale(mesh, facts.workloads).to_dict("records"):
        what = f": {row['kind']} {row['namespace']}/{row['workload']}" if row["workload"] else ""
        ask = Question(
            "MK506",
            "workloads restart without interruption",
            row["cluster"] + what,
            "a rolling restart with a second pod",
        )
        if row["reason"]:
            yield ask.unknown(row["reason"])
            continue
        remote = row["remote_risk"] if _has_remote_clients(mesh, facts, row["cluster"]) else ""
        remedy = "give it a rolling update with a second pod and a preStop hook, or restart it at a time that suits you"
        if row["stuck"]:
            remedy = "it is left as it is: recreate its pods (`kubectl rollout resume`, or delete them) after this"
        elif remote:
            remedy = f"{workloads.DRAIN}; {remedy}" if row["risk"] else workloads.DRAIN
        risk = "; ".join(filter(None, [row["risk"], "" if row["stuck"] else remote]))
        yield ask.judge(not risk, risk or "rolling", remedy, otherwise=Verdict.WARN)


def _has_remote_clients(mesh: Mesh, facts: InstallFacts, name: str) -> bool:
    """Return whether an istiod of another network reads this cluster, so that clients come through its gateway."""
    ids = {name, *facts.planes.loc[facts.planes["cluster"] == name, "cluster_id"]}
    readers = {one.cluster for one in facts.readers or () if one.secret and one.target in ids}
    return any(mesh.spec.crosses(reader, name) for reader in readers)


def plan(mesh: Mesh, facts: InstallFacts, *, drop_alias: bool = False) -> Plan:
    """Plan the installation of every cluster, the restarts that follow, and the probe's workloads where missing.

    With `drop_alias`, a control plane that was renamed before no longer accepts its former id.
    """
    held = topology.stops(mesh, facts.identity)
    wanted = Plan(mesh, STAGE, withheld=held or checks_revisions.stops(mesh, facts.revisions))
    if wanted.withheld:
        return wanted
    # Clusters without Istio first: nothing of theirs can suffer, and what is wrong with the tool shows there.
    own = [row for row in facts.planes.to_dict("records") if row["cluster"] not in mesh.spec.remotes]
    by_age = sorted((row for row in own if not row["reason"]), key=lambda row: row["istiod"] != "")
    addresses = (
        mesh_networks(mesh.spec, gateways.gateways(mesh), of_mesh(mesh)) if mesh.spec.topology.mesh_networks else None
    )
    for row in by_age:
        name, going = row["cluster"], cluster_id_rename.dropped(row, drop_alias=drop_alias)
        alias = "" if going == row["alias"] else row["alias"]
        gate = cluster_id_rename.unclaimed(mesh, name, going) if going else None
        if mesh.spec.istio.installer == "none":
            by_owner.want(mesh, wanted, row, facts.installers, alias=alias, gate=gate)
        elif facts.installers.get(name) in ("", inventory.ISTIOCTL):
            document = istioctl.operator(mesh.spec, name, alias=alias, mesh_networks=addresses)
            new = "a control plane of its own" if not row["istiod"] else f"id {row['becomes']}, network and mesh id"
            wanted.install(name, document, f"no longer accepts {going} as its id" if going else new, gate=gate)
    for row in by_age:
        _offer(mesh, wanted, row["cluster"])
    _restarts(mesh, facts, wanted)
    probe_workloads.want(mesh, wanted, mesh.spec.primaries)  # in a remote, what needs a sidecar comes in stage 07
    return wanted


def plan_remotes(mesh: Mesh, facts: InstallFacts) -> Plan:
    """Plan the profile `remote` of each cluster that another's istiod is to serve: no pod, but ways to that istiod.

    The address at which the primary offers it is known once the plan before is applied; until then it is shown without.
    Its gateway and the probe's workloads come in stage 07, when that istiod can inject their pods.
    """
    wanted = Plan(mesh, STAGE, withheld=topology.stops(mesh, facts.identity))
    found = mesh.each(lambda cluster: remote_install.offered(cluster, mesh.root_namespace))
    theirs = {name for name, others in mesh.each(remote_install.by_others).items() if others is True}
    for name in [] if wanted.withheld else (one for one in mesh.spec.remotes if one not in theirs):
        primary = mesh.spec.primary_of(name)
        at = found[primary]
        address = "" if isinstance(at, Unknown) else at[1]
        document = remote_install.operator(mesh.spec, name, address or remote_install.TO_COME)
        before = len(wanted.changes)
        wanted.install(name, document, f"{primary}'s istiod serves {name}: webhooks and a Service that lead there")
        if not address and len(wanted.changes) > before:
            why = at.reason if isinstance(at, Unknown) else f"cannot be made before {primary}'s istiod has an address"
            wanted.changes[-1].problem = why
    return wanted


def _offer(mesh: Mesh, wanted: Plan, name: str) -> None:
    """Want a Service by which a primary's remotes reach its istiods, unless somebody offers them already."""
    remotes, root = mesh.spec.remotes_of(name), mesh.root_namespace
    if remotes and remote_install.offered(mesh.clusters[name], root)[0] in ("", remote_install.OFFER):
        wait = remote_install.has_address(mesh.clusters[name], root)
        why = f"{', '.join(remotes)} reach its istiod there, on two ports"
        wanted.apply(name, remote_install.offer(mesh.spec), why, wait=wait)


def _restarts(mesh: Mesh, facts: InstallFacts, wanted: Plan) -> None:
    rows = workloads.stale(mesh, facts.workloads).to_dict("records")
    reinstalled = {"istiod", "istio-ingressgateway", "istio-egressgateway"}
    for row in rows:
        by_istioctl = mesh.spec.istio.installer == facts.installers.get(row["cluster"]) == inventory.ISTIOCTL
        own = row["namespace"] == mesh.root_namespace and row["workload"] in reinstalled
        if row["workload"] and not (row["stuck"] or (own and by_istioctl)):
            network = "no network" if row["networks"] == "-" else f"network {row['networks']}"
            claim = f"its proxies claim {row['cluster_ids']}, {network} and mesh {row['mesh_ids']}"
            wanted.restart(row["cluster"], row["kind"], row["namespace"], row["workload"], claim)


def prove(
    mesh: Mesh, facts: InstallFacts, done: Sequence[Plan], now: InstallFacts, *, drop_alias: bool = False
) -> list[Finding]:
    """Judge what is there `now`: identities, versions, what each proxy claims, xDS, the probe's workloads, chains.

    MK520: nothing is proved of a plan that was not applied.
    """
    pending = any(one.pending for one in done)
    gone = cluster_id_rename.check_dropped(mesh, facts.planes, drop_alias=drop_alias, pending=pending)
    if pending:
        known = ("MK520", "control planes are as the mesh file says", "all clusters", "applied and proved")
        return [*(finding for one in done for finding in refused(one)), planned(*known), *gone]
    identity = versions.identity(mesh)
    findings = [*control_plane.check_istiods(mesh, identity, joining=True), *gone]
    findings += cluster_id_rename.check_claims(mesh, now.identities)
    seen = proxies_reading.look(mesh)
    chains = trust_store.certificates(mesh)
    found = [*proxies.check_proxies(mesh, seen), *certificates.check_roots(mesh, chains)]
    findings += [*control_plane.of_proxies(mesh, chains, found), *proxies.check_versions(mesh, seen)]
    return [*findings, *probe_workloads.check(mesh, mesh.spec.primaries)]


class Install(Stage):
    """Stage 05. With `drop_alias` a control plane that was renamed before no longer accepts its former id."""

    name = STAGE
    planes = Shows["Install"](tables.PLANES, lambda stage: stage.facts.planes)
    versions = Shows["Install"](tables.VERSIONS, lambda stage: stage.facts.versions)
    workloads = Shows["Install"](tables.WORKLOADS, lambda stage: stage.facts.workloads)
    left = Shows["Install"](tables.LEFT, lambda stage: stage.remaining(stage.facts))
    workloads_after = Shows["Install"](tables.WORKLOADS, lambda stage: stage.after.workloads)
    left_after = Shows["Install"](tables.LEFT_AFTER, lambda stage: stage.remaining(stage.after))

    def __init__(
        self, mesh: str | Path | MeshSpec | Mesh, *, mode: str = "plan", journal: str = "", drop_alias: bool = False
    ) -> None:
        parameters.require_bool("drop_alias", drop_alias)
        super().__init__(mesh, mode=mode, journal=journal)
        self.drop_alias = drop_alias

    @property
    def istioctl(self) -> Record:
        """The version of istioctl on this machine, or why there is none."""
        return Record("istioctl", self.facts.istioctl)

    def remaining(self, facts: InstallFacts) -> pd.DataFrame:
        """Return the proxies that claim another id, network or mesh id than the mesh file has, or cannot be read."""
        return cluster_id_rename.left(self.mesh, facts.identities)

    def _look(self) -> InstallFacts:
        return look(self.mesh)

    def _check(self) -> Iterable[Finding]:
        return check(self.mesh, self.facts, self.mode, drop_alias=self.drop_alias)

    def _plans(self) -> Iterator[Plan]:
        yield plan(self.mesh, self.facts, drop_alias=self.drop_alias)
        if self.mesh.spec.remotes:
            yield plan_remotes(self.mesh, self.facts)

    def _prove(self) -> Iterable[Finding]:
        self.after = self._read_once()
        return prove(self.mesh, self.facts, self.plans, self.after, drop_alias=self.drop_alias)
