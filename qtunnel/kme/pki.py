"""A small PKI for a pair of KMEs and their SAEs: one CA and a certificate for each name.

The common name of a certificate is its owner's KME ID or SAE ID. KMEs may act as server and as client (towards their
partner), SAEs as client only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qtunnel.errors import ConfigError
from qtunnel.files import read_secret_file, write_new_file

CURVE = ec.SECP256R1
"""Every TLS stack that KMEs are built on takes it; what travels inside does not rest on it alone."""

CA_LIFETIME = timedelta(days=3650)
LEAF_LIFETIME = timedelta(days=825)
CLOCK_SKEW = timedelta(hours=1)
"""Certificates are valid this long before they were made, for machines whose clocks are behind."""

ID_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
"""A KME ID or SAE ID: also a file name, a common name (at most 64) and a DNS label (at most 63)."""

HOST_PATTERN = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*\Z"
)

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class KmeName:
    """A KME to certify: its ID, and the addresses or DNS names it is reached at besides ``LOCAL_HOSTS``."""

    kme_id: str
    addresses: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> KmeName:
        """From ``NAME``, ``NAME=ADDRESS`` or ``NAME=ADDRESS,ADDRESS``; raises ``ConfigError``."""
        name, *addresses = re.split(r"[=,]", text)
        for address in addresses:
            if not _is_address(address) and not HOST_PATTERN.match(address):
                raise ConfigError(
                    f"{text}: {address!r} is neither an IP address nor a DNS name; example: kme-a=10.99.0.1"
                )
        return cls(check_id(name), tuple(addresses))


DEFAULT_KMES = (KmeName("kme-a"), KmeName("kme-b"))
DEFAULT_SAES = ("sae-alice", "sae-bob")


def check_id(name: str) -> str:
    """``name``, if it can be a KME ID or SAE ID here; raises ``ConfigError``."""
    if not ID_PATTERN.match(name):
        raise ConfigError(
            f"{name!r} cannot be a name here: 1 to 63 letters, digits, dots, dashes and underscores, like kme-a"
        )
    return name


class Authority:
    """A CA that signs the certificates of KMEs and SAEs."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    @classmethod
    def create(cls, now: datetime, name: str = "qtunnel KME CA") -> Authority:
        """A fresh, self-signed CA, valid from ``now`` (aware) for ``CA_LIFETIME``."""
        key = ec.generate_private_key(CURVE())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = _builder(subject, subject, key.public_key(), now - CLOCK_SKEW, now + CA_LIFETIME)
        certificate = (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(key_cert_sign=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, directory: Path) -> Authority:
        """The CA in ``directory``; raises ``ConfigError`` or ``FilePermissionError``."""
        path = directory / "ca.key"
        with read_secret_file(path) as pem:
            try:
                key = serialization.load_pem_private_key(bytes(pem.reveal()), password=None)
                certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
            except (ValueError, TypeError):
                raise ConfigError(
                    f"{directory}: ca.pem and ca.key are not a certificate and a plain key in PEM"
                ) from None
            except OSError as error:
                raise ConfigError(f"{directory / 'ca.pem'}: cannot be read: {error.strerror}") from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or certificate.public_key() != key.public_key():
            raise ConfigError(f"{directory}: ca.pem and ca.key do not belong together")
        return cls(certificate, key)

    def key_pem(self) -> bytes:
        return _key_pem(self._key)

    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(
        self,
        name: str,
        *,
        now: datetime,
        hosts: Sequence[str] = (),
        server: bool = False,
        lifetime: timedelta = LEAF_LIFETIME,
    ) -> tuple[bytes, bytes]:
        """A certificate and its private key, both in PEM.

        name: the common name. hosts: DNS names and addresses, the subject alternative names. server: may act as a
        TLS server as well as a client. lifetime: from ``now``; negative makes one that has expired.
        """
        key = ec.generate_private_key(CURVE())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH]
        if server:
            usages.append(ExtendedKeyUsageOID.SERVER_AUTH)
        start = min(now, now + lifetime) - CLOCK_SKEW
        builder = (
            _builder(subject, self.certificate.subject, key.public_key(), start, now + lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if hosts:
            names = [_general_name(host) for host in dict.fromkeys(hosts)]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM), _key_pem(key)

    def issue_kme(self, kme: KmeName, now: datetime) -> tuple[bytes, bytes]:
        return self.issue(kme.kme_id, now=now, hosts=(kme.kme_id, *LOCAL_HOSTS, *kme.addresses), server=True)

    def issue_sae(self, sae_id: str, now: datetime) -> tuple[bytes, bytes]:
        return self.issue(sae_id, now=now, hosts=(sae_id,))


def create_pki(
    directory: Path,
    *,
    now: datetime,
    kmes: Sequence[KmeName] = DEFAULT_KMES,
    saes: Sequence[str] = DEFAULT_SAES,
    add: bool = False,
) -> list[Path]:
    """Write a CA and certificates to ``directory`` and return the files made, in order.

    Makes ``ca.pem``, ``ca.key`` and ``NAME.pem``, ``NAME.key`` for each name; keys have mode 0600. With ``add`` the CA
    of the directory signs and only the named certificates are made. Nothing is ever overwritten. Raises
    ``ConfigError`` or ``FilePermissionError``.
    """
    names = [*(kme.kme_id for kme in kmes), *saes]
    for name in names:
        check_id(name)
    doubled = {name for name in names if names.count(name) > 1} | {name for name in names if name == "ca"}
    if doubled:
        raise ConfigError(f"{', '.join(sorted(doubled))}: each name may be given once, and ca is the CA's own")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        _refuse_existing(directory, names if add else ["ca", *names])
        if add:
            authority = Authority.load(directory)
            made = []
        else:
            authority = Authority.create(now)
            made = _write_pair(directory, "ca", authority.certificate_pem(), authority.key_pem())
        for kme in kmes:
            made += _write_pair(directory, kme.kme_id, *authority.issue_kme(kme, now))
        for sae_id in saes:
            made += _write_pair(directory, sae_id, *authority.issue_sae(sae_id, now))
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror}") from None
    return made


def _refuse_existing(directory: Path, names: Iterable[str]) -> None:
    existing = [path.name for name in names for path in _pair(directory, name) if path.exists()]
    if existing:
        raise ConfigError(
            f"{directory}: {', '.join(existing)} exist and are never overwritten; "
            "choose another directory, or use --add to add further names under the same CA"
        )


def _pair(directory: Path, name: str) -> tuple[Path, Path]:
    return directory / f"{name}.key", directory / f"{name}.pem"


def _write_pair(directory: Path, name: str, certificate: bytes, key: bytes) -> list[Path]:
    key_path, certificate_path = _pair(directory, name)
    write_new_file(key_path, key, mode=0o600)
    write_new_file(certificate_path, certificate, mode=0o644)
    return [certificate_path, key_path]


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _general_name(host: str) -> x509.GeneralName:
    return x509.IPAddress(ip_address(host)) if _is_address(host) else x509.DNSName(host)
