"""Identities with keys of KEMs that only liboqs has: files of their own, and public files with further lines."""

from __future__ import annotations

import base64
import os
import random
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.crypto.kdf import Label, frame, sha512
from qtunnel.crypto.kem import KEMS
from qtunnel.crypto.kem_set import find_kem
from qtunnel.errors import FilePermissionError, IdentityFileError
from qtunnel.identity import MAX_PUBLIC_FILE, Identity, PublicIdentity
from qtunnel.kem_files import MAX_KEM_FILE, kem_file
from tests.test_identity_cli import qtunnel

PLAIN = Identity.create(random.Random(1).randbytes).public
NAMES = ("hqc-128", "sntrup761")


@pytest.fixture
def site(tmp_path: Path, liboqs: None) -> Path:
    made = Identity.create(os.urandom, [find_kem(name) for name in (*NAMES, "ml-kem-512", "ml-kem-768")])
    made.save(tmp_path / "alice.identity")
    (tmp_path / "alice.public").write_text(made.public.to_text())
    return tmp_path


def test_it_comes_back_from_its_files(site: Path) -> None:
    file = site / "alice.identity"
    names = sorted(path.name for path in site.glob("alice.identity*"))
    assert names == ["alice.identity", "alice.identity.hqc-128", "alice.identity.sntrup761"]  # ML-KEM-512 has a seed
    assert {stat.S_IMODE(path.stat().st_mode) for path in site.glob("alice.identity*")} == {0o600}
    one, other = Identity.load(file), Identity.load(file)
    assert one.public == other.public == PublicIdentity.load(site / "alice.public")
    assert one.public.kem.keys() == {*KEMS, *NAMES, "ml-kem-512"}
    for name in one.public.kem:
        ciphertext, secret = find_kem(name).encapsulate(one.public.kem[name])
        assert one.kem[name].decapsulate(ciphertext) == secret == other.kem[name].decapsulate(ciphertext)
    one.public.check_kem_keys([find_kem(name) for name in one.public.kem])


def test_no_secret_is_in_the_public_file(site: Path) -> None:
    public = (site / "alice.public").read_text()
    for name in NAMES:
        lines = kem_file(site / "alice.identity", name).read_text().splitlines()
        (private,) = [line.removeprefix("private: ") for line in lines if line.startswith("private: ")]
        assert private not in public


def test_the_id_is_over_all_keys_in_the_order_of_their_names(site: Path) -> None:
    """docs/protocol.md, section 2."""
    its = PublicIdentity.load(site / "alice.public")
    order = ["ml-kem-1024", "ml-kem-768", "hqc-128", "ml-kem-512", "sntrup761"]
    fields = [b"wireguard", its.wireguard, b"x25519", its.x25519]
    fields += [part for name in order for part in (name.encode(), its.kem[name])]
    assert its.id == sha512(frame(Label.IDENTITY_ID.value, *fields))
    assert [line.partition(":")[0] for line in its.to_text().splitlines()[2:]] == ["wireguard", "x25519", *order]


def test_a_key_that_is_lost_or_another_ones_is_named(site: Path) -> None:
    file, key = site / "alice.identity", site / "alice.identity.hqc-128"
    good = key.read_text()
    key.unlink()
    with pytest.raises(IdentityFileError, match="hqc-128: no such file; the identity beside it has a hqc-128 key"):
        Identity.load(file)
    other = Identity.create(os.urandom, [find_kem("hqc-128")])
    other.save(site / "bob.identity")
    foreign = (site / "bob.identity.hqc-128").read_text().splitlines()
    for text, expected in (
        ("", "the first line"),
        ("qtunnel-kem-v1\n", "kem, version, public, private once each"),
        (good + "kem: hqc-128\n", "once each"),
        (good.replace("kem: hqc-128", "kem: hqc-256"), "a key of another KEM"),
        (good.replace("private: ", "private: !"), "not base64"),
        (good.replace("public: ", "public: AAAA"), "no key pair that this library can use: made with version '"),
        ("\n".join([*good.splitlines()[:-1], foreign[-1]]), "no key pair that this library can use"),
        ("\n".join([*good.splitlines()[:-1], "private: AAAA"]), "no key pair that this library can use"),
    ):
        key.write_text(text)
        key.chmod(0o600)
        with pytest.raises(IdentityFileError, match=expected) as caught:
            Identity.load(file)
        assert good.splitlines()[-1].removeprefix("private: ")[:40] not in str(caught.value)
    key.write_text(good)
    assert Identity.load(file).public.id == PublicIdentity.load(site / "alice.public").id
    key.chmod(0o640)
    with pytest.raises(FilePermissionError, match="chmod 600"):
        Identity.load(file)
    key.chmod(0o600)
    with key.open("ab") as stream:
        stream.truncate(MAX_KEM_FILE + 1)
    with pytest.raises(IdentityFileError, match="too large"):
        Identity.load(file)


