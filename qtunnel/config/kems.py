"""Which KEMs protect a peer's tunnel: one or several, and whether this host and both identities have them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator

from qtunnel.config.document import Location, Problem
from qtunnel.config.words import ProblemsError, nearest, quoted
from qtunnel.crypto.kem import KEMS
from qtunnel.crypto.kem_set import LARGEST_EPHEMERAL, find_kem
from qtunnel.errors import ConfigError, IdentityFileError, KemUnavailableError
from qtunnel.handshake.messages import check_fits
from qtunnel.handshake.suites import Suite, find_suite
from qtunnel.identity import PublicIdentity

_WEAK_HQC = "hqc-submission_2023"
"""The version of 2023-04-30, in liboqs 0.13 and 0.14, there switched off unless asked for."""

if TYPE_CHECKING:
    from qtunnel.config.model import Config, PeerConfig


def _kems(value: object) -> tuple[str, ...]:
    """A name, or a list of them."""
    if value is None:
        raise ValueError("has no value; write one after the ':', or remove the line")
    names = list(value) if isinstance(value, list | tuple) else [value]
    if not names:
        raise ValueError("is an empty list; the usual is ml-kem-1024")
    problems = []
    for index, name in enumerate(names):
        where: Location = (index,) if isinstance(value, list | tuple) else ()
        try:
            find_kem(name if isinstance(name, str) else "")
        except KemUnavailableError as error:
            guess = nearest(name, KEMS) if isinstance(name, str) else None
            said = quoted(name, ("kem",))
            hint = f" (did you mean {guess}?)" if guess else ""
            problems.append(Problem(where, f"{f'is {said}; ' if said else ''}{error}{hint}"))
    if problems:
        raise ProblemsError(problems)
    return tuple(str(name) for name in names)


Kems = Annotated[tuple[str, ...], BeforeValidator(_kems)]
"""Names of KEMs that this host has, at least one; written as a name or a list."""


def suite_of(peer: PeerConfig) -> Suite:
    """The handshake's suite for a peer; raises ``ConfigError`` for KEMs that make none."""
    suite = find_suite([find_kem(name) for name in peer.kem], peer.cipher, peer.combiner)
    check_fits(suite)
    return suite


def check_suites(config: Config) -> Iterator[Problem]:
    """KEMs that do not go together, and two suites that would be taken for one another."""
    seen: dict[int, tuple[bytes, int]] = {}
    for index, peer in enumerate(config.peers):
        try:
            suite = suite_of(peer)
        except ConfigError as error:
            yield Problem(("peers", index, "kem"), str(error))
            continue
        name, first = seen.setdefault(suite.id, (suite.protocol_name, index))
        if name != suite.protocol_name:
            yield Problem(
                ("peers", index, "kem"),
                f"has by chance the same number on the wire as that of peers[{first}]; change cipher or combiner here",
                (("peers", first, "kem"),),
            )


def check_kem_keys(
    config: Config, own: PublicIdentity | None, public: Mapping[int, PublicIdentity]
) -> Iterator[Problem]:
    """Keys that an identity lacks. own: this node's; public: those of the peers, by index, as far as they are sound."""
    for index, peer in enumerate(config.peers):
        kems = [find_kem(name) for name in peer.kem if name not in KEMS]
        if not kems:
            continue
        for whose, identity in (("node.identity", own), ("the peer's public file", public.get(index))):
            try:
                if identity is not None:
                    identity.check_kem_keys(kems)
            except IdentityFileError as error:
                yield Problem(("peers", index, "kem"), f"{whose} {error}")


def kem_doubts(peer: PeerConfig) -> Iterator[str]:
    """What of a peer's KEMs is allowed but may surprise."""
    kems = [find_kem(name) for name in peer.kem]
    for kem in kems:
        if kem.version.startswith(_WEAK_HQC):
            yield (
                f"{kem.name} in this release of liboqs is a version of HQC whose proof against chosen ciphertexts "
                "has a gap; take a newer release, or have it beside ml-kem-1024 only"
            )
        if kem.public_key_size > LARGEST_EPHEMERAL:
            yield (
                f"{kem.name} serves with static keys only: it protects as long as neither gateway's key is stolen, and "
                "no longer (forward secrecy comes from the other KEM)"
            )
