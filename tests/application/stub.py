"""A stand-in for the application's chat API, whose behaviour a test can choose.

``python -m tests.application.stub --port N [--redis URL] [--secret S] [--honour-keys]`` runs it alone;
``--help`` lists how else it may answer, see Stub. It serves the application's two routes, saves messages in
memory, and besides:

- ``POST /control`` with a Fault's fields as JSON: the next requests fail in that way; ``{"mode": "ok"}``
  ends it.
- ``GET /saved`` answers ``{"messages": [...], "requests": n}``, ``?count=1`` the number alone; ``DELETE``
  forgets all.

With a Redis it publishes each saved message on ``chat:<chatId>`` before it answers, as the application does.
A visitor (``anon_...``) becomes a temporary user with an id of the database's own. A chat or user whose id
begins with ``missing`` does not exist. The database refuses content with NUL, a user whose id begins with
``deleted``, and one that it doesn't know: 500. A path that ends with a slash is redirected (308) before
anything else is checked, as Next.js does; or, with ``trailing_slash``, one that doesn't.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import socket
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import redis.asyncio
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

SECRET = "the-secret-that-both-sides-know-0123456789"
ROLES = ("USER", "ASSISTANT", "AGENT")
BYPASS = "x-vercel-protection-bypass"
PROTECTED = "<!doctype html><html><title>Authentication Required</title></html>"


@dataclass
class Fault:
    """How requests are answered while it lasts.

    ``mode``: ``ok``; ``status`` (with ``status``, ``body``, ``headers``); ``raw`` (``body`` as the answer's
    bytes); ``hang`` (no answer); ``reset`` (RST); ``close`` (FIN); ``truncate`` (half of the answer);
    ``twice`` (the answer again, unasked for). ``saves``: whether the message is saved all the same.
    ``delay``: seconds before anything. ``times``: requests that it lasts for, None for all. ``route``:
    ``send``, ``users`` or ``any``.
    """

    mode: str = "ok"
    status: int = 500
    body: str = '{"error": "Internal error"}'
    headers: dict[str, str] = field(default_factory=dict)
    saves: bool = False
    delay: float = 0.0
    times: int | None = None
    route: str = "any"


class Stub:
    """The stand-in: start it, read ``url``, choose a ``fault``, look at ``saved`` and ``requests``, stop
    it.

    How it answers, like one application or another:

    - ``users``: ids of the users that the database knows, besides visitors; None: it knows everybody.
    - ``numbers``: ids and ``createdAt`` (milliseconds) are numbers.
    - ``names_sender``: False leaves ``sender`` null.
    - ``trailing_slash``: Next.js' setting ``trailingSlash``: its routes end with a slash.
    - ``base_path``: its routes are below this path, and other paths are redirected there.
    - ``redirect``: the status of its redirects.
    - ``bypass``: deployment protection is in front: without this value in the header BYPASS, 401 with HTML.
    - ``delay``: seconds until it answers.
    """

    def __init__(self, secret: str = SECRET, redis_url: str = "", honours_keys: bool = False) -> None:
        self.secret = secret
        self.honours_keys = honours_keys
        self.users: frozenset[str] | None = None
        self.numbers = False
        self.names_sender = True
        self.trailing_slash = False
        self.base_path = ""
        self.redirect = 308
        self.bypass = ""
        self.delay = 0.0
        self.fault = Fault()
        self.saved: list[dict[str, Any]] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.connections: set[Any] = set()
        self.arrived = asyncio.Event()
        self.released = asyncio.Event()
        self.port = 0
        self._answers: dict[tuple[str, str], dict[str, Any]] = {}
        self._redis_url = redis_url
        self._redis: redis.asyncio.Redis | None = None

    @property
    def url(self) -> str:
        """What NEXT_API_URL has to be."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; ``port`` 0 takes a free one."""
        given = {"stub": self}
        application = Application(
            [
                (r"(?:/[a-z]+)?/api/chats/([^/]+)/messages/send/?", Send, given),
                (r"(?:/[a-z]+)?/api/users/([^/]+)/?", Users, given),
                (r"/control", Control, given),
                (r"/saved", Saved, given),
                (r"/.*", Elsewhere, given),
            ],
            log_function=lambda handler: None,
        )
        sockets = bind_sockets(port, "127.0.0.1")
        self.port = sockets[0].getsockname()[1]
        self.server = HTTPServer(application)
        self.server.add_sockets(sockets)
        if self._redis_url:
            self._redis = redis.asyncio.from_url(self._redis_url)

    async def stop(self) -> None:
        """Stop listening, and drop what is open."""
        self.released.set()
        self.server.stop()
        await self.server.close_all_connections()
        if self._redis is not None:
            await self._redis.aclose()

    def take_fault(self, route: str) -> Fault:
        """How this request is to be answered."""
        fault = self.fault
        if fault.route not in ("any", route):
            return Fault()
        if fault.times is not None:
            fault.times -= 1
            if fault.times <= 0:
                self.fault = Fault()
        return fault

    async def save(self, chat: str, draft: dict[str, Any], key: str | None) -> dict[str, Any]:
        """Save a message, publish it, and give what the application would answer."""
        if self.honours_keys and key and (chat, key) in self._answers:
            return self._answers[chat, key]
        now, number = datetime.now(UTC), len(self.saved) + 1
        created = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        message: dict[str, Any] = {
            "id": number if self.numbers else f"m{number}",
            "content": draft["content"],
            "role": draft["role"],
            "createdAt": int(now.timestamp() * 1000) if self.numbers else created,
            "sender": self.shown(author(draft["userId"])) if self.names_sender else None,
        }
        self.saved.append({"chatId": chat, "key": key, **draft, "id": message["id"], "createdAt": created})
        answer = {"success": True, "message": message}
        if key:
            self._answers[chat, key] = answer
        if self._redis is not None:
            await self._redis.publish(f"chat:{chat}", json.dumps(event_of(message)))
        return answer

    def knows(self, user: str) -> bool:
        """Whether the database has this user; a visitor is put into it."""
        return self.users is None or user in self.users or user.startswith("anon_")

    def shown(self, who: dict[str, Any]) -> dict[str, Any]:
        """A user as in answers: with a numeric id, if ids are numbers."""
        return {**who, "id": number_of(who["id"])} if self.numbers else who


