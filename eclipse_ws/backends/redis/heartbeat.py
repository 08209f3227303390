"""Heartbeats: they go out over the commands' connection and come back on the subscriber's."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sized
from typing import Final

import structlog
from redis.exceptions import RedisError

from eclipse_ws.backends.redis.connection import CommandConnection, DisconnectedError, SubscriberConnection
from eclipse_ws.backends.redis.connections import BEAT, IDLE, Connections
from eclipse_ws.backends.redis.refusals import ELSEWHERE, Refusal, classify
from eclipse_ws.backends.redis.scripts import HEARTBEAT
from eclipse_ws.config.settings import Settings

log = structlog.get_logger("eclipse_ws.redis")

WHILE_REFUSED: Final = 1.0
"""Maximum seconds between two heartbeats while Redis refuses everything."""
POLL: Final = 0.01
"""Seconds in which a process that stood still may read what came meanwhile."""


class Heartbeat:
    """Proves that both connections work, or ends the one that doesn't.

    One heartbeat goes out each ping interval, fewer while the node has neither ``chats`` nor a ``beacon``,
    and one at once after each `Connections.beat_soon`. Each takes the beacon to all nodes, if there is one.
    """

    def __init__(
        self,
        settings: Settings,
        connections: Connections,
        chats: Sized,
        beacon: Callable[[], bytes] = bytes,
    ) -> None:
        self._settings = settings
        self._connections = connections
        self._chats = chats
        self._beacon = beacon
        self._counted = False  # heartbeats have told how many connections hear this node's channel
        self._suspect: CommandConnection | None = None  # it is new, and its first heartbeat was refused

    async def run(self) -> None:
        """Send heartbeats forever."""
        due = self._connections.beat_due
        while True:
            busy = self._chats or self._beacon()
            interval = self._settings.redis_ping_interval * (1 if busy else IDLE)
            if self._connections.refusal is not None:
                interval = min(interval, WHILE_REFUSED)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await due.wait()
            due.clear()
            try:
                await self._beat()
            except DisconnectedError as error:
                log.debug("heartbeat failed", why=str(error))
            except Exception:
                log.exception("heartbeat failed")

    async def _beat(self) -> None:
        of = self._connections
        commands, subscriber, listening = of.standing, of.subscriber, of.listening
        if commands is None or not of.name:
            return
        of.beat = BEAT + secrets.token_hex(8).encode()
        of.beat_heard.clear()
        began = time.monotonic()
        beacon = self._beacon()
        carried = (of.names.all_nodes, beacon) if beacon else ()
        try:
            now, hearers = await HEARTBEAT(commands, [of.channel], of.lease, of.beat, *carried)
        except RedisError as error:
            if of.in_cluster and isinstance(error, ELSEWHERE):
                return  # the slot of this node's name moves, and it will get another name
            of.refusing.begin(error)
            self._replace_if_wrong(commands, error)
            return
        of.latency = time.monotonic() - began
        # Redis's clock has reached at least this: an estimate that is too early is safe.
        of.clock = int(now) - int(time.monotonic() * 1000)
        of.accepted(commands)
        if subscriber is not None and subscriber is of.subscriber:
            await self._hear(subscriber, listening, hearers)

    def _replace_if_wrong(self, commands: CommandConnection, error: RedisError) -> None:
        """Reconnect if only that can help; a new connection has until the next heartbeat."""
        if classify(error) in (Refusal.WRONG_SERVER, Refusal.CREDENTIALS):
            if commands.proven or commands is self._suspect:
                commands.replaced = True
                commands.close(f"refused: {error}")
            self._suspect = commands

    async def _hear(self, subscriber: SubscriberConnection, listening: bool, hearers: int) -> None:
        of, timeout = self._connections, self._settings.redis_timeout
        if not listening:
            # A confirmation brings the next heartbeat forward; its absence has to be noticed, too.
            if time.monotonic() - of.heard > timeout:
                subscriber.close("its subscription was not confirmed")
            return
        if hearers:
            self._counted, of.left_behind = True, False
        elif self._counted or of.left_behind:
            # A replica's clients hear what its primary publishes, but the primary doesn't count them.
            subscriber.close("it leads to another server than the commands' connection")
            return
        try:
            async with asyncio.timeout(timeout):
                await of.beat_heard.wait()
        except TimeoutError:
            await asyncio.sleep(POLL)  # if this process stood still, it may be unread in the socket
            if not of.beat_heard.is_set():
                subscriber.close("it did not hear its own heartbeat")
                return
        of.heard_beat(subscriber)
