"""The UAPI grammar and what its operations do to a device."""

from __future__ import annotations

import errno
import ipaddress
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qtunnel.wireguard.configuration import UapiConversation
from qtunnel.wireguard.endpoint import Endpoint, format_endpoint, parse_endpoint
from qtunnel.wireguard.uapi import KEYS, Scope, UapiError, parse_assignment
from tests.wireguard.world import End, World, connected, pair

PEER = "aa" * 31 + "09"
OTHER = "bb" * 31 + "09"
THIRD = "cc" * 31 + "09"


def lone(port: int = 51820) -> End:
    return World().end(("10.99.0.1", port), "10.77.0.1")


def scope_index(name: str) -> int:
    if name != "eth0":
        raise OSError(errno.ENODEV, "no such device")
    return 2


# The grammar


@pytest.mark.parametrize(
    "line",
    [
        "private_key=",
        f"private_key={'0' * 63}",
        f"private_key={'0' * 65}",
        f"private_key={'g' * 64}",
        f"preshared_key= {'0' * 63}",
        "public_key=\u00e9",
        "listen_port=65536",
        "listen_port=-1",
        "listen_port=+1",
        "listen_port=",
        "listen_port=1_0",
        "listen_port=\u0661",
        f"listen_port={'9' * 5000}",
        "fwmark=4294967296",
        "fwmark=0x10",
        "replace_peers=false",
        "replace_peers=True",
        "remove=1",
        "protocol_version=2",
        "endpoint=example.org:1",
        "endpoint=10.0.0.1",
        "endpoint=10.0.0.1:0",
        "endpoint=10.0.0.1:65536",
        "endpoint=10.0.0:1",
        "endpoint=fe80::1:1",
        "endpoint=[10.0.0.1]:1",
        "endpoint=[fe80::1%nosuch]:1",
        "endpoint=:1",
        "persistent_keepalive_interval=off",
        "allowed_ip=10.0.0.0/33",
        "allowed_ip=10.0.0.0/",
        "allowed_ip=10.0.0.0/-1",
        "allowed_ip=::/129",
        "allowed_ip=fe80::%1/64",
        "allowed_ip=--10.0.0.0/8",
        "allowed_ip=",
        "nonsense=1",
        "=",
    ],
)
def test_bad_values_are_einval(line: str) -> None:
    with pytest.raises(UapiError) as caught:
        parse_assignment(line.encode(), scope_index)
    assert caught.value.code == errno.EINVAL


@pytest.mark.parametrize("line", ["", "private_key", " "])
def test_a_line_without_an_equals_sign_is_eproto(line: str) -> None:
    with pytest.raises(UapiError) as caught:
        parse_assignment(line.encode(), scope_index)
    assert caught.value.code == errno.EPROTO


@given(st.sampled_from(sorted(KEYS)), st.binary(max_size=80))
def test_any_value_is_either_parsed_or_refused(key: str, value: bytes) -> None:
    try:
        name, scope, _ = parse_assignment(key.encode() + b"=" + value, scope_index)
    except UapiError:
        return
    assert (name, scope) == (key, KEYS[key][0])


def test_an_error_says_nothing_of_a_key() -> None:
    for line in (b"private_key=" + b"ab" * 31, b"preshared_key=" + b"ab" * 33, b"ab" * 32):
        with pytest.raises(UapiError) as caught:
            parse_assignment(line, scope_index)
        assert "abab" not in str(caught.value)


@given(st.ip_addresses(), st.integers(1, 65535), st.integers(0, 9))
def test_endpoints_round_trip(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int, scope: int) -> None:
    endpoint: Endpoint = (str(address), port) if address.version == 4 else (str(address), port, 0, scope)
    parsed = parse_endpoint(format_endpoint(endpoint), scope_index)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        assert parsed == (str(address.ipv4_mapped), port)
    else:
        assert parsed == endpoint


def test_a_scope_may_be_an_interface_name() -> None:
    assert parse_endpoint("[fe80::1%eth0]:51820", scope_index) == ("fe80::1", 51820, 0, 2)


# get


def test_get_of_a_fresh_device_and_of_a_full_one() -> None:
    end = lone()
    key = bytearray(end.private)
    key[0] &= 248
    key[31] = key[31] & 127 | 64
    assert end.get() == f"private_key={key.hex()}\nlisten_port=51820\nerrno=0\n\n"
    end.set("private_key=" + "0" * 64)
    end.set(
        "fwmark=7",
        f"public_key={PEER}",
        f"preshared_key={'cd' * 32}",
        "endpoint=[fe80::2%eth0]:9",
        "persistent_keepalive_interval=25",
        "allowed_ip=10.1.2.3/8",
        "allowed_ip=fd00::1/64",
        "allowed_ip=192.0.2.1",
    )
    assert end.get() == (
        "listen_port=51820\nfwmark=7\n"
        f"public_key={PEER}\npreshared_key={'cd' * 32}\nprotocol_version=1\nendpoint=[fe80::2%2]:9\n"
        "last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n"
        "persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\nallowed_ip=fd00::/64\nallowed_ip=192.0.2.1/32\n"
        "errno=0\n\n"
    )


