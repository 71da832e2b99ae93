"""The shapes' files: each is right, they combine, and the mesh file fits. Needs nothing that is built."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID
from meshlab import certificates, helm, images, kubeconfig, meshfile, scenarios
from meshlab.layout import Settings, Site
from meshlab.shapes.shape import FOLDER, combined, names, table
from meshlab.tools import MANIFESTS

from meshkit.errors import InputError
from meshkit.spec import MeshSpec

SITE = Site(1)


def settings(*shapes: str) -> Settings:
    """Return the settings of a lab of these shapes."""
    return Settings(shapes=shapes, domain=combined(shapes).domain)


@pytest.mark.parametrize("name", names())
def test_the_mesh_file_of_a_shape_is_one(tmp_path: Path, name: str) -> None:
    """It can be read, its overlay is an IstioOperator, and its revision is that of the shape."""
    spec = MeshSpec.load(meshfile.write(tmp_path, settings(name)))
    assert spec.istio.revision == combined([name]).revision
    assert yaml.safe_load(Path(spec.istio.overlay).read_text())["kind"] == "IstioOperator"


def test_every_shape_says_in_a_line_what_it_is() -> None:
    """The table has all of them."""
    frame = table()
    assert frame["name"].tolist() == sorted(path.stem for path in FOLDER.glob("*.yaml"))
    assert frame["about"].str.fullmatch(r"[^\n]{10,110}").all(), frame["about"].tolist()


def test_shapes_combine(tmp_path: Path) -> None:
    """Two on the command line have what both say; `of` in a file begins with another."""
    both = combined(["revisioned", "cluster-domain", "discovery-selectors"])
    assert (both.revision, both.domain) == ("1-31", "k8s.corp")
    labels = {"istio-injection": None, "istio.io/rev": "prod-stable", "istio-discovery": "enabled"}
    assert both.labels["sample"] == labels
    three = combined(["cert-manager-three-tiers"]).certificates
    assert (three.form, three.tiers) == ("cert-manager", 3)
    spec = MeshSpec.load(meshfile.write(tmp_path, settings("revisioned", "cluster-domain")))
    (exposure,) = scenarios.exposure(both)
    assert (exposure["spec"]["servers"][0]["hosts"], spec.clusters[1].gateway.hosts) == (["*.k8s.corp"], None)
    overlay = yaml.safe_load(Path(spec.istio.overlay).read_text())["spec"]
    assert overlay["values"]["global"]["proxy"]["clusterDomain"] == "k8s.corp"
    assert overlay["hub"] == "meshkit-lab"


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (["revisionned"], "no shape is called 'revisionned'; the nearest is revisioned"),
        (
            ["token-file", "exec-plugin"],
            "exec-plugin says kubeconfig: 'exec-plugin', another one says 'token-file'",
        ),
    ],
)
def test_a_wrong_choice_is_refused(shapes: list[str], message: str) -> None:
    """A name that there is not, and two shapes that contradict each other."""
    with pytest.raises(InputError, match=message):
        combined(shapes)


def test_without_shapes_the_lab_is_that_of_the_documentation(tmp_path: Path) -> None:
    """Its overlay is that of parameters/, and its gateway has no more than the manifest."""
    assert meshfile.overlay(tmp_path, Settings()).parent.name == "parameters"
    operator, _ = scenarios.eastwest_operator(SITE)
    text = (MANIFESTS / "eastwest-gateway.yaml").read_text().replace("{network}", SITE.network)
    assert yaml.safe_load(operator) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("token", {"token": "secret"}),
        ("token-file", {"tokenFile": "{folder}/east/admin.token"}),
        ("impersonation", {"token": "other", "as": "mesh-admins", "as-groups": ["mesh-admins"]}),
        ("socks-proxy", {"token": "secret"}),
        ("path-proxy", {"token": "the proxy's"}),
    ],
)
def test_users_of_a_kubeconfig(tmp_path: Path, kind: str, expected: dict[str, Any]) -> None:
    """Each kind of user as kubectl reads it."""
    for file, token in {"east/admin": "secret", "east/robot": "other", "front/user": "the proxy's"}.items():
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / f"{file}.token").write_text(f"{token}\n")
    assert kubeconfig.user(tmp_path, SITE, kind) == json.loads(json.dumps(expected).replace("{folder}", str(tmp_path)))


def test_the_credential_plugin_prints_a_credential(tmp_path: Path) -> None:
    """What client-go expects of a plugin."""
    (tmp_path / "east").mkdir()
    (tmp_path / "east/admin.token").write_text("secret\n")
    plugin = kubeconfig.user(tmp_path, SITE, "exec-plugin")["exec"]
    told = subprocess.run([plugin["command"], *plugin["args"]], capture_output=True, text=True, check=True).stdout
    assert json.loads(told) == {
        "apiVersion": plugin["apiVersion"], "kind": "ExecCredential", "status": {"token": "secret"},
    }  # fmt: skip


class OpenSsl:
    """Runs openssl, and keeps what kubectl would be asked."""

    def __init__(self, home: Path, *shapes: str) -> None:
        self.home, self.shape = home, combined(shapes)
        self.asked: list[tuple[str, ...]] = []

    def run(self, program: str, *argv: str, stdin: str = "") -> str:
        """Run a program that must succeed."""
        command = [shutil.which(program) or program, *argv]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=True).stdout

    def kubectl(self, _: Site, *argv: str) -> str:
        """Keep the words."""
        self.asked.append(argv)
        return ""


@pytest.mark.parametrize(
    ("shape", "files"),
    [
        ("", {"ca-cert.pem": "C", "cert-chain.pem": "CR", "root-cert.pem": "R"}),
        ("self-signed-cacerts", {"ca-cert.pem": "R", "cert-chain.pem": "R", "root-cert.pem": "R"}),
        ("chain-order", {"ca-cert.pem": "C", "cert-chain.pem": "RC", "root-cert.pem": "R"}),
        ("cert-manager", {"tls.crt": "C", "ca.crt": "R"}),
        ("cert-manager-three-tiers", {"tls.crt": "CI", "ca.crt": "R"}),
    ],
)
def test_the_files_of_cacerts(tmp_path: Path, shape: str, files: dict[str, str]) -> None:
    """Root, Issuing CA and the cluster's own Certificate, as openssl made and verifies them, in each file."""
    tools = OpenSsl(tmp_path, *filter(None, [shape]))
    certificates.make_root(tools)
    certificates.plug(tools, SITE)
    folder = tmp_path / "certs" / "east"
    letters = {"Root CA": "R", "Issuing CA": "I", "Intermediate CA": "C"}
    for name, expected in files.items():
        chain = x509.load_pem_x509_certificates((folder / name).read_bytes())
        names = [c.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value for c in chain]
        assert "".join(letters[name] for name in names) == expected
    create = tools.asked[0]
    assert {word.rpartition("/")[2] for word in create if word.startswith("--from-file")} == {
        *files, "tls.key" if "tls.crt" in files else "ca-key.pem",
    }  # fmt: skip
    assert ("--type=kubernetes.io/tls" in create) == ("tls.crt" in files)
    first = next(iter(files))
    chain = folder / ("tls.crt" if "tls.crt" in files else "cert-chain.pem")
    root = tmp_path / "certs" / "root-cert.pem"
    command = ("verify", "-CAfile", str(root), "-untrusted", str(chain), str(folder / first))
    assert tools.run("openssl", *command).endswith("OK\n")
    (leaf, *_) = x509.load_pem_x509_certificates((folder / first).read_bytes())
    (anchor,) = x509.load_pem_x509_certificates(root.read_bytes())
    assert leaf.not_valid_after_utc <= anchor.not_valid_after_utc


