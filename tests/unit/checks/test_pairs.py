"""The N x N truth: each link of a pair can pass, fail and be unknown; the first broken one is named, no other."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from meshkit.checks import pair_table, pairs
from meshkit.checks.finding import Verdict, overall
from meshkit.checks.question import arrow
from meshkit.istio.multicluster import endpoint_shards, remote_secrets
from meshkit.istio.reading import Unread
from meshkit.kube.mesh import Mesh
from meshkit.notebook.terminal import render
from meshkit.probing import api_server_reach, client_view, pair_survey, sni_probe
from meshkit.snapshot.snapshot import PAIRS, Snapshot
from meshkit.spec import MeshSpec
from tests.support import healthy
from tests.support.api_server import write_kubeconfig
from tests.support.healthy import OTHER, address, judged, mesh
from tests.support.sick import Sickness, sick_api_server

PASS, FAIL, UNKNOWN, WARN, SKIPPED = Verdict.PASS, Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN, Verdict.SKIPPED
PAIR, BACK = "east → west", "west → east"
Row = dict[str, Any]


def shard(name: str) -> Row:
    """Return what a cluster's istiod holds of the other."""
    held = {"known": f"10.0.0.{len(name)}", "ready": f"10.0.0.{len(name)}"}
    return {"cluster": name, "istiod": f"istiod-{name}", "target": OTHER[name], **held}


def reached(name: str) -> Row:
    """Return that the other cluster's API server answers."""
    asked = {"server": "https://192.0.2.7:6443", "asked_from": f"istiod-{name}", "answer": "401"}
    return {"cluster": name, "target": OTHER[name], **asked}


def way(name: str) -> Row:
    """Return how a cluster's client reaches the other."""
    known = {"endpoints": f"{address(OTHER[name])}:15443", "way": "gateway", "local": 1, "ready": 1}
    return {"client": name, "server": OTHER[name], "pod": "sleep", **known}


def hello_row(name: str) -> Row:
    """Return what answers a hello at the other's gateway."""
    shown = {"heard": "open", "identity": "spiffe://x/ns/sample/sa/httpbin", "sha256": "cc33", "anchor": healthy.ROOT}
    return {"client": name, "server": OTHER[name], "address": address(OTHER[name]), "port": 15443, **shown}


MAKERS = {
    "shards": (shard, endpoint_shards.ENDPOINT_SHARDS.frame),
    "reach": (reached, api_server_reach.REACH.frame),
    "paths": (way, client_view.PATHS.frame),
    "hellos": (hello_row, client_view.HELLOS.frame),
}
READINGS = {"shards": "endpoint_shards", "reach": "remote_secret_reach"}


def facts(spoiled: str = "", change: Row | None = None, *, none: bool = False) -> Snapshot:
    """Return the facts of a healthy mesh, one thing changed in the row of east; `none`: east has no row there."""
    tables = {}
    for name, (maker, columns) in MAKERS.items():
        rows = [maker(cluster) for cluster in OTHER]
        if name == spoiled:
            rows = rows[1:] if none else [{**rows[0], **(change or {})}, rows[1]]
        tables[name] = columns(rows)
    known = healthy.facts(spoiled, change, none=none) if spoiled in healthy.MAKERS else healthy.facts()
    return known.with_readings(service_views=(), **{READINGS.get(name, name): rows for name, rows in tables.items()})


def sent(client: str = "", **change: Any) -> pd.DataFrame:
    """Return good traffic, but for one client's."""
    good = {"sent": 20, "answered": 20, "statuses": "200×20", "answered_by": "httpbin"}
    times = {"p50_ms": 45.0, "p95_ms": 50.0, "p99_ms": 60.0}
    rows = [{"client": a, "server": b, **good, "answered_in": b, **times} for a, b in OTHER.items()]
    return pair_survey.PAIR_TRAFFIC.frame([{**r, **(change if r["client"] == client else {})} for r in rows])


