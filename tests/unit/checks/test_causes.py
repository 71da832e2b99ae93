"""Which finding may be the reason for which other one, and in what order people read them."""

from __future__ import annotations

from dataclasses import replace

from meshkit.checks.causes import consequences, follows, in_order, reasons
from meshkit.checks.finding import Finding, Verdict

EAST_WEST, WEST_EAST = "east → west", "west → east"
CLUSTERS = ("east", "west", "east-2")


def finding(identifier: str, subject: str, verdict: Verdict = Verdict.FAIL) -> Finding:
    """Return a finding of which only these three matter."""
    return Finding(id=identifier, check="", subject=subject, expected="", observed="", verdict=verdict)


def order(*findings: Finding) -> list[tuple[str, str, str]]:
    """Return id, subject, and the id of the reason of each, in order."""
    return [(one.id, one.subject, cause.id if cause else "") for one, cause in in_order(findings, CLUSTERS)]


def test_the_cause_comes_before_what_follows_from_it_by_way_of_others() -> None:
    """Without a secret the clients of that cluster lack endpoints; the other direction has a fault of its own."""
    found = order(
        finding("MK101", "east", Verdict.PASS),
        finding("MK711", EAST_WEST),
        finding("MK712", "east"),
        finding("MK711", WEST_EAST),
        finding("MK802", EAST_WEST),
    )
    assert found == [
        ("MK802", EAST_WEST, ""),
        ("MK711", WEST_EAST, ""),
        ("MK711", EAST_WEST, "MK802"),
        ("MK712", "east", "MK802"),
        ("MK101", "east", ""),
    ]


def test_a_cluster_that_cannot_be_read_is_the_reason_for_all_that_is_unknown_about_it() -> None:
    """Failures are not: they were seen."""
    dead = finding("MK101", "west", Verdict.UNKNOWN)
    assert follows(finding("MK803", EAST_WEST, Verdict.UNKNOWN), dead, CLUSTERS)
    assert follows(finding("MK902", "mesh", Verdict.UNKNOWN), dead, CLUSTERS)
    assert not follows(finding("MK803", EAST_WEST), dead, CLUSTERS)
    assert not follows(finding("MK801", "east", Verdict.UNKNOWN), dead, CLUSTERS)


def test_a_warning_is_no_reason_for_a_failure() -> None:
    """Else the first of the list would be something that nobody must fix."""
    warned = finding("MK805", "west", Verdict.WARN)
    assert not follows(finding("MK613", "west"), warned, CLUSTERS)
    assert follows(finding("MK613", "west", Verdict.WARN), warned, CLUSTERS)


def test_what_is_unknown_is_no_reason() -> None:
    """Nobody has seen it to be bad."""
    unknown = finding("MK805", "west", Verdict.UNKNOWN)
    assert not follows(finding("MK711", EAST_WEST, Verdict.UNKNOWN), unknown, CLUSTERS)


def test_names_of_clusters_are_whole_words() -> None:
    """East-2 is not east."""
    cause = finding("MK805", "east-2")
    assert follows(finding("MK711", "west → east-2"), cause, CLUSTERS)
    assert not follows(finding("MK711", "west → east"), cause, CLUSTERS)


def test_worse_comes_first_then_what_has_more_consequences() -> None:
    """Two causes of one thing: the first is named."""
    found = order(
        finding("MK614", "east", Verdict.WARN),
        finding("MK711", EAST_WEST),
        finding("MK703", "east"),
        finding("MK802", EAST_WEST),
    )
    assert [row[0] for row in found] == ["MK802", "MK703", "MK614", "MK711"]
    assert found[-1][2] == "MK802"


def test_a_network_policy_is_reported_once_with_the_ways_that_it_closes() -> None:
    """What would block a path, and the tries that did not get through, are one thing to fix; only in that cluster."""
    found = order(
        finding("MK731", "east"),
        finding("MK732", "east"),
        finding("MK901", "east"),
        finding("MK731", "west"),
        finding("MK209", "east"),
    )
    assert [(number, cause) for number, subject, cause in found if subject == "east"] == [
        ("MK209", ""),
        ("MK731", "MK209"),
        ("MK732", "MK209"),
        ("MK901", "MK209"),
    ]
    assert ("MK731", "west", "") in found


def test_consequences_and_reasons_are_two_sides_of_one_thing() -> None:
    """What the one has, the other has."""
    assert "MK711" in consequences("MK802")
    assert "MK802" in reasons("MK711")
    assert consequences("MK712") == ()


def test_a_finding_of_an_earlier_run_follows_and_causes_by_its_former_id() -> None:
    """MK601 and MK611 are MK801 and MK805 now."""
    assert consequences("MK611") == consequences("MK805")
    assert reasons("MK611") == reasons("MK805")
    assert follows(finding("MK611", "east"), finding("MK201", "east"), CLUSTERS)
    assert follows(finding("MK806", "east"), finding("MK601", "east"), CLUSTERS)


def test_an_istiod_without_debug_answers_is_reported_first_and_is_the_cause_of_unknowns() -> None:
    """What failed was seen, and has other reasons."""
    found = order(
        finding("MK201", "west"),
        finding("MK803", EAST_WEST, Verdict.UNKNOWN),
        finding("MK901", "east", Verdict.UNKNOWN),
        finding("MK108", "east"),
    )
    assert found[0] == ("MK108", "east", "")
    assert ("MK803", EAST_WEST, "MK108") in found
    assert ("MK901", "east", "MK108") in found
    assert ("MK201", "west", "") in found


def test_what_names_an_object_follows_from_what_names_it_too() -> None:
    """A port of another name is the cause of two unlike Services; a policy of another one is not."""
    unlike = finding("MK709", "sample/httpbin", Verdict.WARN)
    port = replace(
        finding("MK728", EAST_WEST), observed="Service sample/httpbin in west (spec.ports 8000) is `tcp-http`"
    )
    assert follows(unlike, port, CLUSTERS)
    for other in ("Service sample/httpbin-2 in west", "AuthorizationPolicy sample/guard in west"):
        assert not follows(unlike, replace(port, observed=other), CLUSTERS)


def test_what_a_forgotten_id_and_a_wrong_name_lead_to() -> None:
    """Nobody must fix the secret of a cluster that has forgotten who it is, nor the path of a wrong name."""
    assert follows(finding("MK830", EAST_WEST), finding("MK843", "west"), CLUSTERS)
    refused = finding("MK702", EAST_WEST), finding("MK835", EAST_WEST)
    assert [row[::2] for row in order(*refused)] == [("MK835", ""), ("MK702", "MK835")]
