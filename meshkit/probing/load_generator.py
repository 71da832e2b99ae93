"""Constant request load during a change: each cluster's client calls the server's ordinary Service.

    traffic = Traffic(mesh)
    with traffic.sending("apply"):
        …
    traffic.table(), traffic.requests()

One curl in the client's pod sends requests for a few seconds at a fixed rate, so the API server has to start few
commands. Each answer gets its time when it arrives, with an accuracy of a tenth of a second.
"""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import pandas as pd

from meshkit import parameters
from meshkit.display import Shown, grid, styled
from meshkit.errors import MeshkitError, UnreachableError
from meshkit.kube.cluster import Cluster
from meshkit.kube.mesh import Mesh, Unknown
from meshkit.probing import pair_probe
from meshkit.probing.curl import MARK, Answer, curl, failure_text, hostname, parse_answers
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
    """A step of the change: when it was made, and when its effect was observed (Unix times; 0: never)."""

    words: str
    begun: float
    settled: float = 0.0


class Traffic(Shown):
    """Requests from the clients of all or some clusters to the server's ordinary Service, `rate` per second each.

    It shows for each client how many were sent, how many failed, and which clusters answered the others.
    """

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
        """Send during a `with` in mode apply; send nothing in another mode, or if held by checks (their ids).

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
                else "no client is to send"
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
            self.steps["end"] = LoadStep("reverted", time.time())
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
                raise UnreachableError(
                    why, where=f"cluster {silent[0]}", remedy="run stage 08, which shows what is broken"
                )
            time.sleep(0.2)

    def _send(self, client: str, side: pair_probe.ProbeTarget) -> None:
        spec = self.mesh.spec.probe
        url = f"http://{spec.server}.{spec.namespace}:{spec.port}/hostname"
        count = max(2, round(self.rate * BATCH))
        program, *flags = curl(url, count, CALL_TIMEOUT)
        command = [program, "--rate", f"{self.rate}/s", *flags]
        while not self._ended.is_set():
            parser = CurlStreamParser(partial(self._note, client, side.client.name))
            try:
                place = (side.client.name, side.client.namespace, side.container)
                done = side.cluster.exec(*place, command, BATCH + count * CALL_TIMEOUT, on_output=parser)
                if not parser.answers:
                    printed = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.exit_code}"]
                    raise UnreachableError(f"curl could not send: {printed[0][:200]} (it needs 7.84 or newer)")
                self.trouble.pop(client, None)
            except MeshkitError as error:
                self.trouble[client] = error.message
                self._ended.wait(0.5)
                with suppress(MeshkitError):  # a client pod that was recreated meanwhile has another name
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
            error="" if good else failure_text(answer),
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
        def has_pod(cluster: Cluster) -> bool:
            return cluster.find("pods", self.mesh.spec.probe.namespace, pod) is not None

        found = [name for name, there in self.mesh.each(has_pod).items() if there is True]
        if found:  # pods of a StatefulSet have the same name in every cluster
            self._homes[pod] = found[0] if len(found) == 1 else "?"

    # --- results ---

    def home(self, request: Request) -> str:
        """Return the cluster that answered a request; `?` if unknown, empty if none did."""
        return self._homes.get(request.answered_by, "?") if not request.failed else ""

    def since(self, client: str, moment: float, until: float = float("inf")) -> list[Request]:
        """Return a client's requests that began from a moment on (Unix time)."""
        with self._lock:
            return [row for row in self._rows if row.cluster == client and moment <= row.time < until]

    def missing(self, client: str, clusters: Collection[str], seconds: float) -> str:
        """Return why it is not shown that only these clusters answered a client in the last seconds, or an empty text.

        Failed requests do not count here: the final result counts them.
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

    def bundle(self) -> dict[str, Any]:
        """Return one row for each client."""
        if not self.sent:
            return {"text/plain": "no request was sent"}
        rows = []
        for client in self.clients:
            own = self.since(client, 0.0)
            answered = Counter(self.home(row) for row in own if not row.failed)
            by = ", ".join(f"{cluster} {count}" for cluster, count in answered.most_common())
            rows.append((client, len(own), len(own) - answered.total(), by))
        words, html = grid(("client", "requests", "failed", "answered in"), rows)
        return {"text/plain": words, "text/html": styled(html)}

    @property
    def marks(self) -> list[tuple[datetime, str]]:
        """The steps for a chart."""
        return [(_utc(step.begun), step.words) for step in self.steps.values()]


class CurlStreamParser:
    """Parses curl's output incrementally, and passes on each answer as soon as it is complete."""

    def __init__(self, on_answer: Any) -> None:
        self.answers = 0
        self._on_answer = on_answer
        self._left = b""

    def __call__(self, data: bytes) -> None:
        """Add a piece of output."""
        self._left += data
        mark = b"\n" + MARK.encode()
        while (place := self._left.find(mark)) >= 0 and (end := self._left.find(b"\n", place + 1)) >= 0:
            text, self._left = self._left[: end + 1], self._left[end + 1 :]
            for answer in parse_answers(text.decode(errors="replace")):
                self.answers += 1
                self._on_answer(answer)


def _utc(stamp: float) -> datetime:
    return datetime.fromtimestamp(stamp, UTC)
