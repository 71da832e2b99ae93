"""Traffic held while something is done: each cluster's client asks the server's ordinary Service, many times.

    traffic = Traffic(mesh)
    with traffic.sending("apply"):
        …
    traffic.table(), traffic.requests()

One curl in the client's pod sends a few seconds' worth at its own pace; each answer is stamped when it arrives, so that
the API servers carry next to nothing, and moments are known to a tenth of a second.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import pandas as pd

from meshkit import parameters
from meshkit.errors import MeshkitError, UnreachableError
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.probing import pair_probe
from meshkit.probing.curl import MARK, Answer, curl, hostname, parse_answers, told
from meshkit.probing.request_log import Request, Tally
from meshkit.tables import Table, integer, moment, number, text

RATE: Final = 10
BATCH: Final = 3.0
CALL_TIMEOUT: Final = 2.0
PATIENCE: Final = 30.0
REQUESTS: Final = Table(
    "load-requests",
    "Requests of the load, one by one",
    {
        "time": moment("when it began", resolution="ns"),
        "client": text("cluster"),
        "status": integer("HTTP status; 0: no answer"),
        "seconds": number("until the answer", "s"),
        "answered_by": text("pod"),
        "answered_in": text("its cluster; `?` where that is not known"),
        "error": text("why it failed"),
    },
    key=("time", "client"),
)


@dataclass
class LoadStep:
    """A step of what is done under traffic: when it was made, and when its effect was seen (Unix times; 0: never)."""

    words: str
    begun: float
    settled: float = 0.0


class Traffic:
    """Requests from the client of every cluster, or of some, to the server's ordinary Service, `rate` a second each."""

    def __init__(self, mesh: Mesh, rate: int = RATE, clients: Collection[str] | None = None) -> None:
        self.mesh = mesh
        self.rate = rate
        self.clients = list(mesh.clusters if clients is None else clients)
        self.steps: dict[str, LoadStep] = {}
        self.trouble: dict[str, str] = {}
        self._rows: list[Request] = []
        self._homes: dict[str, str] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._begin = self._end = 0.0

    @property
    def sent(self) -> bool:
        """Whether anything was sent at all."""
        return bool(self._rows)

    # --- sending ---

    @contextmanager
    def sending(self, mode: str, held_by: Sequence[str] = ()) -> Iterator[Traffic]:
        """Send for the length of a `with`; in another mode than apply, or held by checks (their ids), send nothing.

        Raises:
            InputError: no such mode.
            UnreachableError: a client cannot send.
        """
        parameters.require_choice("mode", mode, parameters.MODES)
        if mode != "apply" or held_by or not self.clients:
            why = (
                f"mode is {mode}"
                if mode != "apply"
                else f"held by {', '.join(held_by)}"
                if held_by
                else "nobody is to send"
            )
            print(f"no traffic is sent: {why}")
            yield self
            return
        found = self.mesh.each(lambda cluster: pair_probe.find_side(cluster, self.mesh))
        sides = {name: found[name] for name in self.clients}
        self._begin = time.time()
        threads = [threading.Thread(target=self._find_homes, daemon=True)]
        for name, side in sides.items():
            if isinstance(side, Unknown):
                raise UnreachableError(side.reason, where=f"cluster {name}")
            threads.append(threading.Thread(target=self._send, args=(name, side), daemon=True))
        for thread in threads:
            thread.start()
        try:
            self._wait_for_all(sides)
            yield self
            self.steps["end"] = LoadStep("taken back", time.time())
        finally:
            self._ended.set()
            for thread in threads:
                thread.join(BATCH + 2 * CALL_TIMEOUT)
            self._end = time.time()

    def _wait_for_all(self, clients: Collection[str]) -> None:
        begun = time.monotonic()
        while silent := [name for name in clients if len(self.since(name, 0.0)) < self.rate]:
            if time.monotonic() - begun > PATIENCE:
                why = self.trouble.get(silent[0], f"fewer than {self.rate} requests came to an end in {PATIENCE:g} s")
                raise UnreachableError(why, where=f"cluster {silent[0]}", remedy="stage 08 says what is broken")
            time.sleep(0.2)

    def _send(self, client: str, side: pair_probe.ProbeTarget) -> None:
        spec = self.mesh.spec.probe
        url = f"http://{spec.server}.{spec.namespace}:{spec.port}/hostname"
        count = max(2, round(self.rate * BATCH))
        program, *flags = curl(url, count, CALL_TIMEOUT)
        command = [program, "--rate", f"{self.rate}/s", *flags]
        while not self._ended.is_set():
            heard = CurlStreamParser(partial(self._note, client, side.client.name))
            try:
                place = (side.client.name, side.client.namespace, side.container)
                done = side.cluster.exec(*place, command, BATCH + count * CALL_TIMEOUT, heard=heard)
                if not heard.answers:
                    said = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.exit_code}"]
                    raise UnreachableError(f"curl could not send: {said[0][:200]} (it needs 7.84 or newer)")
                self.trouble.pop(client, None)
            except MeshkitError as error:
                self.trouble[client] = error.message
                self._ended.wait(0.5)
                with suppress(MeshkitError):  # a client that was made anew meanwhile has another name
                    side = pair_probe.find_side(self.mesh.clusters[client], self.mesh)

    def _note(self, client: str, pod: str, answer: Answer) -> None:
        good = 200 <= answer.status < 300
        request = Request(
            time=time.time() - (0.0 if math.isnan(answer.seconds) else answer.seconds),
            cluster=client,
            pod=pod,
            status=answer.status,
            seconds=answer.seconds,
            answered_by=hostname(answer.body) if good else "",
            error="" if good else told(answer),
        )
        with self._lock:
            self._rows.append(request)

    def _find_homes(self) -> None:
        while not self._ended.is_set():
            with self._lock:
                strange = {row.answered_by for row in self._rows} - {"", *self._homes}
            for name in strange:
                self._find_home(name)
            self._ended.wait(0.2)

    def _find_home(self, pod: str) -> None:
        def ask(cluster: Cluster) -> bool:
            return cluster.find("pods", self.mesh.spec.probe.namespace, pod) is not None

        found = [name for name, there in self.mesh.each(ask).items() if there is True]
        if found:  # pods of a StatefulSet are called alike in every cluster
            self._homes[pod] = found[0] if len(found) == 1 else "?"

    # --- what came of it ---

    def home(self, request: Request) -> str:
        """Return the cluster that answered a request, `?` where that is not known, nothing where none did."""
        return self._homes.get(request.answered_by, "?") if not request.failed else ""

    def since(self, client: str, moment: float, until: float = float("inf")) -> list[Request]:
        """Return a client's requests that began from a moment on (Unix time)."""
        with self._lock:
            return [row for row in self._rows if row.cluster == client and moment <= row.time < until]

    def missing(self, client: str, clusters: Collection[str], seconds: float) -> str:
        """Return why it cannot be said that for some seconds a client was answered in these clusters only, or "".

        Failed requests do not count here; they are counted in the end.
        """
        rows = [row for row in self.since(client, time.time() - seconds) if not row.failed]
        elsewhere = [row for row in rows if self.home(row) not in clusters]
        if elsewhere:
            places = ", ".join(sorted({self.home(row) for row in elsewhere}))
            return f"{len(elsewhere)} of {len(rows)} answers to {client} in the last {seconds:g} s came from {places}"
        enough = 0.6 * self.rate * seconds
        return "" if len(rows) >= enough else f"only {len(rows)} answers to {client} in the last {seconds:g} s"

    def table(self) -> pd.DataFrame:
        """Return one row for each request, in the order in which they began."""
        with self._lock:
            found = list(self._rows)
        rows = [
            {**vars(row), "time": _utc(row.time), "client": row.cluster, "answered_in": self.home(row)} for row in found
        ]
        return REQUESTS.frame(rows).sort_values("time", kind="stable", ignore_index=True)

    def requests(self, client: str = "") -> pd.DataFrame:
        """Return the requests, of one client or all, by second: the table `request_log.TRAFFIC`."""
        tally = Tally()
        with self._lock:
            for row in self._rows:
                if client in ("", row.cluster):
                    tally.add(row)
        begin = self._begin or time.time()  # nothing was sent, so nothing was missed
        return tally.table(begin, self._end or time.time(), self._homes)

    @property
    def marks(self) -> list[tuple[datetime, str]]:
        """The steps for a chart."""
        return [(_utc(step.begun), step.words) for step in self.steps.values()]


class CurlStreamParser:
    """Takes curl's output as it comes, and hands each answer on as soon as it is complete."""

    def __init__(self, hand_on: Any) -> None:
        self.answers = 0
        self._hand_on = hand_on
        self._left = b""

    def __call__(self, data: bytes) -> None:
        """Take what curl wrote."""
        self._left += data
        mark = b"\n" + MARK.encode()
        while (place := self._left.find(mark)) >= 0 and (end := self._left.find(b"\n", place + 1)) >= 0:
            text, self._left = self._left[: end + 1], self._left[end + 1 :]
            for answer in parse_answers(text.decode(errors="replace")):
                self.answers += 1
                self._hand_on(answer)


def _utc(stamp: float) -> datetime:
    return datetime.fromtimestamp(stamp, UTC)
