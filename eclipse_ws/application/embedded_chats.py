"""The embedded API's chats as the agents see them: which are open, who has them, since when a customer waits.

Blocking, like the store, whose database and transactions it uses.
"""

from __future__ import annotations

import sqlite3
from typing import Final, Literal

import msgspec

from eclipse_ws.protocol import Message, Sender

Status = Literal["open", "closed"]
Change = Literal["chat_opened", "chat_updated", "chat_assigned", "chat_closed"]
"""What happened to a chat; the type of the event in the inbox."""

PREVIEW: Final = 200
"""Characters of a chat's last message in a list of chats."""
SEARCHED: Final = 20_000
"""How many of the latest messages a search looks through."""

# A table of its own, because older versions insert into `chats` without naming its columns. What follows from
# messages is computed rather than stored: it stays right when an older version writes to the database.
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS states (
    chat TEXT PRIMARY KEY, assignee TEXT, closed INTEGER NOT NULL DEFAULT 0, closed_at TEXT, opened_at TEXT,
    changes INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
"""
# `closed` is the chat's last position when it was closed: a later message of the customer has reopened it.
_IS_OPEN: Final = """(ifnull(s.closed, 0) = 0 OR EXISTS
    (SELECT 1 FROM messages r WHERE r.chat = c.id AND r.role = 'USER' AND r.seq > s.closed))"""
_FOUND: Final = """(holds(c.id) OR c.id IN (SELECT f.chat FROM messages f
    WHERE f.seq > (SELECT MAX(seq) FROM messages) - ? AND holds(f.content)))"""
_STATUS: Final = "SELECT {open} FROM chats c LEFT JOIN states s ON s.chat = c.id WHERE c.id = ?"
_SUMMARIES: Final = """
WITH some AS (
    SELECT c.id, c.count, c.last, {open} AS open, s.assignee, s.closed_at, s.opened_at,
        ifnull(s.closed, 0) AS closed, ifnull(s.changes, 0) AS changes,
        max(ifnull(s.closed, 0), ifnull(
            (SELECT MAX(a.seq) FROM messages a WHERE a.chat = c.id AND a.role <> 'USER'), 0)) AS settled
    FROM chats c LEFT JOIN states s ON s.chat = c.id WHERE {which} ORDER BY c.last DESC LIMIT ?)
SELECT some.id, count, last, last + changes,
    (SELECT COUNT(*) FROM messages r WHERE r.chat = some.id AND r.role = 'USER'),
    (SELECT COUNT(*) FROM messages r WHERE r.chat = some.id AND r.role = 'USER' AND r.seq <= settled),
    open, assignee, CASE WHEN open THEN NULL ELSE closed_at END,
    CASE WHEN open THEN (SELECT o.created_at FROM messages o WHERE o.seq =
        (SELECT MIN(f.seq) FROM messages f WHERE f.chat = some.id AND f.seq > closed
            AND (closed = 0 OR f.role = 'USER')))
    ELSE opened_at END,
    (SELECT w.created_at FROM messages w WHERE w.seq =
        (SELECT MIN(r.seq) FROM messages r WHERE r.chat = some.id AND r.role = 'USER' AND r.seq > settled)),
    EXISTS (SELECT 1 FROM visitors v WHERE v.chat = some.id),
    (SELECT d.at FROM departures d WHERE d.chat = some.id),
    m.id, substr(m.content, 1, ?), m.role, m.created_at, u.id, u.name, u.email, u.image
FROM some JOIN messages m ON m.seq = last JOIN users u ON u.id = m.user ORDER BY last DESC
"""
_CHANGE: Final = """
INSERT INTO states (chat, {columns}, changes) VALUES (?, {marks}, 1)
ON CONFLICT (chat) DO UPDATE SET {updates}, changes = changes + 1
"""


class ChatSummary(msgspec.Struct):
    """One line of the agents' list. Times are ISO 8601 in UTC."""

    id: str
    lastMessage: Message  # noqa: N815 - as the page reads it
    """Its content is truncated to PREVIEW characters."""
    updatedAt: str  # noqa: N815
    count: int
    """All messages of the chat."""
    position: int
    """The sort key of the list: larger for a later message."""
    received: int
    """Messages from the customer."""
    answered: int
    """Messages from the customer that came before the latest answer, or before the chat was closed."""
    revision: int
    """Larger after each change of this chat: of two summaries the one with the larger revision is newer."""
    status: Status
    assignee: str | None
    """The agent's id."""
    openedAt: str  # noqa: N815
    """When the first message came, or the one that reopened the chat."""
    closedAt: str | None  # noqa: N815
    """None while it is open."""
    waitingSince: str | None  # noqa: N815
    """When the first message came that nobody has answered yet; None if none waits."""
    customerHere: bool | None = None  # noqa: N815
    """Whether the customer has the chat open, as reports say; None if there were none."""
    customerLeftAt: str | None = None  # noqa: N815
    """Until when they had; None while they do, and without reports."""


class ChatList:
    """The chats of a database, and the agents' changes to them. A method that raises has changed nothing."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._needle = ""
        db.create_function("holds", 1, self._holds)

    def _holds(self, text: str) -> bool:
        return self._needle in text.casefold()

    def page(
        self, limit: int, before: int | None = None, status: Status | None = None, query: str = ""
    ) -> list[ChatSummary]:
        """The chats with the latest messages, latest first, with positions below ``before``.

        With ``query`` only those whose id contains it, or one of the SEARCHED latest messages, in any case.
        """
        which, values = ["1"], []
        if before is not None:
            which.append("c.last < ?")
            values.append(before)
        if status is not None:
            which.append(_IS_OPEN if status == "open" else f"NOT {_IS_OPEN}")
        if query:
            self._needle = query.casefold()
            which.append(_FOUND)
            values.append(SEARCHED)
        return self._select(" AND ".join(which), *values, limit)

    def find(self, chat: str) -> ChatSummary | None:
        """The chat, or None if it has no message."""
        found = self._select("c.id = ?", chat, 1)
        return found[0] if found else None

    def status(self, chat: str) -> Status | None:
        """Whether the chat is open, or None if it has no message."""
        row = self._db.execute(_STATUS.format(open=_IS_OPEN), (chat,)).fetchone()
        return None if row is None else "open" if row[0] else "closed"

    def _select(self, which: str, *values: str | int) -> list[ChatSummary]:
        rows = self._db.execute(_SUMMARIES.format(open=_IS_OPEN, which=which), (*values, PREVIEW))
        return [_summary(row) for row in rows]

    def assign(self, chat: ChatSummary, agent: str | None) -> Change | None:
        """Give the chat to an agent, or to nobody. Returns what changed, if anything."""
        if chat.assignee == agent:
            return None
        self._change(chat.id, assignee=agent)
        return "chat_assigned"

    def close(self, chat: ChatSummary, now: str) -> Change | None:
        """Close the chat, until the customer writes again. Returns what changed, if anything."""
        if chat.status == "closed":
            return None
        self._change(chat.id, closed=chat.position, closed_at=now, opened_at=chat.openedAt)
        return "chat_closed"

    def _change(self, chat: str, **values: str | int | None) -> None:
        text = _CHANGE.format(
            columns=", ".join(values),
            marks=", ".join("?" * len(values)),
            updates=", ".join(f"{name} = excluded.{name}" for name in values),
        )
        self._db.execute(text, (chat, *values.values()))


def message_of(row: tuple[str, ...]) -> Message:
    """The message of a row: its id, content, role and time, then its sender's fields."""
    ident, content, role, created, *sender = row
    return Message(ident, content, role, created, Sender(*sender))


def _summary(row: tuple[object, ...]) -> ChatSummary:
    names = (
        *("id", "count", "position", "revision", "received", "answered"),
        *("status", "assignee", "closedAt", "openedAt", "waitingSince", "customerHere", "customerLeftAt"),
    )
    fields = dict(zip(names, row, strict=False))
    fields["status"] = "open" if fields["status"] else "closed"
    if fields["customerHere"]:
        fields |= {"customerHere": True, "customerLeftAt": None}
    else:
        fields["customerHere"] = None if fields["customerLeftAt"] is None else False
    message = message_of(row[len(names) :])  # type: ignore[arg-type]
    return ChatSummary(lastMessage=message, updatedAt=message.createdAt, **fields)  # type: ignore[arg-type]
