"""The gallery's files, and what is said of files that do not fit."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

import pytest

from qtunnel.config import load_config
from qtunnel.errors import ConfigError
from qtunnel.qkdnet.link import LinkState
from qtunnel.qkdnet.network import NoPathError
from qtunnel.qkdnet.view import look
from qtunnel.scenario.assertions import RULES, Case
from qtunnel.scenario.facts import Facts
from qtunnel.scenario.files import GatewayFiles
from qtunnel.scenario.gallery import find, gallery, load_scenario, title
from qtunnel.simulator.commands import perform
from qtunnel.simulator.topology_file import load_topology

WANTED = {
    "geneva", "darpa", "secoqc-openqkd", "beijing-shanghai", "micius", "qunet", "jpmorgan-metro", "bt-london",
    "battelle", "hospital", "power-grid", "hybrid-vpn", "sdn",
}  # fmt: skip


def test_the_gallery_has_all_scenarios() -> None:
    assert set(gallery()) == WANTED


@pytest.mark.parametrize("name", sorted(WANTED))
def test_a_scenario_loads_and_its_readme_states_what_it_asserts(name: str) -> None:
    scenario = find(name)
    readme = (scenario.directory / "README.md").read_text()
    assert title(scenario.directory) == scenario.file.title
    stated = re.findall(r"^- (.*)$", readme, re.MULTILINE)
    assert stated == [one.says for one in scenario.file.assertions]
    assert "assumed" in readme, "figures without a source are said to be assumed"
    assert re.search(r"\]\(https?://", readme.replace("\n", "")), "what the real system was has a source"


@pytest.mark.parametrize("name", ["hybrid-vpn", "sdn", "secoqc-openqkd"])
def test_the_gateways_files_are_good_at_the_start_and_after_each_change(name: str, tmp_path: Path) -> None:
    scenario = find(name)
    files = GatewayFiles(scenario, tmp_path)
    files.write_all()

    def loaded() -> dict[str, set[str]]:
        sites = [site for site in scenario.file.sites if files.has_peers(site)]
        return {site: {peer.name for peer in load_config(tmp_path / f"{site}.yaml").peers} for site in sites}

    topology = load_topology(tmp_path / "network.yaml")
    for site, section in scenario.file.sites.items():
        node = topology.nodes[scenario.node_of(site)]
        assert str(node.listen) == f"{files.addresses.kme(site)}:8443"
        assert section.sae in node.saes
    assert loaded()
    for event in scenario.file.timeline:
        if event.change is not None:
            ends = files.change(event.change)
            interval = files.tunnels[event.change.tunnel].rekey.interval
            (peer,) = [one for one in load_config(tmp_path / f"{ends[0]}.yaml").peers if one.name == ends[1]]
            assert peer.rekey.interval == interval
            assert peer.kem == files.tunnels[event.change.tunnel].kem
        if event.open is not None:
            one, other = files.set_open(event.open, on=True)
            assert other in loaded()[one]
        if event.close is not None:
            one, other = files.set_open(event.close, on=False)
            assert other not in loaded().get(one, set())


DEMAND = 200.0
"""Keys a second of the clock that are taken over the attacked link: more than any scenario asks for in all."""


@pytest.mark.parametrize("share", ["50%", "100%"])
@pytest.mark.parametrize("name", sorted(WANTED))
def test_an_attack_on_any_link_of_a_scenario_is_alarmed_before_100_further_keys(name: str, share: str) -> None:
    topology = find(name).topology
    for link_name in topology.links:
        network = topology.core()
        link = network.links[link_name]
        now = 0.0
        while now < 1800 or link.state is not LinkState.UP:  # a satellite has to come by
            now += 10
            list(link.advance(now))  # alone: the others are not asked
        network.now = now
        stored = link.reservoir.stored
        assert stored > 100 * topology.key.size or name in ("sdn", "micius", "qunet"), (
            f"{link_name} could give no 100 keys"
        )
        perform(network, link_name, "eavesdrop", ["intercept-resend", share])
        while link.alarms == 0:
            assert now < 86_400, f"{link_name} never warns"
            now += topology.time_scale / DEMAND
            list(link.advance(now))
            if link.usable and link.reservoir.stored >= topology.key.size:
                assert not link.take(topology.key.size), f"{link_name} gave a key out that she knows"
        assert link.keys_until_alarm is not None
        assert link.keys_until_alarm < 100, link_name


@pytest.mark.parametrize("name", ["bt-london", "battelle"])
@pytest.mark.parametrize("waits", [True, False])
def test_a_link_that_gives_keys_out_before_it_knows_the_error_does_not_pass(name: str, waits: bool) -> None:
    """By the rule of the scenario's run, with the network's own maps."""
    scenario = find(name)
    own = scenario.topology
    links = {link: section.model_copy(update={"waits": waits}) for link, section in own.links.items()}
    topology = own.model_copy(update={"links": links})
    (rule,) = [one for one in scenario.file.assertions if one.that == "unknown-to-eavesdropper"]
    (attack,) = [one.network for one in scenario.file.timeline if one.network is not None and "eaves" in one.network]
    where, action, *arguments = attack.split()
    network, ends, now = topology.core(), sorted(topology.homes.values()), 10.0
    network.advance(now)
    for one in network.links.values():  # keys that nobody knows would go first
        one.take(one.reservoir.stored)
    maps = [(now, look(network, [], 256))]
    perform(network, where, action, arguments)
    attacked = network.links[where]
    while attacked.alarms == 0:
        now += 0.1
        network.advance(now)
    perform(network, where, "restore", [])
    delivered = 0
    while delivered < 20:
        now += 0.1
        network.advance(now)
        with contextlib.suppress(NoPathError):
            network.make(ends[0], ends[-1:], 32, ["k"], os.urandom)
            delivered += 1
    maps.append((now, look(network, [], 256)))
    facts = Facts(maps[0][0], now, {}, maps=maps)
    found, words = RULES["unknown-to-eavesdropper"](Case(facts, [], rule, 10.0, now))
    assert found is waits, words


def test_no_scenario_asks_for_more_keys_than_the_attack_is_tried_with() -> None:
    for name in WANTED:
        file = find(name).file
        asked = sum(one.keys / one.every for one in file.takers) + sum(
            1 / one.rekey.interval for one in file.tunnels.values()
        )
        assert asked < DEMAND, name


def test_every_relay_of_darpa_is_lost_in_turn_and_keys_take_another_way() -> None:
    scenario = find("darpa")
    topology = scenario.topology
    relays = {name for name, node in topology.nodes.items() if not node.saes}
    assert len(relays) == 8
    done = [one.network for one in scenario.file.timeline]
    assert sorted(filter(None, done)) == sorted(f"{name} {what}" for name in relays for what in ("cut", "restore"))
    lost_on_the_way = set()
    for lost in relays:
        network = topology.core()
        network.advance(60.0)
        spared = {link for link, one in topology.links.items() if lost in one.between}
        for name, link in network.links.items():  # so that the way goes over it, where any can
            if name not in spared:
                link.take(link.reservoir.stored * 9 // 10)
        if any(lost in path.nodes for path in network.paths("anna", "boris", 256)):
            lost_on_the_way.add(lost)
        perform(network, lost, "cut", [])
        for second in range(120):
            network.advance(60.0 + second)
            (way,) = network.paths("anna", "boris", 256)
            assert lost not in way.nodes
            network.spend([way], 256)
    assert lost_on_the_way == relays


BAD = {
    "    rekey: {interval: 1s": (
        "    driver: etsi004\n    rekey: {interval: 1s",
        "tunnels.campus.driver: is etsi004, which the KME of unige does not speak; give nodes.unige an etsi004",
    ),
    "  cern: {sae: sae-cern}": (
        "  cern: {sae: sae-hepia}",
        "sites.cern.sae: there is no SAE 'sae-hepia'; there are: sae-",
    ),
    "between: [unige, cern]": (
        "between: [unige, hepia]",
        "tunnels.campus.between[1]: there is no site 'hepia'; there are",
    ),
    "network: unige-cern cut": (
        "network: unige-cern cutt",
        "timeline[0].network: unige-cern cutt: a link can be told: cut",
    ),
    "at: 3s": ("at: 30s", "timeline[0].at: is after the end, at 14 s"),
    "that: nothing-lost": ("that: alarmed", "assertions[0].link: is missing; alarmed needs it"),
    "that: protected": ("that: protectd", "assertions[1].that: is 'protectd'; must be one of: nothing-lost"),
    "seconds: 14s": ("seconds: 14", "seconds: a duration needs a unit"),
    "policy: required": ("policy: requird", "tunnels.campus.qkd.policy: is 'requird'"),
}


@pytest.mark.parametrize("before", BAD)
def test_a_mistake_is_told_at_its_line_with_what_would_be_right(before: str, tmp_path: Path) -> None:
    after, words = BAD[before]
    directory = tmp_path / "geneva"
    shutil.copytree(gallery()["geneva"], directory)
    text = (directory / "scenario.yaml").read_text()
    assert before in text
    (directory / "scenario.yaml").write_text(text.replace(before, after, 1))
    with pytest.raises(ConfigError) as error:
        load_scenario(directory)
    assert words in str(error.value)
    assert re.match(r".*scenario\.yaml:\d+:\d+: ", str(error.value))


def test_an_unknown_scenario_is_told_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"--scenario vienna: there are: battelle, .*; or give a directory, as ./vienna"
    ):
        find("vienna")
    with pytest.raises(ConfigError, match=r"there is no scenario\.yaml in that directory"):
        find("./vienna")
