"""Istio by its Helm charts, as users of Helm install it: base, istiod, and a gateway for each release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from meshlab.layout import Site, programs
from meshlab.programs import CHARTS, share
from meshlab.tools import Tools

NAMESPACE = "istio-system"


def istiod_values(overlay: dict[str, Any], ids: dict[str, Any]) -> dict[str, Any]:
    """Return the values of chart istiod for an IstioOperator's spec: what is pilot's there is at the top here.

    Args:
        overlay: the spec of the lab's IstioOperator.
        ids: values of `global`, such as the network.
    """
    values = overlay["values"]
    images = {"hub": overlay["hub"], "tag": overlay["tag"]}
    globally = {**values["global"], **images, **ids}
    return {"autoscaleEnabled": False, **values["pilot"], "global": globally, "meshConfig": overlay["meshConfig"]}


def install_istiod(tools: Tools, site: Site, ids: dict[str, Any]) -> None:
    """Install charts base and istiod."""
    overlay = yaml.safe_load(Path(tools.overlay).read_text())["spec"]
    overlay["tag"] = tools.shape.release(site.name) or overlay["tag"]
    release(tools, site, "istio-base", "base", {"defaultRevision": tools.shape.revision or "default"})
    name = f"istiod-{tools.shape.revision}" if tools.shape.revision else "istiod"
    tags = {"revisionTags": tools.shape.tags} if tools.shape.tags else {}
    release(tools, site, name, "istiod", {**istiod_values(overlay, ids), **revision_of(tools), **tags})


def revision_of(tools: Tools) -> dict[str, str]:
    """Return the value of a chart for the shape's revision."""
    return {"revision": tools.shape.revision} if tools.shape.revision else {}


def install_gateway(tools: Tools, site: Site, name: str, **values: Any) -> None:
    """Install a gateway."""
    release(tools, site, name, "gateway", {"autoscaling": {"enabled": False}, **revision_of(tools), **values})


def release(tools: Tools, site: Site, name: str, chart: str, values: dict[str, Any]) -> None:
    """Install a release of a chart, that of the cluster's Istio, and wait until it is ready."""
    charts = share(programs(tools.shape.release(site.name))) / CHARTS
    where = ("--kube-context", site.context, "--namespace", NAMESPACE, "--create-namespace")
    text = yaml.safe_dump(values)
    tools.run("helm", "upgrade", "--install", name, str(charts / chart), *where, "--wait",
              "--values", "-", stdin=text)  # fmt: skip
