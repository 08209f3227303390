"""What each command does, who may send it and which limit it counts against: one row of `ROWS` each."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

import structlog

from eclipse_ws import protocol
from eclipse_ws.application.base import ApiError, ChatApi, Share
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery import keys
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.delivery.records import Attempt
from eclipse_ws.protocol import CommandError
from eclipse_ws.security.jwt import Claims
from eclipse_ws.sessions.readers import Readers
from eclipse_ws.sessions.typists import Typists

log = structlog.get_logger("eclipse_ws.chat")

ASK_AGAIN = 2.0
"""Seconds after which a sender may ask again whether another node saved its message."""


class Speaker(Protocol):
    """The session that sent a command."""

    id: str
    claims: Claims

    @property
    def address(self) -> str | None:
        """The client's address; None if addresses don't distinguish clients."""

    def send(self, frame: bytes, chat_id: str = "") -> None:
        """Send one event, as JSON text, to this session only; ``chat_id`` is the chat that it is about."""

    @property
    def user_id(self) -> str:
        """The user that the session belongs to."""

    @property
    def role(self) -> protocol.PresentRole:
        """As what others see the user."""

    def refuse_command(self, error: CommandError, chat_id: str = "") -> None:
        """Count and send the answer to a command, about a chat, that has failed."""

    def refresh(self, token: str) -> None:
        """Extend the session to the expiry of a new token for the same user and chat. Raises CommandError."""

    async def join(self, wanted: Sequence[protocol.ChatToJoin]) -> None:
        """Bring the session into chats, and answer for each. Raises CommandError if it joins none of them."""

    def leave(self, chat_ids: Sequence[str]) -> None:
        """Take the session out of chats, and answer for each."""


C = TypeVar("C", bound=protocol.Command)


@dataclass(slots=True)
class Row(Generic[C]):
    """A command's rules; its fields are in `protocol.commands`."""

    struct: type[C]
    role: Callable[[C], protocol.Role] | None
    """The role that a user needs for it; None: everybody may send it, also users without an account."""
    limit: Literal["message_rate", "chat_typing"] | None
    """The limit it counts against besides ``command_rate``.

    ``message_rate``: also ``message_bytes`` and ``max_content``, by its text. ``chat_typing``: the chat's
    deliveries of typing; beyond that it is dropped silently, because nobody waits for an answer.
    """
    handler: Callable[[Commands, Speaker, Claims, str, C], Coroutine[Any, Any, None] | None]
    """Runs it with the claims that its session had when it was read, in a chat. Raises CommandError.

    If it takes time, it is a coroutine function, and the command waits for earlier ones.
    """
    holds: bool = False
    """Whether the session reads its next command only when this one is done, rather than queueing it."""
    handled: int = 0
    """Number of accepted commands; each node has its own rows."""

    @property
    def name(self) -> str:
        """Its ``type`` on the wire."""
        return str(self.struct.__struct_config__.tag)

    def permits(self, claims: Claims, command: C, default_roles: Sequence[str] = protocol.ROLES) -> bool:
        """Whether the user may send the command; what the client says about itself doesn't count."""
        return self.role is None or claims.permits(self.role(command), default_roles)


