"""What a credential lacks of the published roles, by the API server's own word (SelfSubjectAccessReview)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any, Final

import pandas as pd

from meshkit.access.roles import ROLES, Places, Right, Role, rights
from meshkit.errors import UnreachableError
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Unknown, gather
from meshkit.kube.transport import NotFoundError
from meshkit.tables import Table, text

DEADLINE: Final = 60.0
ACCESS: Final = Table(
    "access",
    "What a credential lacks of the roles that meshkit needs",
    {
        "cluster": text("its cluster"),
        "role": text("read, or apply: what is needed besides; `meshkit access` prints them"),
        "verdict": text("pass; fail: of the role read; warn: of the role apply; unknown"),
        "namespace": text("where the right is needed; empty: in all of the cluster"),
        "resource": text("`deployments.apps`, `pods/exec`; empty where nothing is lacking"),
        "verbs": text("what is lacking of it"),
        "names": text("of which objects only, if not of all"),
        "reason": text("why a cluster could not be asked"),
    },
    key=("cluster", "role", "namespace", "resource", "names"),
)


def lacking(clusters: Mapping[str, Cluster], places: Places, roles: Iterable[Role] = ROLES) -> pd.DataFrame:
    """Return one row for each resource of which a right is lacking, or one that passes for each complete role.

    Only kinds are asked for that the API server serves. A cluster that does not answer is one row for each role.
    """
    asked = [(name, role) for name in clusters for role in roles]
    answers = gather(
        lambda one: _missing(clusters[one[0]].remembering(), rights(one[1], places)), asked, deadline=DEADLINE
    )
    rows = [
        {"cluster": name, "role": role, **row}
        for (name, role), answer in zip(asked, answers, strict=True)
        for row in _rows(role, answer)
    ]
    return ACCESS.frame(rows, in_order=True)


def brief(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that say something, without the names: lines for a terminal."""
    return table[[name for name in table if name != "names" and (table[name] != "").any()]]


def _rows(role: Role, missing: list[Right] | Unknown) -> Iterator[dict[str, Any]]:
    if isinstance(missing, Unknown):
        yield {"verdict": "unknown", "reason": missing.reason}
        return
    if not missing:
        yield {"verdict": "pass"}
    for (namespace, resource), found in groupby(missing, lambda right: (right.namespace, right.resource)):
        each = list(found)
        verbs, names = (sorted({getattr(one, field) for one in each} - {""}) for field in ("verb", "name"))
        place = {"namespace": namespace, "resource": resource, "verbs": ", ".join(verbs), "names": ", ".join(names)}
        yield {**place, "verdict": "fail" if role == "read" else "warn"}


def _missing(cluster: Cluster, wanted: Iterable[Right]) -> list[Right]:
    """Return the rights that a credential does not have, of the kinds that the API server serves.

    Raises:
        UnreachableError: it did not answer one of the questions.
    """
    asked = [right for one in wanted for right in _each(cluster, one)]
    answers = gather(
        lambda one: cluster.can_i(one.verb, one.resource, one.namespace, name=one.name), asked, deadline=DEADLINE
    )
    if lost := next((answer for answer in answers if isinstance(answer, Unknown)), None):
        raise UnreachableError(lost.reason, where=cluster.where)
    return [right for right, may in zip(asked, answers, strict=True) if not may]


def _each(cluster: Cluster, right: Right) -> Iterator[Right]:
    """Yield a right for each kind that it is about: of a whole group all that are served, which one may hold singly."""
    kind, _, group = right.resource.partition(".")
    if kind == "*" and group != "*":
        yield from (replace(right, resource=one) for one in cluster.kinds(lambda name: name == group))
    elif kind == "*" or _serves(cluster, right.resource.partition("/")[0]):
        yield right


def _serves(cluster: Cluster, kind: str) -> bool:
    try:
        return bool(cluster.resource(kind))
    except NotFoundError:
        return False
