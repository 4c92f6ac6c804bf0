"""Secret files, certificates and directories of a configuration."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from cryptography import x509

from qtunnel.config.credentials import handed_before
from qtunnel.config.loader import marked_paths
from qtunnel.crypto.kem import KEMS
from qtunnel.crypto.kem_set import find_kem
from qtunnel.doctor.model import Finding, Host, doubtful, good, left_open, wrong
from qtunnel.errors import ConfigError, FilePermissionError, KemUnavailableError
from qtunnel.files import check_secret_file

SOON = timedelta(days=30)
"""Before the end of a certificate: time enough to have another one made and carried to a KME."""

LEAST_FREE = 16 << 20
"""Bytes of the state's file system. The state of 1,000 peers takes 2 MB, twice while it is written anew."""

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


async def secrets(host: Host) -> AsyncIterator[Finding]:
    """Each secret file: owner and mode, and whether others may put another file in its place."""
    assert host.config is not None
    seen = set()
    for path, kind, _ in marked_paths(host.config, ()):
        if kind.kind != "secret" or path in seen:
            continue
        seen.add(path)
        try:
            check_secret_file(path)
        except (ConfigError, FilePermissionError) as error:
            text = str(error).removeprefix(f"{path}: ")
            what, _, remedy = text.partition("; ")
            yield wrong(what, remedy or "correct the path, or run this as root", str(path))
            continue
        above = path.parent.stat()
        if above.st_mode & _OTHERS_WRITE and not above.st_mode & stat.S_ISVTX:
            remedy = f"chmod go-w {path.parent}"
            yield wrong(
                f"others may replace it: {path.parent} has mode {above.st_mode & 0o7777:04o}", remedy, str(path)
            )
        elif (unit := handed_before(path)) is not None:
            yield doubtful(f"has changed since the start of {unit}, which goes on with what it was then",
                           f"systemctl restart {unit}", str(path))  # fmt: skip
        else:
            yield good("only its owner may use it", str(path))


async def certificates(host: Host) -> AsyncIterator[Finding]:
    """Every certificate in PEM that the key sources name: when it begins and ends."""
    assert host.config is not None
    seen = set()
    for name, source in host.config.key_sources.items():
        for path, kind, _ in marked_paths(source.options, ()):
            if kind.kind == "readable" and path not in seen:
                seen.add(path)
                for finding in _certificates_in(path, host):
                    yield finding
            elif kind.kind == "secret" and path.suffix in (".p12", ".pfx") and path not in seen:
                seen.add(path)
                look = f"openssl pkcs12 -in {path} -nokeys | openssl x509 -noout -dates"
                yield left_open(f"PKCS#12 of {name} is not opened here; look with: {look}", str(path))


def _certificates_in(path: Path, host: Host) -> list[Finding]:
    try:
        found = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError):
        return []  # no certificate, or one that the check of the configuration has named
    first = min(found, key=lambda its: its.not_valid_after_utc)
    begins = max(its.not_valid_before_utc for its in found)
    ends, now = first.not_valid_after_utc, host.now()
    until = f"{ends:%Y-%m-%d %H:%M} UTC"
    renew = "have another one made and put it in its place; the daemon takes it without a restart"
    if ends <= now:
        return [wrong(f"expired on {until} ({first.subject.rfc4514_string()})", renew, str(path))]
    if begins > now:
        remedy = "look at this host's clock, and at that of whoever made it"
        return [wrong(f"not valid before {begins:%Y-%m-%d %H:%M} UTC", remedy, str(path))]
    if ends - now < SOON:
        return [doubtful(f"expires on {until}, in {(ends - now).days} days", renew, str(path))]
    return [good(f"valid until {until}", str(path))]


async def directories(host: Host) -> AsyncIterator[Finding]:
    assert host.config is not None
    directory = host.config.node.state_dir
    nearest = next(place for place in (directory, *directory.parents) if place.exists())
    free = shutil.disk_usage(nearest).free
    if not os.access(nearest, os.W_OK | os.X_OK):
        yield wrong(f"nobody of this user writes in {nearest}", f"chown it, or another node.state_dir than {directory}")
    elif free < LEAST_FREE:
        yield wrong(f"{nearest} has {free >> 10} kB left", "free some space: state that cannot be written is lost")
    else:
        yield good(f"{directory}: {free >> 20} MB left")


async def kems(host: Host) -> AsyncIterator[Finding]:
    """liboqs, where a KEM of it is wanted."""
    assert host.config is not None
    wanted = {name for peer in host.config.peers for name in peer.kem if name not in KEMS}
    if not wanted:
        yield good("ML-KEM alone is wanted, which is always there")
    for name in sorted(wanted):
        try:
            find_kem(name)
        except KemUnavailableError as error:
            yield wrong(str(error), "docs/operations.md says how to get liboqs", name)
        else:
            yield good("liboqs has it", name)
