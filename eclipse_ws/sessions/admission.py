"""Admission: which requests may upgrade, and which sessions may start. The session itself is in `session`."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Final, NamedTuple

import structlog
from tornado.web import Application, HTTPError

from eclipse_ws.protocol import CloseCode
from eclipse_ws.protocol.schema import ErrorBody
from eclipse_ws.security.client_address import Source
from eclipse_ws.security.jwt import Claims, TokenError, Verifier
from eclipse_ws.security.origins import shown
from eclipse_ws.security.senders import Sender
from eclipse_ws.sessions import health
from eclipse_ws.sessions.node import Node
from eclipse_ws.websocket import WireHandler
from eclipse_ws.websocket.opening import Request

log = structlog.get_logger("eclipse_ws.session")

SUBPROTOCOL: Final = "eclipse.v1"
BEARER: Final = "bearer."
Refusal = tuple[CloseCode, str | None]
"""How a session is closed; None for the code's own reason."""


class UpgradeRefusal(NamedTuple):
    """Why an upgrade is refused: the HTTP status, the name of the limit, the text, fields for the log."""

    status: int
    limit: str
    text: str
    fields: Mapping[str, str] = MappingProxyType({})


class UpgradeHandler(WireHandler):
    """Refuses an upgrade with an HTTP status (draining, origin, address, full node), and a session with a
    close code (`admit`: token, penalty, full chat), which a browser can read.
    """

    claims: Claims
    id = ""
    began = 0.0
    """Monotonic time of the upgrade, in seconds."""
    verifier: Verifier
    """The verifier that last accepted its token."""
    source: Source | None = None
    """The client's source, while the session counts against the source's and the node's limits."""
    has_joined = False
    """Whether it has used `join` or `leave`: then each event that it gets names its chat."""
    came: dict[str, float] | None = None
    """When it joined the chats that it did not begin in."""
    kinds: frozenset[str] = frozenset()
    """The types of ephemeral events that its client has asked for."""
    made_room = False
    """Whether it no longer counts as one of the node's sessions."""

    def initialize(self, node: Node) -> None:
        """Store what the routes pass to every handler."""
        self.node = node

    @property
    def address(self) -> str | None:
        """The client's address; None if addresses don't distinguish clients."""
        return None if self.source is None or self.source.shared else self.source.address

    @property
    def sender(self) -> Sender:
        """The sender whose budget and penalties this session shares."""
        claims = self.claims
        if claims.is_authenticated:
            return Sender(claims.chat_id, claims.user_id, is_account=True)
        return Sender(claims.chat_id, self.address or "", is_account=False)

    # -- before the upgrade -----------------------------------------------------------------------

    def set_default_headers(self) -> None:
        """Omit the server's name and version."""
        self.clear_header("Server")

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Upgrade; without an upgrade, ``/`` returns the health document."""
        if "websocket" not in self.request.headers.get("Upgrade", "").lower():
            if self.request.path == "/":
                await health.answer(self, self.node)
                return
            self.set_status(426)
            self.set_header("Upgrade", "websocket")
            self._finish_error("This is a WebSocket endpoint: connect with Upgrade: websocket")
            return
        if self.request.headers.get("Sec-WebSocket-Version") != "13":
            self.set_status(426)
            self.set_header("Sec-WebSocket-Version", "13")
            self._finish_error("The upgrade needs Sec-WebSocket-Version: 13 (RFC 6455)")
            return
        refusal = self._reserve()
        if refusal is not None:
            self.refuse(refusal)
            return
        try:
            await super().get(*args, **kwargs)
        finally:
            if "wire" not in self.__dict__:
                self.release()  # no session began, so `on_close` won't run

    @classmethod
    def upgrade(cls, application: Application, request: Request, taken: socket.socket, node: Node) -> bool:
        """Begin a session on a socket whose upgrade was parsed without Tornado, if it would be accepted.

        False changes nothing: Tornado then reads the request again, and `get` refuses it. Raises OSError if
        the system can't watch the socket.
        """
        handler = cls.for_upgrade(application, request, node=node)
        if handler is None or handler._reserve() is not None:
            return False
        try:
            handler.take(taken)
        except BaseException:
            handler.release()
            raise
        return True

    def _reserve(self) -> UpgradeRefusal | None:
        """Count the session, or return why it is refused, before anything is awaited.

        If it were counted later, any number of concurrent upgrades could take the same free place.
        """
        node, headers = self.node, self.request.headers
        if node.draining:
            return UpgradeRefusal(503, "draining", "The server is restarting; connect again")
        # Before Tornado's own check, which always accepts pages of the server's own host.
        origin = headers.get("Origin", headers.get("Sec-Websocket-Origin"))
        if origin is not None and not node.origins.allows(origin, headers.get("Host", "")):
            text = "Pages of this origin may not connect; it is not in the server's ALLOWED_ORIGINS"
            fields = {"origin": shown(origin), "why": node.origins.why}
            return UpgradeRefusal(403, "allowed_origins", text, fields)
        if node.sessions >= node.settings.max_sessions:
            return UpgradeRefusal(503, "max_sessions", "The server is full; try again later")
        source = node.sources.of_request(self.request)
        limit = node.addresses.upgrade(source, time.monotonic())
        if limit is not None:
            text = "Too many sessions or upgrades from this address; try again later"
            return UpgradeRefusal(429, limit, text)
        node.sessions += 1
        self.source = source
        return None

    def release(self) -> None:
        """Undo `_reserve`. Idempotent."""
        self._make_room()
        if self.source is not None:
            self.node.addresses.leave(self.source.address)
            self.source = None

    def _make_room(self) -> None:
        """Free the session's place on the node. Idempotent."""
        if self.source is not None and not self.made_room:
            self.made_room = True
            self.node.sessions -= 1

    def refuse(self, refusal: UpgradeRefusal) -> None:
        """Refuse the upgrade: count it, log it, respond."""
        self.node.counts.upgrades_refused[refusal.limit] += 1
        self.note("upgrade refused", refusal.limit, status=refusal.status, **refusal.fields)
        self.set_status(refusal.status)
        if refusal.status != 403:
            self.set_header("Retry-After", "5")
        self._finish_error(refusal.text, refusal.limit)

    def _finish_error(self, text: str, limit: str | None = None) -> None:
        self.finish(ErrorBody(text, limit).fields())

    def check_origin(self, origin: str) -> bool:
        """True: `get` has checked it already, for more requests than Tornado would."""
        return True

    def get_compression_options(self) -> dict[str, Any] | None:
        """Offer permessage-deflate if the setting ``compression`` is on."""
        return {} if self.node.settings.compression else None

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """Select ours if it is offered; the one that contains the token is never echoed."""
        return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None

    # -- after the upgrade ------------------------------------------------------------------------

    def admit(self) -> Refusal | None:
        """Verify the request's token and adopt its claims. Returns how to close the session, if refused."""
        token = self._token()
        self.id = secrets.token_hex(8)
        self.began = time.monotonic()
        try:
            self.live_by(self.node.verifier.verify(token))
        except TokenError as error:
            self.node.counts.upgrades_refused["token"] += 1
            self.note("session refused", "token", session=self.id, code=error.close.code, why=str(error))
            self._make_room()
            return error.close, None
        self.node.counts.started += 1
        if self.node.penalties.waits(self.sender, self.began):
            limit = "rate_penalty"
        elif self.node.hub.size(self.claims.chat_id) >= self.node.settings.max_sessions_per_chat:
            limit = "max_sessions_per_chat"
        else:
            return None
        self.node.counts.upgrades_refused[limit] += 1
        self.note("session refused", limit, session=self.id, chat=self.claims.chat_id)
        self._make_room()
        return CloseCode.RATE_LIMITED, CloseCode.RATE_LIMITED.with_detail(limit)

    def live_by(self, claims: Claims) -> None:
        """Adopt the claims of a token that was just verified."""
        self.claims, self.verifier = claims, self.node.verifier

    def note(self, event: str, limit: str, **fields: Any) -> None:
        """Count and log a refusal."""
        self.node.limits.refuse(limit)
        source = self.source
        if source is None and "request" in self.__dict__:
            source = self.node.sources.of_request(self.request)
        log.info(event, limit=limit, client_address=None if source is None else source.address, **fields)

    def _token(self) -> str:
        """The token from the URL, the Authorization header, or the subprotocol pair."""
        token = self.argument("token")
        if not token:
            scheme, _, value = self.request.headers.get("Authorization", "").partition(" ")
            token = value.strip() if scheme.lower() == "bearer" else ""
        if not token:
            offered = self.request.headers.get("Sec-WebSocket-Protocol", "").split(",")
            names = [name.strip() for name in offered]
            token = next((name.removeprefix(BEARER) for name in names if name.startswith(BEARER)), "")
        return token

    def argument(self, name: str) -> str | None:
        """The last URL argument of that name; bytes that are not UTF-8 become U+FFFD."""
        values = self.request.query_arguments.get(name)
        return values[-1].decode("utf-8", "replace").strip() if values else None

    # -- without an upgrade -----------------------------------------------------------------------

    async def head(self, *args: Any, **kwargs: Any) -> None:
        """Like GET without an upgrade, for monitors of ``/``."""
        if self.request.path != "/":
            raise HTTPError(405)
        await health.answer(self, self.node)

    def options(self, *args: Any, **kwargs: Any) -> None:
        """Answer a browser's CORS preflight for the health document at ``/``."""
        if self.request.path != "/":
            raise HTTPError(405)
        health.answer_preflight(self)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer ``{"error": ...}``."""
        if status_code == 405:
            self.set_header("Allow", health.METHODS if self.request.path == "/" else "GET")
        self._finish_error(self._reason)

    def log_exception(
        self,
        typ: type[BaseException] | None,
        value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        """Log unexpected exceptions only: an HTTPError is a response, which is in the access log."""
        if not isinstance(value, HTTPError):
            super().log_exception(typ, value, tb)
