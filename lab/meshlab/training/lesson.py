"""What a round teaches: topic and level, hints for the next look, an expert's path, and why it happens.

`lessons/TOPIC.yaml` has the lessons of a topic, by the fault's name. Their texts stand for any cluster of the lab: the
words of `words` are replaced by what they mean in one round.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from importlib import resources
from typing import Annotated, Final, Literal

from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from meshkit.checks.catalogue import ISTIO
from meshkit.spec import read_yaml
from meshlab.layout import Site, sites
from meshlab.training import TOPICS

LEVELS: Final = {
    1: "one look shows it",
    2: "two looks have to be compared",
    3: "what a tool says is not so, or not yet",
}
Text = Annotated[str, Field(min_length=1)]
_STRICT: Final = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Look:
    """One command of an expert's path.

    `telling` is the pattern of the line that tells, which the healthy mesh does not show; empty where the command only
    leads on. `means` is what the expert concludes.
    """

    run: Text
    means: Text
    telling: str = ""


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Lesson:
    """What a fault teaches.

    `cause` is the object that an SRE has to name (KIND/NAME; a firewall is the `network`), and which of its fields: any
    of those that follow it. `page` is Istio's, below its documentation.
    """

    topic: Text
    level: Literal[1, 2, 3]
    cause: Annotated[tuple[Text, ...], Field(min_length=2)]
    hints: tuple[Text, Text]
    path: Annotated[tuple[Look, ...], Field(min_length=2)]
    why: Text
    page: Text

    @property
    def url(self) -> str:
        """Istio's page."""
        return ISTIO + self.page


@dataclass(frozen=True, kw_only=True, config=_STRICT)
class Topic:
    """What a topic is about, the tools that an SRE has for it with what each shows, and its lessons."""

    about: Text
    tools: Mapping[str, Text]
    faults: Mapping[str, Lesson]


@functools.cache
def topics(site: Site) -> Mapping[str, Topic]:
    """Return every topic by its name, as of a round that breaks this cluster."""
    return {name: _topic(name, site) for name in TOPICS}


def _topic(name: str, site: Site) -> Topic:
    text = resources.files("meshlab.training").joinpath(f"lessons/{name}.yaml").read_text("utf-8")
    meaning = words(site)
    document = read_yaml(re.sub(rf"\b({'|'.join(meaning)})\b", lambda word: meaning[word[0]], text))
    document["faults"] = {fault: {"topic": name, **lesson} for fault, lesson in document["faults"].items()}
    return TypeAdapter(Topic).validate_python(document)


def words(site: Site) -> dict[str, str]:
    """Return what the words of lessons mean while a cluster is broken; its peer is the one that observes it."""
    peer = next(other for other in sites(2) if other != site)
    return {
        "SITE": site.name,
        "PEER": peer.name,
        "SITE_PODS": site.pods,
        "SITE_API": site.api_ip,
        "PEER_GATEWAYS": peer.load_balancer_ip(0).rpartition(".")[0],
        "HTTPBIN": "outbound|8000||httpbin.sample.svc.cluster.local",
    }


def lessons(site: Site) -> Mapping[str, Lesson]:
    """Return every lesson by the name of its fault, as of a round that breaks this cluster."""
    return {fault: lesson for topic in topics(site).values() for fault, lesson in topic.faults.items()}


def tools(topic: str = "") -> Mapping[str, str]:
    """Return the tools that an SRE has for a topic, or for all of them, each with what it shows."""
    known = topics(Site(1))
    return {tool: shows for name in ([topic] if topic else TOPICS) for tool, shows in known[name].tools.items()}


def answers(clusters: int) -> tuple[list[str], list[str]]:
    """Return what can be answered in a lab of so many clusters: objects, and fields."""
    known = [one.cause for site in sites(clusters) for one in lessons(site).values()]
    return sorted({found for found, *_ in known}), sorted({field for _, *fields in known for field in fields})
