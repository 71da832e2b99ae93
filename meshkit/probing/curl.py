"""curl in a pod, and httpbin behind a proxy: command lines and parsers of their output. Nothing is sent from here."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

MARK = "@meshkit "
_OUTCOME = '{"status":"%{http_code}","seconds":"%{time_total}","error":"%{errormsg}"}'


@dataclass(frozen=True)
class Answer:
    """One request's outcome as curl reports it; status 0 is no answer."""

    status: int
    seconds: float
    body: str
    error: str


def curl(url: str, count: int, timeout: float, *, fail_early: bool = False) -> list[str]:
    """Return the command that sends requests one after the other on one connection, each within `timeout` seconds.

    With `fail_early`, the first request without any answer is the last one sent.
    """
    flags = ["--silent", "--show-error", "--max-time", f"{timeout:g}", "--write-out", f"\n{MARK}{_OUTCOME}\n"]
    flags += ["--fail-early"] if fail_early else []
    return ["curl", *flags, url if count == 1 else f"{url}?[1-{count}]"]


def parse_answers(output: str) -> list[Answer]:
    """Return the answers in curl's output: each is a body, then our line with its outcome."""
    answers, body = [], []
    for line in output.splitlines():
        if not line.startswith(MARK):
            body.append(line)
            continue
        match = re.fullmatch(r'\{"status":"(\d*)","seconds":"([\d.]*)","error":"(.*)"\}', line.removeprefix(MARK))
        status, seconds, error = match.groups() if match else ("0", "", line)
        answers.append(Answer(int(status or 0), float(seconds or "nan"), "\n".join(body).strip(), error))
        body = []
    return answers


def failure_text(answer: Answer) -> str:
    """Return a failed answer in words: the status, and the message of curl or Envoy."""
    words = " ".join((answer.error or answer.body).split())[:200]
    return f"{answer.status or 'no answer'}{': ' + words if words else ''}"


def hostname(body: str) -> str:
    """Return the answering pod's name from the body of httpbin's /hostname; empty if it has none."""
    try:
        found = json.loads(body)
    except ValueError:
        return ""
    return str(found.get("hostname", "")) if isinstance(found, dict) else ""


def parse_xfcc(body: str) -> dict[str, str]:
    """Return the fields of the last element of x-forwarded-client-cert in what httpbin's /headers echoes.

    By is the server's identity, URI the client's, Hash the SHA-256 of the client's certificate. The server's Envoy
    takes them from the handshake, so the client cannot forge them.
    """
    try:
        headers = {k.lower(): v for k, v in json.loads(body)["headers"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    value = headers.get("x-forwarded-client-cert", "")
    text = value[-1] if isinstance(value, list) and value else str(value)
    fields = (part.partition("=") for part in text.rsplit(",", 1)[-1].split(";"))
    return {key: content.strip('"') for key, _, content in fields if key}
