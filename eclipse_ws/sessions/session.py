"""The session: one authenticated socket, from its upgrade to its close."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any, NoReturn

import structlog

from eclipse_ws import protocol
from eclipse_ws.backends.base import BackendError
from eclipse_ws.protocol import CloseCode, CommandError, Cursor, with_chat_id
from eclipse_ws.security.jwt import Claims, TokenError
from eclipse_ws.security.limits import COMMAND_LENGTH, REFUSED_TYPING, Budget
from eclipse_ws.sessions import joining
from eclipse_ws.sessions.admission import UpgradeHandler
from eclipse_ws.sessions.command_queue import CommandQueue
from eclipse_ws.sessions.commands import Row
from eclipse_ws.sessions.hub import BannedError
from eclipse_ws.sessions.members import OPT_IN
from eclipse_ws.websocket import text_frame

log = structlog.get_logger("eclipse_ws.session")


class ChatSession(UpgradeHandler):
    """A socket in a chat, or in several. Invalid commands are answered, never fatal.

    Commands that need the application run one after the other, in order, and wait in a bounded queue; the
    others run as they are read.
    """

    wire_slow_close = (CloseCode.TOO_SLOW.code, CloseCode.TOO_SLOW.reason)
    wire_error_close = (CloseCode.INTERNAL_ERROR.code, CloseCode.INTERNAL_ERROR.reason)
    wire_flood_close = (CloseCode.RATE_LIMITED.code, CloseCode.RATE_LIMITED.with_detail("frame_rate"))

    chats: tuple[str, ...] = ()
    grants: dict[str, Claims] | None = None
    """The tokens that came with `join`, by the chat that they open."""
    spoken: protocol.Role = "USER"
    """The highest role in which its user has spoken."""
    commands_in = 0
    budget: Budget | None = None
    can_resume = False
    """Whether its client has shown that it loses nothing by a reconnect: by a cursor, ``events``, our
    subprotocol, a clientMessageId or a refresh. Pages written for the previous service send none of them.
    """
    under_way: asyncio.Task[None] | None = None
    """Runs the commands that need the application, while there are any."""
    first_chat = ""
    """The chat of the command with which it began."""
    queue: CommandQueue | None = None
    """The commands that wait, or run beside the first one, once there have been any."""
    retiring: tuple[CloseCode, str | None] | None = None
    """How the session ends once its commands are done."""

    @property
    def user_id(self) -> str:
        """The user whom the token names."""
        return self.claims.user_id

    @property
    def role(self) -> protocol.PresentRole:
        """As what others see the user."""
        return self.claims.shown_as(self.spoken)

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
        after, events = self.argument("cursor"), self.argument("events")
        if (after, events, self.selected_subprotocol) != (None, None, None):
            self.can_resume = True
        if events:
            self.kinds = OPT_IN.intersection(map(str.strip, events.split(",")))
        refusal = self.admit()
        if refusal is not None:
            self.end(*refusal)
            return
        try:
            if self.claims.chat_id:
                await self.node.hub.join(self.claims.chat_id, self, after, self._greeting)
            else:
                self.can_resume = True
                self.node.hub.add(self, self._greeting(None, None))
        except BannedError as error:
            self.node.counts.upgrades_refused["banned"] += 1
            self.note("session refused", "banned", session=self.id, chat=self.claims.chat_id)
            self.end(CloseCode.KICKED, error.reason)
            return
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
        chat_id = self.claims.chat_id or None
        return text_frame(protocol.connected(chat_id, self.id, cursor, self.claims.expires_at, recovered))

    # -- commands -------------------------------------------------------------------------------

    def on_message(self, message: str | bytes) -> Awaitable[None] | None:
        """Run a command at once, or in its turn if it needs the application.

        Returns what the socket must wait for before it reads the next command: room in a full queue.
        """
        if self.retiring is not None:
            return self.under_way  # read nothing more: the session ends after its last command
        self.commands_in += 1
        chat_id = ""
        try:
            now = time.monotonic()
            if self.node.limits.rated:
                budget = self.budget
                if budget is None:
                    budget = self.budget = Budget(self.node.limits)
                if wait := budget.command(now, len(message)):
                    chat_id, key, cost = self._about(message)
                    self._exceeded("command_rate", wait, now, key, cost)
            command = protocol.decode_command(message)
            if command is None:
                return None
            row = self.node.commands.rows[type(command)]
            chat_id = self._chat_of(command) if isinstance(command, protocol.InChat) else ""
            if not self._accepts(row, chat_id, command, now):
                return None
            outcome = self.node.commands.handle(self, row, chat_id, command)
        except CommandError as error:
            if error.client_message_id is not None:
                self.can_resume = True
            self.refuse_command(error, chat_id)
            return None
        if outcome is None:
            return None
        if row.holds:
            return self._run(outcome, None, "")
        key = command.client_message_id
        if key is not None:
            self.can_resume = True
        # Now, because the coroutine starts only in the loop's next turn, and the session may close before.
        self.node.under_way += 1
        if self.under_way is None:
            self.first_chat = chat_id
            self.under_way = asyncio.get_running_loop().create_task(self._carry_out(outcome, key, chat_id))
            return None
        if self.queue is None:
            self.queue = CommandQueue(self.first_chat)
        if self.queue.begin(chat_id):
            task = asyncio.get_running_loop().create_task(self._work(outcome, key, chat_id))
            self.queue.beside.add(task)
            task.add_done_callback(self.queue.beside.discard)
            return None
        return self.queue.put(outcome, key, chat_id, command.text)

    def _chat_of(self, command: protocol.InChat) -> str:
        """The chat that a command is about. Raises CommandError if the session isn't in it."""
        named = command.chat_id
        chat_id = self.claims.chat_id if named is None else str(named)
        if chat_id not in self.chats:
            error = joining.not_joined(chat_id)
            error.client_message_id = command.client_message_id
            raise error
        return chat_id

    def _accepts(self, row: Row[Any], chat_id: str, command: protocol.Command, now: float) -> bool:
        """Check a command against its row; False drops it silently. Raises CommandError."""
        node = self.node
        if row.limit == "chat_typing" and node.limits.rated and node.hub.is_loud(chat_id, now):
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
        if row.role is not None and (role := row.role(command)) != "USER" and role != self.spoken:
            self._speak(role)
        return True

    def _speak(self, role: protocol.Role) -> None:
        """Note the role in which the user speaks."""
        before = self.role
        self.spoken = min(role, self.spoken, key=protocol.RANKED.index)
        if self.role != before:
            self.node.hub.spoke(self)

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

    def _about(self, message: str | bytes) -> tuple[str, str | None, float]:
        """The chat and the clientMessageId of a refused command, and how much the refusal counts."""
        try:
            command = protocol.decode_command(message)
        except CommandError as error:
            return error.chat_id or "", error.client_message_id, 1.0
        little = REFUSED_TYPING * (1 + len(message) // COMMAND_LENGTH)
        if command is None:
            return "", None, little
        row, chat_id = self.node.commands.rows[type(command)], ""
        if isinstance(command, protocol.InChat):
            chat_id = self.claims.chat_id if command.chat_id is None else str(command.chat_id)
        return chat_id, command.client_message_id, little if row.limit == "chat_typing" else 1.0

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
            raise joining.token_error(error) from None
        if (claims.user_id, claims.chat_id) != (self.claims.user_id, self.claims.chat_id):
            self.note("refresh refused", "forbidden", session=self.id, chat=self.claims.chat_id)
            raise CommandError("The token is for another user or chat", "forbidden")
        before = self.role
        self.live_by(claims)
        if self.role != before:
            self.node.hub.spoke(self)
        self.send(protocol.refreshed(claims.expires_at))
        joining.lose(self)

    async def join(self, wanted: Sequence[protocol.ChatToJoin]) -> None:
        """Bring the session into chats. Raises CommandError."""
        self.can_resume = True
        now = time.monotonic()
        if self.budget is not None and (wait := self.budget.join(now, len(wanted))):
            self._exceeded("join_rate", wait, now, None)
        await joining.join(self, wanted)

    def leave(self, chat_ids: Sequence[str]) -> None:
        """Take the session out of chats."""
        self._stop_typing(chat_ids)
        joining.leave(self, chat_ids)

    def left(self, chat_id: str, close: CloseCode, reason: str | None = None) -> None:
        """Tell the client that the server has taken the session out of a chat."""
        self.send(protocol.left(chat_id, close.code, close.reason if reason is None else reason))

    def _stop_typing(self, chat_ids: Sequence[str]) -> None:
        typists = self.node.commands.typists
        if typists:
            for chat_id in chat_ids:
                typists.stop(self.id, chat_id)

    async def _run(self, outcome: Coroutine[Any, Any, None], key: str | None, chat_id: str) -> None:
        """Run a command, and answer it if it fails."""
        try:
            await outcome
        except CommandError as error:
            self.refuse_command(error, chat_id)
        except Exception:
            log.exception("command failed", session=self.id, chat=chat_id)
            text = "Failed to process message"
            failure = CommandError(text, "internal_error", retryable=True, client_message_id=key)
            self.refuse_command(failure, chat_id)

    async def _carry_out(self, outcome: Coroutine[Any, Any, None], key: str | None, chat_id: str) -> None:
        """Run a command and all that come meanwhile."""
        try:
            await self._work(outcome, key, chat_id)
            while self.queue is not None and self.queue.beside:
                await asyncio.wait(self.queue.beside)
        except asyncio.CancelledError:
            self.end(CloseCode.INTERNAL_ERROR)  # commands that were read no longer run
            for task in () if self.queue is None else self.queue.beside:
                task.cancel()
            raise
        finally:
            self.under_way = self.queue = None
            if self.retiring is not None:
                self.end(*self.retiring)

    async def _work(self, outcome: Coroutine[Any, Any, None], key: str | None, chat_id: str) -> None:
        """Run a command, and those that its end lets begin, one after the other."""
        while True:
            try:
                await self._run(outcome, key, chat_id)
            finally:
                self.node.under_way -= 1
            waiting = None if self.queue is None else self.queue.after(chat_id)
            if waiting is None:
                return
            outcome, key, chat_id, _ = waiting

    def _refuse_queued(self) -> None:
        """Refuse the waiting commands with ``session_ended``. Idempotent."""
        while self.queue:
            work, key, chat_id, _ = self.queue.take()
            work.close()
            self.node.under_way -= 1
            text = "Failed to process message"
            error = CommandError(text, "session_ended", retryable=True, client_message_id=key)
            self.refuse_command(error, chat_id)

    def refuse_command(self, error: CommandError, chat_id: str = "") -> None:
        """Count and send the answer to a command, about a chat, that was refused or has failed."""
        self.node.counts.errors += 1
        if error.chat_id is None:
            error.chat_id = chat_id or None
        self.send(error.encode(names_chat=self.has_joined))

    def send(self, frame: bytes, chat_id: str = "") -> None:
        """Send one event, as JSON text, to this session only; ``chat_id`` is the chat that it is about."""
        if chat_id and self.has_joined:
            frame = with_chat_id(frame, chat_id)
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
        """Leave the chats, and log one line."""
        self._refuse_queued()
        self._stop_typing(self.chats)
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
