"""The driver of pads, on real files at both ends."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from qtunnel.drivers import file, registry
from qtunnel.drivers.file_format import HEADER_SIZE, PadInfo
from qtunnel.drivers.file_make import make_pad
from qtunnel.errors import (
    KeyNotFoundError,
    KeyRequestRejectedError,
    KeySourceError,
    KeySourceUnavailableError,
)
from qtunnel.keys.source import KeyRef
from tests.support.kme import run
from tests.support.pads import SIZE, Site, site_of


def test_the_registry_finds_it() -> None:
    assert registry.find("file") is file.DRIVER


def test_two_hundred_keys_reach_both_ends(tmp_path: Path) -> None:
    """Each end draws and asks, several at a time; no key_ID comes twice."""
    site = site_of(tmp_path, 200 * 32)

    async def test() -> None:
        alice, bob = site.source("alice", "a"), site.source("bob", "b")
        assert (alice.name, alice.description) == ("pads", "file:pads")
        refs = set()
        for _ in range(10):
            made = await asyncio.gather(*(end.get_key(32) for end in (alice, bob) for _ in range(10)))
            fetched = await asyncio.gather(
                *((alice if number >= 10 else bob).get_key_by_id(ref) for number, (ref, _) in enumerate(made))
            )
            assert fetched == [key for _, key in made]
            refs |= {ref.key_id for ref, _ in made}
        assert len(refs) == 200
        for end in (alice, bob):
            with pytest.raises(KeySourceUnavailableError, match="used up: 0 bytes are left; take a new pad") as caught:
                await end.get_key(32)
            assert (caught.value.retryable, caught.value.lost) == (True, 0)
            assert not (await end.status()).healthy
        for name in ("alice", "bob"):
            assert not any(site.pad(name).read_bytes()[HEADER_SIZE:])

    run(test)


def test_the_status_counts_keys_of_this_end(site: Site) -> None:
    async def test() -> None:
        alice, bob = site.source("alice", "a"), site.source("bob", "b")
        await alice.get_key(32)
        ref, _ = await alice.get_key(32)
        await bob.get_key_by_id(ref)
        told = await alice.status()
        assert (told.healthy, told.stored_keys, told.max_keys, told.key_size) == (True, SIZE // 64 - 2, None, 32)
        assert told.detail == f"side a: {SIZE // 2 - 64} bytes left (98.4 %), the peer's {SIZE // 2}"
        told = await bob.status()
        assert told.stored_keys == SIZE // 64
        assert told.detail == f"side b: {SIZE // 2} bytes left (100 %), the peer's {SIZE // 2 - 64}"

    run(test)


def test_a_key_is_given_once_and_overwritten(site: Site) -> None:
    async def test() -> None:
        alice, bob = site.source("alice", "a"), site.source("bob", "b")
        ref, key = await alice.get_key(48)
        assert ref == KeyRef("pads", f"{site.info.pad_id}:0", 48)
        assert bytes(key.reveal()) == site.content[:48]
        assert await bob.get_key_by_id(ref) == key
        for name in ("alice", "bob"):
            assert site.pad(name).read_bytes()[HEADER_SIZE:] == bytes(48) + site.content[48:]
        with pytest.raises(KeyNotFoundError, match="offset 0 was used already") as caught:
            await bob.get_key_by_id(ref)
        assert caught.value.lost == 0

    run(test)


def test_it_goes_on_where_it_was(site: Site) -> None:
    async def test() -> None:
        offsets = []
        for _ in range(3):
            alice, bob = site.source("alice", "a"), site.source("bob", "b")
            ref, key = await alice.get_key(32)
            assert await bob.get_key_by_id(ref) == key
            offsets.append(int(ref.key_id.partition(":")[2]))
            await site.close()
        assert offsets == [0, 32, 64]

    run(test)


@pytest.mark.parametrize(
    "key_id", ["", "0", "x:0", ":0", "{}:-1", "{}: 1", "{}:0x10", "{}:1e3", "{}", "{}:" + "9" * 40]
)
def test_a_key_id_of_something_else(site: Site, key_id: str) -> None:
    async def test() -> None:
        bob = site.source("bob", "b")
        with pytest.raises(KeyNotFoundError, match="not one of a pad"):
            await bob.get_key_by_id(KeyRef("pads", key_id.format(site.info.pad_id), 32))

    run(test)


def test_the_peer_has_another_pad(site: Site, tmp_path: Path) -> None:
    async def test() -> None:
        other = site_of(tmp_path / "other")
        ref, _ = await other.source("alice", "a").get_key(32)
        with pytest.raises(KeyNotFoundError, match=f"the peer uses pad {other.info.pad_id}, and this one is"):
            await site.source("bob", "b").get_key_by_id(ref)
        await other.close()

    run(test)


def test_both_ends_on_one_side_are_told_before_anything_is_used(site: Site) -> None:
    async def test() -> None:
        ref, _ = await site.source("alice", "a").get_key(32)
        bob = site.source("bob", "a")
        with pytest.raises(KeyNotFoundError, match="of this end's own half; one end must be side a and one side b"):
            await bob.get_key_by_id(ref)
        assert site.pad("bob").read_bytes()[HEADER_SIZE:] == site.content

    run(test)


@pytest.mark.parametrize("size", [0, 8, 1 << 20])
def test_a_key_of_no_usable_size(site: Site, size: int) -> None:
    async def test() -> None:
        alice = site.source("alice", "a")
        for call in (alice.get_key(size), alice.get_key_by_id(KeyRef("pads", f"{site.info.pad_id}:0", size))):
            with pytest.raises(KeyRequestRejectedError, match="a pad gives keys of 16 to 16384 bytes"):
                await call

    run(test)


def test_two_peers_with_one_pad_are_refused(tmp_path: Path) -> None:
    def checked(*pads: str) -> None:
        peers = [{"qkd": {"sources": {"pads": {"pad": pad, "side": "a"}}}} for pad in pads]
        context = {"document": {"peers": [*peers, "odd", {"qkd": 1}]}, "directory": tmp_path}
        for peer in peers:
            file.PeerOptions.model_validate(peer["qkd"]["sources"]["pads"], context=context)

    checked("bob.pad", "carol.pad")
    with pytest.raises(ValidationError, match="they would know each other's keys"):
        checked("bob.pad", "carol.pad", str(tmp_path / "bob.pad"))


@pytest.mark.parametrize("options", [{}, {"pad": "x"}, {"side": "a"}, {"pad": "x", "side": "c"}])
def test_what_a_peer_must_have(options: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        file.PeerOptions.model_validate(options)


def test_a_disk_that_hangs_holds_one_thread(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    from qtunnel.errors import KeySourceTimeoutError

    monkeypatch.setattr(file, "DISK_LIMIT", 0.2)
    monkeypatch.setattr(file, "TURN_LIMIT", 0.1)
    go = threading.Event()
    hanging = threading.Event()

    def step(name: str) -> None:
        if name == "ledger on disk" and not go.is_set():
            hanging.set()
            go.wait(30)

    async def test() -> None:
        shared = file.Shared(site.pad("alice"), "a", site.ledger("alice"), step)
        alice = file.Source("pads", site.options("alice", "a"), shared)
        monkeypatch.setattr(file, "DISK_LIMIT", 30)
        await alice.status()
        monkeypatch.setattr(file, "DISK_LIMIT", 0.2)
        try:
            with pytest.raises(KeySourceTimeoutError, match="the disk takes longer") as caught:
                await alice.get_key(32)
            assert caught.value.lost == 1
            assert hanging.is_set()
            before = threading.active_count()
            for _ in range(3):
                with pytest.raises(KeySourceTimeoutError, match="not asked") as caught:
                    await alice.get_key(32)
                assert caught.value.lost == 0
            assert threading.active_count() == before
        finally:
            go.set()
        monkeypatch.setattr(file, "DISK_LIMIT", 30)
        monkeypatch.setattr(file, "TURN_LIMIT", 30)
        ref, _ = await alice.get_key(32)
        assert ref.key_id.endswith(":32"), "the key that nobody waited for is used"

    run(test)


def test_no_error_shows_a_key(site: Site) -> None:
    async def test() -> None:
        alice = site.source("alice", "a")
        for error in await failures(site, alice):
            assert str(error).isprintable()
            assert site.content[:32].hex() not in str(error)

    async def failures(site: Site, alice: file.Source) -> list[KeySourceError]:
        found = []
        for ref in (KeyRef("pads", f"{site.info.pad_id}:0", 32), KeyRef("pads", "\n\x1b[31m", 32)):
            try:
                await alice.get_key_by_id(ref)
            except KeySourceError as error:
                found.append(error)
        assert len(found) == 2
        return found

    run(test)


def test_a_pad_of_no_usable_size(tmp_path: Path) -> None:
    from qtunnel.errors import PadError

    for size in (0, 4095, 1 << 60):
        with pytest.raises(PadError, match="take from 4096 bytes"):
            make_pad(tmp_path / "x.pad", size, 0, os.urandom)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("share", [0, 4096])
def test_a_pad_for_one_side_alone(tmp_path: Path, share: int) -> None:
    """Where one end always begins, the other needs no half."""
    info = make_pad(tmp_path / "x.pad", 4096, share, os.urandom)
    shutil.copy(tmp_path / "x.pad", tmp_path / "y.pad")
    drawing: Literal["a", "b"] = "a" if share else "b"
    asking: Literal["a", "b"] = "b" if share else "a"
    assert isinstance(info, PadInfo)

    async def test() -> None:
        hubs = [file.Hub("pads", file.Options(ledger=tmp_path / name)) for name in "xy"]
        one = hubs[0].for_peer(file.PeerOptions(pad=tmp_path / "x.pad", side=drawing))
        other = hubs[1].for_peer(file.PeerOptions(pad=tmp_path / "y.pad", side=asking))
        ref, key = await one.get_key(32)
        assert await other.get_key_by_id(ref) == key
        with pytest.raises(KeySourceUnavailableError, match="used up"):
            await other.get_key(32)
        for hub in hubs:
            await hub.close()

    run(test)
