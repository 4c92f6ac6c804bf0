"""What the daemon's sources make of a simulated network: an eavesdropper on the only way is a quarantine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from qtunnel.simulator.pki import make_pki
from qtunnel.simulator.service import Service, running
from qtunnel.simulator.topology_file import load_topology
from tests.daemon.test_sources import bench, config_of
from tests.simulator.support import options
from tests.support.kme import free_ports, run, until

STAR = """
network: star
pki: {pki}
hardware:
  decoy: {{protocol: bb84-decoy, clock: 1 GHz, efficiency: 20%, dark: 1e-6, misalignment: 1%}}
nodes:
  alice: {{listen: "127.0.0.1:{one}", saes: [sae-alice], at: [0, 0]}}
  bob: {{listen: "127.0.0.1:{two}", saes: [sae-bob], at: [1, 0]}}
  carol: {{listen: "127.0.0.1:{three}", saes: [sae-carol], at: [0, 1]}}
links:
  alice-bob: {{between: [alice, bob], hardware: decoy, fibre: {{length: 25 km}}, initial: 1 Mbit}}
  alice-carol: {{between: [alice, carol], hardware: decoy, fibre: {{length: 25 km}}, initial: 1 Mbit}}
"""


async def alarms(service: Service, number: int) -> bool:
    service.advance()
    return sum(link.alarm is not None for link in service.core.links.values()) == number


def test_an_eavesdropper_ends_in_quarantine_and_an_operator_s_word_ends_that(metro: Path) -> None:
    topology = load_topology(metro)

    async def test() -> None:
        async with (
            running(topology) as service,
            bench(config_of(metro=options(topology, "sae-alice"))) as its,
        ):
            assert [ref.source for ref, _ in (await its.new("metro")).keys] == ["metro"]
            for link in ("alice-hub", "alice-spare"):
                service.command(link, "eavesdrop", "intercept-resend")

            await until(lambda: alarms(service, 2))
            await its.sources._ask("bob", "metro")
            assert its.told() == ["source.up", "source.quarantined"]
            found = its.status("metro")
            assert (found.state, found.healthy) == ("in quarantine", False)
            assert found.qber is not None
            assert found.qber > 0.2
            assert "QBER above the threshold of 11.0%" in (await its.new("metro")).failures[0][1]
            for link in ("alice-hub", "alice-spare"):
                service.command(link, "restore")
            assert not (await its.new("metro")).keys  # nobody has said that it is over
            await until(lambda: alarms(service, 0))
            its.sources.clear("metro")
            assert (await its.new("metro")).keys

    run(test)


def test_an_eavesdropper_on_the_link_to_one_peer_costs_no_other_its_keys(tmp_path: Path) -> None:
    """Three real KMEs of a network: their statuses are those of the links, and so are the quarantines."""
    with free_ports(3) as (one, two, three):
        path = tmp_path / "star.yaml"
        path.write_text(STAR.format(pki=tmp_path / "pki", one=one, two=two, three=three))
    topology = load_topology(path)
    make_pki(topology, datetime.now(UTC))

    async def test() -> None:
        async with (
            running(topology) as service,
            bench(config_of("bob", "carol", metro=options(topology, "sae-alice"))) as its,
        ):
            for peer in ("bob", "carol"):
                assert (await its.new("metro", peer=peer)).keys
            service.command("alice-carol", "eavesdrop", "intercept-resend")
            await until(lambda: alarms(service, 1))
            for peer in ("bob", "carol"):
                await its.sources._ask(peer, "metro")
            assert (await its.new("metro", peer="bob")).keys
            refused = await its.new("metro", peer="carol")
            assert not refused.keys
            assert "QBER above the threshold of 11.0%" in refused.failures[0][1]
            assert its.status("metro").state == "partly in quarantine"
            assert (its.towards("metro", "carol").qber or 0) > 0.2 > (its.towards("metro", "bob").qber or 1)
            service.command("alice-carol", "restore")
            await until(lambda: alarms(service, 0))
            its.sources.clear("metro", "carol")
            assert (await its.new("metro", peer="carol")).keys

    run(test)
