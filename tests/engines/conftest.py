from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

import pytest

from tests.engines.namespaces import Namespace

_numbers = itertools.count()


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """This thread inside a fresh network namespace."""
    made = Namespace()
    try:
        with made.entered():
            yield made
    finally:
        made.close()


@pytest.fixture
def interface() -> str:
    """A name that no other test process uses: UAPI sockets share one directory whatever the namespace."""
    return f"qe{os.getpid() % 10**7}n{next(_numbers) % 1000}"
