"""What a run sends to an address of the mesh file: once, or a few times where the server has a bad moment."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3

from meshkit.errors import UnreachableError

_RETRIES: Final = urllib3.Retry(
    total=3, redirect=0, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=("POST",),
    raise_on_status=False, raise_on_redirect=False, respect_retry_after_header=False,
)  # fmt: skip
_TIMEOUT: Final = urllib3.Timeout(connect=5, read=10)
"""With the retries, a minute at most: a run does not wait for others."""


def post(url: str, body: bytes, kind: str) -> bytes:
    """Send a body of a content type; return the answer.

    Proxies are those of the environment, as curl takes them.

    Raises:
        UnreachableError: no good answer came. The address is not in the message: it may hold a token.
    """
    parts = urlsplit(url)
    proxy = "" if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme, "")
    try:
        with _quiet(), urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager() as pool:
            answer = pool.request("POST", url, body=body, headers={"Content-Type": kind}, retries=_RETRIES,
                                  timeout=_TIMEOUT)  # fmt: skip
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        cause = getattr(error, "reason", None) or error
        raise UnreachableError(f"it does not answer ({type(cause).__name__})") from None
    if not 200 <= answer.status < 300:
        raise UnreachableError(f"it answered {answer.status}")
    return answer.data


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep urllib3 from printing the address with each retry."""
    log = logging.getLogger("urllib3.connectionpool")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before
