"""A lab that is none, for the buttons of training: faults are noted and not made, and tools print what a file says.

Everything else is real: the rounds, their score sheet, the widget, and the commands of a path, which run in a shell.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from meshlab.faults import drills
from meshlab.faults.bench import Note
from meshlab.layout import Settings
from meshlab.training import expert, rounds

from meshkit.probing.merged_service import MERGED

SINCE = "2026-12-01T02:00:00Z"
CHECKED = ("  ✖ MK805 [west] istio-eastwestgateway: 0 of 0 pods ready",)


def pretend(home: Path, seconds: float = 0.0) -> None:
    """Let this process take a folder for a running lab of two clusters; what a lab does takes so long."""
    home.mkdir(exist_ok=True)
    Settings().save(home)
    os.environ |= {"MESHKIT_LAB_DIR": str(home), "MESHKIT_LAB_BIN": str(home), "XDG_STATE_HOME": str(home / "state")}

    def break_(name: str, cluster: str, say: Any, *, hidden: bool) -> None:
        time.sleep(seconds)
        Note(home, name).begin(cluster, SINCE, hidden=hidden)

    def heal(names: list[str], say: Any) -> None:
        time.sleep(seconds)
        for name in names:
            Note(home, name).end()

    pretended: dict[ModuleType, dict[str, Any]] = {
        drills: {"running": lambda: home, "break_": break_, "heal": heal, "await_healthy": lambda *_: None},
        rounds: {"require_mesh": lambda *_: 2, "calls": lambda: MERGED.view(MERGED.frame(CALLS))},
        expert: {"checked": lambda *_: CHECKED},
    }
    for module, fakes in pretended.items():
        for name, fake in fakes.items():
            setattr(module, name, fake)


CALLS = [
    {"cluster": "east", "endpoints": "10.11.2.4:8080,172.31.102.2:15443", "leads_to": "east,west", "sent": 30,
     "answered": 30, "answered_in": "east"},
    {"cluster": "west", "endpoints": "10.12.2.3:8080,172.31.101.2:15443", "leads_to": "east,west", "sent": 30,
     "answered": 30, "answered_in": "east,west"},
]  # fmt: skip


def write_tool(home: Path, name: str, outputs: Mapping[str, str]) -> None:
    """Write a program that prints, for the first words that its arguments contain, the text that belongs to them."""
    cases = "\n".join(f"*'{words}'*) cat <<'END'\n{text}\nEND\n;;" for words, text in outputs.items())
    home.mkdir(exist_ok=True)
    (home / name).write_text(f'#!/bin/sh\ncase "$*" in\n{cases}\nesac\n')
    (home / name).chmod(0o700)
