"""The lab's start scenarios `empty`, `single`, `meshed` and `strangers`, made as in Istio's documentation.

Only istioctl, kubectl and openssl are used, so a meshed lab is the yardstick for what meshkit's migration leaves.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from meshkit.errors import ChangeError
from meshlab import meshfile
from meshlab.layout import Say, Settings, Site, programs, sites

MANIFESTS = Path(__file__).parent / "manifests"
PATIENCE = 180
MESH_ID = "mesh1"
Thing = TypeVar("Thing")


class Tools:
    """istioctl, kubectl and openssl against the lab's kubeconfig."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.kubeconfig = home / "kubeconfig"
        self.overlay = str(meshfile.overlay(home, Settings.load(home)))

    def run(self, program: str, *argv: str, stdin: str = "") -> str:
        """Run a tool and return what it printed.

        Raises:
            ChangeError: it failed; the message holds the last lines it said.
        """
        path = os.pathsep.join([str(programs()), str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        command = [shutil.which(program, path=path) or program, *argv]
        env = {**os.environ, "KUBECONFIG": str(self.kubeconfig)}
        try:
            done = subprocess.run(
                command, input=stdin, text=True, capture_output=True, env=env, timeout=PATIENCE, check=False
            )
        except subprocess.TimeoutExpired:
            words = f"`{program} {' '.join(argv[:4])}` was not done after {PATIENCE} s"
            raise ChangeError(words, where="lab", remedy="look at `kubectl get pods -A` and the lab's logs") from None
        if done.returncode:
            output = " | ".join((done.stderr or done.stdout).strip().splitlines()[-4:])
            raise ChangeError(f"`{program} {' '.join(argv[:4])}` failed: {output}", where="lab")
        return done.stdout

    def kubectl(self, site: Site, *argv: str, stdin: str = "") -> str:
        """Run kubectl on a cluster."""
        return self.run("kubectl", "--context", site.context, *argv, stdin=stdin)

    def istioctl(self, site: Site, *argv: str, stdin: str = "") -> str:
        """Run istioctl on a cluster."""
        return self.run("istioctl", "--context", site.context, *argv, stdin=stdin)

    def apply(self, site: Site, manifest: str) -> None:
        """Apply one of the lab's manifests."""
        self.kubectl(site, "apply", "-f", str(MANIFESTS / manifest))


def make(scenario: str, home: Path, settings: Settings, say: Say) -> None:
    """Bring fresh bare clusters to a scenario."""
    tools, all_sites = Tools(home), sites(settings.clusters)
    timed = Timed(say)
    if scenario == "single":
        install_single(tools, all_sites[0], timed)
    elif scenario == "meshed":
        make_root(tools)
        install_meshed(tools, all_sites, settings, timed)
    elif scenario == "strangers":
        install_meshed(tools, all_sites, settings, timed)


class Timed:
    """Prints each step with the seconds it took; thread-safe."""

    def __init__(self, say: Say) -> None:
        self.say, self.lock = say, threading.Lock()

    def __call__(self, words: str, step: Callable[[], object]) -> None:
        """Do a step, then say it."""
        begun = time.monotonic()
        step()
        with self.lock:
            self.say(f"{words} ({time.monotonic() - begun:.1f} s)")


def install_single(tools: Tools, site: Site, timed: Timed) -> None:
    """Install Istio the ordinary way: default profile, self-signed root, no ids, no network; sample and load."""
    timed(
        f"{site.name}: istioctl install, default profile",
        lambda: tools.istioctl(site, "install", "-y", "-f", tools.overlay),
    )
    timed(f"{site.name}: httpbin, sleep and load are ready", lambda: sample(tools, site, load=True))


def sample(tools: Tools, site: Site, *, load: bool) -> None:
    """Deploy httpbin and sleep, and the load where asked, and wait for them."""
    tools.apply(site, "sample.yaml")
    if load:
        tools.apply(site, "load.yaml")
    tools.kubectl(site, "wait", "-n", "sample", "--for=condition=Available", "deployment", "--all", "--timeout=90s")


def install_meshed(tools: Tools, all_sites: list[Site], settings: Settings, timed: Timed) -> None:
    """Make a multi-primary mesh: ids, gateways, remote secrets, sample everywhere; one root only where it was made."""
    each(all_sites, lambda site: primary(tools, site, timed, flat=settings.flat))
    pairs = [(a, b) for a in all_sites for b in all_sites if a != b]
    timed("remote secrets of every ordered pair", lambda: each(pairs, lambda pair: remote_secret(tools, *pair)))

    def workloads(site: Site) -> None:
        timed(f"{site.name}: sample is ready", lambda: sample(tools, site, load=site.number == 1))

    each(all_sites, workloads)


def each(things: Iterable[Thing], work: Callable[[Thing], object]) -> None:
    """Do the same work for several things side by side; the first failure is raised."""
    with ThreadPoolExecutor() as pool:
        list(pool.map(work, things))


def primary(tools: Tools, site: Site, timed: Timed, *, flat: bool) -> None:
    """Install one primary as Istio's multi-primary pages tell it; its gateway, too, unless networks are flat."""
    control_plane(tools, site, timed, network="net-flat" if flat else site.network)
    if not flat:
        eastwest_gateway(tools, site, timed)


def control_plane(tools: Tools, site: Site, timed: Timed, *, network: str) -> None:
    """Install istiod with its ids, below the common root where there is one; else it makes a root of its own."""
    tools.kubectl(site, "create", "namespace", "istio-system")
    tools.kubectl(site, "label", "namespace", "istio-system", f"topology.istio.io/network={network}")
    if (tools.home / "certs").exists():
        plug_certificates(tools, site)
    values = {"global.meshID": MESH_ID, "global.multiCluster.clusterName": site.name, "global.network": network}
    flags = [f"--set=values.{name}={value}" for name, value in values.items()]
    timed(f"{site.name}: istioctl install", lambda: tools.istioctl(site, "install", "-y", "-f", tools.overlay, *flags))


def eastwest_gateway(tools: Tools, site: Site, timed: Timed) -> None:
    """Install a cluster's east-west gateway, and expose all services through it."""
    gateway, flags = eastwest_operator(site)
    # `-f -` reads the gateway's operator; the overlay names the lab's images.
    install = ("install", "-y", "-f", tools.overlay, "-f", "-", *flags)
    timed(f"{site.name}: east-west gateway", lambda: tools.istioctl(site, *install, stdin=gateway))
    tools.apply(site, "expose-services.yaml")


def eastwest_operator(site: Site) -> tuple[str, list[str]]:
    """Return the IstioOperator of a cluster's east-west gateway, and the flags that istioctl takes with it."""
    gateway = (MANIFESTS / "eastwest-gateway.yaml").read_text().replace("{network}", site.network)
    values = {"global.meshID": MESH_ID, "global.multiCluster.clusterName": site.name}
    return gateway, [f"--set=values.{name}={value}" for name, value in values.items()]


def make_root(tools: Tools) -> None:
    """Make the common root with openssl."""
    folder = tools.home / "certs"
    folder.mkdir(mode=0o700)
    tools.run(
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "3650",
        "-sha256",
        "-subj",
        "/O=Istio/CN=Root CA",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
        "-keyout",
        str(folder / "root-key.pem"),
        "-out",
        str(folder / "root-cert.pem"),
    )


def plug_certificates(tools: Tools, site: Site) -> None:
    """Issue a cluster's intermediate with openssl and plug it in as the Secret cacerts."""
    root, folder = tools.home / "certs", tools.home / "certs" / site.name
    folder.mkdir(mode=0o700)
    extensions = folder / "ca.ext"
    extensions.write_text(
        "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,digitalSignature,keyCertSign,cRLSign\n"
        "subjectAltName=DNS:istiod.istio-system.svc\n"
    )
    request, certificate = str(folder / "ca.csr"), folder / "ca-cert.pem"
    tools.run(
        "openssl",
        "req",
        "-new",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        f"/O=Istio/CN=Intermediate CA/L={site.name}",
        "-keyout",
        str(folder / "ca-key.pem"),
        "-out",
        request,
    )
    tools.run(
        "openssl",
        "x509",
        "-req",
        "-days",
        "730",
        "-sha256",
        "-CA",
        str(root / "root-cert.pem"),
        "-CAkey",
        str(root / "root-key.pem"),
        "-set_serial",
        str(site.number + 1),
        "-in",
        request,
        "-extfile",
        str(extensions),
        "-out",
        str(certificate),
    )
    (folder / "cert-chain.pem").write_text(certificate.read_text() + (root / "root-cert.pem").read_text())
    shutil.copy(root / "root-cert.pem", folder)
    files = [
        f"--from-file={folder / name}" for name in ("ca-cert.pem", "ca-key.pem", "root-cert.pem", "cert-chain.pem")
    ]
    tools.kubectl(site, "create", "secret", "generic", "cacerts", "-n", "istio-system", *files)


def remote_secret(tools: Tools, reader: Site, target: Site) -> None:
    """Give one cluster's istiod the credential of another's API server, at its address on the WAN."""
    secret = tools.istioctl(target, "create-remote-secret", f"--name={target.name}", f"--server={target.api_url}")
    tools.kubectl(reader, "apply", "-f", "-", stdin=secret)
