"""The papermill engine `meshkit`: a notebook that did not run to its end never looks complete.

Papermill's own engine marks every cell as completed after a timeout or a dead kernel, and takes `sys.exit(0)` for
success. This engine records in `metadata.meshkit` how the notebook ended, fails the cell that ended it, leaves the
others pending, and redacts everything it saves. Kernels use Unix sockets. A SIGINT or SIGTERM interrupts the cell, so
that it can clean up; a second signal, or ten seconds, kill the kernel.

Import papermill before this module: papermill loads its engines while it is being imported.
"""

from __future__ import annotations

import asyncio
import copy
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine, NotebookExecutionManager
from papermill.log import logger
from traitlets.config import Config

from meshkit.runs.redact import Redactor

CELL_TIMEOUT = 600
GRACE = 10.0
Event = dict[str, Any]


class MeshkitEngine(NBClientEngine):  # type: ignore[misc]  # papermill is untyped
    """Runs a notebook for `papermill --engine meshkit` and for `meshkit run`."""

    @classmethod
    def execute_notebook(
        cls,
        nb: Any,
        kernel_name: str,
        output_path: str | None = None,
        on_event: Callable[[Event], None] = lambda _: None,
        redactor: Redactor | None = None,
        **options: Any,
    ) -> Any:
        """Run the notebook's cells; `on_event` is called when a cell starts and ends."""
        known = {
            key: options.pop(key) for key in ("progress_bar", "log_output", "autosave_cell_every") if key in options
        }
        manager = _Manager(nb, output_path=output_path, redactor=redactor or Redactor(), on_event=on_event, **known)
        manager.notebook_start()
        try:
            cls.execute_managed_notebook(manager, kernel_name, log_output=manager.log_output, **options)
        finally:
            manager.notebook_complete()
        return manager.nb

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: _Manager,
        kernel_name: str,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        **options: Any,
    ) -> None:
        """Start a kernel and run the cells until one ends the notebook."""
        options.pop("input_path", None)
        limit = execution_timeout or CELL_TIMEOUT
        with tempfile.TemporaryDirectory(prefix="mk-") as sockets:
            config = Config({"AsyncKernelManager": {"transport": "ipc", "ip": f"{sockets}/k"}})
            client = _Client(
                nb_man,
                timeout_func=lambda cell: _own_timeout(cell) or limit,
                timeout=limit,
                startup_timeout=start_timeout,
                kernel_name=kernel_name,
                store_widget_state=False,  # of a user's own widget it would hold what that shows
                config=config,
                log=logger,
                **options,
            )
            with _signals(client):
                try:
                    client.execute()
                except (CellTimeoutError, DeadKernelError):
                    nb_man.log_output = False  # `papermill_execute_cells` has recorded it
                except KeyboardInterrupt:
                    nb_man.end("interrupted", "interrupted before the kernel was ready")
                    raise
                except Exception as error:
                    nb_man.end("kernel died", f"the kernel did not start: {error}")
                    raise


class _Manager(NotebookExecutionManager):  # type: ignore[misc]
    """Papermill's bookkeeping, with the true state of cells that did not run; everything it saves is redacted."""

    nb: Any

    def __init__(self, nb: Any, *, redactor: Redactor, on_event: Callable[[Event], None], **options: Any) -> None:
        super().__init__(nb, **options)
        self.redactor = redactor
        self.on_event = on_event
        self.heading = ""

    def save(self, **_: Any) -> None:
        original, self.nb = self.nb, copy.deepcopy(self.nb)
        try:
            self.redactor.notebook(self.nb)
            super().save()
        finally:
            self.nb = original

    def notebook_start(self, **_: Any) -> None:
        for end in ("input_path", "output_path"):
            self.nb.metadata.papermill[end] = Path(str(self.nb.metadata.papermill.get(end) or "")).name
        self.end("running", "")
        super().notebook_start()

    def cell_start(self, cell: Any, cell_index: int | None = None, **_: Any) -> None:
        if cell.cell_type == "markdown" and cell.source.startswith("#"):
            self.heading = cell.source.splitlines()[0].lstrip("# ")
        super().cell_start(cell, cell_index)
        self._emit("cell started", cell)

    def cell_complete(self, cell: Any, cell_index: int | None = None, **_: Any) -> None:
        super().cell_complete(cell, cell_index)
        self._emit(
            "cell ended", cell, seconds=cell.metadata.papermill["duration"], status=cell.metadata.papermill["status"]
        )

    def notebook_complete(self, **_: Any) -> None:
        self.end_time = self.now()
        self.nb.metadata.papermill["end_time"] = self.end_time.isoformat()
        self.nb.metadata.papermill["duration"] = (self.end_time - self.start_time).total_seconds()
        self.cleanup_pbar()
        self.redactor.notebook(self.nb)
        super().save()

    def end(self, how: str, reason: str) -> None:
        """Record in the notebook how it ended: finished, error, exited, timed out, kernel died or interrupted."""
        self.nb.metadata["meshkit"] = {"ended": how, "reason": reason}
        self.nb.metadata.papermill["exception"] = True if how not in ("running", "finished") else None

    def _emit(self, event: str, cell: Any, **more: Any) -> None:
        if cell.cell_type != "code":
            return
        code = [c for c in self.nb.cells if c.cell_type == "code"]
        at = next(i for i, c in enumerate(code, 1) if c is cell)
        self.on_event(
            {"event": event, "cell": at, "of": len(code), "heading": self.redactor.text(self.heading), **more}
        )


