"""The page in a browser: what people see, read and hear, who can read it, and what it says when nobody answers."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from qtunnel.control.messages import Status
from tests.page.sample import Site, site, status, well
from tests.page.test_guard import TOKEN
from tests.support.chromium import Chromium, Page, chromium, needs_chromium

AXE = next(iter((Path(__file__).parents[2] / ".tools" / "axe").glob("axe-*.min.js")), None)
VERDICT = "document.querySelector('#verdict').innerText"
pytestmark = [needs_chromium, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    with chromium() as its:
        yield its


@pytest.fixture
def its() -> Iterator[Site]:
    with site() as its:
        yield its


def opened(browser: Chromium, its: Site, width: int = 1200, *, dark: bool = False) -> Page:
    """The page, with something in it."""
    page = browser.page()
    page.look(width, dark=dark)
    page.goto(f"http://127.0.0.1:{its.server.port}/")
    page.wait("document.querySelector('.hour .strip') && document.querySelector('.line .graph')", "the page is full")
    return page


def cards(page: Page) -> dict[str, str]:
    """What stands in each tunnel's card."""
    both = "[card.querySelector('h3').innerText, card.innerText]"
    return dict(page.evaluate(f"[...document.querySelectorAll('.cards > li')].map((card) => {both})"))


def found_by_axe(page: Page) -> list[str]:
    assert AXE is not None
    page.evaluate(AXE.read_text() + ";0")
    # what WCAG 2.2 asks for at levels A and AA, and what is good practice
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    options = json.dumps({"runOnly": {"type": "tag", "values": tags}, "resultTypes": ["violations"]})
    said = "[its.impact, its.id, its.nodes.length, its.nodes[0].html]"
    script = f"axe.run(document, {options}).then((done) => done.violations.map((its) => {said}))"
    return [str(one) for one in page.evaluate(script)]


@pytest.mark.skipif(AXE is None, reason="axe-core is not there: make test gets it")
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (1200, True), (360, False), (360, True)])
def test_everybody_can_read_it(browser: Chromium, its: Site, width: int, dark: bool) -> None:
    page = opened(browser, its, width, dark=dark)
    page.evaluate("document.querySelector('details').open = true")
    assert found_by_axe(page) == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it has to be moved sideways"
    dark_ground = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 19, 23)"
    assert dark_ground is dark
    assert page.complaints() == []
    if dark is (width == 1200):
        return  # the other two stand for all, as it takes some seconds until nobody answers
    its.hang = True
    page.wait("document.querySelector('.alarm')", "it says that nobody answers")
    assert found_by_axe(page) == []
    assert page.complaints() == []


@pytest.mark.skipif(AXE is None, reason="axe-core is not there: make test gets it")
def test_axe_finds_what_is_wrong(browser: Chromium, its: Site) -> None:
    page = opened(browser, its)
    page.evaluate("document.querySelector('#verdict').append(document.createElement('button'))")
    assert "button-name" in str(found_by_axe(page))


def test_protection_is_said_in_words_and_drawn_by_form(browser: Chromium, its: Site) -> None:
    page = opened(browser, its)
    said = cards(page)
    assert "QKD and post-quantum" in said["bob"]
    assert "Protected, without QKD" in said["carol"]
    assert "Not protected as policy asks" in said["dresden"]
    assert "not post-quantum" in said["phone"]
    assert "1 of 3 tunnels not protected" in page.text("#verdict")
    assert page.evaluate("document.title") == "! alice – qtunnel"
    label = page.evaluate("document.querySelector('svg.picture').getAttribute('aria-label')")
    assert "bob QKD and post-quantum; carol post-quantum only, no QKD key; dresden blocked" in label
    form = "[its.getAttribute('class'), getComputedStyle(its).strokeDasharray]"
    dashes = dict(page.evaluate(f"[...document.querySelectorAll('.pipe')].map((its) => {form})"))
    assert len({dashes[f"pipe {kind}"] for kind in ("good", "warn", "bad", "unknown")}) == 4, (
        "colour alone tells them apart"
    )
    assert "11.0 %" in page.text("#sources")
    assert "is not known while it fails" in page.text("#sources")
    assert page.complaints() == []


def test_a_change_is_seen_and_heard_within_moments(browser: Chromium, its: Site) -> None:
    page = opened(browser, its)
    its.status = well
    page.wait(
        "document.querySelector('#verdict').innerText.includes('All 3 tunnels are protected')", "the change is there"
    )
    assert "dresden: Protected" in page.text("#said")
    assert "QKD and post-quantum" in cards(page)["dresden"]


