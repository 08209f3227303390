"""Makes Python on Linux offer only what it offers on other systems; `scripts/portable` puts it on PYTHONPATH.

With ``PORTABLE_SELECTOR=poll`` or ``select`` every process of a run, servers included, uses that
selector for its event loops, and lacks what Linux alone has. For this project's own code there is no
``/proc`` and no ``/sys`` either; psutil may still read them, as it stands for the calls that it makes
elsewhere.
"""

from __future__ import annotations

import os
import select
import selectors
import sys
from typing import Any

LINUX_ONLY = (
    (select, ("epoll", "EPOLLIN", "EPOLLOUT", "EPOLLERR", "EPOLLHUP", "EPOLLRDHUP", "POLLRDHUP")),
    (selectors, ("EpollSelector",)),
    (os, ("sched_getaffinity", "sched_setaffinity", "eventfd", "pidfd_open")),
)
HIDDEN = ("/proc/", "/sys/")


def hide(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: what this project opens below /proc or /sys is not there."""
    if event not in ("open", "os.listdir", "os.scandir") or not arguments:
        return
    path = arguments[0]
    if not isinstance(path, str) or not path.startswith(HIDDEN):
        return
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("psutil"):
            return
        if name.startswith("eclipse_ws"):
            raise FileNotFoundError(2, "No such file or directory", path)
        frame = frame.f_back  # type: ignore[assignment]


def force(selector: str) -> None:
    """Take the others away."""
    for module, names in LINUX_ONLY:
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    found = {"poll": selectors.PollSelector, "select": selectors.SelectSelector}[selector]
    selectors.DefaultSelector = found  # type: ignore[misc, assignment]
    sys.addaudithook(hide)


if chosen := os.environ.get("PORTABLE_SELECTOR"):
    force(chosen)
