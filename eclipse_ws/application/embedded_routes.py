"""The application's HTTP routes, served by this server itself for the embedded API."""

from __future__ import annotations

import secrets
import time
from typing import Any, Final, cast

import jwt
import msgspec
from tornado.routing import URLSpec
from tornado.web import HTTPError, url

from eclipse_ws.application import embedded_reports
from eclipse_ws.application.embedded import EmbeddedApi
from eclipse_ws.application.embedded_chats import Status
from eclipse_ws.application.embedded_handler import Handler
from eclipse_ws.application.embedded_inbox import INBOX
from eclipse_ws.application.embedded_store import AGENTS
from eclipse_ws.protocol import MAX_CHATS, ROLES, Message, Role, bounded
from eclipse_ws.security.jwt import MAX_TOKEN, required

TOKEN_SECONDS: Final = 7200
"""Lifetime of a token, as the application's."""
MAX_HISTORY: Final = 1 << 20
"""Maximum characters of all messages in a response."""
MAX_QUERY: Final = 200
"""Maximum characters of what is searched for."""


class _Draft(msgspec.Struct):
    content: str
    role: Role
    userId: str  # noqa: N815 - the application's own spelling


class _Assignment(msgspec.Struct):
    agentId: str | None  # noqa: N815


_decode_draft = bounded(msgspec.json.Decoder(_Draft).decode)
_decode_assignment = bounded(msgspec.json.Decoder(_Assignment).decode)


def routes(api: EmbeddedApi) -> list[URLSpec]:
    """The application's routes, and what the agents' desk of the demo needs."""
    given = {"api": api}
    return [
        url(r"/api/chats/([^/]*)/messages/send", _Send, given),
        url(r"/api/chats/([^/]*)/messages", _History, given),
        url(r"/api/chats/([^/]*)/assign", _Assign, given),
        url(r"/api/chats/([^/]*)/close", _Close, given),
        url(r"/api/chats", _Chats, given),
        url(r"/api/users/([^/]*)", _Users, given),
        url(r"/api/ws/token", _Token, given),
        url(r"/api/agents", _Agents, given),
        *embedded_reports.routes(api),
    ]


class _Send(Handler):
    needs_secret = True
    takes_body = True

    async def post(self, chat: str) -> None:
        """Save a message and respond as the application does."""
        self.check_id(chat, "chatId")
        try:
            draft = _decode_draft(self.request.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise HTTPError(400, "the body must be {content, role, userId}, role in upper case") from None
        if not draft.content.strip():
            raise HTTPError(400, "content must not be blank")
        if len(draft.content) > self.api.settings.max_content:
            raise HTTPError(413, f"content has more than {self.api.settings.max_content} characters")
        self.check_id(draft.userId, "userId")
        key = self.request.headers.get("Idempotency-Key")
        message = await self.api.send_message(chat, draft.userId, draft.content, draft.role, key or None)
        self.answer({"success": True, "message": message})


class _History(Handler):
    async def get(self, chat: str) -> None:
        """The chat's last messages, oldest first; fewer than requested if they are very long."""
        limit = self.limit()
        messages: list[Message] = await self.api.history(self.check_id(chat, "chatId"), limit)
        left, first = MAX_HISTORY, len(messages)
        while first and (left := left - len(messages[first - 1].content)) >= 0:
            first -= 1
        self.answer({"messages": messages[first:]})


class _Chats(Handler):
    async def get(self) -> None:
        """A page of the chats, latest first; ``next`` is the ``before`` of the next page, null at the end.

        ``status`` selects open or closed ones, ``query`` those in whose id or latest messages it is found.
        """
        limit = self.limit()
        status = self.get_query_argument("status", None)
        if status not in (None, "open", "closed"):
            raise HTTPError(400, "status must be open or closed")
        query = self.get_query_argument("query", "")
        if len(query) > MAX_QUERY:
            raise HTTPError(400, f"query must have at most {MAX_QUERY} characters")
        chats = await self.api.chats(limit + 1, self.before(), cast(Status | None, status), query)
        following = chats[limit - 1].position if len(chats) > limit else None
        self.answer({"chats": chats[:limit], "next": following})


class _Assign(Handler):
    takes_body = True
    is_for_pages = True

    async def post(self, chat: str) -> None:
        """Give the chat to an agent, or to nobody: ``{chat}``."""
        self.check_id(chat, "chatId")
        try:
            agent = _decode_assignment(self.request.body).agentId
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise HTTPError(400, "the body must be {agentId}, null for nobody") from None
        if agent is not None and agent not in {known.id for known in AGENTS}:
            raise HTTPError(400, "agentId must be null or one of the ids at /api/agents")
        self.answer_chat(await self.api.assign(chat, agent))


class _Close(Handler):
    is_for_pages = True

    async def post(self, chat: str) -> None:
        """Close the chat, until its customer writes again: ``{chat}``."""
        self.answer_chat(await self.api.close_chat(self.check_id(chat, "chatId")))


class _Users(Handler):
    needs_secret = True

    async def get(self, user: str) -> None:
        """A user; requires the secret."""
        self.answer(await self.api.user(user))


class _Token(Handler):
    async def get(self) -> None:
        """A token for a visitor of the chat, for a given user, or for an agent.

        An agent's token also opens the inbox and the chats in ``chatIds``, which are separated by commas; it
        needs no ``chatId``.
        """
        chat = self.get_query_argument("chatId", "", strip=False)
        agent = self.get_query_argument("agent", "")
        user = self.get_query_argument("userId", "", strip=False)
        if agent:
            user = AGENTS[0].id if agent == "1" else agent
            if user not in {known.id for known in AGENTS}:
                raise HTTPError(400, "agent must be 1 or one of the ids at /api/agents")
        elif not user:
            user = f"anon_{time.time_ns() // 1_000_000}_{secrets.token_hex(6)}"
        opens: dict[str, Any] = {}
        if chat or not agent:
            opens["chatId"] = self.check_id(chat, "chatId")
        if agent:
            opens["chatIds"] = self._chat_ids()
        elif chat == INBOX:
            raise HTTPError(403, "Only an agent's token opens the inbox")
        now = int(time.time())
        claims = {
            "userId": self.check_id(user, "userId"),
            **opens,
            "isAuthenticated": bool(agent),
            "roles": ROLES if agent else ROLES[:1],
            "iat": now,
            "exp": now + TOKEN_SECONDS,
            **required(self.api.settings.jwt_issuer, self.api.settings.jwt_audience),
        }
        token = jwt.encode(claims, self.api.settings.jwt_secret.get_secret_value(), algorithm="HS256")
        if len(token) > MAX_TOKEN:
            raise HTTPError(400, f"chatIds make a token of more than {MAX_TOKEN} characters")
        scheme = "wss" if self.request.protocol == "https" else "ws"
        self.answer({"token": token, "wsUrl": f"{scheme}://{self.request.host}/ws", "userId": user, **opens})

    def _chat_ids(self) -> list[str]:
        asked = self.get_query_argument("chatIds", "", strip=False)
        found = list(dict.fromkeys([INBOX, *(asked.split(",") if asked else ())]))
        if len(found) > MAX_CHATS:
            raise HTTPError(400, f"chatIds must be at most {MAX_CHATS - 1}, beside the inbox")
        return [self.check_id(name, "each of chatIds") for name in found]


class _Agents(Handler):
    async def get(self) -> None:
        """The fictional agents."""
        self.answer({"agents": AGENTS})
