"""Startup, readiness and liveness probes: a thread for each, the answer of the process itself and nothing else."""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import urllib3

Object = dict[str, Any]
POOL = urllib3.PoolManager(cert_reqs="CERT_NONE", retries=False, num_pools=64)


class Probe:
    """Asks again and again; `ok` is None until the first answer counts, then what the thresholds say.

    With `once` (a startup probe) a good answer is the last word.
    """

    def __init__(
        self,
        spec: Object,
        ip: str,
        ports: dict[str, int],
        enter: Callable[[], list[str]],
        complain: Callable[[str], None],
        *,
        once: bool = False,
    ) -> None:
        self.once = once
        self.spec, self.ip, self.ports, self.enter, self.complain = spec, ip, ports, enter, complain
        self.ok: bool | None = None
        self.stopped = threading.Event()
        threading.Thread(target=self._run, daemon=True, name="probe").start()

    def stop(self) -> None:
        """End the asking."""
        self.stopped.set()

    def _run(self) -> None:
        if self.stopped.wait(self.spec.get("initialDelaySeconds", 0)):
            return
        good = bad = 0
        while True:
            problem = self._ask()
            good, bad = (good + 1, 0) if problem is None else (0, bad + 1)
            if good >= self.spec.get("successThreshold", 1):
                self.ok = True
                if self.once:
                    return
            if bad >= self.spec.get("failureThreshold", 3):
                self.ok = False
            if problem is not None and not self.stopped.is_set():
                self.complain(problem)
            if self.stopped.wait(self.spec.get("periodSeconds", 10)):
                return

    def _ask(self) -> str | None:
        """Return None when the answer is good, else the problem in the kubelet's words."""
        timeout = self.spec.get("timeoutSeconds", 1)
        try:
            if http := self.spec.get("httpGet"):
                return self._http(http, timeout)
            if tcp := self.spec.get("tcpSocket"):
                socket.create_connection((self.ip, self._port(tcp["port"])), timeout=timeout).close()
                return None
            if command := self.spec.get("exec"):
                done = subprocess.run(
                    [*self.enter(), *command["command"]], capture_output=True, timeout=timeout, check=False
                )
                return None if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr.decode()[:200]}"
        except (OSError, urllib3.exceptions.HTTPError, subprocess.TimeoutExpired) as error:
            return f"{type(error).__name__}: {str(error)[:200]}"
        return "this node knows httpGet, tcpSocket and exec probes only"

    def _http(self, http: Object, timeout: float) -> str | None:
        scheme, host = http.get("scheme", "HTTP").lower(), http.get("host") or self.ip
        url = f"{scheme}://{host}:{self._port(http['port'])}{http.get('path', '/')}"
        headers = {h["name"]: h["value"] for h in http.get("httpHeaders", [])}
        answer = POOL.request("GET", url, headers={"User-Agent": "kube-probe/lab", "Connection": "close", **headers},
                              timeout=timeout, redirect=False)  # fmt: skip
        return None if 200 <= answer.status < 400 else f"HTTP probe failed with statuscode: {answer.status}"

    def _port(self, port: int | str) -> int:
        return port if isinstance(port, int) else self.ports.get(port, 0)