class _Client(PapermillNotebookClient):  # type: ignore[misc]
    """Runs the cells one by one and notes how the notebook ended."""

    interrupted = False

    def papermill_execute_cells(self) -> None:
        for index, cell in enumerate(self.nb.cells):
            if self.interrupted and cell.cell_type == "code":
                self._fail(cell, "interrupted", "the run was interrupted before this cell")
                return
            self.nb_man.cell_start(cell, index)
            try:
                self.execute_cell(cell, index)
            except CellExecutionError as error:
                self._fail(cell, *_ended_by(error, interrupted=self.interrupted))
            except CellTimeoutError:
                limit = _own_timeout(cell) or self.timeout
                self._fail(cell, "timed out", f"the cell ran longer than {limit} s")
                raise
            except DeadKernelError:
                how = "interrupted" if self.interrupted else "kernel died"
                self._fail(cell, how, "the kernel was killed" if self.interrupted else "the kernel died in this cell")
                raise
            finally:
                self.nb_man.cell_complete(cell, index)
            if self.nb.metadata["meshkit"]["ended"] != "running":
                return
        self.nb_man.end("finished", "")

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        # A long cell prints its progress, so the output is passed on at once.
        if msg["msg_type"] == "stream" and msg["content"]["name"] == "stdout":
            for text in self.nb_man.redactor.text(msg["content"]["text"]).splitlines():
                self.nb_man.on_event({"event": "said", "text": text})
        return super().process_message(msg, cell, cell_index)

    async def _async_handle_timeout(self, timeout: int, cell: Any = None) -> None:  # noqa: ASYNC109  (nbclient's)
        # nbclient either kills at once or interrupts for ever; a cell gets one interrupt and some time to clean up.
        await self.km.interrupt_kernel()
        for _ in range(int(GRACE / 0.1)):
            if cell is None or "iopub.status.idle" in cell.metadata.get("execution", {}):
                break
            await asyncio.sleep(0.1)
        raise CellTimeoutError.error_from_timeout_and_cell("Cell execution timed out", timeout, cell)

    def _fail(self, cell: Any, how: str, reason: str) -> None:
        self.nb_man.end(how, reason)
        self.nb_man.cell_exception(cell)
        if how != "error":
            # Papermill raises, and shows its banner, for the first error output, so the reason goes there.
            name = "".join(word.title() for word in how.split())
            output = new_output("error", ename=name, evalue=reason, traceback=[f"{name}: {reason}"])  # type: ignore[no-untyped-call]
            cell.outputs.insert(0, output)


def _ended_by(error: CellExecutionError, *, interrupted: bool) -> tuple[str, str]:
    if interrupted:
        return "interrupted", "the run was interrupted in this cell"
    if error.ename == "SystemExit":
        return "exited", f"the notebook ended itself by sys.exit({error.evalue})"
    return "error", f"{error.ename}: {error.evalue}"


def _own_timeout(cell: Any) -> int | None:
    tags = [tag.removeprefix("timeout-") for tag in cell.metadata.get("tags", []) if tag.startswith("timeout-")]
    return int(tags[0]) if tags and tags[0].isdigit() else None


@contextmanager
def _signals(client: _Client) -> Iterator[None]:
    def kernel(signum: int) -> None:
        provisioner = client.km.provisioner if client.km else None
        pid = provisioner.pid if provisioner and provisioner.has_process else None
        if pid:
            with suppress(ProcessLookupError):  # it has ended already
                os.killpg(pid, signum)
        elif signum == signal.SIGINT:
            raise KeyboardInterrupt

    def on_signal(_signum: int, _frame: FrameType | None) -> None:
        first, client.interrupted = not client.interrupted, True
        kernel(signal.SIGINT if first else signal.SIGKILL)
        if first:
            deadline.start()

    deadline = threading.Timer(GRACE, lambda: kernel(signal.SIGKILL))
    deadline.daemon = True
    ours = threading.current_thread() is threading.main_thread()
    before = {s: signal.signal(s, on_signal) for s in (signal.SIGINT, signal.SIGTERM)} if ours else {}
    try:
        yield
    finally:
        deadline.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)
