"""What differs between two configurations: complete, and nothing but that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.config import load_config
from qtunnel.config.difference import Change, Kind, Verb, difference
from qtunnel.config.model import Config, PeerConfig
from qtunnel.config.snapshot import Snapshot, take_snapshot
from tests.config.conftest import MINIMAL, identity, write_secret
from tests.config.conftest import site as site
from tests.config.conftest import write as write

KEY = bytes(32)
OWN = identity("alice").public
NAMES = ("ann", "ben", "cat", "dan")
PLACE = Path("/etc/qtunnel")


def _peer(name: str, values: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "public": PLACE / f"{name}.public",
        "allowed_ips": [f"10.0.0.{NAMES.index(name)}/32"],
    } | values


DETAILS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "rekey": st.sampled_from([{"interval": "120s"}, {"interval": "5s"}, {"jitter": "20%"}]),
        "qkd": st.sampled_from([{"policy": "off"}, {"policy": "preferred"}, {"max_age": "700s"}]),
        "endpoint": st.sampled_from(["192.0.2.1", "gw.example", None]),
        "kem": st.sampled_from(["ml-kem-768", "ml-kem-1024", ["ml-kem-768", "ml-kem-1024"]]),
        "persistent_keepalive": st.sampled_from(["25s", "off"]),
        "pairing_secret": st.sampled_from([PLACE / "one", PLACE / "two"]),
    },
)
PEERS = st.dictionaries(st.sampled_from(NAMES), st.tuples(DETAILS, st.sampled_from(["bob", "hub"])), min_size=1)
TUNNELS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {}, optional={"mtu": st.sampled_from([1400, 1420]), "engine": st.sampled_from(["qtunnel", "wireguard-go"])}
)
CONTENTS = st.fixed_dictionaries({PLACE / "one": st.binary(max_size=1), PLACE / "two": st.binary(max_size=1)})
PLAIN = st.dictionaries(st.sampled_from(["x", "y"]), st.tuples(st.integers(0, 2), st.sampled_from(["off", "9s"])))


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    peers, plain = draw(PEERS), draw(PLAIN)
    tree = {
        "node": {"name": "alice", "identity": PLACE / "alice.identity"},
        "tunnel": {"interface": "qt0", "addresses": ["10.0.0.9/24"]} | draw(TUNNELS),
        "log": {"level": draw(st.sampled_from(["info", "debug"]))},
        "peers": [_peer(name, values) for name, (values, _) in peers.items()],
        "plain_peers": [
            {"name": name, "protection": "wireguard-only", "public_key": bytes([key] * 32), "allowed_ips": ["::1/128"],
             "persistent_keepalive": keepalive}
            for name, (key, keepalive) in plain.items()
        ],
    }  # fmt: skip
    public = {name: identity(who).public for name, (_, who) in peers.items()}
    contents = draw(CONTENTS) | {PLACE / f"{name}.public": its.id for name, its in public.items()}
    return Snapshot(Config.model_validate(tree), public, {**contents, PLACE / "alice.identity": OWN.id})


def _peers_of(snapshot: Snapshot) -> dict[str, PeerConfig]:
    return {peer.name: peer for peer in snapshot.config.peers}


def _meaning(snapshot: Snapshot, peer: PeerConfig) -> tuple[Any, ...]:
    """A peer with what its files hold in the place of their names."""
    secret = peer.pairing_secret
    bare = peer.model_copy(update={"public": PLACE, "pairing_secret": None})
    return bare.model_dump_json(), snapshot.public[peer.name].id, secret and snapshot.contents[secret]


@given(snapshots())
def test_nothing_differs_from_itself_whatever_the_order(one: Snapshot) -> None:
    turned = one.config.model_copy(update={"peers": one.config.peers[::-1]})
    assert difference(one, one) == difference(one, replace(one, config=turned)) == ()


@given(snapshots(), snapshots())
def test_the_changes_lead_from_one_to_the_other(old: Snapshot, new: Snapshot) -> None:
    before, after = _peers_of(old), _peers_of(new)
    of_peers = [change for change in difference(old, new) if change.kind is Kind.PEER]
    assert len({change.name for change in of_peers}) == len(of_peers), "one change for each"
    reached = dict(before)
    for change in of_peers:
        match change.verb:
            case Verb.REMOVED:
                assert change.name not in after
                del reached[change.name]
            case Verb.ADDED:
                assert change.name not in before
                reached[change.name] = after[change.name]
            case Verb.REPLACED | Verb.CHANGED:
                other = old.public[change.name].id != new.public[change.name].id
                assert (change.verb is Verb.REPLACED) == other, "whose session ends"
                reached[change.name] = after[change.name]
    assert reached.keys() == after.keys()
    touched = {change.name for change in of_peers}
    for name in after:
        same = name in before and _meaning(old, before[name]) == _meaning(new, after[name])
        assert (name not in touched) == same


@given(snapshots(), snapshots())
def test_there_and_back_are_opposites(old: Snapshot, new: Snapshot) -> None:
    opposite = {Verb.ADDED: Verb.REMOVED, Verb.REMOVED: Verb.ADDED}
    there, back = difference(old, new), difference(new, old)
    assert {(opposite.get(c.verb, c.verb), c.kind, c.name, frozenset(c.keys)) for c in there} == {
        (c.verb, c.kind, c.name, frozenset(c.keys)) for c in back
    }


@given(snapshots(), snapshots())
def test_a_restart_is_asked_for_where_the_engine_is_another(old: Snapshot, new: Snapshot) -> None:
    refused = [change.keys for change in difference(old, new) if change.verb is Verb.REFUSED]
    assert refused == ([("tunnel.engine",)] if old.config.tunnel.engine != new.config.tunnel.engine else [])


def changes(write: Callable[[str], Path], text: str, do: Callable[[], object] = lambda: None) -> list[str]:
    """From MINIMAL to another text, with something done to the files in between."""
    old = take_snapshot(load_config(write(MINIMAL), environ={}), KEY)
    do()
    return [change.words for change in difference(old, take_snapshot(load_config(write(text), environ={}), KEY))]


def test_a_new_certificate_under_the_old_name_is_another_source(site: Path, write: Callable[[str], Path]) -> None:
    certificate, key = site / "pki" / "sae-alice.pem", site / "pki" / "sae-alice.key"
    assert changes(write, MINIMAL, lambda: certificate.write_text("renewed")) == [
        "key source metro changed: certificate"
    ]
    assert changes(write, MINIMAL, lambda: write_secret(key, "renewed")) == ["key source metro changed: private_key"]


def test_a_file_that_only_has_another_name_is_no_change(site: Path, write: Callable[[str], Path]) -> None:
    moved = MINIMAL.replace("bob.public", "moved.public")
    assert changes(write, moved, lambda: (site / "bob.public").rename(site / "moved.public")) == []


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: alice", "name: alison", "node.name cannot change"),
        ("interface: qt0", "interface: qt1", "tunnel.interface cannot change"),
        ("url: https://127.0.0.1:8443", "url: https://127.0.0.2:8443", "key source metro changed: url"),
        ("peer_sae_id: sae-bob", "peer_sae_id: other", "peer bob changed: qkd.sources.metro.peer_sae_id"),
        ("10.77.0.1/24]", "10.77.0.1/24]\n  record_mode: off", "tunnel changed: record_mode"),
    ],
)
def test_what_is_said_names_the_key(write: Callable[[str], Path], old: str, new: str, words: str) -> None:
    assert any(said.startswith(words) for said in changes(write, MINIMAL.replace(old, new)))


def test_a_key_that_is_younger_than_the_list_takes_a_restart(write: Callable[[str], Path]) -> None:
    """Nobody can forget to decide: what is not known to be safe is refused."""
    old = take_snapshot(load_config(write(MINIMAL), environ={}), KEY)
    tunnel = old.config.tunnel.model_copy(update={"processes": 2})
    new = replace(old, config=old.config.model_copy(update={"tunnel": tunnel}))
    assert difference(old, new) == (Change(Verb.REFUSED, Kind.OTHER, keys=("tunnel.processes",)),)


def test_another_wireguard_key_is_another_peer() -> None:
    """Else the engine would keep the old one, with its key."""

    def snapshot(key: int) -> Snapshot:
        tree = {
            "node": {"name": "alice", "identity": PLACE / "alice.identity"},
            "tunnel": {"interface": "qt0", "addresses": ["10.0.0.9/24"]},
            "peers": [_peer("ann", {"wireguard_key": bytes([key] * 32)})],
        }
        return Snapshot(Config.model_validate(tree), {"ann": identity("bob").public}, {})

    assert [change.verb for change in difference(snapshot(1), snapshot(2))] == [Verb.REPLACED]


def test_a_certificate_for_reports_that_is_renewed_is_no_change(site: Path, write: Callable[[str], Path]) -> None:
    """It is read when the next connection is made; another name of the file takes a restart, as all of that section."""
    section = 'mqtt: {broker: "mqtts://b:1", ca: pki/ca.pem, certificate: pki/sae-alice.pem, private_key: pki/%s.key}\n'
    before = take_snapshot(load_config(write(MINIMAL + section % "sae-alice"), environ={}), KEY)
    write_secret(site / "pki" / "mqtt.key", "new")
    renamed = take_snapshot(load_config(write(MINIMAL + section % "mqtt"), environ={}), KEY)
    assert difference(before, renamed) == (Change(Verb.REFUSED, Kind.OTHER, keys=("mqtt.private_key",)),)
    write_secret(site / "pki" / "mqtt.key", "newer")
    again = take_snapshot(load_config(write(MINIMAL + section % "mqtt"), environ={}), KEY)
    assert difference(renamed, again) == ()
    gone = take_snapshot(load_config(write(MINIMAL), environ={}), KEY)
    (change,) = difference(again, gone)
    assert change.words == "mqtt cannot change while the daemon runs; restart it, or put the old value back"