def test_all_files_or_none(tmp_path: Path, liboqs: None) -> None:
    made = Identity.create(os.urandom, [find_kem(name) for name in NAMES])
    (tmp_path / "alice.identity").touch()
    with pytest.raises(IdentityFileError, match=r"alice.identity: exists"):
        made.save(tmp_path / "alice.identity")
    (tmp_path / "bob.identity.sntrup761").touch()
    with pytest.raises(IdentityFileError, match=r"bob.identity.sntrup761: exists"):
        made.save(tmp_path / "bob.identity")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alice.identity", "bob.identity.sntrup761"]


def test_an_identity_of_a_kem_that_is_not_there_says_so(tmp_path: Path) -> None:
    file = tmp_path / "alice.identity"
    Identity.create(os.urandom).save(file)
    header, *rest = file.read_text().splitlines()
    file.write_text("\n".join([header, "kem: no-such-kem", *rest]))
    with pytest.raises(
        IdentityFileError, match=r"alice.identity: the identity has a key of the KEM 'no-such-kem', which"
    ):
        Identity.load(file)


@pytest.mark.parametrize("name", ["classic-mceliece-8192128"])
def test_the_largest_keys_there_are(tmp_path: Path, name: str, liboqs: None) -> None:
    made = Identity.create(os.urandom, [find_kem(name)])
    made.save(tmp_path / "alice.identity")
    public = tmp_path / "alice.public"
    public.write_text(made.public.to_text())
    assert Identity.load(tmp_path / "alice.identity").public == PublicIdentity.load(public) == made.public
    assert 1_800_000 < public.stat().st_size < MAX_PUBLIC_FILE / 2
    assert kem_file(tmp_path / "alice.identity", name).stat().st_size < MAX_KEM_FILE


names = st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True).filter(
    lambda name: name not in {*KEMS, "wireguard", "x25519"}
)


@given(st.dictionaries(names, st.binary(min_size=1, max_size=200), max_size=4), st.randoms(use_true_random=False))
def test_public_files_keep_keys_that_this_host_knows_nothing_of(keys: dict[str, bytes], rng: random.Random) -> None:
    its = PublicIdentity(PLAIN.wireguard, PLAIN.x25519, {**PLAIN.kem, **keys})
    first, comment, *lines = its.to_text().splitlines()
    rng.shuffle(lines)
    read = PublicIdentity.parse("\n".join([first, comment, *lines]))
    assert read == its
    assert read.id == its.id
    assert (read.id == PLAIN.id) == (not keys)


@pytest.mark.parametrize("line", ["HQC: AAAA", "hqc 256: AAAA", ": AAAA", "hqc-256 AAAA", "hqc_256: AAAA"])
def test_other_lines_are_refused(line: str) -> None:
    with pytest.raises(
        IdentityFileError, match="expected one of wireguard, x25519, ml-kem-1024, ml-kem-768 or another"
    ):
        PublicIdentity.parse(f"{PLAIN.to_text()}{line}\n")


def test_a_key_of_the_wrong_size_is_found_where_it_is_needed(liboqs: None) -> None:
    kem = find_kem("hqc-256")
    its = PublicIdentity(PLAIN.wireguard, PLAIN.x25519, {**PLAIN.kem, "hqc-256": bytes(7)})
    with pytest.raises(IdentityFileError, match="has an unusable key: hqc-256: a public key has 7245 bytes, not 7"):
        its.check_kem_keys([kem])
    with pytest.raises(IdentityFileError, match=r"has no hqc-256 key; .*--kem hqc-256"):
        PLAIN.check_kem_keys([kem])


def test_the_command(tmp_path: Path, liboqs: None) -> None:
    done = qtunnel("identity", "new", "alice.identity", "--kem", "hqc-128", "--kem", "hqc-128", "--kem", "ml-kem-1024",
                   cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "wrote alice.identity.hqc-128, a secret key that belongs to it" in done.stderr
    assert done.stdout.strip() == Identity.load(tmp_path / "alice.identity").public.fingerprint
    shown = qtunnel("identity", "show", "alice.identity", cwd=tmp_path)
    assert base64.b64decode(shown.stdout.splitlines()[-1].removeprefix("hqc-128: "))
    assert "liboqs" not in shown.stderr
    wrong = qtunnel("identity", "new", "bob.identity", "--kem", "hqc-257", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "--kem hqc-257: must be one of: ml-kem-1024, ml-kem-768, or of liboqs's: liboqs" in wrong.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alice.identity", "alice.identity.hqc-128"]
