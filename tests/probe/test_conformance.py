"""The embedded KME keeps to the standard, and the probe says so; and it takes no more keys than it says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qtunnel.errors import ConfigError, KmeUnreachableError
from qtunnel.probe import container
from qtunnel.probe import report as reports
from qtunnel.probe.model import Verdict
from qtunnel.probe.run import probe
from qtunnel.probe.table import CHECKS, LOOKING
from qtunnel.probe.target import find_target
from qtunnel.secret import Secret
from tests.drivers.front import Exchange
from tests.probe.site import findings, site, to, write_config
from tests.support.kme import files, kme_pair, make_pki, run

ASKING = {check.id for check in CHECKS if check.id.startswith(("enc-", "size-", "number-", "extension-"))}
NEED_PEER = {"dec-post", "dec-get", "dec-order", "dec-once"}


def test_the_embedded_pair_conforms_in_everything(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with kme_pair(pki, max_per_request=4) as pair:
            config = write_config(tmp_path, pki, "sae-alice", f"https://{pair.a.listen}")
            other = write_config(tmp_path, pki, "sae-bob", f"https://{pair.b.listen}")
            target = find_target(config, None, None, other)
            report = await probe(target, lambda keys: True, os.urandom)
        wrong = {name: found for name, found in findings(report).items() if found.verdict is not Verdict.PASS}
        assert wrong == {}
        assert [result.check for result in report.results] == list(CHECKS)
        assert report.conforms
        # One each by POST, GET, GET with size, two at once, one with an extension; six for the other end.
        assert (report.taken, report.announced) == (12, 20)

    run(test)


def test_what_the_other_end_gets_is_not_testable_without_its_configuration(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(pki, tmp_path, max_per_request=128) as where:
            report = await where.probe(peer=False)
            open_ = {name for name, found in findings(report).items() if found.verdict is Verdict.NOT_TESTABLE}
            assert open_ == {*NEED_PEER, "number-large"}
            assert report.conforms
            assert where.bob.requests == []
            assert where.given == report.taken == 6
            assert where.announced == [9]

    run(test)


def test_nothing_is_taken_before_it_was_agreed(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(pki, tmp_path) as where:
            report = await where.probe(agree=False)
            assert where.given == report.taken == report.announced == 0
            assert not [one for one in where.alice.requests if one.call == "enc_keys"]
            found = findings(report)
            assert {found[check.id].verdict for check in LOOKING} == {Verdict.PASS}
            assert found["enc-post"].seen == "no keys were to be taken"

    run(test)


def test_a_kme_of_one_small_size_is_told_with_the_option_for_it(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(pki, tmp_path, size=128, min_size=128, max_size=128) as where:
            report = await where.probe()
            found = findings(report)
            assert report.conforms
            assert found["status-sizes"].copes == "key_size: 128 at both gateways"
            assert found["enc-get-size"].verdict is Verdict.NOT_TESTABLE
            assert "128 bits" in found["enc-post"].seen

    run(test)


def test_a_kme_without_keys_is_not_said_to_deviate(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(pki, tmp_path, rate=0.001, max_count=1) as where:
            report = await where.probe()
            assert "not enough keys" in findings(report)["enc-two"].seen
            assert findings(report)["enc-two"].verdict is Verdict.NOT_TESTABLE
            assert report.conforms

    run(test)


def test_the_report_has_both_forms_and_no_key_in_either(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(pki, tmp_path) as where:
            report, target = await where.probe(), where.target()
            keys = [e["key"] for one in where.alice.requests if one.call == "enc_keys" and one.status == 200
                    for e in one.document["keys"]]  # fmt: skip
        text, told = reports.as_text(target, report), json.loads(reports.as_json(target, report))
        assert len(keys) == report.taken == told["keys"]["taken"]
        assert not any(key in text or key in json.dumps(told) for key in keys)
        assert [check["id"] for check in told["checks"]] == [check.id for check in CHECKS]
        assert all(check.title in text for check in CHECKS)
        assert text.splitlines()[-1] == "26 pass, 0 deviate, 0 not testable; 12 keys taken, of 20 at most"

    run(test)


def test_every_key_is_wiped_when_its_check_has_ended(
    pki: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Secret] = []
    held: list[int] = []

    def spied(document: Any, bits: int) -> tuple[container.Keys, container.Oddities]:
        keys, odd = container_read(document, bits)
        seen.extend(key for _, key in keys)
        held.append(sum(not key.wiped for key in seen))
        return keys, odd

    container_read = container.read
    monkeypatch.setattr(container, "read", spied)

    async def test() -> None:
        async with site(pki, tmp_path) as where:
            await where.probe()
        assert len(seen) == 18  # 12 at one end, six of them at the other as well
        assert all(key.wiped for key in seen)
        assert max(held) == 6  # three that are given out and fetched in one check

    run(test)


def test_a_request_that_gets_no_answer_is_not_sent_again(pki: Path, tmp_path: Path) -> None:
    async def hang_up(exchange: Exchange) -> None:
        await exchange.write(b"")

    async def test() -> None:
        async with site(pki, tmp_path) as where:
            where.alice.fault = to("enc_keys", hang_up)
            report = await where.probe(peer=False)
            asked = [one for one in where.alice.requests if one.call == "enc_keys"]
            assert len(asked) == len([r for r in report.results if r.check.id in ASKING])
            # The KME may have given out each of them.
            assert report.taken == report.announced

    run(test)


def test_nobody_at_the_url_is_one_line(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(pki, tmp_path) as where:
            await where.alice.stop()
            with pytest.raises(KmeUnreachableError, match=r"^https://127.0.0.1:\d+: connection refused$") as caught:
                await where.probe()
            assert caught.value.exit_code == 3
            assert "\n" not in str(caught.value)
            await where.alice.start()
            await where.bob.stop()
            with pytest.raises(KmeUnreachableError, match=where.bob.url):
                await where.probe()

    run(test)


def test_a_kme_that_refuses_our_certificate_is_one_line(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(pki, tmp_path) as where:
            foreign = tmp_path / "foreign"
            foreign.mkdir()
            other = files(make_pki(foreign), "sae-alice")
            with pytest.raises(KmeUnreachableError, match="it refused our certificate"):
                await where.probe(certificate=str(other.certificate), private_key=str(other.private_key))
            with pytest.raises(KmeUnreachableError, match="not signed by the CA that we trust"):
                await where.probe(ca=str(other.ca))
            with pytest.raises(KmeUnreachableError, match="its certificate names kme-a, localhost, not kme-x"):
                await where.probe(kme_id="kme-x")

    run(test)


def test_configurations_that_do_not_belong_together(pki: Path, tmp_path: Path) -> None:
    url = "https://127.0.0.1:8443"
    alice, bob = (write_config(tmp_path, pki, sae, url) for sae in ("sae-alice", "sae-bob"))
    assert find_target(alice, "metro", "peer", bob).slave_sae == "sae-bob"
    for source, peer, other, what in (
        ("backbone", None, None, "no key source 'backbone' with driver: etsi014; there are: metro"),
        (None, "carol", None, "no peer 'carol'"),
        (None, None, alice, "its sae_id is sae-alice, and .* has peer_sae_id: sae-bob"),
    ):
        with pytest.raises(ConfigError, match=what):
            find_target(alice, source, peer, other)


def test_configurations_that_do_not_say_whom_to_ask(pki: Path, tmp_path: Path) -> None:
    file = write_config(tmp_path, pki, "sae-alice", "https://127.0.0.1:8443")
    told = json.loads(file.read_text())
    (peer,), metro = told["peers"], told["key_sources"]["metro"]
    away = peer | {"name": "away", "allowed_ips": ["10.77.0.3/32"]}
    carol = away | {"qkd": {"sources": {"metro": {"peer_sae_id": "sae-carol"}}}}
    none = away | {"qkd": {"policy": "off"}}
    pad = {"driver": "file", "ledger": str(tmp_path / "pad")}

    def changed(name: str, **fields: object) -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(json.dumps(told | fields))
        return path

    two = changed("two", key_sources={"metro": metro, "backbone": metro})
    for path, source, asked, what in (
        (
            changed("several", peers=[peer, carol]),
            None,
            None,
            "several peers have metro; say one with --peer: away, peer",
        ),
        (changed("without", peers=[peer, none]), None, "away", "peer away has no source metro under qkd.sources"),
        (two, None, None, "several key sources; say one with --source: backbone, metro"),
        (two, "backbone", None, "no peer has the source backbone under qkd.sources"),
        (
            changed("pad", key_sources={"pad": pad}, peers=[none]),
            None,
            None,
            "no key source with driver: etsi014 in it",
        ),
    ):
        with pytest.raises(ConfigError, match=f"{path}: {what}"):
            find_target(path, source, asked, None)
    assert find_target(changed("several", peers=[peer, carol]), None, "away", None).slave_sae == "sae-carol"
    assert find_target(two, "metro", None, None).slave_sae == "sae-bob"
    bob = write_config(tmp_path, pki, "sae-bob", "https://127.0.0.1:8443")
    theirs = json.loads(bob.read_text())
    theirs["peers"][0]["qkd"]["sources"]["metro"]["peer_sae_id"] = "sae-carol"
    bob.write_text(json.dumps(theirs))
    with pytest.raises(ConfigError, match=f"{bob}: none of its peers has peer_sae_id: sae-alice at metro"):
        find_target(file, None, None, bob)
