"""Sources without a server, a pad and a vendor's program, as the daemons of two gateways use them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from qtunnel.config import Config, load_config
from qtunnel.daemon.sources import KeySources
from qtunnel.drivers.file_make import make_pad
from qtunnel.events import EventStream
from qtunnel.identity import Identity
from qtunnel.rekey.model import FetchById, FetchNew
from tests.support.kme import run
from tests.support.reliance import Heard
from tests.support.vendor import make_device

CONFIG = """
node: {{name: {me}, identity: {me}.identity}}
tunnel: {{interface: qt0, addresses: [10.77.0.{own}/24]}}
key_sources:
  courier: {{driver: file, ledger: ledger-{me}}}
  vendor:
    driver: exec
    timeout: 14s
    command: [{program}, {directory}/device, "{{call}}", "{{peer}}", "{{size_bits}}", "{{key_id}}"]
peers:
  - name: {peer}
    public: {peer}.public
    allowed_ips: [10.77.0.{other}/32]
    qkd: {{sources: {{courier: {{pad: {me}.pad, side: {side}}}, vendor: {{peer: {peer}}}}}}}
"""


def two_ends(directory: Path) -> tuple[Config, Config]:
    """Alice's and Bob's configurations, with a pad at each and one device."""
    program = make_device(directory)
    for name in ("alice", "bob"):
        identity = Identity.create(os.urandom)
        identity.save(directory / f"{name}.identity")
        (directory / f"{name}.public").write_text(identity.public.to_text())
    make_pad(directory / "alice.pad", 8192, 4096, os.urandom)
    shutil.copy(directory / "alice.pad", directory / "bob.pad")
    for me, peer, side, own in (("alice", "bob", "a", 1), ("bob", "alice", "b", 2)):
        (directory / f"{me}.yaml").write_text(
            CONFIG.format(
                me=me, peer=peer, side=side, own=own, other=3 - own, program=program, directory=directory
            )
        )  # fmt: skip
    alice, bob = (load_config(directory / f"{name}.yaml", environ={}) for name in ("alice", "bob"))
    return alice, bob


def test_both_give_a_key_to_each_rekey_and_go_on_after_a_reload(tmp_path: Path) -> None:
    """The former source of a reload has the pad open for a while; the new one shares it."""
    configs = two_ends(tmp_path)

    async def test() -> None:
        alice, bob = (KeySources(config, EventStream(), Heard()) for config in configs)
        offsets = []
        for number in range(4):
            if number == 2:
                alice.adopt(await alice.prepare(configs[0], ["courier", "vendor"]))
            made = await alice.fetch(FetchNew("bob", number, ("courier", "vendor"), 32, 2))
            assert made.failures == ()
            refs = tuple(ref for ref, _ in made.keys)
            given = await bob.fetch(FetchById("alice", number, refs))
            assert given.failures == ()
            assert dict(given.keys) == dict(made.keys)
            offsets.append(next(ref.key_id.partition(":")[2] for ref in refs if ref.source == "courier"))
        assert offsets == ["0", "32", "64", "96"]
        again = await bob.fetch(FetchById("alice", 9, refs))
        assert {name for name, _ in again.failures} == {"courier", "vendor"}
        await alice.close()
        await bob.close()

    run(test)
