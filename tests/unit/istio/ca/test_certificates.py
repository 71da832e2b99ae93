"""Certificates of a Secret that has none."""

from __future__ import annotations

import pytest

from meshkit.istio.ca import certificates


@pytest.mark.parametrize("files", [{}, {"ca-cert.pem": b""}, {"ca-cert.pem": b"# emptied"}])
def test_a_secret_without_a_certificate_has_no_signer(files: dict[str, bytes]) -> None:
    """It is an error that names the file, and no IndexError of ours."""
    with pytest.raises(certificates.CertificateError, match=r"no certificate in ca-cert\.pem"):
        certificates.signer(files)
