"""What key sources answered to one request: keys, and for those that there are not, why."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from qtunnel.daemon.source_book import SourceBook
from qtunnel.rekey.model import Fetched
from qtunnel.secret import Secret
from qtunnel.terms import KeyRef

ALARM_CAME = "an alarm came while the key was fetched"

Answer = tuple[KeyRef, Secret] | str
"""A key, or in words why there is none."""


def still_good(
    book: SourceBook, peer: str, told: Iterable[tuple[str, Answer]], doubts: Mapping[str, int]
) -> Iterator[tuple[str, Answer]]:
    """Answers by source, without the keys of those that have warned since: an alarm may have come, and gone, while
    another source or another key was waited for, and the keys in nobody's hands yet are not heard of by then.

    doubts: as ``SourceBook.doubts`` had them when the request came.
    """
    present = book.doubts(peer)
    for name, answer in told:
        if isinstance(answer, str) or present.get(name, 0) == doubts.get(name, 0):
            yield name, answer
        else:
            answer[1].wipe()
            book.lost(name, 1, f"{peer}: {ALARM_CAME}")
            yield name, f"{name}: {ALARM_CAME}"


def sorted_out(told: Iterable[tuple[str, Answer]]) -> Fetched:
    """The keys, and by source what the others said."""
    keys, failures = [], []
    for name, answer in told:
        if isinstance(answer, str):
            failures.append((name, answer))
        else:
            keys.append(answer)
    return Fetched(tuple(keys), tuple(failures))
