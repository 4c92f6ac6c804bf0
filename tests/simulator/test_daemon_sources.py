"""What the daemon's sources make of a simulated network: an eavesdropper on the only way is a quarantine."""

from __future__ import annotations

from pathlib import Path

from qtunnel.simulator.service import Service, running
from qtunnel.simulator.topology_file import load_topology
from tests.daemon.test_sources import bench, config_of
from tests.simulator.support import options
from tests.support.kme import run, until


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
