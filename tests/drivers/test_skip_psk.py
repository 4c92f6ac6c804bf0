"""The skip driver over TLS with a pre-shared key: two real key providers, and the server of OpenSSL itself."""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qtunnel.drivers import certificates, skip, skip_tls
from qtunnel.errors import ConfigError, FilePermissionError, KeySourceCertificateError, KeySourceError
from tests.support.kme import files, run
from tests.support.skip import Pair, TellingObject, key_providers, response, server_context

if sys.version_info < (3, 13):
    sslpsk3 = pytest.importorskip("sslpsk3", reason="the extra skip-psk is not installed")

KEYS = {"alice": "0f" * 32, "bob": "a1" * 32}


def write_psk(directory: Path, name: str, digits: str, mode: int = 0o600) -> Path:
    path = directory / f"{name}.psk"
    path.touch(mode)
    path.write_text(digits + "\n")
    path.chmod(mode)
    return path


class PskObject(TellingObject):
    """What sslpsk3 sets up for a server begins the handshake anew, and asyncio calls for it in steps."""

    ready = False

    def do_handshake(self) -> None:
        if not self.ready:
            self.context.setup_psk_callbacks(self)  # type: ignore[attr-defined]
            self.ready = True
        super().do_handshake()


def psk_servers(directory: Path) -> Callable[[str], ssl.SSLContext]:
    """TLS 1.2 with the suites that the draft names, and nothing without a PSK: the context of each provider by name."""
    group = directory / "dh.pem"  # Python's server has none of its own
    wanted = ["-algorithm", "DH", "-pkeyopt", "group:ffdhe2048", "-out", str(group)]
    subprocess.run(["openssl", "genpkey", "-genparam", *wanted], check=True, timeout=60)

    def of(name: str) -> ssl.SSLContext:
        expected = name.lower()

        def find(identity: str | None) -> bytes:
            return bytes.fromhex(KEYS[expected]) if identity == expected else b""

        if sys.version_info >= (3, 13):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.sslobject_class = TellingObject
        else:
            context = sslpsk3.SSLPSKContext(ssl.PROTOCOL_TLS_SERVER)
            context.sslobject_class = PskObject
        context.set_psk_server_callback(find)
        context.load_dh_params(group)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers("DHE-PSK-AES256-CBC-SHA384:DHE-PSK-AES256-CBC-SHA")
        made: ssl.SSLContext = context
        return made

    return of


def source(pair: Pair, name: str, directory: Path, **options: Any) -> skip.Source:
    given = {"psk_identity": name.lower(), "psk_file": write_psk(directory, name, KEYS[name.lower()])}
    return pair.source(name, **{**given, **options})


async def failing(asked: skip.Source) -> KeySourceError:
    with pytest.raises(KeySourceError) as caught:
        await asked.get_key(32)
    error = caught.value
    assert not any(key in f"{error} {error!r} {error.__cause__!r}" for key in KEYS.values())
    return error


