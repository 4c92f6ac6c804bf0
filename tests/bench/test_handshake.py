"""What a rekey costs, measured in this process, and how it is told."""

from __future__ import annotations

import json

from click.testing import CliRunner

from qtunnel.bench.handshake import CASES
from qtunnel.cli.main import cli


def test_every_case_is_measured_and_told_as_json() -> None:
    done = CliRunner().invoke(cli, ["bench", "handshake", "--rekeys", "3", "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["bench"] == "handshake"
    found = [(case["kem"], case["cipher"], case["qkd_key"], case["pairing_secret"]) for case in told["cases"]]
    assert found == [(case.suite.kem.name, case.suite.aead.name, case.qkd, case.pairing) for case in CASES]
    for case in told["cases"]:
        assert case["rekeys"] == 3
        assert case["cpu_ms"] > 0
        assert 0 < case["latency_p50_ms"] <= case["latency_p99_ms"]
        assert case["datagrams"] == (8 if case["kem"] == "ml-kem-1024" else 7)
        assert case["wire_bytes"] > 5000


def test_the_table_fits_80_columns() -> None:
    done = CliRunner().invoke(cli, ["bench", "handshake", "--rekeys", "1"], env={"COLUMNS": "80"})
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("ml-kem-1024 chacha20" in line for line in lines) == 3
    assert not any("\u2026" in line for line in lines), "nothing is cut"
