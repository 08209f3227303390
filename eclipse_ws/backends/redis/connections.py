"""A node's two links to Redis, kept alive for ever: one for commands, one that hears channels."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from typing import Any

import structlog
from redis.asyncio.connection import Connection
from redis.exceptions import RedisError

from eclipse_ws.backends.base import BackendError, State
from eclipse_ws.backends.redis.connection import Link, LinkError, Push, connection
from eclipse_ws.backends.redis.names import Names
from eclipse_ws.backends.redis.refusals import Refusal, classify
from eclipse_ws.backends.redis.scripts import HEARTBEAT
from eclipse_ws.config.settings import Settings

log = structlog.get_logger("eclipse_ws.redis")

BEAT = b"beat:"
"""What a node tells itself begins with this; what nodes tell each other is JSON."""
IDLE = 3
"""Ping intervals between two pings of a node without chats: two commands a minute by default."""
POLL = 0.01
"""Seconds between looks for a link that is to come back."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds between attempts to connect: doubled from the first to the longest, with jitter."""


class Links:
    """Keeps both links, and proves them by heartbeats.

    ``name`` is ``<node>:<number>`` and changes with each subscriber link: whoever was heard on the link of
    before has to be asked for anew. ``on_commands`` and ``on_subscriber`` are called when a link has
    come up (the subscriber's once it has heard itself), ``on_deaf`` when the subscriber's has gone,
    with Redis's time (ms) until which it was surely heard, ``on_refused`` when a subscription is refused.

    A Redis that answers, but refuses what it is asked (read-only, loading, full, over a quota), counts as
    unavailable: ``commands`` is None while ``refusal`` says why, until a heartbeat is accepted. Heartbeats,
    and what only reads, go over ``standing``, the commands' link whether it is refused or not.
    """

    def __init__(
        self,
        settings: Settings,
        names: Names,
        *,
        push: Push,
        on_commands: Callable[[], None],
        on_subscriber: Callable[[], None],
        on_deaf: Callable[[str], None],
        on_refused: Callable[[RedisError], None],
        idle: Callable[[], bool],
    ) -> None:
        self._settings = settings
        self._url = settings.redis_url.get_secret_value()
        self._on_push = push
        self._on_commands = on_commands
        self._on_subscriber = on_subscriber
        self._on_deaf = on_deaf
        self._on_refused = on_refused
        self._idle = idle
        self.names = names
        self.node = secrets.token_hex(6)
        self.name = ""
        self.commands: Link | None = None
        self.standing: Link | None = None
        self.subscriber: Link | None = None
        self.refusal: RedisError | None = None
        self._refused_at = 0.0
        self._refused = 0  # how much was refused since then
        self._stopped: Link | None = None  # the commands' link that a command's own refusal has stopped
        self.latency: float | None = None
        self.found_at = 0.0  # when the commands' link was back after an outage
        self._was_up = False
        self.reconnects = 0
        self._number = 0
        self._heard = 0.0  # monotonic: when the subscriber link last brought anything
        self._clock: float | None = None  # Redis's ms minus ours
        self._beat_now = asyncio.Event()
        self._beat_heard = asyncio.Event()
        self._beat = b""
        self._hears_itself = False  # its own channel is subscribed: a heartbeat before that would be missed
        self._proven = False
        self._counted = False  # heartbeats have told how many connections hear this node's channel
        self._left_behind = False  # the commands' link has left a server that the subscriber's may be at
        self.refused: RedisError | None = None  # why Redis didn't let this node subscribe
        self._away: set[str] = set()  # the links whose loss was logged
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def channel(self) -> str:
        """The channel on which this node alone is told something."""
        return self.names.node + self.name

    @property
    def lease(self) -> int:
        """Seconds for which a heartbeat vouches for this node: two of the longest intervals."""
        return int(2 * IDLE * self._settings.redis_ping_interval + self._settings.redis_timeout) + 1

    @property
    def hearing(self) -> bool:
        """Whether the subscriber's link stands and has heard itself."""
        return self._proven

    @property
    def state(self) -> State:
        """``up`` when both links stand, nothing is refused, and the subscriber's has heard itself."""
        if self.commands is not None and self._proven:
            return "up"
        return "down" if self._number or self.refusal else "connecting"

    async def start(self) -> None:
        """Begin to keep the links; waits for the first ones as long as one command may take.

        Raises BackendError where trying again can't help: URL, password, rights, kind of server.
        """
        try:
            self._connection()
        except ValueError as error:
            raise BackendError(f"REDIS_URL can't be used: {error}") from None
        first = self._link()
        try:
            await first.connect()
        except RedisError as error:
            refusal = classify(error)
            if refusal.ends_start:
                raise BackendError(f"Redis refuses this server: {error}; {refusal.value}") from None
            log.warning("redis refuses connections, chats go on locally", why=str(error), fix=refusal.value)
        except LinkError as error:
            log.warning("redis is away, chats go on locally", why=str(error))
        first.close("probed")
        await first.run()
        self._tasks = [
            asyncio.create_task(self._keep_commands(), name="redis commands"),
            asyncio.create_task(self._keep_subscriber(), name="redis subscriber"),
            asyncio.create_task(self._keep_beating(), name="redis heartbeat"),
        ]

    async def close(self) -> None:
        """Let both links go. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        self.commands = self.standing = self.subscriber = None
        self._hears_itself = self._proven = False

    async def commands_after(self, broken: Link, seconds: float) -> bool:
        """Wait for the commands' link that follows a broken one; whether there is one within ``seconds``."""
        deadline = time.monotonic() + seconds
        while self.commands is None or self.commands is broken:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL)
        return True

    def beat_soon(self) -> None:
        """Have the next heartbeat now."""
        self._beat_now.set()

    def doubt(self, error: BaseException | None) -> bool:
        """Note what a command failed with; tell whether Redis is known to refuse everything, which is logged.

        Where a refusal itself doesn't say so, the next heartbeat tells. It also does where a command has
        stopped this link before: if a heartbeat was accepted since, only some keys or commands are refused.
        """
        if not isinstance(error, RedisError):
            return False
        if self.refusal is not None:
            self._refused += 1
        elif self.standing not in (None, self._stopped) and classify(error) is Refusal.WRONG_SERVER:
            self._stopped = self.standing
            self._refuse(error)
            self.beat_soon()
        else:
            self.beat_soon()
        return self.refusal is not None

    def _link(self, push: Push | None = None) -> Link:
        return Link(self._connection(), self._settings.redis_timeout, push, self._on_refused)

    def _connection(self) -> Connection:
        return connection(self._url, self._settings.redis_timeout, self._settings.redis_ca)

    async def _keep_commands(self) -> None:
        await self._keep("commands", self._link, self._commands_up, self._commands_down)

    async def _keep_subscriber(self) -> None:
        await self._keep(
            "subscriber", lambda: self._link(self._push), self._subscriber_up, self._subscriber_down
        )

    async def _keep(
        self, role: str, make: Callable[[], Link], up: Callable[[Link], None], down: Callable[[], None]
    ) -> None:
        """Connect, run, and connect again for ever; one line is logged when it goes and when it is back."""
        pause = FIRST_PAUSE
        while True:
            link = make()
            running: asyncio.Task[str] | None = None
            try:
                await link.connect()
                running = asyncio.create_task(link.run())
                up(link)
                why = await running
            except (LinkError, RedisError) as error:
                why = str(error)
            except asyncio.CancelledError:
                if running is not None:
                    running.cancel()
                    await asyncio.gather(running, return_exceptions=True)
                await link.disconnect()  # one that was cancelled before it began hasn't
                raise
            except Exception:
                log.exception("redis link failed", link=role)
                why = "an error of our own"
                link.close(why)
            if running is not None:
                await asyncio.gather(running, return_exceptions=True)
                down()
            if link.proven or link.replaced:
                pause = FIRST_PAUSE
            if not (link.replaced or role in self._away):
                log.warning("redis link lost", link=role, why=why)
                self._away.add(role)
            self.reconnects += 1
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 # nosec B311
            pause = min(LONGEST_PAUSE, pause * 2)

    def _prove_link(self, role: str, link: Link) -> None:
        """Note that a link is of use: it is only then that its loss would be news."""
        if not link.proven:
            link.proven = True
            log.info("Redis client connected", link=role, after_outage=role in self._away)
            self._away.discard(role)

    def _commands_up(self, link: Link) -> None:
        self.standing = link
        if self.refusal is None:
            self._begin(link)
        else:
            self._left_behind = self.subscriber is not None
        self.beat_soon()

    def _commands_down(self) -> None:
        self.standing = None
        if self.refusal is None:
            self._stop()

    def _begin(self, link: Link) -> None:
        """Have commands given again."""
        if self._was_up:
            self.found_at = time.monotonic()
        self._was_up = True
        self.commands = link
        self._on_commands()

    def _stop(self) -> None:
        self.commands = None

    def _refuse(self, error: RedisError) -> None:
        """Redis refuses commands: give none until it accepts a heartbeat."""
        self._refused += 1
        if self.refusal is None:
            self._refused_at = time.monotonic()
            self._stop()
            log.warning(
                "redis refuses commands, chats go on locally", why=str(error), fix=classify(error).value
            )
        self.refusal = error

    def _accept(self, link: Link) -> None:
        """Redis has accepted a heartbeat."""
        self._prove_link("commands", link)
        if self.refusal is not None and link is self.standing:
            seconds = round(time.monotonic() - self._refused_at, 1)
            log.info("redis accepts commands again", refused=self._refused, seconds=seconds)
            self.refusal, self._refused = None, 0
            self._begin(link)

    def _subscriber_up(self, link: Link) -> None:
        self._number += 1
        self.name = f"{self.node}:{self._number}"
        self.subscriber, self._left_behind = link, False
        self._heard = time.monotonic()
        self.beat_soon()
        link.tell("SUBSCRIBE", self.channel, self.names.all_nodes)

    def _subscriber_down(self) -> None:
        if self.subscriber is not None:
            self.refused = self.subscriber.refused
        self.subscriber = None
        until = "0"
        if self._proven and self._clock is not None:
            until = str(int(self._heard * 1000 + self._clock))
        self._hears_itself = self._proven = False
        self._beat_heard.set()  # nobody need wait for it any more
        self._on_deaf(until)

    def _push(self, answer: list[Any]) -> None:
        self._heard = time.monotonic()
        if answer[0] == b"message" and answer[2].startswith(BEAT) and answer[1] == self.channel.encode():
            if answer[2] == self._beat:
                self._beat_heard.set()
        elif answer[0] == b"subscribe" and answer[1] == self.channel.encode():
            self._hears_itself = True
            self.beat_soon()
        else:
            self._on_push(answer)

    async def _keep_beating(self) -> None:
        while True:
            settings = self._settings
            interval = settings.redis_ping_interval * (IDLE if self._idle() else 1)
            if self.refusal is not None:
                interval = min(interval, LONGEST_PAUSE)
            try:
                async with asyncio.timeout(interval):
                    await self._beat_now.wait()
            except TimeoutError:
                pass
            self._beat_now.clear()
            try:
                await self._prove()
            except LinkError as error:
                log.debug("heartbeat failed", why=str(error))
            except Exception:
                log.exception("heartbeat failed")

    async def _prove(self) -> None:
        """Send one heartbeat through the commands' link, and hear it on the subscriber's."""
        commands, subscriber, confirmed = self.standing, self.subscriber, self._hears_itself
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
        self._clock = int(now) - time.monotonic() * 1000
        self._accept(commands)
        if subscriber is not None and subscriber is self.subscriber:
            await self._hear_heartbeat(subscriber, confirmed, hearers)

    async def _hear_heartbeat(self, subscriber: Link, confirmed: bool, hearers: int) -> None:
        if not confirmed:
            # Its confirmation asks for a heartbeat; one that doesn't come has to be noticed too.
            if time.monotonic() - self._heard > self._settings.redis_timeout:
                subscriber.close("its subscription was not confirmed")
            return
        if hearers:
            self._counted, self._left_behind = True, False
        elif self._counted or self._left_behind:
            # A replica's clients hear what its primary publishes, but the primary doesn't count them.
            subscriber.close("it leads to another server than the commands' link")
            return
        try:
            async with asyncio.timeout(self._settings.redis_timeout):
                await self._beat_heard.wait()
        except TimeoutError:
            await asyncio.sleep(POLL)  # a process that stood still has it in its socket, unread
            if not self._beat_heard.is_set():
                subscriber.close("it did not hear its own heartbeat")
                return
        if not self._proven and self._hears_itself and subscriber is self.subscriber:
            self._proven = True
            self._prove_link("subscriber", subscriber)
            self._on_subscriber()

    @staticmethod
    def _replace_if_wrong(commands: Link, error: RedisError) -> None:
        """Connect anew where only that can help; a link that is new itself gets until the next heartbeat."""
        if classify(error) in (Refusal.WRONG_SERVER, Refusal.CREDENTIALS):
            if commands.proven or commands.refused is not None:
                commands.replaced = True
                commands.close(f"refused: {error}")
            commands.refused = error
