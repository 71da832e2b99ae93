"""Another release of Istio: built from its own module, cached, verified, and what an image of its tag is.

The module proxy of these tests is a folder with an Istio of some lines; that of the real one takes twelve minutes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from meshlab import commands, doctor, helm, images, layout, lifecycle, meshfile, programs
from meshlab.layout import Settings, sites
from meshlab.programs import releases
from meshlab.programs.releases import RELEASES, Release
from meshlab.shapes.shape import combined
from meshlab.tools import Tools

from meshkit import paths
from meshkit.errors import ChangeError, InputError, UnreachableError
from tests.support.lab import Lab

OLD = "1.30"
VERSION = RELEASES[OLD].module
MAIN = 'package main\n\nimport "istio.io/istio/pkg/version"\n\nfunc main() { version.Print() }\n'
STAMPS = "package version\n\nvar buildVersion, buildGitRevision string\n\nfunc Print() { println(buildVersion) }\n"
ISTIO = {
    "go.mod": "module istio.io/istio\n\ngo 1.25.7\n\nrequire sigs.k8s.io/gateway-api v1.0.0\n",
    "VERSION": "1.31\n",
    "pkg/version/version.go": STAMPS,
    **{f"{package}/main.go": MAIN for package in releases.PACKAGES},
    f"tools/packaging/common/{programs.BOOTSTRAP}": '{"of": "1.30"}',
    **{f"manifests/charts/{source}/Chart.yaml": f"of: {OLD}" for source in programs.ISTIO_CHARTS.values()},
}
GATEWAY_API = {
    "go.mod": "module sigs.k8s.io/gateway-api\n\ngo 1.25.0\n",
    "config/crd/standard/gateway.one.yaml": "kind: CustomResourceDefinition\n",
}


def publish(proxy: Path, module: str, version: str, files: dict[str, str]) -> str:
    """Put a version of a module into a module proxy that is a folder; returns its checksum, as go.sum has it."""
    folder = proxy / module / "@v"
    folder.mkdir(parents=True)
    names = {f"{module}@{version}/{name}": content.encode() for name, content in files.items()}
    with zipfile.ZipFile(folder / f"{version}.zip", "w") as archive:
        for name, content in names.items():
            archive.writestr(name, content)
    (folder / f"{version}.mod").write_text(files["go.mod"])
    (folder / f"{version}.info").write_text(json.dumps({"Version": version, "Time": "2026-04-23T20:55:19Z"}))
    lines = "".join(f"{hashlib.sha256(names[name]).hexdigest()}  {name}\n" for name in sorted(names))
    return f"h1:{base64.b64encode(hashlib.sha256(lines.encode()).digest()).decode()}"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs of its own with an Istio of 1.31, and a module proxy with the small Istio of 1.30."""
    proxy, folder = tmp_path / "proxy", tmp_path / "bin"
    publish(proxy, "sigs.k8s.io/gateway-api", "v1.0.0", GATEWAY_API)
    checksum = publish(proxy, "istio.io/istio", VERSION, ISTIO)
    monkeypatch.setitem(RELEASES, OLD, Release(VERSION, checksum))
    for name, value in {"GOPROXY": f"file://{proxy}", "GOSUMDB": "off", "GOMODCACHE": str(tmp_path / "modules"),
                        "MESHKIT_LAB_BIN": str(folder), "MESHKIT_LAB_DIR": str(tmp_path / "lab")}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    folder.mkdir()
    for name in ("istioctl", "pilot-agent", "pilot-discovery"):
        (folder / name).write_bytes(b"\x7fELF\x001.31-0123456789ab\x00")
        (folder / name).chmod(0o755)
    return folder


def pretend_built(release: str = OLD) -> Path:
    """Put files in the place of a release's programs, as a build leaves them."""
    folder = layout.programs(release)
    folder.mkdir(parents=True)
    for program in releases.wanted(release):
        (folder / program.name).touch(0o755)
    built = {p.name: p.fingerprint for p in releases.wanted(release)}
    (folder / "built.json").write_text(json.dumps(built))
    return folder


