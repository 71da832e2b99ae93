"""The webhook at the end of a run: `notify` of the mesh file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from meshkit.errors import InputError, UnreachableError
from meshkit.run_spec import Notify
from meshkit.runs.outcome import Outcome
from meshkit.runs.post import post


def secrets(wanted: Notify | None, mesh_file: str) -> list[str]:
    """Return what of `notify` no evidence may hold: its address.

    Raises:
        InputError: the text of the mesh file has it in another spelling, so that it could not be kept out of the copy.
    """
    if wanted is None:
        return []
    url = wanted.url.get_secret_value()
    if url not in mesh_file:
        raise InputError("notify.url: expected an address in one piece, without YAML escapes")
    return [url]


def payload(mesh: str, path: str, outcomes: Iterable[Outcome], exit_code: int) -> dict[str, object]:
    """Return what is sent: names, verdicts and counts of a run; its path is that of its folder."""
    ended = list(outcomes)
    counts: Counter[str] = Counter()
    for outcome in ended:
        counts.update(outcome.counts)
    return {
        "mesh": mesh,
        "run": path.rpartition("/")[2],
        "verdict": "failed" if exit_code else "passed",
        "stages": [{"stage": outcome.stage, "status": outcome.status.value} for outcome in ended],
        "counts": dict(counts),
        "path": path,
    }


def announce(wanted: Notify, about: dict[str, object]) -> str:
    """Call the webhook, if this end is wanted; return "called", "not wanted", or how it failed."""
    if about["verdict"] not in wanted.on:
        return "not wanted"
    try:
        post(wanted.url.get_secret_value(), json.dumps(about).encode(), "application/json")
    except UnreachableError as error:
        return f"failed: {error.message}"
    return "called"
