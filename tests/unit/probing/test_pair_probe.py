"""The probe's pure parts: what curl and httpbin tell, and which pods are meant."""

from __future__ import annotations

import json
import math
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshkit.errors import UnreachableError
from meshkit.istio.control_plane.istiods_and_proxies import Proxy
from meshkit.kube.mesh import Unknown
from meshkit.kube.pods import main_container, workload
from meshkit.probing.curl import Answer, curl, failure_text, hostname, parse_answers, parse_xfcc
from meshkit.probing.pair_probe import (
    LEAST_PATIENCE,
    PATIENCE,
    ProbeSession,
    ProbeTarget,
    cluster_of_pod,
    find_side,
    sample,
)
from tests.support.healthy import mesh


def line(status: str = "200", seconds: str = "0.042", error: str = "") -> str:
    """Return our line of curl's output."""
    return f'@meshkit {{"status":"{status}","seconds":"{seconds}","error":"{error}"}}'


def test_answers_are_bodies_each_followed_by_its_outcome() -> None:
    """In their order, with what curl said where none came."""
    output = "\n".join(
        ['{"hostname": "a"}', line(), "", line("000", "5.001", 'it said "no": timed out'), "x", "y", line("503")]
    )
    assert parse_answers(output) == [
        Answer(200, 0.042, '{"hostname": "a"}', ""),
        Answer(0, 5.001, "", 'it said "no": timed out'),
        Answer(503, 0.042, "x\ny", ""),
    ]


def test_an_outcome_that_cannot_be_read_is_no_answer() -> None:
    """It is never taken for a good one, and its text is kept."""
    (answer,) = parse_answers("@meshkit something else")
    assert (answer.status, answer.error) == (0, "@meshkit something else")
    assert math.isnan(answer.seconds)


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["C", "Z"]), max_size=30), max_size=8))
def test_any_bodies_come_back_in_order(bodies: list[str]) -> None:
    """Whatever they say, unless they forge our mark at the begin of a line."""
    wanted = [body for body in bodies if not body.startswith("@meshkit")]
    output = "\n".join(f"{body}\n{line()}" for body in wanted)
    assert [answer.body for answer in parse_answers(output)] == wanted


def test_curl_asks_once_or_in_a_row() -> None:
    """A range in the URL keeps the connection open, as fortio's and wrk's do."""
    assert curl("http://a:1/b", 1, 5)[-1] == "http://a:1/b"
    assert curl("http://a:1/b", 9, 5)[-1] == "http://a:1/b?[1-9]"
    assert "--max-time 5 " in " ".join(curl("http://a:1/b", 9, 5))
    assert "--fail-early" in curl("http://a:1/b", 9, 5, fail_early=True)
    assert "--fail-early" not in curl("http://a:1/b", 9, 5)


@pytest.mark.parametrize(
    ("body", "name"),
    [('{"hostname": "httpbin-1"}', "httpbin-1"), ("{}", ""), ("[]", ""), ("<html>", ""), ("", "")],
)
def test_who_answered_is_known_only_where_it_says_so(body: str, name: str) -> None:
    """Everything else is nobody."""
    assert hostname(body) == name


XFCC = 'By=spiffe://b/ns/sample/sa/httpbin;Hash=ab12;Subject="";URI=spiffe://a/ns/sample/sa/sleep'


@pytest.mark.parametrize("value", [XFCC, [XFCC], f"By=spiffe://x;URI=spiffe://forged,{XFCC}"])
def test_identities_are_those_that_the_last_proxy_saw(value: str | list[str]) -> None:
    """What a client sent in the header itself stands before it, and does not count."""
    peer = parse_xfcc(json.dumps({"headers": {"X-Forwarded-Client-Cert": value}}))
    assert peer["By"] == "spiffe://b/ns/sample/sa/httpbin"
    assert peer["URI"] == "spiffe://a/ns/sample/sa/sleep"
    assert peer["Hash"] == "ab12"


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"headers": 1}', '{"headers": {}}', "<html>"])
def test_without_the_header_there_is_no_identity(body: str) -> None:
    """A plain-text call shows nobody."""
    assert parse_xfcc(body).get("URI", "") == ""


