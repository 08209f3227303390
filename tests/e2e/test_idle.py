"""Thousands of idle sessions on one core."""

from __future__ import annotations

import os

import pytest


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="a benchmark gives processes cores of their own: Linux only"
)
def test_idle_sessions(capsys: pytest.CaptureFixture[str]) -> None:
    """With 5,000 idle sessions a new one is greeted and health answers, and both have counted everybody.

    How fast that is gets printed, and is judged by the benchmark.
    """
    from benchmarks.idle_sessions import measure, report

    measured = measure(5000, 11)
    with capsys.disabled():
        print(f"\n{report(measured)[0]}")
    assert len(measured.new_session) == len(measured.health) == 11
    connections = measured.document["connections"]
    assert isinstance(connections, dict)
    assert 5000 <= connections["total"] <= 5011  # a new one may not have been seen to leave yet
    assert 2500 <= connections["chats"] <= 2501
    assert len(connections["byChat"]) == 20
    assert measured.document["status"] == "healthy"
