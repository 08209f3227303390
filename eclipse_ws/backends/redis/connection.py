"""One connection to Redis: commands in, answers out, everything of one loop turn in one write."""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog
from redis.asyncio.connection import (
    Connection,
    RedisSSLContext,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.exceptions import AuthenticationError, RedisError

from eclipse_ws.backends.redis.refusals import is_answer
from eclipse_ws.config.key_material import client_context

log = structlog.get_logger("eclipse_ws.redis")

Push = Callable[[list[Any]], None]
_POLLS_PER_TIMEOUT = 4


class LinkError(Exception):
    """The connection is gone, or has never come about; what was asked may or may not have been done."""


def connection(url: str, timeout: float, ca: str = "") -> Connection:
    """Make an unconnected connection of a redis://, rediss:// or unix:// URL. Raises ValueError.

    ``ca`` is the PEM file of the authorities that its certificate is held to, instead of the system's.
    """
    arguments: dict[str, Any] = dict(parse_url(url))
    kind = arguments.pop("connection_class", None)
    if kind is None:
        kind = UnixDomainSocketConnection if "path" in arguments else Connection
    arguments.update(
        protocol=2,  # cheaper to read than RESP3's pushes, and enough
        socket_connect_timeout=timeout,
        socket_timeout=None,  # the link keeps the time itself
        socket_keepalive=True,
        decode_responses=False,
        client_name="eclipse-ws",
    )
    if kind is UnixDomainSocketConnection:
        arguments.pop("socket_keepalive")
    made: Connection = kind(**arguments)
    if ca and isinstance(made, SSLConnection):
        about = made.ssl_context
        made.ssl_context = _Trust(
            about.keyfile, about.certfile, about.cert_reqs, ca_certs=ca, check_hostname=about.check_hostname
        )
    return made


class _Trust(RedisSSLContext):
    """What a connection trusts: one file's authorities; redis-py's own trusts the system's as well."""

    __slots__ = ()

    def get(self) -> ssl.SSLContext:
        """The context, made when the connection is: a file that has gone fails that, and is tried again."""
        context = client_context(self.ca_certs or "")
        context.check_hostname, context.verify_mode = self.check_hostname, self.cert_reqs
        if self.certfile or self.keyfile:
            context.load_cert_chain(self.certfile or "", self.keyfile)
        return context


class Link:
    """A pipelined connection. `call` queues a command; what one loop turn queues leaves in one write.

    With ``push`` it is a subscriber's: every answer goes there, and ``call`` returns nothing to wait for.
    What Redis refuses on it ends it, or goes to ``on_refused`` once it is ``proven``.
    A link on which commands wait and for ``timeout`` seconds nothing is answered ends.
    """

    def __init__(
        self,
        conn: Connection,
        timeout: float,
        push: Push | None = None,
        on_refused: Callable[[RedisError], object] | None = None,
    ) -> None:
        self._connection = conn
        self._timeout = timeout
        self._push = push
        self._on_refused = on_refused
        self._outgoing: list[bytes] = []
        self._wake = asyncio.Event()
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._loop = asyncio.get_running_loop()
        self._stood_still = 0.0  # seconds in which this process did not run
        self._broken: str | None = None
        self._ended = asyncio.Event()
        self._answered = 0.0  # when the last answer came: who works off a long queue isn't silent
        self.refused: RedisError | None = (
            None  # what Redis has refused on this link: a subscription, a heartbeat
        )
        self.proven = False  # it was of use
        self.replaced = False  # ended because another connection may lead to a better server

    async def connect(self) -> None:
        """Open and authenticate. Raises LinkError, or the RedisError by which Redis refuses."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._connection.connect()  # type: ignore[no-untyped-call]
        except BaseException as error:
            await self.disconnect()
            if isinstance(error, RedisError) and (is_answer(error) or isinstance(error, AuthenticationError)):
                raise
            if isinstance(error, (RedisError, OSError)):  # TimeoutError is one
                raise LinkError(str(error) or type(error).__name__) from error
            raise

    async def run(self) -> str:
        """Carry commands and answers until the link breaks; returns why it did."""
        tasks = [asyncio.create_task(part()) for part in (self._read, self._write, self._watch)]
        try:
            await self._ended.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.disconnect()
            self.close("closed")
        return self._broken or ""

    def close(self, why: str) -> None:
        """End the link; whoever waits gets LinkError. Idempotent."""
        if self._broken is None:
            self._broken = why
        self._ended.set()
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(LinkError(self._broken))

    def call(self, *command: bytes | str | int | float) -> asyncio.Future[Any]:
        """Queue a command. The future answers, or raises LinkError, or the RedisError that Redis answered."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._broken is not None:
            future.set_exception(LinkError(self._broken))
            return future
        self._waiting.append((future, self._now()))
        self._queue(command)
        return future

    def tell(self, *command: bytes | str) -> None:
        """Queue a subscriber's command, whose answers come as pushes."""
        if self._broken is None:
            self._queue(command)

    def _queue(self, command: tuple[Any, ...]) -> None:
        self._outgoing.extend(self._connection.pack_command(*command))
        self._wake.set()

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                batch, self._outgoing = self._outgoing, []
                await self._connection.send_packed_command(batch, check_health=False)
        except Exception as error:
            self.close(f"writing failed: {error}")

    async def _read(self) -> None:
        # Redis-py's own subscriber costs more per message than everything that we do with one.
        read = self._connection.read_response
        push = self._push
        try:
            while True:
                try:
                    answer = await read(timeout=math.inf, disconnect_on_error=False)
                except RedisError as error:
                    if not is_answer(error):
                        raise
                    answer = error
                if push is not None:
                    if isinstance(answer, RedisError) and self.proven and self._on_refused is not None:
                        self._on_refused(answer)  # what is subscribed stays so
                        continue
                    if isinstance(answer, RedisError):
                        self.refused = answer
                        self.close(f"subscribing was refused: {answer}")
                        return
                    try:
                        push(answer)
                    except Exception:
                        # One event that can't be handled must not deafen the node to all others.
                        log.exception("what redis has pushed could not be handled")
                    continue
                future, _ = self._waiting.popleft()
                self._answered = self._now()
                if future.done():
                    continue
                if isinstance(answer, RedisError):
                    future.set_exception(answer)
                else:
                    future.set_result(answer)
        except Exception as error:
            self.close(f"reading failed: {error}")

    async def _watch(self) -> None:
        pause = self._timeout / _POLLS_PER_TIMEOUT
        while True:
            began = self._loop.time()
            await asyncio.sleep(pause)
            late = self._loop.time() - began - pause
            if late > pause:
                # Stopped or starved: the answers lie unread in the socket, Redis is not to blame.
                self._stood_still += late
            elif self._waiting and self._now() - max(self._waiting[0][1], self._answered) > self._timeout:
                self.close(f"no answer within {self._timeout:g} s")

    def _now(self) -> float:
        """The loop's time without what this process has slept through."""
        return self._loop.time() - self._stood_still

    async def disconnect(self) -> None:
        """Close the socket. Idempotent."""
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self._connection.disconnect(nowait=True)
