"""The session: one authenticated socket, from its upgrade to its close."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine
from typing import Any, NoReturn

import structlog

from eclipse_ws import protocol
from eclipse_ws.backends.base import BackendError
from eclipse_ws.protocol import CloseCode, CommandError, Cursor
from eclipse_ws.security.jwt import TokenError
from eclipse_ws.security.limits import COMMAND_LENGTH, REFUSED_TYPING, Budget
from eclipse_ws.sessions.admission import UpgradeHandler
from eclipse_ws.sessions.command_queue import CommandQueue
from eclipse_ws.sessions.commands import ROWS, Row
from eclipse_ws.websocket import text_frame

log = structlog.get_logger("eclipse_ws.session")


class ChatSession(UpgradeHandler):
    """A socket in a chat. Invalid commands are answered, never fatal.

    Commands that need the application run one after the other, in order, and wait in a bounded queue; the
    others run as they are read.
    """

    wire_slow_close = (CloseCode.TOO_SLOW.code, CloseCode.TOO_SLOW.reason)
    wire_error_close = (CloseCode.INTERNAL_ERROR.code, CloseCode.INTERNAL_ERROR.reason)
    wire_flood_close = (CloseCode.RATE_LIMITED.code, CloseCode.RATE_LIMITED.with_detail("frame_rate"))

    chats: tuple[str, ...] = ()
    commands_in = 0
    budget: Budget | None = None
    can_resume = False
    """Whether its client has shown that it loses nothing by a reconnect: by a cursor, ``events``, our
    subprotocol, a clientMessageId or a refresh. Pages written for the previous service send none of them.
    """
    under_way: asyncio.Task[None] | None = None
    """Runs the commands that need the application, while there are any."""
    queue: CommandQueue | None = None
    """The waiting commands, if any."""
    retiring: tuple[CloseCode, str | None] | None = None
    """How the session ends once its commands are done."""

    @property
    def user_id(self) -> str:
        """The user whom the token names."""
        return self.claims.user_id

    @property
    def expires(self) -> float:
        """Seconds since 1970 at which the token ends."""
        return self.claims.ends

    @property
    def held(self) -> int:
        """Bytes of the waiting commands."""
        return 0 if self.queue is None else self.queue.held

    async def open(self, *args: str, **kwargs: str) -> None:
        """Join the chat and greet the client, if the session is admitted."""
        # Read everything from the request now: it is released after the upgrade.
        after = self.argument("cursor")
        if (after, self.argument("events"), self.selected_subprotocol) != (None, None, None):
            self.can_resume = True
        refusal = self.admit()
        if refusal is not None:
            self.end(*refusal)
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

    def _greeting(self, cursor: Cursor | None, recovered: bool | None) -> bytes:
        body = protocol.connected(self.claims.chat_id, self.id, cursor, self.claims.expires_at, recovered)
        return text_frame(body)

    # -- commands -------------------------------------------------------------------------------

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        """Run a command at once, or in its turn if it needs the application.

        Returns what the socket must wait for before it reads the next command: room in a full queue.
        """
        if self.retiring is not None:
            return self.under_way  # read nothing more: the session ends after its last command
        self.commands_in += 1
        try:
            now = time.monotonic()
            if self.node.limits.rated:
                budget = self.budget
                if budget is None:
                    budget = self.budget = Budget(self.node.limits)
                if wait := budget.command(now, len(message)):
                    self._exceeded("command_rate", wait, now, *_key_and_cost(message))
            command = protocol.decode_command(message)
            if command is None:
                return None
            row = self.node.commands.rows[type(command)]
            if not self._accepts(row, command, now):
                return None
            outcome = self.node.commands.handle(self, row, command)
        except CommandError as error:
            if error.client_message_id is not None:
                self.can_resume = True
            self._answer(error)
            return None
        if outcome is None:
            return None
        key = command.client_message_id
        if key is not None:
            self.can_resume = True
        # Now, because the coroutine starts only in the loop's next turn, and the session may close before.
        self.node.under_way += 1
        if self.under_way is None:
            self.under_way = asyncio.get_running_loop().create_task(self._carry_out(outcome, key))
            return None
        if self.queue is None:
            self.queue = CommandQueue()
        return self.queue.put(outcome, key, command.text)

    def _accepts(self, row: Row[Any], command: protocol.Command, now: float) -> bool:
        """Check a command against its row; False drops it silently. Raises CommandError."""
        node = self.node
        if row.limit == "chat_typing" and node.limits.rated and node.hub.is_loud(self.claims.chat_id, now):
            return False
        if row.role is not None and not row.permits(self.claims, command, node.settings.default_roles):
            self.note("command refused", "forbidden", session=self.id, chat=self.claims.chat_id)
            key = command.client_message_id
            raise CommandError("Not allowed for this user", "forbidden", client_message_id=key)
        if row.limit == "message_rate":
            most, key = node.settings.max_content, command.client_message_id
            if len(command.text) > most:
                self.note("command refused", "max_content", session=self.id, chat=self.claims.chat_id)
                text = f"Content too long: at most {most} characters (max_content)"
                raise CommandError(text, "content_too_long", client_message_id=key)
            if node.limits.rated:
                refusal = node.shares.message(self.sender, command.text, now)
                if refusal is not None:
                    self._exceeded(*refusal, now, key)
        return True

    def _exceeded(self, limit: str, wait: float, now: float, key: str | None, cost: float = 1.0) -> NoReturn:
        """Refuse a command until ``wait`` seconds from now; end the session after too many refusals.

        ``cost``: how much this refusal counts, 1 being a whole one. Raises CommandError.
        """
        self.note("command refused", limit, session=self.id, chat=self.claims.chat_id)
        if self.budget is not None and not self.budget.forgives(now, cost) and not self.wire.is_closing:
            self.note("session closed", "rate_patience", session=self.id, chat=self.claims.chat_id)
            self._punish(now)
            self.retire(CloseCode.RATE_LIMITED, CloseCode.RATE_LIMITED.with_detail(limit))
        raise CommandError(
            CloseCode.RATE_LIMITED.with_detail(limit),
            "rate_limited",
            retryable=True,
            retry_after=wait,
            client_message_id=key,
        )

    def on_flood(self) -> None:
        """Treat a flood of non-command frames as too many commands."""
        self.note("session closed", "frame_rate", session=self.id, chat=self.claims.chat_id)
        self._punish(time.monotonic())

    def _punish(self, now: float) -> None:
        """Count a session that is closed for its rate, and keep its sender away for a while."""
        self.node.limits.closed += 1
        self.node.penalties.punish(self.sender, now)

    def refresh(self, token: str) -> None:
        """Extend the session to the expiry of a new token for the same user and chat. Raises CommandError."""
        self.can_resume = True
        try:
            claims = self.node.verifier.verify(token)
        except TokenError as error:
            self.note("refresh refused", "token", session=self.id, why=str(error))
            code = "token_expired" if error.close is CloseCode.TOKEN_EXPIRED else "invalid_token"
            raise CommandError(error.close.reason, code) from None
        if (claims.user_id, claims.chat_id) != (self.claims.user_id, self.claims.chat_id):
            self.note("refresh refused", "forbidden", session=self.id, chat=self.claims.chat_id)
            raise CommandError("The token is for another user or chat", "forbidden")
        self.live_by(claims)
        self.send(protocol.refreshed(claims.expires_at))

    async def _carry_out(self, outcome: Coroutine[Any, Any, None], key: str | None) -> None:
        """Run a command, and those that have queued behind it."""
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
            self.end(CloseCode.INTERNAL_ERROR)  # commands that were read no longer run
            raise
        finally:
            self.under_way = None
            if self.retiring is not None:
                self.end(*self.retiring)

    def _refuse_queued(self) -> None:
        """Refuse the waiting commands with ``session_ended``. Idempotent."""
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
        """Send one event, as JSON text, to this session only."""
        self.wire.send(text_frame(frame))

    # -- the end --------------------------------------------------------------------------------

    def end(self, close: CloseCode, reason: str | None = None) -> None:
        """Close the socket with one of the contract's codes, and refuse commands that have not started."""
        self._refuse_queued()
        self.wire.close(close.code, close.reason if reason is None else reason)

    def retire(self, close: CloseCode = CloseCode.RESTARTING, reason: str | None = None) -> None:
        """Stop reading, and close the socket once the commands that were read are answered.

        They have ``api_timeout`` in total: a command that has not started by then is refused.
        """
        if self.retiring is None:
            self.retiring = close, reason
            if self.queue is not None:
                patience = self.node.settings.api_timeout
                asyncio.get_running_loop().call_later(patience, self._refuse_queued)
        if self.under_way is None:
            self.end(*self.retiring)

    def on_close(self) -> None:
        """Leave the chat, and log one line."""
        self._refuse_queued()
        source = self.source
        self.release()
        self.node.hub.leave(self)
        if hasattr(self, "claims"):
            self.node.counts.ended += 1
            log.info(
                "session ended",
                session=self.id,
                chat=self.claims.chat_id,
                user=self.user_id,
                client_address=None if source is None else source.address,
                code=self.close_code,
                seconds=round(time.monotonic() - self.began, 3),
                commands=self.commands_in,
            )


def _key_and_cost(message: str | bytes) -> tuple[str | None, float]:
    """The clientMessageId of a refused command, and how much the refusal counts."""
    try:
        command = protocol.decode_command(message)
    except CommandError as error:
        return error.client_message_id, 1.0
    if command is None or ROWS[type(command)].limit == "chat_typing":
        return None, REFUSED_TYPING * (1 + len(message) // COMMAND_LENGTH)
    return command.client_message_id, 1.0