def test_what_is_unfolded_and_focused_stays_so(browser: Chromium, its: Site) -> None:
    page = opened(browser, its)
    page.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.press("Enter")
    page.wait("document.activeElement.id === 'tunnels'", "the tunnels have the focus")
    page.press("Tab")
    page.wait("document.activeElement.localName === 'summary'", "the events before have the focus")
    page.press("Enter")
    page.wait("document.querySelector('details').open", "they are unfolded")
    before = page.text("#link")
    page.wait(f"document.querySelector('#link').innerText !== {json.dumps(before)}", "another second")
    assert page.evaluate("document.querySelector('details').open && document.activeElement.localName === 'summary'")


def test_an_old_state_is_never_shown_as_present(browser: Chromium, its: Site) -> None:
    its.status = well
    page = opened(browser, its)
    assert "All 3 tunnels are protected" in page.text("#verdict")
    its.hang = True
    page.wait("document.querySelector('#alarm').innerText.includes('has not answered since')", "it says so")
    assert "Not known" in page.text("#verdict")
    for name, said in cards(page).items():
        assert "Not known" in said, name
        assert "Protected" not in said, name
        assert "When the daemon last answered" in said, name
    assert not page.evaluate(
        "document.querySelectorAll('.pipe.good:not(.keys *), .badge.good, .card.good, .box.good').length"
    )
    assert page.evaluate("document.title").startswith("?")
    assert "when it was last heard of" in page.text("#sources").lower()
    its.hang = False
    page.wait(f"{VERDICT}.includes('All 3 tunnels')", "it is live again")
    assert not page.text("#alarm")


def test_a_state_that_comes_late_is_not_taken(browser: Chromium, its: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """As what waited in some buffer on its way: it is ten seconds older than what came before, when it comes."""
    page = opened(browser, its)
    seen = (
        "new MutationObserver(() => { window.seen = (window.seen ?? '') + document.documentElement.className + ' '; })"
    )
    page.evaluate(f"{seen}.observe(document.documentElement, {{ attributes: true }})")
    late = SimpleNamespace(time=lambda: time.time() - 10, monotonic=lambda: time.monotonic() - 10)
    monkeypatch.setattr("qtunnel.page.live.time", late)
    page.wait("(window.seen ?? '').includes('stale')", "it is not taken for the present")
    page.wait(f"{VERDICT}.includes('1 of 3')", "over a new connection, where nothing waits, it is")
    assert page.complaints() == []


def test_what_vendors_and_peers_say_is_text(browser: Chromium, its: Site) -> None:
    evil = "<img src=x onerror=alert(1)><script>document.title='owned'</script>"

    def said() -> Status:
        bob = status().peers[0].model_copy(update={"last_error": evil, "last_error_age_s": 1.0})
        return status(peers=[bob])

    its.status = said
    its.events.publish("source.down", None, source="metro", detail=evil)
    page = opened(browser, its)
    page.wait("document.querySelector('.cards').innerText.includes('<img src=x')", "it is shown as it is")
    assert not page.evaluate("document.querySelectorAll('main script, main img[src=x]').length")
    assert page.evaluate("document.title") == "alice – qtunnel"
    assert page.complaints() == []


def test_the_browser_itself_refuses_what_is_inline(browser: Chromium, its: Site) -> None:
    page = opened(browser, its)
    added = """new Promise((done) => {
      document.addEventListener('securitypolicyviolation', (event) => done(event.effectiveDirective));
      const script = document.createElement('script'); script.append('window.owned = 1'); document.head.append(script);
    })"""
    assert page.evaluate(added) in ("require-trusted-types-for", "script-src-elem")
    assert page.evaluate("window.owned === undefined")


def test_behind_a_proxy_that_knows_the_token(browser: Chromium) -> None:
    with site(token=TOKEN) as its:
        page = browser.page()
        page.headers(Authorization=f"Bearer {TOKEN}")
        page.goto(f"http://127.0.0.1:{its.server.port}/")
        page.wait("document.querySelector('.cards > li')", "the tunnels are there")


def test_a_page_that_is_refused_says_why(browser: Chromium, its: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qtunnel.page.live.MOST_READERS", 0)
    page = browser.page()
    page.goto(f"http://127.0.0.1:{its.server.port}/")
    page.wait("document.querySelector('#alarm').innerText.includes('look at this page already')", "it says why")
    monkeypatch.setattr("qtunnel.page.live.MOST_READERS", 32)
    page.wait("document.querySelector('.cards > li')", "the tunnels are there")
