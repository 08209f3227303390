"""JSON that is nested as deeply as a test needs it."""

from __future__ import annotations

from eclipse_ws.protocol import MAX_DEPTH

DEEPEST = MAX_DEPTH - 1
"""Levels of what stands in an object and is still read; one more, or very many, are too deep."""
TOO_DEEP = (MAX_DEPTH, 100_000)


def nested(levels: int, opening: str = "[", closing: str = "]") -> str:
    """So many arrays within each other."""
    return opening * levels + closing * levels
