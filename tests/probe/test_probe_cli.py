"""``qtunnel kme probe`` as it is typed."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
from pathlib import Path

import pytest

from tests.drivers.front import Exchange
from tests.probe.site import Site, site, to, write_config
from tests.support.kme import run


async def typed(*arguments: str | Path, stdin: int = asyncio.subprocess.DEVNULL) -> tuple[int, str, str]:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "qtunnel", "kme", "probe", *map(str, arguments),
        stdin=stdin, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await program.communicate()
    assert program.returncode is not None
    return program.returncode, out.decode(), err.decode()


def configs(where: Site) -> tuple[Path, Path]:
    pki, directory = where.pair.pki, where.directory
    return (
        write_config(directory, pki, "sae-alice", where.alice.url),
        write_config(directory, pki, "sae-bob", where.bob.url),
    )


async def without_message(exchange: Exchange) -> None:
    await (exchange.reply() if exchange.status == 200 else exchange.reply({}))


def test_a_kme_that_conforms_and_one_that_does_not(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(pki, tmp_path) as where:
            alice, bob = configs(where)
            code, out, err = await typed(alice, "--peer-config", bob, "--yes")
            assert (code, err) == (0, f"takes at most 20 keys of metro ({where.alice.url}) towards sae-bob\n")
            assert out.splitlines()[-1].startswith("26 pass, 0 deviate, 0 not testable; 12 keys taken")
            where.alice.fault = to("enc_keys", without_message)
            code, out, _ = await typed(alice, "--json", "--yes")
            told = json.loads(out)
            wrong = {check["id"]: check for check in told["checks"] if check["verdict"] == "deviation"}
            assert (code, told["conforms"]) == (1, False)
            assert set(wrong) == {"size-odd", "size-large", "number-large", "extension-mandatory"}
            assert wrong["size-odd"]["clause"] == "5.3, 6.2"
            assert wrong["size-odd"]["copes"].endswith("no option is needed")

    run(test)


@pytest.mark.parametrize("option", [(), ("--json",)])
def test_nobody_to_ask_is_an_error_that_says_how_many_keys(pki: Path, tmp_path: Path, option: tuple[str, ...]) -> None:
    async def test() -> None:
        async with site(pki, tmp_path) as where:
            code, out, err = await typed(configs(where)[0], *option)
            assert (code, out) == (2, "")
            assert "takes at most 14 keys of metro" in err
            assert "this needs --yes" in err
            assert where.given == 0

    run(test)


@pytest.mark.parametrize(("answer", "taken"), [("y", 6), ("n", 0)])
def test_whoever_sits_at_a_terminal_is_asked(pki: Path, tmp_path: Path, answer: str, taken: int) -> None:
    async def test() -> None:
        async with site(pki, tmp_path) as where:
            ours, its = pty.openpty()
            try:
                os.write(ours, f"{answer}\n".encode())
                code, out, err = await typed(configs(where)[0], stdin=its)
            finally:
                os.close(ours)
                os.close(its)
            assert f"takes at most 14 keys of metro ({where.alice.url}) towards sae-bob; go on? [y/N]" in err
            assert code == 0
            assert f"{taken} keys taken, of {14 if taken else 0} at most" in out
            assert where.given == taken

    run(test)


def test_no_kme_and_no_source_are_one_line(pki: Path, tmp_path: Path) -> None:
    async def test() -> None:
        async with site(pki, tmp_path) as where:
            alice, _ = configs(where)
            assert (await typed(alice, "--source", "backbone"))[::2] == (
                2, f"qtunnel: {alice}: no key source 'backbone' with driver: etsi014; there are: metro\n",
            )  # fmt: skip
            await where.alice.stop()
            assert await typed(alice, "--yes") == (3, "", f"qtunnel: {where.alice.url}: connection refused\n")

    run(test)
