"""``make formal``: every model of docs/formal, by ProVerif where it is installed and by the solver of this folder.

    python -m tests.formal [--limit SECONDS] [MODEL ...]

Each claim's result is compared with what models.toml expects. Ends with 1 where one differs or a model does not come to
an end within the limit (900 s of processor time each).
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time

from tests.formal.build import HERE, FormalModel, models
from tests.formal.claims import judge
from tests.formal.saturate import OutOfTimeError
from tests.formal.syntax import ModelError

RESULT = re.compile(r"^RESULT (?!\(but).*?(is true|is false|cannot be proved)\.$", re.MULTILINE | re.DOTALL)


def by_proverif(program: str, model: FormalModel, limit: float) -> list[bool | None]:
    """What ProVerif says of each claim; None where it cannot say."""
    done = subprocess.run(
        [program, str(HERE / f"{model.name}.pv")], capture_output=True, text=True, timeout=limit, check=False
    )
    said = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    found = [RESULT.match(line) for line in said]
    words: dict[str, bool | None] = {"is true": True, "is false": False, "cannot be proved": None}
    results = [words[one[1]] for one in found if one is not None]
    if len(results) != len(model.claims):
        raise ModelError(f"{len(results)} results for {len(model.claims)} claims: {(done.stdout + done.stderr)[-400:]}")
    return results


def compared(model: FormalModel, results: list[bool | None]) -> list[str]:
    """What is not as expected."""
    words = {True: "true", False: "false", None: "not decided"}
    return [
        f"{' '.join(claim.split())}\n      is {words[result]}, expected {words[expected]}"
        for (expected, claim), result in zip(model.claims, results, strict=True)
        if result is not expected
    ]


def run(model: FormalModel, proverif: str | None, limit: float) -> bool:
    """Says what came out of one model; False where it is not as expected."""
    good = True
    ways = ["own solver"] if proverif is None else ["ProVerif", "own solver"]
    for way in ways:
        start = time.monotonic()
        try:
            if way == "ProVerif" and proverif is not None:
                wrong = compared(model, by_proverif(proverif, model, limit))
            else:
                wrong = compared(model, [verdict.holds for verdict in judge(model.text, limit)])
        except (ModelError, OutOfTimeError, subprocess.TimeoutExpired) as error:
            wrong = [str(error)]
        good = good and not wrong
        told = f"{len(model.claims)} claims as expected" if not wrong else "NOT AS EXPECTED"
        print(f"{model.name:24} {way:10} {time.monotonic() - start:6.1f} s  {told}", flush=True)
        for line in wrong:
            print(f"    {line}", flush=True)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(prog="make formal", description="the claims about the handshake, model by model")
    parser.add_argument("--limit", type=float, default=900, help="seconds for each model")
    parser.add_argument("names", nargs="*", metavar="MODEL", help="all without one")
    asked = parser.parse_args()
    all_models = models()
    unknown = set(asked.names) - {model.name for model in all_models}
    if unknown:
        parser.error(
            f"no model {', '.join(sorted(unknown))}; there are {', '.join(model.name for model in all_models)}"
        )
    for model in all_models:
        path = HERE / f"{model.name}.pv"
        if not path.exists() or path.read_text() != model.text:
            parser.error(f"{path} is not what docs/formal/build makes: run that, and commit it")
    proverif = shutil.which("proverif")
    if proverif is None:
        print("proverif is not on PATH (opam install proverif): only the solver of tests/formal looks at the models")
    chosen = [model for model in all_models if not asked.names or model.name in asked.names]
    good = [run(model, proverif, asked.limit) for model in chosen]
    print(f"{sum(good)} of {len(good)} models are as expected")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