def person(user: str, image: str) -> dict[str, Any]:
    """A user as the application knows them; visitors have an id and nothing else."""
    if user.startswith("anon_"):
        return {"id": user, "name": None, "email": None, image: None}
    return {"id": user, "name": f"Name of {user}", "email": f"{user}@example.org", image: None}


def author(user: str) -> dict[str, Any]:
    """Who wrote a message: visitors are mapped to users of the database's own."""
    if user.startswith("anon_"):
        return {
            "id": f"cm{hashlib.blake2b(user.encode(), digest_size=11).hexdigest()}",
            "name": None,
            "email": f"{user}@anonymous.temp",
            "avatar": None,
        }
    return person(user, "avatar")


def number_of(user: str) -> int:
    """The number that is a user's id in a database whose ids are numbers."""
    return (
        int(user)
        if user.isdecimal()
        else int.from_bytes(hashlib.blake2b(user.encode(), digest_size=4).digest())
    )


def event_of(message: dict[str, Any]) -> dict[str, Any]:
    """The event that the application publishes for a message."""
    data = {**message, "role": message["role"].lower(), "timestamp": message["createdAt"]}
    del data["createdAt"]
    return {"type": "message", "data": data, "timestamp": message["createdAt"]}


class Handler(RequestHandler):
    """What the routes share."""

    def initialize(self, stub: Stub) -> None:
        """Keep the stub."""
        self.stub = stub

    async def prepare(self) -> None:
        """Note the request; answer it here if deployment protection or a redirect comes before the route."""
        if self.request.path.startswith(("/control", "/saved")):
            return
        headers = dict(self.request.headers.get_all())
        self.stub.requests.append((self.request.method or "", self.request.uri or "", headers))
        self.stub.connections.add(self.request.connection.stream.socket.getpeername())  # type: ignore
        self.stub.arrived.set()
        if self.stub.delay:
            await asyncio.sleep(self.stub.delay)
        if self.stub.bypass and self.request.headers.get(BYPASS) != self.stub.bypass:
            self.set_status(401)
            self.set_header("Content-Type", "text/html; charset=utf-8")
            self.finish(PROTECTED)
            return
        path, base = self.request.path.rstrip("/"), self.stub.base_path
        if not path.startswith(f"{base}/api/"):
            if not base or not path.startswith("/api/"):
                self.nothing_here()
                return
            path = base + path
        path += "/" if self.stub.trailing_slash else ""
        if path != self.request.path:
            self.set_status(self.stub.redirect)
            self.set_header("Location", path)
            self.finish()

    def nothing_here(self) -> None:
        """Answer 404, as for any unknown path."""
        self.set_status(404)
        self.finish("<html>nothing here</html>")

    async def refuse(self, fault: Fault, answer: dict[str, Any] | None) -> bool:
        """Answer as the fault says; False if the request is to be answered as ever."""
        match fault.mode:
            case "ok":
                return False
            case "status":
                self.set_status(fault.status)
                for name, value in fault.headers.items():
                    self.set_header(name, value)
                self.finish(fault.body)
            case "hang":
                await self.stub.released.wait()
                self.detach().close()
            case "twice":
                text = json.dumps(answer)
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(text)}\r\n\r\n"
                await self.raw((head + text) * 2, close=False)
            case "raw":
                await self.raw(fault.body, close=True)
            case "truncate":
                await self.raw('HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"success": true', close=True)
            case "close":
                self.detach().close()
            case "reset":
                stream = self.detach()
                linger = struct.pack("ii", 1, 0)
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                stream.close()
            case _:
                raise ValueError(f"unknown mode {fault.mode!r}; see Fault")
        return True

    async def raw(self, text: str, close: bool) -> None:
        """Write bytes of our own on the socket, and close it if asked to."""
        stream = self.detach()
        try:
            await stream.write(text.encode())
            if not close:
                await self.stub.released.wait()
        except StreamClosedError:
            pass
        stream.close()

    def trusted(self) -> bool:
        """Whether the secret is right; answers 401 if not."""
        if self.request.headers.get("X-Internal-Secret") == self.stub.secret:
            return True
        self.set_status(401)
        self.finish({"error": "Unauthorized"})
        return False


