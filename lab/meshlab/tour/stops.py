"""The stops of the tour, as data: `stops.yaml`, whose head says what each field means."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Final

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from meshkit.checks.catalogue import STAGES
from meshkit.errors import InputError
from meshkit.spec import read_yaml

Text = Annotated[str, Field(min_length=1)]
_STRICT: Final = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Evidence:
    """A table of the run that shows the answer: its columns, its rows, and what they mean."""

    table: Text
    columns: tuple[Text, ...]
    means: Text
    rows: str = ""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Stop:
    """What is asked at a stage, and what shows the answer."""

    number: Text
    question: Text
    choices: tuple[Text, ...]
    right: Annotated[int, Field(ge=1)]
    because: Text
    shows: tuple[Evidence, ...]

    @property
    def title(self) -> str:
        """Number and name of the stage."""
        return f"{self.number} {STAGES[self.number]}"

    @property
    def answer(self) -> str:
        """The right choice."""
        return self.choices[self.right - 1]


@functools.cache
def stops() -> Mapping[str, Stop]:
    """Return every stop by the number of its stage, in their order."""
    document = read_yaml(resources.files("meshlab.tour").joinpath("stops.yaml").read_text("utf-8"))
    numbered = {number: {"number": number, **stop} for number, stop in document.items()}
    return TypeAdapter(dict[str, Stop]).validate_python(numbered)


def find(number: str) -> Stop:
    """Return the stop of a stage.

    Raises:
        InputError: the tour does not stop there.
    """
    if number in stops():
        return stops()[number]
    raise InputError(f"the tour has no stop {number!r}; it has {', '.join(stops())}", where="tour.ipynb")
