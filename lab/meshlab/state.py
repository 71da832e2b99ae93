"""The state of pods for the node's API (programs/nodeapi): a folder of JSON files, named by namespace and pod."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from meshlab.layout import replace


class State:
    """The folder of one pod. A successor of the same name may have taken it meanwhile: then nothing is written."""

    def __init__(self, folder: Path, uid: str) -> None:
        self.folder, self.uid = folder, uid

    def claim(self, netns: str) -> None:
        """Take the folder, without what a predecessor left there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write("pod", {"netns": f"/run/netns/{netns}", "uid": self.uid})
        for path in self.folder.glob("*.json"):
            if path.name != "pod.json":
                path.unlink(missing_ok=True)

    def tell(self, container: str, entry: dict[str, Any]) -> None:
        """Say how a container is reached, and where its logs are."""
        if self._mine():
            self._write(container, entry)

    def forget(self) -> None:
        """Remove the folder, so that nobody reaches for what is gone."""
        if self._mine():
            shutil.rmtree(self.folder, ignore_errors=True)

    def _mine(self) -> bool:
        path = self.folder / "pod.json"
        return path.exists() and json.loads(path.read_text())["uid"] == self.uid

    def _write(self, name: str, entry: dict[str, Any]) -> None:
        replace(self.folder / f"{name}.json", json.dumps(entry), 0o600)
