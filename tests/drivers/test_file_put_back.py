"""Pads and ledgers that are older than what was used, or copies: no byte is used twice."""

from __future__ import annotations

import shutil

import pytest

from qtunnel.drivers.file_format import HEADER_SIZE, IMPRINT_AT
from qtunnel.drivers.file_open import ledger_path
from qtunnel.errors import (
    KeyNotFoundError,
    KeySourceProtocolError,
)
from tests.support.kme import run
from tests.support.pads import Site


def test_a_ledger_that_was_put_back_is_noticed_at_both_ends(site: Site) -> None:
    async def test() -> None:
        ledger = ledger_path(site.ledger("alice"), site.info, "a")
        await site.source("alice", "a").get_key(32)
        await site.close()
        shutil.copy(ledger, site.directory / "backup")
        refs = [(await site.source("alice", "a").get_key(32))[0]]
        await site.close()
        shutil.copy(site.directory / "backup", ledger)
        with pytest.raises(
            KeySourceProtocolError, match="the ledger is older than the pad: it says 1 openings"
        ) as caught:
            await site.source("alice", "a").get_key(32)
        assert not caught.value.retryable
        assert len(refs) == 1

    run(test)


def test_a_ledger_of_the_same_opening_that_was_put_back_is_noticed_by_the_zeros(site: Site) -> None:
    async def test() -> None:
        ledger = ledger_path(site.ledger("alice"), site.info, "a")
        alice = site.source("alice", "a")
        await alice.get_key(32)
        shutil.copy(ledger, site.directory / "backup")
        await alice.get_key(32)
        del alice
        await site.close()
        shutil.copy(site.directory / "backup", ledger)
        with pytest.raises(KeySourceProtocolError, match=r"its ledger is older than the pad: bytes that.*offset 32"):
            await site.source("alice", "a").get_key(32)

    run(test)


def test_a_pad_that_was_put_back_is_noticed(site: Site) -> None:
    async def test() -> None:
        for _ in range(2):
            shutil.copy(site.pad("alice"), site.directory / "backup")
            await site.source("alice", "a").get_key(32)
            await site.close()
        shutil.copy(site.directory / "backup", site.pad("alice"))
        with pytest.raises(KeySourceProtocolError, match=r"it is an older copy: it was opened 1 times.*says 2"):
            await site.source("alice", "a").get_key(32)

    run(test)


def test_a_pad_of_the_same_opening_that_was_put_back_is_overwritten_again(site: Site) -> None:
    """No byte is used twice, as the ledger knows; and the keys do not stay there."""

    async def test() -> None:
        alice = site.source("alice", "a")
        await alice.get_key(32)
        shutil.copy(site.pad("alice"), site.directory / "backup")
        for _ in range(3):
            await alice.get_key(32)
        del alice
        await site.close()
        shutil.copy(site.directory / "backup", site.pad("alice"))
        alice = site.source("alice", "a")
        ref, _ = await alice.get_key(32)
        assert ref.key_id.endswith(":128")
        assert "used bytes had come back" in (await alice.status()).detail
        assert not any(site.pad("alice").read_bytes()[HEADER_SIZE : HEADER_SIZE + 160])

    run(test)


def test_a_whole_machine_that_was_put_back_is_noticed_by_the_peer(site: Site) -> None:
    """Pad and ledger are both older, so this end cannot know; the peer refuses until unused bytes come."""

    async def test() -> None:
        bob = site.source("bob", "b")
        await site.source("alice", "a").get_key(32)
        await site.close("alice")
        shutil.copytree(site.directory / "alice", site.directory / "backup")
        for _ in range(2):
            await bob.get_key_by_id((await site.source("alice", "a").get_key(32))[0])
        await site.close("alice")
        shutil.rmtree(site.directory / "alice")
        shutil.copytree(site.directory / "backup", site.directory / "alice")
        alice = site.source("alice", "a")
        for _ in range(2):
            ref, _ = await alice.get_key(32)
            with pytest.raises(KeyNotFoundError, match=r"was used already.*the peer's pad or ledger is an older copy"):
                await bob.get_key_by_id(ref)
        ref, key = await alice.get_key(32)
        assert await bob.get_key_by_id(ref) == key

    run(test)


def test_a_copy_that_was_used_elsewhere_is_noticed(site: Site) -> None:
    async def test() -> None:
        await site.source("alice", "a").get_key(32)
        await site.close()
        shutil.copy(site.pad("alice"), site.pad("bob"))
        with pytest.raises(KeySourceProtocolError, match="was used as side a before, and cannot be side b"):
            await site.source("bob", "b").get_key(32)
        with pytest.raises(KeySourceProtocolError, match="was used before, and its ledger is missing or damaged"):
            await site.source("bob", "a").get_key(32)
        await site.close()
        shutil.copytree(site.ledger("alice"), site.ledger("bob"), dirs_exist_ok=True)
        for name in ("alice", "bob"):  # both go on from the same place
            await site.source(name, "a").get_key(32)
            await site.close()
        shutil.copy(site.pad("bob"), site.pad("alice"))
        with pytest.raises(KeySourceProtocolError, match="another copy of it was used"):
            await site.source("alice", "a").get_key(32)

    run(test)


def test_a_pad_without_its_imprint_that_was_used_is_noticed(site: Site) -> None:
    async def test() -> None:
        await site.source("alice", "a").get_key(32)
        await site.close()
        with site.pad("alice").open("r+b") as opened:
            opened.seek(IMPRINT_AT)
            opened.write(bytes(64))
        shutil.rmtree(site.ledger("alice"))
        with pytest.raises(KeySourceProtocolError, match="it was used before: bytes that should be unused"):
            await site.source("alice", "a").get_key(32)

    run(test)
