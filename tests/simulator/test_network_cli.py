"""``qtunnel kme run``, ``ctl``, ``map``, ``plan`` as an operator types them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Protocol

import pytest

from qtunnel.cli.main import main
from tests.support.kme_process import kme_process


class Typed(Protocol):
    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]: ...


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Typed:
    """A command in this process, which has all modules loaded: exit code, output, errors."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["qtunnel", "kme", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return int(ended.value.code or 0), told.out, told.err

    return call


def test_a_network_runs_is_ruled_and_shown_and_ends(metro: Path, tmp_path: Path, typed: Typed) -> None:
    socket, picture = tmp_path / "network.sock", tmp_path / "map.svg"
    with kme_process("network.ready", "run", metro, "--socket", socket) as process:
        assert socket.stat().st_mode & 0o777 == 0o600
        code, out, _ = typed("ctl", "--socket", socket, "alice-hub", "distance", "80", "km")
        assert (code, out) == (0, "alice-hub: link.distance: 80 km\n")
        code, out, _ = typed("ctl", "--socket", socket, "hub-bob", "eavesdrop", "blind")
        words = r"hub-bob: link\.alarm: bright light blinds the detectors; \d+ bits thrown away, 0 keys used meanwhile"
        assert re.fullmatch(words, out.splitlines()[1])
        code, out, _ = typed("map", "--socket", socket, "--json", "--svg", picture)
        told = json.loads(out)
        assert {link["name"]: link["state"] for link in told["links"]}["hub-bob"] == "alarmed"
        assert told["pairs"][0]["paths"] == [
            {"nodes": ["alice", "spare", "bob"], "links": ["alice-spare", "spare-bob"]}
        ]
        root = ElementTree.parse(picture).getroot()
        text = " ".join("".join(one.itertext()) for one in root)
        assert all(word in text for word in ("metro", "alice", "spare", "hub-bob", "alarmed"))
        code, out, _ = typed("map", "--socket", socket)
        assert code == 0
        assert all(word in out for word in ("alice - spare - bob", "hub-bob", "alarmed", "bb84-decoy", "bright light"))
        for arguments, said in (
            (["nowhere", "cut"], "there is no link or node 'nowhere'; links: alice-hub, hub-bob,"),
            (["alice-hub", "break"], "alice-hub break: a link can be told: cut, restore, eavesdrop"),
            (["alice-hub", "cut", "now"], "alice-hub cut: a link can be told:"),
            (["alice-hub", "noise", "3"], "alice-hub noise: a percentage needs its sign; write 3%"),
            (["alice-hub", "eavesdrop", "intercept-resend", "120%"], "must be from 0% to 100%"),
            (["alice-hub", "eavesdrop", "intercept-resend", "0%"], "who intercepts nothing is nobody"),
            (["alice-hub", "distance", "0"], "a fibre has from 1 m to 20000 km"),
            (["alice-hub", "loss", "-3"], "must not be negative"),
            (["alice", "noise", "3%"], "alice noise: a node can be cut, restore"),
        ):
            code, out, err = typed("ctl", "--socket", socket, *arguments)
            assert (code, out) == (1, "")
            assert said in err
            assert err.startswith("qtunnel: ")
            assert len(err.splitlines()) == 1
        code, _, err = typed("run", metro, "--socket", socket)
        assert code == 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert not socket.exists()
    code, _, err = typed("map", "--socket", socket)
    assert code == 3
    assert err == f"qtunnel: no network: {socket} does not exist; start one with: qtunnel kme run TOPOLOGY\n"


