"""The first plan of many that breaks a rule, and which: quick, for nothing is made smaller. Those that broke one once
(test_found.py) come first, as the suite has them too."""

from __future__ import annotations

import sys

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.rekey.model.plan import Plan, plans
from tests.rekey.model.run import run
from tests.rekey.model.test_found import FOUND


class _FoundError(BaseException):
    """Not an ``Exception``, which hypothesis would try to make again."""


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"


def hunt(runs: int) -> str | None:
    """What went wrong, in a line; None where nothing did."""
    done = 0
    for what, plan in FOUND.items():
        try:
            run(plan)
        except Exception as error:
            return f"again {what!r}: {_first_line(error)}"

    @seed(0)
    @settings(
        max_examples=runs, database=None, deadline=None, derandomize=False,
        suppress_health_check=list(HealthCheck), phases=(Phase.generate,),
    )  # fmt: skip
    @given(plans())
    def each(plan: Plan) -> None:
        nonlocal done
        done += 1
        try:
            run(plan)
        except Exception as error:
            if "-v" in sys.argv:
                print(plan)
            raise _FoundError(f"plan {done}: {_first_line(error)}") from None

    try:
        each()
    except _FoundError as error:
        return str(error)
    return None


if __name__ == "__main__":
    verdict = hunt(int(sys.argv[1]))
    print(verdict or "every rule held")
    sys.exit(verdict is not None)
