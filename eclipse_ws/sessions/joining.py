"""Several chats on one session: which ones its tokens open, joining them, leaving them, losing them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

import structlog

from eclipse_ws import protocol
from eclipse_ws.backends.base import BackendError
from eclipse_ws.protocol import MAX_CHATS, ChatToJoin, CloseCode, CommandError, Cursor, too_many_chats
from eclipse_ws.security.jwt import Claims, TokenError, Verifier, is_name
from eclipse_ws.sessions.hub import BannedError
from eclipse_ws.sessions.members import Member
from eclipse_ws.sessions.node import Node
from eclipse_ws.websocket import text_frame

log = structlog.get_logger("eclipse_ws.session")

TRY_AGAIN: Final = 5.0
"""Seconds after which a client may try again to join a chat that is full."""
LOST: Final = "The token no longer opens this chat"


class Joiner(Member, Protocol):
    """A session, as far as joining further chats concerns it.

    ``grants`` are the tokens that came with `join`, by the chat that they open; None if there are none.
    """

    node: Node
    claims: Claims
    grants: dict[str, Claims] | None

    def send(self, frame: bytes, chat_id: str = "") -> None:
        """Send one event, as JSON text, to this session only."""

    def refuse_command(self, error: CommandError) -> None:
        """Count and send the answer to a command that was refused."""


async def join(session: Joiner, wanted: Sequence[ChatToJoin]) -> None:
    """Bring a session into chats; each gets its answer. Raises CommandError if there are too many of them."""
    hub = session.node.hub
    fresh = [chat for chat in wanted if chat.chat_id not in session.chats]
    if len(session.chats) + len(fresh) > MAX_CHATS:
        raise too_many_chats(len(fresh), len(session.chats))
    hub.name_chats(session)
    opened: dict[str, Claims | CommandError] = {}
    allowed = []
    for chat in wanted:
        try:
            _allow(session, chat, opened)
        except CommandError as error:
            error.chat_id = chat.chat_id if is_name(chat.chat_id) else None
            session.refuse_command(error)
            continue
        if chat.chat_id in session.chats:
            session.send(protocol.joined(chat.chat_id, session.node.delivery.position(chat.chat_id)))
        else:
            allowed.append(chat)
    if len(allowed) == 1:
        await _join_one(session, allowed[0])
    else:
        await asyncio.gather(*(_join_one(session, chat) for chat in allowed))
    log.info("chats joined", session=session.id, user=session.user_id, chats=len(allowed), of=len(wanted))


def _allow(session: Joiner, chat: ChatToJoin, opened: dict[str, Claims | CommandError]) -> None:
    """Check that a session may join a chat, and keep the token that opens it. Raises CommandError.

    ``opened``: what the tokens of this command, each of which is verified once, have turned out to be.
    """
    node, chat_id = session.node, chat.chat_id
    if not is_name(chat_id):
        raise CommandError(
            "Invalid chatId: expected 1 to 256 characters without control characters", "invalid_chat_id"
        )
    if chat.token is not None:
        if chat.token not in opened:
            opened[chat.token] = _verify(session, chat.token)
        claims = opened[chat.token]
        if isinstance(claims, CommandError):
            raise CommandError(claims.text, claims.code)
        if claims.opens(chat_id):
            if session.grants is None:
                session.grants = {}
            session.grants[chat_id] = claims
    if not opens(session, chat_id):
        node.limits.refuse("forbidden")
        raise CommandError("Not allowed: the token doesn't open this chat", "forbidden")
    if chat_id not in session.chats and node.hub.size(chat_id) >= node.settings.max_sessions_per_chat:
        node.limits.refuse("max_sessions_per_chat")
        text = "The chat is full (max_sessions_per_chat)"
        raise CommandError(text, "chat_full", retryable=True, retry_after=TRY_AGAIN)


def _verify(session: Joiner, token: str) -> Claims | CommandError:
    try:
        claims = session.node.verifier.verify(token)
    except TokenError as error:
        return token_error(error)
    if claims.user_id != session.claims.user_id:
        return CommandError("The token is for another user", "forbidden")
    return claims


def token_error(error: TokenError) -> CommandError:
    """The answer to a command with a token that was rejected."""
    code = "token_expired" if error.close is CloseCode.TOKEN_EXPIRED else "invalid_token"
    return CommandError(error.close.reason, code)


async def _join_one(session: Joiner, chat: ChatToJoin) -> None:
    if session.wire.is_closing or session.wire.is_lost:
        return  # it has left the hub, or is about to

    def greet(cursor: Cursor | None, recovered: bool | None) -> bytes:
        return text_frame(protocol.joined(chat.chat_id, cursor, recovered))

    try:
        await session.node.hub.join(chat.chat_id, session, chat.cursor, greet)
    except BannedError:
        session.node.limits.refuse("banned")
        session.refuse_command(CommandError("Banned from this chat", "banned", chat_id=chat.chat_id))
    except BackendError as error:
        log.error("chat not joined", session=session.id, chat=chat.chat_id, why=str(error))
        failure = CommandError("Failed to join", "internal_error", retryable=True, chat_id=chat.chat_id)
        session.refuse_command(failure)


def leave(session: Joiner, chat_ids: Sequence[str]) -> None:
    """Take a session out of chats; each gets its answer."""
    session.node.hub.name_chats(session)
    for chat_id in chat_ids:
        if chat_id in session.chats:
            session.node.hub.part(session, chat_id)
            session.send(protocol.left(chat_id))
        else:
            session.refuse_command(not_joined(chat_id))


def not_joined(chat_id: object) -> CommandError:
    """The error for a command about a chat that the session is not in."""
    shown = chat_id if is_name(chat_id) else None
    return CommandError("Not in this chat: join it first", "not_joined", chat_id=shown)


def opens(session: Joiner, chat_id: str) -> bool:
    """Whether one of a session's tokens opens a chat."""
    return session.claims.opens(chat_id) or (session.grants is not None and chat_id in session.grants)


def lose(session: Joiner) -> None:
    """Take a session out of the chats that its tokens don't open any more."""
    for chat_id in session.chats:
        if not opens(session, chat_id):
            session.node.hub.expel(session, chat_id, CloseCode.INVALID_TOKEN, LOST)


def expire(session: Joiner, latest: float, verifier: Verifier) -> None:
    """Forget grants that ended before ``latest`` (seconds since 1970), or that the verifier rejects."""
    grants = session.grants or {}
    for chat_id in [each for each, claims in grants.items() if claims.ends < latest]:
        del grants[chat_id]
        if chat_id in session.chats and not session.claims.opens(chat_id):
            session.node.hub.expel(session, chat_id, CloseCode.TOKEN_EXPIRED)
    for chat_id in [each for each, claims in grants.items() if not verifier.accepts(claims)]:
        del grants[chat_id]
    lose(session)