def test_a_plan_says_who_starves_and_is_drawn(metro: Path, tmp_path: Path, typed: Typed) -> None:
    topology, tunnels, picture = tmp_path / "far.yaml", tmp_path / "tunnels.yaml", tmp_path / "plan.svg"
    topology.write_text(
        metro.read_text()
        .replace("length: 40 km", "length: 200 km")
        .replace("60 km", "200 km")
        .replace("1 Mbit", "100 kbit")
    )
    tunnels.write_text(
        "tunnels:\n  - {name: near, between: [alice, hub], interval: 2m}\n"
        "  - {name: far, between: [sae-alice, sae-bob], interval: 2m}\n"
    )
    code, out, err = typed("plan", topology, "--tunnels", tunnels, "--days", "3", "--json", "--plot", picture)
    assert (code, err) == (1, "")
    told = json.loads(out)
    near, far = told["tunnels"]
    assert not told["ok"]
    assert (near["starves"], far["starves"]) == (False, True)
    # three links of 100 kbit, and nothing comes after it at 200 km: 2 ways of 260 keys and tags, 2 minutes each
    assert far["starved"][0][0] == pytest.approx(2 * 260 * 120, rel=0.01)
    assert far["shortest_interval_s"] is None
    assert near["rekeys"] == near["rekeys_wanted"] == 3 * 720 + 1
    assert ElementTree.parse(picture).getroot().tag.endswith("svg")
    tunnels.write_text("tunnels:\n  - {name: near, between: [alice, hub], interval: 2m}\n")
    code, out, _ = typed("plan", topology, "--tunnels", tunnels, "--days", "1")
    assert code == 0
    assert "No tunnel starves in 1 d." in out
    code, _, err = typed("plan", topology, "--tunnels", tunnels, "--days", "nan")
    assert (code, err) == (2, "qtunnel: --days nan: must be above 0, such as 0.5, and 3660 at most\n")
    code, _, err = typed("plan", topology, "--tunnels", tunnels, "--days", "1", "--plot", tmp_path / "plan.docx")
    assert code == 2
    assert "name it .png, .svg or .pdf" in err
    code, _, err = typed("plan", topology, "--tunnels", tunnels, "--plot", tmp_path / "plan")
    assert (code, err.count("\n"), (tmp_path / "plan.png").exists()) == (2, 1, False)
    for command, option in ((("plan", topology, "--tunnels", tunnels), "--plot"), (("map", topology), "--svg")):
        place = tmp_path / "none" / "x.svg"
        code, _, err = typed(*command, option, place)
        assert (code, err) == (
            2,
            f"qtunnel: {option} {place}: there is no directory {place.parent}; make it, or name another\n",
        )
    tunnels.write_text("tunnels: [{name: x, between: [alice, bob], disjoint: 3}]")
    code, out, err = typed("plan", topology, "--tunnels", tunnels)
    assert (code, out) == (2, "")
    assert err == (
        f"qtunnel: {tunnels}:1:54: tunnels[0].disjoint: asks for 3 ways without a common node; the links have 2; add "
        "links, or ask for fewer\n"
    )


def test_a_file_is_shown_and_certified_without_running(metro: Path, tmp_path: Path, typed: Typed) -> None:
    code, out, _ = typed("map", metro, "--json")
    assert code == 0
    told = json.loads(out)
    assert told["time_s"] == 3600
    assert told["pairs"][0]["key_rate"] == pytest.approx(3.4656e6, rel=1e-3)
    noisy = tmp_path / "noisy.yaml"
    noisy.write_text(metro.read_text().replace("misalignment: 1%", "misalignment: 20%"))
    code, out, err = typed("map", noisy)
    assert (code, err) == (0, "")
    assert "alice-hub: QBER above the threshold" in out
    code, _, err = typed("map", metro, "--socket", tmp_path / "x.sock")
    assert (code, err.startswith("qtunnel: TOPOLOGY is a network that does not run")) == (2, True)
    code, out, _ = typed("pki", tmp_path / "made", "--topology", metro)
    assert code == 0
    assert {path.name for path in (tmp_path / "made").glob("*.pem")} == {
        "ca.pem", "kme-alice.pem", "kme-bob.pem", "sae-alice.pem", "sae-bob.pem",
    }  # fmt: skip
    code, _, err = typed("run", tmp_path / "none.yaml")
    assert code == 2
    assert "no such file" in err
    made = tmp_path / "made"
    metro.write_text(re.sub("pki: .*", f"pki: {made}", metro.read_text()))
    sign = f"sign with the same CA: qtunnel kme pki {made} --add --kme kme-bob=127.0.0.1"
    for file, how in (("kme-bob.key", f"remove {made}/kme-bob.pem, and {sign}"), ("kme-bob.pem", sign)):
        (made / file).unlink()
        code, _, err = typed("run", metro, "--socket", tmp_path / "x.sock")
        assert (code, err) == (2, f"qtunnel: {made / file}: no such file; {how}\n")
    code, _, err = typed("pki", made, "--add", "--kme", "kme-bob=127.0.0.1")
    assert (code, err) == (0, "")
    assert (made / "kme-bob.pem").exists()
    metro.write_text(re.sub("pki: .*", "pki: nowhere", metro.read_text()))
    code, _, err = typed("run", metro, "--socket", tmp_path / "x.sock")
    assert code == 2
    assert "nowhere/ca.pem: no such file; the KMEs need certificates: start with --make-pki, or make them:" in err
    assert len(err.splitlines()) == 1


def test_without_the_package_the_remedy_is_said(metro: Path, tmp_path: Path) -> None:
    """It is an extra; a None in sys.modules is what Python takes for a module that is not there."""
    code = f"import sys; sys.modules['qkd'] = None; sys.argv[1:] = ['kme', 'map', {str(metro)!r}]; " + (
        "from qtunnel.cli.main import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "pip install 'qtunnel[sim]' (or give links protocol: measured)" in done.stderr
    assert len(done.stderr.splitlines()) == 1
