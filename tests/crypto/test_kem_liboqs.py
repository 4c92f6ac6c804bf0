"""KEMs of the real shared library, and everything that may be wrong with it."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest

from qtunnel.crypto import kem_liboqs
from qtunnel.crypto.kem import KEMS, KemKeyError
from qtunnel.crypto.kem_set import LARGEST_EPHEMERAL, KemSet, find_kem
from qtunnel.errors import KemUnavailableError
from qtunnel.secret import Secret

SIZES = {
    "hqc-128": (2249, 4433, 64),
    "hqc-192": (4522, 8978, 64),
    "hqc-256": (7245, 14421, 64),
    "frodokem-640-shake": (9616, 9720, 16),
    "frodokem-976-shake": (15632, 15744, 24),
    "frodokem-1344-aes": (21520, 21632, 32),
    "frodokem-1344-shake": (21520, 21632, 32),
    "sntrup761": (1158, 1039, 32),
    "classic-mceliece-348864": (261120, 96, 32),
    "classic-mceliece-8192128": (1357824, 208, 32),
}
"""Bytes of public key, ciphertext and shared secret, by their specifications."""


@pytest.mark.parametrize("name", SIZES)
def test_kems_without_a_seed(name: str, liboqs: None) -> None:
    kem = find_kem(name)
    assert find_kem(name) is kem
    pair, stranger = kem.new_key_pair(random.Random(1).randbytes), kem.new_key_pair(random.Random(1).randbytes)
    assert pair.public != stranger.public, "the library draws the keys"
    ciphertext, secret = kem.encapsulate(pair.public)
    assert (len(pair.public), len(ciphertext), len(secret)) == SIZES[name]
    assert (kem.public_key_size, kem.ciphertext_size, kem.seed_size) == (*SIZES[name][:2], 0)
    assert pair.decapsulate(ciphertext) == secret
    if name.startswith("hqc"):  # says so, where the others give another secret
        with pytest.raises(KemKeyError, match="not a ciphertext for this key"):
            stranger.decapsulate(ciphertext)
    else:
        assert stranger.decapsulate(ciphertext) != secret
    with pair.export() as private:
        stored = kem.stored_key_pair(pair.public, private)
        assert stored.decapsulate(ciphertext) == secret
        for public, wrong in ((stranger.public, private), (pair.public, Secret(bytes(private.reveal())[:-1]))):
            with pytest.raises(KemKeyError, match="not a key pair of this version"):
                kem.stored_key_pair(public, wrong)
    for bad in (b"", pair.public[:-1], pair.public + b"\0"):
        with pytest.raises(KemKeyError, match=f"{name}: a public key has"):
            kem.encapsulate(bad)
    for bad in (b"", ciphertext[:-1], ciphertext + b"\0"):
        with pytest.raises(KemKeyError, match="a ciphertext has"):
            pair.decapsulate(bad)
    with pytest.raises(KemKeyError, match="no seed"):
        kem.key_pair(Secret(bytes(64)))
    assert kem.name in repr(pair)


def test_ml_kem_512_has_a_seed(liboqs: None) -> None:
    kem = find_kem("ml-kem-512")
    assert (kem.noise_name, kem.seed_size) == ("MLKEM512", 64)
    assert kem.new_key_pair(random.Random(1).randbytes).public == kem.new_key_pair(random.Random(1).randbytes).public


def test_what_stays_the_libraries_own(liboqs: None) -> None:
    assert all(find_kem(name) is kem for name, kem in KEMS.items()), "cryptography goes first"
    assert {"hqc-256", "ml-kem-1024", "sntrup761"} <= set(kem_liboqs.names())


def test_only_small_keys_are_ephemeral(liboqs: None) -> None:
    both = KemSet.of([find_kem("ml-kem-1024"), find_kem("classic-mceliece-348864")])
    assert [kem.name for kem in both.kems] == ["classic-mceliece-348864", "ml-kem-1024"]
    assert [kem.name for kem in both.ephemeral] == ["ml-kem-1024"]
    assert (both.public_key_size, both.ciphertext_size, both.ephemeral_ciphertext_size) == (1568, 96 + 1568, 1568)
    assert max(size for size, _, _ in SIZES.values() if size <= LARGEST_EPHEMERAL) == 21520


def test_a_wiped_key_pair_is_gone(liboqs: None) -> None:
    pair = find_kem("sntrup761").new_key_pair(os.urandom)
    pair.wipe()
    pair.wipe()
    with pytest.raises(Exception, match="wiped"):
        pair.decapsulate(bytes(1039))


def test_unknown_kems(liboqs: None) -> None:
    with pytest.raises(KemUnavailableError, match=r"must be one of: ml-kem-1024, ml-kem-768, or of liboqs's: liboqs "
                       r"[\d.]+ does not have it; it offers: .*hqc-256"):  # fmt: skip
        find_kem("kyber-of-old")
    with pytest.raises(KemUnavailableError, match="was built without it"):
        find_kem("bike-l1")


# -- what may be wrong, in a process of its own where nothing is loaded yet

PROGRAM = """
import sys
from qtunnel.crypto.kem_set import find_kem
from qtunnel.errors import KemUnavailableError
try:
    print(find_kem("hqc-128").version)
