"""The guide for two real hosts does what it says: each command, in order, with what the page says comes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.guide.hosts import guide_hosts
from tests.guide.page import PAGE, blocks, same


@pytest.mark.root
@pytest.mark.timeout(600)  # some 30 s where nothing else runs
def test_the_guide_followed_to_the_letter(tmp_path: Path) -> None:
    with guide_hosts(tmp_path) as hosts:
        for block in blocks(PAGE.read_text()):
            code, said = hosts[block.host].run(block.command)
            where = f"{PAGE.name}, line {block.line}, at {block.host}"
            assert code == block.exit_code, f"{where}: exit code {code}\n{block.command}\n{said}"
            assert "Traceback" not in said, f"{where}:\n{said}"
            assert block.expected is None or same(block.expected, said), (
                f"{where}: this came of it, and the page has something else (python -m tests.guide writes it):\n{said}"
            )


def test_what_is_compared_is_more_than_nothing() -> None:
    assert same("epoch 3, age 4 s\n...\nend", "epoch 57, age 1 min 2 s\nanything\nat all\nend")
    assert not same("epoch 3, age 4 s", "epoch 57, age 1 min 2 s\nmore")
    assert not same("with bob: QKD and post-quantum", "with bob: post-quantum only")


def test_a_fence_that_names_no_host_of_the_guide_is_refused() -> None:
    (block,) = blocks("```sh alice exit=1\n# alice\nfalse\n```\n\n```text\nno\n```\n")
    assert (block.host, block.exit_code, block.expected) == ("alice", 1, "no\n")
    for wrong in ("```sh carol\n# carol\n```\n", "```sh alice\n# bob\n```\n", "```sh bob now\n# bob\n```\n"):
        with pytest.raises(ValueError, match="line 1"):
            blocks(wrong)
