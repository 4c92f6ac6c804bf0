"""Ways to break the core, each of which the model has to find: ``make mutants``.

Each is made in a copy of the package, which a process of its own puts under the short form of the model.
test_mutants.py holds that every one still applies to the code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
RUNS = 1000
"""Plans that each broken core is put under, besides those of test_found.py: the rarest was found by the 511th. The
suite has a fifth as many, so that it finds most of them too."""


@dataclass(frozen=True)
class Edit:
    """In that file of the package, ``old``, which stands there once, becomes ``new``."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    what: str
    edits: tuple[Edit, ...]


def mutant(what: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(what, tuple(Edit(*edit) for edit in edits))


CONTEXT, INBOUND, OUTBOUND = "rekey/context.py", "rekey/inbound.py", "rekey/outbound.py"
AHEAD, PEER, GUARD = "rekey/ahead.py", "rekey/peer.py", "rekey/protection.py"
VIEW, POLICY = "daemon/view.py", "keys/policy.py"

MUTANTS = (
    mutant(
        "an old epoch is accepted and installed",
        (INBOUND, "        if offer.epoch <= context.taken:\n", "        if False:\n"),
        (INBOUND, "        if offer.epoch <= context.taken:  #", "        if False:  #"),
        (INBOUND, "        if keys.epoch <= context.floor or keys", "        if keys"),
    ),
    mutant(
        "the initiator installs without waiting for the confirmation",
        (
            OUTBOUND,
            "        self._sealed, self._sealed_at = sealed, now.mono\n",
            "        self._sealed, self._sealed_at = sealed, now.mono\n"
            "        context.install(sealed.keys, now, handshake_now=True, chain=lambda: None)\n",
        ),
    ),
    mutant(
        "the responder installs as it answers, before the initiator has the keys",
        (
            INBOUND,
            "        self._sealed = sealed\n        self._limit",
            "        self._sealed = sealed\n"
            "        context.install(sealed.keys, now, handshake_now=False, chain=lambda: None)\n"
            "        self._limit",
        ),
    ),
    mutant(
        "the confirmation is sent although the engine refused the key",
        (INBOUND, ", confirms=sent.epoch)", ")"),
    ),
    mutant(
        "a key whose answer arrived is offered again",
        (OUTBOUND, "            self._context.ours.discard(ref)\n", "            pass\n"),
        (INBOUND, "            context.theirs.discard(ref)\n", "            pass\n"),
    ),
    mutant(
        "an answer is made before the keys are fetched",
        (INBOUND, "        if not missing:\n", "        if True:\n"),
    ),
    mutant(
        "a chain is begun anew in spite of the policy",
        (POLICY, "    if local.chain is ChainPolicy.REQUIRED and had_epochs and not chained:\n", "    if False:\n"),
        (INBOUND, "        if self._chain_missing(offer):\n", "        if False:\n"),
        (OUTBOUND, "        if context.chain_lost:\n", "        if False:\n"),
    ),
    mutant(
        "an epoch with fewer QKD keys than required is taken",
        (POLICY, "    if sources < sources_required(local, remote):\n", "    if False:\n"),
        (OUTBOUND, "        if len(refs) < sources_required(policy):\n", "        if False:\n"),
    ),
    mutant(
        "a key past max_age goes on protecting",
        (
            GUARD,
            "        self._machine.fire(GuardEvent.EXPIRED_BLOCK)\n        assert self.installed",
            "        return None\n        assert self.installed",
        ),
    ),
    mutant(
        "policy stays relaxed after QKD is back",
        (
            GUARD,
            "is Protection.QKD_PQC:\n            self._relaxed_since = None\n",
            "is Protection.QKD_PQC:\n            pass\n",
        ),
    ),
    mutant(
        "both ends stay initiators",
        (PEER, "                self._initiates = False\n", ""),
        (
            PEER,
            "self.context.schedule.overdue(now.mono)",
            "self.context.schedule.after_success(now.mono, self.context.fraction())",
        ),
    ),
    mutant(
        "nobody takes over from an initiator that is gone",
        (PEER, "self._next = self.context.schedule.overdue(now.mono)", "pass"),
    ),
    mutant(
        "the status shows the epoch asked for",
        (
            VIEW,
            "    info = view.epochs.get(stats.epoch_in_force)\n",
            "    info = view.installed\n    return info\n",
        ),
    ),
    mutant(
        "an offer leaves before its replay time is on disk",
        (OUTBOUND, "        context.remember(sent=timestamp, proposed=offer.epoch)\n", ""),
        (
            OUTBOUND,
            "        self._send(MessageType.INIT, self._initiator.message, now, ATTEMPT_LIMIT)\n",
            "        self._send(MessageType.INIT, self._initiator.message, now, ATTEMPT_LIMIT)\n"
            "        context.remember(sent=timestamp, proposed=offer.epoch)\n",
        ),
    ),
    mutant(
        "an epoch is installed before it is on disk",
        (CONTEXT, "        self.remember(epoch=self.floor, **memory)\n", ""),
        (
            CONTEXT,
            "        self.show_protection()\n\n    def heed",
            "        self.show_protection()\n"
            "        self.remember(epoch=self.floor, **memory)\n\n    def heed",
        ),
    ),
    mutant(
        "an old first message is news",
        (INBOUND, "if timestamp <= self._context.memory.seen or (", "if False and ("),
    ),
    mutant(
        "an epoch that was never confirmed is forgotten",
        (OUTBOUND, "settled = context.chain.settle(chosen)", "settled = context.chain.settle(None)"),
    ),
    mutant(
        "an exchange that lacks the chain by now is installed",
        (INBOUND, "if shortfall is not None:\n            reason, ", "if False:\n            reason, "),
    ),
    mutant(
        "nothing is sent again",
        ("rekey/timing.py", "        if now < self.next:\n", "        if True:\n"),
        ("rekey/timing.py", "        return min(self.next, self.limit)\n", "        return self.limit\n"),
    ),
    mutant(
        "both ends insist on their own offer",
        (PEER, "insists = context.higher and self.outbound", "insists = self.outbound"),
    ),
    mutant(
        "two exchanges beside each other have one epoch number",
        (INBOUND, "        context.hear_of(offer.epoch)\n", ""),
        (INBOUND, " or keys.epoch == context.chain.in_doubt:\n", ":\n"),
        (CONTEXT, "        return max(self.floor, self.chain.in_doubt)\n", "        return self.floor\n"),
    ),
    mutant(
        "a policy that was turned off in the middle of an exchange gets its keys",
        (CONTEXT, "        if self.policy.qkd is QkdPolicy.OFF and keys.keys:\n", "        if False:\n"),
        (INBOUND, "        usable = self._choose(offer)  #", "        usable = self._usable  #"),
    ),
    mutant(
        "a session of the epoch before goes on under a policy that forbids it",
        (VIEW, "    if relaxed or view.installed is None or", "    if True or"),
    ),
    mutant(
        "keys in hand outlive an alarm",
        (
            AHEAD,
            "        theirs = context.theirs.distrust(source, since)\n",
            "        theirs = list[KeyRef]()\n",
        ),
        (AHEAD, "        in_hand = [*context.ours.distrust(source, since), *theirs]\n", "        in_hand = theirs\n"),
    ),
    mutant(
        "an exchange with a key in doubt goes on at its initiator",
        (PEER, "        if self.outbound.distrust(source, self.context.good_until(source)):\n", "        if False:\n"),
    ),
    mutant(
        "an exchange with a key in doubt goes on at its responder",
        (PEER, "        if self.inbound.uses(doubted):\n", "        if False:\n"),
    ),
)  # fmt: skip


def apply(mutant: Mutant, package: Path) -> None:
    """Edit the files; raises ``ValueError`` where a place is not there, or there more than once."""
    for edit in mutant.edits:
        file = package / edit.file
        text = file.read_text()
        if text.count(edit.old) != 1:
            raise ValueError(f"{mutant.what}: {edit.file} has {text.count(edit.old)} places for {edit.old.strip()!r}")
        file.write_text(text.replace(edit.old, edit.new))


def found(mutant: Mutant, runs: int = RUNS) -> str | None:
    """Which rule the model says is broken; None where it notices nothing."""
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for part in ("qtunnel", "tests"):
            shutil.copytree(
                ROOT / part, copy / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "vectors")
            )
        shutil.copy(ROOT / "pyproject.toml", copy)
        apply(mutant, copy / "qtunnel")
        command = [sys.executable, "-m", "tests.rekey.model.hunt", str(runs)]
        environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    return (done.stdout or done.stderr or f"ended with {done.returncode}").strip().splitlines()[-1]


def main(wanted: list[str]) -> int:
    missed = 0
    for number, its in enumerate(MUTANTS, 1):
        if wanted and str(number) not in wanted:
            continue
        what = found(its)
        missed += what is None
        print(f"{number:2} {its.what}: {'NOT FOUND' if what is None else what}", flush=True)
    return missed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
