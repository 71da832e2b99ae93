"""`meshkit ca`: keys made offline, or by one's own PKI; openssl is the oracle, and that PKI. No secret is disclosed."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization

from meshkit.istio.ca import ca_files, ca_folder
from meshkit.istio.ca import issuing as ca_issuing
from meshkit.istio.ca.certificates import parse_chain
from tests.unit.cli.test_main import call
from tests.unit.istio.ca.test_issuing import openssl

PASSPHRASE = "canary-passphrase-1"
CLUSTERS = ("east", "west")
ENV = ("--passphrase-env", "CANARY")


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a mesh file, and a passphrase in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CANARY", PASSPHRASE)
    monkeypatch.setenv("SHORT", "short")
    clusters = [{"name": name, "context": name, "network": f"net-{name}"} for name in CLUSTERS]
    Path("mesh.yaml").write_text(yaml.safe_dump({"clusters": clusters}))


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a function that runs `meshkit ca`; neither passphrase nor line of a key may be in what it says."""

    def run(*words: str, code: int = 0) -> tuple[str, str]:
        ended, out, err = call(capsys, "ca", *words)
        assert ended == code, err
        keys = [path.read_text() for path in Path().rglob("*key*") if path.is_file()]
        lines = {line for text in keys for line in text.splitlines() if not line.startswith("-----")}
        assert not [secret for secret in {PASSPHRASE, *lines} if secret in out + err]
        return out, err

    return run


def text(certificate: str) -> str:
    """Return how openssl reads a certificate."""
    return openssl("x509", "-noout", "-text", "-in", certificate)


def fingerprint(certificate: str) -> str:
    """Return openssl's SHA-256 of a certificate."""
    told = openssl("x509", "-noout", "-fingerprint", "-sha256", "-in", certificate)
    return told.partition("=")[2].strip().replace(":", "").lower()


def mode(path: str) -> int:
    """Return the permissions of a file."""
    return Path(path).stat().st_mode & 0o777


class Pki:
    """A PKI of somebody else, by openssl alone: a root, and an issuing authority under it."""

    def __init__(self, path_length: int = 1) -> None:
        """Make both."""
        Path("pki").mkdir()
        for name, length in (("root", path_length + 1), ("issuing", path_length)):
            extensions = [
                f"basicConstraints=critical,CA:TRUE,pathlen:{length}",
                "keyUsage=critical,keyCertSign,cRLSign",
            ]
            signer = [] if name == "root" else ["-CA", "pki/root.pem", "-CAkey", "pki/root.key"]
            command = ["req", "-x509", "-newkey", "rsa:2048", "-noenc", "-subj", f"/O=Corp/CN=Corp {name}", *signer]
            openssl(*command, *(w for e in extensions for w in ("-addext", e)), *self.out(name), "-days", "900")

    @staticmethod
    def out(name: str) -> list[str]:
        """Return where a pair goes."""
        return ["-keyout", f"pki/{name}.key", "-out", f"pki/{name}.pem"]

    def sign(self, cluster: str, *how: str) -> None:
        """Sign a cluster's request as it stands, or with changes."""
        command = ["x509", "-req", "-in", f"ca/{cluster}/ca.csr", "-CA", "pki/issuing.pem", "-CAkey", "pki/issuing.key"]
        chosen = how or ("-copy_extensions", "copyall")
        openssl(*command, "-days", "400", *chosen, "-out", f"ca/{cluster}/ca-cert.pem")


CHAIN = ("--chain", "pki/issuing.pem", "--chain", "pki/root.pem")


