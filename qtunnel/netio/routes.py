"""Which interface a packet would leave by (rtnetlink(7)), and word of when that may have changed."""

from __future__ import annotations

import contextlib
import socket
import struct

from qtunnel.addresses import pack_address

_RTMGRP_IPV4_ROUTE = 0x40
_RTMGRP_IPV4_RULE = 0x80
_RTMGRP_IPV6_ROUTE = 0x400
_RTNLGRP_IPV6_RULE_MASK = 1 << 18
"""Group 19 as a bit, as bind takes it; it has no RTMGRP name."""

_RTM_NEWROUTE = 24
_RTM_GETROUTE = 26
_NLM_F_REQUEST = 1
_RTA_DST = 1
_RTA_SRC = 2
_RTA_OIF = 4
_RTA_MARK = 16
_NLMSG_HEADER = struct.Struct("=IHHII")
_RTMSG = struct.Struct("=8BI")
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_ALIGNMENT = 4
_ANSWER_SIZE = 8192


class Routes:
    """The routing of this network namespace. ``generation`` grows when routes or rules have changed."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self.events = socket.socket(socket.AF_NETLINK, kind | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        groups = _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV4_RULE | _RTMGRP_IPV6_ROUTE | _RTNLGRP_IPV6_RULE_MASK
        self.events.bind((0, groups))
        self._queries = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self.generation = 0

    def changed(self) -> None:
        """``events`` is readable. What changed is not looked at: a lookup tells what counts."""
        self.generation += 1
        with contextlib.suppress(OSError):  # nothing left, or too much to tell: only that it came matters
            while True:
                self.events.recv(65536)

    def interface_to(self, destination: str, source: str, fwmark: int) -> int:
        """Index of the interface that packets between these numeric addresses leave by; 0 where there is no route."""
        addresses = [pack_address(text) for text in (destination, source)]
        size = len(addresses[0])
        family = socket.AF_INET if size == 4 else socket.AF_INET6
        body = _RTMSG.pack(family, size * 8, size * 8, 0, 0, 0, 0, 0, 0)
        for kind, value in zip((_RTA_DST, _RTA_SRC, _RTA_MARK), (*addresses, _U32.pack(fwmark)), strict=True):
            body += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value
        header = _NLMSG_HEADER.pack(_NLMSG_HEADER.size + len(body), _RTM_GETROUTE, _NLM_F_REQUEST, 1, 0)
        try:
            self._queries.send(header + body)
            return _output_interface(self._queries.recv(_ANSWER_SIZE))
        except OSError:
            return 0

    def close(self) -> None:
        self.events.close()
        self._queries.close()


def _output_interface(answer: bytes) -> int:
    """RTA_OIF of the kernel's answer, 0 where it is an error."""
    end, kind, *_ = _NLMSG_HEADER.unpack_from(answer)
    if kind != _RTM_NEWROUTE:
        return 0
    position = _NLMSG_HEADER.size + _RTMSG.size
    while position + _ATTRIBUTE.size <= end:
        length, attribute = _ATTRIBUTE.unpack_from(answer, position)
        if attribute == _RTA_OIF:
            return int(_U32.unpack_from(answer, position + _ATTRIBUTE.size)[0])
        position += max(_ATTRIBUTE.size, -(-length // _ALIGNMENT) * _ALIGNMENT)
    return 0
