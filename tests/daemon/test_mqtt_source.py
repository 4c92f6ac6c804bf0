"""Two gateways' key sources as the daemon opens and asks them, over MQTT: from a file to the same key at both ends."""

from __future__ import annotations

import os
from pathlib import Path

from qtunnel.config import load_config
from qtunnel.daemon.sources import KeySources
from qtunnel.events import EventStream
from qtunnel.identity import Identity
from qtunnel.rekey.model import FetchById, FetchNew
from tests.support.kme import make_pki, run
from tests.support.mosquitto import needs_mosquitto
from tests.support.mqtt_device import Site, sites
from tests.support.reliance import Heard

pytestmark = needs_mosquitto

CONFIG = """\
node:
  name: {owner}
  identity: {owner}.identity
tunnel:
  interface: qt0
  addresses: [10.77.0.1/24]
key_sources:
  fibre:
    driver: mqtt
    url: {url}
    device: {device}
    client_id: {owner}
    ca: pki/ca.pem
    certificate: pki/{owner}.pem
    private_key: pki/{owner}.key
    timeout: 20s
peers:
  - name: {peer}
    public: {peer}.public
    allowed_ips: [10.77.0.2/32]
    qkd:
      sources: {{fibre: {{peer: {peer}}}}}
"""


def opened(site: Site, directory: Path) -> KeySources:
    path = directory / f"{site.owner}.yaml"
    path.write_text(CONFIG.format(owner=site.owner, peer=site.peer, url=site.broker.url, device=site.device.name))
    return KeySources(load_config(path, environ={}), EventStream(), Heard())


def test_the_daemon_gets_the_same_key_at_both_ends(tmp_path: Path) -> None:
    make_pki(tmp_path / "pki")
    for name in ("sae-alice", "sae-bob"):
        identity = Identity.create(os.urandom)
        identity.save(tmp_path / f"{name}.identity")
        (tmp_path / f"{name}.public").write_text(identity.public.to_text())

    async def test() -> None:
        async with sites(tmp_path / "pki", tmp_path) as (a, b):
            alice, bob = opened(a, tmp_path), opened(b, tmp_path)
            try:
                new = await alice.fetch(FetchNew(peer="sae-bob", ticket=1, sources=("fibre",), enough=1, size=32))
                assert new.failures == ()
                ((ref, key),) = new.keys
                known = await bob.fetch(FetchById(peer="sae-alice", ticket=1, refs=(ref,)))
                assert known.failures == ()
                assert known.keys == ((ref, key),)
            finally:
                await alice.close()
                await bob.close()

    run(test)
