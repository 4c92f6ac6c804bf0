"""The states of the two exchanges that one peer can have under way: ours, and its own."""

from __future__ import annotations

from enum import Enum


class OutState(Enum):
    IDLE = "idle"
    FETCHING = "fetching"
    OFFERED = "offered"
    COMMITTING = "committing"


class OutEvent(Enum):
    FETCH = "due, keys missing"
    OFFER = "keys in hand"
    ACCEPTED = "accepted"
    CONFIRMED = "committed"
    FAILED = "refused or timed out"
    YIELDED = "the other end's exchange goes first"


OUT_TABLE = {
    (OutState.IDLE, OutEvent.FETCH): OutState.FETCHING,
    (OutState.IDLE, OutEvent.OFFER): OutState.OFFERED,
    (OutState.FETCHING, OutEvent.OFFER): OutState.OFFERED,
    (OutState.FETCHING, OutEvent.FAILED): OutState.IDLE,
    (OutState.FETCHING, OutEvent.YIELDED): OutState.IDLE,
    (OutState.OFFERED, OutEvent.ACCEPTED): OutState.COMMITTING,
    (OutState.OFFERED, OutEvent.FAILED): OutState.IDLE,
    (OutState.OFFERED, OutEvent.YIELDED): OutState.IDLE,
    (OutState.COMMITTING, OutEvent.CONFIRMED): OutState.IDLE,
    (OutState.COMMITTING, OutEvent.FAILED): OutState.IDLE,
    (OutState.COMMITTING, OutEvent.YIELDED): OutState.IDLE,
}


class InState(Enum):
    IDLE = "idle"
    FETCHING = "fetching"
    ANSWERED = "answered"


class InEvent(Enum):
    FETCH = "authenticated offer, keys to fetch"
    ANSWER = "keys in hand, or as many as there are"
    COMMIT = "commit"
    REFUSED = "refused"
    EXPIRED = "timed out"


IN_TABLE = {
    (InState.IDLE, InEvent.FETCH): InState.FETCHING,
    (InState.IDLE, InEvent.ANSWER): InState.ANSWERED,
    (InState.IDLE, InEvent.REFUSED): InState.IDLE,
    (InState.FETCHING, InEvent.FETCH): InState.FETCHING,
    (InState.FETCHING, InEvent.ANSWER): InState.ANSWERED,
    (InState.FETCHING, InEvent.REFUSED): InState.IDLE,
    (InState.FETCHING, InEvent.EXPIRED): InState.IDLE,
    (InState.ANSWERED, InEvent.FETCH): InState.FETCHING,
    (InState.ANSWERED, InEvent.ANSWER): InState.ANSWERED,
    (InState.ANSWERED, InEvent.COMMIT): InState.IDLE,
    (InState.ANSWERED, InEvent.REFUSED): InState.IDLE,
    (InState.ANSWERED, InEvent.EXPIRED): InState.IDLE,
}
"""A new, authenticated offer with a later timestamp takes the place of the one before at any state."""


class Outcome(Enum):
    """How an exchange of ours ended, for the schedule."""

    DONE = "done"
    FAILED = "failed"
    RETRY_NOW = "retry now"
