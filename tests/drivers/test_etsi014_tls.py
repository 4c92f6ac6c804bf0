"""The driver's side of TLS: versions, PKCS#12, passwords, and files that change while it runs."""

from __future__ import annotations

import os
import shutil
import ssl
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from qtunnel.drivers import certificates, etsi014
from qtunnel.errors import ConfigError, FilePermissionError, KeySourceCertificateError, QtunnelError
from qtunnel.kme.pki import Authority
from qtunnel.tls import own_names
from tests.drivers.front import front
from tests.support.kme import Pair, driver_options, files, kme_pair, run, until, write_pair

PEER = etsi014.PeerOptions(peer_sae_id="sae-bob")
PASSWORD = "correct horse"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are looked at for each call, not each second."""
    monkeypatch.setattr(certificates, "LOOK_AGAIN", 0.0)


def secret_file(path: Path, data: bytes) -> Path:
    path.touch(0o600)
    path.write_bytes(data)
    return path


def parts(pki: Path) -> tuple[Any, x509.Certificate, x509.Certificate]:
    """Alice's private key and certificate, and the CA's."""
    mine = files(pki, "sae-alice")
    return (
        serialization.load_pem_private_key(mine.private_key.read_bytes(), None),
        x509.load_pem_x509_certificate(mine.certificate.read_bytes()),
        x509.load_pem_x509_certificate(mine.ca.read_bytes()),
    )


def options(pki: Path, url: str, **given: Any) -> etsi014.Options:
    """Without certificate and private key, where others are given."""
    plain = {"url": url, "sae_id": "sae-alice", "ca": pki / "ca.pem", **given}
    return etsi014.Options.model_validate(plain)


def encryption(password: str | None) -> serialization.KeySerializationEncryption:
    if password is None:
        return serialization.NoEncryption()
    return serialization.BestAvailableEncryption(password.encode())


def bundle(pki: Path, path: Path, password: str | None, *, key: bool = True, certificate: bool = True) -> Path:
    private, own, ca = parts(pki)
    data = pkcs12.serialize_key_and_certificates(
        b"alice", private if key else None, own if certificate else None, [ca], encryption(password)
    )
    return secret_file(path, data)


def weak_bundle(pki: Path, path: Path) -> Path:
    """Of a key that OpenSSL's security level does not take."""
    key = rsa.generate_private_key(65537, 1024)
    name, now = x509.Name([]), datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    certificate = made.sign(key, hashes.SHA256())
    data = pkcs12.serialize_key_and_certificates(b"alice", key, certificate, None, encryption(None))
    return secret_file(path, data)


def encrypted_key(pki: Path, path: Path, password: str) -> Path:
    private, _, _ = parts(pki)
    form = serialization.PrivateFormat.PKCS8
    return secret_file(path, private.private_bytes(serialization.Encoding.PEM, form, encryption(password)))


async def works(given: etsi014.Options) -> bool:
    hub = etsi014.Hub("metro", given)
    try:
        return len((await hub.for_peer(PEER).get_key(32))[1]) == 32
    finally:
        await hub.close()


@pytest.mark.parametrize("line_end", ["", "\n", "\r\n"])
def test_a_private_key_with_a_password(pki: Path, tmp_path: Path, line_end: str) -> None:
    key = encrypted_key(pki, tmp_path / "alice.key", PASSWORD)
    password = secret_file(tmp_path / "password", (PASSWORD + line_end).encode())
    mine = {"certificate": files(pki, "sae-alice").certificate, "private_key": key}

    async def test() -> None:
        async with kme_pair(pki, start="ab") as pair:
            assert await works(options(pki, f"https://{pair.a.listen}", **mine, private_key_password_file=password))

    run(test)
    with pytest.raises(ConfigError, match=r"alice\.key: the key is encrypted"):
        etsi014.Hub("metro", options(pki, "https://127.0.0.1:1", **mine))
    password.write_text("something else")
    with pytest.raises(ConfigError, match=r"alice\.key: does not open with .*password; put the right") as caught:
        etsi014.Hub("metro", options(pki, "https://127.0.0.1:1", **mine, private_key_password_file=password))
    assert "something" not in str(caught.value)
    password.write_text("\n")
    with pytest.raises(ConfigError, match="password: no password in it; write it into the first line"):
        etsi014.Hub("metro", options(pki, "https://127.0.0.1:1", **mine, private_key_password_file=password))
    password.chmod(0o644)
    with pytest.raises(FilePermissionError, match=r"chmod 600 .*password"):
        etsi014.Hub("metro", options(pki, "https://127.0.0.1:1", **mine, private_key_password_file=password))


