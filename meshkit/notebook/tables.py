"""The index of all tables: `tables.IDENTITY` is the `Table` of the module that reads it.

`python -m meshkit.notebook.tables` prints docs/tables.md from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Final

from meshkit.tables import Table

MODULES: Final = {
    "access.lacking": ("ACCESS",),
    "changes.change": ("CHANGES", "PLAN", "REHEARSAL"),
    "checks.audit": ("FINDINGS",),
    "checks.comparison": ("FINDING_CHANGES",),
    "checks.pair_table": ("LINKS",),
    "checks.prometheus": ("PAIRS",),
    "checks.service_merge": ("LOCAL",),
    "checks.topologies": ("TOPOLOGIES",),
    "checks.topology": ("DECIDING",),
    "istio.ca.ca_inventory": ("CA_FILES",),
    "istio.ca.istiod_ca": ("AUTHORITIES", "SIGNERS", "SIGNERS_AFTER"),
    "istio.ca.trust_store": ("CERTIFICATES", "ROOTS"),
    "istio.config.network_policies": ("NETWORK_POLICIES",),
    "istio.config.services": ("MERGING",),
    "istio.control_plane.inventory": ("INVENTORY", "ADDRESSES", "LOAD_BALANCERS", "ROOT_NAMESPACES", "CLOCKS"),
    "istio.control_plane.versions": ("IDENTITY", "VERSIONS"),
    "istio.multicluster.gateway_exposure": ("OPENED",),
    "istio.multicluster.gateways": ("GATEWAYS", "OFFERED", "GATEWAYS_SEEN"),
    "istio.multicluster.remote_secret_manifest": ("READERS",),
    "istio.multicluster.remote_secrets": ("REMOTE_CLUSTERS", "REMOTE_SECRETS"),
    "istio.proxies.injection": ("INJECTION",),
    "istio.proxies.proxy_status": ("PROXY_STATUS", "CLAIMS"),
    "istio.proxies.status_summary": ("PROXIES", "GROUPS", "TREND"),
    "istio.proxies.workloads": ("WORKLOADS",),
    "probing.api_server_reach": ("REACH",),
    "probing.client_view": ("HELLOS",),
    "probing.failover_state": ("RULES", "SERVERS", "ENDPOINTS"),
    "probing.merged_service": ("MERGED",),
    "probing.pod_reach": ("POD_TO_POD", "API_NAMES"),
    "probing.request_log": ("TRAFFIC", "REQUESTS", "FAILED"),
    "probing.statistics": ("LATENCY", "ANSWERS"),
    "runs.latency": ("PHASES",),
    "runs.traffic_report": ("CHANGES_BY_TIME",),
    "stages.backup.stage": ("BACKUP", "BACKUP_SECRETS", "ARCHIVE"),
    "stages.install.cluster_id_rename": ("LEFT", "LEFT_AFTER"),
    "stages.install.stage": ("PLANES",),
    "stages.rollback.stage": ("JOURNAL",),
    "stages.troubleshoot": ("SYMPTOMS", "WALK", "CAUSES", "CURE", "LOGS"),
    "stages.trust.proof": ("CHAINS", "WITNESSES"),
}
"""The tables of each module of meshkit."""
_MODULE_OF: Final = {name: module for module, names in MODULES.items() for name in names}
COMMANDS: Final = {
    "ACCESS": "meshkit doctor",
    "FINDINGS": "meshkit check",
    "FINDING_CHANGES": "meshkit check --since, meshkit record diff",
    "GROUPS": "meshkit proxies",
    "TREND": "meshkit proxies --since",
    "CA_FILES": "meshkit ca show",
}
"""Tables that a command prints, and no run has."""


def __getattr__(name: str) -> Table:
    # Loaded when it is named: the stages name tables here, and have tables of their own.
    if name not in _MODULE_OF:
        raise AttributeError(f"no table {name}; there are {', '.join(sorted(_MODULE_OF))}")
    table: Table = getattr(import_module(f"meshkit.{_MODULE_OF[name]}"), name)
    return table


def page() -> str:
    """Return docs/tables.md."""
    of_runs = [__getattr__(name) for name in _MODULE_OF if name not in COMMANDS]
    lines = [
        "# Tables",
        "",
        "The tables of runs and commands, printed by `make checks` from their schemas. A run has each table of its",
        "stages as `tables/NAME.csv`, with all rows and columns; notebooks and the report show fewer. By the key,",
        "which identifies a row, the report finds what changed since the run before. Moments are in UTC.",
        "",
        "## Of runs",
    ]
    first = {id(table.columns): table.name for table in reversed(of_runs)}
    for table in sorted(of_runs, key=lambda table: table.name):
        lines += _section(table, first)
    lines += ["", "## Of commands"]
    for name, command in COMMANDS.items():
        lines += _section(__getattr__(name), first, f" (`{command}`)")
    return "\n".join(lines)


def _section(table: Table, first: Mapping[int, str], by: str = "") -> Iterator[str]:
    yield from ("", f"### {table.name}", "", f"{table.caption}{by}.")
    if table.key:
        yield f"Key: {', '.join(f'`{name}`' for name in table.key)}."
    known = first.get(id(table.columns), table.name)
    yield from ("", table.markdown() if known == table.name else f"Columns: those of [{known}](#{known}).")


if __name__ == "__main__":
    print(page())
