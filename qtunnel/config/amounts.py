"""Amounts with units: bytes (``10G``, ``500 MB``, ``1GiB``) and counts (``1000000``, ``5M``)."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator

from qtunnel.config.types import is_number

_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
SIZES = _DECIMAL | _BINARY
"""What each prefix stands for; the binary ones are those of IEC 80000-13."""

MAX_AMOUNT = 2**63 - 1
"""What the counters of engines can show."""

_AMOUNT = re.compile(r"(\d{1,19}(?:\.\d{1,18})?)\s*(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?(B?)", re.ASCII)


def _parse(value: object, what: str) -> tuple[int, str]:
    """The amount, and its unit as written."""
    text = str(value).strip() if isinstance(value, str) or is_number(value) else ""
    match = _AMOUNT.fullmatch(text)
    amount = 0
    if match is not None:
        whole, _, decimals = match[1].partition(".")
        scaled = int(whole + decimals) * SIZES[match[2] or ""]
        amount = scaled // 10 ** len(decimals)
    if match is None or amount > MAX_AMOUNT:
        raise ValueError(what)
    return amount, (match[2] or "") + match[3]


def parse_bytes(value: object) -> int:
    """Bytes of ``"10G"``, ``"10 GB"``, ``"1.5GiB"``, ``"4096B"``; raises ``ValueError``."""
    amount, unit = _parse(value, "not an amount of bytes; write a number and a unit: 500M, 10G, 1T, or 10GiB")
    if not unit:
        text = str(value).strip()
        raise ValueError(f"an amount of bytes needs a unit; write {text}B for bytes, {text}M, {text}G, or {text}GiB")
    return amount


def parse_count(value: object) -> int:
    """A number of packets: ``1000000``, ``"5M"``, ``"1G"``; raises ``ValueError``."""
    amount, unit = _parse(value, "not a number of packets; write it out, or with k, M or G: 1000000, 50M, 1G")
    if unit.endswith("B"):
        raise ValueError("is an amount of bytes; write a number of packets, such as 50M, or use rekey.bytes")
    if amount < 1 or (is_number(value) and value != amount):
        raise ValueError("not a number of packets; write a whole one: 1000000, 50M, 1G")
    return amount


def at_least_amount(least: int, reason: str, unit: str = "") -> AfterValidator:
    """Bound for ``Bytes``, with the unit ``B``, and for ``Count``, without one."""

    def check(value: int) -> int:
        if value < least:
            raise ValueError(f"is less than {format_amount(least)}{unit}, {reason}")
        return value

    return AfterValidator(check)


def format_amount(amount: int) -> str:
    """The shortest notation that is exact: ``10G``, ``1500``."""
    for prefix in reversed(_DECIMAL):
        if amount and amount % _DECIMAL[prefix] == 0:
            return f"{amount // _DECIMAL[prefix]}{prefix}"
    return str(amount)


Bytes = Annotated[int, BeforeValidator(parse_bytes)]
"""Bytes, written with a unit."""

Count = Annotated[int, BeforeValidator(parse_count)]
"""A number of things, written out or with k, M, G."""
