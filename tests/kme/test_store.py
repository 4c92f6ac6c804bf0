"""The key store and the supply, against a model and at their edges."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.kme.api import ApiError, DeliveredKey
from qtunnel.kme.store import KeyStore, Supply
from qtunnel.secret import Secret


def key(name: str, value: bytes = b"k" * 32) -> DeliveredKey:
    return DeliveredKey(name, Secret(value))


@contextlib.contextmanager
def refused(status: int) -> Iterator[None]:
    with pytest.raises(ApiError) as caught:
        yield
    assert caught.value.status == status


def test_a_key_is_handed_out_once() -> None:
    store = KeyStore(max_count=10, ttl=60)
    store.put([key("1", b"first")], master="m", slaves=["s"], now=0)
    (taken,) = store.take(["1"], master="m", slave="s", now=1)
    assert bytes(taken.key.reveal()) == b"first"
    with refused(400):
        store.take(["1"], master="m", slave="s", now=1)


def test_each_slave_gets_its_own_copy_once() -> None:
    store = KeyStore(max_count=10, ttl=60)
    store.put([key("1")], master="m", slaves=["s", "t"], now=0)
    (first,) = store.take(["1"], master="m", slave="s", now=0)
    first.key.wipe()
    with refused(400):
        store.take(["1"], master="m", slave="s", now=0)
    (second,) = store.take(["1"], master="m", slave="t", now=0)
    assert bytes(second.key.reveal()) == b"k" * 32
    assert len(store) == 0


def test_all_or_nothing() -> None:
    store = KeyStore(max_count=10, ttl=60)
    store.put([key("1")], master="m", slaves=["s"], now=0)
    with pytest.raises(ApiError) as caught:
        store.take(["1", "2"], master="m", slave="s", now=0)
    assert caught.value.details == {"key_IDs": ["2"]}
    assert len(store.take(["1"], master="m", slave="s", now=0)) == 1


def test_only_the_right_parties_get_it() -> None:
    store = KeyStore(max_count=10, ttl=60)
    store.put([key("1")], master="m", slaves=["s"], now=0)
    with refused(401):
        store.take(["1"], master="m", slave="other", now=0)
    with refused(400):
        store.take(["1"], master="other", slave="s", now=0)
    assert len(store) == 1


def test_a_key_expires_at_its_end_and_is_wiped() -> None:
    store = KeyStore(max_count=10, ttl=60)
    store.put([key("1"), key("2")], master="m", slaves=["s"], now=0)
    assert len(store.take(["1"], master="m", slave="s", now=59.9)) == 1
    with refused(400):
        store.take(["2"], master="m", slave="s", now=60)
    assert len(store) == 0


def test_repeated_put_is_passed_over_and_a_changed_one_refused() -> None:
    store = KeyStore(max_count=1, ttl=60)
    store.put([key("1")], master="m", slaves=["s"], now=0)
    store.put([key("1")], master="m", slaves=["s"], now=0)
    with refused(400):
        store.put([key("1", b"x" * 32)], master="m", slaves=["s"], now=0)
    assert len(store) == 1


def test_a_full_store_takes_nothing_of_a_batch() -> None:
    store = KeyStore(max_count=2, ttl=60)
    store.put([key("1")], master="m", slaves=["s"], now=0)
    with refused(503):
        store.put([key("2"), key("3")], master="m", slaves=["s"], now=1)
    assert len(store) == 1
    store.put([key("2"), key("3")], master="m", slaves=["s"], now=60)


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "take"]), st.integers(0, 5), st.sampled_from("st"), st.integers(0, 20)),
        max_size=40,
    )
)
def test_against_a_model(steps: list[tuple[str, int, str, int]]) -> None:
    store, now = KeyStore(max_count=4, ttl=30), 0
    model: dict[str, tuple[set[str], int]] = {}
    for action, number, slave, pause in steps:
        now += pause
        model = {name: (pending, end) for name, (pending, end) in model.items() if end > now}
        name = str(number)
        if action == "put":
            fits = name in model or len(model) < 4
            with contextlib.nullcontext() if fits else refused(503):
                store.put([key(name)], master="m", slaves=["s", "t"], now=now)
            if fits and name not in model:
                model[name] = ({"s", "t"}, now + 30)
        else:
            expected = name in model and slave in model[name][0]
            with contextlib.nullcontext() if expected else refused(400):
                store.take([name], master="m", slave=slave, now=now)
            if expected:
                model[name][0].discard(slave)
                if not model[name][0]:
                    del model[name]
        assert len(store) == len(model)


def test_supply_refills_at_its_rate_up_to_its_capacity() -> None:
    supply = Supply(rate=10, capacity=256, now=0)
    assert supply.draw(256, 0)
    assert not supply.draw(8, 0)
    assert supply.available(1) == 10
    assert supply.draw(8, 1)
    assert supply.available(1000) == 256


def test_supply_returns_what_reached_nobody_and_never_overflows() -> None:
    supply = Supply(rate=1, capacity=100, now=0)
    assert supply.draw(60, 0)
    supply.give_back(60)
    supply.give_back(60)
    assert supply.available(0) == 100


def test_an_unlimited_supply_never_ends() -> None:
    supply = Supply(rate=None, capacity=256, now=0)
    assert all(supply.draw(1 << 20, 0) for _ in range(100))
    assert supply.available(0) == 256
