"""A client of the suite: it follows the contract, and records everything that it sees."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import jwt
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from tests.chaos.application import name_of
from tests.chaos.cluster import HISTORY_SECONDS, JWT_SECRET
from tests.chaos.tries import MOST_TRIES, close_cost, error_cost, wait

if TYPE_CHECKING:
    from tests.chaos.cluster import Cluster, NodeProcess

QUIET = logging.getLogger("tests.chaos.client")
QUIET.setLevel(logging.WARNING)
"""At level debug every frame would be formatted."""
GREETING_SECONDS = 3.0
SILENCE_SECONDS = 2.0
ANSWER_SECONDS = 3.0
ACK_SECONDS = 11.0
SILENCE_COST = 2.0
UNKNOWN = "outcome_unknown"
PACE = 0.125
"""Seconds between messages of one client, which keeps it under a node's limit."""


@dataclass(slots=True)
class Sent:
    """A message that waits for its ack."""

    key: str
    content: str
    first: float = 0.0  # when the first of the attempts that got no answer was sent
    last: float = 0.0
    tries: float = 0.0  # what failed attempts have cost so far
    again: bool = False  # it was sent before, and the outcome isn't known
    resent: bool = False  # the attempt in progress says so


@dataclass(slots=True)
class Received:
    """One kept event as one connection got it."""

    name: str
    cursor: str | None
    at: float
    replayed: bool


@dataclass(slots=True)
class Visit:
    """One connection of a client, from its upgrade to its end."""

    node: str
    began: float
    after: str | None
    greeted: float = 0.0
    cursor: str | None = None
    recovered: bool | None = None
    received: list[Received] = field(default_factory=list)
    sent: list[tuple[float, str, bool]] = field(default_factory=list)
    """When, which key, and whether it said ``resend``."""
    ended: float = 0.0
    close: int = 0
    old: bool = False  # on an old service, which promises no order, and shows messages more than once


@dataclass(slots=True)
class Trouble:
    """An error event."""

    key: str | None
    code: str
    at: float


class Wire(asyncio.Protocol):
    """One socket: the WebSocket protocol without I/O on an asyncio transport."""

    def __init__(self, client: Client, url: str) -> None:
        self.client = client
        self.protocol = ClientProtocol(parse_uri(url), max_size=1 << 20, logger=QUIET)
        self.transport: asyncio.Transport | None = None
        self.abandoned = False
        self.status = 0
        self.retry_after = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Request the upgrade."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.protocol.send_request(self.protocol.connect())
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Take incoming bytes; an abandoned one reads them, and stays silent."""
        if self.abandoned:
            return
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            if isinstance(event, Frame):
                if event.opcode is Opcode.TEXT:
                    self.client.on_event(json.loads(bytes(event.data)))
            elif isinstance(self.protocol.handshake_exc, InvalidStatus):
                response = self.protocol.handshake_exc.response
                self.status = response.status_code
                self.retry_after = float(response.headers.get("Retry-After", 0))
        self.flush()

    def eof_received(self) -> None:
        """Note the end."""
        if not self.abandoned:
            self.protocol.receive_eof()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the client."""
        if not self.abandoned:
            self.client.on_end(self.status or self.protocol.close_code or 1006, self.retry_after)

    def send(self, value: dict[str, Any]) -> None:
        """Send one command, unless the end has begun: then it is sent again after the next greeting."""
        if self.protocol.state is not State.OPEN:
            return
        self.protocol.send_text(json.dumps(value).encode())
        self.flush()

    def flush(self) -> None:
        """Write the protocol's pending bytes."""
        if self.transport is None or self.transport.is_closing():
            return
        for data in self.protocol.data_to_send():
            if data:
                self.transport.write(data)
            else:
                self.transport.close()
        if self.protocol.close_expected() and self.protocol.state is State.CLOSED:
            self.transport.close()

    def close(self) -> None:
        """Say goodbye."""
        if self.protocol.state is State.OPEN:
            self.protocol.send_close(1000)
            self.flush()
        elif self.transport is not None:
            self.transport.abort()

    def reset(self) -> None:
        """End it by an RST."""
        if self.transport is not None:
            linger = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()


