"""The suites: which KEM and which AEAD. Fixed per peer in the configuration, never negotiated."""

from __future__ import annotations

from dataclasses import dataclass

from qtunnel.crypto.aead import AES_256_GCM, CHACHA20_POLY1305, Aead
from qtunnel.crypto.kem import ML_KEM_768, ML_KEM_1024, Kem
from qtunnel.crypto.noise import NoiseSuite


@dataclass(frozen=True, slots=True)
class Suite:
    """One suite; ``id`` is its number on the wire."""

    id: int
    kem: Kem
    aead: Aead

    @property
    def name(self) -> str:
        """For people: ``ml-kem-1024+chacha20-poly1305``."""
        return f"{self.kem.name}+{self.aead.name}"

    @property
    def protocol_name(self) -> bytes:
        """What the handshake's first hash is made of."""
        return f"QTunnel_IKpsk2+pqIK_25519+{self.kem.noise_name}_{self.aead.noise_name}_SHA512".encode()

    @property
    def noise(self) -> NoiseSuite:
        return NoiseSuite("sha512", 64, self.aead)


SUITES: dict[int, Suite] = {
    suite.id: suite
    for suite in (
        Suite(1, ML_KEM_1024, CHACHA20_POLY1305),
        Suite(2, ML_KEM_1024, AES_256_GCM),
        Suite(3, ML_KEM_768, CHACHA20_POLY1305),
        Suite(4, ML_KEM_768, AES_256_GCM),
    )
}


def find_suite(kem: str, aead: str) -> Suite:
    """The suite of a KEM and an AEAD, by the names the configuration uses; raises ``KeyError``."""
    for suite in SUITES.values():
        if (suite.kem.name, suite.aead.name) == (kem, aead):
            return suite
    raise KeyError(f"no suite of {kem} and {aead}")