class Send(Handler):
    """The route that saves a message."""

    async def post(self, chat: str) -> None:
        """Save it, or whatever the fault says."""
        fault = self.stub.take_fault("send")
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if not self.trusted():
            return
        draft = json.loads(self.request.body)
        answer = None
        if fault.saves or fault.mode in ("ok", "twice"):
            if chat.startswith("missing"):
                self.set_status(404)
                self.finish({"error": "Chat not found"})
                return
            if not draft.get("content") or draft.get("role") not in ROLES or not draft.get("userId"):
                self.set_status(400)
                self.finish({"error": "Missing required fields"})
                return
            user = str(draft["userId"])
            if "\0" in draft["content"] or user.startswith("deleted") or not self.stub.knows(user):
                self.set_status(500)
                self.finish({"error": "Failed to send message", "details": "Foreign key constraint violated"})
                return
            answer = await self.stub.save(chat, draft, self.request.headers.get("Idempotency-Key"))
        if not await self.refuse(fault, answer):
            self.finish(answer or {})


class Users(Handler):
    """The route that looks a user up."""

    async def get(self, user: str) -> None:
        """Answer the user, or whatever the fault says."""
        fault = self.stub.take_fault("users")
        if fault.delay:
            await asyncio.sleep(fault.delay)
        if not self.trusted() or await self.refuse(fault, None):
            return
        if user.startswith("missing") or not self.stub.knows(user):
            self.set_status(404)
            self.finish({"error": "User not found"})
            return
        self.finish(self.stub.shown(person(user, "image")))


class Control(Handler):
    """Chooses the fault."""

    def post(self) -> None:
        """Take a Fault's fields."""
        self.stub.fault = Fault(**json.loads(self.request.body))
        self.finish({"mode": self.stub.fault.mode})


class Saved(Handler):
    """What was saved."""

    def get(self) -> None:
        """Answer the messages, or their number."""
        counts = {"count": len(self.stub.saved), "requests": len(self.stub.requests)}
        listed = {"messages": self.stub.saved, "requests": len(self.stub.requests)}
        self.finish(counts if self.get_query_argument("count", "") else listed)

    def delete(self) -> None:
        """Forget everything."""
        self.stub.saved.clear()
        self.stub.requests.clear()
        self.finish({})


class Elsewhere(Handler):
    """Any other path: no request should come here."""

    get = post = Handler.nothing_here


async def main() -> None:
    """Run the stub until it is killed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--redis", default="", help="URL of a Redis to publish on")
    parser.add_argument("--secret", default=SECRET, help="what X-Internal-Secret has to be")
    parser.add_argument("--honour-keys", action="store_true", help="save once per Idempotency-Key")
    parser.add_argument("--users", help="ids, separated by commas, that the database knows; else everybody")
    parser.add_argument("--numbers", action="store_true", help="ids and createdAt are numbers")
    parser.add_argument("--no-sender", action="store_true", help="sender is null")
    parser.add_argument("--trailing-slash", action="store_true", help="308 to the path with a slash")
    parser.add_argument("--bypass", default="", help=f"401 with HTML without this value in {BYPASS}")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds until it answers")
    given = parser.parse_args()
    stub = Stub(given.secret, given.redis, given.honour_keys)
    stub.users = None if given.users is None else frozenset(given.users.split(","))
    stub.numbers, stub.names_sender = given.numbers, not given.no_sender
    stub.trailing_slash, stub.bypass, stub.delay = given.trailing_slash, given.bypass, given.delay
    await stub.start(given.port)
    print(f"listening on {stub.url}", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