def line(known: Snapshot, traffic: pd.DataFrame | None = None, pair: str = PAIR) -> Row:
    """Return the line of a pair, as the terminal has it, and why it is broken."""
    rows = pair_table.table(mesh(), known, pairs.check_all(mesh(), known, traffic), traffic)
    shown = pair_table.brief(rows).to_dict("records")
    lines = {arrow(row["client"], row["server"]): {"broken": "", **row, "why": why}
             for row, why in zip(shown, rows["why"], strict=True)}  # fmt: skip
    return lines[pair]


def test_a_healthy_mesh_has_every_link_and_every_link_is_whole() -> None:
    """And each check of a link speaks of each pair."""
    findings = pairs.check_all(mesh(), facts(), sent())
    assert overall(findings) is PASS
    cells = pair_table.cells(mesh(), findings)
    # One replica cannot disagree, which is no pass.
    assert set(cells[cells["cell"] == "replicas"]["verdict"]) == {"skipped"}
    assert set(cells[cells["cell"] != "replicas"]["verdict"]) == {"pass"}
    assert list(cells["cell"]) == [*pair_table.CELLS, *pair_table.CELLS]
    for ids in pair_table.CELLS.values():
        for number in ids:
            subjects = {f.subject for f in findings if f.id == number}
            assert subjects == ({"east", "west"} if number == "MK805" else {PAIR, BACK}), number


SPOILED = [
    ("MK834", "server", "reach", {"answer": "none", "detail": "timed out"}, FAIL),
    ("MK834", "server", "reach", {"answer": "UNKNOWN", "detail": "no curl"}, UNKNOWN),
    ("MK834", "server", "reach", {"answer": "503"}, UNKNOWN),
    ("MK834", "server", "reach", {"answer": "429"}, UNKNOWN),
    ("MK834", "server", "secrets", {"proxied": True}, UNKNOWN),
    ("MK835", "server", "reach", {"answer": "refused", "detail": "no alternative name matches"}, FAIL),
    ("MK835", "server", "reach", {"detail": f"{api_server_reach.UNCHECKED}: no answer"}, UNKNOWN),
    ("MK842", "sync", "shards", {"known": ""}, FAIL),
    ("MK842", "sync", "shards", {"known": "", "ready": ""}, UNKNOWN),
    ("MK842", "sync", "shards", {"known": "10.9.9.9"}, FAIL),
    ("MK842", "sync", "shards", {"known": "10.0.0.4,10.9.9.9"}, WARN),
    ("MK842", "sync", "shards", {"reason": "no answer"}, UNKNOWN),
    ("MK839", "endpoints", "paths", {"way": "pods", "endpoints": "10.0.0.7:8080"}, FAIL),
    ("MK839", "endpoints", "paths", {"way": "both"}, FAIL),
    ("MK839", "endpoints", "paths", {"way": "none"}, FAIL),
    ("MK839", "endpoints", "paths", {"way": "none", "ready": 0}, FAIL),
    ("MK839", "endpoints", "paths", {"way": "UNKNOWN", "reason": "no answer"}, UNKNOWN),
    ("MK840", "hello", "hellos", {"heard": "closed"}, FAIL),
    ("MK840", "hello", "hellos", {"heard": "refused"}, FAIL),
    ("MK840", "hello", "hellos", {"heard": "silent"}, FAIL),
    ("MK840", "hello", "hellos", {"heard": "no TLS"}, FAIL),
    ("MK840", "hello", "hellos", {"heard": "UNKNOWN", "reason": "no tool"}, UNKNOWN),
    ("MK840", "hello", "hellos", {"heard": "UNKNOWN", "reason": f"closed, {sni_probe.BY_SIDECAR}"}, WARN),
    ("MK841", "hello", "hellos", {"anchor": ""}, FAIL),
    ("MK841", "hello", "hellos", {"anchor": "", "reason": "no root is known"}, UNKNOWN),
    ("MK802", "secret", "secrets", {"key": "north", "annotation": "north", "leads_to": "north"}, FAIL),
    ("MK830", "secret", "secrets", {"annotation": "north"}, FAIL),
    ("MK832", "secret", "secrets", {"namespace": "default"}, FAIL),
    ("MK833", "server", "secrets", {"server": "https://localhost:6443"}, FAIL),
    ("MK803", "credential", "secrets", {"credential": "401", "leads_to": ""}, FAIL),
    ("MK836", "credential", "secrets", {"credential": "403"}, FAIL),
    ("MK804", "sync", "remotes", {"status": "timeout"}, FAIL),
    ("MK838", "gateway", "gateways_seen", {"address": "192.0.2.9"}, FAIL),
]


