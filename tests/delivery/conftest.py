"""Fixtures of delivery's tests: a chat of its own for each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tests.backends.harness import fresh_chat
from tests.delivery.asked import Timer


@pytest.fixture
def chat() -> str:
    """A chat that no other test uses."""
    return fresh_chat()


@pytest.fixture
def timers(monkeypatch: pytest.MonkeyPatch) -> list[Timer]:
    """Holds what subscriptions would call later."""
    found: list[Timer] = []

    def later(self: Any, delay: float, call: Callable[..., Any], *args: Any) -> Any:
        if getattr(call, "__name__", "") != "_try_again":
            return call_later(self, delay, call, *args)
        found.append(Timer(delay, lambda: call(*args)))
        return None

    call_later = asyncio.BaseEventLoop.call_later
    monkeypatch.setattr(asyncio.BaseEventLoop, "call_later", later)
    return found
