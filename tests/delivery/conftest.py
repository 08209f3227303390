"""Fixtures of delivery's tests: a chat of its own for each."""

from __future__ import annotations

import pytest

from tests.backends.harness import fresh_chat


@pytest.fixture
def chat() -> str:
    """A chat that no other test uses."""
    return fresh_chat()