def test_a_brief_answer_has_what_happened_and_not_what_was_configured() -> None:
    _, alice, _ = connected()
    lease = ("epoch=7", "epoch_note=note", "expires_boottime_msec=9060000")
    alice.set(f"public_key={PEER}", f"preshared_key={'cd' * 32}", *lease, "allowed_ip=10.1.2.3/8")
    whole = alice.get().splitlines()
    keys = {"private_key", "preshared_key", "protocol_version", "allowed_ip", "persistent_keepalive_interval"}
    keys |= {"installed_epoch", "installed_note", "expires_boottime_msec"}
    assert {line.partition("=")[0] for line in whole} >= keys
    brief = [line for line in whole if line.partition("=")[0] not in keys]
    for _ in range(2):
        assert alice.uapi("get=1\nbrief=true\n\n").splitlines() == brief
        assert alice.get().splitlines() == whole


def test_get_after_a_handshake() -> None:
    _, alice, _ = connected()
    answer = alice.get()
    assert "last_handshake_time_sec=1700001000\nlast_handshake_time_nsec=0\n" in answer
    assert "tx_bytes=212\nrx_bytes=92\n" in answer


def test_peers_keep_their_order() -> None:
    end = lone()
    keys = [f"{number:062x}09" for number in (5, 1, 9, 3)]
    for key in keys:
        end.set(f"public_key={key}")
    end.set(f"public_key={keys[1]}", "persistent_keepalive_interval=1")
    assert re.findall("public_key=(.*)", end.get()) == keys


# set


def test_errors_are_negative_and_keep_earlier_lines() -> None:
    end = lone()
    assert end.uapi("set=1\nlisten_port=1234\nlisten_port=bad\nlisten_port=99\n\n") == "errno=-22\n\n"
    assert "listen_port=1234\n" in end.get()
    assert end.uapi("set=1\nlisten_port\n\n") == "errno=-71\n\n"
    end.bind_error = OSError(errno.EADDRINUSE, "in use")
    assert end.uapi("set=1\nlisten_port=80\n\n") == "errno=-98\n\n"
    assert end.uapi("set=1\nfwmark=80\n\n") == "errno=-98\n\n"
    assert "listen_port=1234\n" in end.get()
    assert "fwmark" not in end.get()


@pytest.mark.parametrize("key", sorted(KEYS))
def test_every_key_has_its_place(key: str) -> None:
    end = lone()
    values = {"listen_port": "1", "fwmark": "1", "endpoint": "10.0.0.1:1", "allowed_ip": "::/0", "handshake": "now"}
    values |= dict.fromkeys(("persistent_keepalive_interval", "protocol_version", "epoch", "previous_epoch"), "1")
    values |= dict.fromkeys(("private_key", "public_key", "preshared_key", "previous_preshared_key"), PEER)
    line = f"{key}={values.get(key, 'true')}"
    first = f"set=1\n{line}\n\n"
    after_peer = f"set=1\npublic_key={OTHER}\n{line}\n\n"
    wrong = first if KEYS[key][0] is Scope.PEER else after_peer
    if key != "public_key":
        assert end.uapi(wrong) == "errno=-22\n\n"


def test_a_key_out_of_place_is_refused_and_the_log_says_where_it_belongs(caplog: pytest.LogCaptureFixture) -> None:
    end = lone()
    assert end.uapi(f"set=1\npublic_key={PEER}\nlisten_port=5\n\n") == "errno=-22\n\n"
    assert "listen_port has to stand before the first public_key" in caplog.text
    assert end.uapi("set=1\nallowed_ip=::/0\n\n") == "errno=-22\n\n"
    assert "allowed_ip has to stand after a public_key" in caplog.text


def test_remove_update_only_and_replace() -> None:
    end = lone()
    end.set(f"public_key={PEER}", "update_only=true", "endpoint=10.0.0.1:1")
    assert PEER not in end.get()
    end.set(f"public_key={PEER}", "remove=true")
    end.set(f"public_key={PEER}", f"public_key={OTHER}")
    end.set(f"public_key={PEER}", "update_only=true", "endpoint=10.0.0.1:1")
    assert "endpoint=10.0.0.1:1" in end.get()
    end.set(f"public_key={PEER}", "remove=true", f"public_key={OTHER}", "persistent_keepalive_interval=3")
    assert re.findall("public_key=(.*)", end.get()) == [OTHER]
    end.set("replace_peers=true", f"public_key={PEER}")
    assert re.findall("public_key=(.*)", end.get()) == [PEER]


