"""The faults that every driver of qtunnel stands, each with one named error: a copy of qtunnel's own list.

test_faults.py has for each fault the kind of error that it brings, or in words why it cannot come to this driver.
"""

from __future__ import annotations

FAULTS = {
    "slow": "the answer comes later than the timeout",
    "cut": "the connection ends in the middle of the answer",
    "wrong-size": "a key of another size than was asked for",
    "wrong-encoding": "a key that is not encoded as the interface has it",
    "repeated-key": "the bytes of an earlier key under another reference",
    "all-zero": "a key of zeros",
    "low-entropy": "a key that is one block over and over",
    "huge": "an answer larger than any that makes sense",
    "slow-loris": "an answer of one byte now and then, without end",
    "expired-certificate": "a server certificate whose time is over",
    "wrong-certificate": "a server certificate of another authority",
    "name-mismatch": "a server certificate for another name",
    "restart": "the server goes away with a request under way, and comes back",
    "clock-skew": "a server certificate that is not valid yet, as with a clock that is wrong",
}
