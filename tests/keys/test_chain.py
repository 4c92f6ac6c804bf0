"""The epoch chain."""

from __future__ import annotations

import pytest

from qtunnel.errors import SecretWipedError
from qtunnel.keys.chain import ChainLink, EpochChain, link
from qtunnel.secret import Secret
from tests.decoder.primitives import expand


def of(epoch: int) -> ChainLink:
    return link(epoch, Secret(bytes([epoch]) * 64), qkd=True)


def epochs(chain: EpochChain) -> list[int]:
    return [held.epoch for held in chain.links]


def test_the_last_two_committed_epochs_are_kept_and_older_ones_wiped() -> None:
    chain, links = EpochChain(), [of(epoch) for epoch in (1, 2, 3)]
    for one in links:
        chain.commit(one)
    assert epochs(chain) == [3, 2]
    with pytest.raises(SecretWipedError):
        links[0].secret.reveal()


def test_the_newest_common_link_is_chosen() -> None:
    chain = EpochChain()
    one, two = of(1), of(2)
    chain.commit(one)
    chain.commit(two)
    assert chain.choose([one.id, two.id]) == two
    assert chain.choose([one.id]) == one
    assert chain.choose([of(9).id]) is None


def test_the_same_epoch_number_with_another_secret_is_another_link() -> None:
    assert link(1, Secret(bytes(64)), qkd=True).id != of(1).id


def test_an_answer_settles_what_was_in_doubt() -> None:
    for chosen, left in ((2, [2, 1]), (1, [1])):
        chain, two = EpochChain(), of(2)
        chain.commit(of(1))
        chain.doubt(two)
        assert epochs(chain) == [2, 1]
        settled = chain.settle(of(chosen).id)
        assert epochs(chain) == left
        assert (settled is two) == (chosen == 2)
        assert two.secret.wiped == (chosen == 1)


def test_an_older_commit_leaves_a_newer_doubt_alone() -> None:
    chain, three = EpochChain(), of(3)
    chain.doubt(three)
    chain.commit(of(2))
    assert epochs(chain) == [3, 2]
    chain.commit(three)
    assert epochs(chain) == [3, 2]
    assert not three.secret.wiped


def test_wipe_forgets_all() -> None:
    chain, one = EpochChain(), of(1)
    chain.commit(one)
    chain.wipe()
    assert chain.links == []
    assert one.secret.wiped


def test_a_newer_doubt_takes_the_place_of_one_that_was_never_settled() -> None:
    chain, two, three = EpochChain(), of(2), of(3)
    assert chain.in_doubt == 0
    chain.doubt(two)
    assert chain.in_doubt == 2
    chain.doubt(three)
    assert (chain.in_doubt, epochs(chain)) == (3, [3])
    assert (two.secret.wiped, three.secret.wiped) == (True, False)


def test_nothing_in_doubt_is_nothing_to_settle() -> None:
    chain, one = EpochChain(), of(1)
    chain.commit(one)
    assert chain.settle(one.id) is None
    assert epochs(chain) == [1]
    assert not one.secret.wiped


@pytest.mark.parametrize(("epoch", "wiped"), [(2, True), (3, True), (1, False)])
def test_a_commit_of_an_epoch_as_new_ends_a_doubt_and_an_older_one_does_not(epoch: int, wiped: bool) -> None:
    chain, doubted = EpochChain(), of(2)
    chain.doubt(doubted)
    chain.commit(link(epoch, Secret(b"\xcc" * 64), qkd=True))
    assert doubted.secret.wiped == wiped
    assert chain.in_doubt == (0 if wiped else 2)


def test_wipe_forgets_what_is_in_doubt_too() -> None:
    chain, one, two = EpochChain(), of(1), of(2)
    chain.commit(one)
    chain.doubt(two)
    assert chain.secrets == {one.id: one.secret, two.id: two.secret}
    chain.wipe()
    assert (chain.links, chain.in_doubt) == ([], 0)
    assert one.secret.wiped
    assert two.secret.wiped


def test_the_name_of_a_chain_secret_is_that_of_the_document() -> None:
    """docs/protocol.md, section 4.7."""
    secret = bytes(range(64))
    assert link(0x0102030405, Secret(secret), qkd=True).id == expand(
        secret, "epoch/chain-id", b"\x00\x00\x00\x01\x02\x03\x04\x05", 16
    )
