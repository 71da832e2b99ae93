"""Twelve stages, one class each: look, check, plan, apply, prove, conclude.

Belongs here: what one stage plans, waits for and proves. Does not: reading (istio, probing), judging that another stage
or `meshkit check` needs, too (checks), making changes (changes).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshkit.stages.assess import Assess
    from meshkit.stages.backup.stage import Backup
    from meshkit.stages.discovery.stage import Discovery
    from meshkit.stages.gateways import Gateways
    from meshkit.stages.install.stage import Install
    from meshkit.stages.observe import Observe
    from meshkit.stages.prepare import Prepare
    from meshkit.stages.rollback.stage import Rollback
    from meshkit.stages.shift import Shift
    from meshkit.stages.troubleshoot import Troubleshoot
    from meshkit.stages.trust.stage import Trust
    from meshkit.stages.verify import Verify

__all__ = [
    "Assess",
    "Backup",
    "Discovery",
    "Gateways",
    "Install",
    "Observe",
    "Prepare",
    "Rollback",
    "Shift",
    "Troubleshoot",
    "Trust",
    "Verify",
]
_WITH_ROOMS = {"Backup", "Discovery", "Install", "Rollback", "Trust"}


def __getattr__(name: str) -> Any:
    # Loaded at first use: a command of one stage should not wait for the libraries of all twelve.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = f"{__name__}.{name.lower()}" + (".stage" if name in _WITH_ROOMS else "")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return __all__
