"""One connection to Redis: commands or subscriptions in, answers out, those of one loop turn in one write."""

from __future__ import annotations

import asyncio
import contextlib
import math
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import hiredis
import structlog
from redis._parsers.hiredis import NOT_ENOUGH_DATA
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
from eclipse_ws.config.redis_url import Server

log = structlog.get_logger("eclipse_ws.redis")

_POLLS_PER_TIMEOUT: Final = 4
_TURN: Final = 0.0005  # seconds of a turn of the loop that answers may take
Find = Callable[[], Awaitable[Sequence[Server]]]
"""Finds the servers that are said to be the primary, the likeliest first. Raises as connecting does."""


class DisconnectedError(Exception):
    """The connection is lost, or could not be opened; a command may or may not have run."""


def connection(url: str, timeout: float, ca: str = "") -> Connection:
    """Make redis-py's own connection, still closed, for a redis://, rediss:// or unix:// URL.

    ``ca`` is a PEM file of the certificate authorities to trust instead of the system's. Raises ValueError.
    """
    arguments: dict[str, Any] = dict(parse_url(url))
    kind = arguments.pop("connection_class", None)
    if kind is None:
        kind = UnixDomainSocketConnection if "path" in arguments else Connection
    arguments.update(
        protocol=2,  # cheaper to read than RESP3's pushes, and enough
        socket_connect_timeout=timeout,
        socket_timeout=None,  # the wrapper keeps the time itself
        decode_responses=False,
        client_name="eclipse-ws",
    )
    if kind is not UnixDomainSocketConnection:
        arguments["socket_keepalive"] = True
    made: Connection = kind(**arguments)
    if ca and isinstance(made, SSLConnection):
        about = made.ssl_context
        made.ssl_context = _Trust(
            about.keyfile, about.certfile, about.cert_reqs, ca_certs=ca, check_hostname=about.check_hostname
        )
    return made


class _Trust(RedisSSLContext):
    """Trusts only the authorities of one file; redis-py's own context trusts the system's, too."""

    __slots__ = ()

    def get(self) -> ssl.SSLContext:
        """A context for one connection. If the file is missing, connecting fails, and is tried again."""
        context = client_context(self.ca_certs or "")
        context.check_hostname, context.verify_mode = self.check_hostname, self.cert_reqs
        if self.certfile or self.keyfile:
            context.load_cert_chain(self.certfile or "", self.keyfile)
        return context


async def ask(made: Connection, timeout: float, *commands: Sequence[str]) -> list[Any]:
    """Open a connection for these commands only. Returns their answers.

    Raises DisconnectedError if they don't come within ``timeout`` seconds, or the RedisError of a server that
    refuses to answer.
    """
    try:
        async with asyncio.timeout(timeout):
            await made.connect()  # type: ignore[no-untyped-call]
            answers = []
            for command in commands:
                await made.send_command(*command)
                answers.append(await made.read_response())
            return answers
    except TimeoutError:
        raise DisconnectedError(f"no answer within {timeout:g} s") from None
    except (RedisError, OSError, ValueError) as error:  # ValueError: a host's name that can't be encoded
        if _is_refusal(error):
            raise
        raise DisconnectedError(str(error) or type(error).__name__) from error
    finally:
        await made.disconnect(nowait=True)


def _is_refusal(error: BaseException) -> bool:
    """Whether a server has refused to be opened or asked, rather than not been reached."""
    return isinstance(error, RedisError) and (is_answer(error) or isinstance(error, AuthenticationError))


