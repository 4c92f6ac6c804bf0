"""What is said of an exchange of ours that came to nothing."""

from __future__ import annotations

from qtunnel.handshake.messages import Answer, Verdict

NO_ANSWER = (
    "the peer is down or unreachable, does not know this gateway's identity, or the public file here is not the peer's"
)
"""A responder is silent to everybody whom it does not know, so these look the same from here."""


def sentence(answer: Answer) -> str:
    """Why the peer refused, or gave less than our policy requires, in words."""
    words = answer.verdict.words if answer.verdict is not Verdict.ACCEPTED else Verdict.QKD_REQUIRED.words
    return f"{words}; the peer says: {answer.detail}" if answer.detail else words
