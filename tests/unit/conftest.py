"""Contexts of API servers in memory."""

from __future__ import annotations

from tests.support.furnished import contexts

__all__ = ["contexts"]