class BaseConnection:
    """A connection that lives until it breaks, is closed, or gives no answer within ``timeout`` seconds.

    With ``find`` it leads to the first of the servers found that says of itself that it is a primary. One
    that can't be reached ends the attempt: fewer sentinels name those after it, so they may be primaries that
    were replaced and don't know it yet.
    """

    role = ""

    def __init__(self, made: Connection, timeout: float, find: Find | None = None) -> None:
        self._connection = made
        self._timeout = timeout
        self._find = find
        self._loop = asyncio.get_running_loop()
        self._outgoing: list[bytes] = []
        self._wake = asyncio.Event()
        self._stood_still = 0.0  # seconds in which this process did not run
        self._ended = asyncio.Event()
        self.server: Server | None = None
        """Where it leads, if that had to be found out."""
        self.broken = ""
        """Why it ended; "" while it hasn't."""
        self.proven = False
        """Whether it has worked, so that its loss is logged."""
        self.replaced = False
        """Whether it was ended because a new connection may lead to a better server."""

    async def connect(self) -> None:
        """Open and authenticate. Raises DisconnectedError, or the RedisError by which Redis refuses."""
        if self._find is None:
            await self._open()
            return
        for server in await self._find():
            self.server = server
            self._connection.host, self._connection.port = server
            if await self._open(ask_role=True) == b"master":
                return
            await self.disconnect()
        raise DisconnectedError(f"{self.server} is said to be the primary, but is a replica")

    async def _open(self, *, ask_role: bool = False) -> Any:
        """Open and authenticate. Returns the server's role, if it is asked for."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._connection.connect()  # type: ignore[no-untyped-call]
                if not ask_role:
                    return None
                await self._connection.send_command("ROLE")
                return (await self._connection.read_response())[0]
        except BaseException as error:
            await self.disconnect()
            if _is_refusal(error):
                raise
            if isinstance(error, (RedisError, OSError)):  # TimeoutError is one
                where = f"{self.server}: " if self.server else ""
                raise DisconnectedError(f"{where}{error or type(error).__name__}") from error
            raise

    async def run(self) -> str:
        """Carry commands and answers until the connection ends. Returns why it did."""
        tasks = [asyncio.create_task(part()) for part in (self._read, self._write, self._watch)]
        try:
            await self._ended.wait()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.disconnect()
            self.close("closed")
        return self.broken

    def close(self, why: str) -> None:
        """End the connection. Idempotent."""
        self.broken = self.broken or why
        self._ended.set()

    async def disconnect(self) -> None:
        """Close the socket. Idempotent."""
        with contextlib.suppress(RedisError, OSError, TimeoutError):
            await self._connection.disconnect(nowait=True)

    def send(self, *command: Any) -> None:
        """Queue a command."""
        self._outgoing.append(hiredis.pack_command(command))
        self._wake.set()

    def flush(self) -> None:
        """Queue what was put off until the next write."""

    async def _write(self) -> None:
        try:
            while True:
                await self._wake.wait()
                self.flush()
                self._wake.clear()
                batch, self._outgoing = self._outgoing, []
                await self._connection.send_packed_command(batch, check_health=False)
        except Exception as error:
            self.close(f"writing failed: {error}")

    async def _read(self) -> None:
        read, take = self._connection.read_response, self._take
        # Redis-py's parser has what came with the first answer; to await each of them costs more than all our
        # handling of it.
        gets = cast(Any, self._connection)._parser._reader.gets
        try:
            while True:
                answer: Any = None
                try:
                    answer = await read(timeout=math.inf, disconnect_on_error=False)
                except RedisError as error:
                    answer = error
                until = time.monotonic() + _TURN
                while answer is not NOT_ENOUGH_DATA:
                    if isinstance(answer, RedisError) and not is_answer(answer):
                        raise answer
                    take(answer)
                    answer = gets()
                    if time.monotonic() > until:
                        await asyncio.sleep(0)  # so that what was heard is written to the sessions
                        until = time.monotonic() + _TURN
        except Exception as error:
            self.close(f"reading failed: {error}")

    def _take(self, answer: Any) -> None:
        """Handle an answer, or a RedisError that is one."""
        raise NotImplementedError

    async def _watch(self) -> None:
        pause = self._timeout / _POLLS_PER_TIMEOUT
        while True:
            began = self._loop.time()
            await asyncio.sleep(pause)
            late = self._loop.time() - began - pause
            if late > pause:
                # This process was stopped or starved: the answers may be unread in the socket.
                self._stood_still += late
            elif self._now() - self._waiting_since() > self._timeout:
                self.close(f"no answer within {self._timeout:g} s")

    def _waiting_since(self) -> float:
        """Since when an answer is expected; now if none is."""
        return self._now()

    def _now(self) -> float:
        """The loop's time without the time in which this process did not run."""
        return self._loop.time() - self._stood_still


class CommandConnection(BaseConnection):
    """A pipelined connection: all callers share it, and each gets the answer to its own command."""

    role = "commands"

    def __init__(self, made: Connection, timeout: float, find: Find | None = None) -> None:
        super().__init__(made, timeout, find)
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._answered = 0.0  # when the last answer came: a server that works off a long queue isn't silent
        self._put_off: Callable[[], None] | None = None

    def call(self, *command: bytes | str | int | float) -> asyncio.Future[Any]:
        """Queue a command. The future raises DisconnectedError, or the RedisError that Redis answered."""
        future: asyncio.Future[Any] = self._loop.create_future()
        if self.broken:
            future.set_exception(DisconnectedError(self.broken))
            return future
        self.send(*command)
        self._waiting.append((future, self._now()))
        return future

    def before_next(self, send: Callable[[], None]) -> None:
        """Have this called once, before the next command is queued or the next write begins."""
        self._put_off = send
        self._wake.set()
        if self.broken:  # there is no next write
            self.flush()

    def flush(self) -> None:
        """Queue what was put off until the next write."""
        if self._put_off is not None:
            send, self._put_off = self._put_off, None
            send()

    def send(self, *command: Any) -> None:
        """Queue a command, after what was put off."""
        if self._put_off is not None:
            self.flush()
        super().send(*command)

    def close(self, why: str) -> None:
        """End the connection; callers that wait get DisconnectedError. Idempotent."""
        super().close(why)
        self.flush()
        waiting, self._waiting = self._waiting, deque()
        for future, _ in waiting:
            if not future.done():
                future.set_exception(DisconnectedError(self.broken))

    def _take(self, answer: Any) -> None:
        future, _ = self._waiting.popleft()
        self._answered = self._now()
        if future.done():
            return
        if isinstance(answer, RedisError):
            future.set_exception(answer)
        else:
            future.set_result(answer)

    def _waiting_since(self) -> float:
        return max(self._waiting[0][1], self._answered) if self._waiting else self._now()


class SubscriberConnection(BaseConnection):
    """A connection whose answers are pushes: messages, confirmations, and what Redis refuses."""

    role = "subscriber"

    def __init__(
        self,
        made: Connection,
        timeout: float,
        on_push: Callable[[list[Any]], None],
        on_refused: Callable[[RedisError], None],
        find: Find | None = None,
    ) -> None:
        super().__init__(made, timeout, find)
        self._on_push = on_push
        self._on_refused = on_refused

    def _take(self, answer: Any) -> None:
        try:
            if isinstance(answer, RedisError):
                self._on_refused(answer)
            else:
                self._on_push(answer)
        except Exception:
            # One push that can't be handled must not stop the node from hearing all others.
            log.exception("Redis push not handled")
