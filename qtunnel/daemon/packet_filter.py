"""Programs that the kernel runs for each datagram before the daemon sees it: classic BPF, as socket(7) has it.

One drops what no datagram of the handshake looks like. The other sorts by source address: SO_REUSEPORT lets two sockets
share a port, and the program says which of the two gets a datagram, so that each has a queue of its own.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Collection

from qtunnel.addresses import pack_address

# asm-generic/socket.h
SO_ATTACH_FILTER, SO_ATTACH_REUSEPORT_CBPF = 26, 51
# linux/filter.h: code, jt, jf, k
_INSTRUCTION = struct.Struct("=HBBI")
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE, _LOAD_LENGTH, _LOAD_KEPT = 0x20, 0x28, 0x30, 0x80, 0x60
_KEEP, _TO_X, _X_KEPT, _MULTIPLY, _ADD, _ADD_X, _DIVIDE = 0x02, 0x07, 0x61, 0x24, 0x04, 0x0C, 0x34
_GO, _EQUAL, _EQUAL_X, _GREATER, _AT_LEAST, _AT_LEAST_X, _RETURN = 0x05, 0x15, 0x1D, 0x25, 0x35, 0x3D, 0x06
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF
_UDP_HEADER = 8

Instruction = tuple[int, int, int, int]

MAX_SOURCES = 2000
"""Addresses in one program; the kernel takes at most 4,096 instructions."""
_LEAF = 8
"""Addresses that are compared one after the other at the end of the search."""


def shape(least: int, most: int, types: int, fragments: int, payload: int, cookie: int) -> list[Instruction]:
    """Keeps what has the sizes and numbers of the handshake (docs/protocol.md, sections 3.1 and 3.4).

    least, most: bytes of a datagram; types: messages are 1 to this; fragments: the most of a message; payload: bytes
    of it in each but the last; cookie: bytes of a cookie reply, whose type is the next. Random bytes pass once in
    100,000 times.
    """
    at = _UDP_HEADER
    return [
        (_LOAD_LENGTH, 0, 0, 0),
        (_GREATER, 18, 0, at + most),
        (_AT_LEAST, 0, 17, at + least),
        (_LOAD_BYTE, 0, 0, at),  # type
        (_EQUAL, 12, 0, types + 1),
        (_GREATER, 14, 0, types),
        (_AT_LEAST, 0, 13, 1),
        (_LOAD_BYTE, 0, 0, at + 5),  # count
        (_GREATER, 11, 0, fragments),
        (_TO_X, 0, 0, 0),
        (_LOAD_BYTE, 0, 0, at + 4),  # index
        (_AT_LEAST_X, 8, 0, 0),
        (_LOAD_HALF, 0, 0, at + 6),  # length: how many fragments it makes
        (_ADD, 0, 0, payload - 1),
        (_DIVIDE, 0, 0, payload),
        (_EQUAL_X, 0, 4, 0),
        (_RETURN, 0, 0, 0xFFFFFFFF),
        (_LOAD_LENGTH, 0, 0, 0),
        (_EQUAL, 0, 1, at + cookie),
        (_RETURN, 0, 0, 0xFFFFFFFF),
        (_RETURN, 0, 0, 0),
    ]


def _key(packed: bytes, factors: tuple[int, ...]) -> int:
    """32 bits that stand for an address: the IPv4 address itself, of an IPv6 address a sum that nobody can aim at."""
    words = struct.unpack(f"!{len(packed) // 4}I", packed)
    if len(words) == 1:
        return int(words[0])
    return int(sum(word * factor for word, factor in zip(words, factors, strict=True)) & 0xFFFFFFFF)


def _load_key(family: int, factors: tuple[int, ...]) -> list[Instruction]:
    if family == socket.AF_INET:
        return [(_LOAD_WORD, 0, 0, _NETWORK_HEADER + 12)]
    program: list[Instruction] = []
    for number, factor in enumerate(factors):
        program += [(_LOAD_WORD, 0, 0, _NETWORK_HEADER + 8 + 4 * number), (_MULTIPLY, 0, 0, factor)]
        program += [(_X_KEPT, 0, 0, 0), (_ADD_X, 0, 0, 0)] if number else []
        program += [(_KEEP, 0, 0, 0)]
    return [*program, (_LOAD_KEPT, 0, 0, 0)]


def _search(keys: list[int]) -> list[Instruction]:
    """Returns 1 where the accumulator is one of the sorted keys, else 0."""
    if len(keys) <= _LEAF:
        found = len(keys)
        return [
            *((_EQUAL, found - number, 0, key) for number, key in enumerate(keys)),
            (_RETURN, 0, 0, 0),
            (_RETURN, 0, 0, 1),
        ]
    middle = len(keys) // 2
    low, high = _search(keys[:middle]), _search(keys[middle:])
    return [(_AT_LEAST, 0, 1, keys[middle]), (_GO, 0, 0, len(low)), *low, *high]


def by_source(family: int, hosts: Collection[str], factors: tuple[int, ...]) -> list[Instruction]:
    """Gives datagrams from these numeric addresses of the family to the second socket of a port, all others to the
    first. factors: four odd random numbers of 32 bits; at most ``MAX_SOURCES`` addresses count."""
    size = 4 if family == socket.AF_INET else 16
    packed = [pack_address(host.partition("%")[0]) for host in sorted(hosts)]
    keys = sorted({_key(one, factors) for one in packed if len(one) == size})[:MAX_SOURCES]
    return [*_load_key(family, factors), *_search(keys)]


def attach(sock: socket.socket, option: int, program: list[Instruction]) -> None:
    """Raises ``OSError`` where the kernel does not take it."""
    code = ctypes.create_string_buffer(b"".join(_INSTRUCTION.pack(*one) for one in program))
    sock.setsockopt(socket.SOL_SOCKET, option, struct.pack("HP", len(program), ctypes.addressof(code)))


def sort_by_source(sock: socket.socket, hosts: Collection[str], factors: tuple[int, ...]) -> int:
    """Let the port of ``sock`` sort by source. How many addresses it knows: all but where the kernel has no room for so
    long a program (net.core.optmem_max). Raises ``OSError`` where it cannot sort at all."""
    known = sorted(hosts)
    while True:
        try:
            attach(sock, SO_ATTACH_REUSEPORT_CBPF, by_source(sock.family, known, factors))
        except OSError as error:
            if error.errno != errno.ENOMEM or not known:
                raise
            known = known[: len(known) // 2]
        else:
            return len(known)
