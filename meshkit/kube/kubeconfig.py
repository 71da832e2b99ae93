"""kubeconfig: its files and contexts, and one context's API server address, TLS, proxy and identity.

Merging, certificates and TLS settings are the official client's. Identity is ours (see `meshkit.kube.identity`), and so
are the rules for proxies, which are kubectl's: `proxy-url` before the environment, loopback never by the environment's
proxy, and SOCKS5 resolves names at the proxy (client-go, tools/clientcmd/client_config.go; Go, net/http).
"""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import ipaddress
import os
import re
import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from kubernetes.client import Configuration

from meshkit.errors import InputError
from meshkit.kube import identity
from meshkit.kube.identity import Identity

_PROXIES = ("http", "https", "socks5", "socks5h")
_TLS = {"certificate-authority", "certificate-authority-data", "insecure-skip-tls-verify"}
_CLUSTER_FILES, _USER_FILES = ("certificate-authority",), ("client-certificate", "client-key")


@dataclass(frozen=True, repr=False)
class Access:
    """How an API server is reached, and with which identity."""

    settings: Configuration
    identity: Identity


def files(kubeconfig: str = "") -> list[str]:
    """Return the kubeconfig files as kubectl finds them: the given one, else $KUBECONFIG's list, else the home's.

    Raises:
        InputError: none of them exists.
    """
    named = [kubeconfig] if kubeconfig else os.environ.get("KUBECONFIG", "").split(os.pathsep)
    found = [str(Path(name).expanduser()) for name in named if name] or [str(Path.home() / ".kube" / "config")]
    there = [name for name in found if Path(name).is_file()]
    if not there:
        where = os.pathsep.join(found)
        raise InputError("no such kubeconfig file", where=where, remedy="set KUBECONFIG, or name the file")
    return there


def contexts(paths: Sequence[str]) -> list[str]:
    """Return the names of the contexts in kubeconfig files, merged as kubectl merges them.

    Raises:
        InputError: a file is not a kubeconfig. Its content is never quoted.
    """
    where = os.pathsep.join(paths)
    with _errors(where):
        return [str(context["name"]) for context in _merged(where)["contexts"].value]


def access(paths: Sequence[str], context: str) -> Access:
    """Return the settings and the identity of one context; no plugin is run and nothing is sent.

    Raises:
        InputError: the context is not complete, or its fields contradict each other.
    """
    where = os.pathsep.join(paths)
    place = f"{where} (context {context})"
    with _errors(place):
        merged = _merged(where)
        entry = _entry(merged, "contexts", context)[0]["context"]
        cluster, cluster_home = _entry(merged, "clusters", entry["cluster"])
        user, user_home = _entry(merged, "users", entry["user"]) if entry.get("user") else ({"user": {}}, "")
        cluster = _absolute(cluster["cluster"], cluster_home, _CLUSTER_FILES)
        user = _absolute(user["user"] or {}, user_home, _USER_FILES)
        settings = _settings(cluster, {key: value for key, value in user.items() if key.startswith("client-")}, place)
        load = functools.partial(_provided, where, context, settings)
        return Access(settings, identity.of_user(user, user_home, _plugin_cluster_info(cluster), place, load))


def other_token(given: Callable[[], Access], token: str, ca: bytes) -> Access:
    """Return an access with its identity replaced by a bearer token, and its CA by `ca` if given."""
    settings = given().settings
    if ca:
        settings.ssl_ca_cert, settings.ca_cert_data, settings.verify_ssl = None, ca.decode("ascii", "ignore"), True
    settings.cert_file = settings.key_file = None
    return Access(settings, identity.Identity(identity.Static(identity.bearer(token, "a token"))))


def write_private(data: bytes) -> str:
    """Write a certificate or key to a file that only we can read, removed at exit, and return its path."""
    handle, path = tempfile.mkstemp(dir=_private_directory())
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    return path


def _merged(where: str) -> Any:
    from kubernetes.config.kube_config import KubeConfigMerger

    merged = KubeConfigMerger(where).config  # type: ignore[no-untyped-call]
    if merged is None:
        raise InputError("not a complete kubeconfig", where=where)
    return merged


def _entry(merged: Any, section: str, name: str) -> tuple[dict[str, Any], str]:
    """Return an entry of a section, and the directory of the file that it stands in."""
    node = merged[section].get_with_name(name)
    return node.value, str(Path(node.path).absolute().parent)


def _absolute(fields: Mapping[str, Any], home: str, names: Sequence[str]) -> dict[str, Any]:
    found = {name: os.path.join(home, str(fields[name])) for name in names if fields.get(name)}  # noqa: PTH118
    return {**{key: value for key, value in fields.items() if value not in (None, "")}, **found}


