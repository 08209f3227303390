"""An independent client of the contract, plain HTTP beside it, and servers to use them on.

``Client`` speaks through the ``websockets`` package and ``http()`` through a bare TCP stream, so that
what they see is what stands on the wire, whatever the server's own parts think of it.
"""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from typing import Any, NamedTuple, Self
from unittest.mock import patch
from urllib.parse import quote

import jwt
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from eclipse_ws.server.server import Server
from tests.conftest import SECRET, make_settings
from tests.websocket.peer import open_descriptors

WAIT = 10.0
"""Seconds after which something that must happen counts as missing."""


def claims(chat: str = "c1", user: str = "u1", **given: object) -> dict[str, object]:
    """What the application puts into a token; ``given`` changes it, and None takes a claim out."""
    now = int(time.time())
    made: dict[str, object] = {
        "userId": user,
        "chatId": chat,
        "isAuthenticated": True,
        "iat": now,
        "exp": now + 7200,
        **given,
    }
    return {name: value for name, value in made.items() if value is not None}


def token(chat: str = "c1", user: str = "u1", *, secret: str = SECRET, **given: object) -> str:
    """A token as the application signs it."""
    return jwt.encode(claims(chat, user, **given), secret, algorithm="HS256")


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Let the loop run until the condition holds; fails after ``WAIT`` seconds."""
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, f"{what or condition} did not come true in {WAIT} s"
        await asyncio.sleep(0.002)


class Client:
    """One session as a client sees it. ``port`` is the server's, on loopback."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.connected: dict[str, Any] = {}
        self.skipped: list[dict[str, Any]] = []
        """Events that came while another type was waited for."""

    @classmethod
    async def open(
        cls, port: int, query: str = "", *, path: str = "/ws", greet: bool = False, **options: Any
    ) -> Self:
        """Upgrade with any query at all; the handshake is all that is waited for, unless ``greet``."""
        uri = f"ws://127.0.0.1:{port}{path}{'?' if query else ''}{query}"
        options = {"ping_interval": None, "close_timeout": 2, "compression": None, "proxy": None, **options}
        client = cls(await connect(uri, **options))
        if greet:
            client.connected = await client.next("connected")
        return client

    @classmethod
    async def join(
        cls, port: int, chat: str = "c1", user: str = "u1", *, cursor: str | None = None, **options: Any
    ) -> Self:
        """Join a chat as a user, and wait for the greeting; it is in ``connected`` then."""
        query = f"token={token(chat, user)}" + ("" if cursor is None else f"&cursor={quote(cursor)}")
        return await cls.open(port, query, greet=True, **options)

    async def say(self, **command: object) -> None:
        """Send one command."""
        await self.socket.send(json.dumps(command))

    async def raw(self, frame: str | bytes) -> None:
        """Send one frame, text or binary, whatever it holds."""
        await self.socket.send(frame)

    async def receive(self) -> dict[str, Any]:
        """The next event."""
        text = await asyncio.wait_for(self.socket.recv(), WAIT)
        assert isinstance(text, str), f"an event is a text frame, not {text!r}"
        event = json.loads(text)
        assert isinstance(event, dict)
        return event

    async def next(self, kind: str) -> dict[str, Any]:
        """The next event, which has to be of this type."""
        event = await self.receive()
        assert event["type"] == kind, f"expected {kind}, got {event}"
        return event

    async def seek(self, kind: str) -> dict[str, Any]:
        """The next event of this type; others on the way are kept in ``skipped``."""
        while (event := await self.receive())["type"] != kind:
            self.skipped.append(event)
        return event

    async def quiet(self) -> None:
        """Check that no event waits for this session: the next frame is the answer to a ping."""
        await self.say(type="ping")
        await self.next("pong")

    async def ended(self) -> tuple[int, str]:
        """The close code and reason; fails if an event comes first."""
        try:
            event = await asyncio.wait_for(self.socket.recv(), WAIT)
        except ConnectionClosed as closed:
            frame = closed.rcvd
            return (1006, "") if frame is None else (frame.code, frame.reason)
        raise AssertionError(f"expected the end, got {event!r}")

    async def close(self) -> None:
        """Leave, with the closing handshake."""
        await self.socket.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class Answer(NamedTuple):
    """An HTTP answer; header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body, which has to be JSON and say so."""
        assert self.headers["content-type"].startswith("application/json"), self
        return json.loads(self.body)