@pytest.mark.parametrize(("number", "cell", "spoiled", "change", "verdict"), SPOILED)
def test_what_is_spoiled_breaks_its_own_link_and_the_line_names_it(
    number: str, cell: str, spoiled: str, change: Row, verdict: Verdict
) -> None:
    """The check says so, the cell of that pair is the broken one, and the other pair is whole."""
    known = facts(spoiled, change)
    findings = pairs.check_all(mesh(), known)
    assert judged(findings, number, PAIR) == [verdict]
    assert all(f.remedy for f in findings if f.verdict is FAIL)
    shown = line(known)
    assert (shown["verdict"], shown["broken"]) == (verdict.value, cell)
    assert shown["why"].startswith(number)
    assert line(known, pair=BACK)["verdict"] == "pass"


@pytest.mark.parametrize("name", ["reach", "paths", "hellos", "shards"])
def test_a_table_without_a_row_is_no_pass(name: str) -> None:
    """Its cell is not whole: nothing was found out."""
    findings = pairs.check_all(mesh(), facts(name, none=True))
    cells = pair_table.cells(mesh(), findings).set_index(["client", "cell"])["verdict"]
    checks = {"reach": "MK834", "paths": "MK839", "hellos": "MK840", "shards": "MK842"}
    assert PASS not in judged(findings, checks[name], PAIR)
    expected = {"paths": ("endpoints", "unknown"), "hellos": ("hello", "unknown")}
    if name in expected:
        cell, verdict = expected[name]
        assert cells["east", cell] == verdict


def test_an_api_server_that_does_not_answer_us_either_is_unknown_not_unreachable() -> None:
    """A cluster that is down is not a firewall between two others."""
    known = facts("reach", {"answer": "none", "detail": "timed out"})
    rows = remote_secrets.secret_reading(known.remote_secrets.of("east"), [Unread("west", "no answer")])
    known = known.with_readings(remote_secrets=rows)
    assert judged(pairs.check_all(mesh(), known), "MK834", PAIR) == [UNKNOWN]


NONE_SEEN, NONE_OFFERED = {"reason": "it knows no gateway"}, {"reason": "no Service has the label"}


@pytest.mark.parametrize(
    ("seen", "offered", "verdict"),
    [
        (NONE_SEEN, NONE_OFFERED, FAIL),
        (NONE_SEEN, {"reason": "no answer within 10 s"}, UNKNOWN),
        ({"reason": "no answer within 10 s"}, NONE_OFFERED, UNKNOWN),
    ],
)
def test_no_gateway_to_try_is_a_failure_only_where_all_were_asked_who_could_name_one(
    seen: Row, offered: Row, verdict: Verdict
) -> None:
    """East's istiods, and west, which offers it."""
    known = facts("hellos", none=True)
    blind = {"cluster": "east", "istiod": "istiod-east", **seen}
    held = known.with_readings(
        gateways_seen=healthy.seen([blind, healthy.gateway_seen("west")]),
        gateways=healthy.offered([{"cluster": "west", **offered}, healthy.gateway("east")]),
    )
    assert judged(pairs.check_all(mesh(), held), "MK840", PAIR) == [verdict]