def open_files() -> list[str]:
    """What this process has open."""
    return [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]


@pytest.mark.parametrize("password", [None, PASSWORD])
def test_pkcs12(pki: Path, tmp_path: Path, password: str | None) -> None:
    mine: dict[str, Any] = {"pkcs12": bundle(pki, tmp_path / "alice.p12", password)}
    if password is not None:
        mine["pkcs12_password_file"] = secret_file(tmp_path / "password", f"{password}\n".encode())

    async def test() -> None:
        async with kme_pair(pki) as pair:
            given = options(pki, f"https://{pair.a.listen}", **mine)
            assert await works(given)
            assert [name for name in open_files() if "pkcs12" in name] == [], "no open file holds the private key"
            assert own_names(given.tls_files) == {"sae-alice"}
            assert list(etsi014.DRIVER.doubts(given)) == []
            [doubt] = etsi014.DRIVER.doubts(given.model_copy(update={"sae_id": "sae-carol"}))
            assert "alice.p12 names sae-alice, not sae_id sae-carol" in doubt

    run(test)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda pki, path: secret_file(path, b"hello"), "not PKCS#12, or it does not open without a password"),
        (lambda pki, path: bundle(pki, path, PASSWORD), "does not open without a password"),
        (lambda pki, path: bundle(pki, path, None, key=False, certificate=False), "no private key in it; export both"),
        (weak_bundle, "cannot be used for TLS; have others issued"),
    ],
    ids=["text", "password", "no key", "weak"],
)
def test_pkcs12_that_cannot_be_used(pki: Path, tmp_path: Path, make: Callable[[Path, Path], Path], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        etsi014.Hub("metro", options(pki, "https://127.0.0.1:1", pkcs12=make(pki, tmp_path / "alice.p12")))


def test_a_wrong_password_of_pkcs12(pki: Path, tmp_path: Path) -> None:
    mine = {
        "pkcs12": bundle(pki, tmp_path / "alice.p12", PASSWORD),
        "pkcs12_password_file": secret_file(tmp_path / "password", b"wrong one"),
    }
    with pytest.raises(ConfigError, match=r"alice\.p12: .*with the password in .*password; name file and") as caught:
        etsi014.Hub("metro", options(pki, "https://127.0.0.1:1", **mine))
    assert "wrong one" not in str(caught.value)


@pytest.mark.parametrize("ours", ["1.2", "1.3", 1.3])
@pytest.mark.parametrize("theirs", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_the_least_version_of_tls(pki: Path, ours: object, theirs: ssl.TLSVersion) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair, front(pki, f"https://{pair.a.listen}") as server:
            await server.stop()
            await server.start(server.context(version=theirs))
            given = driver_options(pki, "sae-alice", server.url, tls_min_version=ours)
            if str(ours) == "1.3" and theirs is ssl.TLSVersion.TLSv1_2:
                with pytest.raises(KeySourceCertificateError, match="no common TLS version") as caught:
                    await works(given)
                assert caught.value.lost == 0
                assert server.calls == []
            else:
                assert await works(given)

    run(test)


class Renewal:
    """A source on copies of Alice's files, of which a test makes others."""

    def __init__(self, pair: Pair, directory: Path) -> None:
        self.pki, self.directory = pair.pki, directory
        for name in ("ca.pem", "sae-alice.pem", "sae-alice.key"):
            shutil.copy(pair.pki / name, directory / name)
        self.hub = etsi014.Hub("metro", driver_options(directory, "sae-alice", f"https://{pair.a.listen}"))
        pair.stack.push_async_callback(self.hub.close)
        self.source = self.hub.for_peer(PEER)

    def issue(self, **issue: Any) -> None:
        write_pair(self.directory, "sae-alice", Authority.load(self.pki), **issue)

    async def problem(self) -> str:
        return (await self.source.status()).detail.partition("; ")[2]


def test_renewed_certificates_are_in_force_without_a_restart(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            here = Renewal(pair, tmp_path)
            await here.source.get_key(32)
            here.issue(lifetime=timedelta(seconds=-60))
            with pytest.raises(KeySourceCertificateError, match="refused our certificate: expired"):
                await here.source.get_key(32)
            here.issue()
            await here.source.get_key(32)
            assert await here.problem() == ""

    run(test)


def test_files_are_looked_at_once_a_second(pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "LOOK_AGAIN", 1.0)
    chain = tmp_path / "own.pem"
    shutil.copy(files(pki, "sae-alice").certificate, chain)
    now = [100.0]

    class Paths:
        paths = (chain,)

    async def test() -> None:
        kept = certificates.Certificates(Paths(), ssl.create_default_context, lambda: now[0])
        first = await kept.current()
        chain.write_text("another")
        assert await kept.current() is first
        now[0] += 0.99
        assert await kept.current() is first
        now[0] += 0.01
        renewed = await kept.current()
        assert renewed is not first
        assert await kept.current() is renewed

    run(test)


def test_a_disk_that_hangs_stops_neither_the_loop_nor_the_keys(
    pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of a network that is down: looking at a file on it may take for ever."""
    hangs = threading.Event()
    over = threading.Event()
    real = Path.stat
    loop = threading.get_ident()

    def stat(self: Path, **options: Any) -> os.stat_result:
        if hangs.is_set() and self.name == "sae-alice.pem":
            assert threading.get_ident() != loop, "it would stop everything"
            over.wait(30)
        return real(self, **options)

    monkeypatch.setattr(Path, "stat", stat)
    monkeypatch.setattr(certificates, "LOOK_LIMIT", 0.05)

    async def test() -> None:
        async with kme_pair(pki) as pair:
            here = Renewal(pair, tmp_path)
            await here.source.get_key(32)
            before = threading.active_count()
            hangs.set()
            try:
                for _ in range(5):
                    await here.source.get_key(32)
                assert await here.problem() == certificates.HANGS
                assert threading.active_count() <= before + 1, "one thread waits for it"
            finally:
                hangs.clear()
                over.set()
            here.issue(lifetime=timedelta(seconds=-60))

            async def seen() -> bool:
                try:
                    await here.source.get_key(32)
                except KeySourceCertificateError:
                    return True
                return False

            await until(seen)
            here.issue()
            await here.source.get_key(32)
            assert await here.problem() == ""

    run(test)


def test_a_ca_that_is_exchanged_is_in_force_without_a_restart(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            here = Renewal(pair, tmp_path)
            await here.source.get_key(32)
            other = tmp_path / "other.pem"
            other.write_bytes(Authority.create(datetime.now(UTC)).certificate_pem())
            other.replace(tmp_path / "ca.pem")
            with pytest.raises(KeySourceCertificateError, match="not signed by the CA that we trust"):
                await here.source.get_key(32)
            shutil.copy(pki / "ca.pem", tmp_path / "ca.pem")
            await here.source.get_key(32)

    run(test)


def spoil_certificate(directory: Path) -> None:
    (directory / "sae-alice.pem").write_text("half of a certif")


def remove_key(directory: Path) -> None:
    (directory / "sae-alice.key").unlink()


def open_key(directory: Path) -> None:
    (directory / "sae-alice.key").chmod(0o644)


def other_key(directory: Path) -> None:
    shutil.copy(directory / "of-bob.key", directory / "sae-alice.key")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoil_certificate, "not a certificate and its private key"),
        (remove_key, "no such file"),
        (open_key, "chmod 600"),
        (other_key, "not the private key of"),
    ],
)
def test_files_that_became_unusable_keep_those_of_before_in_force(
    pki: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    async def test() -> None:
        async with kme_pair(pki) as pair:
            here = Renewal(pair, tmp_path)
            shutil.copy(pki / "sae-bob.key", tmp_path / "of-bob.key")
            spoil(tmp_path)
            for _ in range(2):
                await here.source.get_key(32)
                problem = await here.problem()
                assert said in problem
                assert "so those of before stay" in problem
            (tmp_path / "sae-alice.key").unlink(missing_ok=True)
            here.issue()
            await here.source.get_key(32)
            assert await here.problem() == ""

    run(test)


def test_files_that_are_unusable_from_the_start_are_an_error(pki: Path, tmp_path: Path) -> None:
    given = driver_options(pki, "sae-alice", "https://127.0.0.1:1")
    with pytest.raises(QtunnelError, match="no such file"):
        etsi014.Hub("metro", given.model_copy(update={"certificate": tmp_path / "none.pem"}))
