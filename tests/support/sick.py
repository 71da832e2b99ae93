"""A fake API server that is not well: the one thing that the real one cannot be made to be at will."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from tests.support.api_server import free_port

Sickness = Literal[500, 429, "refuses", "slow", "stranger"]
SLOW_AFTER = 10.0
RETRY_AFTER = "60"
"""Seconds that a busy server asks for, as kube-apiserver's priority and fairness does: nobody is to wait them out."""


@contextlib.contextmanager
def sick_api_server(sickness: Sickness, slow_after: float = SLOW_AFTER) -> Iterator[str]:
    """Yield its address: it answers everything with that status, late, not at all, or as no API server would."""
    if sickness == "refuses":
        yield f"http://127.0.0.1:{free_port()}"
        return
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if sickness == "slow":
                over.wait(slow_after)
            self.send_response(sickness if isinstance(sickness, int) else 200)
            self.send_header("Content-Length", "2")
            if sickness == 429:
                self.send_header("Retry-After", RETRY_AFTER)
            # Who waited in vain is gone by then.
            with contextlib.suppress(ConnectionError):
                self.end_headers()
                self.wfile.write(b"{}")

        do_POST = do_PATCH = do_DELETE = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
