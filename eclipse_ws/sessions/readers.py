"""Who has read how far: what the command `read` does, at most once a second for each user in each chat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

import structlog

from eclipse_ws.backends.base import Unavailable
from eclipse_ws.delivery.marks import Marks, ReadPosition, UnknownMessageError
from eclipse_ws.delivery.tasks import Tasks
from eclipse_ws.protocol import CommandError, Cursor, PresentRole, Read

log = structlog.get_logger("eclipse_ws.chat")

INTERVAL: Final = 1.0
"""Seconds between two positions of one user in one chat, on this node; the last one wins."""
Later = Callable[[float, Callable[[], None]], Any]


class Reader(Protocol):
    """A session whose user reads."""

    @property
    def user_id(self) -> str:
        """The user that the session belongs to."""

    @property
    def role(self) -> PresentRole:
        """As what others see the user."""

    def refuse_command(self, error: CommandError, chat_id: str = "") -> None:
        """Count and send the answer to a command, about a chat, that has failed."""


class _Due:
    """What is to be noted next: the latest position, and whose command it was."""

    __slots__ = ("cursor", "position", "session")

    def __init__(self, session: Reader, position: ReadPosition, cursor: Cursor) -> None:
        self.session = session
        self.position = position
        self.cursor = cursor


class Readers:
    """The users that have read something in the last second. ``later`` calls something after some seconds."""

    def __init__(self, marks: Marks, later: Later | None = None) -> None:
        self._marks = marks
        self._later = later
        self._due: dict[tuple[str, str], _Due | None] = {}
        """By chat and user; None if nothing waits."""
        self._tasks = Tasks()

    def __len__(self) -> int:
        return len(self._due)

    def note(self, session: Reader, chat_id: str, command: Read) -> None:
        """Note that a session's user has read a chat up to a message. Raises CommandError."""
        given = None if command.cursor is None else Cursor.parse(command.cursor)
        message_id = str(command.message_id)
        try:
            cursor = self._marks.cursor_of(chat_id, message_id, given)
        except UnknownMessageError:
            raise unknown_message() from None
        except Unavailable:
            raise unavailable() from None
        if not self._marks.is_later(chat_id, session.user_id, cursor):
            return
        key = chat_id, session.user_id
        due = _Due(session, ReadPosition(session.user_id, session.role, message_id), cursor)
        if key not in self._due:
            self._begin(key, due)
        elif (waiting := self._due[key]) is None or not _is_earlier(cursor, waiting.cursor):
            self._due[key] = due

    def _begin(self, key: tuple[str, str], due: _Due) -> None:
        self._due[key] = None
        (self._later or asyncio.get_running_loop().call_later)(INTERVAL, lambda: self._go_on(key))
        self._tasks.start(self._carry_out(key[0], due))

    def _go_on(self, key: tuple[str, str]) -> None:
        due = self._due.pop(key, None)
        if due is not None:
            self._begin(key, due)

    async def _carry_out(self, chat_id: str, due: _Due) -> None:
        try:
            await self._marks.read(chat_id, due.position, due.cursor)
        except UnknownMessageError:  # a new epoch has begun meanwhile
            due.session.refuse_command(unknown_message(), chat_id)
        except Unavailable:
            due.session.refuse_command(unavailable(), chat_id)
        except Exception:
            log.exception("read position not noted", chat=chat_id)
            due.session.refuse_command(unavailable("internal_error"), chat_id)

    async def close(self) -> None:
        """End what is begun; what waits is not noted."""
        self._due.clear()
        await self._tasks.close()


def _is_earlier(cursor: Cursor, than: Cursor) -> bool:
    return cursor.epoch == than.epoch and cursor.offset < than.offset


def unknown_message() -> CommandError:
    """The error for a message whose place in the chat nobody knows."""
    return CommandError(
        "Unknown message: send the chat's newest cursor along, or load the chat again", "unknown_message"
    )


def unavailable(code: str = "unavailable") -> CommandError:
    """The error for a position that can't be noted now."""
    return CommandError("Failed to note the read position", code, retryable=True)
