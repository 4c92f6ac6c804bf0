"""Two real gateways with two KEMs at once, whose messages take forty datagrams."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qtunnel.crypto.kem_set import find_kem
from qtunnel.identity import Identity
from tests.daemon.sites import TUNNEL, protected, two_sites
from tests.support.netns import wait_until

pytestmark = pytest.mark.root

KEMS = ("frodokem-976-shake", "hqc-256", "ml-kem-1024")


def test_a_tunnel_by_three_kems_and_catkdf(tmp_path: Path, liboqs: None) -> None:
    with two_sites(tmp_path) as sites:
        for site in sites:
            (tmp_path / f"{site.name}.identity").unlink()
            made = Identity.create(os.urandom, [find_kem(name) for name in KEMS])
            made.save(tmp_path / f"{site.name}.identity")
            (tmp_path / f"{site.name}.public").write_text(made.public.to_text())
            text = site.config.read_text()
            site.config.write_text(f"{text}    kem: [{', '.join(KEMS)}]\n    combiner: catkdf\n")
        for site in sites:
            site.start()
        alice = sites[0]
        wait_until(lambda: all(protected(site) for site in sites), "both are protected", 60)
        first = alice.status()["peers"][0]
        assert first["sources"] == ["x25519", *KEMS]
        assert alice.ping(TUNNEL["bob"])

        def rekeyed() -> bool:
            epochs = [site.status()["peers"][0]["epoch_in_force"] for site in sites]
            return bool(epochs[0] == epochs[1] > first["epoch_in_force"] + 1)

        wait_until(rekeyed, "two further epochs at both ends", 60)
        assert alice.ping(TUNNEL["bob"])
        for site in sites:
            assert "message.rejected" not in site.log
            assert "defect" not in site.log
