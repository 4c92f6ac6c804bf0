"""Runs a target under atheris in a process of its own, bounded in time and memory, and reads what libFuzzer says of
it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.fuzz import corpora
from tests.fuzz.target import Target

MEMORY = 1024
"""MB that a target may take in all: the interpreter, the libraries and the corpus take 60 to 150, the largest buffers
of the engine some 10 more. libFuzzer looks once a second, and ends the run with a finding."""

SLACK = 120
"""Seconds for imports and the corpus before the time begins to count, on a machine that is busy with other things."""

_STATUS = re.compile(r"^#(\d+)\s+(\w+)\s+cov: (\d+) ft: (\d+) corp: (\d+)/.*?rss: (\d+)Mb", re.MULTILINE)
_DONE = re.compile(r"^Done (\d+) runs in (\d+) second", re.MULTILINE)
_SAVED = re.compile(r"Test unit written to (\S+)")
_FAILURE = re.compile(r"^(?: === Uncaught Python exception: ===|==\d+== ERROR: libFuzzer: (.*)$)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Result:
    """executions: as libFuzzer counts them. coverage: edges of the instrumented code; features: edges with how often
    they were taken. corpus: inputs that it has now; new: more than before. memory_before, memory: MB, after the corpus
    was read and at the end. outcome: ``ok`` or what went wrong; saved: the input that did it."""

    target: str
    outcome: str
    executions: int = 0
    seconds: int = 0
    coverage: int = 0
    features: int = 0
    corpus: int = 0
    new: int = 0
    memory_before: int = 0
    memory: int = 0
    saved: str = ""

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def run(name: str, target: Target, seconds: int, directory: Path) -> Result:
    """Fuzz a target for so long. directory: where its corpus goes on from run to run, and findings are saved."""
    corpus, found = directory / "corpus" / name, directory / "found"
    found.mkdir(parents=True, exist_ok=True)
    corpora.unpack(name, corpus)
    before = len(list(corpus.iterdir()))
    with tempfile.TemporaryDirectory() as scratch:
        options = [
            f"-max_total_time={seconds}", f"-timeout={target.seconds}", f"-rss_limit_mb={MEMORY}",
            f"-max_len={target.limit}", f"-artifact_prefix={found}/{name}-", "-len_control=0", "-verbosity=1",
        ]  # fmt: skip
        if target.words:
            words = Path(scratch) / "words"
            words.write_text("".join(f'"{_quoted(word)}"\n' for word in target.words))
            options.append(f"-dict={words}")
        command = [sys.executable, "-m", "tests.fuzz.worker", name, *options, str(corpus)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=seconds + target.seconds + SLACK,
                env=os.environ | {"PYTHONHASHSEED": "0"},
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            said = error.stderr.decode(errors="replace") if isinstance(error.stderr, bytes) else ""
            return _read(name, said, "did not end", before, len(list(corpus.iterdir())))
    return _read(name, done.stdout + done.stderr, "" if done.returncode == 0 else f"exit code {done.returncode}",
    before,
                 len(list(corpus.iterdir())))  # fmt: skip


def _quoted(word: bytes) -> str:
    return "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\x{byte:02x}" for byte in word)


def _read(name: str, said: str, failure: str, before: int, after: int) -> Result:
    """What libFuzzer said; failure: why it did not end well, empty where it did."""
    lines = _STATUS.findall(said) or [("0", "", "0", "0", "0", "0")]
    done, saved, wrong = _DONE.search(said), _SAVED.findall(said), _FAILURE.search(said)
    first, last = lines[0], lines[-1]
    outcome = "ok"
    if failure or not done:
        outcome = f"{failure or 'did not end'}: {' '.join(said.split())[-160:]}"
        if wrong:
            outcome = wrong[1] or said[wrong.end() :].strip().splitlines()[0]
    return Result(
        name, outcome[:200], int(done[1] if done else last[0]), int(done[2]) if done else 0, int(last[2]), int(last[3]),
        int(last[4]), max(0, after - before), int(first[5]), int(last[5]), saved[-1] if saved else "",
    )  # fmt: skip