def test_the_values_of_the_charts_are_those_of_the_overlay() -> None:
    """What is pilot's in an IstioOperator is at the top of the values; ids and images are global."""
    overlay = yaml.safe_load(meshfile.overlay(Path("/none"), Settings()).read_text())["spec"]
    values = helm.istiod_values(overlay, {"network": "net-east"})
    assert values["env"] == overlay["values"]["pilot"]["env"]
    assert (values["global"]["hub"], values["global"]["tag"]) == (overlay["hub"], overlay["tag"])
    assert values["global"]["network"] == "net-east"
    assert values["meshConfig"] == overlay["meshConfig"]


def test_a_distroless_image_has_neither_shell_nor_curl() -> None:
    """They are hidden by a file that nobody can execute; what the image brings stays."""
    sealed, full = (images.find(f"meshkit-lab/sleep:1.31{variant}") for variant in ("-distroless", ""))
    hidden = {path: outside for path, outside in sealed.files.items() if path not in full.files}
    assert set(hidden.values()) == {Path("/dev/null")}
    assert str(Path(shutil.which("sh") or "").resolve()) in hidden
    assert sealed.command == full.command


@pytest.mark.parametrize(
    ("lab", "usual"),
    [(Settings(), True), (Settings(ports=(1, 2), rtt_ms=80), True), (Settings(flat=True), False), (Settings(3), False),
     (Settings(shapes=("revisioned",)), False), (Settings(live_roots=True), False)],
)  # fmt: skip
def test_every_lab_has_a_mesh_file(lab: Settings, usual: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the usual one it is parameters/lab.yaml; of a flat one, of three clusters or of a shape, one of its own."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    home = tmp_path / ".local/state/meshkit/lab"
    home.mkdir(parents=True)
    lab.save(home)
    monkeypatch.setenv("MESHKIT_LAB_DIR", str(home))
    path = meshfile.mesh_file()
    assert (path.parent.name, path.parent == home) == (("parameters", False) if usual else ("lab", True))
    spec = MeshSpec.load(path)
    assert len(spec.clusters) == lab.clusters
    assert spec.topology.network == ("flat" if lab.flat else "multi")
    assert len({entry.network for entry in spec.clusters}) == (1 if lab.flat else lab.clusters)