def test_it_is_built_by_its_own_module_and_cached(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The programs carry the release and its commit; bootstrap and charts are those of the release; nothing is left."""
    own = {path.name: path.read_bytes() for path in cache.iterdir()}
    assert releases.build(OLD, print) == ["istioctl", "pilot-agent", "pilot-discovery"]
    folder = layout.programs(OLD)
    assert folder == cache.parent / "versions" / OLD / "bin"
    told = subprocess.run([folder / "pilot-discovery"], capture_output=True, text=True, check=True).stderr
    assert told == "1.30-b01690e6db7d\n"
    assert (programs.share(folder) / programs.BOOTSTRAP).read_text() == '{"of": "1.30"}'
    assert (programs.share(folder) / programs.CHARTS / "istiod" / "Chart.yaml").read_text() == "of: 1.30"
    assert sorted(path.name for path in folder.iterdir() if not path.name.startswith(".lock")) == [
        "built.json", "istioctl", "pilot-agent", "pilot-discovery",
    ]  # fmt: skip
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == own
    assert "3 programs" in capsys.readouterr().out
    begun = time.monotonic()
    assert releases.build(OLD, print) == []
    assert "Istio 1.30 is up to date" in capsys.readouterr().out
    assert time.monotonic() - begun < 1


def test_another_module_than_the_pinned_one_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is compiled, with both checksums; nothing is left."""
    meant = RELEASES[OLD].checksum
    monkeypatch.setitem(RELEASES, OLD, Release(VERSION, "h1:other"))
    with pytest.raises(ChangeError, match=r"has checksum h1:\S+, expected h1:other") as caught:
        releases.build(OLD, print)
    assert meant in caught.value.message
    assert [path.name for path in layout.programs(OLD).iterdir() if not path.name.startswith(".lock")] == []


def test_an_unreachable_module_proxy_is_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the network's, with the remedy."""
    monkeypatch.setenv("GOPROXY", "http://127.0.0.1:1")
    with pytest.raises(UnreachableError, match="could not download modules") as caught:
        releases.build(OLD, print)
    assert "GOPROXY" in caught.value.remedy


def test_an_istio_that_cannot_be_built_is_refused_before_the_others_are(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--istio 1.28` names what there is, at once."""
    monkeypatch.setattr(programs, "build", lambda *_: pytest.fail("built"))
    done = CliRunner().invoke(commands.build, ["--istio", "1.28"])
    assert isinstance(done.exception, InputError)
    assert done.exception.message == "Istio '1.28' cannot be built here, only 1.30"


def test_an_image_of_its_tag_is_its_code(cache: Path) -> None:
    """With its own template of Envoy's bootstrap; the lab's own tag and one that cannot be built stay the lab's."""
    folder = pretend_built()
    agent, template = "/usr/local/bin/pilot-agent", "/var/lib/istio/envoy/envoy_bootstrap_tmpl.json"
    old = images.find("docker.io/istio/proxyv2:1.30")
    assert old.files[agent] == folder / "pilot-agent"
    assert old.files[template] == folder.parent / "share" / programs.BOOTSTRAP
    assert images.find("meshkit-lab/pilot:1.30").files["/usr/local/bin/pilot-discovery"] == folder / "pilot-discovery"
    own = images.find("meshkit-lab/proxyv2:1.31")
    assert own.files[agent] == cache / "pilot-agent"
    assert own.files[template] == cache.parent / "share" / programs.BOOTSTRAP
    stamped = images.find("meshkit-lab/proxyv2:1.29")
    assert stamped.files[template] == own.files[template]
    assert stamped.files[agent].read_bytes() == b"\x7fELF\x001.29-0123456789ab\x00"


def test_an_image_of_its_tag_is_no_stamp_where_it_is_not_built(cache: Path) -> None:
    """The pod gets ErrImagePull with the command that builds it, as for an image that nobody knows."""
    with pytest.raises(images.NotFoundError, match=r"Istio 1\.30 is not built here; `meshkit lab build --istio 1\.30`"):
        images.find("docker.io/istio/pilot:1.30")
    with pytest.raises(images.NotFoundError, match="known images only"):
        images.find("docker.io/library/postgres:18")
    assert not layout.programs(OLD).exists()


def test_a_lab_of_its_shape_builds_it_or_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`meshkit lab up` builds it as it builds all else that is missing; a start without that names the command."""
    asked: list[str] = []
    monkeypatch.setattr(doctor, "require", lambda: None)
    monkeypatch.setattr(programs, "missing", lambda _: [])
    monkeypatch.setattr(releases, "build", lambda release, _: asked.append(release))
    for name in lifecycle.PROGRAMS:
        (cache / name).touch()
    with pytest.raises(UnreachableError, match=r"Istio 1\.30 is not built") as caught:
        commands.start(2, 40, "single", shapes=("older",))
    assert asked == [OLD]
    assert caught.value.remedy == "build it: `meshkit lab build --istio 1.30`"


def test_meshkit_finds_the_istioctl_of_the_lab(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the release comes before the lab's own, in `lab env`, too; another lab's is the lab's own."""
    monkeypatch.setenv("PATH", "/nonexistent")
    folder, home = pretend_built(), layout.folder()
    assert paths.program("istioctl") == str(cache / "istioctl")
    home.mkdir()
    (home / "kubeconfig").touch()
    Settings(shapes=("older",), istio=OLD).save(home)
    assert layout.tool_path() == f"{folder}:{cache}"
    assert paths.program("istioctl") == str(folder / "istioctl")
    assert Lab(home).command("istioctl")[0][0] == str(folder / "istioctl")
    assert f"export PATH={folder}:{cache}:" in CliRunner().invoke(commands.env).output
    Settings(shapes=("skew",)).save(home)
    assert paths.program("istioctl") == str(cache / "istioctl")


class Recorder(Tools):
    """Keeps what would be run."""

    def run(self, program: str, *argv: str, stdin: str = "") -> str:
        """Keep the words; of a chart, its values, too."""
        self.said = (program, *argv, stdin)
        return ""


@pytest.mark.parametrize(("shape", "expected"), [("older", [OLD, OLD]), ("skew", [OLD, ""]), ("revisioned", ["", ""])])
def test_each_cluster_is_installed_by_its_istioctl(cache: Path, shape: str, expected: list[str]) -> None:
    """Of its own release, with that tag; so are its charts."""
    home, one = layout.folder(), combined([shape])
    home.mkdir()
    settings = Settings(shapes=(shape,), istio=one.release())
    settings.save(home)
    tools = Recorder(home)
    for site, release in zip(sites(2), expected, strict=True):
        tools.install(site)
        assert tools.said[0] == str(layout.programs(release) / "istioctl")
        assert [word for word in tools.said if word.startswith("--set=tag")] == [f"--set=tag={release}"] * bool(release)
        helm.install_istiod(tools, site, {})
        assert str(layout.programs(release).parent / "share/charts/istiod") in tools.said
        assert yaml.safe_load(tools.said[-1])["global"]["tag"] == (release or "1.31")


def test_the_mesh_file_names_the_release(cache: Path, tmp_path: Path) -> None:
    """Of a mesh that has one; of one with two it is the lab's own."""
    for shape, istio, tag in (("older", OLD, OLD), ("skew", "", "1.31")):
        document = yaml.safe_load(meshfile.write(tmp_path, Settings(shapes=(shape,), istio=istio)).read_text())
        assert document["istio"]["version"] == tag
        assert yaml.safe_load(Path(document["istio"]["overlay"]).read_text())["spec"]["tag"] == tag
    with pytest.raises(InputError, match="says istio"):
        combined(["older", "skew"])
