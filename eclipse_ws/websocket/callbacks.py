"""The methods that a socket calls on its handler, and what the next message waits for."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Protocol

from tornado import gen


class Handler(Protocol):
    """What a socket knows about its handler; see `WireHandler`."""

    wire_slow_close: tuple[int, str]
    wire_flood_close: tuple[int, str]
    under_way: "asyncio.Future[Any] | None"

    @property
    def held(self) -> int:
        """Bytes of messages that the handler keeps until it is done with them."""

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        """Handle a message. If it returns an awaitable, the next message waits for that."""

    def on_ping(self, data: bytes) -> None:
        """A ping arrived."""

    def on_pong(self, data: bytes) -> None:
        """A pong arrived."""

    def on_flood(self) -> None:
        """The peer has exceeded its allowance and is about to be closed."""

    def on_failure(
        self, typ: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None
    ) -> None:
        """One of the methods above raised."""

    def closed(self, code: int, reason: str) -> None:
        """The session is over."""


class Wait:
    """Why a socket's next message waits, other than for the previous message's awaitable."""


OPENING: Final = Wait()
"""The handler's `open` has not returned."""
YIELDED: Final = Wait()
"""The socket has used up its share of the turn."""


def call(handler: Handler, callback: Callable[..., None], *arguments: bytes) -> None:
    """Call a method of the handler; if it raises, call `on_failure`."""
    try:
        callback(*arguments)
    except (Exception, asyncio.CancelledError):
        handler.on_failure(*sys.exc_info())


def as_future(result: Awaitable[None], loop: asyncio.AbstractEventLoop) -> "asyncio.Future[Any]":
    """What `on_message` returned, as a running future; it may be anything that Tornado can await."""
    if asyncio.iscoroutine(result):  # by far the most frequent case, and several times as fast
        return loop.create_task(result)
    return gen.convert_yielded(result)


async def after(work: "asyncio.Future[Any]", end: Callable[[], None]) -> None:
    """Call `end` when the work is done, whether it succeeded or not."""
    await asyncio.wait((work,))
    end()