@pytest.mark.parametrize("word", ["closed", "refused", "silent", "no TLS"])
def test_a_hello_to_a_gateway_of_a_cluster_that_cannot_be_read_is_unknown(word: str) -> None:
    """Whether the address is still its gateway's is what nobody knows; that it answers is known all the same."""
    unread = {"cluster": "west", "reason": "no answer within 10 s"}
    known = facts("hellos", {"heard": word})
    held = healthy.offered([unread, healthy.gateway("east")])
    assert judged(pairs.check_all(mesh(), known.with_readings(gateways=held)), "MK840", PAIR) == [UNKNOWN]
    assert judged(pairs.check_all(mesh(), facts().with_readings(gateways=held)), "MK840", PAIR) == [PASS]


def two_replicas(**second: Row) -> Snapshot:
    """Return facts in which east has a second istiod; each table's row of it may differ."""
    known = facts()

    def rows(maker: Callable[[str], Row], name: str) -> list[Row]:
        return [*map(maker, OTHER), {**maker("east"), "istiod": "istiod-second", **second.get(name, {})}]

    return known.with_readings(
        remote_clusters=healthy.remotes(rows(healthy.remote, "remotes")),
        gateways_seen=healthy.seen(rows(healthy.gateway_seen, "gateways_seen")),
        endpoint_shards=endpoint_shards.ENDPOINT_SHARDS.frame(rows(shard, "shards")),
    )


@pytest.mark.parametrize(
    ("second", "verdict", "words"),
    [
        ({}, PASS, "2 replicas agree"),
        ({"remotes": {"status": "timeout"}}, FAIL, "sync: istiod-east synced, istiod-second timeout"),
        ({"remotes": {"status": "UNKNOWN", "reason": "dead"}}, UNKNOWN, "istiod-second: dead"),
        ({"gateways_seen": {"address": "192.0.2.9"}}, FAIL, "gateway: istiod-east 192.0.2.2, istiod-second 192.0.2.9"),
        ({"shards": {"known": ""}}, FAIL, "endpoints: istiod-east 10.0.0.4, istiod-second none"),
        ({"shards": {"reason": "dead"}}, UNKNOWN, "istiod-second: dead"),
        ({"gateways_seen": {"network": "", "address": "", "reason": "dead"}}, UNKNOWN, "istiod-second: dead"),
    ],
)
def test_replicas_that_disagree_are_a_finding_and_stand_in_rows_of_their_own(
    second: dict[str, Row], verdict: Verdict, words: str
) -> None:
    """Each replica has its row; what differs is reported with the names."""
    known = two_replicas(**second)
    findings = pairs.check_all(mesh(), known)
    (found,) = [f for f in findings if f.id == "MK837" and f.subject == PAIR]
    assert (found.verdict, found.observed) == (verdict, words)
    rows = pair_table.table(mesh(), known, findings)
    own = rows[rows["client"] == "east"]
    assert list(own["istiod"]) == ["istiod-east", "istiod-second"]
    if "status" in second.get("remotes", {}):
        assert list(own["sync"]) == ["synced", second["remotes"]["status"]]
    assert len(pair_table.brief(rows)) == 2, "one line for each pair all the same"


def test_traffic_is_judged_and_shown() -> None:
    """Answers from elsewhere, none at all, and not tried."""
    assert line(facts(), sent())["answered"] == "20/20"
    assert line(facts(), sent())["p50_ms"] == 45.0
    for change, verdict in (
        ({"answered_in": "east"}, "fail"),
        ({"answered": 0, "error": "503: no healthy upstream"}, "fail"),
        ({"sent": 0, "error": "no pod"}, "unknown"),
    ):
        shown = line(facts(), sent("east", **change))
        assert (shown["verdict"], shown["broken"]) == (verdict, "answer")


