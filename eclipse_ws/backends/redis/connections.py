"""A node's two connections to Redis, kept alive for ever: one for commands, one that hears channels."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import structlog
from redis.exceptions import RedisError

from eclipse_ws.backends.base import Availability, BackendError, Unavailable
from eclipse_ws.backends.redis.connection import (
    BaseConnection,
    CommandConnection,
    DisconnectedError,
    SubscriberConnection,
    connection,
)
from eclipse_ws.backends.redis.names import Names
from eclipse_ws.backends.redis.refusals import Refusal, classify
from eclipse_ws.backends.redis.scripts import HEARTBEAT
from eclipse_ws.config.settings import Settings

log = structlog.get_logger("eclipse_ws.redis")

C = TypeVar("C", bound=BaseConnection)
BEAT: Final = b"beat:"
"""What a node tells itself begins with this; what nodes tell each other is JSON."""
IDLE: Final = 3
"""Ping intervals between two heartbeats of a node without chats: two commands a minute by default."""
POLL: Final = 0.01
"""Seconds between looks for a connection that is to come back."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts to connect: doubled from the first to the longest, with jitter."""


class Connections:
    """Keeps both connections, and proves them by heartbeats.

    The connection for commands::

        absent ⇄ standing          `standing`: it is there; `commands`: and Redis is not refusing

        accepting ──a heartbeat is refused, or a command's answer says: wrong server──▶ refusing
            ▲                                                                              │
            └───────────────────────────── a heartbeat is accepted ────────────────────────┘

    Redis is *refusing* when it answers, but doesn't take what it is asked (read-only, loading, full, over a
    quota). That outlives a connection. Heartbeats, and what only reads, go over ``standing`` meanwhile.

    The subscriber's connection::

        absent ─▶ connected ─its own channel is confirmed─▶ listening ─it hears its heartbeat─▶ proven
           ▲          │                                         │                                 │
           └──────────┴──────── broken, or no heartbeat heard ──┴─────────────────────────────────┘

    ``name`` is ``<node>:<number>`` and changes with each subscriber's connection: whoever was heard on the
    one of before has to be asked for anew.
    """

    def __init__(
        self,
        settings: Settings,
        names: Names,
        *,
        on_message: Callable[[bytes, bytes], None],
        on_subscribed: Callable[[bytes], None],
        on_note: Callable[[bytes], None],
        on_restored: Callable[[], None],
        on_lost: Callable[[str], None],
        on_refused: Callable[[RedisError], None],
        idle: Callable[[], bool],
    ) -> None:
        """``on_restored``: commands are taken again, or the subscriber's connection is proven.

        ``on_lost`` gets Redis's time (ms) until which channels were surely heard. ``on_message``,
        ``on_subscribed`` and ``on_refused`` are for chats' channels, ``on_note`` for nodes'.
        """
        self._settings = settings
        self._url = settings.redis_url.get_secret_value()
        self._on_message = on_message
        self._on_subscribed = on_subscribed
        self._on_note = on_note
        self._on_restored = on_restored
        self._on_lost = on_lost
        self._on_refused = on_refused
        self._idle = idle
        self.names = names
        self.node = secrets.token_hex(6)
        self.name = ""
        self.latency: float | None = None
        self.standing: CommandConnection | None = None
        self.refusal: RedisError | None = None  # with which Redis refuses everything
        self._refused_at = 0.0
        self._refused = 0  # commands that were refused since then
        self._stopped: CommandConnection | None = None  # the one that a command's own refusal has stopped
        self._suspect: CommandConnection | None = None  # it is new, and its first heartbeat was refused
        self.subscriber: SubscriberConnection | None = None
        self.subscribe_refusal: RedisError | None = None  # why Redis didn't let this node subscribe
        self._number = 0
        self._own_channel = b""
        self._all_nodes = names.all_nodes.encode()
        self._heard = 0.0  # monotonic: when the subscriber's connection last brought anything
        self._clock = 0  # Redis's ms minus ours
        self._listening = False
        self._proven = False
        self._counted = False  # heartbeats have told how many connections hear this node's channel
        self._left_behind = False  # commands go to another server since; is the subscriber's still there?
        self._beat = b""
        self._beat_now = asyncio.Event()
        self._beat_heard = asyncio.Event()
        self._lost: set[str] = set()  # the connections whose loss was logged
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def commands(self) -> CommandConnection | None:
        """Where commands go; None while Redis can't be reached, or refuses everything."""
        return self.standing if self.refusal is None else None

    def require_commands(self) -> CommandConnection:
        """Where commands go. Raises Unavailable."""
        commands = self.commands
        if commands is None:
            raise Unavailable("Redis is unavailable")
        return commands

    @property
    def channel(self) -> str:
        """The channel on which this node alone is told something."""
        return self.names.node + self.name

    @property
    def lease(self) -> int:
        """Seconds for which a heartbeat vouches for this node: two of the longest intervals."""
        return int(2 * IDLE * self._settings.redis_ping_interval + self._settings.redis_timeout) + 1

    @property
    def state(self) -> Availability:
        """``up`` when both connections stand, nothing is refused, and the subscriber's is proven."""
        if self._proven and self.commands is not None:
            return "up"
        return "down" if self._number or self.refusal else "connecting"

    # -- start and end --------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to keep the connections.

        Raises BackendError where trying again can't help: URL, password, rights, kind of server.
        """
        try:
            first = self._make_commands()
        except ValueError as error:
            raise BackendError(f"REDIS_URL can't be used: {error}") from None
        try:
            await first.connect()
        except RedisError as error:
            refusal = classify(error)
            if refusal.ends_start:
                raise BackendError(f"Redis refuses this server: {error}; {refusal.value}") from None
            log.warning("Redis refuses connections; delivering locally", why=str(error), fix=refusal.value)
        except DisconnectedError as error:
            log.warning("Redis unavailable; delivering locally", why=str(error))
        await first.disconnect()
        self._tasks = [
            asyncio.create_task(part(), name=f"Redis {part.__name__}")
            for part in (self._keep_commands, self._keep_subscriber, self._keep_beating)
        ]

    async def close(self) -> None:
        """Let both connections go. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self.standing = self.subscriber = None
        self._listening = self._proven = False

    # -- what commands fail with ----------------------------------------------------------------

    def failure(self, error: DisconnectedError | RedisError) -> Unavailable:
        """What a command failed with, as the contract's error; the heartbeats learn of it.

        It is ``refused`` if Redis takes other things, and for no cause that an operator would fix.
        """
        if isinstance(error, DisconnectedError):
            return Unavailable(str(error), asked=True)
        alone = not self.is_general(error)
        endless = classify(error) in (Refusal.UNAVAILABLE, Refusal.REJECTED)
        return Unavailable(str(error), asked=alone, refused=alone and endless)

    def is_general(self, error: RedisError) -> bool:
        """Note what a command was refused with; tell whether Redis is known to refuse everything.

        Where a refusal itself doesn't say so, the next heartbeat tells. It also does where a command has
        stopped this connection before: if a heartbeat was accepted since, only some keys or commands are
        refused.
        """
        if self.refusal is not None:
            self._refused += 1
            return True
        general = classify(error) is Refusal.WRONG_SERVER and self.standing not in (None, self._stopped)
        if general:
            self._stopped = self.standing
            self._refuse(error)
        self.beat_soon()
        return general

    async def commands_after(self, broken: CommandConnection, seconds: float) -> bool:
        """Wait for the connection that follows a broken one; whether there is one within ``seconds``."""
        deadline = time.monotonic() + seconds
        while self.commands in (None, broken):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL)
        return True

    def _refuse(self, error: RedisError) -> None:
        """Redis refuses commands: give none until it accepts a heartbeat."""
        self._refused += 1
        if self.refusal is None:
            self._refused_at = time.monotonic()
            log.warning(
                "Redis refuses commands; delivering locally", why=str(error), fix=classify(error).value
            )
        self.refusal = error

    def _accept(self, commands: CommandConnection) -> None:
        """Redis has accepted a heartbeat."""
        self._prove("commands", commands)
        if self.refusal is not None and commands is self.standing:
            seconds = round(time.monotonic() - self._refused_at, 1)
            log.info("Redis accepts commands again", refused=self._refused, seconds=seconds)
            self.refusal, self._refused = None, 0
            self._on_restored()

    # -- keeping connections --------------------------------------------------------------------

    async def _keep_commands(self) -> None:
        await self._keep("commands", self._make_commands, self._commands_up, self._commands_down)

    async def _keep_subscriber(self) -> None:
        await self._keep("subscriber", self._make_subscriber, self._subscriber_up, self._subscriber_down)

    def _make_commands(self) -> CommandConnection:
        timeout = self._settings.redis_timeout
        return CommandConnection(connection(self._url, timeout, self._settings.redis_ca), timeout)

    def _make_subscriber(self) -> SubscriberConnection:
        timeout = self._settings.redis_timeout
        made = connection(self._url, timeout, self._settings.redis_ca)
        return SubscriberConnection(made, timeout, self._push, self._subscription_refused)

    async def _keep(
        self, role: str, make: Callable[[], C], up: Callable[[C], None], down: Callable[[], None]
    ) -> None:
        """Connect, run, and connect again for ever; one line is logged when it goes and when it is back."""
        pause = FIRST_PAUSE
        while True:
            current = make()
            running: asyncio.Task[str] | None = None
            try:
                await current.connect()
                running = asyncio.create_task(current.run())
                up(current)
                why = await running
            except (DisconnectedError, RedisError) as error:
                why = str(error)
            except asyncio.CancelledError:
                if running is not None:
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
                await current.disconnect()  # one that was cancelled before it began hasn't
                raise
            except Exception:
                log.exception("Redis connection failed", connection=role)
                why = "an error of our own"
                current.close(why)
            if running is not None:
                await asyncio.gather(running, return_exceptions=True)
                down()
            if current.proven or current.replaced:
                pause = FIRST_PAUSE
            if not (current.replaced or role in self._lost):
                log.warning("Redis connection lost", connection=role, why=why)
                self._lost.add(role)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 # nosec B311
            pause = min(LONGEST_PAUSE, pause * 2)

    def _prove(self, role: str, current: BaseConnection) -> None:
        """Note that a connection is of use: it is only then that its loss would be news."""
        if not current.proven:
            current.proven = True
            log.info("Redis client connected", connection=role, after_outage=role in self._lost)
            self._lost.discard(role)

    def _commands_up(self, commands: CommandConnection) -> None:
        self.standing = commands
        self.beat_soon()
        if self.refusal is None:
            self._on_restored()
        else:
            self._left_behind = self.subscriber is not None

    def _commands_down(self) -> None:
        self.standing = None

    # -- hearing --------------------------------------------------------------------------------

    def _subscriber_up(self, subscriber: SubscriberConnection) -> None:
        self._number += 1
        self.name = f"{self.node}:{self._number}"
        self._own_channel = self.channel.encode()
        self.subscriber, self._left_behind = subscriber, False
        self._heard = time.monotonic()
        self.beat_soon()
        subscriber.send("SUBSCRIBE", self.channel, self.names.all_nodes)

    def _subscriber_down(self) -> None:
        until = int(self._heard * 1000 + self._clock) if self._proven else 0
        self.subscriber = None
        self._listening = self._proven = False
        self._beat_heard.set()  # nobody need wait for it any more
        self._on_lost(str(until))

    def _push(self, push: list[Any]) -> None:
        kind, channel, payload = push
        self._heard = time.monotonic()
        if kind == b"message":
            if channel == self._own_channel and payload.startswith(BEAT):
                if payload == self._beat:
                    self._beat_heard.set()
            elif channel in (self._own_channel, self._all_nodes):
                self._on_note(payload)
            else:
                self._on_message(channel, payload)
        elif kind == b"subscribe":
            if channel == self._own_channel:
                self._listening = True
                self.beat_soon()
            else:
                self._on_subscribed(channel)

    def _subscription_refused(self, error: RedisError) -> None:
        """Redis has refused to subscribe to some channels; if they are chats', the others stay subscribed."""
        if self._proven:
            self._on_refused(error)
        elif self.subscriber is not None:
            self.subscribe_refusal = error
            self.subscriber.close(f"subscribing was refused: {error}")

    # -- heartbeats -----------------------------------------------------------------------------

    def beat_soon(self) -> None:
        """Have the next heartbeat now."""
        self._beat_now.set()

    async def _keep_beating(self) -> None:
        while True:
            interval = self._settings.redis_ping_interval * (IDLE if self._idle() else 1)
            if self.refusal is not None:
                interval = min(interval, LONGEST_PAUSE)
            try:
                async with asyncio.timeout(interval):
                    await self._beat_now.wait()
            except TimeoutError:
                pass
            self._beat_now.clear()
            try:
                await self._heartbeat()
            except DisconnectedError as error:
                log.debug("heartbeat failed", why=str(error))
            except Exception:
                log.exception("heartbeat failed")

    async def _heartbeat(self) -> None:
        """Send a heartbeat over the commands' connection, and hear it on the subscriber's."""
        commands, subscriber, listening = self.standing, self.subscriber, self._listening
        if commands is None or not self.name:
            return
        self._beat = BEAT + secrets.token_hex(8).encode()
        self._beat_heard.clear()
        began = time.monotonic()
        try:
            now, hearers = await HEARTBEAT(commands, [self.channel], self.lease, self._beat)
        except RedisError as error:
            self._refuse(error)
            self._replace_if_wrong(commands, error)
            return
        self.latency = time.monotonic() - began
        # Redis's clock as it was at the latest when we had the answer: too early is the safe side.
        self._clock = int(now) - int(time.monotonic() * 1000)
        self._accept(commands)
        if subscriber is not None and subscriber is self.subscriber:
            await self._hear_heartbeat(subscriber, listening, hearers)

    def _replace_if_wrong(self, commands: CommandConnection, error: RedisError) -> None:
        """Connect anew where only that can help; a connection that is new gets until the next heartbeat."""
        if classify(error) in (Refusal.WRONG_SERVER, Refusal.CREDENTIALS):
            if commands.proven or commands is self._suspect:
                commands.replaced = True
                commands.close(f"refused: {error}")
            self._suspect = commands

    async def _hear_heartbeat(self, subscriber: SubscriberConnection, listening: bool, hearers: int) -> None:
        timeout = self._settings.redis_timeout
        if not listening:
            # Its confirmation asks for a heartbeat; one that doesn't come has to be noticed too.
            if time.monotonic() - self._heard > timeout:
                subscriber.close("its subscription was not confirmed")
            return
        if hearers:
            self._counted, self._left_behind = True, False
        elif self._counted or self._left_behind:
            # A replica's clients hear what its primary publishes, but the primary doesn't count them.
            subscriber.close("it leads to another server than the commands' connection")
            return
        try:
            async with asyncio.timeout(timeout):
                await self._beat_heard.wait()
        except TimeoutError:
            await asyncio.sleep(POLL)  # a process that stood still has it in its socket, unread
            if not self._beat_heard.is_set():
                subscriber.close("it did not hear its own heartbeat")
                return
        if not self._proven and self._listening and subscriber is self.subscriber:
            self._proven = True
            self._prove("subscriber", subscriber)
            self._on_restored()
