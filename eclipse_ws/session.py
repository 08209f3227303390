"""The session: one authenticated socket, from its upgrade to its close."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Coroutine
from types import TracebackType
from typing import Any, ClassVar

import structlog
from tornado.web import HTTPError

from eclipse_ws import protocol
from eclipse_ws.auth import Claims, TokenError
from eclipse_ws.backends.base import BackendError
from eclipse_ws.node import Node
from eclipse_ws.protocol import CloseCode, CommandError, Cursor
from eclipse_ws.wire import WireHandler, text_frame

log = structlog.get_logger("eclipse_ws.session")

SUBPROTOCOL = "eclipse.v1"
BEARER = "bearer."


class ChatSession(WireHandler):
    """A socket in a chat. Commands are handled one after the other; bad ones are answered, never fatal."""

    # Plain counters over all sessions, read when metrics are scraped.
    counts: ClassVar[dict[str, int]] = {"started": 0, "ended": 0, "refused": 0, "errors": 0}
    wire_error_close = (CloseCode.INTERNAL_ERROR.code, CloseCode.INTERNAL_ERROR.reason)

    claims: Claims
    id = ""
    chats: tuple[str, ...] = ()
    commands_in = 0
    busy = False
    """Whether a command has begun and not ended."""
    retiring = False
    """Whether the session ends when its command does."""

    def initialize(self, node: Node) -> None:
        """Take what the application's routes give every handler."""
        self.node = node

    @property
    def user_id(self) -> str:
        """The user whom the token names."""
        return self.claims.user_id

    # -- the upgrade ----------------------------------------------------------------------------

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Upgrade; without one, ``/`` answers the health document."""
        if "websocket" not in self.request.headers.get("Upgrade", "").lower():
            if self.request.path == "/":
                self.write_health()
                return
            self.set_status(426)
            self.set_header("Upgrade", "websocket")
            self.finish({"error": "This is a WebSocket endpoint: connect with Upgrade: websocket"})
            return
        if self.node.draining:
            self.refuse(503, "draining", "The server is restarting; connect again")
            return
        if self.node.hub.sessions >= self.node.settings.max_sessions:
            self.refuse(503, "max_sessions", "The server holds as many sessions as it may; try again later")
            return
        await super().get(*args, **kwargs)

    def head(self, *args: Any, **kwargs: Any) -> None:
        """As GET without an upgrade, for whoever watches ``/``."""
        if self.request.path != "/":
            raise HTTPError(405)
        self.write_health()

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer ``{"error": ...}``."""
        if status_code == 405:
            self.set_header("Allow", "GET")
        self.finish({"error": self._reason})

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """An HTTPError is an answer, which the access log tells of; anything else is a fault."""
        if not isinstance(value, HTTPError):
            super().log_exception(typ, value, tb)

    def write_health(self) -> None:
        """Answer the health document; 503 while draining, so that the proxy routes elsewhere."""
        self.set_status(503 if self.node.draining else 200)
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Cache-Control", "no-store")
        self.finish(self.node.health())

    def refuse(self, status: int, limit: str, text: str) -> None:
        """Refuse the upgrade with an HTTP status, naming the limit that it ran into."""
        self.counts["refused"] += 1
        self.set_status(status)
        self.set_header("Retry-After", "5")
        self.finish({"error": text, "limit": limit})

    def check_origin(self, origin: str) -> bool:
        """Let every origin in: the token says who may come."""
        return True

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """Select ours if it is offered; the one that carries the token is never echoed."""
        return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None

    async def open(self, *args: str, **kwargs: str) -> None:
        """Verify the token, join the chat and greet; a refusal is a close code, which a browser can read."""
        # Read all that the request has to say now: after the upgrade it is let go.
        token, after = self._token(), self._argument("cursor")
        self.id = secrets.token_hex(8)
        self.began = time.monotonic()
        try:
            self.claims = self.node.verifier.verify(token)
        except TokenError as error:
            self.counts["refused"] += 1
            log.info("session refused", session=self.id, code=error.close.code, why=str(error))
            self.end(error.close)
            return
        self.counts["started"] += 1
        try:
            await self.node.hub.join(self.claims.chat_id, self, after, self._greeting)
        except BackendError as error:
            log.error("session failed", session=self.id, chat=self.claims.chat_id, why=str(error))
            self.end(CloseCode.INTERNAL_ERROR)
            return
        log.info(
            "session started",
            session=self.id,
            chat=self.claims.chat_id,
            user=self.user_id,
            resumed=after is not None,
        )

    def _token(self) -> str:
        """The token from the URL, the Authorization header, or the subprotocol pair."""
        token = self._argument("token")
        if not token:
            scheme, _, value = self.request.headers.get("Authorization", "").partition(" ")
            token = value.strip() if scheme.lower() == "bearer" else ""
        if not token:
            offered = self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
            names = [name.strip() for name in offered]
            token = next((name.removeprefix(BEARER) for name in names if name.startswith(BEARER)), "")
        return token

    def _argument(self, name: str) -> str | None:
        """The URL's last argument of that name; bytes that are not UTF-8 make it a wrong one, no error."""
        values = self.request.query_arguments.get(name)
        return values[-1].decode("utf-8", "replace").strip() if values else None

    def _greeting(self, cursor: Cursor | None, recovered: bool | None) -> bytes:
        body = protocol.connected(self.claims.chat_id, self.id, cursor, self.claims.expires_at, recovered)
        return text_frame(body)

    # -- commands -------------------------------------------------------------------------------

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        """Carry out one command; the next is not looked at before this one is done."""
        self.commands_in += 1
        try:
            command = protocol.decode_command(message)
            if command is None:
                return None
            outcome = self.node.commands.handle(self, command)
        except CommandError as error:
            self._answer(error)
            return None
        return None if outcome is None else self._carry_out(outcome)

    async def _carry_out(self, outcome: Coroutine[Any, Any, None]) -> None:
        self.busy = True
        self.node.under_way += 1
        try:
            await outcome
        except CommandError as error:
            self._answer(error)
        except Exception:
            log.exception("command failed", session=self.id, chat=self.claims.chat_id)
            self._answer(CommandError("Failed to process message", "internal_error", retryable=True))
        finally:
            self.busy = False
            self.node.under_way -= 1
            if self.retiring:
                self.end(CloseCode.RESTARTING)

    def _answer(self, error: CommandError) -> None:
        self.counts["errors"] += 1
        self.send(error.encode())

    def send(self, frame: bytes) -> None:
        """Send one event, as JSON text, to this session alone."""
        self.wire.send(text_frame(frame))

    # -- the end --------------------------------------------------------------------------------

    def end(self, close: CloseCode, reason: str | None = None) -> None:
        """Close the socket with one of the contract's codes."""
        self.wire.close(close.code, close.reason if reason is None else reason)

    def retire(self) -> None:
        """Close the socket with 1012 once the command that is under way, if one is, has its answer."""
        self.retiring = True
        if not self.busy:
            self.end(CloseCode.RESTARTING)

    def on_close(self) -> None:
        """Leave the chat, and say so in one line."""
        self.node.hub.leave(self)
        if hasattr(self, "claims"):
            self.counts["ended"] += 1
            log.info(
                "session ended",
                session=self.id,
                chat=self.claims.chat_id,
                user=self.user_id,
                code=self.close_code,
                seconds=round(time.monotonic() - self.began, 3),
                commands=self.commands_in,
            )