except KemUnavailableError as error:
    print("refused:", error)
print("imported" if "oqs" in sys.modules else "not imported")
"""


def in_process(tmp_path: Path, program: str = PROGRAM, **environment: str) -> list[str]:
    """The lines of a program in which every other program leaves a trace, and the linker knows no liboqs."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("git", "cmake", "pip"):
        (tools / tool).write_text(f"#!/bin/sh\ntouch {tmp_path}/{tool}-was-run\n")
        (tools / tool).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OQS", "PYOQS", "LD_"))}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        env={**kept, "HOME": str(tmp_path), "PATH": f"{tools}:{kept['PATH']}", **environment},
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stderr == ""
    assert sorted(path.name for path in tmp_path.glob("*-was-run")) == []
    return done.stdout.splitlines()


def fake(directory: Path, source: str) -> Path:
    """A shared library ``lib/liboqs.so`` of that C source; its prefix."""
    (directory / "lib").mkdir()
    (directory / "fake.c").write_text(source)
    command = ["cc", "-shared", "-fPIC", "-o", str(directory / "lib/liboqs.so"), str(directory / "fake.c")]
    subprocess.run(command, check=True, timeout=60)
    return directory


@pytest.fixture
def binding() -> None:
    """The Python binding, of which these tests want to see that it is not imported."""
    importlib.metadata.version(kem_liboqs.PACKAGE)


needs_compiler = pytest.mark.skipif(not Path("/usr/bin/cc").exists(), reason="needs a C compiler")


def test_without_the_library_nothing_is_imported_downloaded_or_built(tmp_path: Path, binding: None) -> None:
    line, imported = in_process(tmp_path)
    assert "the shared library liboqs is not there" in line
    assert f"{tmp_path}/_oqs/lib/liboqs.so" in line
    assert "OQS_INSTALL_PATH" in line
    assert imported == "not imported"
    assert not (tmp_path / "_oqs").exists()


@pytest.mark.parametrize("prefix", ["", "oqs", "./oqs"])
def test_a_prefix_that_depends_on_where_one_stands(tmp_path: Path, binding: None, prefix: str) -> None:
    line, imported = in_process(tmp_path, OQS_INSTALL_PATH=prefix)
    assert "OQS_INSTALL_PATH is not an absolute path" in line
    assert imported == "not imported"


def test_a_file_that_is_no_library(tmp_path: Path, binding: None) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib/liboqs.so").write_text("text")
    line, imported = in_process(tmp_path, OQS_INSTALL_PATH=str(tmp_path))
    assert f"is not there (not at {tmp_path}/lib/liboqs.so" in line
    assert imported == "not imported"


@needs_compiler
@pytest.mark.parametrize(
    "source,expected",
    [
        ("int x;", "is not liboqs, or older than 0.8"),
        ('const char *OQS_version(void) { return "0.10.1"; }', "reads the structures of liboqs 0.13 to 0."),
        ('const char *OQS_version(void) { return "0.99.0"; }', "liboqs.so is 0.99.0: install two that fit together"),
        ('const char *OQS_version(void) { return "?"; }', "install two that fit together"),
    ],
)  # fmt: skip
def test_a_library_that_does_not_fit_is_refused_before_the_import(
    tmp_path: Path, binding: None, source: str, expected: str
) -> None:
    line, imported = in_process(tmp_path, OQS_INSTALL_PATH=str(fake(tmp_path, source)))
    assert line.startswith("refused: ")
    assert expected in line
    assert imported == "not imported"


