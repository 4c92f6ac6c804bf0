"""Errors of key sources, as tests want them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from qtunnel.errors import KeySourceError


async def failing(ask: Callable[[], Awaitable[object]]) -> KeySourceError:
    """The error that a call raises."""
    with pytest.raises(KeySourceError) as caught:
        await ask()
    return caught.value
