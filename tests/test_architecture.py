"""The rules of the house: import arrows, rooms without I/O, one loader of secrets, and a document that says so."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from qtunnel.cli.main import COMMANDS
from tests.architecture import (
    BASE,
    CHANCE,
    CIRCLE,
    CONSTANTS,
    DOCUMENT,
    PACKAGE,
    PURE_MODULES,
    ROOMS,
    ROOT,
    STATE_TABLES,
    Import,
    arrows,
    generated,
    imports,
    parts,
    room_of,
    sources,
    tree,
)

MOST_LINES = 420
"""A file around 400 lines asks to be split."""

IO_BUILTINS = {"open", "print", "input", "exec", "eval", "__import__", "breakpoint"}

READERS = {
    "files.py": "the loader of secret files itself",
    "cli/identity.py": "the first line of a file, to tell an identity from a public file",
    "engines/bypass.py": "the kernel's reverse path filter settings",
    "cli/main.py": "/dev/null",
    "process.py": "this process's capabilities, in /proc",
    "doctor/kernel_checks.py": "/dev/net/tun, swap devices and this process's capabilities, in /proc",
    "doctor/file_checks.py": "certificates",
    "service/install.py": "the units that it puts in place",
    "service/places.py": "the units of this package",
    "cli/kme_network.py": "a picture, which it writes",
    "config/document.py": "the configuration, which names secret files but holds none",
    "config/loader.py": "opens public files to see that they can be read",
    "config/snapshot.py": "certificates, to see whether they have changed",
    "identity.py": "public files",
    "tls.py": "certificates; the private key after check_secret_file",
    "drivers/etsi004_index.py": "the next index of an agreed key stream, which is public",
    "kme/pki.py": "certificates",
    "daemon/settings.py": "/proc/cpuinfo",
    "daemon/memory.py": "epochs and replay times",
    "auditlog/files.py": "the audit log and its heads, which hold key_IDs and no keys",
    "daemon/stores.py": "keys agreed ahead, sealed",
    "control/socket_file.py": "a directory, to lock it",
    "page/server.py": "the page's own files, which are part of the program",
    "drivers/file_make.py": "a pad, to make it",
    "drivers/file_open.py": "the directory of ledgers, to sync it",
    "engines/host.py": "/dev/net/tun",
    "engines/launch.py": "/proc, and which process an engine is",
    "engines/survivor.py": "the same, by the next daemon",
    "engines/keeper.py": "its lock",
    "engines/existing.py": "the name of the program behind a socket, in /proc",
    "netio/tun.py": "/dev/net/tun",
    "netio/background.py": "/dev/null and a pipe",
    "workers/process.py": "/dev/null",
    "manual": "the example that explains every option; pages, which it writes",
    "sandbox": "/proc, /dev/net/tun",
    "demo": "logs and pid files of its children, example configurations, /proc",
    "scenario": "files of a run and of the gallery, a setting in /proc",
    "bench": "logs of the engines, /proc, /dev/net/tun",
}
"""Which files, and rooms as a whole, open files, and why none of it is a secret that goes around ``qtunnel.files``."""

OPENING_METHODS = {"read_text", "read_bytes", "write_text", "write_bytes", "load_cert_chain"}
_MODE = re.compile(r"[rwaxbt+]{1,3}")


def names(files: set[Path] | list[Path]) -> str:
    return ", ".join(sorted(str(file) for file in files))


def loaded_by(module: str) -> set[str]:
    """The rooms that importing a module loads, directly or not."""
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.split(".")[1] for name in done.stdout.split() if name.startswith("qtunnel.")}


def pure_sources() -> list[Path]:
    found = [file for file in sources() if file.parts[0] in ROOMS and ROOMS[file.parts[0]].sans_io]
    assert len(found) > 30
    return found


def test_every_file_belongs_to_a_room() -> None:
    assert {room_of(file) for file in sources()} - {"__init__"} == set(ROOMS) | set(BASE)


def test_no_room_imports_what_the_table_does_not_allow() -> None:
    wrong = []
    for room, target, file in sorted(arrows()):
        if room in BASE:
            allowed = target in BASE[room].imports
        elif target in BASE:
            allowed = target not in ("files", "kem_files", "marks") or not ROOMS[room].sans_io
        else:
            allowed = ROOMS[room].allows(target, file)
        if not allowed:
            wrong.append(f"{room}/{file} -> {target}")
    assert wrong == []


def test_rooms_make_no_circle_but_the_one_that_is_known() -> None:
    ahead = {(room, target) for room, target, _ in arrows()}
    assert ahead >= CIRCLE
    ahead -= {min(CIRCLE)}
    left = {name for arrow in ahead for name in arrow}
    while layer := left - {room for room, target in ahead if target in left}:
        left -= layer
    assert left == set()


def test_sans_io_rooms_import_no_room_that_is_not() -> None:
    pure = {name for name, room in ROOMS.items() if room.sans_io}
    assert [(name, target) for name in pure for target in ROOMS[name].imports if target not in pure] == []
    assert {name for name in pure if ROOMS[name].imports} == {"rekey"}


def test_the_table_lists_no_arrow_that_is_not_there() -> None:
    real = {(room, target) for room, target, _ in arrows()}
    listed = {(name, target) for name, room in (BASE | ROOMS).items() for target in room.imports}
    assert listed - real == set()
    files = {(room, target, file) for room, target, file in arrows()}
    only = {(n, t, f) for n, room in ROOMS.items() for t, given in room.only.items() for f in given}
    assert only - files == set()


def test_sans_io_rooms_import_nothing_impure() -> None:
    wrong = [
        f"{file}: {one.module}"
        for file in pure_sources()
        for one in imports(file)
        if one.module.partition(".")[0] not in PURE_MODULES | CONSTANTS.keys() | {"qtunnel"}
    ]
    wrong += [
        f"{file}: {module}.{node.attr}"
        for file in pure_sources()
        for node in ast.walk(tree(file))
        for module, harmless in CONSTANTS.items()
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == module
        if node.attr not in harmless
    ]
    wrong += [
        f"{file}: from {one.module}"
        for file in pure_sources()
        for one in imports(file)
        if not set(one.names) <= CONSTANTS.get(one.module, set(one.names))
    ]
    assert wrong == []
    impure = {"asyncio", "socket", "select", "selectors", "time", "random", "os", "secrets", "threading", "subprocess",
              "pathlib", "datetime", "uuid", "tempfile", "io", "sys", "signal"}  # fmt: skip
    assert not PURE_MODULES & impure


def test_sans_io_rooms_call_no_builtin_that_does_io() -> None:
    wrong = [
        f"{file}:{node.lineno}: {node.func.id}"
        for file in pure_sources()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IO_BUILTINS
    ]
    assert wrong == []


def test_sans_io_rooms_draw_no_random_bytes() -> None:
    """They are handed in, so that a simulation and the vectors can choose them."""
    wrong = [
        f"{file}:{node.lineno}: {node.func.attr}"
        for file in [*pure_sources(), *(file for file in sources() if file.parts[0] == "crypto")]
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in CHANCE
    ]
    assert wrong == []


def test_subcommands_are_modules_of_the_command_line() -> None:
    """They are imported by name, where no arrow shows."""
    assert all(re.fullmatch(r"qtunnel\.cli\.\w+:\w+", target) for target in COMMANDS.values())


@pytest.mark.parametrize("command", ["status", "rekey", "reload", "identity"])
def test_a_client_loads_neither_daemon_nor_engine(command: str) -> None:
    """Not through other modules either."""
    assert not loaded_by(f"qtunnel.cli.{command}") & {"daemon", "engines", "netio", "wireguard", "rekey", "kme", "demo"}


def test_what_the_engine_process_loads_holds_no_key_source() -> None:
    """The process that holds the TUN knows nothing of KMEs, and the one that knows them holds no TUN."""
    assert not loaded_by("qtunnel.cli.wg") & {
        "daemon",
        "engines",
        "drivers",
        "config",
        "handshake",
        "keys",
        "rekey",
        "kme",
        "control",
    }
    assert not loaded_by("qtunnel.cli.run") & {"netio", "wireguard", "kme", "demo"}


def test_no_file_is_too_long() -> None:
    long = {file: count for file in sources() if (count := len((PACKAGE / file).read_text().splitlines())) > MOST_LINES}
    assert long == {}


def test_every_file_says_what_it_is_for() -> None:
    silent = [file for file in sources() if file.name != "__main__.py" and not ast.get_docstring(tree(file))]
    assert names(silent) in ("", "__init__.py")


def opens_a_file(node: ast.AST) -> bool:
    """Whether an expression opens or reads a file by its path."""
    if not isinstance(node, ast.Call):
        return False
    called = node.func
    if isinstance(called, ast.Name):
        return called.id == "open"
    if not isinstance(called, ast.Attribute):
        return False
    if called.attr in OPENING_METHODS:
        return True
    if called.attr != "open":
        return False
    if isinstance(called.value, ast.Name) and called.value.id in ("os", "io"):
        return True
    given = [*node.args[:1], *(word.value for word in node.keywords if word.arg == "mode")]
    modes = [argument.value for argument in given if isinstance(argument, ast.Constant)]
    return any(isinstance(mode, str) and _MODE.fullmatch(mode) for mode in modes)


def test_files_are_opened_where_it_is_known_why() -> None:
    """Secrets come through ``qtunnel.files`` alone, which checks who else could read them."""
    openers = {file for file in sources() if any(opens_a_file(node) for node in ast.walk(tree(file)))}
    assert {room_of(file) if room_of(file) in READERS else file.as_posix() for file in openers} == set(READERS)


HARMLESS = {"others_may_change", "write_all", "write_new_file"}
"""What reads no secret of ``qtunnel.files``."""


def test_secrets_are_read_by_the_one_loader() -> None:
    """Whoever takes a path of a secret file hands it to the loader; these are all, and a new one has to stand here."""
    users = {
        file.as_posix()
        for file in sources()
        for one in imports(file)
        if "files" in one.rooms and not (one.names and set(one.names) <= HARMLESS)
    }
    assert users == {
        "cli/pad.py", "config/key_file.py", "config/loader.py", "config/snapshot.py", "config/token.py",
        "doctor/file_checks.py", "drivers/file_open.py", "drivers/skip_tls.py",
        "identity.py", "kem_files.py",
        "kme/pki.py", "tls.py",
    }  # fmt: skip


def test_labels_stand_in_one_tree() -> None:
    """Every use of a key has its own label, so all of them must be in sight at once."""
    wrong = [
        f"{file}:{node.lineno}"
        for file in sources()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Constant) and isinstance(node.value, bytes) and node.value.startswith(b"qtunnel/v")
        if file != Path("crypto/kdf.py")
    ]
    assert wrong == []


def test_every_state_table_has_its_diagram() -> None:
    tables = {
        target.id
        for file in sources()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name) and target.id.endswith("_TABLE")
    }
    assert tables == set(STATE_TABLES)


def test_the_document_shows_what_the_tables_say() -> None:
    shown = parts(DOCUMENT.read_text())
    assert set(shown) == set(generated())
    for name, text in generated().items():
        assert shown[name] == text, f"{DOCUMENT.name}: {name} is out of date: make diagrams"


def test_the_document_names_every_event() -> None:
    kinds = {
        argument.value
        for file in sources()
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Call)
        for name in [getattr(node.func, "attr", getattr(node.func, "id", ""))]
        if name in ("publish", "_publish", "notice", "Notice", "_tell")
        for argument in ast.walk(ast.Tuple(node.args[:2]))
        if isinstance(argument, ast.Constant) and re.fullmatch(r"[a-z]+\.[a-z-]+", str(argument.value))
    }
    section = DOCUMENT.read_text().partition("## The event stream")[2]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert kinds == {kind for row in rows for kind in re.findall("`([^`]+)`", row)}


def test_imports_are_read_as_they_are_meant() -> None:
    file = Path("cli/x.py")
    assert Import(file, "qtunnel", ("constants", "__version__")).rooms == {"constants", "__init__"}
    assert Import(file, "qtunnel.rekey.node", ("RekeyNode",)).rooms == {"rekey"}
    assert Import(file, "asyncio").rooms == set()


DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "configs" / "README.md"])
_CODE_PATH = re.compile(
    r"(?<![\w./-])((?:qtunnel|tests|configs|docs|scripts|systemd|benchmarks)/[\w./-]*\w\.(?:py|md|yaml|json))"
)
_LINK = re.compile(r"\]\(([^)#\s]+?)(?:#[^)]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_documents_name_files_that_are_there(document: Path) -> None:
    text = document.read_text()
    named = {ROOT / path for path in _CODE_PATH.findall(text)}
    linked = {document.parent / link for link in _LINK.findall(text) if "://" not in link}
    missing = [path for path in named | linked if not path.exists()]
    assert names(missing) == ""


def _texts(directory: str) -> list[Path]:
    return [path for path in (ROOT / directory).rglob("*") if path.is_file()]


def test_the_code_names_documents_that_are_there() -> None:
    files = [*(PACKAGE / file for file in sources()), *_texts("configs"), *_texts("systemd")]
    named = {ROOT / path for file in files for path in re.findall(r"\bdocs/[\w-]+\.md", file.read_text())}
    assert len(named) > 1
    assert names({path for path in named if not path.exists()}) == ""