@needs_compiler
def test_a_library_that_lacks_what_the_binding_wants_is_refused(tmp_path: Path, binding: None) -> None:
    """As 0.13 does, as it was released."""
    source = """
        const char *OQS_version(void) { return "0.13.0"; }
        void OQS_init(void) {}
        void *OQS_KEM_new(void) { return 0; }
        const char *OQS_KEM_alg_identifier(void) { return "none"; }
        int OQS_KEM_alg_count(void) { return 0; }
    """
    line, imported = in_process(tmp_path, OQS_INSTALL_PATH=str(fake(tmp_path, source)))
    assert f"liboqs-python cannot use {tmp_path}/lib/liboqs.so 0.13.0 (it lacks what the binding looks for; " in line
    assert "take 0.14 or later" in line
    assert imported == "not imported"


def test_what_the_binding_prints_is_kept_quiet(tmp_path: Path, liboqs: None) -> None:
    version, imported = in_process(tmp_path, OQS_INSTALL_PATH=os.environ["OQS_INSTALL_PATH"])
    assert version.startswith("hqc")
    assert imported == "imported"


def test_without_the_binding_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(kem_liboqs, "_binding", [])
    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(KemUnavailableError, match=r"pip install 'qtunnel\[liboqs\]'"):
        kem_liboqs.binding()


def test_an_import_that_ends_the_process_is_an_error_like_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the binding's does where it finds nothing; it may neither end ours nor leave its mark in the environment."""

    def leave(name: str) -> None:
        assert os.environ["PYOQS_VERSION"] == "none"
        raise SystemExit("Could not load liboqs shared library")

    monkeypatch.setattr(kem_liboqs, "_binding", [])
    monkeypatch.setattr(kem_liboqs, "library_version", lambda: ("liboqs.so.7", "0.13.0"))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.16.0")
    monkeypatch.setattr(importlib, "import_module", leave)
    monkeypatch.delenv("PYOQS_VERSION", raising=False)
    with pytest.raises(KemUnavailableError, match=r"cannot use liboqs.so.7 0.13.0 \(SystemExit\)"):
        kem_liboqs.binding()
    assert "PYOQS_VERSION" not in os.environ
    assert not logging.getLogger("oqs.oqs").filter(logging.LogRecord("oqs.oqs", 20, "", 0, "", None, None))


class FakeKem:
    """A mechanism with sizes as a binding reads them that does not fit its library."""

    details: dict[str, object] = {}  # noqa: RUF012  # set by each test

    def __init__(self, mechanism: str) -> None:
        pass

    def __enter__(self) -> FakeKem:
        return self

    def __exit__(self, *_: object) -> None:
        pass


GOOD = {
    "version": "1", "is_ind_cca": True, "length_public_key": 1000, "length_secret_key": 1000, "length_ciphertext": 1000,
    "length_shared_secret": 32, "length_keypair_seed": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes,expected",
    [
        ({"length_keypair_seed": 140_234_567_890}, "sizes of X-1 that cannot be"),
        ({"length_shared_secret": 0}, "sizes of X-1 that cannot be"),
        ({"length_public_key": 1 << 40}, "sizes of X-1 that cannot be"),
        ({"is_ind_cca": False}, "not secure against chosen ciphertexts"),
    ],
)
def test_sizes_that_cannot_be_are_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, object], expected: str
) -> None:
    module = SimpleNamespace(
        KeyEncapsulation=FakeKem, oqs_version=lambda: "0.15.0",
        get_enabled_kem_mechanisms=lambda: ("X-1",), get_supported_kem_mechanisms=lambda: ("X-1",),
    )  # fmt: skip
    monkeypatch.setattr(kem_liboqs, "_binding", [module])
    monkeypatch.setattr(kem_liboqs, "_found", {})
    monkeypatch.setattr(FakeKem, "details", GOOD)
    assert find_kem("x-1").public_key_size == 1000
    monkeypatch.setattr(kem_liboqs, "_found", {})
    monkeypatch.setattr(FakeKem, "details", GOOD | changes)
    with pytest.raises(KemUnavailableError, match=expected):
        find_kem("x-1")
