"""What the clients of all servers have in common: one connection after the other, and what is counted."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field
from typing import ClassVar, Final

from benchmarks.websocket import WebSocket

PATIENCE: Final = 20.0
"""Seconds from connecting to being greeted, after which a client tries again."""


@dataclass
class Contest:
    """What the clients of one run share."""

    ports: list[int]
    """Of the nodes that take sessions, as the proxy in front knows them."""
    published: list[int] = field(default_factory=list)
    """The numbers of the messages whose publishing was confirmed."""
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Client(WebSocket):
    """One member of the chat, with one connection after the other."""

    cut_for: ClassVar[float] = 2.0

    def __init__(self, contest: Contest, number: int) -> None:
        self.contest, self.number = contest, number
        self.heard: set[int] = set()
        self.duplicates = self.cuts = self.dropped = self.unrecovered = 0
        self.replays: list[float] = []
        """Seconds from being able to connect until all that was missed had come."""
        self.downs: list[float] = []
        """Seconds from the end of a connection that the server ended to the next greeting."""
        self.is_up = False
        self._is_cut = self._may_wait = False
        self._due: set[int] = set()
        self._back = self._lost = 0.0
        self._code = 0

    # What differs between the servers.

    def delay(self, attempt: int, code: int) -> float:
        """Seconds to wait before an attempt, counted from 0 since a connection was lost with a close code."""
        raise NotImplementedError

    # What is the same.

    async def run(self, greeted: asyncio.Semaphore) -> None:
        """Connect, and come back, until the contest is over."""
        attempt = 0
        async with greeted:  # so many at a time at the beginning, so that nobody begins with a crowd
            while not self.contest.over.is_set() and not await self._open():
                await asyncio.sleep(self.delay(attempt, 0))
                attempt += 1
        while not self.contest.over.is_set():
            code = await self._ended
            if self.contest.over.is_set():
                return
            if self._is_cut:
                self.cuts += 1
                await asyncio.sleep(self.cut_for)
            else:
                self.dropped += 1
                await asyncio.sleep(self.delay(0, code))
            self._back, self._due = time.monotonic(), set(self.contest.published) - self.heard
            attempt = 1
            while not self.contest.over.is_set() and not await self._open():
                await asyncio.sleep(self.delay(attempt, 0))
                attempt += 1

    def cut(self) -> None:
        """Break the connection, if there is one, as a network does."""
        if self.is_up:
            self._is_cut = True
            self.transport.abort()

    def leave(self) -> None:
        """Go, after the contest."""
        if self.transport is not None:
            self.transport.abort()

    async def _open(self) -> bool:
        loop = asyncio.get_running_loop()
        self.begin()
        self._code = 0
        self._greeted: asyncio.Future[bool] = loop.create_future()
        self._ended: asyncio.Future[int] = loop.create_future()
        try:
            async with asyncio.timeout(PATIENCE):
                await loop.create_connection(lambda: self, "127.0.0.1", random.choice(self.contest.ports))
                return await self._greeted
        except (OSError, TimeoutError):
            if self.transport is not None:
                self.transport.abort()
            return False

    def greeted(self, is_recovered: bool | None) -> None:
        """The session has begun; None: it is the first one."""
        self.is_up = True
        if self._lost and not self._is_cut:
            self.downs.append(time.monotonic() - self._lost)
        self.unrecovered += is_recovered is False
        self._is_cut = False
        if not self._greeted.done():
            self._greeted.set_result(True)

    def message(self, number: int) -> None:
        """A message has come."""
        if number in self.heard:
            self.duplicates += 1
            return
        self.heard.add(number)
        if number in self._due:
            self._due.discard(number)
            if not self._due:
                self.replays.append(time.monotonic() - self._back)

    def closing(self, code: int) -> None:
        """See WebSocket."""
        self._code = code

    def connection_lost(self, error: Exception | None) -> None:
        """Say so to whom it concerns."""
        if self.is_up:
            self._lost = time.monotonic()
        self.is_up, self.transport = False, None
        if not self._greeted.done():
            self._greeted.set_result(False)
        if not self._ended.done():
            self._ended.set_result(self._code)
