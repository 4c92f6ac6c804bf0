"""What people get to see."""

from __future__ import annotations

from rich.console import Console

from qtunnel.demo.observe import Observer
from qtunnel.demo.options import DemoOptions
from qtunnel.demo.verdict import Measured, judge
from qtunnel.demo.view import Progress, in_words, live_view
from tests.demo.test_verdict import BEGAN, good, observed


def shown(observer: Observer, progress: Progress, width: int = 80) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as capture:
        console.print(live_view(DemoOptions(), observer, progress, width))
    return capture.get()


def test_the_table_shows_both_ends_on_80_columns() -> None:
    text = shown(observed(10), Progress(elapsed=10, pings_sent=1000, kmes="kme-a serves, kme-b serves", load="waiting"))
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert text.count("QKD and post-quantum") == 2
    assert text.count("6 in force, 6 installed") == 2
    assert "10 of 30 s" in text
    assert "5 in force at both ends, one every 2 s" in text
    assert "1000 sent, 0 unanswered" in text


def test_a_narrow_terminal_shows_both_ends_one_below_the_other() -> None:
    text = shown(observed(10), Progress(elapsed=10, pings_sent=1000), width=40)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 40
    assert text.index("alice") < text.index("bob")
    assert text.count("protection") == text.count("key_ID") == 2


def test_the_table_shows_what_is_wrong() -> None:
    observer = observed(10, {5.0: "blocked"})
    observer.see(BEGAN + 11, {"alice": (None, "no daemon"), "bob": (observer.sides["bob"].peer, None)})
    text = shown(observer, Progress(pings_overdue=7, kmes="kme-a serves, kme-b is stopped"))
    for words in ("does not answer", "blocked, no traffic passes", "no key", "7 unanswered", "kme-b is stopped"):
        assert words in text


def test_the_summary_in_words() -> None:
    words = in_words(judge(DemoOptions(), observed(30), good()), DemoOptions())
    assert words.startswith("OK: 30 s of traffic")
    assert "15 rekeys came into force at both ends" in words
    assert "3000 pings sent, 0 lost" in words
    assert "0.51 Gbit/s" in words
    assert "x25519, ml-kem-1024, etsi014:metro (qkd+pqc)" in words
    assert "simulated" in words
    failed = Measured(BEGAN, BEGAN, failures=["kme-a was ended"])
    words = in_words(judge(DemoOptions(), observed(1), failed), DemoOptions())
    assert "NOT OK" in words
    assert "throughput not measured" in words
    assert "Gbit/s" not in words
