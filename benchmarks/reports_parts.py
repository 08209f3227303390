"""For `benchmarks.reports`: the application that gets them, and users who note when they were there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import time
from bisect import bisect_right
from collections import Counter, defaultdict
from typing import Final, NamedTuple

import msgspec
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application as WebApplication
from tornado.web import RequestHandler

from benchmarks.drain import SECRET, Node
from benchmarks.presence import Session

ANSWERS: Final = ("errors", "hangs", "repeats")
"""How the application fails: it answers 500, doesn't answer, or takes the reports and answers 500."""


class Told(NamedTuple):
    """A report, and when it came first."""

    at: float
    type: str
    chat: str
    user: str


class Application:
    """Takes the reports, each once by its id, and follows who is in the chats."""

    def __init__(self) -> None:
        self.told: list[Told] = []
        self.chats: dict[str, set[str]] = {}
        """The occupied chats, with their users."""
        self.counts: Counter[tuple[str, str, str]] = Counter()
        """Reports by type, chat and user."""
        self.senseless: list[Told] = []
        """Those that don't fit what was told before."""
        self.repeated = self.unsigned = self.failed = self.open_calls = 0
        self._seen: set[str] = set()
        self._last: dict[str, Told] = {}
        self.answers = "takes"
        self.over = asyncio.Event()
        routes = [("/chat-events", _Events, {"taker": self})]
        server = HTTPServer(WebApplication(routes, log_function=lambda handler: None))
        socket, self.port = bind_unused_port()
        server.add_socket(socket)

    @property
    def url(self) -> str:
        """For ECLIPSE_APP_EVENTS_URL."""
        return f"http://127.0.0.1:{self.port}/chat-events"

    def take(self, body: bytes, signature: str) -> bool:
        """Take a batch. False if it isn't signed."""
        right = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
        if not hmac.compare_digest(right, signature):
            self.unsigned += 1
            return False
        for report in msgspec.json.decode(body)["events"]:
            if report["id"] in self._seen:
                self.repeated += 1
                continue
            self._seen.add(report["id"])
            told = Told(time.monotonic(), report["type"], report["chatId"], report.get("userId", ""))
            self.told.append(told)
            self.counts[told[1:]] += 1
            if not self._fits(told):
                self.senseless.append(told)
            self._last[told.chat] = told
        return True

    def _fits(self, told: Told) -> bool:
        users, last = self.chats.get(told.chat), self._last.get(told.chat)
        if users is not None and not users and last is not None:
            # Nobody is in an occupied chat only between the first of these and the second.
            follows = {"chat_occupied": "user_joined", "user_left": "chat_vacated"}
            if told.type != follows.get(last.type, told.type):
                return False
        match told.type:
            case "chat_occupied":
                self.chats.setdefault(told.chat, set())
                return users is None
            case "chat_vacated":
                self.chats.pop(told.chat, None)
                return users == set()
            case "user_joined":
                fits = users is not None and told.user not in users
                self.chats.setdefault(told.chat, set()).add(told.user)
                return fits
            case "user_left":
                fits = users is not None and told.user in users
                self.chats.get(told.chat, set()).discard(told.user)
                return fits
        return False


class _Events(RequestHandler):
    def initialize(self, taker: Application) -> None:
        self._taker = taker

    async def post(self) -> None:
        application = self._taker
        if application.answers == "hangs":
            await application.over.wait()
            self.set_status(500)
            return
        if application.answers == "errors":
            application.failed += 1
            self.set_status(500)
            return
        is_signed = application.take(self.request.body, self.request.headers.get("X-Signature", ""))
        is_signed &= "X-Internal-Secret" not in self.request.headers
        application.failed += application.answers == "repeats"
        self.set_status(401 if not is_signed else 500 if application.answers == "repeats" else 204)


class User(Session):
    """A user who notes when they were there, on which node."""

    def __init__(self, user: str, chats: list[str]) -> None:
        super().__init__(user, chats)
        self.chat = chats[0]
        self.node: Node | None = None
        self.times: list[float] = []
        """When they came and went, in turn."""

    def _note(self) -> None:
        if self.is_open != len(self.times) % 2:
            self.times.append(time.monotonic())

    def hear(self, text: bytes) -> None:
        """See `WebSocket`."""
        super().hear(text)
        self._note()

    def connection_lost(self, error: Exception | None) -> None:
        """See `WebSocket`."""
        super().connection_lost(error)
        self._note()

    def leave(self) -> None:
        """See `Session`."""
        super().leave()
        self._note()

    def cut(self) -> None:
        """Reset the connection."""
        self.transport.abort()
        self.is_open = False
        self._note()

    async def connect(self, node: Node) -> None:
        """See `Session`."""
        self.node = node
        await super().connect(node)

    async def return_to(self, node: Node, after: float) -> None:
        """Connect after so many seconds; again if that fails."""
        await asyncio.sleep(after)
        while not self.is_open:
            with contextlib.suppress(OSError, TimeoutError):
                await self.connect(node)

    def was_there(self, since: float, until: float) -> bool:
        """Whether they were there all the time."""
        at = bisect_right(self.times, since)
        return at % 2 == 1 and (at == len(self.times) or self.times[at] > until)

    def longest_away(self, since: float) -> float:
        """The longest time for which they were away, of those that began since."""
        pairs = zip(self.times[1::2], self.times[2::2], strict=False)
        return max((came - went for went, came in pairs if went >= since), default=0.0)


class Users:
    """All users, by their chats."""

    def __init__(self, users: list[User]) -> None:
        self.all = users
        self.by_chat: dict[str, list[User]] = defaultdict(list)
        for user in users:
            self.by_chat[user.chat].append(user)

    def present(self) -> dict[str, set[str]]:
        """The chats with users, and these."""
        found: dict[str, set[str]] = {}
        for user in self.all:
            if user.is_open:
                found.setdefault(user.chat, set()).add(user.user)
        return found

    def wrong(self, told: list[Told]) -> tuple[int, int]:
        """Chats told to be vacated, and users told to have left, who had been there for a second."""
        chats = left = 0
        for report in told:
            there = [user for user in self.by_chat[report.chat] if user.was_there(report.at - 1, report.at)]
            chats += report.type == "chat_vacated" and bool(there)
            left += report.type == "user_left" and report.user in {user.user for user in there}
        return chats, left