def test_keys_reach_both_ends(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with key_providers(pki, psk_servers(tmp_path)) as pair:
            alice, bob = source(pair, "Alice", tmp_path), source(pair, "Bob", tmp_path)
            for one, other in ((alice, bob), (bob, alice)) * 5:
                ref, key = await one.get_key(32)
                assert await other.get_key_by_id(ref) == key

    run(test)


def test_a_wrong_psk_or_identity_is_named_and_costs_nothing(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with key_providers(pki, psk_servers(tmp_path)) as pair:
            wrong = write_psk(tmp_path, "wrong", secrets.token_hex(32))
            for options in ({"psk_file": wrong}, {"psk_identity": "mallory"}):
                error = await failing(source(pair, "Alice", tmp_path, **options))
                assert (type(error), error.lost) == (KeySourceCertificateError, 0)
                assert "are psk_identity" in error.detail
                assert "those that the key provider has?" in error.detail
            assert pair.alice.requests == []

    run(test)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_with_a_certificate_instead_of_the_psk_is_never_asked(
    pki: Path, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    """In TLS 1.3 a server may decline the PSK and show a certificate, which a client with a PSK alone cannot check."""

    def without(_: str) -> ssl.SSLContext:
        context = server_context(files(pki, "kme-a"), mutual=False)
        context.minimum_version = context.maximum_version = version
        return context

    async def test() -> None:
        async with key_providers(pki, without) as pair:
            error = await failing(source(pair, "Alice", tmp_path))
            assert (type(error), error.lost) == (KeySourceCertificateError, 0)
            assert pair.alice.requests == []

    run(test)


@asynccontextmanager
async def openssl_server(directory: Path, psk: str, cipher: str) -> AsyncIterator[str]:
    """``openssl s_server``, which gives out files as whole HTTP answers; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    arguments = ["-accept", f"127.0.0.1:{port}", "-nocert", "-psk", psk, "-tls1_2", "-cipher", cipher, "-HTTP"]
    pipe, quiet = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    server = await asyncio.create_subprocess_exec(
        "openssl", "s_server", *arguments, cwd=directory, stdin=quiet, stdout=pipe, stderr=quiet
    )
    try:
        assert server.stdout is not None
        while (line := await server.stdout.readline()) and b"ACCEPT" not in line:
            pass
        assert line, "openssl s_server did not start"
        yield f"https://127.0.0.1:{port}"
    finally:
        server.kill()
        await server.wait()


@pytest.mark.parametrize("cipher", skip_tls.PSK_CIPHERS.split(":"))
def test_each_suite_with_the_server_of_openssl(tmp_path: Path, cipher: str) -> None:
    capabilities = '{"entropy":false,"key":true,"algorithm":"PRF","localSystemID":"Alice","remoteSystemID":["B?b"]}'
    headers = "Connection: close\r\n"
    (tmp_path / "capabilities").write_bytes(response(200, capabilities, headers=headers))
    answer = f'{{"keyId":"1726e9AE","key":"{KEYS["bob"]}"}}'
    (tmp_path / "key?remoteSystemID=Bob&size=256").write_bytes(response(200, answer, headers=headers))

    async def test() -> None:
        async with openssl_server(tmp_path, KEYS["alice"], cipher) as url:
            psk = write_psk(tmp_path, "kp", KEYS["alice"])
            hub = skip.Hub("kp", skip.Options(url=url, psk_identity="Client_identity", psk_file=psk))
            ref, key = await hub.for_peer(skip.PeerOptions(remote_system_id="Bob")).get_key(32)
            assert (ref.key_id, bytes(key.reveal()).hex()) == ("1726e9AE", KEYS["bob"])
            await hub.close()

    run(test)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "a PSK in hexadecimal is expected here, as: openssl rand -hex 32"),
        ("secret", "in hexadecimal"),
        ("abc", "in hexadecimal"),
        ("00" * 15, "has 120 bits; take 128 to 512"),
        ("00" * 65, "has 520 bits; take 128 to 512"),
    ],
)
def test_a_psk_file_that_cannot_be_used(tmp_path: Path, content: str, said: str) -> None:
    psk = write_psk(tmp_path, "kp", content)
    with pytest.raises(ConfigError, match=said):
        skip.Hub("kp", skip.Options(url="https://127.0.0.1:1", psk_identity="a", psk_file=psk))


def test_a_psk_file_that_others_may_read(tmp_path: Path) -> None:
    psk = write_psk(tmp_path, "kp", KEYS["alice"], 0o640)
    with pytest.raises(FilePermissionError, match="chmod 600"):
        skip.Hub("kp", skip.Options(url="https://127.0.0.1:1", psk_identity="a", psk_file=psk))


def test_a_psk_that_is_renewed_is_in_force_for_the_next_connection(
    pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "LOOK_AGAIN", 0.0)

    async def test() -> None:
        async with key_providers(pki, psk_servers(tmp_path)) as pair:
            psk = write_psk(tmp_path, "mine", KEYS["bob"])
            alice = source(pair, "Alice", tmp_path, psk_file=psk)
            await failing(alice)
            write_psk(tmp_path, "next", KEYS["alice"]).rename(psk)
            await alice.get_key(32)
            psk.chmod(0o640)
            status = await alice.status()
            assert status.healthy
            assert "those of before stay" in status.detail
            assert "chmod 600" in status.detail

    run(test)


def test_without_the_library_an_error_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl, "SSLContext", object)  # as before Python 3.13, without set_psk_client_callback
    monkeypatch.setitem(sys.modules, "sslpsk3", None)
    psk = write_psk(tmp_path, "kp", KEYS["alice"])
    with pytest.raises(
        ConfigError, match=r"needs Python 3.13, or with an older one the library sslpsk3.*qtunnel\[skip-psk\]"
    ):
        skip.Hub("kp", skip.Options(url="https://127.0.0.1:1", psk_identity="a", psk_file=psk))


def test_the_psk_is_wiped_when_the_source_is_closed(tmp_path: Path) -> None:
    async def test() -> None:
        psk = write_psk(tmp_path, "kp", KEYS["alice"])
        hub = skip.Hub("kp", skip.Options(url="https://127.0.0.1:1", psk_identity="a", psk_file=psk))
        held = hub.tls._psk
        assert held is not None
        await hub.close()
        assert held.wiped

    run(test)
