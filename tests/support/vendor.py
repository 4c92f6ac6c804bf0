"""A vendor's program for the driver ``exec``: a device in a directory, and the faults that the test asks it for."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from qtunnel.drivers import program
from qtunnel.errors import KeySourceError
from qtunnel.keys.source import KeyRef
from tests.support.errors import failing

PROGRAM = """#!{python} -IS
import base64, json, os, signal, sys, time

device, call, peer, bits, key_id = sys.argv[1:6]
output = sys.argv[6] if len(sys.argv) > 6 else "json"


def note(name, text):
    with open(os.path.join(device, name), "a") as file:
        file.write(text)


try:
    with open(os.path.join(device, "fault")) as file:
        fault = file.read()
except FileNotFoundError:
    fault = ""
note("calls", json.dumps(sys.argv[2:]) + "\\n")
if call == "status":
    print(json.dumps({{"healthy": True, "detail": "link up", "stored_keys": len(os.listdir(device + "/keys")),
                       "max_keys": 1000, "key_size": 256, "qber": 0.021, "key_rate": 1200}}))
    sys.exit(0)
size = int(bits) // 8
if call == "get_key":
    key_id = key_id or os.urandom(16).hex()
    key = os.urandom(size)
    if fault == "all-zero":
        key = bytes(size)
    elif fault == "low-entropy":
        key = os.urandom(4) * (size // 4)
    elif fault == "repeated-key":
        key = b"".join(bytes([(11 * i * i + 3) % 251]) for i in range(size))
    elif fault == "wrong-size":
        key = key[:-1]
    with open(device + "/keys/" + key_id, "wb") as file:
        file.write(key)
else:
    try:
        os.rename(device + "/keys/" + key_id, device + "/given/" + key_id)
    except FileNotFoundError:
        print("no key " + key_id, file=sys.stderr)
        sys.exit(66)
    with open(device + "/given/" + key_id, "rb") as file:
        key = file.read()

if output == "json":
    answer = json.dumps({{"key_ID": key_id, "key": base64.b64encode(key).decode()}}).encode()
else:
    answer = {{"hex": key.hex().encode() + b"\\n", "base64": base64.b64encode(key) + b"\\n", "raw": key}}[output]


def say(data):
    while data:
        data = data[os.write(1, data):]


if fault == "slow":
    time.sleep(600)
elif fault == "cut":
    answer = answer[: len(answer) // 2]
elif fault == "wrong-encoding":
    answer = answer.replace(base64.b64encode(key), b"***" + base64.b64encode(key))
elif fault == "huge":
    for _ in range(1000):
        say(b" " * 65536)
elif fault == "slow-loris":
    while True:
        say(b" ")
        time.sleep(0.05)
elif fault == "restart":
    say(answer[:10])
    os.kill(os.getpid(), signal.SIGKILL)
say(answer)
if fault == "leaks":
    print("key " + key.hex() + " is " + base64.b64encode(key).decode(), file=sys.stderr)
    sys.exit(3)
"""


def make_device(directory: Path) -> Path:
    """The program's path; its device is the directory ``device`` beside it."""
    program = directory / "getkey"
    program.write_text(PROGRAM.format(python=Path(sys.executable).resolve()))
    program.chmod(0o755)
    for name in ("keys", "given"):
        (directory / "device" / name).mkdir(parents=True)
    return program


def script(path: Path, text: str) -> Path:
    """A shell script that stands for a program."""
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


PEER = program.PeerOptions(peer="bob")
ALL = ["{call}", "{peer}", "{size_bits}", "{key_id}"]
KEY = bytes.fromhex("1bb2f40745a13e355c09d4516634b06bf8b3e61edd6acb340067f9e152735138")
GOOD = json.dumps({"key_ID": "k1", "key": base64.b64encode(KEY).decode()})
"""An answer with it."""


def hub_of(*command: str | Path, **options: Any) -> program.Hub:
    plain = {"command": [str(word) for word in command], "timeout": "14s", **options}
    return program.Hub("vendor", program.Options.model_validate(plain))


def of_script(directory: Path, text: str, **options: Any) -> program.Source:
    """A source whose program is that shell script."""
    return hub_of(script(directory / "getkey", text), *ALL, **options).for_peer(PEER)


async def failure(source: program.Source, call: str = "get_key") -> KeySourceError:
    """The error that a call raises."""
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "get_key": lambda: source.get_key(32),
        "get_key_by_id": lambda: source.get_key_by_id(KeyRef("vendor", "k1", 32)),
        "status": source.status,
    }
    error = await failing(calls[call])
    assert str(error).isprintable()
    return error
