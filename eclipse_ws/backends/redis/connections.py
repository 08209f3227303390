"""A node's two connections to Redis, kept alive forever: one for commands, one that hears channels."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol, TypeVar

import structlog
from redis.exceptions import RedisError

from eclipse_ws.backends.base import Availability, Unavailable
from eclipse_ws.backends.redis.address import Address
from eclipse_ws.backends.redis.connection import (
    BaseConnection,
    CommandConnection,
    DisconnectedError,
    SubscriberConnection,
)
from eclipse_ws.backends.redis.names import Names
from eclipse_ws.backends.redis.refusals import Refusal, classify
from eclipse_ws.backends.redis.refusing import Refusing
from eclipse_ws.config.redis_url import Server
from eclipse_ws.config.settings import Settings

log = structlog.get_logger("eclipse_ws.redis")

C = TypeVar("C", bound=BaseConnection)
BEAT: Final = b"beat:"
"""Prefix of the heartbeats that a node sends itself; notes between nodes are JSON."""
IDLE: Final = 3
"""Ping intervals between two heartbeats of a node without chats: two commands a minute by default."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts to connect: doubled from the first to the longest, with jitter."""


class Hearer(Protocol):
    """What hears about the connections. Every method is synchronous and must not block."""

    def hear(self, channel: bytes, payload: bytes) -> None:
        """Take what was published on a chat's channel."""

    def notice(self, note: bytes) -> None:
        """Take what was published on this node's own channel, or on that of all nodes."""

    def confirm(self, channel: bytes) -> None:
        """Note that a chat's channel is heard from now on."""

    def ended(self, channel: bytes, until: str) -> None:
        """Note that a chat's channel is no longer heard; ``until`` as in `lost`."""

    def refused(self, error: RedisError) -> None:
        """Note that Redis has refused subscriptions to some of the chats' channels."""

    def restored(self) -> None:
        """Note that commands are taken again, or that the subscriber's connection is proven."""

    def lost(self, until: str) -> None:
        """Note that nothing is heard any more, and until when it certainly was (ms of Redis's clock)."""


