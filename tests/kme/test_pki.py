"""The PKI: what stands in the certificates, and that no file is ever lost or left open."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from qtunnel.cli.kme import kme
from qtunnel.errors import ConfigError, FilePermissionError
from qtunnel.kme.pki import Authority, KmeName, create_pki
from qtunnel.tls import TlsFiles, client_context

NOW = datetime.now(UTC)


def certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def usages(path: Path) -> set[x509.ObjectIdentifier]:
    return set(certificate(path).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_default_names_addresses_and_uses(tmp_path: Path) -> None:
    made = create_pki(tmp_path, now=NOW)
    assert {path.name for path in made} == {
        f"{name}.{kind}" for name in ("ca", "kme-a", "kme-b", "sae-alice", "sae-bob") for kind in ("pem", "key")
    }
    names = certificate(tmp_path / "kme-a.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["kme-a", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [ip_address("127.0.0.1"), ip_address("::1")]
    assert usages(tmp_path / "kme-a.pem") == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert usages(tmp_path / "sae-bob.pem") == {ExtendedKeyUsageOID.CLIENT_AUTH}
    certificate(tmp_path / "sae-bob.pem").verify_directly_issued_by(certificate(tmp_path / "ca.pem"))


def test_only_certificates_are_readable_by_others(tmp_path: Path) -> None:
    for path in create_pki(tmp_path, now=NOW):
        assert stat.S_IMODE(path.stat().st_mode) == (0o600 if path.suffix == ".key" else 0o644)


def test_addresses_are_added() -> None:
    assert KmeName.parse("kme-a=10.99.0.1,kme.example.org") == KmeName("kme-a", ("10.99.0.1", "kme.example.org"))
    assert KmeName.parse("kme-a,10.99.0.1") == KmeName("kme-a", ("10.99.0.1",))


@pytest.mark.parametrize("text", ["", "-a", "a/b", "a b", "kme-a=", "kme-a=10.0.0.1,", "kme-a=not a host", "x" * 64])
def test_names_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        KmeName.parse(text)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    made = {path: path.read_bytes() for path in create_pki(tmp_path, now=NOW)}
    with pytest.raises(ConfigError, match=r"ca\.key, ca\.pem.*never overwritten"):
        create_pki(tmp_path, now=NOW)
    with pytest.raises(ConfigError, match=r"sae-bob\.key"):
        create_pki(tmp_path, now=NOW, kmes=[], saes=["sae-bob"], add=True)
    assert {path: path.read_bytes() for path in made} == made


def test_one_remaining_file_is_enough_to_refuse_and_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "sae-bob.key").write_text("precious")
    with pytest.raises(ConfigError, match=r"sae-bob\.key"):
        create_pki(tmp_path, now=NOW)
    assert [path.name for path in tmp_path.iterdir()] == ["sae-bob.key"]


def test_a_name_is_added_under_the_same_ca(tmp_path: Path) -> None:
    create_pki(tmp_path, now=NOW)
    made = create_pki(tmp_path, now=NOW, kmes=[], saes=["sae-carol"], add=True)
    assert [path.name for path in made] == ["sae-carol.pem", "sae-carol.key"]
    certificate(made[0]).verify_directly_issued_by(certificate(tmp_path / "ca.pem"))


def test_a_ca_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    create_pki(tmp_path, now=NOW)
    (tmp_path / "ca.key").chmod(0o644)
    with pytest.raises(FilePermissionError, match="chmod 600"):
        create_pki(tmp_path, now=NOW, kmes=[], saes=["sae-carol"], add=True)


def test_a_ca_of_two_halves_is_refused(tmp_path: Path) -> None:
    create_pki(tmp_path, now=NOW)
    (tmp_path / "ca.pem").write_bytes(Authority.create(NOW).certificate_pem())
    with pytest.raises(ConfigError, match="do not belong together"):
        create_pki(tmp_path, now=NOW, kmes=[], saes=["sae-carol"], add=True)


@pytest.mark.parametrize("names", [["kme-a"], ["x", "x"], ["ca"]])
def test_a_name_stands_for_one_certificate(tmp_path: Path, names: list[str]) -> None:
    with pytest.raises(ConfigError, match="each name may be given once"):
        create_pki(tmp_path, now=NOW, kmes=[KmeName("kme-a")], saes=names)


def test_the_command_lists_its_files_and_refuses_in_one_line(tmp_path: Path) -> None:
    arguments = ["pki", str(tmp_path), "--kme", "kme-x=10.1.2.3", "--sae", "sae-x"]
    result = CliRunner().invoke(kme, arguments)
    assert result.exit_code == 0
    assert result.output.split() == [
        str(tmp_path / f"{name}.{kind}") for name in ("ca", "kme-x", "sae-x") for kind in ("pem", "key")
    ]
    again = CliRunner().invoke(kme, arguments)
    assert isinstance(again.exception, ConfigError)
    assert "\n" not in str(again.exception)


def test_tls_files_that_do_not_fit_are_named(tmp_path: Path) -> None:
    create_pki(tmp_path, now=NOW)
    ca, alice, bob = tmp_path / "ca.pem", tmp_path / "sae-alice.pem", tmp_path / "sae-bob.key"
    with pytest.raises(ConfigError, match=r"sae-bob\.key: not the private key of .*sae-alice\.pem; name the one"):
        client_context(TlsFiles(ca, alice, bob))
    with pytest.raises(ConfigError, match=r"cannot be read: is a directory; name a file that"):
        client_context(TlsFiles(tmp_path, alice, tmp_path / "sae-alice.key"))
    with pytest.raises(ConfigError, match=r"missing\.pem: no such file"):
        client_context(TlsFiles(tmp_path / "missing.pem", alice, tmp_path / "sae-alice.key"))
    (tmp_path / "text.pem").write_text("hello")
    with pytest.raises(ConfigError, match=r"text\.pem: no certificate in PEM"):
        client_context(TlsFiles(tmp_path / "text.pem", alice, tmp_path / "sae-alice.key"))
    with pytest.raises(ConfigError, match=r"text\.pem, .*sae-alice\.key: not a certificate"):
        client_context(TlsFiles(ca, tmp_path / "text.pem", tmp_path / "sae-alice.key"))
    (tmp_path / "sae-alice.key").chmod(0o640)
    with pytest.raises(FilePermissionError, match=r"chmod 600 .*sae-alice\.key"):
        client_context(TlsFiles(ca, alice, tmp_path / "sae-alice.key"))


def test_an_encrypted_key_asks_nobody(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    create_pki(tmp_path, now=NOW)
    path = tmp_path / "sae-alice.key"
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"passphrase"),
        )
    )
    with pytest.raises(ConfigError, match=r"sae-alice\.key: the key is encrypted"):
        client_context(TlsFiles(tmp_path / "ca.pem", tmp_path / "sae-alice.pem", path))
