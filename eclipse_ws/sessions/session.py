"""The session: one authenticated socket, from its upgrade to its close."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Coroutine
from types import TracebackType
from typing import Any, NoReturn

import structlog
from tornado.web import HTTPError

from eclipse_ws import protocol
from eclipse_ws.backends.base import BackendError
from eclipse_ws.protocol import CloseCode, CommandError, Cursor
from eclipse_ws.security.jwt import Claims, TokenError, Verifier
from eclipse_ws.security.limits import COMMAND_LENGTH, REFUSED_TYPING, Budget, Source
from eclipse_ws.security.origins import shown
from eclipse_ws.security.senders import Sender
from eclipse_ws.sessions import health
from eclipse_ws.sessions.command_queue import CommandQueue
from eclipse_ws.sessions.node import Node
from eclipse_ws.websocket import WireHandler, text_frame

log = structlog.get_logger("eclipse_ws.session")

SUBPROTOCOL = "eclipse.v1"
BEARER = "bearer."


class ChatSession(WireHandler):
    """A socket in a chat. Bad commands are answered, never fatal.

    Commands that need the application are carried out one after the other, in their order, and wait for each
    other in a bounded queue; the others are carried out as they are read.
    """

    wire_error_close = (CloseCode.INTERNAL_ERROR.code, CloseCode.INTERNAL_ERROR.reason)
    wire_flood_close = (CloseCode.RATE_LIMITED.code, f"{CloseCode.RATE_LIMITED.reason}: frame_rate")

    claims: Claims
    id = ""
    chats: tuple[str, ...] = ()
    commands_in = 0
    began = 0.0
    """Monotonic seconds at which it was upgraded."""
    verifier: Verifier
    """What verified its token, or found later that the token is still good."""
    source: Source | None = None
    """Where it comes from, while it is counted there and as one of the node's sessions."""
    made_room = False
    """Whether it is not one of the node's sessions any more."""
    budget: Budget | None = None
    can_resume = False
    """Whether its client has shown that a reconnect costs it nothing: by a cursor, ``events``, our
    subprotocol, a clientMessageId or a refresh. Pages that know only the service of before show none of them.
    """
    under_way: asyncio.Task[None] | None = None
    """Carries out the commands that need the application, while there are any."""
    queue: CommandQueue | None = None
    """Those that wait, if any do."""
    retiring: tuple[CloseCode, str | None] | None = None
    """How the session ends when its commands have."""

    def initialize(self, node: Node) -> None:
        """Take what the application's routes give every handler."""
        self.node = node

    @property
    def user_id(self) -> str:
        """The user whom the token names."""
        return self.claims.user_id

    @property
    def expires(self) -> float:
        """Seconds since 1970 at which the token ends."""
        return self.claims.ends

    @property
    def address(self) -> str | None:
        """The client's address; None where clients can't be told apart by theirs."""
        return None if self.source is None or self.source.shared else self.source.address

    @property
    def gone(self) -> bool:
        """Whether the socket is lost; what was said before may still be handled."""
        return self.wire.is_lost

    @property
    def held(self) -> int:
        """Bytes of the commands that wait."""
        return 0 if self.queue is None else self.queue.held

    async def is_alive(self, seconds: float) -> bool:
        """Whether the client gives a sign of life within so many seconds."""
        return await self.wire.is_alive(seconds)

    # -- the upgrade ----------------------------------------------------------------------------

    def set_default_headers(self) -> None:
        """Tell strangers nothing of what they don't need."""
        self.clear_header("Server")

    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Upgrade; without one, ``/`` answers the health document."""
        if "websocket" not in self.request.headers.get("Upgrade", "").lower():
            if self.request.path == "/":
                health.answer(self, self.node)
                return
            self.set_status(426)
            self.set_header("Upgrade", "websocket")
            self.finish({"error": "This is a WebSocket endpoint: connect with Upgrade: websocket"})
            return
        if self.request.headers.get("Sec-WebSocket-Version") != "13":
            self.set_status(426)
            self.set_header("Sec-WebSocket-Version", "13")
            self.finish({"error": "The upgrade needs Sec-WebSocket-Version: 13 (RFC 6455)"})
            return
        if self.node.draining:
            self.refuse(503, "draining", "The server is restarting; connect again")
            return
        host = self.request.headers.get("Host", "")
        # Before Tornado's own check, which lets the server's own pages in anywhere.
        origin = self.request.headers.get("Origin", self.request.headers.get("Sec-Websocket-Origin"))
        if origin is not None and not self.node.origins.allows(origin, host):
            text = "Pages of this origin may not connect; it is not in the server's ALLOWED_ORIGINS"
            self.refuse(403, "allowed_origins", text, origin=shown(origin), why=self.node.origins.why)
            return
        if not self._reserve():
            return
        try:
            await super().get(*args, **kwargs)
        finally:
            if "wire" not in self.__dict__:
                self._release()  # no session has come of it, so none will end

    def _reserve(self) -> bool:
        """Count the session before anything is waited for, or refuse it.

        Counted later, any number of upgrades that are under way at once would find the same place free.
        """
        source = self._source()
        limit = self.node.addresses.upgrade(source, time.monotonic())
        if limit is not None:
            self.refuse(429, limit, "Too many sessions or upgrades from this address; try again later")
            return False
        if self.node.sessions >= self.node.settings.max_sessions:
            self.node.addresses.leave(source.address)
            self.refuse(503, "max_sessions", "The server holds as many sessions as it may; try again later")
            return False
        self.node.sessions += 1
        self.source = source
        return True

    def _release(self) -> None:
        """Give back what `_reserve` has counted. Idempotent."""
        self._make_room()
        if self.source is not None:
            self.node.addresses.leave(self.source.address)
            self.source = None

    def _make_room(self) -> None:
        """Leave the session's place on the node to others. Idempotent."""
        if self.source is not None and not self.made_room:
            self.made_room = True
            self.node.sessions -= 1

    def head(self, *args: Any, **kwargs: Any) -> None:
        """As GET without an upgrade, for whoever watches ``/``."""
        if self.request.path != "/":
            raise HTTPError(405)
        health.answer(self, self.node)

    def options(self, *args: Any, **kwargs: Any) -> None:
        """Answer a browser's preflight for the health document at ``/``."""
        if self.request.path != "/":
            raise HTTPError(405)
        health.answer_preflight(self)

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Answer ``{"error": ...}``."""
        if status_code == 405:
            self.set_header("Allow", health.METHODS if self.request.path == "/" else "GET")
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

    def refuse(self, status: int, limit: str, text: str, **fields: Any) -> None:
        """Refuse the upgrade with an HTTP status, naming the limit that it ran into; log the fields, too."""
        self.node.counts.refused += 1
        self._note("upgrade refused", limit, status=status, **fields)
        self.set_status(status)
        if status != 403:
            self.set_header("Retry-After", "5")
        self.finish({"error": text, "limit": limit})

    def check_origin(self, origin: str) -> bool:
        """Was done before, for more than Tornado asks about."""
        return True

    def get_compression_options(self) -> dict[str, Any] | None:
        """Offer permessage-deflate where the setting ``compression`` says so."""
        return {} if self.node.settings.compression else None

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        """Select ours if it is offered; the one that carries the token is never echoed."""
        return SUBPROTOCOL if SUBPROTOCOL in subprotocols else None

    async def open(self, *args: str, **kwargs: str) -> None:
        """Verify the token, join the chat and greet; a refusal is a close code, which a browser can read."""
        # Read all that the request has to say now: after the upgrade it is let go.
        token, after = self._token(), self._argument("cursor")
        if (after, self._argument("events"), self.selected_subprotocol) != (None, None, None):
            self.can_resume = True
        self.id = secrets.token_hex(8)
        self.began = time.monotonic()
        try:
            self._live_by(self.node.verifier.verify(token))
        except TokenError as error:
            self.node.counts.refused += 1
            self._note("session refused", "token", session=self.id, code=error.close.code, why=str(error))
            self._make_room()
            self.end(error.close)
            return
        self.node.counts.started += 1
        limit = None
        if self.node.penalties.waits(self._sender(), self.began):
            limit = "rate_penalty"
        elif self.node.hub.size(self.claims.chat_id) >= self.node.settings.max_sessions_per_chat:
            limit = "max_sessions_per_chat"
        if limit is not None:
            self._note("session refused", limit, session=self.id, chat=self.claims.chat_id)
            self._make_room()
            self.end(CloseCode.RATE_LIMITED, _reason(limit))
            return
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

    def _live_by(self, claims: Claims) -> None:
        """Take what a token says that was verified just now."""
        self.claims, self.verifier = claims, self.node.verifier

    def _sender(self) -> Sender:
        """Whose budget and penalties this session shares."""
        claims = self.claims
        if claims.is_authenticated:
            return Sender(claims.chat_id, claims.user_id, is_account=True)
        return Sender(claims.chat_id, self.address or "", is_account=False)

    def _source(self) -> Source:
        """Where the request comes from."""
        header = self.request.headers.get(self.node.sources.header)
        return self.node.sources.of(self.request.remote_ip or "", header)

    def _note(self, event: str, limit: str, **fields: Any) -> None:
        """Count a refusal, and log it."""
        self.node.limits.refuse(limit)
        source = self.source or (self._source() if "request" in self.__dict__ else None)
        log.info(event, limit=limit, address=None if source is None else source.address, **fields)

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
        """Carry out a command at once, or in its turn if it needs the application.

        What is returned has to be done before the next command is read: that is room in a full queue.
        """
        if self.retiring is not None:
            return self.under_way  # nothing more is read: the session ends with its last command
        self.commands_in += 1
        try:
            if self.node.limits.rated:
                command = self._within_rates(message)
            else:
                command = protocol.decode_command(message)
            if command is None:
                return None
            key = _key(command)
            self._check(command, key)
            if type(command) is protocol.Refresh:
                self.can_resume = True
                self._refresh(command.token)
                return None
            outcome = self.node.commands.handle(self, command)
        except CommandError as error:
            if error.client_message_id is not None:
                self.can_resume = True
            self._answer(error)
            return None
        if outcome is None:
            return None
        if key is not None:
            self.can_resume = True
        # Already now: the coroutine begins only with the loop's next turn, and a close may come before.
        self.node.under_way += 1
        if self.under_way is None:
            self.under_way = asyncio.get_running_loop().create_task(self._carry_out(outcome, key))
            return None
        if self.queue is None:
            self.queue = CommandQueue()
        said = command.content if type(command) is protocol.SendMessage else ""
        return self.queue.put(outcome, key, said)

    def _within_rates(self, message: str | bytes) -> protocol.Command | None:
        """Decode a command if the session may give one now. Raises CommandError."""
        budget = self.budget
        if budget is None:
            budget = self.budget = Budget(self.node.limits)
        now = time.monotonic()
        if wait := budget.command(now, len(message)):
            self._exceeded("command_rate", wait, now, *_key_and_cost(message))
        command = protocol.decode_command(message)
        if type(command) is protocol.Typing:
            if wait := budget.typing(now):
                self._exceeded("typing_rate", wait, now, None, REFUSED_TYPING)
            if self.node.hub.is_loud(self.claims.chat_id, now):
                return None  # nobody waits for an answer to it
        return command

    def _exceeded(self, limit: str, wait: float, now: float, key: str | None, cost: float = 1.0) -> NoReturn:
        """Tell the client when to go on; if it has been told often, end the session. ``cost`` is what the
        command counts of a refusal.
        """
        self._note("command refused", limit, session=self.id, chat=self.claims.chat_id)
        if self.budget is not None and not self.budget.forgives(now, cost) and not self.wire.is_closing:
            self._note("session closed", "rate_patience", session=self.id, chat=self.claims.chat_id)
            self._punish(now)
            self.retire(CloseCode.RATE_LIMITED, _reason(limit))
        raise CommandError(
            _reason(limit), "rate_limited", retryable=True, retry_after=wait, client_message_id=key
        )

    def on_flood(self) -> None:
        """The client floods with frames that are no commands: it is treated as after too many commands."""
        self._note("session closed", "frame_rate", session=self.id, chat=self.claims.chat_id)
        self._punish(time.monotonic())

    def _punish(self, now: float) -> None:
        """The session is closed for its rate: for a while its sender can't come back."""
        self.node.limits.closed += 1
        self.node.penalties.punish(self._sender(), now)

    def _check(self, command: protocol.Command, key: str | None) -> None:
        """Hold a command against who the user is and how much it may say; raises CommandError."""
        if not self.claims.permits(command, self.node.settings.default_roles):
            self._note("command refused", "forbidden", session=self.id, chat=self.claims.chat_id)
            raise CommandError("Not allowed for this user", "forbidden", client_message_id=key)
        if type(command) is protocol.SendMessage:
            most = self.node.settings.max_content
            if len(command.content) > most:
                self._note("command refused", "max_content", session=self.id, chat=self.claims.chat_id)
                text = f"Content too long: at most {most} characters (max_content)"
                raise CommandError(text, "content_too_long", client_message_id=key)
            if self.node.limits.rated:
                now = time.monotonic()
                refusal = self.node.shares.message(self._sender(), command.content, now)
                if refusal is not None:
                    self._exceeded(*refusal, now, key)

    def _refresh(self, token: str) -> None:
        """Live as long as a new token for the same user and chat. Raises CommandError."""
        self.node.commands.handled["refresh"] += 1
        try:
            claims = self.node.verifier.verify(token)
        except TokenError as error:
            self._note("refresh refused", "token", session=self.id, why=str(error))
            code = "token_expired" if error.close is CloseCode.TOKEN_EXPIRED else "invalid_token"
            raise CommandError(error.close.reason, code) from None
        if (claims.user_id, claims.chat_id) != (self.claims.user_id, self.claims.chat_id):
            self._note("refresh refused", "forbidden", session=self.id, chat=self.claims.chat_id)
            raise CommandError("The token is for another user or chat", "forbidden")
        self._live_by(claims)
        self.send(protocol.refreshed(claims.expires_at))

    async def _carry_out(self, outcome: Coroutine[Any, Any, None], key: str | None) -> None:
        """Carry out a command, and those that have queued behind it."""
        try:
            while True:
                try:
                    await outcome
                except CommandError as error:
                    self._answer(error)
                except Exception:
                    log.exception("command failed", session=self.id, chat=self.claims.chat_id)
                    text = "Failed to process message"
                    self._answer(CommandError(text, "internal_error", retryable=True, client_message_id=key))
                finally:
                    self.node.under_way -= 1
                if self.queue is None:
                    return
                outcome, key, _ = self.queue.take()
                if not self.queue:
                    self.queue = None
        except asyncio.CancelledError:
            self.end(CloseCode.INTERNAL_ERROR)  # what was said is not carried out any more
            raise
        finally:
            self.under_way = None
            if self.retiring is not None:
                self.end(*self.retiring)

    def _refuse_queued(self) -> None:
        """Answer the commands that wait, and carry them out no more. Idempotent."""
        queue, self.queue = self.queue, None
        while queue:
            work, key, _ = queue.take()
            work.close()
            self.node.under_way -= 1
            text = "Failed to process message"
            self._answer(CommandError(text, "session_ended", retryable=True, client_message_id=key))

    def _answer(self, error: CommandError) -> None:
        self.node.counts.errors += 1
        self.send(error.encode())

    def send(self, frame: bytes) -> None:
        """Send one event, as JSON text, to this session alone."""
        self.wire.send(text_frame(frame))

    # -- the end --------------------------------------------------------------------------------

    def end(self, close: CloseCode, reason: str | None = None) -> None:
        """Close the socket with one of the contract's codes; commands that have not begun never will."""
        self._refuse_queued()
        self.wire.close(close.code, close.reason if reason is None else reason)

    def retire(self, close: CloseCode = CloseCode.RESTARTING, reason: str | None = None) -> None:
        """Close the socket once the commands that were read have their answers; no more are read.

        They have ``api_timeout`` together: a command that hasn't begun then is refused.
        """
        if self.retiring is None:
            self.retiring = close, reason
            if self.queue is not None:
                patience = self.node.settings.api_timeout
                asyncio.get_running_loop().call_later(patience, self._refuse_queued)
        if self.under_way is None:
            self.end(*self.retiring)

    def on_close(self) -> None:
        """Leave the chat, and say so in one line."""
        self._refuse_queued()
        self._release()
        self.node.hub.leave(self)
        if hasattr(self, "claims"):
            self.node.counts.ended += 1
            log.info(
                "session ended",
                session=self.id,
                chat=self.claims.chat_id,
                user=self.user_id,
                code=self.close_code,
                seconds=round(time.monotonic() - self.began, 3),
                commands=self.commands_in,
            )


def _reason(limit: str) -> str:
    """What a client is told that ran into a limit: the contract's words, and which limit it was."""
    return f"{CloseCode.RATE_LIMITED.reason}: {limit}"


def _key_and_cost(message: str | bytes) -> tuple[str | None, float]:
    """The clientMessageId of a command that is refused, so that its sender knows which it was, and what the
    command counts of a refusal.
    """
    try:
        command = protocol.decode_command(message)
    except CommandError as error:
        return error.client_message_id, 1.0
    if command is None or type(command) is protocol.Typing:
        return None, REFUSED_TYPING * (1 + len(message) // COMMAND_LENGTH)
    return _key(command), 1.0


def _key(command: protocol.Command) -> str | None:
    """The clientMessageId that an error about the command has to carry."""
    return command.client_message_id if type(command) is protocol.SendMessage else None