class Commands:
    """Runs commands: saves messages through the chat API, publishes events through delivery."""

    def __init__(self, settings: Settings, delivery: Delivery, api: ChatApi) -> None:
        self._settings = settings
        self._delivery = delivery
        self._api = api
        self.typists = Typists(delivery.broadcast)
        self.readers = Readers(delivery.marks)
        self.rows: dict[type, Row[Any]] = {struct: replace(row) for struct, row in ROWS.items()}

    @property
    def handled(self) -> dict[str, int]:
        """Number of accepted commands by name; read when metrics are scraped."""
        return {row.name: row.handled for row in self.rows.values()}

    def handle(
        self, session: Speaker, row: Row[C], chat_id: str, command: C
    ) -> Coroutine[Any, Any, None] | None:
        """Run a command by its row in `rows`, in a chat; if it takes time, return a coroutine.

        However late the coroutine starts, it uses the session's present claims: a new token may follow.
        Both raise CommandError.
        """
        row.handled += 1
        return row.handler(self, session, session.claims, chat_id, command)

    def _typing(self, session: Speaker, claims: Claims, chat_id: str, command: protocol.Typing) -> None:
        """Broadcast it to the others in the chat."""
        self.typists.note(session.id, chat_id, claims.user_id, command.is_typing)

    def _read(self, session: Speaker, claims: Claims, chat_id: str, command: protocol.Read) -> None:
        """Note how far the user has read; delivery tells it."""
        self.readers.note(session, chat_id, command)

    def _ping(self, session: Speaker, claims: Claims, chat_id: str, command: protocol.Ping) -> None:
        """Answer with a pong."""
        session.send(protocol.pong())

    def _refresh(self, session: Speaker, claims: Claims, chat_id: str, command: protocol.Refresh) -> None:
        """Extend the session to the new token's expiry."""
        session.refresh(command.token)

    async def _join(self, session: Speaker, claims: Claims, chat_id: str, command: protocol.Join) -> None:
        """Join further chats."""
        await session.join(command.wanted())

    def _leave(self, session: Speaker, claims: Claims, chat_id: str, command: protocol.Leave) -> None:
        """Leave chats."""
        session.leave(command.wanted())

    async def _send_message(
        self, session: Speaker, claims: Claims, chat_id: str, command: protocol.SendMessage
    ) -> None:
        """Save a message once, publish it, and acknowledge it if it has a clientMessageId."""
        key = command.client_message_id
        share = _share(claims, session.address)  # now: the session forgets its address when it ends
        attempt, name = None, None
        if key is not None:
            name = _name(claims, chat_id, key)
            attempt = await self._delivery.attempt(
                chat_id,
                name,
                fingerprint=keys.fingerprint(command.content, command.role),
                resent=command.resend,
                retry_unknown=self._settings.api_honours_idempotency,
            )
            if attempt.state == "done" and attempt.receipt is not None:
                session.send(protocol.ack(key, attempt.receipt), chat_id)
                return
            if attempt.state == "reused":
                raise CommandError(
                    "The clientMessageId was used for another message; take a new one for each",
                    "key_reused",
                    client_message_id=key,
                )
            if attempt.state == "unknown":
                raise _failed(key, "outcome_unknown")
            if attempt.state == "later":
                raise _failed(key, "outcome_unknown", retryable=True, retry_after=ASK_AGAIN)
        try:
            message = await self._api.send_message(
                chat_id, claims.user_id, command.content, command.role, name, share=share
            )
        except ApiError as error:
            # A response that can't be trusted is an error in the application; the others are to be expected.
            note = log.error if error.code == "api_bad_answer" else log.warning
            note("message not saved", session=session.id, chat=chat_id, code=error.code, why=str(error))
            await self._give_up(attempt, unknown=error.outcome_unknown)
            if error.outcome_unknown:
                raise _failed(key, "outcome_unknown") from error
            raise _failed(key, error.code, error.retryable, error.retry_after) from error
        except BaseException:
            await self._give_up(attempt, unknown=True)
            raise
        # Saved means saved: from here on the sender never gets an error (section 4.5).
        receipt = await self._delivery.publish(chat_id, protocol.message_event(message), attempt)
        if key is not None:
            session.send(protocol.ack(key, receipt), chat_id)

    async def _give_up(self, attempt: Attempt | None, *, unknown: bool) -> None:
        if attempt is None:
            return
        if unknown:
            await self._delivery.abandon(attempt)
        else:
            await self._delivery.release(attempt)

    async def _agent_joined(
        self, session: Speaker, claims: Claims, chat_id: str, command: protocol.AgentJoined
    ) -> None:
        """Publish that an agent has joined; the name comes from the chat API, never from the client."""
        try:
            user = await self._api.user(claims.user_id, share=_share(claims, session.address))
        except ApiError as error:
            log.warning(
                "agent not found", session=session.id, user=claims.user_id, code=error.code, why=str(error)
            )
            raise CommandError(
                "Failed to fetch agent info",
                error.code,
                retryable=error.retryable,
                retry_after=error.retry_after,
            ) from error
        try:
            await self._delivery.publish(chat_id, protocol.agent_joined_event(user))
        except Exception as error:
            log.exception("agent_joined failed", session=session.id, chat=chat_id)
            raise CommandError(
                "Failed to process agent_joined event", "internal_error", retryable=True
            ) from error


ROWS: Final[Mapping[type, Row[Any]]] = {
    row.struct: row
    for row in (
        Row(protocol.SendMessage, lambda command: command.role, "message_rate", Commands._send_message),
        Row(protocol.Typing, None, "chat_typing", Commands._typing),
        Row(protocol.AgentJoined, lambda command: "AGENT", None, Commands._agent_joined),
        Row(protocol.Read, None, None, Commands._read),
        Row(protocol.Ping, None, None, Commands._ping),
        Row(protocol.Refresh, None, None, Commands._refresh),
        Row(protocol.Join, None, None, Commands._join, holds=True),
        Row(protocol.Leave, None, None, Commands._leave),
    )
}
"""Each command's row by its struct."""


def _name(claims: Claims, chat_id: str, key: str) -> str:
    """The key's scoped name: a user's own, or shared by the chat's visitors, whose ids change."""
    if claims.is_authenticated:
        return keys.user_key(chat_id, claims.user_id, key)
    return keys.visitors_key(chat_id, key)


def _share(claims: Claims, address: str | None) -> Share:
    """The share that a session's calls to the chat API count against: its user's, or the chat's visitors'."""
    who = f"user:{claims.user_id}" if claims.is_authenticated else f"chat:{claims.chat_id}"
    return Share(who, address)


def _failed(
    key: str | None, code: str, retryable: bool = False, retry_after: float | None = None
) -> CommandError:
    return CommandError(
        "Failed to send message",
        code,
        retryable=retryable,
        retry_after=retry_after,
        client_message_id=key,
    )
