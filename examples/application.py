"""A minimal application for demonstration: two pages, tokens, and a store of messages.

Anybody who opens ``/agent`` is an agent here, and messages are kept in memory. A real application
authenticates users, checks whose chat it is, and saves a message once (docs/integrate-nextjs.md).

Reads ``PORT``, ``JWT_SECRET``, ``INTERNAL_API_SECRET``, and ``CHAT_URL``, the server's address for browsers.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import secrets
import time
from collections import deque
from datetime import UTC, datetime
from typing import Any

import jwt
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

CHAT = "a-demo-chat"
MAX_MESSAGES = 1000
CHAT_URL = os.environ["CHAT_URL"].rstrip("/")
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<link rel="icon" href="data:,">
<script type="module" src="{chat_url}/widget.js"></script>
<style>body {{ font: 16px/1.5 system-ui; margin: 3rem; max-width: 20rem }}</style>
<h1>{title}</h1>
<p>{text}</p>
<eclipse-chat token-url="{token_url}" chat-id="{chat}" {attributes}></eclipse-chat>
</html>
"""

messages: deque[dict[str, Any]] = deque(maxlen=MAX_MESSAGES)


def sender(user: str) -> dict[str, Any]:
    """A user as the server asks for them; a visitor has no name."""
    return {"id": user, "name": "Ada" if user == "agent" else None, "email": None}


class Page(RequestHandler):
    """A customer's page, or the agent's."""

    def initialize(self, **words: str) -> None:
        """Keep what the page says."""
        self.words = words

    def get(self) -> None:
        """Answer the page; a browser stays the same visitor."""
        if not self.get_cookie("visitor"):
            self.set_cookie("visitor", f"anon_{secrets.token_hex(8)}", httponly=True, samesite="Lax")
        self.finish(PAGE.format(chat=CHAT, chat_url=CHAT_URL, **self.words))


class Token(RequestHandler):
    """``GET /api/ws/token?chatId=...``: what the widget asks for before it connects."""

    def get(self) -> None:
        """Sign a token for the one chat that there is."""
        if self.get_query_argument("chatId", "") != CHAT:
            self.set_status(403)
            self.finish({"error": "Not your chat"})
            return
        agent = self.get_query_argument("agent", "") == "1"
        user = "agent" if agent else self.get_cookie("visitor") or f"anon_{secrets.token_hex(8)}"
        now = int(time.time())
        # Without `roles`, any account could write as an agent.
        roles = ["USER", "ASSISTANT", "AGENT"] if agent else ["USER"]
        claims = {"userId": user, "chatId": CHAT, "isAuthenticated": agent, "roles": roles}
        claims |= {"iat": now, "exp": now + 7200}
        token = jwt.encode(claims, os.environ["JWT_SECRET"], algorithm="HS256")
        self.set_header("Cache-Control", "no-store")
        self.finish(
            {
                "token": token,
                "wsUrl": f"{CHAT_URL.replace('http', 'ws', 1)}/ws",
                "userId": user,
                "chatId": CHAT,
            }
        )


class History(RequestHandler):
    """``GET /api/chats/{chatId}/messages``: what the widget shows first."""

    def get(self, chat: str) -> None:
        """Answer the chat's messages, oldest first."""
        self.finish({"messages": list(messages) if chat == CHAT else []})


class Internal(RequestHandler):
    """What only the server may ask."""

    def prepare(self) -> None:
        """Refuse requests without the secret."""
        given = self.request.headers.get("X-Internal-Secret", "").encode()
        if not hmac.compare_digest(given, os.environ["INTERNAL_API_SECRET"].encode()):
            self.set_status(401)
            self.finish({"error": "X-Internal-Secret is missing or wrong"})


class Send(Internal):
    """``POST /api/chats/{chatId}/messages/send``: the server has a message to save."""

    def post(self, chat: str) -> None:
        """Save it, and answer it as saved."""
        if chat != CHAT:
            self.set_status(404)
            self.finish({"error": "Chat not found"})
            return
        draft = json.loads(self.request.body)
        message = {
            "id": secrets.token_hex(8),
            "content": draft["content"],
            "role": draft["role"],
            "createdAt": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "sender": sender(draft["userId"]),
        }
        messages.append(message)
        self.finish({"success": True, "message": message})


class User(Internal):
    """``GET /api/users/{userId}``: the server wants to know who somebody is."""

    def get(self, user: str) -> None:
        """Answer the user."""
        self.finish({**sender(user), "image": None})


async def main() -> None:
    """Serve until the process is ended."""
    customer = {
        "title": "A shop",
        "text": 'Write in the corner, and answer from <a href="/agent" target="agent">the agent’s page</a>.',
        "token_url": "/api/ws/token",
        "attributes": "open",
    }
    agent = {
        "title": "An agent’s page",
        "text": 'Write from <a href="/" target="customer">the shop</a>, and answer here.',
        "token_url": "/api/ws/token?agent=1",
        "attributes": 'as="agent" open',
    }
    application = Application(
        [
            ("/", Page, customer),
            ("/agent", Page, agent),
            ("/api/ws/token", Token),
            ("/api/chats/([^/]+)/messages", History),
            ("/api/chats/([^/]+)/messages/send", Send),
            ("/api/users/([^/]+)", User),
        ],
        log_function=lambda handler: None,
    )
    HTTPServer(application).listen(int(os.environ["PORT"]))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
