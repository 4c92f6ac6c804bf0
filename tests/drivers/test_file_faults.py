"""Every fault of faults.py that can come to a pad, on real files."""

from __future__ import annotations

import os
import threading
from collections.abc import Awaitable, Callable

import pytest

from qtunnel.drivers import file
from qtunnel.drivers.file_format import HEADER_SIZE
from qtunnel.errors import KeySourceError, KeySourceProtocolError, KeySourceTimeoutError, KeySourceUnreachableError
from qtunnel.keys.quality import SeenKeys, defect
from qtunnel.keys.source import KeyRef
from qtunnel.secret import Secret
from tests.drivers.faults import FAULTS
from tests.support.kme import run
from tests.support.pads import Site, site_of

DELIVERED = "a pad is what it is: delivered as it stands, and refused for all drivers by qtunnel/keys/quality.py"
NO_TLS = "a file on this machine has no certificate"

CASES: dict[str, type[KeySourceError] | str] = {
    "slow": KeySourceTimeoutError,
    "cut": KeySourceProtocolError,
    "wrong-size": KeySourceProtocolError,
    "wrong-encoding": "a pad has bytes and no encoding; a header that is none is refused (test_file_access.py)",
    "repeated-key": DELIVERED,
    "all-zero": KeySourceProtocolError,
    "low-entropy": DELIVERED,
    "huge": KeySourceProtocolError,
    "slow-loris": KeySourceTimeoutError,
    "expired-certificate": NO_TLS,
    "wrong-certificate": NO_TLS,
    "name-mismatch": NO_TLS,
    "restart": KeySourceUnreachableError,
    "clock-skew": NO_TLS,
}


class Broken:
    """Alice's source, whose file and disk the test spoils and mends."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.path = site.pad("alice")
        self.blocked: threading.Event | None = None
        self.source = file.Source(
            "pads", site.options("alice", "a"), file.Shared(self.path, "a", site.ledger("alice"), self._step)
        )

    def _step(self, name: str) -> None:
        if self.blocked is not None and name == "zeros written":
            self.blocked.wait(60)

    def write(self, offset: int, data: bytes) -> None:
        with self.path.open("r+b") as opened:
            opened.seek(HEADER_SIZE + offset)
            opened.write(data)

    def offset(self) -> int:
        """Of the next key, which the test knows from its content."""
        left = self.path.read_bytes()[HEADER_SIZE:]
        return next(at for at in range(0, len(left), 32) if any(left[at : at + 32]))


async def spoil(broken: Broken, fault: str) -> Callable[[], Awaitable[None]]:
    """Bring the fault; what mends it again."""
    path, aside = broken.path, broken.path.with_suffix(".aside")

    async def put_back() -> None:
        os.replace(aside, path)

    async def unblock() -> None:
        assert broken.blocked is not None
        broken.blocked.set()

    if fault in ("slow", "slow-loris"):
        broken.blocked = threading.Event()
        return unblock
    if fault == "all-zero":
        broken.write(broken.offset(), bytes(32))

        async def skipped() -> None:
            """Nothing to mend: the next key lies behind it."""

        return skipped
    content = path.read_bytes()
    os.replace(path, aside)  # the stick is taken away
    if fault == "cut":
        path.write_bytes(content[:-1000])
    elif fault == "wrong-size":
        path.write_bytes(content[: HEADER_SIZE - 100])
    elif fault == "huge":
        path.write_bytes(content)
        os.truncate(path, 1 << 40)  # sparse
    if path.exists():
        path.chmod(0o600)
    return put_back


def test_every_fault_has_its_case() -> None:
    assert CASES.keys() == FAULTS.keys()


@pytest.mark.parametrize("fault", [name for name, kind in CASES.items() if not isinstance(kind, str)])
def test_a_fault_is_a_named_error_and_passes(site: Site, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        broken = Broken(site)
        peer, other = site.source("bob", "b"), site_of(site.directory / "other").source("alice", "a")
        await broken.source.get_key(32)
        mend = await spoil(broken, fault)
        if broken.blocked is not None:
            monkeypatch.setattr(file, "DISK_LIMIT", 0.3)
        with pytest.raises(KeySourceError) as caught:
            await broken.source.get_key(32)
        assert type(caught.value) is CASES[fault], caught.value
        assert str(caught.value).isprintable()
        assert str(caught.value).startswith(f"pads ({broken.path}): get_key: ")
        monkeypatch.setattr(file, "DISK_LIMIT", 30)
        await other.get_key(32)  # and another source goes on
        await mend()
        ref, key = await broken.source.get_key(32)
        assert await peer.get_key_by_id(ref) == key
        broken.source.close()
        await site.close()

    run(test)


def test_what_a_broken_generator_wrote_into_a_pad_is_delivered_and_found(site: Site) -> None:
    """All-zero is refused by the driver itself, as it is what overwritten bytes are."""
    block, key = os.urandom(4) * 8, os.urandom(32)
    for name in ("alice", "bob"):
        with site.pad(name).open("r+b") as opened:
            opened.seek(HEADER_SIZE)
            opened.write(block + key + key)

    async def test() -> None:
        alice, bob = site.source("alice", "a"), site.source("bob", "b")
        seen = SeenKeys(Secret(os.urandom(32)))
        found: list[KeyRef] = []
        for expected in (block, key, key):
            ref, delivered = await alice.get_key(32)
            assert bytes(delivered.reveal()) == expected
            assert await bob.get_key_by_id(ref) == delivered
            if expected == block:
                assert defect(delivered) == "it repeats itself after 4 bytes"
            elif not found:
                assert (defect(delivered), seen.taken_for(ref.key_id, delivered)) == (None, None)
                found.append(ref)
            else:
                assert seen.taken_for(ref.key_id, delivered) == found[0].key_id
        await site.close()

    run(test)
