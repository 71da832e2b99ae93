"""A real Prometheus on loopback, and something that it scrapes."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from tests.support.api_server import free_port

INSTALL = "apt-get install --no-install-recommends prometheus"


@contextlib.contextmanager
def prometheus(home: Path, targets: Sequence[str] = (), path: str = "/metrics", **config: Any) -> Iterator[str]:
    """Start a Prometheus that scrapes targets each second, and give its URL; who cannot install it skips."""
    program = shutil.which("prometheus")
    if not program:
        told = pytest.fail if os.geteuid() == 0 else pytest.skip
        told(f"prometheus is not installed; as root: {INSTALL}")
    job = {"job_name": "test", "metrics_path": path, "static_configs": [{"targets": list(targets)}]}
    document = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [job], **config}
    (home / "prometheus.yml").write_text(yaml.safe_dump(document))
    port = free_port()
    flags = [f"--config.file={home}/prometheus.yml", f"--storage.tsdb.path={home}/data"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([program, *flags, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
        try:
            wait_until_ready(f"http://127.0.0.1:{port}/-/ready", home / "log")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def wait_until_ready(url: str, log: Path) -> None:
    """Wait until a URL answers 200, 30 s at most."""
    deadline = time.monotonic() + 30
    with urllib3.PoolManager(retries=False, timeout=2) as pool:
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if pool.request("GET", url).status == 200:
                    return
            time.sleep(0.1)
    pytest.fail(f"Prometheus did not start:\n{log.read_text()[-2000:]}")


@contextlib.contextmanager
def serving(body: str, status: int = 200) -> Iterator[str]:
    """Answer every GET with one text, and give host and port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
