"""What the configuration says of an ETSI GS QKD 004 source and of its peers."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, StrictInt, model_validator

from qtunnel.config.types import ConfigPath, Duration, Host, InputFile, SecretFile, Section, at_least
from qtunnel.config.urls import Etsi004Url
from qtunnel.drivers.etsi004_answers import LEAST_CHUNK, LEAST_TTL, MOST_CHUNK
from qtunnel.drivers.etsi004_terms import NULL_KSID, Qos
from qtunnel.tls import TlsFiles

KME_SHARE = 0.8
"""Of our timeout, what the KME gets as its own: so its refusal comes before we give up, and with it what was lost."""

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+")
_MIMETYPE = re.compile(r"[!-~]+/[!-~]+")


def _uri(value: str) -> str:
    if len(value) > 255 or not _URI.fullmatch(value):
        raise ValueError("not a URI of at most 255 printable ASCII characters; write qkd://alice.example.org")
    return value


def _mimetype(value: str) -> str:
    if len(value) > 255 or not _MIMETYPE.fullmatch(value):
        raise ValueError("not a MIME type; write application/json")
    return value


def _ksid(value: object) -> UUID:
    try:
        found = value if isinstance(value, UUID) else UUID(str(value).strip())
    except ValueError:
        raise ValueError("not a UUID; make one for each stream with: uuidgen") from None
    if found == NULL_KSID:
        raise ValueError("is all zeros, which asks for a new stream; leave it out for that, or make one with: uuidgen")
    return found


Uri = Annotated[str, AfterValidator(_uri)]
Ksid = Annotated[UUID, BeforeValidator(_ksid)]
Number = Annotated[StrictInt, Field(ge=0, le=2**32 - 1)]


class QosOptions(Section):
    """What stands under ``qos``: what is asked of the KME besides the chunk size (clause 6).

    The defaults ask for what one tunnel needs many times over, 10 kbit/s where 256 bits in 120 s are 2 bit/s, and leave
    the rest to the KME. timeout: what the KME may take for a call; ``None`` is 80 % of the source's own.
    """

    max_bps: Annotated[StrictInt, Field(ge=1, le=2**32 - 1)] = 10_000
    min_bps: Number = 0
    jitter: Number = 0
    priority: Number = 0
    timeout: Annotated[Duration, at_least(0.001, "the smallest that the standard can say")] | None = None
    ttl: Annotated[Duration, at_least(LEAST_TTL, "so long an exchange may take to fetch a key")] = 3600.0
    metadata_mimetype: Annotated[str, AfterValidator(_mimetype)] = "application/json"

    @model_validator(mode="after")
    def _consistent(self) -> QosOptions:
        if self.min_bps > self.max_bps:
            raise ValueError(f"min_bps is {self.min_bps}, more than max_bps, {self.max_bps}")
        if self.ttl >= 2**32:
            raise ValueError("ttl has more than 32 bits of seconds")
        return self


class Options(Section):
    """What stands under ``key_sources.<name>``.

    url: ``tls://`` with a client certificate, or ``tcp://`` to an address of this machine. check_hostname: the KME's
    certificate must be for the host of ``url``, or for ``server_hostname`` where given. kme_id: common name or DNS name
    that the KME's certificate must have. framing: how calls cross the network. chunk_size: bytes at one index.
    metadata_size: bytes of metadata that may come with a chunk. timeout: for a connection, and for each call.
    """

    url: Etsi004Url = Field(examples=["tls://127.0.0.1:25575"])
    framing: Literal["qubip"] = "qubip"
    ca: InputFile | None = Field(default=None, examples=["pki/ca.pem"])
    certificate: InputFile | None = Field(default=None, examples=["pki/sae-alice.pem"])
    private_key: SecretFile | None = Field(default=None, examples=["pki/sae-alice.key"])
    check_hostname: bool = True
    server_hostname: Host | None = None
    kme_id: str | None = Field(default=None, min_length=1, max_length=255)
    timeout: Annotated[Duration, at_least(0.1, "no KME answers that fast")] = 5.0
    chunk_size: Annotated[StrictInt, Field(ge=LEAST_CHUNK, le=MOST_CHUNK)] = 32
    metadata_size: Annotated[StrictInt, Field(ge=0, le=65_536)] = 1024
    qos: QosOptions = QosOptions()

    @model_validator(mode="after")
    def _consistent(self) -> Options:
        given = [name for name in ("ca", "certificate", "private_key") if getattr(self, name) is not None]
        if self.url.startswith("tls:") and len(given) < 3:
            missing = [name for name in ("ca", "certificate", "private_key") if name not in given]
            raise ValueError(f"tls:// needs ca, certificate and private_key; {', '.join(missing)} missing")
        tls = [*given, *(name for name in ("server_hostname", "kme_id") if getattr(self, name) is not None)]
        if self.url.startswith("tcp:") and (tls or not self.check_hostname):
            raise ValueError(
                f"tcp:// has no TLS to use {', '.join(tls) or 'check_hostname'} for; remove it, or write tls://"
            )
        if self.server_hostname is not None and not self.check_hostname:
            raise ValueError("server_hostname says what to check, and check_hostname: false says not to; remove one")
        if not self.check_hostname and self.kme_id is None:
            raise ValueError(
                "check_hostname: false needs kme_id, the common name of the KME's certificate; otherwise every server "
                "with a certificate of the CA would be taken for the KME"
            )
        if self.qos.timeout is not None and self.qos.timeout >= self.timeout:
            raise ValueError("qos.timeout must be shorter than timeout, so that the KME's refusal comes in time")
        return self

    @property
    def tls_files(self) -> TlsFiles | None:
        if self.ca is None or self.certificate is None or self.private_key is None:
            return None
        return TlsFiles(self.ca, self.certificate, self.private_key)

    @property
    def asked(self) -> Qos:
        """The QoS of OPEN_CONNECT."""
        qos = self.qos
        timeout = qos.timeout if qos.timeout is not None else KME_SHARE * self.timeout
        return Qos(
            key_chunk_size=self.chunk_size,
            max_bps=qos.max_bps,
            min_bps=qos.min_bps,
            jitter=qos.jitter,
            priority=qos.priority,
            timeout=min(round(timeout * 1000), 2**32 - 1),
            ttl=round(qos.ttl),
            metadata_mimetype=qos.metadata_mimetype,
        )


class PeerOptions(Section):
    """What stands under ``peers[].qkd.sources.<name>``: the applications at both ends, and their streams.

    source, destination: our URI and the peer's. Whoever takes keys from a stream is its source; the other end gives the
    same two, in the same order. own_uri_first: each end gives its own URI as source instead, as some KMEs want it.

    key_stream_id: of the stream that we take keys from and the peer fetches them. peer_key_stream_id: the other way
    round. Both are agreed with the peer, who has them the other way round, or both are left out: then each end lets its
    KME make a stream. index_file: where the next index of ``key_stream_id`` is kept, as that stream outlives us.
    """

    source: Uri = Field(examples=["qkd://alice"])
    destination: Uri = Field(examples=["qkd://bob"])
    own_uri_first: bool = False
    key_stream_id: Ksid | None = None
    peer_key_stream_id: Ksid | None = None
    index_file: ConfigPath | None = None

    @model_validator(mode="after")
    def _consistent(self) -> PeerOptions:
        if self.source == self.destination:
            raise ValueError("source and destination are the same; source is ours, destination the peer's")
        agreed = [self.key_stream_id, self.peer_key_stream_id, self.index_file]
        if any(agreed) and not all(agreed):
            raise ValueError(
                "key_stream_id (we take its keys, the peer fetches them), peer_key_stream_id (the other way round) and "
                "index_file belong together; give all three, or none"
            )
        if self.key_stream_id is not None and self.key_stream_id == self.peer_key_stream_id:
            raise ValueError("both streams have the same ID, so both ends would take the same keys; agree on two")
        return self

    @property
    def ends(self) -> tuple[str, str]:
        """Ours and the peer's."""
        return self.source, self.destination