def _settings(cluster: Mapping[str, Any], user: Mapping[str, Any], where: str) -> Configuration:
    from kubernetes.client import Configuration
    from kubernetes.config import load_kube_config_from_dict

    entry = {**{key: value for key, value in cluster.items() if key != "proxy-url"}, "server": _server(cluster, where)}
    document = {
        "clusters": [{"name": "it", "cluster": entry}],
        "users": [{"name": "it", "user": dict(user)}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        "current-context": "it",
    }
    settings = Configuration()
    load_kube_config_from_dict(  # type: ignore[no-untyped-call]
        document, "it", settings, persist_config=False, temp_file_path=_private_directory()
    )
    if settings.verify_ssl and settings.ssl_ca_cert and not _loads(settings.ssl_ca_cert):
        raise InputError("certificate-authority of its cluster holds no certificate in PEM", where=where)
    if not is_pair(settings.cert_file, settings.key_file):
        raise InputError("client-certificate and client-key of its user are no certificate with its key", where=where)
    _set_proxy(settings, str(cluster.get("proxy-url") or ""), where)
    return settings


def _loads(authority: str) -> bool:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(authority)
    except (OSError, ValueError):  # ssl.SSLError is an OSError
        return False
    return True


def is_pair(certificate: str | None, key: str | None) -> bool:
    """Return whether two files are a client certificate with its key, unencrypted; neither is good, too."""
    if not certificate or not key:
        return not certificate and not key
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError):
        return False
    return True


def _server(cluster: Mapping[str, Any], where: str) -> str:
    """Return an API server's address; without a scheme it is HTTPS if any TLS field is set (client-go, rest)."""
    server = cluster.get("server")
    if not isinstance(server, str):
        raise InputError("expected https://HOST:PORT as server of its cluster", where=where)
    if "://" not in server:
        server = f"{'https' if _TLS & {*cluster} else 'http'}://{server}"
    parts = urlsplit(server)
    if "@" in parts.netloc:
        remedy = "write them as username and password of its user: the address is shown in tables and remote secrets"
        raise InputError("server of its cluster holds a user or a password", where=where, remedy=remedy)
    try:
        good = parts.scheme in ("http", "https") and parts.port != 0 and re.fullmatch(r"[^\s/]+", parts.netloc)
    except ValueError:
        good = None
    if not good or not parts.hostname or not server.isprintable() or server != server.strip():
        raise InputError("expected https://HOST:PORT as server of its cluster", where=where)
    return server


def _set_proxy(settings: Configuration, named: str, where: str) -> None:
    from urllib3.util import make_headers

    if named:
        settings.no_proxy = None
    elif _is_loopback(settings.host):
        settings.proxy = None
        return
    if not (address := named or str(settings.proxy or "")):
        return
    address = address if "://" in address else f"http://{address}"
    parts = urlsplit(address)
    origin = "proxy-url of its cluster" if named else "the environment's proxy (HTTPS_PROXY)"
    try:
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 1080)
    except ValueError:
        port = 0
    if parts.scheme not in _PROXIES or not parts.hostname or not port:
        raise InputError(f"expected http://, https:// or socks5://HOST:PORT as {origin}", where=where)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if parts.scheme.startswith("socks"):
        user, at, _ = parts.netloc.rpartition("@")
        settings.proxy = f"socks5h://{user}{at}{host}:{port}"
        return
    settings.proxy = f"{parts.scheme}://{host}:{port}"
    if parts.username:
        credential = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        settings.proxy_headers = make_headers(proxy_basic_auth=credential)


def _is_loopback(address: str) -> bool:
    host = urlsplit(address).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _plugin_cluster_info(cluster: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cluster's description for exec plugins (client.authentication.k8s.io/v1, type Cluster)."""
    fields = ("server", "tls-server-name", "insecure-skip-tls-verify", "proxy-url", "disable-compression")
    info = {name: cluster[name] for name in fields if cluster.get(name)}
    if authority := cluster.get("certificate-authority-data"):
        info["certificate-authority-data"] = authority
    elif path := cluster.get("certificate-authority"):
        info["certificate-authority-data"] = base64.b64encode(Path(path).read_bytes()).decode()
    for extension in cluster.get("extensions") or []:
        if extension["name"] == "client.authentication.k8s.io/exec":
            info["config"] = extension["extension"]
    return info


def _provided(where: str, context: str, settings: Configuration) -> str:
    """Return the header that the official client makes of an auth-provider; it caches a refreshed token."""
    from kubernetes.client import Configuration
    from kubernetes.config import load_kube_config

    if "BearerToken" not in settings.api_key:
        loaded = Configuration()
        with _errors(f"{where} (context {context})"):
            load_kube_config(where, context, loaded, temp_file_path=_private_directory())  # type: ignore[no-untyped-call]
        settings.api_key, settings.refresh_api_key_hook = loaded.api_key, loaded.refresh_api_key_hook
    return str(settings.get_api_key_with_prefix("BearerToken") or "")


@contextlib.contextmanager
def _errors(where: str) -> Iterator[None]:
    import yaml
    from kubernetes.config import ConfigException

    try:
        yield
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or type(error).__name__})", where=where) from None
    except (ConfigException, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError):
        # ConfigException names its place by quoting the whole entry, token included: never pass it on.
        remedy = "`kubectl config view` shows how kubectl reads it"
        raise InputError("not a complete kubeconfig", where=where, remedy=remedy) from None


@functools.cache
def _private_directory() -> str:
    # The official client writes certificates and keys from kubeconfig to files; a race there loses track of some.
    directory = tempfile.mkdtemp(prefix="meshkit-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory
