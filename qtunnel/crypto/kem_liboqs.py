"""The KEMs of liboqs, by its Python binding, liboqs-python. Both are looked at before anything of them is used.

The binding downloads and builds the library by itself where its import finds none. So the library is looked for first,
just as the binding does it, and where it is missing the binding is not imported. How the library's structures are laid
out follows its release, and the binding knows one layout; so both versions are compared, and what the binding reads of
a KEM has to make sense.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import importlib
import importlib.metadata
import logging
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qtunnel.crypto.kdf import Label
from qtunnel.crypto.kem import KEMS, Kem, PrivateKey
from qtunnel.errors import KemUnavailableError
from qtunnel.secret import Secret

PACKAGE = "liboqs-python"
FIRST_RELEASE = (0, 13)
"""Since this one a KEM's structure has the size of a seed where the binding reads it. As it was released it is refused
all the same: a function that the binding looks for came with the next one (``WANTED``). A build of it that has the
function can be used."""
WANTED = "0.14"
"""The first release that has all functions that the binding looks up when it is imported
(``OQS_SIG_supports_ctx_str``)."""
HOW_TO_GET = (
    "build liboqs (cmake -DBUILD_SHARED_LIBS=ON) or install your system's package of it, and where it is not among the "
    "system's libraries set OQS_INSTALL_PATH to its prefix; docs/operations.md has it step by step"
)
_PREFIX = "OQS_INSTALL_PATH"
_LARGEST_KEY = 8 << 20
"""Bytes; the largest key there is, of Classic McEliece, has 1.4 MB. More is a structure that is read wrongly."""
_SECRET_SIZES = range(16, 129)
_lock = threading.RLock()
_found: dict[str, Kem] = {}
_binding: list[Any] = []


def candidates() -> list[str]:
    """Names under which the binding looks for the library, in its order; raises ``KemUnavailableError``."""
    found = [ctypes.util.find_library(name) for name in ("liboqs", "oqs")]
    given = os.environ.get(_PREFIX)
    if given is not None and not Path(given).is_absolute():
        raise KemUnavailableError(f"{_PREFIX} is not an absolute path: set it to the prefix of liboqs, or unset it")
    with contextlib.suppress(RuntimeError):  # no home directory
        prefix = Path.home() / "_oqs" if given is None else Path(given)
        found += [str(prefix / place / "liboqs.so") for place in ("lib", "lib64")]
    return [name for name in found if name]


def library_version() -> tuple[str, str]:
    """(name, version) of the library that the binding would load; raises ``KemUnavailableError``."""
    tried = candidates()
    for name in tried:
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        try:
            told = library.OQS_version
        except AttributeError:
            raise KemUnavailableError(f"{name} is not liboqs, or older than 0.8; {HOW_TO_GET}") from None
        told.restype = ctypes.c_char_p
        return name, (told() or b"").decode("ascii", "replace")
    where = f" (not at {' or '.join(name for name in tried if '/' in name)} either)" if tried else ""
    raise KemUnavailableError(f"the shared library liboqs is not there{where}: {HOW_TO_GET}")


def _release(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def check_versions(library: str, version: str, binding: str) -> None:
    """See that the binding knows the structures of that release; raises ``KemUnavailableError``."""
    if not FIRST_RELEASE <= _release(version) <= _release(binding):
        raise KemUnavailableError(
            f"{PACKAGE} {binding} reads the structures of liboqs {FIRST_RELEASE[0]}.{FIRST_RELEASE[1]} to "
            f"{_release(binding)[0]}.{_release(binding)[1]}, but {library} is {version}: install two that fit together"
        )


def binding() -> Any:
    """The module ``oqs``, once library and binding are there and fit; raises ``KemUnavailableError``."""
    with _lock:
        if not _binding:
            try:
                installed = importlib.metadata.version(PACKAGE)
            except importlib.metadata.PackageNotFoundError:
                raise KemUnavailableError(
                    f"{PACKAGE} is not installed: pip install 'qtunnel[liboqs]' (and then the library itself)"
                ) from None
            library, version = library_version()
            check_versions(library, version, installed)
            _binding.append(_import_quietly(f"{library} {version}"))
        return _binding[0]


def _import_quietly(library: str) -> Any:
    """Import the binding, which else writes to standard output; it could not build anything now, but shall not try."""
    logging.getLogger("oqs.oqs").addFilter(lambda record: False)
    with _environment("PYOQS_VERSION", "none"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the versions differ, which was looked at
        try:
            return importlib.import_module("oqs")
        except (Exception, SystemExit) as error:
            lacks = isinstance(error, AttributeError) and f"it lacks what the binding looks for; take {WANTED} or later"
            for name in [name for name in sys.modules if name.partition(".")[0] == "oqs"]:
                del sys.modules[name]
            raise KemUnavailableError(
                f"{PACKAGE} cannot use {library} ({lacks or type(error).__name__}); {HOW_TO_GET}"
            ) from None


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """A version that is none makes the binding refuse to download anything."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def names() -> list[str]:
    """The KEMs that the library was built with, as the configuration names them; raises ``KemUnavailableError``."""
    return [mechanism.lower() for mechanism in binding().get_enabled_kem_mechanisms()]


def find(name: str) -> Kem:
    """The KEM of that name; raises ``KemUnavailableError``."""
    with _lock:
        if name not in _found:
            oqs = binding()
            by_name = {mechanism.lower(): mechanism for mechanism in oqs.get_enabled_kem_mechanisms()}
            if name not in by_name:
                off = [one.lower() for one in oqs.get_supported_kem_mechanisms()]
                why = "was built without it" if name in off else "does not have it"
                raise KemUnavailableError(f"liboqs {oqs.oqs_version()} {why}; it offers: {', '.join(by_name)}")
            _found[name] = _kem(oqs, name, by_name[name])
        return _found[name]


def _kem(oqs: Any, name: str, mechanism: str) -> Kem:
    with oqs.KeyEncapsulation(mechanism) as one:
        details = dict(one.details)
    sizes = [details[f"length_{what}"] for what in ("public_key", "secret_key", "ciphertext")]
    seed, shared = details["length_keypair_seed"], details["length_shared_secret"]
    same = KEMS.get(name)
    if (
        not all(0 < size <= _LARGEST_KEY for size in sizes)
        or shared not in _SECRET_SIZES
        or seed not in (0, *_SECRET_SIZES)
        or (same is not None and [*sizes[::2], seed] != [same.public_key_size, same.ciphertext_size, same.seed_size])
    ):
        raise KemUnavailableError(
            f"{PACKAGE} reads sizes of {mechanism} that cannot be: its version does not fit liboqs {oqs.oqs_version()}"
        )
    if not details["is_ind_cca"]:
        raise KemUnavailableError(
            f"{mechanism} in liboqs is not secure against chosen ciphertexts (IND-CCA), as keys that are used more "
            "than once have to be; choose another"
        )
    label = Label.IDENTITY_KEM if same is None else same.label
    return Kem(
        name,
        mechanism.replace("-", ""),
        sizes[0],
        sizes[2],
        seed,
        label,
        details["version"],
        _Mechanism(oqs, mechanism),
    )


class _Key:
    """A private key in a buffer of liboqs's, which is overwritten when it is freed."""

    __slots__ = ("_object", "public")

    def __init__(self, one: Any, public: bytes) -> None:
        self._object, self.public = one, public

    def decapsulate(self, ciphertext: bytes) -> bytes:
        try:
            return bytes(self._object.decap_secret(ciphertext))
        except RuntimeError:
            raise ValueError("liboqs refuses to decapsulate") from None

    def export(self) -> Secret:
        return Secret(self._object.secret_key.raw)

    def wipe(self) -> None:
        if self._object is not None:
            self._object.free()
            self._object = None

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # at the end of the process the library may be gone
            self.wipe()


class _Mechanism:
    """One mechanism of liboqs."""

    __slots__ = ("_mechanism", "_oqs")

    def __init__(self, oqs: Any, mechanism: str) -> None:
        self._oqs, self._mechanism = oqs, mechanism

    def from_seed(self, seed: bytes) -> PrivateKey:
        one = self._oqs.KeyEncapsulation(self._mechanism)
        return _Key(one, one.generate_keypair_seed(seed))

    def draw(self) -> PrivateKey:
        one = self._oqs.KeyEncapsulation(self._mechanism)
        return _Key(one, one.generate_keypair())

    def restore(self, public: bytes, private: bytes) -> PrivateKey:
        one = self._oqs.KeyEncapsulation(self._mechanism)
        if len(private) != one.length_secret_key:
            one.free()
            raise ValueError("not the size of a private key")
        one.free()
        return _Key(self._oqs.KeyEncapsulation(self._mechanism, private), public)

    def encapsulate(self, public: bytes) -> tuple[bytes, bytes]:
        with self._oqs.KeyEncapsulation(self._mechanism) as one:
            try:
                ciphertext, secret = one.encap_secret(public)
            except RuntimeError:
                raise ValueError("liboqs refuses the key") from None
        return ciphertext, secret

    def check(self, public: bytes) -> None:
        self.encapsulate(public)  # liboqs has no check by itself