class Client:
    """One member of a chat: sends, retries, resumes, reloads. `tick` has to be called ten times a second."""

    key_seconds = 0.7 * HISTORY_SECONDS
    """After that a key may be forgotten: sending it again could save a message twice.

    Counted from the first attempt without an answer, as the history is short here and the waits are not: the
    JavaScript client, whose history is 15 times as long, counts from the last one.
    """

    def __init__(self, cluster: Cluster, chat: str, number: int, rate: float, chance: random.Random) -> None:
        self.cluster = cluster
        self.chat = chat
        self.number = number
        self.rate = rate  # messages a second; 0 sends nothing new
        self.chance = chance
        self.user = ""
        self.home = number % len(cluster.nodes)
        self.cursor: str | None = None
        self.visits: list[Visit] = []
        self.known: set[str] = set()  # ids that came by an event
        self.loaded: set[str] = set()  # ids that came by a load that the contract asks for
        self.loads = 0
        self.outbox: list[Sent] = []
        self.acked: dict[str, tuple[str, str]] = {}  # key -> (message id, delivery)
        self.unknown: dict[str, float] = {}
        self.refused: dict[str, str] = {}
        self.given_up: set[str] = set()
        self.troubles: list[Trouble] = []
        self.abandoned: list[Wire] = []
        self.closing = False
        self.sent = 0
        self._wire: Wire | None = None
        self._open = False
        self._head: Sent | None = None
        self._retry_at = 0.0
        self._next_send = 0.0
        self._heard = 0.0
        self._pinged = 0.0
        self._tries = 0
        self._paced = 0.0
        self._opening: asyncio.Task[None] | None = None

    @property
    def settled(self) -> bool:
        """Whether it is connected, and nothing of its own is open."""
        return self._open and not self.outbox

    # -- connecting -----------------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due."""
        if self.closing:
            return
        if self._wire is None:
            if now >= self._retry_at and self._opening is None:
                self._opening = asyncio.create_task(self._connect())
            return
        visit = self.visits[-1]
        if not self._open:
            if now - visit.began > GREETING_SECONDS:
                self.leave("black hole")
            return
        if self._pinged and now - self._pinged > ANSWER_SECONDS:
            self.leave("black hole")
            return
        if not self._pinged and now - self._heard > SILENCE_SECONDS:
            self._pinged = now
            self._wire.send({"type": "ping"})
        if self._head is not None and now - self._head.last > ACK_SECONDS:
            self._release(self._head, SILENCE_COST)
            self.leave("rst")
            return
        if self.rate and now >= self._next_send:
            if self._next_send:
                self._write(now)
            self._next_send = now + self.chance.expovariate(self.rate)
        self._pump(now)

    def forgive(self, seconds: float) -> None:
        """Don't count the time for which this process stood still."""
        self._heard += seconds
        if self._pinged:
            self._pinged += seconds
        if self._head is not None:
            self._head.last += seconds
        if self._wire is not None and not self._open:
            self.visits[-1].began += seconds

    def expects(self, at: float) -> bool:
        """Whether it has to get what was saved at that time: everything, as it resumes or loads the chat."""
        return True

    def next_node(self) -> NodeProcess:
        """Where it connects next."""
        nodes = self.cluster.nodes
        return nodes[self.home if not self.visits else self.chance.randrange(len(nodes))]

    def next_user(self) -> str:
        """Who it is from now on: half of them have an account; a visitor is somebody else each time."""
        return f"user-{self.number}" if self.number % 2 else f"anon_{len(self.visits)}_{self.number}"

    def url(self, node: NodeProcess) -> str:
        """Where to connect, with a new token."""
        self.user = self.next_user()
        claims = {
            "userId": self.user,
            "chatId": self.chat,
            "isAuthenticated": bool(self.number % 2),
            "iat": int(time.time()),
            "exp": int(time.time()) + 7200,
        }
        query = {"token": jwt.encode(claims, JWT_SECRET, algorithm="HS256")}
        if self.cursor is not None:
            query["cursor"] = self.cursor
        return f"ws://127.0.0.1:{node.port}/ws?{urlencode(query)}"

    async def _connect(self) -> None:
        node = self.next_node()
        wire = Wire(self, self.url(node))
        self.visits.append(Visit(node.name, time.monotonic(), self.cursor))
        self._wire = wire
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                await asyncio.get_running_loop().create_connection(lambda: wire, "127.0.0.1", node.port)
        except (OSError, TimeoutError):
            if self._wire is wire:
                self.on_end(0, 0)
        finally:
            self._opening = None

    def on_end(self, code: int, retry_after: float) -> None:
        """Wait as the close code requires, then reconnect."""
        now = time.monotonic()
        visit = self.visits[-1]
        visit.ended, visit.close = now, code
        self._wire, self._open, self._pinged, self._paced = None, False, 0.0, 0.0
        if self._head is not None:
            self._release(self._head, close_cost(code))
        self._tries += 1
        pause = self.chance.uniform(0.05, min(2.0, 0.2 * 2**self._tries))
        if code == 1012:
            pause = self.chance.uniform(0, 1.0)
        elif code == 4010:
            pause = self.chance.uniform(0, 2.0)  # the client of the widget spreads them over five seconds
        self._retry_at = now + max(pause, retry_after)

    def leave(self, how: str) -> None:
        """Lose the connection: ``rst``, ``fin``, ``black hole`` (reads no more) or ``half-open`` (stays
        silent).
        """
        wire = self._wire
        if wire is None or wire.transport is None:
            return
        if how == "rst":
            wire.reset()
        elif how == "fin":
            wire.transport.abort()
        else:
            wire.abandoned = True
            if how == "black hole":
                wire.transport.pause_reading()
            self.abandoned.append(wire)
            self.on_end(0, 0)

    def close(self) -> None:
        """Leave for good."""
        self.closing = True
        if self._opening is not None:
            self._opening.cancel()
        if self._wire is not None:
            self._wire.close()
        for wire in self.abandoned:
            if wire.transport is not None:
                wire.transport.abort()

    # -- sending --------------------------------------------------------------------------------

    def _write(self, now: float) -> None:
        self.sent += 1
        key = f"{self.chat}-{self.number}-{self.sent}"
        self.outbox.append(Sent(key, f"message {key}", first=now))
        if self.chance.random() < 0.3 and self._wire is not None:
            self._wire.send({"type": "typing", "isTyping": True})

    def _pump(self, now: float) -> None:
        if self._head is not None or not self.outbox or self._wire is None:
            return
        head = self.outbox[0]
        if head.again and now - head.first > self.key_seconds:
            self.given_up.add(head.key)
            self.outbox.pop(0)
            return
        if now < self._paced:
            return
        self._paced = now + PACE
        head.resent = head.again
        head.first = head.first if head.again else now
        head.last = now
        self._head = head
        self.visits[-1].sent.append((now, head.key, head.resent))
        self._wire.send(self.command(head))
        head.again = True

    def command(self, item: Sent) -> dict[str, Any]:
        """What it sends for a message."""
        command = {"type": "message", "content": item.content, "role": "USER", "clientMessageId": item.key}
        return {**command, "resend": True} if item.resent else command

    def _release(self, item: Sent, cost: float, code: str = UNKNOWN) -> None:
        """Send it again, unless its attempts have cost too much by now."""
        self._head = None
        item.tries += cost
        if cost and item.tries >= MOST_TRIES:
            self._fail(item, code)

    def _fail(self, item: Sent, code: str) -> None:
        if code == UNKNOWN:
            self.unknown[item.key] = time.monotonic()
        else:
            self.refused[item.key] = code
        self._done(item.key)

    def _done(self, key: str) -> None:
        self.outbox = [item for item in self.outbox if item.key != key]
        if self._head is not None and self._head.key == key:
            self._head = None

    # -- receiving ------------------------------------------------------------------------------

    def on_event(self, event: dict[str, Any]) -> None:
        """Record the event, and respond as the contract says."""
        now = self._heard = time.monotonic()
        self._pinged = 0.0
        visit = self.visits[-1]
        kind = event["type"]
        if kind == "connected":
            visit.greeted, visit.recovered, visit.cursor = now, event.get("recovered"), event.get("cursor")
            self._open = True
            self._tries = 0
            if not visit.recovered:
                self._load()
            self.cursor = event.get("cursor", self.cursor)
        elif kind == "ack":
            self.acked[event["clientMessageId"]] = (str(event["id"]), event["delivery"])
            self._done(event["clientMessageId"])
        elif kind == "error":
            self._on_error(event, now)
        elif kind not in ("pong", "typing"):
            self._on_kept(event, visit, now)
        self._pump(now)

    def _on_kept(self, event: dict[str, Any], visit: Visit, now: float) -> None:
        name = name_of(event)
        self.known.add(name.removeprefix("message:"))
        cursor = event.get("cursor")
        visit.received.append(Received(name, cursor, now, bool(visit.recovered)))
        if cursor is not None:
            self.cursor = cursor

    def _on_error(self, event: dict[str, Any], now: float) -> None:
        key, code = event.get("clientMessageId"), event.get("code", "")
        self.troubles.append(Trouble(key, code, now))
        item = next((item for item in self.outbox if item.key == key), None)
        if item is None:
            return
        if not event.get("retryable") or (code == UNKNOWN and not item.resent):
            self._fail(item, code)
        elif item is self._head:
            # It was answered: it is sent again as such only if an earlier attempt got no answer.
            item.again = item.resent
            self._release(item, error_cost(code), code)
            if item.tries < MOST_TRIES:
                self._paced = now + wait(item.tries, event.get("retryAfter"), self.chance)

    def _load(self) -> None:
        """Load the chat from the application, as it is in this moment."""
        self.loads += 1
        self.loaded.update(self.cluster.application.saved_in.get(self.chat, ()))
        # What is loaded is as it is now: with the changes made until then.
        self.loaded.update(
            name for name, chat in self.cluster.application.updates.items() if chat == self.chat
        )