def test_allowed_ips_move_replace_and_go() -> None:
    end = lone()
    end.set(f"public_key={PEER}", "allowed_ip=10.0.0.0/8", "allowed_ip=fd00::/8", f"public_key={OTHER}")
    end.set(f"public_key={OTHER}", "allowed_ip=10.0.0.9/8")
    peers = end.device.state.peers
    assert [len(peer.allowed_ips) for peer in peers.values()] == [1, 1]
    end.set(f"public_key={PEER}", "allowed_ip=-10.0.0.0/8", "allowed_ip=-fd00::/8")  # the first is another's
    assert [len(peer.allowed_ips) for peer in peers.values()] == [0, 1]
    end.set(f"public_key={OTHER}", "replace_allowed_ips=true", "allowed_ip=10.5.0.0/16")
    assert re.findall("allowed_ip=(.*)", end.get()) == ["10.5.0.0/16"]
    assert end.device.state.allowed_ips.lookup(bytes([10, 0, 0, 1])) is None
    end.set(f"public_key={OTHER}", "remove=true")
    assert end.device.state.allowed_ips.lookup(bytes([10, 5, 0, 1])) is None


def owners(end: End, *addresses: bytes) -> list[str]:
    """Whom these addresses lead to, by hexadecimal key; empty for nobody."""
    found = [end.device.state.allowed_ips.lookup(address) for address in addresses]
    return [peer.public_key.hex() if peer is not None else "" for peer in found]


TENS = [bytes((10, number, 0, 1)) for number in range(3)]


@pytest.mark.parametrize(
    "refused", ["endpoint=nonsense", "nonsense", "epoch=1", "allowed_ip=10.0.0.0/16\nlisten_port=5", "public_key=x"]
)
def test_a_section_that_is_refused_takes_nothing_from_others(refused: str) -> None:
    """The peer that it makes does not stay, for nobody knows its key: what it took would be nobody's."""
    end = lone()
    end.set(f"public_key={PEER}", "allowed_ip=10.0.0.0/16", "allowed_ip=10.1.0.0/16")
    before = end.get()
    answer = end.uapi(f"set=1\npublic_key={OTHER}\nallowed_ip=10.1.0.0/16\nallowed_ip=10.2.0.0/16\n{refused}\n\n")
    assert answer.startswith("errno=-")
    assert owners(end, *TENS) == [PEER, PEER, ""]
    assert sorted(end.get().split()) == sorted(before.split())
    while end.device.state.allowed_ips.unswept:
        end.device.state.allowed_ips.sweep()
    assert owners(end, *TENS) == [PEER, PEER, ""]
    assert sorted(end.get().split()) == sorted(before.split())


def test_a_section_that_is_refused_for_a_peer_that_was_there_counts_as_far_as_it_came() -> None:
    end = lone()
    end.set(f"public_key={PEER}", "allowed_ip=10.0.0.0/16", "allowed_ip=10.1.0.0/16", f"public_key={OTHER}")
    assert end.uapi(f"set=1\npublic_key={OTHER}\nallowed_ip=10.1.0.0/16\nendpoint=nonsense\n\n") == "errno=-22\n\n"
    assert owners(end, *TENS) == [PEER, OTHER, ""]


def test_a_peer_that_was_not_to_be_made_takes_nothing_either() -> None:
    end = lone()
    end.set(f"public_key={PEER}", "allowed_ip=10.1.0.0/16")
    end.set(f"public_key={OTHER}", "allowed_ip=10.1.0.0/16", "update_only=true")
    assert owners(end, *TENS) == ["", PEER, ""]
    end.set(f"public_key={OTHER}", "allowed_ip=10.1.0.0/16", "remove=true")  # asked for
    assert owners(end, *TENS) == ["", "", ""]


@pytest.mark.parametrize(
    ("meanwhile", "owner"),
    [
        (f"public_key={THIRD}\nallowed_ip=10.1.0.0/16", THIRD),
        (f"public_key={PEER}\nremove=true", ""),
        (f"public_key={PEER}\nreplace_allowed_ips=true", ""),
        (f"public_key={OTHER}\nallowed_ip=-10.1.0.0/16", PEER),
    ],
)
def test_what_another_client_does_meanwhile_stays(meanwhile: str, owner: str) -> None:
    end = lone()
    end.set(f"public_key={PEER}", "allowed_ip=10.1.0.0/16")
    slow = UapiConversation(end.device)
    assert not list(slow.feed(f"set=1\npublic_key={OTHER}\nallowed_ip=10.1.0.0/16\n".encode(), 0))
    assert owners(end, TENS[1]) == [OTHER]
    end.set(meanwhile)
    assert b"".join(next(slow.feed(b"endpoint=nonsense\n\n", 0))) == b"errno=-22\n\n"
    assert owners(end, TENS[1]) == [owner]


