"""Fixtures of the drain's tests."""

from tests.backends.conftest import own_server

__all__ = ["own_server"]
