"""What a container is started with: arguments, environment, mounts and user, as its pod's spec tells them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from meshlab import volumes
from meshlab.images import Image
from meshlab.kube import Object
from meshlab.layout import Site
from meshlab.volumes import NotYet, Volumes


def arguments(spec: Object, image: Image, env: dict[str, str]) -> list[str]:
    """Return the command line: the spec's command and args, else those of the image."""
    command = spec.get("command") or [*image.entrypoint]
    args = spec.get("args") or ([] if spec.get("command") else [*image.command])
    return [expand(word, env) for word in (*command, *args)]


def user(pod: Object, spec: Object, image: Image) -> tuple[int, int]:
    """Return the user and group ids: the container's own, else the pod's, else the image's."""
    context = {**pod["spec"].get("securityContext", {}), **spec.get("securityContext", {})}
    uid = context.get("runAsUser", image.uid)
    return uid, context.get("runAsGroup", uid)


def environment(pod: Object, spec: Object, ip: str, site: Site, sources: Volumes) -> dict[str, str]:
    """Return a container's environment.

    Raises:
        NotYet: a Secret or ConfigMap, or a key of it, that is not optional is missing.
    """
    env = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOSTNAME": pod["metadata"]["name"],
        "KUBERNETES_SERVICE_HOST": f"{site.services}.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
    }
    for source in spec.get("envFrom", []):
        kind = "secret" if "secretRef" in source else "configMap"
        data = sources.keys(kind, source[f"{kind}Ref"])
        env |= {source.get("prefix", "") + k: v.decode() for k, v in data.items()}
    located = {**pod, "status": {**pod.get("status", {}), "podIP": ip, "hostIP": site.node_ip}}
    for entry in spec.get("env", []):
        source = entry.get("valueFrom")
        if source is None:
            env[entry["name"]] = expand(entry.get("value", ""), env)
        elif "fieldRef" in source or "resourceFieldRef" in source:
            env[entry["name"]] = str(volumes.field(located, source, spec))
        else:
            kind = "secret" if "secretKeyRef" in source else "configMap"
            ref = source[f"{kind}KeyRef"]
            value = sources.keys(kind, ref).get(ref["key"])
            if value is not None:
                env[entry["name"]] = value.decode()
            elif not ref.get("optional"):
                raise NotYet(f'couldn\'t find key {ref["key"]} in {kind.lower()} "{ref["name"]}"')
    return env


def mounts(
    pod: Object, spec: Object, ip: str, site: Site, *, sources: Volumes, folder: Path, domain: str
) -> dict[str, Path]:
    """Return what stands where in the container: its volumes, and the files that a kubelet writes."""
    meta = pod["metadata"]
    found = {}
    for m in spec.get("volumeMounts", []):
        outside = sources.path(m["name"])
        if m.get("subPath"):
            outside /= m["subPath"]
            if not outside.exists():
                outside.mkdir(parents=True)
        found[m["mountPath"]] = outside
    folder.mkdir(parents=True, exist_ok=True)
    search = f"search {meta['namespace']}.svc.{domain} svc.{domain} {domain}"
    files = {
        "/etc/resolv.conf": f"{search}\nnameserver {site.dns_ip}\noptions ndots:5\n",
        "/etc/hosts": f"127.0.0.1 localhost\n{ip} {meta['name']}\n",
        "/etc/hostname": f"{meta['name']}\n",
    }
    for path, text in files.items():
        outside = folder / Path(path).name
        outside.write_text(text)
        found.setdefault(path, outside)
    return found


def enter(pid: int) -> list[str]:
    """Return the command prefix that enters a container."""
    return ["nsenter", f"--target={pid}", "--mount", "--uts", "--pid", "--net", "--root", "--"]


def expand(text: Any, env: dict[str, str]) -> str:
    """Replace $(NAME) by variables as the kubelet does: unknown ones stay, $$(NAME) is an escape."""
    return re.sub(
        r"\$(\$\([A-Za-z_][\w.-]*\))|\$\(([A-Za-z_][\w.-]*)\)",
        lambda m: m[1] or env.get(m[2], m[0]),
        str(text),
    )
