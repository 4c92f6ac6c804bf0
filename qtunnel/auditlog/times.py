"""Times as the audit log has them: UTC, to the millisecond, so that the order of the text is that of time."""

from __future__ import annotations

from datetime import UTC, datetime

from qtunnel.errors import AuditError


def text_of(seconds: float) -> str:
    """Unix seconds as ``2026-01-31T14:05:00.123Z``."""
    return _text(datetime.fromtimestamp(seconds, UTC))


def _text(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"  # strftime cuts a year's zeros off


def seconds_of(text: str) -> float:
    """The Unix seconds of a record's time; raises ``ValueError``."""
    return datetime.fromisoformat(text).timestamp()


def asked(text: str) -> str:
    """A time as a person writes it (ISO 8601, UTC where it names no other offset) as records have it; raises
    ``AuditError``. The time of a whole second or minute is its beginning."""
    try:
        moment = datetime.fromisoformat(text.strip())
        return _text(moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC))
    except (ValueError, OverflowError, OSError):
        raise AuditError(
            f"--at {text!r} is no time; write 2026-01-31T14:05 (UTC), 2026-01-31T14:05:30.5Z or 2026-01-31T15:05+01:00"
        ) from None
