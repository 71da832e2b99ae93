"""Where to begin: what there is to choose from, and where a mesh stands in the line of stages."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, Final

from meshkit.checks import catalogue
from meshkit.checks.finding import Finding, Findings, Verdict, overall, worst_first
from meshkit.display import Explorable, Shown, cell_html, grid, headline, styled
from meshkit.errors import InputError
from meshkit.kube import kubeconfig
from meshkit.snapshot.file import is_snapshot

FOLDERS: Final = ("..", ".", "../parameters")
"""Where mesh files and snapshots are looked for, beside the notebooks."""
LINE: Final = [number for number in catalogue.STAGES if number <= "10"]
"""The stages of a run; the other two are for trouble."""


class Standing(Shown):
    """The line of stages, and what of a mesh is not in order for each: the first of these is the next one.

    A stage without checks of its own has no verdict: its notebook says whether it is done.
    """

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = Findings(findings)

    def of(self, stage: str) -> Findings:
        """Return the findings of a stage's own checks, the worst first."""
        return Findings(worst_first(one for one in self.findings if catalogue.find(one.id).stage == stage))

    def next(self) -> str:
        """Return the number of the first stage that has something to do; of a mesh that is in order, 08."""
        bad = (number for number in LINE if self.of(number).failed or self.of(number).unknown)
        return next(bad, "08")

    def bundle(self) -> dict[str, Any]:
        """Return a line for each stage, which leads to its notebook."""
        number = self.next()
        told = f"next: {number} {catalogue.STAGES[number]}"
        rows = [(name, *self._line(name)) for name in catalogue.STAGES]
        words, _ = grid(
            ["stage", "verdict", "not in order"], [(f"{n} {catalogue.STAGES[n]}", *rest) for n, *rest in rows]
        )
        body = "".join(
            f"<tr><td>{_link(n)}</td><td>{cell_html(verdict)}</td><td>{escape(why)}</td></tr>"
            for n, verdict, why in rows
        )
        head = "<tr><th>stage</th><th>verdict</th><th>not in order</th></tr>"
        html = (
            headline(told, overall(self.findings).symbol) + f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
        )
        return {"text/plain": f"{told}\n{words}", "text/html": styled(html)}

    def _line(self, stage: str) -> tuple[str, str]:
        own = self.of(stage)
        if not own:
            return "", ""
        bad = own.of(Verdict.FAIL, Verdict.UNKNOWN, Verdict.WARN)
        more = f", and {len(bad) - 1} more" if len(bad) > 1 else ""
        return overall(own).value, f"{bad[0].id} {bad[0].check} ({bad[0].subject}){more}" if bad else ""


def _link(number: str) -> str:
    name = f"{number}-{catalogue.STAGES[number]}"
    return f'<a href="{name}.ipynb">{name.replace("-", " ")}</a>'


class Choice(Explorable):
    """A mesh file, or a snapshot, and what else could be chosen: what lies beside the notebooks.

    kubeconfig's contexts are named, too, for a new mesh file.
    """

    def __init__(self, chosen: str) -> None:
        self.chosen = chosen

    def bundle(self) -> dict[str, Any]:
        """Return what is chosen, and what can be."""
        names, why = contexts()
        rows = [("chosen", self.chosen), *(("mesh file or snapshot", one) for one in files())]
        words, html = grid(["what", "name"], [*rows, *(("context", one) for one in names or [why])])
        return {"text/plain": words, "text/html": styled(html)}


def files() -> list[str]:
    """Return mesh files and snapshots beside the notebooks, those that are nearest first."""
    found = [path for place in FOLDERS for path in sorted(Path(place).iterdir() if Path(place).is_dir() else ())]
    return [str(path) for path in found if path.is_file() and (_is_mesh_file(path) or is_snapshot(path))]


def _is_mesh_file(path: Path) -> bool:
    """Tell whether a file has the form of one; whether it is right, opening it says."""
    return path.suffix in (".yaml", ".yml") and any(
        line.startswith("clusters:") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
    )


def contexts() -> tuple[list[str], str]:
    """Return the contexts of kubeconfig, or none and the reason."""
    try:
        return kubeconfig.contexts(kubeconfig.files()), ""
    except InputError as error:
        return [], str(error)


def command(chosen: Iterable[str]) -> str:
    """Return the command that makes a mesh file of contexts."""
    return " ".join(["meshkit init mymesh", *(f"--context {name}" for name in chosen)])
