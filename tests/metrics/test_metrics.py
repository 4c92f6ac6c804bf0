"""Metrics: by the conventions, true to the status, and what rules and dashboard ask for is there."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from qtunnel.control.messages import (
    FAULT_KINDS,
    KeySourceStatus,
    NodeStatus,
    PeerStatus,
    PlainPeerStatus,
    ReservoirStatus,
    SourcePeerStatus,
    Status,
    UsedKey,
)
from qtunnel.daemon.source_book import DEFECT, FAULTS
from qtunnel.errors import HttpPortError
from qtunnel.events import EventStream
from qtunnel.metrics import server as module
from qtunnel.metrics.server import MetricsServer
from tests.support.promtool import needs_promtool, promtool

CONFIGS = Path(__file__).parents[2] / "configs"
RULES = CONFIGS / "prometheus" / "qtunnel.rules.yml"
DASHBOARD = CONFIGS / "grafana" / "qtunnel.json"

FULL = Status(
    node=NodeStatus(
        name="alice", fingerprint="abcd", version="0.1", uptime=100.0, engine="qtunnel", engine_pid=7, interface="qt0",
        state="up", config_error="wrong", engine_restarts=2, audit_records=77, audit_error="full",
        rejected={"mac1": 5, "replay": 1},
    ),
    peers=[
        PeerStatus(
            name="bob", protected=True, protection="qkd+pqc", policy="required", epoch_in_force=9, age_s=12.5,
            max_age_s=600.0, key_ids=[UsedKey(source="metro", key_id="k1")], chained=True, interval_s=120.0,
            last_handshake_age_s=3.0, record_mode="aes-256-gcm", rx_bytes=1000, tx_bytes=2000, rekeys_ok=8,
            rekeys_failed=3, reservoir=[ReservoirStatus(source="metro", keys=3, depth=64, held=5)],
        ),
        PeerStatus(name="carol", protected=False, protection="blocked", policy="preferred"),
    ],
    plain_peers=[PlainPeerStatus(name="phone", rx_bytes=1, tx_bytes=2)],
    key_sources=[
        KeySourceStatus(
            name="metro", description="etsi014:metro", healthy=True, state="well", stored_keys=500, max_keys=1000,
            qber=0.021, qber_limit=0.11, key_rate=2000.0, keys_used_per_day=720.0, days_left=0.5, keys_taken=40,
            keys_lost=1, faults={"timeout": 4},
            towards=[SourcePeerStatus(peer="bob", state="in quarantine", qber=0.021, alarm="Eve")],
        ),
        KeySourceStatus(name="spare", description="file:spare", healthy=False, state="in quarantine", lasts=True),
        KeySourceStatus(name="new", description="etsi014:new", healthy=None),
    ],
)  # fmt: skip

Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


class Running:
    """A server of metrics, and what it gives."""

    def __init__(self) -> None:
        self.events = EventStream()
        self.status, self.asked = FULL, 0
        self.server = MetricsServer("127.0.0.1", 0, self._status, self.events)

    async def _status(self) -> Status:
        self.asked += 1
        return self.status

    async def get(self, path: str = "/metrics", accept: str = "", method: str = "GET") -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.server.port}{path}"
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, url, headers={"Accept": accept} if accept else {}) as answer,
        ):
            return answer.status, await answer.text()


def scraped(*happened: tuple[str, dict[str, Any]], accept: str = "", status: Status = FULL) -> str:
    """What is read after these events."""

    async def run() -> str:
        its = Running()
        its.status = status
        await its.server.start()
        counting = asyncio.create_task(its.server.follow())
        await asyncio.sleep(0)
        for kind, fields in happened:
            its.events.publish(kind, "bob", **fields)
        its.events.close()
        await counting
        code, text = await its.get(accept=accept)
        await its.server.stop()
        assert code == 200
        return text

    return asyncio.run(run())


def values(text: str) -> Found:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Found, name: str, **labels: str) -> float:
    return found[f"qtunnel_{name}", tuple(sorted(labels.items()))]


@needs_promtool
def test_promtool_finds_nothing_wrong_with_the_metrics() -> None:
    promtool("check", "metrics", text=scraped(("rekey.failed", {"reason": "policy"})))


@needs_promtool
def test_promtool_finds_nothing_wrong_with_rules_and_configuration() -> None:
    promtool("check", "rules", RULES)
    promtool("check", "config", RULES.with_name("prometheus.yml"))


@needs_promtool
def test_the_rules_fire_when_they_should_and_at_no_other_time() -> None:
    promtool("test", "rules", RULES.with_name("qtunnel.tests.yml"))


def test_the_metrics_say_what_the_status_says() -> None:
    found = values(scraped())
    assert value(found, "peer_protected", peer="bob") == 1
    assert value(found, "peer_protected", peer="carol") == 0
    assert value(found, "peer_protection", peer="bob", level="qkd+pqc") == 1
    assert value(found, "peer_protection", peer="bob", level="blocked") == 0
    assert value(found, "peer_protection", peer="carol", level="blocked") == 1
    assert value(found, "peer_epoch_age_seconds", peer="bob") == 12.5
    assert value(found, "rekeys_total", peer="bob", outcome="done") == 8
    assert value(found, "rekeys_total", peer="bob", outcome="failed") == 3
    assert value(found, "reservoir_keys", peer="bob", source="metro") == 3
    assert value(found, "source_qber_ratio", source="metro") == 0.021
    assert value(found, "source_key_rate_bytes_per_second", source="metro") == 250
    assert value(found, "source_remaining_seconds", source="metro") == 43_200
    assert value(found, "source_remaining_seconds", source="spare") == float("inf")
    assert value(found, "source_up", source="spare") == 0
    assert value(found, "source_state", source="spare", state="in quarantine") == 1
    assert value(found, "source_peer_state", source="metro", peer="bob", state="in quarantine") == 1
    assert value(found, "source_peer_qber_ratio", source="metro", peer="bob") == 0.021
    assert value(found, "source_keys_lost_total", source="metro") == 1
    assert value(found, "rejected_messages_total", reason="mac1") == 5
    assert value(found, "engine_restarts_total") == 2
    assert value(found, "audit_failing") == 1
    assert value(found, "audit_records_total") == 77
    assert value(found, "config_refused") == 1


def test_each_kind_of_fault_of_a_source_has_a_series_from_the_start() -> None:
    found = values(scraped())
    for kind in FAULT_KINDS:
        assert value(found, "source_faults_total", source="metro", kind=kind) == (4 if kind == "timeout" else 0)
    assert set(FAULTS.values()) | {DEFECT} == set(FAULT_KINDS)


def test_what_is_not_known_has_no_series() -> None:
    found = values(scraped())
    names = {(name, labels) for name, labels in found}
    assert ("qtunnel_peer_epoch_age_seconds", (("peer", "carol"),)) not in names
    assert ("qtunnel_source_up", (("source", "new"),)) not in names
    assert ("qtunnel_source_qber_ratio", (("source", "spare"),)) not in names
    without = FULL.model_copy(update={"node": FULL.node.model_copy(update={"audit_records": None})})
    assert not [name for name, _ in values(scraped(status=without)) if name.startswith("qtunnel_audit")]


def test_handshakes_and_failures_are_counted_as_they_happen() -> None:
    found = values(
        scraped(
            ("rekey.done", {"role": "initiator", "seconds": 0.03}),
            ("rekey.done", {"role": "initiator", "seconds": 3.0}),
            ("rekey.failed", {"reason": "policy", "more": 4}),
            ("rekey.failed", {"reason": "no-answer"}),
        )
    )
    assert value(found, "handshake_duration_seconds_count", role="initiator") == 2
    assert value(found, "handshake_duration_seconds_bucket", role="initiator", le="0.05") == 1
    assert value(found, "handshake_duration_seconds_count", role="responder") == 0
    assert not [name for name, _ in found if name.endswith("_created")]
    assert value(found, "rekey_failures_total", reason="policy") == 5
    assert value(found, "rekey_failures_total", reason="no-answer") == 1


def test_the_open_format_is_served_to_who_asks_for_it() -> None:
    text = scraped(accept="application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    assert text.count("# EOF") == 1


def test_nothing_else_is_served() -> None:
    async def run() -> None:
        its = Running()
        await its.server.start()
        assert (await its.get("/"))[0] == 404
        assert (await its.get("/metrics", method="POST"))[0] == 405
        await its.server.stop()
        await its.server.stop()

    asyncio.run(run())


def test_a_daemon_that_does_not_answer_is_an_error_and_no_old_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SCRAPE_LIMIT", 0.05)

    async def never(its: Running) -> Status:
        await asyncio.sleep(60)
        return FULL

    monkeypatch.setattr(Running, "_status", never)

    async def run() -> None:
        its = Running()
        await its.server.start()
        assert await its.get() == (503, "busy; ask again\n")
        await its.server.stop()

    asyncio.run(run())


def test_who_asks_all_the_time_costs_a_hub_a_twentieth_of_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARE", 1e9)
    monkeypatch.setattr(module, "OLDEST", 60.0)
    slept: list[float] = []
    sleep = asyncio.sleep

    async def run() -> None:
        its = Running()
        await its.server.start()
        answers = {body for _, body in await asyncio.gather(*(its.get() for _ in range(8)))}
        assert (its.asked, len(answers)) == (1, 1)

        async def noted(seconds: float) -> None:
            slept.append(seconds)
            await sleep(0)

        monkeypatch.setattr(asyncio, "sleep", noted)
        code, _ = await its.get(accept="application/openmetrics-text; version=1.0.0")
        assert code == 200, "another format waits for its turn"
        assert max(slept) > 50.0
        assert its.asked == 2
        await its.server.stop()

    asyncio.run(run())


def test_a_port_that_is_taken_is_named() -> None:
    async def run() -> None:
        its = Running()
        await its.server.start()
        other = MetricsServer("127.0.0.1", its.server.port, its._status, its.events)
        with pytest.raises(HttpPortError, match=rf"metrics.listen: 127.0.0.1 port {its.server.port}: .*take another"):
            await other.start()
        await its.server.stop()

    asyncio.run(run())


def named(text: str) -> set[str]:
    return set(re.findall(r"\bqtunnel_[a-z_]+", text))


def queries(node: Any) -> Iterator[str]:
    """Every query of a dashboard."""
    if isinstance(node, dict):
        yield from (text for key, text in node.items() if key in ("expr", "definition") and isinstance(text, str))
        yield from (query for part in node.values() for query in queries(part))
    elif isinstance(node, list):
        yield from (query for part in node for query in queries(part))


@pytest.mark.parametrize("file", [RULES, RULES.with_name("qtunnel.tests.yml"), DASHBOARD], ids=lambda file: file.name)
def test_every_metric_that_is_asked_for_exists(file: Path) -> None:
    text = file.read_text()
    asked = named(" ".join(queries(json.loads(text)))) if file is DASHBOARD else named(text)
    there = {name for name, _ in values(scraped(("rekey.failed", {"reason": "policy"})))}
    assert asked - there == set()
    assert len(asked) > 5


def test_the_guide_lists_every_metric() -> None:
    guide = (CONFIGS.parent / "docs" / "operations.md").read_text().partition("## Metrics and alerts")[2]
    families = text_string_to_metric_families(scraped(("rekey.failed", {"reason": "policy"})))
    names = {its.name.removeprefix("qtunnel_") for its in families}
    missing = {name for name in names if f"`{name}`" not in guide and f"`{name}_total`" not in guide}
    assert {name for name in missing if not name.startswith("plain_peer_")} == set()


@needs_promtool
def test_the_dashboards_queries_are_sound(tmp_path: Path) -> None:
    """Grafana's own words in them stand for a time and for names."""
    found = [query for query in queries(json.loads(DASHBOARD.read_text())) if not query.startswith("label_values")]
    assert len(found) > 20
    groups = {"groups": [{"name": "dashboard", "rules": [
        {"record": f"query_{number}", "expr": query.replace("$__rate_interval", "5m").replace("$instance", ".*")}
        for number, query in enumerate(found)
    ]}]}  # fmt: skip
    (tmp_path / "rules.yml").write_text(json.dumps(groups))
    promtool("check", "rules", tmp_path / "rules.yml")
