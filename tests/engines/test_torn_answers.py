"""The kernel's answers that a change has spoiled while it gave them: never taken for whole.

No kernel does that on demand. So the messages are written here, and go through the real parser of a real socket.
"""

from __future__ import annotations

import asyncio
import struct
from ipaddress import ip_network

import pytest
from pyroute2.netlink import NLM_F_DUMP_INTR, NLM_F_MULTI, NLMSG_DONE
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket

from qtunnel.engines import kernel_client
from qtunnel.engines.base import PeerSpec
from qtunnel.engines.device import Device, added
from qtunnel.engines.kernel_client import DUMPS, KernelClient
from qtunnel.errors import EngineError
from qtunnel.secret import Secret

FAMILY = 0x20
TORN = NLM_F_MULTI | NLM_F_DUMP_INTR
Part = tuple[str, int]
"""Of an answer: the peers in it, one letter each, and its flags."""
WHOLE: list[Part] = [("ab", NLM_F_MULTI), ("c", NLM_F_MULTI), ("", NLM_F_MULTI)]


class Kernel(kernel_client._Socket):
    """answers: what it says to each question, of which the last part is the end; the last answer again and again."""

    answers: list[list[Part]]
    asked = 0

    async def setup_endpoint(self) -> None:
        await AsyncGenericNetlinkSocket.setup_endpoint(self)  # and no look for WireGuard's family
        self._prid = FAMILY
        self.marshal.msg_map[FAMILY] = kernel_client._Message

    def send(self, data: bytes | bytearray, flags: int = 0) -> int:
        (number,) = struct.unpack_from("=I", data, 8)
        answer = self.answers[min(Kernel.asked, len(self.answers) - 1)]
        Kernel.asked += 1
        for peers, flagged in answer[:-1]:
            lines = [line for name in peers for line in added(spec(name), Secret(bytes(32)))]
            (message,) = kernel_client._messages(["WGDEVICE_A_IFNAME", "wg0"], lines)
            message["header"] |= {"type": FAMILY, "flags": flagged, "sequence_number": number}
            message.encode()
            self.enqueue(bytes(message.data), None)
        self.enqueue(struct.pack("=IHHIIi", 20, NLMSG_DONE, answer[-1][1], number, 0, 0), None)
        return len(data)


def spec(name: str) -> PeerSpec:
    return PeerSpec(name.encode() * 32, ("192.0.2.1", 51820), (ip_network(f"10.{ord(name)}.0.0/16"),), 25)


def got(monkeypatch: pytest.MonkeyPatch, *answers: list[Part]) -> tuple[str, int]:
    """The peers that a client gets to know, and how often it asked."""

    async def main() -> Device:
        return await KernelClient("wg0").get()

    monkeypatch.setattr(kernel_client, "_Socket", Kernel)
    monkeypatch.setattr(Kernel, "answers", list(answers), raising=False)
    monkeypatch.setattr(Kernel, "asked", 0)
    device = asyncio.run(main())
    for public_key, peer in device.peers.items():
        assert peer.allowed_ips == [str(spec(chr(public_key[0])).allowed_ips[0])], "each told once"
    return "".join(chr(key[0]) for key in device.peers), Kernel.asked


def test_a_whole_answer_is_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert got(monkeypatch, WHOLE) == ("abc", 1)


@pytest.mark.parametrize(
    "torn",
    [
        [("ab", NLM_F_MULTI), ("", TORN), ("", NLM_F_MULTI)],  # c, where it was to go on, is gone
        [("ab", NLM_F_MULTI), ("d", TORN), ("", NLM_F_MULTI)],
        [("ab", TORN), ("c", NLM_F_MULTI), ("", NLM_F_MULTI)],
        [("ab", NLM_F_MULTI), ("", TORN)],
    ],
)
def test_a_torn_one_is_asked_for_again_and_nothing_of_it_stays(
    torn: list[Part], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert got(monkeypatch, torn, WHOLE) == ("abc", 2)
    assert got(monkeypatch, torn, torn, torn, WHOLE) == ("abc", 4)


def test_where_none_is_whole_the_device_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=rf"get of wg0: somebody changes it all the time; none of {DUMPS} answers"):
        got(monkeypatch, [("ab", TORN), ("", NLM_F_MULTI)])
    assert Kernel.asked == DUMPS