def test_pods_of_one_name_in_two_clusters_are_of_neither() -> None:
    """A StatefulSet's: the name does not show who answered."""

    def side(*names: str) -> ProbeTarget:
        servers = tuple(Proxy(cast("Any", None), "sample", name, "sidecar", "", ready=True) for name in names)
        return ProbeTarget(cast("Any", None), cast("Any", None), "", servers, {}, 80)

    sides = {"east": side("httpbin-0", "a"), "west": side("httpbin-0", "b"), "north": Unknown("no answer")}
    assert cluster_of_pod(sides) == {"a": "east", "b": "west"}


def test_a_service_without_a_port_is_reported() -> None:
    """Headless ones, and names of others, may have none."""
    cluster = cast("Any", SimpleNamespace(find=lambda *_: {"spec": {"clusterIP": "None"}}, where="cluster east"))
    with pytest.raises(UnreachableError, match="has no port"):
        find_side(cluster, mesh())


def test_a_bad_answer_is_reported_in_one_line() -> None:
    """The status, and what curl or Envoy said."""
    assert failure_text(Answer(503, 0.1, "no healthy\n upstream", "")) == "503: no healthy upstream"
    assert failure_text(Answer(0, 5.0, "", "timed out")) == "no answer: timed out"


def test_a_sample_without_an_answer_has_no_time() -> None:
    """A timeout's five seconds are no latency; an error's time is one, and says what failed."""
    assert math.isnan(sample("warm", Answer(0, 5.0, "", "timed out"))["seconds"])
    bad = sample("warm", Answer(503, 0.1, "overflow", ""))
    assert (bad["seconds"], bad["answered_by"], bad["error"]) == (0.1, "", "503: overflow")


def pod(owner: tuple[str, str] | None = None, **labels: str) -> dict[str, Any]:
    """Return a pod with an owner."""
    owners = [{"kind": owner[0], "name": owner[1]}] if owner else []
    return {"metadata": {"ownerReferences": owners, "labels": labels}}


@pytest.mark.parametrize(
    ("found", "name"),
    [
        (pod(("ReplicaSet", "sleep-97b4f5858")), "sleep"),
        (pod(("ReplicaSet", "my-app-6f9c8d7b5f")), "my-app"),
        (pod(("StatefulSet", "db")), "db"),
        (pod(app="lonely"), "lonely"),
        (pod(), ""),
        ({}, ""),
    ],
)
def test_a_pods_workload_is_its_deployment_by_name(found: dict[str, Any], name: str) -> None:
    """As Istio derives it."""
    assert workload(found) == name


def test_the_container_is_the_one_that_kubectl_would_take() -> None:
    """By annotation, else the first that is not the proxy."""
    containers = [{"name": "istio-proxy"}, {"name": "sleep"}, {"name": "other"}]
    plain: dict[str, Any] = {"metadata": {}, "spec": {"containers": containers}}
    assert main_container(plain) == "sleep"
    named = {**plain, "metadata": {"annotations": {"kubectl.kubernetes.io/default-container": "other"}}}
    assert main_container(named) == "other"


def test_patience_with_a_pair_depends_on_how_long_the_clients_others_took() -> None:
    """All of it while nothing works; some while others work at once; more where all is slow."""
    probing = ProbeSession(mesh(), "abc123")
    assert probing._patience("east") == PATIENCE
    probing.worked_after["east"] = 0.5
    assert probing._patience("east") == LEAST_PATIENCE
    probing.worked_after["east"] = 4.0
    assert probing._patience("east") == 16.0
    assert probing._patience("west") == PATIENCE


def test_only_where_services_were_made_are_they_said_to_be_left() -> None:
    """A cluster that was silent from the start has none."""
    quiet = mesh()
    quiet.each(lambda _: time.sleep(1), deadline=0.05)
    ProbeSession(quiet, "abc123").remove()
    with pytest.raises(UnreachableError, match=r"Services are still in west \(no answer within"):
        ProbeSession(quiet, "abc123", entered={"west"}).remove()


def test_pairs_of_clusters_that_cannot_take_part_are_rows_that_say_why() -> None:
    """Nothing was sent, nothing is left out, and the types are those of any other table."""
    probing = ProbeSession(mesh(), "abc123", {"east": Unknown("no sleep"), "west": Unknown("it is dead")})
    calls, samples = probing.calls(), probing.latency(5)
    assert list(zip(calls["client"], calls["server"], strict=True)) == probing.all_pairs()
    assert set(calls["sent"]) == {0}
    assert all("no sleep" in error or "it is dead" in error for error in [*calls["error"], *samples["error"]])
    assert samples["seconds"].isna().all()
    assert set(samples["phase"]) == {""}
