"""A whole network with real KMEs over mutual TLS, asked by the driver of qtunnel."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from qtunnel.errors import KeyRequestRejectedError, KeySourceUnavailableError, NetworkError
from qtunnel.keys.health import Limits, alarm_of
from qtunnel.kme.api import ApiError
from qtunnel.kme.server import listen
from qtunnel.simulator.service import Service, running
from qtunnel.simulator.topology_file import load_topology
from tests.simulator.support import hub, source, write_metro
from tests.support.kme import Sae, files, run, until


def totals(service: Service) -> dict[str, int]:
    found: dict[str, int] = service.map()["totals"]
    return found


def node(service: Service, name: str) -> dict[str, int]:
    return next(one for one in service.map()["nodes"] if one["name"] == name)


def test_keys_are_relayed_and_the_network_is_ruled_while_it_runs(metro: Path) -> None:
    topology = load_topology(metro)

    async def test() -> None:
        async with running(topology) as service:
            alices, bobs = hub(topology, "sae-alice"), hub(topology, "sae-bob")
            alice, bob = source(alices, "sae-bob"), source(bobs, "sae-alice")
            try:
                # both directions, one by one and many at once
                for one, other in ((alice, bob), (bob, alice)):
                    ref, key = await one.get_key(32)
                    assert await other.get_key_by_id(ref) == key
                several = await alice.get_keys(32, 50)
                found = await bob.get_keys_by_ids([ref for ref, _ in several])
                assert found == [key for _, key in several]
                assert totals(service)["delivered"] == totals(service)["relayed"] == 52
                assert node(service, "hub")["learned_keys"] == 52
                assert node(service, "spare")["learned_keys"] == 0

                status = await alice.status()
                assert status.healthy
                assert status.qber == pytest.approx(0.01, abs=0.001)
                assert status.key_rate == pytest.approx(3.4656e6, rel=1e-3)
                assert status.alarm is None

                # over two ways at once: no node knows the key
                twice_hub = hub(topology, "sae-alice", extension_mandatory={"disjoint_paths": 2})
                twice = source(twice_hub, "sae-bob")
                ref, key = await twice.get_key(32)
                assert await bob.get_key_by_id(ref) == key
                assert node(service, "hub")["learned_keys"] == 52
                assert (node(service, "hub")["learned_shares"], node(service, "spare")["learned_shares"]) == (1, 1)
                await twice_hub.close()
                thrice_hub = hub(topology, "sae-alice", extension_mandatory={"disjoint_paths": 3})
                words = "fewer than 3 disjoint paths from alice to bob with enough keys: the links have no more ways"
                with pytest.raises(KeySourceUnavailableError, match=words):
                    await source(thrice_hub, "sae-bob").get_key(32)
                await thrice_hub.close()
                for wrong in (0, "two", True):
                    wrong_hub = hub(topology, "sae-alice", extension_mandatory={"disjoint_paths": wrong})
                    with pytest.raises(KeyRequestRejectedError, match="an integer from 1 to 10"):
                        await source(wrong_hub, "sae-bob").get_key(32)
                    await wrong_hub.close()

                # the loss of a relay costs nothing
                service.command("hub", "cut")
                ref, key = await alice.get_key(32)
                assert await bob.get_key_by_id(ref) == key
                assert node(service, "spare")["learned_keys"] == 1
                service.command("hub", "restore")

                # so does somebody who forges what goes over a link, who is told
                service.command("alice-hub", "messages", "forge")
                ref, key = await alice.get_key(32)
                assert await bob.get_key_by_id(ref) == key
                assert node(service, "spare")["learned_keys"] == 2
                assert {"relay.refused", "relay.failed"} <= {one.what for one in service.happenings}
                (link,) = [one for one in service.map()["links"] if one["name"] == "alice-hub"]
                assert link["messages"]["refused"] == 3
                service.command("alice-hub", "restore")

                # an eavesdropper on one way: the other one; on both: an alarm, and quarantine
                service.command("alice-hub", "eavesdrop", "intercept-resend")
                await until(lambda: told(service, "alice-hub"))
                ref, key = await alice.get_key(32)
                assert await bob.get_key_by_id(ref) == key
                assert (await alice.status()).alarm is None
                service.command("alice-spare", "eavesdrop", "intercept-resend")
                await until(lambda: told(service, "alice-spare"))
                with pytest.raises(
                    KeySourceUnavailableError, match=r"warns: QBER above the threshold of 11\.0%"
                ) as why:
                    await alice.get_key(32)
                assert why.value.lost == 0
                status = await alice.status()
                assert not status.healthy
                assert status.alarm is not None
                assert "QBER above the threshold of 11.0%" in status.alarm
                assert status.qber == pytest.approx(0.255, abs=0.01)
                assert "it warns: link alice-" in (alarm_of(status, Limits()) or "")
                for link in service.map()["links"]:
                    if link["between"][0] == "alice":
                        assert link["keys_until_alarm"] < 100
                        assert link["state"] == "alarmed"

                # and she goes
                service.command("alice-hub", "restore")
                await until(lambda: told(service, "alice-hub", alarmed=False))
                ref, key = await alice.get_key(32)
                assert await bob.get_key_by_id(ref) == key

                with pytest.raises(NetworkError, match="there is no link or node 'nowhere'"):
                    service.command("nowhere", "cut")
                json.dumps(service.map())
                assert {"link.alarm", "link.cleared", "node.lost"} <= {one.what for one in service.happenings}
            finally:
                await alices.close()
                await bobs.close()

    run(test)


def test_a_full_store_costs_no_link_key_and_what_nobody_has_is_not_delivered(tmp_path: Path, network_pki: Path) -> None:
    path = write_metro(tmp_path, network_pki)
    path.write_text(path.read_text().replace("nodes:", "key: {max_count: 4}\nnodes:", 1))
    topology = load_topology(path)

    async def test() -> None:
        async with running(topology) as service:
            now = [time.monotonic()]
            service._clock = lambda: now[0]  # so that keys expire when the test says so, and links make none
            alices, bobs = hub(topology, "sae-alice"), hub(topology, "sae-bob")
            alice, bob = source(alices, "sae-bob"), source(bobs, "sae-alice")
            try:
                refs = [(await alice.get_key(32))[0] for _ in range(3)]
                before, links = totals(service), service.map()["links"]
                with pytest.raises(KeySourceUnavailableError, match="the key store is full") as full:
                    await alice.get_keys(32, 2)  # there is room for one
                assert full.value.lost == 0
                assert service.map()["links"] == links  # not a bit of any link
                assert totals(service) == before | {"refused": 1}
                assert before["delivered"] == sum(node(service, name)["learned_keys"] for name in ("hub", "spare")) == 3

                await bob.get_key_by_id(refs[0])
                refs += [ref for ref, _ in await alice.get_keys(32, 2)]
                assert totals(service)["delivered"] == 5

                # what a link loses on its way is made again, and is no delivered key
                await bob.get_key_by_id(refs[1])
                (way,) = service.core.paths("alice", "bob", 256)
                service.command(way.links[0], "messages", "lose")
                await bob.get_key_by_id((await alice.get_key(32))[0])
                assert (totals(service)["delivered"], totals(service)["lost"]) == (6, 1)

                # the end's store refuses after all: nobody has it
                service.command(way.links[0], "restore")
                store, used = service.stores["bob"], totals(service)["used"]
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(store, "put", refuse)
                    with pytest.raises(KeySourceUnavailableError, match="for the test"):
                        await alice.get_key(32)
                found = totals(service)
                assert found["used"] > used
                assert (found["delivered"], found["relayed"], found["lost"]) == (6, 6, 2)
                assert node(service, "bob")["own_keys"] == 6

                now[0] += topology.key.ttl + 1
                store.sweep(now[0])
                assert totals(service)["expired"] == 3
            finally:
                await alices.close()
                await bobs.close()

    run(test)


def refuse(*_: object, **__: object) -> None:
    raise ApiError(503, "for the test")


async def told(service: Service, link: str, alarmed: bool = True) -> bool:
    service.advance()
    return (service.core.links[link].alarm is not None) == alarmed


def test_kmes_of_other_vendors_differ_as_they_do_and_the_driver_copes(tmp_path: Path, network_pki: Path) -> None:
    odd = ("upper-case-ids", "capital-fields", "unpadded-base64", "text-errors", "one-key", "silent-status")
    topology = load_topology(write_metro(tmp_path, network_pki, *odd))
    address = topology.nodes["bob"].listen
    assert address is not None

    async def test() -> None:
        # a socket that was made elsewhere, as in a network namespace of bob's
        async with running(topology, sockets={"bob": listen(address)}) as service:
            raw = Sae(f"https://{address}", files(network_pki, "sae-bob"))
            code, answer = await raw.ask("GET", "sae-alice/enc_keys")
            assert code == 200
            assert list(answer) == ["Keys"]
            assert answer["Keys"][0]["Key_ID"].isupper()
            assert not answer["Keys"][0]["Key"].endswith("=")
            alices, bobs = hub(topology, "sae-alice"), hub(topology, "sae-bob")
            alice, bob = source(alices, "sae-bob"), source(bobs, "sae-alice")
            try:
                for one, other in ((alice, bob), (bob, alice)):
                    ref, key = await one.get_key(32)
                    assert await other.get_key_by_id(ref) == key
                assert (await bob.status()).stored_keys is None
                service.command("bob", "cut")
                with pytest.raises(KeySourceUnavailableError, match="the node bob is lost"):
                    await bob.get_key(32)
            finally:
                await alices.close()
                await bobs.close()

    run(test)


def test_a_kme_without_post_and_with_other_base64(tmp_path: Path, network_pki: Path) -> None:
    topology = load_topology(write_metro(tmp_path, network_pki, "base64url", "errors-as-500", "get-only"))

    async def test() -> None:
        async with running(topology) as service:
            alices, bobs = hub(topology, "sae-alice"), hub(topology, "sae-bob", method="get")
            posting = hub(topology, "sae-bob")
            alice, bob = source(alices, "sae-bob"), source(bobs, "sae-alice")
            try:
                for one, other in ((alice, bob), (bob, alice)) * 4:
                    ref, key = await one.get_key(32)
                    assert await other.get_key_by_id(ref) == key
                with pytest.raises(KeyRequestRejectedError, match="HTTP 405"):
                    await source(posting, "sae-alice").get_key(32)
                for link in ("hub-bob", "spare-bob"):
                    service.command(link, "eavesdrop", "blind")
                with pytest.raises(KeySourceUnavailableError, match="HTTP 500: not enough keys") as why:
                    await bob.get_key(32)
                assert why.value.lost == 0
            finally:
                for one_hub in (alices, bobs, posting):
                    await one_hub.close()

    run(test)


def test_an_hour_of_the_network_fits_into_a_second(metro: Path) -> None:
    """And what nobody took in it did not fit into the stores."""
    times = iter([0.0, 1.0, 1.0])
    service = Service(load_topology(metro), clock=lambda: next(times), time_scale=3600.0)
    told = service.map()
    assert told["time_s"] == 3600
    assert told["pairs"][0]["key_rate"] == pytest.approx(3.4656e6, rel=1e-3)
    assert all(link["stored_keys"] == 10_000 for link in told["links"])
    made = next(link["bits"]["made"] for link in told["links"] if link["name"] == "hub-bob")
    assert made == pytest.approx(1e6 + 3600 * 3.46556e6, rel=1e-4)
    # an SAE counts in seconds of the clock
    assert service.standing("alice", "sae-bob").extension["key_rate"] == pytest.approx(3600 * 3.4656e6, rel=1e-3)