def test_a_clusters_own_gateway_counts_for_each_pair_that_it_serves() -> None:
    """West's gateway without pods breaks east → west, not west → east."""
    known = facts("gateways", {"ready": 0})
    assert line(known, pair=BACK)["why"].startswith("MK805")
    assert line(known)["verdict"] == "pass"


def test_a_flat_network_has_neither_gateways_nor_hellos_and_wants_pods() -> None:
    """Raw pod addresses are right there."""
    flat = mesh(topology={"network": "flat"})
    findings = pairs.check_all(flat, facts())
    assert not {f.id for f in findings} & {"MK805", "MK806", "MK838", "MK840", "MK841"}
    assert judged(findings, "MK839", PAIR) == [FAIL]
    direct = facts("paths", {"way": "pods"})
    assert judged(pairs.check_all(flat, direct), "MK839", PAIR) == [PASS]
    assert set(pair_table.cells(flat, findings)["cell"]) == set(pair_table.CELLS) - {"gateway", "hello", "answer"}


def test_the_table_has_its_columns_and_types_and_the_worst_pair_first() -> None:
    """Whatever is missing."""
    known = facts("secrets", {"credential": "401", "leads_to": ""})
    rows = pair_table.table(mesh(), known, pairs.check_all(mesh(), known), sent())
    assert {name: str(dtype) for name, dtype in rows.dtypes.items()} == pair_table.LINKS.dtypes
    assert list(rows["client"]) == ["east", "west"]
    first = rows.iloc[0]
    assert (first["credential"], first["rights"], first["sync"]) == ("401", "UNKNOWN", "synced")
    assert (first["api_address"], first["api_answer"], first["server_id"]) == ("private", "401", "west")
    empty = facts("secrets", none=True)
    assert len(pair_table.table(mesh(), empty, pairs.check_all(mesh(), empty))) == 2


def test_80_columns_hold_the_terminals_table_with_names_that_still_differ() -> None:
    """Whatever is wrong; the whole names are in the wide table."""
    known = facts("hellos", {"heard": "closed", "detail": "x" * 300})
    rows = pair_table.table(mesh(), known, pairs.check_all(mesh(), known), sent())
    long = {"east": "prod-eu-west-1-payments-blue", "west": "prod-eu-west-2-payments-blue"}
    rows = rows.replace({"client": long, "server": long})
    lines = render(pair_table.brief(rows), width=80).splitlines()
    assert max(map(len, lines)) <= 80, lines
    assert len({tuple(line.split()[:2]) for line in lines[1:]}) == 2
    assert "…" in lines[1]
    assert all(name in render(pair_table.wide(rows), "wide", width=80) for name in long.values())


@pytest.mark.parametrize("sickness", [500, 429, "refuses", "slow"])
def test_clusters_that_are_down_slow_or_sick_are_unknown_rows_within_the_deadline(
    tmp_path: Path, sickness: Sickness
) -> None:
    """Two fake API servers; every link of every pair is unknown, and nothing hangs."""
    with sick_api_server(sickness, slow_after=4.0) as server:
        kubeconfig = str(write_kubeconfig(tmp_path / "kubeconfig", server, None, dict.fromkeys(OTHER, "canary-token")))
        clusters = [{"name": n, "context": n, "kubeconfig": kubeconfig, "network": f"net-{n}"} for n in OTHER]
        sick = Mesh.open(MeshSpec.parse({"clusters": clusters}, where="test"), timeout=1.0)
        began = time.monotonic()
        known = Snapshot(sick).read(*PAIRS)
        findings = pairs.check_all(sick, known)
        rows = pair_table.table(sick, known, findings)
        assert time.monotonic() - began < 20
    assert list(rows["verdict"]) == ["unknown", "unknown"]
    assert set(pair_table.cells(sick, findings)["verdict"]) <= {"unknown", "skipped"}
    assert all(rows["reason"])
    assert "canary-token" not in rows.to_csv()