async def http(
    port: int,
    path: str,
    method: str = "GET",
    body: object = None,
    *,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One HTTP request on its own stream; a body other than bytes is sent as JSON."""
    payload = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close"]
    if payload or method in ("POST", "PUT", "PATCH"):
        lines.append(f"Content-Length: {len(payload)}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return await exchange(port, "\r\n".join(lines).encode() + b"\r\n\r\n" + payload)


async def exchange(port: int, request: bytes) -> Answer:
    """Send a request byte by byte as it is, and read the answer until the server ends it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await read_answer(reader, bodiless=request.startswith(b"HEAD "))
    finally:
        writer.close()
        await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader, bodiless: bool = False) -> Answer:
    """The next answer of a connection; without a length it goes on until the server ends it."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), WAIT)
    status, *fields = head.decode("latin-1").rstrip().split("\r\n")
    names = (field.partition(":") for field in fields)
    headers = {name.strip().lower(): value.strip() for name, _, value in names}
    code = int(status.split()[1])
    if code < 200 or bodiless:
        return Answer(code, headers, b"")
    length = headers.get("content-length")
    body = reader.read() if length is None else reader.readexactly(int(length))
    return Answer(code, headers, await asyncio.wait_for(body, WAIT))


UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "c2l4dGVlbiBieXRlcyBpdA==",
}
"""The headers of an upgrade, for ``http()``."""


QUICK: dict[str, object] = {"message_rate": 0, "command_rate": 0}


@asynccontextmanager
async def running(**given: object) -> AsyncIterator[Server]:
    """A started server with the tests' settings, some of them changed; stopped at the end.

    Rates are off unless they are given: a test is faster than people are, and has less patience. A name with
    a dot is a constant's path in the package, which has that value for as long as the server runs.
    """
    given = {"server.server.CLOSE_TIMEOUT": 1, **QUICK, **given}
    constants = {name: given.pop(name) for name in list(given) if "." in name}
    with ExitStack() as stack:
        for name, value in constants.items():
            stack.enter_context(patch(f"eclipse_ws.{name}", value))
        server = Server(make_settings(**given))
        await server.start()
        try:
            yield server
        finally:
            await server.stop()


def with_another_node(server: Server) -> None:
    """Make the server believe that another node takes its chats over, so that a drain takes its time."""

    async def hand_over() -> int:
        return 0

    server.delivery.hand_over = hand_over  # type: ignore[method-assign]


def subscriptions(server: Server) -> set[str]:
    """The chats that this server hears for its sessions."""
    chats = server.delivery._subscriptions._chats
    return {chat_id for chat_id, chat in chats.items() if chat.members}


@asynccontextmanager
async def leaving_nothing(server: Server) -> AsyncIterator[None]:
    """Whatever happens inside, the server has no more tasks and descriptors after it, and the same sessions
    and subscriptions. Fewer it may have: what an earlier test has left behind ends at some time.
    """

    def held() -> tuple[int, int, int, int, frozenset[str]]:
        return (
            len(asyncio.all_tasks()),
            open_descriptors(),
            server.hub.sessions,
            server.hub.chats,
            frozenset(subscriptions(server)),
        )

    def is_as_before() -> bool:
        tasks, descriptors, *rest = held()
        return tasks <= before[0] and descriptors <= before[1] and rest == list(before[2:])

    gc.collect()  # what earlier tests have left behind is closed as far as it can be
    before = held()
    yield
    try:
        await until(is_as_before)
    except AssertionError:
        tasks = "\n".join(map(repr, asyncio.all_tasks()))
        raise AssertionError(f"held {before} before, {held()} after; tasks now:\n{tasks}") from None
