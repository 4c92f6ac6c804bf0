"""kme-a and kme-b, ``qtunnel kme serve``, each in the namespace of its site."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from qtunnel.kme.pki import DEFAULT_SAES, KmeName, create_pki
from tests.support.netns import Namespace, stop, wait_until

CONFIGS = Path(__file__).parents[2] / "configs"
QTUNNEL = [sys.executable, "-m", "qtunnel"]
READY = 40.0
"""Seconds for a daemon or a first epoch on a machine that does other things too."""
NAMES = ("kme-a", "kme-b")
URL = "https://127.0.0.1:8443"
"""Where each serves, in its own namespace."""


class Kme:
    """One of them, as in configs/. more: further lines of its configuration; saes: further ones, with ``local`` or
    ``partner``."""

    def __init__(
        self, directory: Path, name: str, host: Namespace, more: str = "", saes: Sequence[tuple[str, str]] = ()
    ) -> None:
        self.name, self._host = name, host
        self._file, self._log = directory / f"{name}.yaml", directory / f"{name}.log"
        self._since = 0
        self.process: subprocess.Popen[str] | None = None
        entries = "".join(f"  - {{sae_id: {sae}, kme: {where}}}\n" for sae, where in saes)
        text = (CONFIGS / f"{name}.yaml").read_text().replace("saes:\n", f"saes:\n{entries}", 1)
        self._file.write_text(f"{text}\n{more}\n")
        self._log.touch()

    def start(self) -> None:
        self._since = self._log.stat().st_size
        with self._log.open("a") as log:
            self.process = self._host.start(*QTUNNEL, "kme", "serve", str(self._file), stdout=log, stderr=log)

    def ready(self) -> None:
        wait_until(lambda: "kme.ready" in self._log.read_text()[self._since :], f"{self.name} serves", READY)

    def stop(self) -> None:
        if self.process is not None:
            stop(self.process)
            self.process = None


class Kmes:
    """Both. saes: further ones, of alice's site and of bob's. addresses: for which they are certified, too."""

    def __init__(
        self, directory: Path, hosts: Sequence[Namespace], more: str = "",
        saes: tuple[Sequence[str], Sequence[str]] = ((), ()), addresses: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        names = [*DEFAULT_SAES, *saes[0], *saes[1]]
        create_pki(
            directory / "pki", now=datetime.now(UTC), kmes=[KmeName(name, addresses) for name in NAMES], saes=names
        )  # fmt: skip
        self.each = []
        for here, (name, host) in enumerate(zip(NAMES, hosts, strict=True)):
            known = [(sae, "local") for sae in saes[here]] + [(sae, "partner") for sae in saes[1 - here]]
            self.each.append(Kme(directory, name, host, more, known))

    def start(self) -> None:
        """And wait until they serve."""
        for kme in self.each:
            kme.start()
        for kme in self.each:
            kme.ready()

    def stop(self) -> None:
        for kme in self.each:
            kme.stop()