def test_our_own_key_is_no_peer() -> None:
    end = lone()
    end.set(f"public_key={end.public.hex()}", "allowed_ip=::/0", "endpoint=10.0.0.1:1")
    assert "public_key" not in end.get()
    other = lone()
    other.set(f"public_key={end.public.hex()}", f"public_key={PEER}")
    other.set(f"private_key={end.private.hex()}")
    assert re.findall("public_key=(.*)", other.get()) == [PEER]


def test_a_new_private_key_ends_sessions_and_the_same_one_does_not() -> None:
    world, alice, bob = connected()
    session = alice.peer(bob).keypairs.current
    alice.set(f"private_key={alice.private.hex()}")
    assert alice.peer(bob).keypairs.current is session
    alice.set("private_key=" + "42" * 32)
    assert not alice.device.state.sessions
    alice.send_to(bob)
    world.settle()
    assert bob.drops == {"unknown-peer": 1}


def test_listen_port_and_fwmark_rebind() -> None:
    world, alice, bob = connected()
    alice.binds.clear()
    alice.set("listen_port=51820", "fwmark=0")  # nothing changes
    assert alice.binds == []
    alice.set("fwmark=5", "listen_port=0")
    assert alice.binds == [(51820, 5), (0, 5)]
    assert "listen_port=40002\nfwmark=5\n" in alice.get()
    alice.send_to(bob)
    world.settle()
    assert len(bob.delivered) == 1


def test_keepalive_turned_on_while_the_link_is_down_sends_when_it_comes_up() -> None:
    world, alice, bob = pair()
    alice.device.link_down()
    alice.set_peer(bob.public, "persistent_keepalive_interval=5")
    world.collect()
    assert not world.wire
    alice.device.link_up(world.now)
    world.settle()
    assert bob.peer(alice).keypairs.current is not None


# Conversations


def talk(data: bytes, cut: int) -> tuple[bytes, bool]:
    """What a device answers when the request arrives in two pieces."""
    end = lone()
    conversation = UapiConversation(end.device)
    out = b""
    for piece in (data[:cut], data[cut:]):
        out += b"".join(b"".join(answer) for answer in conversation.feed(piece, 0.0))
    return out, conversation.closed


GOOD = f"set=1\npublic_key={PEER}\nendpoint=10.0.0.1:1\n\nget=1\n\nset=1\nbad\n\nget=1\n\n".encode()


@settings(deadline=None)
@given(st.integers(0, len(GOOD)))
def test_several_operations_cut_anywhere(cut: int) -> None:
    answer, closed = talk(GOOD, cut)
    assert re.findall(rb"errno=(.*)\n\n", answer) == [b"0", b"0", b"-71", b"0"]
    assert not closed


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"get=2\n\n",
        b"GET / HTTP/1.0\r\n",
        b"set=1 \n",
        b"get=1\nx=y\n",
        b"get=1\nbrief=false\n",
        b"get=1\nbrief=true\nbrief=true\n",
        b"x" * 2000,
    ],
)
def test_what_is_no_operation_is_hung_up_on(data: bytes) -> None:
    assert talk(data, len(data)) == (b"", True)


def test_set_without_its_empty_line_counts_at_the_end() -> None:
    end = lone()
    assert end.uapi(f"set=1\npublic_key={PEER}\n") == "errno=0\n\n"
    assert PEER in end.get()


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_garbage_never_raises(data: bytes) -> None:
    end = lone()
    for prefix in (b"", b"set=1\n", f"set=1\npublic_key={PEER}\n".encode()):
        conversation = UapiConversation(end.device)
        for answer in conversation.feed(prefix + data, 0.0):
            b"".join(answer)


def test_a_hundred_thousand_allowed_ips_go_in_and_out_in_pieces() -> None:
    end = lone()
    lines = [f"allowed_ip=10.{n >> 16}.{n >> 8 & 255}.{n & 255}/32" for n in range(100_000)]
    end.set(f"public_key={PEER}", *lines)
    conversation = UapiConversation(end.device)
    (answer,) = conversation.feed(b"get=1\n\n", 0.0)
    pieces = list(answer)
    assert max(map(len, pieces)) < 40_000
    assert b"".join(pieces).count(b"allowed_ip=") == 100_000
