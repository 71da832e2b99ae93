"""One symbol and one tone for each word of state, so that charts and terminal agree without depending on colour."""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

Tone = Literal["good", "quiet", "warn", "unknown", "bad"]


class Mark(NamedTuple):
    """A symbol that stands beside a word, and the tone that colours both."""

    symbol: str
    tone: Tone


_SYMBOLS: Final[dict[Tone, str]] = {
    "good": "✔",
    "quiet": "·",
    "warn": "!",
    "unknown": "?",
    "bad": "✖",
}
# From best to worst: verdicts of checks, xDS states as istiod and istioctl spell them, states of clusters and stages.
_WORDS: Final[dict[Tone, tuple[str, ...]]] = {
    "good": ("pass", "passed", "synced", "healthy", "ready", "done"),
    "quiet": ("skipped", "ignored", "not sent", "not run", "planned", "undone"),
    "warn": ("warn", "stale", "syncing", "incomplete", "interrupted", "timed-out", "held", "begun"),
    "unknown": ("unknown", "unreachable"),
    "bad": ("fail", "failed", "error", "not connected", "nack", "timeout", "closed", "aborted", "dead"),
}
MARKS: Final = {word: Mark(_SYMBOLS[tone], tone) for tone, words in _WORDS.items() for word in words}
UNKNOWN: Final = MARKS["unknown"]


def plain(word: object) -> str:
    """Return a state's word in readable form: `NOT_SENT` is "not sent"."""
    return str(word).strip().replace("_", " ").lower()


def mark(word: object) -> Mark:
    """Return the mark of a word; an unknown word is marked unknown, never good."""
    return MARKS.get(plain(word), UNKNOWN)


def severity(word: object) -> int:
    """Return the rank of a word from best (0) to worst; an unknown word ranks as unknown."""
    order = list(MARKS)
    return order.index(plain(word) if plain(word) in MARKS else "unknown")
