"""Two real gateways, and a browser beside one of them: an outage of keys, and one of the daemon, as people see them."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.daemon.kmes import READY, URL, Kmes
from tests.daemon.lab import Gateway
from tests.support.chromium import Page, chromium, needs_chromium
from tests.support.netns import Namespace, stop, two_hosts

pytestmark = [pytest.mark.root, needs_chromium, pytest.mark.timeout(300)]
CARD = "(document.querySelector('.cards > li')?.innerText ?? '')"
LINK = "document.documentElement.className"


def gateways(directory: Path, left: Namespace, right: Namespace) -> tuple[Gateway, Gateway]:
    alice, bob = Gateway(directory, left, "alice", "10.77.0.1"), Gateway(directory, right, "bob", "10.77.0.2")
    for one, other, address, where in ((alice, bob, "10.77.0.2", "10.99.0.2"), (bob, alice, "10.77.0.1", "10.99.0.1")):
        one.source("metro", URL)
        one.peer(
            other.name, address, where, {"max_age": "6s", "sources": {"metro": {"peer_sae_id": f"sae-{other.name}"}}}
        )
        one.config["peers"][0]["rekey"] = {"interval": "2s"}
    alice.config["page"] = {}
    return alice, bob


def protected(page: Page) -> None:
    page.wait(f"{CARD}.includes('QKD and post-quantum') && {LINK} === 'live'", "bob is protected", READY)


def silent(page: Page) -> None:
    """Nobody answers, and nothing of before stands there as present."""
    page.wait(f"{LINK} === 'stale'", "it says that nobody answers", READY)
    said = page.text("main")
    assert "What holds now is not known." in said
    assert "Not known: the daemon does not answer" in said
    assert "is protected" not in said


def test_outages_of_keys_and_of_the_daemon_are_seen_as_they_happen(tmp_path: Path) -> None:
    with two_hosts() as (left, right):
        kmes = Kmes(tmp_path, (left, right))
        kmes.start()
        alice, bob = gateways(tmp_path, left, right)
        alice.start()
        bob.start()
        try:
            alice.ready().protected("bob")
            assert json.loads(alice.ask("status", "--json")[1])["node"]["page"] == "http://127.0.0.1:9587/"
            with chromium(["ip", "netns", "exec", left.name]) as browser:
                page = browser.page()
                page.look(1200)
                page.goto("http://127.0.0.1:9587/")
                protected(page)
                page.wait(f"{CARD}.includes('rekeys in the last hour')", "rekeys are counted")
                before = page.text("#link")
                page.wait(f"document.querySelector('#link').innerText !== '{before}'", "time goes by")

                kmes.each[0].stop()
                page.wait(f"{CARD}.includes('Not protected as policy asks')", "bob is not protected", READY)
                page.wait(f"{CARD}.includes('Blocked, no traffic passes')", "and blocked", READY)
                assert "1 of 1 tunnel not protected" in page.text("#verdict")
                page.wait("document.querySelector('#sources').innerText.includes('Fails')", "the source is blamed")
                page.wait("document.querySelector('#events').innerText.includes('Key source metro fails')", "so it is")
                assert alice.status("bob")[1]["protection"] == "blocked"
                kmes.each[0].start()
                protected(page)

                assert alice.process is not None
                os.kill(alice.process.pid, signal.SIGSTOP)
                silent(page)
                os.kill(alice.process.pid, signal.SIGCONT)
                protected(page)

                alice.process.kill()
                silent(page)
                alice.process.wait(10)
                alice.start()
                protected(page)
                assert alice.end() == 0
                silent(page)
                refused = ("Failed to load resource", "ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE")
                assert [one for one in page.complaints() if not any(word in one for word in refused)] == []
        finally:
            for gateway in (alice, bob):
                if gateway.process is not None and gateway.process.poll() is None:
                    stop(gateway.process)
