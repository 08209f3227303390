"""When workers are started again, and when not any more."""

from __future__ import annotations

from eclipse_ws.server.workers.restarts import FAILED_STARTS, LIVED, LONGEST_WAIT, Restarts


def test_waits_grow() -> None:
    """The first restart is at once, each later one waits twice as long, and a long life starts over."""
    restarts = Restarts()
    assert [restarts.wait(1, 0) for _ in range(5)] == [0, 0.5, 1, 2, 4]
    assert restarts.wait(2, 0) == 0, "another worker"
    assert [restarts.wait(1, 0) for _ in range(100)][-1] == LONGEST_WAIT
    assert restarts.wait(1, LIVED) == 0
    assert restarts.wait(1, LIVED - 1) == 0.5


def test_giving_up() -> None:
    """After some failed starts in a row, unless a worker is ready, or has been in between."""
    restarts = Restarts()
    assert [restarts.hopeless(any_ready=False) for _ in range(FAILED_STARTS)] == [False] * 4 + [True]
    assert not restarts.hopeless(any_ready=True)
    restarts.ready()
    assert not restarts.hopeless(any_ready=False)
