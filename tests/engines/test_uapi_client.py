"""The UAPI client against a real socket whose other end answers what no engine would."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qtunnel.engines import uapi_client
from qtunnel.engines.device import Device, Line, mark_of_psk
from qtunnel.engines.uapi_client import UapiClient, describe_errno, encode, parse_endpoint
from qtunnel.errors import EngineError
from qtunnel.secret import Secret

KEY = bytes(range(32))
PEER = "public_key=" + KEY.hex() + "\n"


def ask(
    path: Path, answer: bytes | None, question: Callable[[UapiClient], Awaitable[object]], timeout: float = 5.0
) -> tuple[object, bytes]:
    """What ``question`` yields where the engine answers ``answer`` (``None``: never), and what it was asked."""

    async def main() -> tuple[object, bytes]:
        asked = bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.extend(await reader.readuntil(b"\n\n"))
            if answer is not None:
                writer.write(answer)
            else:
                await reader.read()  # until the other side gives up
            writer.close()

        server = await asyncio.start_unix_server(serve, path=path)
        async with server:
            return await question(UapiClient("qt0", str(path), timeout)), bytes(asked)

    return asyncio.run(main())


def get(path: Path, answer: bytes | None, timeout: float = 5.0) -> Device:
    device, _ = ask(path, answer, lambda client: client.get(), timeout)
    assert isinstance(device, Device)
    return device


def test_get_reads_every_field(tmp_path: Path) -> None:
    answer = (
        f"private_key={'aa' * 32}\nlisten_port=51820\nfwmark=7\n{PEER}preshared_key={'bb' * 32}\n"
        "protocol_version=1\nendpoint=[fe80::1%eth0]:51820\nlast_handshake_time_sec=1700000000\n"
        "last_handshake_time_nsec=500000000\ntx_bytes=12\nrx_bytes=34\npersistent_keepalive_interval=25\n"
        "allowed_ip=10.0.0.0/8\nallowed_ip=::/0\nepoch=9\nsome_new_key=x\nerrno=0\n\n"
    )
    device = get(tmp_path / "s", answer.encode())
    peer = device.peers[KEY]
    assert device.listen_port == 51820
    assert peer.endpoint == ("fe80::1%eth0", 51820)
    assert peer.last_handshake == 1700000000.5
    assert (peer.rx_bytes, peer.tx_bytes, peer.persistent_keepalive) == (34, 12, 25)
    assert peer.allowed_ips == ["10.0.0.0/8", "::/0"]
    assert peer.values["epoch"] == "9"
    assert "bb" * 32 not in repr(device)
    assert "aa" * 32 not in repr(device)


STATES = st.lists(
    st.tuples(
        st.booleans(),
        st.dictionaries(
            st.sampled_from([number.to_bytes(32, "big").hex() for number in range(5)]),
            st.tuples(st.integers(0, 3), st.sampled_from([None, "10.0.0.1:1", "[fd00::1]:2"]), st.integers(0, 2)),
        ),
    ),
    max_size=12,
)


@given(states=STATES)
def test_what_did_not_change_is_told_as_if_it_had_been_parsed_again(
    states: list[tuple[bool, dict[str, tuple[int, str | None, int]]]],
) -> None:
    unchanged = uapi_client._Unchanged()
    for port, peers in states:
        lines = ["listen_port=7"] if port else []
        for key, (received, endpoint, epoch) in peers.items():
            lines += [f"public_key={key}", *([f"endpoint={endpoint}"] if endpoint else [])]
            lines += ["last_handshake_time_sec=5", "last_handshake_time_nsec=1", f"rx_bytes={received}"]
            lines += [f"epoch={epoch}"] if epoch else []
        answer = bytearray("\n".join([*lines, "errno=0\n\n"]).encode())
        plain = uapi_client._parse_device(uapi_client._split(answer)[0])
        values, number = uapi_client._split(unchanged.shorten(answer))
        device = uapi_client._parse_device(values)
        unchanged.complete(device)
        assert (device, number) == (plain, 0)


@pytest.mark.parametrize("answer", [b"\n\n", b"public_key=1\n\n", b"listen_port=1\npublic_key=zz\nerrno=0\n\n"])
def test_a_brief_answer_out_of_the_grammar_is_refused_and_not_kept(answer: bytes) -> None:
    unchanged = uapi_client._Unchanged()
    for _ in range(2):
        with pytest.raises(ValueError, match=r"."):
            uapi_client._parse_device(uapi_client._split(unchanged.shorten(bytearray(answer)))[0])


def test_no_handshake_yet_is_none(tmp_path: Path) -> None:
    answer = f"{PEER}last_handshake_time_sec=0\nlast_handshake_time_nsec=0\nerrno=0\n\n"
    assert get(tmp_path / "s", answer.encode()).peers[KEY].last_handshake is None


@pytest.mark.parametrize(
    "answer, words",
    [
        (b"", "hung up without an answer"),
        (b"listen_port=1\n", "hung up in the middle"),
        (b"listen_port=1\n\n", "errno is missing"),
        (b"errno\n\n", "not key=value"),
        (b"<html>=1\nerrno=0\n\n", "not key=value"),
        (b"\xff=1\nerrno=0\n\n", "not key=value"),
        (b"listen_port=\xff\nerrno=0\n\n", "out of the grammar"),
        (b"listen_port=65536\nerrno=0\n\n", "not a number"),
        (b"listen_port=+5\nerrno=0\n\n", "not a number"),
        (b"errno=x\n\n", "not a number"),
        (b"errno=0\nlisten_port=1\n\n", "errno is missing"),
        (b"errno=0\n\nerrno=0\n\n", "follows the empty line"),
        (b"public_key=12\nerrno=0\n\n", "64 hex digits"),
        (PEER.encode() + b"endpoint=10.0.0.1\nerrno=0\n\n", "not an endpoint"),
        (PEER.encode() + b"rx_bytes=-1\nerrno=0\n\n", "not a number"),
        (PEER.encode() + b"last_handshake_time_nsec=1000000000\nerrno=0\n\n", "not a number"),
        (b"errno=-13\n\n", "EACCES (permission denied)"),
    ],
)
def test_answers_out_of_the_grammar_are_one_line_of_words(tmp_path: Path, answer: bytes, words: str) -> None:
    with pytest.raises(EngineError) as raised:
        get(tmp_path / "s", answer)
    assert words in str(raised.value)
    assert "qt0" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_engine_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no answer in 0\.2 s"):
        get(tmp_path / "s", None, timeout=0.2)


def test_an_answer_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uapi_client, "MAX_ANSWER", 1000)
    with pytest.raises(EngineError, match="longer than 1000 bytes"):
        get(tmp_path / "s", b"allowed_ip=::/0\n" * 100)


def test_no_socket_is_one_line(tmp_path: Path) -> None:
    client = UapiClient("qt0", str(tmp_path / "none"))
    with pytest.raises(EngineError, match="no such file"):
        asyncio.run(client.get())
    assert asyncio.run(client.answers()) is False


def test_set_sends_keys_in_hex_and_reports_errno_in_words(tmp_path: Path) -> None:
    secret = Secret(os.urandom(32))
    expected = f"set=1\npublic_key={KEY.hex()}\npreshared_key={bytes(secret.reveal()).hex()}\nepoch=7\n\n"
    lines: list[Line] = [("public_key", KEY.hex()), ("preshared_key", secret), ("epoch", 7)]
    _, asked = ask(tmp_path / "a", b"errno=0\n\n", lambda client: client.set(lines))
    assert asked.decode() == expected
    with pytest.raises(EngineError, match=r"refused: EADDRINUSE \(address already in use\)"):
        ask(tmp_path / "b", b"errno=-98\n\n", lambda client: client.set(lines))


def test_what_was_sent_is_wiped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bytearray] = []

    def kept(lines: object) -> bytearray:
        made.append(encode(lines))  # type: ignore[arg-type]  # handed through as it is
        return made[-1]

    monkeypatch.setattr(uapi_client, "encode", kept)
    ask(tmp_path / "s", b"errno=0\n\n", lambda client: client.set([("private_key", Secret(os.urandom(32)))]))
    assert made
    assert not any(made[0])


def test_a_refusal_does_not_tell_the_key(tmp_path: Path) -> None:
    secret = Secret(os.urandom(32))
    with pytest.raises(EngineError) as raised:
        ask(tmp_path / "s", b"errno=-22\n\n", lambda client: client.set([("private_key", secret)]))
    assert bytes(secret.reveal()).hex() not in str(raised.value)


def test_a_line_break_in_a_value_is_refused() -> None:
    with pytest.raises(EngineError, match="line break"):
        encode([("endpoint", "1.2.3.4:5\nprivate_key=00")])


@given(st.binary(min_size=32, max_size=32))
def test_secrets_are_encoded_as_hex_would(key: bytes) -> None:
    assert bytes(encode([("preshared_key", Secret(key))])) == f"set=1\npreshared_key={key.hex()}\n\n".encode()


@given(st.binary(max_size=300))
def test_no_answer_breaks_the_parser(answer: bytes) -> None:
    try:
        values, _ = uapi_client._split(bytearray(answer))
        uapi_client._parse_device(values)
    except ValueError:
        pass


@given(st.ip_addresses(), st.integers(0, 65535))
def test_endpoints_are_read_as_they_are_written(address: object, port: int) -> None:
    text = f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"
    assert parse_endpoint(text) == (str(address), port)


def test_errno_words() -> None:
    assert describe_errno(-22) == "EINVAL (invalid argument)"
    assert describe_errno(9999) == "error 9999"


def test_a_mark_of_a_preshared_key_is_told_where_it_is_asked_for(tmp_path: Path) -> None:
    answer = f"{PEER}preshared_key={'bb' * 32}\nerrno=0\n\n".encode()
    assert get(tmp_path / "a", answer).peers[KEY].psk_mark == b""
    values, _ = uapi_client._split(bytearray(answer), marks=True)
    assert uapi_client._parse_device(values).peers[KEY].psk_mark == mark_of_psk(b"\xbb" * 32)
    for digits in ("bb" * 31, "zz" * 32):
        with pytest.raises(ValueError, match="a preshared key that is not 64 hex digits"):
            uapi_client._split(bytearray(f"{PEER}preshared_key={digits}\nerrno=0\n\n".encode()), marks=True)


@pytest.mark.parametrize("server", [os.getppid(), None])
def test_nothing_is_sent_to_a_process_that_is_not_the_engines(tmp_path: Path, server: int | None) -> None:
    """Whatever the operation; here the one that serves the path is this process."""
    path = tmp_path / "s"
    operations: list[Callable[[UapiClient], Awaitable[object]]] = [
        lambda client: client.set([("public_key", KEY.hex()), ("preshared_key", Secret(KEY))]),
        lambda client: client.get(),
        lambda client: client.public_key(),
    ]

    async def main() -> None:
        asked = bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.extend(await reader.read())
            writer.close()

        async with await asyncio.start_unix_server(serve, path=path):
            for operation in operations:
                client = UapiClient("qt0", str(path), server=lambda: server)
                with pytest.raises(EngineError, match="nothing was sent") as refused:
                    await operation(client)
                assert f"process {os.getpid()}" in str(refused.value)
                assert client.stranger == (None if server is None else os.getpid())
        assert not asked

    asyncio.run(main())


def test_the_engines_own_process_is_answered_as_ever(tmp_path: Path) -> None:
    def question(client: UapiClient) -> Awaitable[object]:
        return UapiClient("qt0", client.path, server=os.getpid).get()

    device, _ = ask(tmp_path / "s", b"listen_port=7\nerrno=0\n\n", question)
    assert isinstance(device, Device)
    assert device.listen_port == 7


@pytest.mark.parametrize("process", [None, 17])
def test_after_no_answer_what_waits_fails_at_once_until_a_question_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: int | None
) -> None:
    serving = process
    monkeypatch.setattr(uapi_client, "_server_of", lambda connection: serving)

    async def main() -> None:
        nonlocal serving
        silent, asked = True, list[bytes]()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\n\n"))
            if silent:
                await reader.read()
            else:
                writer.write(b"errno=0\n\n")
            writer.close()

        async def refused(question: Awaitable[object], words: str) -> None:
            with pytest.raises(EngineError, match=words):
                await question

        path = tmp_path / "s"
        async with await asyncio.start_unix_server(serve, path=path):
            client = UapiClient("qt0", str(path), 0.05, server=None if process is None else lambda: serving)
            await refused(client.set([]), "no answer in")
            for _ in range(50):
                await refused(client.set([]), "nothing was sent: it did not answer what was sent before")
            await refused(client.set([], always=True), "no answer in")
            await refused(client.get(), "no answer in")
            assert asked == [b"set=1\n\n", b"set=1\n\n", b"get=1\n\n"]
            silent = False
            client.timeout = 5.0
            await refused(client.set([]), "nothing was sent")
            if process is None:
                await client.get()
            else:
                serving = process + 1  # another engine in its place is asked from the first operation on
            await client.set([])

    asyncio.run(main())