class Connections:
    """Keeps both connections; `Heartbeat` proves them.

    ``standing`` is the connection for commands while there is one. ``commands`` is the same, except while
    Redis refuses everything (see `Refusing`): then only heartbeats and reads use it.

    The subscriber's::

        absent ─▶ connected ─its own channel is confirmed─▶ listening ─it hears its heartbeat─▶ proven
           ▲          │                                         │                                 │
           └──────────┴──────── broken, or no heartbeat heard ──┴─────────────────────────────────┘

    ``name`` is ``<node>:<number>``, in a cluster with a tag, and changes with each subscriber's connection:
    the channels that were heard on the one before have to be subscribed again.
    """

    def __init__(
        self,
        settings: Settings,
        names: Names,
        address: Address | None = None,
        tag: Callable[[], str] | None = None,
    ) -> None:
        self._timeout = settings.redis_timeout
        self._address = address or Address(settings)
        self.in_cluster = tag is not None
        self._tag = tag or (lambda: "")
        self._over_http = settings.app_publishes_over_http
        self._hearer: Hearer
        self.names = names
        self.lease = int(2 * IDLE * settings.redis_ping_interval + self._timeout) + 1
        """Seconds for which a heartbeat vouches for this node: two of the longest intervals."""
        self.node = secrets.token_hex(6)
        self.name = ""
        self.latency: float | None = None
        self.standing: CommandConnection | None = None
        self.refusing = Refusing()
        self.subscriber: SubscriberConnection | None = None
        self.subscribe_refusal: RedisError | None = None  # why Redis didn't let this node subscribe
        self.listening = self._proven = False
        self.heard = 0.0  # monotonic: when something last came over the subscriber's connection
        self.clock = 0  # Redis's ms minus ours
        self.left_behind = False  # commands may go to another server than the subscriber's
        self.beat = b""
        self.beat_heard = asyncio.Event()
        self.beat_due = asyncio.Event()
        self._number = 0
        self._own_channel = b""
        self._all_nodes = names.all_nodes.encode()
        self._lost: set[str] = set()  # the roles of connections whose loss was logged
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def refusal(self) -> RedisError | None:
        """The error with which Redis refuses everything."""
        return self.refusing.error

    @property
    def commands(self) -> CommandConnection | None:
        """Where commands go; None while Redis can't be reached, or refuses everything."""
        return self.standing if self.refusal is None else None

    @property
    def channel(self) -> str:
        """The channel that only this node hears."""
        return self.names.node + self.name

    @property
    def state(self) -> Availability:
        """``up`` when both connections stand, nothing is refused, and the subscriber's is proven."""
        if self._proven and self.commands is not None:
            return "up"
        return "down" if self._number or self.refusal else "connecting"

    def start(self, hearer: Hearer) -> None:
        """Begin to keep the connections."""
        self._hearer = hearer
        self._tasks = [
            asyncio.create_task(self._keep(self.make_commands, self._commands_up, self._commands_down)),
            asyncio.create_task(
                self._keep(self._make_subscriber, self._subscriber_up, self._subscriber_down)
            ),
        ]
        # An application that publishes here itself may not know yet that there is another primary: then it
        # has to be heard until the old one ends all connections.
        if self._address.sentinels is not None and self._over_http:
            self._tasks.append(asyncio.create_task(self._address.sentinels.watch(self._primary_is)))

    async def close(self) -> None:
        """Close both connections. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self.standing = self.subscriber = None

    def beat_soon(self) -> None:
        """Send the next heartbeat now."""
        self.beat_due.set()

    # -- what commands fail with ----------------------------------------------------------------

    @contextlib.contextmanager
    def asking(self, *, reading: bool = False, for_chat: bool = False) -> Iterator[CommandConnection]:
        """The connection for commands. Their errors are raised as Unavailable (see `failure`).

        ``reading``: also while Redis refuses everything, because it may still answer reads.
        """
        commands = self.standing if reading else self.commands
        if commands is None:
            raise Unavailable("Redis is unavailable")
        try:
            yield commands
        except (DisconnectedError, RedisError) as error:
            raise self.failure(error, for_chat=for_chat) from error

    def failure(self, error: DisconnectedError | RedisError, *, for_chat: bool = False) -> Unavailable:
        """A command's error as the contract's error. A refusal brings the next heartbeat forward.

        It counts as ``refused`` if Redis takes other commands, but not if an operator can fix it, as with a
        missing right: then no event is given up. Of subscriptions to a chat (``for_chat``) every refusal
        counts, so that they are tried again less and less often.
        """
        if isinstance(error, DisconnectedError):
            return Unavailable(str(error), asked=True)
        alone = not self.is_general(error)
        endless = classify(error) in (Refusal.UNAVAILABLE, Refusal.REJECTED)
        return Unavailable(str(error), asked=alone, refused=alone and (for_chat or endless))

    def is_general(self, error: RedisError) -> bool:
        """Note a command's refusal. Returns whether Redis is known to refuse everything."""
        if self.refusal is None:
            self.beat_soon()
        return self.refusing.is_general(error, self.standing)

    # -- keeping connections --------------------------------------------------------------------

    def make_commands(self) -> CommandConnection:
        """Make a connection for commands, still closed. Raises ValueError where the URL can't be used."""
        return CommandConnection(self._address.make(), self._timeout, self._address.find)

    def _make_subscriber(self) -> SubscriberConnection:
        made, refused, find = self._address.make(), self._subscription_refused, self._address.find
        return SubscriberConnection(made, self._timeout, self._push, refused, find)

    async def _keep(self, make: Callable[[], C], up: Callable[[C], None], down: Callable[[], None]) -> None:
        """Connect, run, and connect again forever; one line is logged when it goes and when it is back."""
        pause = FIRST_PAUSE
        while True:
            current = make()
            stands = False
            try:
                await current.connect()
                stands = True
                up(current)
                why = await current.run()
            except (DisconnectedError, RedisError) as error:
                why = str(error)
            except Exception:
                log.exception("Redis connection failed", connection=current.role)
                why = "an error of our own"
                current.close(why)
            finally:
                await current.disconnect()
            if stands:
                down()
            if current.proven or current.replaced:
                pause = FIRST_PAUSE
            if not (current.replaced or current.role in self._lost):
                log.warning("Redis connection lost", connection=current.role, why=why)
                self._lost.add(current.role)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 # nosec B311
            pause = min(LONGEST_PAUSE, pause * 2)

    def _primary_is(self, server: Server) -> None:
        """Reconnect what leads to another server."""
        for current in (self.standing, self.subscriber):
            if current is not None and current.server != server:
                current.replaced = True
                current.close(f"{server} is the primary now")

    def rename(self) -> None:
        """Subscribe under another name, with a new connection."""
        if self.subscriber is not None:
            self.subscriber.replaced = True
            self.subscriber.close("the slot of its name has moved")

    def _prove(self, current: BaseConnection) -> None:
        """Note that a connection works, so that its loss will be logged."""
        if not current.proven:
            current.proven = True
            after_outage = current.role in self._lost
            log.info("Redis client connected", connection=current.role, after_outage=after_outage)
            self._lost.discard(current.role)

    def _commands_up(self, commands: CommandConnection) -> None:
        self.standing = commands
        self.beat_soon()
        if self.refusal is None:
            self._hearer.restored()
        else:
            self.left_behind = self.subscriber is not None

    def _commands_down(self) -> None:
        self.standing = None

    def _subscriber_up(self, subscriber: SubscriberConnection) -> None:
        self._number += 1
        self.name = f"{self.node}:{self._number}{self._tag()}"
        self._own_channel = self.channel.encode()
        self.subscriber, self.left_behind = subscriber, False
        self.heard = time.monotonic()
        self.beat_soon()
        subscriber.send("SUBSCRIBE", self.channel, self.names.all_nodes)

    def _subscriber_down(self) -> None:
        until = int(self.heard * 1000 + self.clock)
        self.subscriber = None
        self.listening = self._proven = False
        self.beat_heard.set()  # so that the heartbeat stops waiting
        self._hearer.lost(str(until))

    # -- what Redis sends -----------------------------------------------------------------------

    def accepted(self, commands: CommandConnection) -> None:
        """Redis has accepted a heartbeat."""
        self._prove(commands)
        if self.refusal is not None and commands is self.standing:
            self.refusing.end()
            self._hearer.restored()

    def heard_beat(self, subscriber: SubscriberConnection) -> None:
        """A heartbeat has come over the subscriber's connection."""
        if not self._proven and subscriber is self.subscriber:
            self._proven = True
            self._prove(subscriber)
            self._hearer.restored()

    def _push(self, push: list[Any]) -> None:
        kind, channel, payload = push
        self.heard = time.monotonic()
        if kind == b"message":
            if channel == self._own_channel and payload.startswith(BEAT):
                if payload == self.beat:
                    self.beat_heard.set()
            elif channel in (self._own_channel, self._all_nodes):
                self._hearer.notice(payload)
            else:
                self._hearer.hear(channel, payload)
        elif kind == b"smessage":
            self._hearer.hear(channel, payload)
        elif kind == b"ssubscribe":
            self._hearer.confirm(channel)
        elif kind == b"sunsubscribe":
            self._hearer.ended(channel, str(int(self.heard * 1000 + self.clock)))
        elif kind == b"subscribe":
            if channel == self._own_channel:
                self.listening = True
                self.beat_soon()
            else:
                self._hearer.confirm(channel)

    def _subscription_refused(self, error: RedisError) -> None:
        """Redis has refused to subscribe to some channels; if they are chats', the others stay subscribed."""
        if self._proven:
            self._hearer.refused(error)
        elif self.subscriber is not None:
            self.subscribe_refusal = error
            self.subscriber.close(f"subscribing was refused: {error}")
