"""Commands keep freed memory for the next buffer where the C library can."""

import ctypes
import platform
import sys

import pytest

from mcr.cli import memory


def test_glibc_takes_the_thresholds() -> None:
    is_glibc = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"

    assert memory.keep_freed() is is_glibc


def test_a_library_without_the_call_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())

    assert not memory.keep_freed()