class TestRoot:
    """`meshkit ca root`."""

    @pytest.mark.parametrize(("kind", "told"), [("ec-p256", "prime256v1"), ("rsa-4096", "(4096 bit)")])
    def test_openssl_takes_it_and_what_it_signs(self, run: Any, kind: str, told: str) -> None:
        """Extensions as Istio's tools/certs, strict rules; the intermediate is of its kind and strength."""
        out, err = run("root", "ca", "--key", kind, "--organization", "Shop", "--days", "100", *ENV)
        read = text("ca/root-cert.pem")
        assert told in read
        for words in ("O = Shop, CN = Root CA", "CA:TRUE\n", "Certificate Sign", "Subject Key Identifier"):
            assert words in read
        assert openssl("verify", "-x509_strict", "-CAfile", "ca/root-cert.pem", "ca/root-cert.pem").endswith("OK\n")
        assert out.splitlines()[0].split() == ["sha256", fingerprint("ca/root-cert.pem")]
        stated = yaml.safe_load(err.partition("\n")[2])["trust"]
        offered = ca_files.read_directory(stated["rootDirectory"], CLUSTERS, stated["passphraseFrom"])
        plugged = offered.of("east", "istio-system")
        Path("east.pem").write_bytes(plugged.files["ca-cert.pem"])
        assert openssl("verify", "-x509_strict", "-CAfile", "ca/root-cert.pem", "east.pem").endswith("OK\n")
        assert told in text("east.pem")
        assert timedelta(days=99) < plugged.root.not_valid_after_utc - datetime.now(UTC) < timedelta(days=101)

    def test_its_key_is_locked_and_private(self, run: Any) -> None:
        """By the passphrase, which openssl takes too; no other does."""
        Path("p").write_text(PASSPHRASE + "\n")
        run("root", "deep/ca", "--passphrase-file", "p")
        assert (mode("deep/ca"), mode("deep/ca/root-key.pem"), mode("deep/ca/root-cert.pem")) == (0o700, 0o600, 0o600)
        key = ["pkey", "-in", "deep/ca/root-key.pem", "-pubout"]
        assert openssl(*key, "-passin", "file:p") == openssl(
            "x509", "-in", "deep/ca/root-cert.pem", "-noout", "-pubkey"
        )
        with pytest.raises(subprocess.CalledProcessError):
            openssl(*key, "-passin", "pass:canary-passphrase-2")

    def test_without_a_passphrase_only_if_asked_for(self, run: Any) -> None:
        """Forgetting it leaves nothing."""
        _, err = run("root", "ca", code=2)
        assert "--no-passphrase" in err
        assert not Path("ca").exists()
        run("root", "ca", "--no-passphrase")
        assert b"ENCRYPTED" not in Path("ca/root-key.pem").read_bytes()

    @pytest.mark.parametrize("there", ["root-key.pem", "root-cert.pem"])
    def test_nothing_is_written_over(self, run: Any, there: str) -> None:
        """And nothing new beside it."""
        Path("ca").mkdir(0o700)
        Path("ca", there).write_text("mine")
        _, err = run("root", "ca", *ENV, code=2)
        assert f"ca/{there}: it exists already" in err
        assert [(path.name, path.read_text()) for path in Path("ca").iterdir()] == [(there, "mine")]

    def test_a_failure_half_way_leaves_nothing(self, run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A full disk at the second file."""
        whole = ca_folder.replace

        def full(path: Path, content: bytes) -> None:
            if path.name == "root-cert.pem":
                raise OSError(28, "No space left on device")
            whole(path, content)

        monkeypatch.setattr(ca_folder, "replace", full)
        _, err = run("root", "ca", *ENV, code=2)
        assert "No space left" in err
        assert not list(Path("ca").iterdir())

    @pytest.mark.parametrize(
        ("words", "told"),
        [
            ((*ENV, "--no-passphrase"), "exclude each other"),
            (("--passphrase-env", "NOT_SET"), "NOT_SET is not set"),
            (("--passphrase-file", "nowhere"), "nowhere: cannot be read"),
            (("--passphrase-env", "SHORT"), "has 5 characters; expected 12 to 1023"),
            ((*ENV, "--name", "x" * 65), "1 to 64 characters"),
            ((*ENV, "--days", "0"), "--days"),
            ((*ENV, "--key", "dsa"), "ec-p256"),
        ],
    )
    def test_what_will_not_do(self, run: Any, words: tuple[str, ...], told: str) -> None:
        """One clear error, and no folder."""
        _, err = run("root", "ca", *words, code=2)
        assert told in err
        assert not Path("ca").exists()

    def test_a_folder_that_others_read_is_refused(self, run: Any) -> None:
        """With the command that fixes it."""
        Path("ca").mkdir()
        Path("ca").chmod(0o755)
        _, err = run("root", "ca", *ENV, code=2)
        assert "chmod 700 ca" in err


class TestOwnPki:
    """`meshkit ca request` and `take`: somebody else's PKI signs."""

    def test_a_request_asks_for_what_our_intermediates_have(self, run: Any) -> None:
        """The same names and extensions, as openssl reads them; its signature holds."""
        out, _ = run("request", "mesh.yaml", "ca", *ENV)
        assert out.split() == ["ca/east/ca.csr", "ca/west/ca.csr"]
        asked = openssl("req", "-noout", "-verify", "-text", "-in", "ca/west/ca.csr")
        made = ca_issuing.intermediate(ca_issuing.root("ec-p256", "Root CA", "Istio", 9), "west", "istio-system")
        Path("made.pem").write_bytes(made.files["ca-cert.pem"])
        for name in ("Subject:", "basicConstraints", "keyUsage", "subjectAltName"):
            assert section(asked, name) == section(text("made.pem"), name), name
        assert (mode("ca/west"), mode("ca/west/ca-key.pem")) == (0o700, 0o600)
        assert b"ENCRYPTED" in Path("ca/west/ca-key.pem").read_bytes()

    def test_there_and_back(self, run: Any) -> None:
        """Through one more authority between; stage 04 takes the folder, and openssl the chain."""
        run("request", "mesh.yaml", "ca", *ENV)
        pki = Pki()
        for name in CLUSTERS:
            pki.sign(name)
        out, err = run("take", "mesh.yaml", "ca", *CHAIN, *ENV)
        assert out.split("\n")[0].split()[:2] == ["east", fingerprint("ca/east/ca-cert.pem")]
        assert "!" not in err
        offered = ca_files.read_directory("ca", CLUSTERS, {"env": "CANARY"})
        assert offered.root == parse_chain(Path("pki/root.pem").read_bytes())[0]
        files = offered.of("west", "istio-system").files
        assert len(parse_chain(files["cert-chain.pem"])) == 3
        for name, pem in files.items():
            Path(name).write_bytes(pem)
        verify = ["verify", "-x509_strict", "-CAfile", "root-cert.pem", "-untrusted", "cert-chain.pem"]
        assert openssl(*verify, "ca-cert.pem").endswith("OK\n")
        assert openssl("pkey", "-in", "ca-key.pem", "-pubout") == openssl(
            "x509", "-in", "ca-cert.pem", "-noout", "-pubkey"
        )
        run("take", "mesh.yaml", "ca", *ENV)
        assert run("show", "ca", *ENV)[1] == ""

    def test_a_bundle_in_any_order_will_do_and_so_will_vaults_answer(self, run: Any) -> None:
        """As PKIs give them."""
        run("request", "mesh.yaml", "ca", "--no-passphrase")
        pki = Pki()
        for name in CLUSTERS:
            pki.sign(name)
        issuing, top = (Path(f"pki/{name}.pem").read_text() for name in ("issuing", "root"))
        with Path("ca/east/ca-cert.pem").open("a") as file:
            file.write(top + issuing)
        signed = Path("ca/west/ca-cert.pem")
        data = {"certificate": signed.read_text(), "issuing_ca": issuing, "ca_chain": [issuing, top]}
        Path("ca/west/vault.json").write_text(json.dumps({"request_id": "x", "data": data}))
        signed.unlink()
        assert len(parse_chain(ca_files.cluster_files(Path("ca/west"))["cert-chain.pem"])) == 3
        run("take", "mesh.yaml", "ca")
        assert set(ca_files.read_directory("ca", CLUSTERS, {}).plugged) == set(CLUSTERS)

    def test_a_key_is_never_written_over(self, run: Any) -> None:
        """A cluster that joins later gets its own; the others keep theirs."""
        run("request", "mesh.yaml", "ca", *ENV)
        before = {path: path.read_bytes() for path in Path("ca").rglob("*") if path.is_file()}
        _, err = run("request", "mesh.yaml", "ca", *ENV, code=2)
        assert "has its key already" in err
        document = yaml.safe_load(Path("mesh.yaml").read_text())
        document["clusters"].append({"name": "north", "context": "north", "network": "net-north"})
        Path("mesh.yaml").write_text(yaml.safe_dump(document))
        out, err = run("request", "mesh.yaml", "ca", *ENV)
        assert out == "ca/north/ca.csr\n"
        assert "east, west had a key" in err
        assert {path: path.read_bytes() for path in before} == before

    def test_the_mesh_files_passphrase_is_taken(self, run: Any) -> None:
        """Relative to the mesh file; no option is needed."""
        document = yaml.safe_load(Path("mesh.yaml").read_text())
        Path("mesh").mkdir()
        Path("mesh/p").write_text(PASSPHRASE)
        Path("mesh/mesh.yaml").write_text(yaml.safe_dump({**document, "trust": {"passphraseFrom": {"file": "p"}}}))
        run("request", "mesh/mesh.yaml", "ca")
        openssl("pkey", "-in", "ca/east/ca-key.pem", "-noout", "-passin", "file:mesh/p")

    @pytest.mark.parametrize(
        ("how", "told"),
        [
            (("-copy_extensions", "none"), "is no CA's"),
            (("-extfile", "x", "-extensions", "purpose"), "may not stand above servers and clients"),
            (("-extfile", "x", "-extensions", "sign"), "keyCertSign is missing"),
            (("-copy_extensions", "copyall", "-force_pubkey", "other.pub"), "the key is not the certificate's"),
        ],
        ids=["no CA", "purpose", "usage", "another key"],
    )
    def test_what_no_cluster_could_sign_with_is_refused(self, run: Any, how: tuple[str, ...], told: str) -> None:
        """With the reason; and nothing is written, not for the good cluster either."""
        run("request", "mesh.yaml", "ca", *ENV)
        pki = Pki()
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-out", "other.key")
        openssl("pkey", "-in", "other.key", "-pubout", "-out", "other.pub")
        usage = "keyUsage=critical,digitalSignature"
        Path("x").write_text(
            "[purpose]\nbasicConstraints=CA:TRUE,pathlen:0\nextendedKeyUsage=codeSigning\n"
            f"[sign]\nbasicConstraints=CA:TRUE,pathlen:0\n{usage}\n"
        )
        pki.sign("east")
        pki.sign("west", *how)
        _, err = run("take", "mesh.yaml", "ca", *CHAIN, *ENV, code=2)
        assert f"Error: {Path('ca/west')}: " in err
        assert told in err
        assert not list(Path("ca").rglob("cert-chain.pem"))

    def test_an_authority_above_that_allows_none_below_is_refused(self, run: Any) -> None:
        """With the words of its certificate; openssl says the same of a workload below."""
        run("request", "mesh.yaml", "ca", *ENV)
        pki = Pki(path_length=0)
        for name in CLUSTERS:
            pki.sign(name)
        _, err = run("take", "mesh.yaml", "ca", *CHAIN, *ENV, code=2)
        assert "CN=Corp issuing,O=Corp may sign workloads only (path length 0)" in err
        openssl("req", "-newkey", "rsa:2048", "-noenc", "-subj", "/CN=leaf", "-keyout", "leaf.key", "-out", "leaf.csr")
        signer = ["-CA", "ca/east/ca-cert.pem", "-CAkey", "ca/east/ca-key.pem", "-passin", "env:CANARY"]
        openssl("x509", "-req", "-in", "leaf.csr", *signer, "-out", "leaf.pem")
        between = ["-untrusted", "pki/issuing.pem", "-untrusted", "ca/east/ca-cert.pem"]
        with pytest.raises(subprocess.CalledProcessError) as failed:
            openssl("verify", "-CAfile", "pki/root.pem", *between, "leaf.pem")
        assert "path length constraint exceeded" in failed.value.stderr

    def test_what_is_missing_is_named(self, run: Any) -> None:
        """The certificates, and those above them."""
        run("request", "mesh.yaml", "ca", *ENV)
        _, err = run("take", "mesh.yaml", "ca", code=2)
        assert "no ca-cert.pem yet for east, west" in err
        pki = Pki()
        for name in CLUSTERS:
            pki.sign(name)
        _, err = run("take", "mesh.yaml", "ca", *CHAIN[:2], *ENV, code=2)
        assert "the issuer of CN=Corp issuing,O=Corp is missing: CN=Corp root,O=Corp" in err
        _, err = run("take", "mesh.yaml", "ca", *CHAIN, code=2)
        assert "no passphrase is named" in err

    def test_what_differs_but_works_is_reported(self, run: Any) -> None:
        """A PKI that leaves the SAN out, and limits the names below."""
        run("request", "mesh.yaml", "ca", *ENV)
        pki = Pki()
        Path("x").write_text("[x]\nbasicConstraints=CA:TRUE\nnameConstraints=permitted;URI:.local\n")
        for name in CLUSTERS:
            pki.sign(name, "-extfile", "x", "-extensions", "x")
        _, err = run("take", "mesh.yaml", "ca", *CHAIN, *ENV)
        for words in ("path length is not 0", "SAN lacks istiod.istio-system.svc", "name constraints"):
            assert words in err


def section(read: str, name: str) -> str:
    """Return what openssl says under a heading, without indentation."""
    heading = {
        "basicConstraints": "X509v3 Basic Constraints",
        "keyUsage": "X509v3 Key Usage",
        "subjectAltName": "X509v3 Subject Alternative Name",
    }.get(name, name)
    lines = [line.strip() for line in read.splitlines()]
    place = next(number for number, line in enumerate(lines) if line.startswith(heading))
    return lines[place] if name == "Subject:" else lines[place] + lines[place + 1]


class TestShow:
    """`meshkit ca show`."""

    def test_all_that_is_there(self, run: Any) -> None:
        """The root and the intermediates, as openssl reads them, and requests that wait."""
        run("root", "ca", *ENV)
        run("request", "mesh.yaml", "ca", *ENV)
        openssl(
            *("x509", "-req", "-in", "ca/east/ca.csr", "-CA", "ca/root-cert.pem", "-CAkey", "ca/root-key.pem"),
            *("-passin", "env:CANARY", "-copy_extensions", "copyall", "-days", "40", "-out", "ca/east/ca-cert.pem"),
        )
        out, err = run("show", "ca", "-o", "json", code=1)
        root, east, west = json.loads(out)
        assert (root["kind"], east["kind"], west["kind"]) == ("root", "intermediate", "request")
        assert (root["sha256"], east["sha256"]) == tuple(map(fingerprint, ("ca/root-cert.pem", "ca/east/ca-cert.pem")))
        assert (east["path_length"], east["days"], east["private_key"]) == (0, 39, "encrypted")
        assert "✖ east: root-cert.pem is missing: `meshkit ca take` writes it" in err

    def test_a_secret_of_cert_manager_and_two_roots(self, run: Any) -> None:
        """By its own names of files; a folder with two roots is no mesh's."""
        for name in CLUSTERS:
            run("root", f"ca/{name}", "--no-passphrase")
            for old, new in (("root-cert.pem", "tls.crt"), ("root-key.pem", "tls.key")):
                Path("ca", name, old).rename(Path("ca", name, new))
        shown = json.loads(run("show", "ca/east", "-o", "json")[0])
        assert [(row["kind"], row["private_key"], row["problem"]) for row in shown] == [("root", "open", "")]
        _, err = run("show", "ca", code=1)
        assert "2 different roots" in err

    @pytest.mark.parametrize(
        ("spoil", "told"),
        [
            (lambda: Path("ca/root-cert.pem").write_text("canary"), "no certificate in PEM in root-cert.pem"),
            (lambda: Path("ca/root-key.pem").write_bytes(other_key()), "root-key.pem is not the certificate's"),
            (lambda: [Path("ca", name).chmod(0o755) for name in (".", "root-key.pem")], "others may read root-key.pem"),
        ],
        ids=["certificate", "key", "open"],
    )
    def test_what_is_wrong_is_reported(self, run: Any, spoil: Any, told: str) -> None:
        """And ends with 1; nothing of the files is quoted."""
        run("root", "ca", "--no-passphrase")
        spoil()
        out, err = run("show", "ca", code=1)
        assert told in err
        assert "canary" not in out + err

    def test_an_empty_folder_is_no_ca(self, run: Any) -> None:
        """Neither is one that is not there."""
        Path("ca").mkdir()
        assert "it has no CA files" in run("show", "ca", code=2)[1]
        assert "no such folder" in run("show", "nowhere", code=2)[1]


def other_key() -> bytes:
    """Return a key of nobody."""
    key = ca_issuing.new_key("ec-p256")
    pkcs8 = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption())
