"""One notebook in its own process, since papermill changes the working folder and keeps global state.

Reads a job as JSON from stdin and writes events as JSON lines to the file descriptor that the job names.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> int:
    """Run the job; 0 if papermill raised nothing, which is not yet a verdict."""
    job = json.load(sys.stdin)
    # In this order: papermill loads its engines while it is being imported.
    from papermill import execute_notebook
    from papermill.engines import papermill_engines
    from papermill.exceptions import PapermillExecutionError

    from meshkit.runs.engine import Event, MeshkitEngine
    from meshkit.runs.redact import Redactor

    papermill_engines.register("meshkit", MeshkitEngine)
    with os.fdopen(job["events"], "w", buffering=1, encoding="utf-8") as events:

        def tell(event: Event) -> None:
            print(json.dumps(event), file=events, flush=True)

        try:
            # Papermill takes braces in a path for placeholders.
            execute_notebook(
                *(job[end].replace("{", "{{").replace("}", "}}") for end in ("notebook", "output")),
                parameters=job["parameters"],
                engine_name="meshkit",
                kernel_name="python3",
                language="python",
                progress_bar=False,
                execution_timeout=job["timeout"],
                on_event=tell,
                redactor=Redactor(job["secrets"]),
            )
        except PapermillExecutionError:
            return 1  # the notebook contains the error
    return 0


if __name__ == "__main__":
    sys.exit(main())
