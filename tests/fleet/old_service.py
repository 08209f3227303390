"""A stand-in for the old service: ``python -m tests.fleet.old_service``, settings from the environment.

It does what docs/protocol.md calls "today", its weaknesses among it: a member sees its own message by an
echo, by this server's own PUBLISH and by the application's; ``typing`` comes back to its sender; whatever
others publish on ``chat:<chatId>`` is passed on as it is. It knows no cursor, no ``ack`` and no replay.
It reads PORT, JWT_SECRET, INTERNAL_API_SECRET, NEXT_API_URL and REDIS_URL, and listens on loopback.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import jwt
import psutil
import redis.asyncio
from redis.exceptions import RedisError
from tornado.httpclient import AsyncHTTPClient, HTTPError, HTTPRequest
from tornado.web import Application
from tornado.websocket import WebSocketClosedError, WebSocketHandler

ROLES = ("USER", "ASSISTANT", "AGENT")
RETRY_SECONDS = 0.2


def timestamp() -> str:
    """The present time as events say it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Service:
    """What the process holds: its members by chat, its connections to Redis and to the application."""

    def __init__(self) -> None:
        self.members: dict[str, set[Member]] = {}
        self.began = time.monotonic()
        self.jwt_secret = os.environ["JWT_SECRET"]
        self.redis = redis.asyncio.from_url(os.environ["REDIS_URL"], protocol=2)
        self._api = os.environ["NEXT_API_URL"].rstrip("/")
        self._secret = os.environ["INTERNAL_API_SECRET"]
        self._http = AsyncHTTPClient()
        self._pubsub = self.redis.pubsub()
        self._subscribing = asyncio.Lock()

    async def listen(self) -> None:
        """Pass on whatever is published to the chats of this process."""
        while True:
            if not self._pubsub.subscribed:
                await asyncio.sleep(0.01)
                continue
            try:
                message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=1)
            except (RedisError, OSError):
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if message is not None:
                self.tell(message["channel"].decode().removeprefix("chat:"), message["data"].decode())

    async def enter(self, member: Member) -> None:
        """Take a member in; the first of a chat subscribes."""
        self.members.setdefault(member.chat, set()).add(member)
        async with self._subscribing:  # at once, they would open a connection each
            await self._pubsub.subscribe(f"chat:{member.chat}")

    def exit(self, member: Member) -> None:
        """Let a member go."""
        self.members.get(member.chat, set()).discard(member)

    def tell(self, chat: str, text: str, sender: Member | None = None) -> None:
        """Send to the members of a chat on this process, but for the sender."""
        for member in list(self.members.get(chat, ())):
            if member is not sender:
                member.put(text)

    async def publish(self, chat: str, text: str) -> None:
        """Publish for the other processes; this one hears it, too."""
        try:
            await self.redis.publish(f"chat:{chat}", text)
        except (RedisError, OSError):
            return  # it has reached the members of this process

    def health(self) -> dict[str, Any]:
        """The health document, with the fields of today."""
        used, total = psutil.Process().memory_info().rss, psutil.virtual_memory().total
        counts = {chat: len(members) for chat, members in self.members.items() if members}
        by_chat = [{"chatId": f"{chat[:8]}...", "count": count} for chat, count in counts.items()]
        return {
            "status": "healthy",
            "uptime": time.monotonic() - self.began,
            "connections": {"total": sum(counts.values()), "byChat": by_chat},
            "memory": {"used": used, "total": total, "percentage": 100 * used / total},
            "timestamp": timestamp(),
        }

    async def call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call the application; raises HTTPError and OSError."""
        request = HTTPRequest(
            self._api + path,
            method="GET" if body is None else "POST",
            headers={"Content-Type": "application/json", "X-Internal-Secret": self._secret},
            body=None if body is None else json.dumps(body),
        )
        answer: dict[str, Any] = json.loads((await self._http.fetch(request)).body)
        return answer


class Member(WebSocketHandler):
    """One socket, on whatever path."""

    chat = ""
    user = ""

    def initialize(self, service: Service) -> None:
        """Keep the service."""
        self.service = service

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Upgrade, or answer the health document."""
        if self.request.headers.get("Upgrade", "").lower() == "websocket":
            await super().get(*args, **kwargs)
        elif self.request.path in ("/", "/health"):
            self.set_header("Access-Control-Allow-Origin", "*")
            self.finish(self.service.health())
        else:
            self.send_error(404)

    def check_origin(self, origin: str) -> bool:
        """Every page may connect."""
        return True

    async def open(self, *args: str, **kwargs: str) -> None:
        """Greet clients with a valid token; close the others with a code."""
        token = self.get_query_argument("token", "")
        if not token:
            self.close(4001, "Missing authentication token")
            return
        try:
            claims = jwt.decode(token, self.service.jwt_secret, algorithms=["HS256"])
        except jwt.ExpiredSignatureError:
            self.close(4002, "Token expired")
            return
        except jwt.InvalidTokenError:
            self.close(4002, "Invalid token")
            return
        self.chat, self.user = claims.get("chatId", ""), claims.get("userId", "")
        if not self.chat or not self.user:
            self.close(4002, "Invalid token payload: missing userId or chatId")
            return
        await self.service.enter(self)
        self.put(json.dumps({"type": "connected", "chatId": self.chat, "timestamp": timestamp()}))

    def on_close(self) -> None:
        """Leave the chat."""
        self.service.exit(self)

    def put(self, text: str) -> None:
        """Send a frame to this member."""
        try:
            self.write_message(text)
        except WebSocketClosedError:
            self.service.exit(self)

    def refuse(self, why: str) -> None:
        """Send an error."""
        self.put(json.dumps({"type": "error", "error": why, "timestamp": timestamp()}))

    async def on_message(self, message: str | bytes) -> None:
        """Do what a frame says."""
        try:
            command = json.loads(message)
            kind = command.get("type")
        except (ValueError, AttributeError):
            self.refuse("Failed to process message")
            return
        match kind:
            case "message":
                await self.send(command.get("content"), command.get("role"))
            case "typing":
                await self.typing(command.get("isTyping"))
            case "agent_joined":
                await self.agent_joined()
            case "ping":
                self.put(json.dumps({"type": "pong", "timestamp": timestamp()}))
            case _:
                self.refuse("Unknown message type")

    async def send(self, content: Any, role: Any) -> None:
        """Save a message, echo it, and publish it."""
        if not isinstance(content, str) or not content.strip() or role not in ROLES:
            self.refuse("Missing content or role")
            return
        body = {"content": content, "role": role, "userId": self.user}
        try:
            answer = await self.service.call(f"/api/chats/{quote(self.chat, safe='')}/messages/send", body)
        except (HTTPError, OSError, ValueError):
            self.refuse("Failed to send message")
            return
        saved = answer["message"]
        data = {
            "id": saved["id"],
            "content": saved["content"],
            "role": saved["role"].lower(),
            "timestamp": saved["createdAt"],
            "sender": saved["sender"],
        }
        await self.spread({"type": "message", "data": data, "timestamp": timestamp()})

    async def typing(self, is_typing: Any) -> None:
        """Tell the others here, and everybody by way of Redis."""
        if isinstance(is_typing, bool):
            data = {"userId": self.user, "isTyping": is_typing}
            event = {"type": "typing", "data": data, "timestamp": timestamp()}
            await self.spread(event, self)

    async def agent_joined(self) -> None:
        """Tell the chat who has joined, by the name that the application knows."""
        try:
            user = await self.service.call(f"/api/users/{quote(self.user, safe='')}")
        except (HTTPError, OSError, ValueError):
            self.refuse("Failed to fetch agent info")
            return
        now = timestamp()
        name = user["name"] or user["email"] or "Agent"
        data = {"agentId": self.user, "agentName": name, "timestamp": now}
        await self.spread({"type": "agent_joined", "data": data, "timestamp": now})

    async def spread(self, event: dict[str, Any], sender: Member | None = None) -> None:
        """Send an event to the members here, and publish it."""
        text = json.dumps(event)
        self.service.tell(self.chat, text, sender)
        await self.service.publish(self.chat, text)


async def main() -> None:
    """Serve until the process is ended."""
    service = Service()
    routes = [(r"/.*", Member, {"service": service})]
    Application(routes, log_function=lambda handler: None).listen(int(os.environ["PORT"]), "127.0.0.1")
    await service.listen()


if __name__ == "__main__":
    asyncio.run(main())
