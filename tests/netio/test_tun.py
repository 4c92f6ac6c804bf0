"""Super-packets of a TUN are fitted to what is sent in one call, once for each MTU."""

from __future__ import annotations

import errno

import pytest

from qtunnel.netio import kernel
from qtunnel.netio.tun import Tun


def test_what_the_kernel_refused_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interface may just be on its way to another namespace, or to another name."""
    tried: list[int] = []
    answers = [OSError(errno.ENODEV, "No such device"), None]

    def set_gso_max_size(index: int, size: int) -> None:
        tried.append(index)
        answer = answers.pop(0)
        if answer is not None:
            raise answer

    monkeypatch.setattr(kernel, "tun_name", lambda descriptor: "lo")
    monkeypatch.setattr(kernel, "set_gso_max_size", set_gso_max_size)
    tun = Tun.__new__(Tun)  # without an interface
    tun.fd, tun._gso_max_size = -1, 0
    for _ in range(3):
        tun.fit_bursts(1420)
    assert len(tried) == 2, "until it was done, and not again"
