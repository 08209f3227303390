"""What each command does: the rules of a chat, one function a command."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, Protocol

import structlog

from eclipse_ws import protocol
from eclipse_ws.application.base import ApiError, ChatApi, Share
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery import keys
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.delivery.records import Attempt
from eclipse_ws.protocol import CommandError
from eclipse_ws.security.jwt import Claims

log = structlog.get_logger("eclipse_ws.chat")

ASK_AGAIN = 2.0
"""Seconds after which a sender may ask again whether its message was saved on another node."""


class Speaker(Protocol):
    """The session that a command came from."""

    id: str
    claims: Claims

    @property
    def address(self) -> str | None:
        """The client's address; None where clients can't be told apart by theirs."""

    def send(self, frame: bytes) -> None:
        """Send one event, as JSON text, to this session alone."""


class Commands:
    """Carries out commands: saves through the chat API, tells the chat through delivery."""

    def __init__(self, settings: Settings, delivery: Delivery, api: ChatApi) -> None:
        self._settings = settings
        self._delivery = delivery
        self._api = api
        # Plain counters, read when metrics are scraped.
        self.handled = {
            "message": 0,
            "typing": 0,
            "agent_joined": 0,
            "ping": 0,
            "refresh": 0,
        }
        self.failed = 0

    def handle(self, session: Speaker, command: protocol.Command) -> Coroutine[Any, Any, None] | None:
        """Carry out a command; what takes time comes back as a coroutine, which raises CommandError.

        However late the coroutine begins, the command is its session's as it was now: a new token may follow.
        """
        if type(command) is protocol.Typing:  # by far the most frequent
            self.handled["typing"] += 1
            event = protocol.typing_event(session.claims.user_id, command.is_typing, session.id)
            self._delivery.broadcast(session.claims.chat_id, event)
            return None
        match command:
            case protocol.SendMessage():
                self.handled["message"] += 1
                return self._send_message(session, session.claims, command)
            case protocol.Ping():
                self.handled["ping"] += 1
                session.send(protocol.pong())
                return None
            case protocol.AgentJoined():
                self.handled["agent_joined"] += 1
                return self._agent_joined(session, session.claims)
            case _:
                raise CommandError("Unknown message type", "unknown_type")

    async def _send_message(self, session: Speaker, claims: Claims, command: protocol.SendMessage) -> None:
        """Save a message once, tell the chat, and tell the sender if it asked."""
        key = command.client_message_id
        share = _share(claims, session.address)  # now: of a session that has ended, nothing is known any more
        attempt, name = None, None
        if key is not None:
            name = _name(claims, key)
            attempt = await self._delivery.attempt(
                claims.chat_id,
                name,
                fingerprint=keys.fingerprint(command.content, command.role),
                resent=command.resend,
                retry_unknown=self._settings.api_honours_idempotency,
            )
            if attempt.state == "done" and attempt.receipt is not None:
                session.send(protocol.ack(key, attempt.receipt))
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
                claims.chat_id, claims.user_id, command.content, command.role, name, share=share
            )
        except ApiError as error:
            # An answer that can't be trusted is a fault of the application, the rest is everyday.
            note = log.error if error.code == "api_bad_answer" else log.warning
            note(
                "message not saved", session=session.id, chat=claims.chat_id, code=error.code, why=str(error)
            )
            await self._give_up(attempt, unknown=error.outcome_unknown)
            if error.outcome_unknown:
                raise _failed(key, "outcome_unknown") from error
            raise _failed(key, error.code, error.retryable, error.retry_after) from error
        except BaseException:
            await self._give_up(attempt, unknown=True)
            raise
        # Saved means saved: from here on the sender never hears of an error (section 4.5).
        receipt = await self._delivery.publish(claims.chat_id, protocol.message_event(message), attempt)
        if key is not None:
            session.send(protocol.ack(key, receipt))

    async def _give_up(self, attempt: Attempt | None, *, unknown: bool) -> None:
        if attempt is None:
            return
        if unknown:
            await self._delivery.abandon(attempt)
        else:
            await self._delivery.release(attempt)

    async def _agent_joined(self, session: Speaker, claims: Claims) -> None:
        """Tell the chat that an agent has come; the name is the chat API's, never the client's word."""
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
            await self._delivery.publish(claims.chat_id, protocol.agent_joined_event(user))
        except Exception as error:
            log.exception("agent_joined failed", session=session.id, chat=claims.chat_id)
            raise CommandError(
                "Failed to process agent_joined event", "internal_error", retryable=True
            ) from error


def _name(claims: Claims, key: str) -> str:
    """The key's name in its chat: a user's own, or one of the chat's visitors, whose ids change."""
    if claims.is_authenticated:
        return keys.user_key(claims.chat_id, claims.user_id, key)
    return keys.visitors_key(claims.chat_id, key)


def _share(claims: Claims, address: str | None) -> Share:
    """On whose account a session's calls to the chat API are made: its user's, or its visitors' chat's."""
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
