"""Secrets are compared in constant time, chance is the system's, no check vanishes with -O, no data becomes code."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.architecture import PACKAGE, sources, tree
from tests.misuse import Found, chance, checks_that_vanish, comparisons, dangers

SECRETS = "both are of the type Secret, which compares in constant time"
OWN = "a checksum of our own data on a disk; who can write there can write the checksum too"

COMPARED = {
    ("audit/chain.py", "fields.get('sha256') == hashlib.sha256(torn).hexdigest()"): "hashes of a log that is public",
    ("audit/verify.py", "read.record.hash != head.digest"): "hashes of a log that is public",
    ("auditlog/log.py", "kept.digest != found.end.digest"): "hashes of a log that is public",
    ("bench/processes.py", "key == wanted"): "a line's name in /proc",
    ("config/checks.py", "key == own.wireguard"): "public keys",
    ("crypto/kem.py", "secret == opened"): SECRETS,
    ("crypto/kem_liboqs.py", "[*sizes[::2], seed] != [same.public_key_size, same.ciphertext_size, same.seed_size]"): (
        "sizes"
    ),
    ("drivers/file_format.py", "digest != hashlib.sha256(head).digest()"): OWN,
    ("drivers/file_format.py", "digest != _digest(info, body)"): OWN,
    ("drivers/file_ledger.py", "hashlib.sha256(body).hexdigest().encode() != digest"): OWN,
    ("engines/existing.py", "peer.psk_mark != self._marks.get(peer.public_key)"): (
        "hashes under a random key of this process, which nobody outside can ask for"
    ),
    ("engines/existing.py", "there[key].psk_mark != self._marks.get(key)"): "the same",
    ("kme/store.py", "known.key != item.key"): SECRETS,
    ("page/guard.py", "Secret(given) != self._token"): SECRETS,
    ("probe/delivery_checks.py", "its != key"): SECRETS,
    ("probe/delivery_checks.py", "other != key"): SECRETS,
    ("rekey/ahead.py", "settings.store_key != before.store_key"): SECRETS,
    ("wireguard/configuration.py", "private == Secret(NO_PSK)"): SECRETS,
    ("wireguard/configuration.py", "state.static.private == clamped"): SECRETS,
    ("wireguard/configuration.py", "psk == peer.psk.psk"): SECRETS,
    ("wireguard/peer.py", "psk.psk != self.psk.psk"): SECRETS,
    ("wireguard/record_join.py", "key[0] == counter"): "a counter, and the number of a fragment",
}
"""Comparisons by == of what has the name of a secret, and why each is none, or is safe."""

BY_CHANCE = {
    ("bench/flood_source.py", "import random"): "sender addresses of a flood, the same at every run",
    ("drivers/mqtt_connection.py", "import random"): "how long to wait until the next try to connect",
    ("fleet/broker.py", "import random"): "the same",
}

DANGERS = {
    ("crypto/noise.py", "hashlib.new(self.hash_name)"): "sha512 or blake2s, by the two suites of this program",
    ("demo/files.py", "yaml.load(source.read_text())"): "of ruamel.yaml with typ='rt', which makes no objects",
    ("drivers/skip_tls.py", "ssl.CERT_NONE"): "TLS 1.2 with a PSK has no certificate",
    ("drivers/skip_tls.py", "context.check_hostname = False"): "the same",
}


parsed = functools.cache(tree)


def everywhere(look: Callable[[ast.AST], Iterator[Found]]) -> dict[tuple[str, str], int]:
    """What is found in the package, by file and source text; and the line."""
    return {(str(file), one.text): one.line for file in sources() for one in look(parsed(file))}


@pytest.mark.parametrize(
    ("look", "meant"),
    [(comparisons, COMPARED), (chance, BY_CHANCE), (dangers, DANGERS), (checks_that_vanish, {})],
    ids=["compared", "chance", "dangers", "asserts"],
)
def test_nothing_is_found_but_what_is_meant(
    look: Callable[[ast.AST], Iterator[Found]], meant: dict[tuple[str, str], str]
) -> None:
    found = everywhere(look)
    assert [f"{file}:{line}: {text}" for (file, text), line in found.items() if (file, text) not in meant] == []
    assert set(meant) - set(found) == set(), "meant, but not there any more"


def texts(look: Callable[[ast.AST], Iterator[Found]], code: str) -> list[str]:
    return [one.text for one in look(ast.parse(code))]


@pytest.mark.parametrize(
    "code",
    [
        "mac1 == expected", "expected != datagram.mac1", "self._cookie == cookie", "given == self.token[0]",
        "bytes(psk) == other", "mac(key, data) == end", "a == b == chain_secret", "hmac.digest(k, d, 'sha512') == tail",
        "(tag, rest) == (one, other)", "[secret.reveal()] == [x]", "bytes(private.reveal()) == NO_PSK",
        "(preshared_key := load()) == it",
    ],
)  # fmt: skip
def test_a_comparison_of_secrets_is_found(code: str) -> None:
    assert texts(comparisons, code) == [ast.unparse(ast.parse(code))]


@pytest.mark.parametrize(
    "code",
    [
        "key == 'public_key'", "hmac.compare_digest(mac1, other)", "public_key == other", "mac2 != NO_COOKIE",
        "key_id == other.key_id", "tag is None", "len(secret) == 32", "label == Label.COOKIE", "secret in known",
        "key_size == other", "verdict == Verdict.KEY",
    ],
)  # fmt: skip
def test_what_is_public_may_be_compared(code: str) -> None:
    assert texts(comparisons, code) == []


@pytest.mark.parametrize(
    ("look", "code"),
    [
        (dangers, "pickle.loads(x)\nimport pickle"), (dangers, "from marshal import loads"), (dangers, "eval(text)"),
        (dangers, "subprocess.run(line, shell=True)"), (dangers, "subprocess.run(line, shell=given)"),
        (dangers, "os.system(line)"), (dangers, "asyncio.create_subprocess_shell(line)"), (dangers, "yaml.load(text)"),
        (dangers, "YAML(typ='unsafe')"), (dangers, "YAML('unsafe')"), (dangers, "YAML()"),
        (dangers, "tempfile.mktemp()"), (dangers, "hashlib.md5(x)"), (dangers, "context.verify_mode = ssl.CERT_NONE"),
        (dangers, "ssl._create_unverified_context()"), (dangers, "context.check_hostname = False"),
        (chance, "import random"), (chance, "from random import choice"), (chance, "numpy.random.bytes(4)"),
        (chance, "import os, random"), (checks_that_vanish, "assert size == 32"),
        (checks_that_vanish, "assert authenticated(peer)"), (checks_that_vanish, "assert x is not None and x > 3"),
    ],
)  # fmt: skip
def test_each_misuse_is_found(look: Callable[[ast.AST], Iterator[Found]], code: str) -> None:
    assert len(texts(look, code)) == 1


@pytest.mark.parametrize(
    ("look", "code"),
    [
        (dangers, "subprocess.run(words, shell=False)"), (dangers, "re.compile(x)"),
        (dangers, "YAML(typ='safe', pure=True)"), (dangers, "connection.system(x)"),
        (dangers, "context.verify_mode = ssl.CERT_REQUIRED"),
        (checks_that_vanish, "assert peer is not None"), (checks_that_vanish, "assert isinstance(peer, Peer)"),
        (chance, "rng.random()"), (chance, "import secrets"),
    ],
)  # fmt: skip
def test_what_is_no_misuse_is_not_found(look: Callable[[ast.AST], Iterator[Found]], code: str) -> None:
    assert texts(look, code) == []


def test_a_check_is_one_with_optimisation_too(tmp_path: Path) -> None:
    """The program with all assertions taken out refuses what it refuses with them."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("node: {name: alice}\n")
    runs = [
        subprocess.run(
            [sys.executable, *flag, "-m", "qtunnel", "check", str(bad)],
            cwd=PACKAGE.parent, capture_output=True, text=True, timeout=60, check=False,
        )
        for flag in ([], ["-O"])
    ]  # fmt: skip
    assert runs[0].returncode == runs[1].returncode == 2
    assert runs[0].stderr == runs[1].stderr
    assert "Traceback" not in runs[0].stderr
