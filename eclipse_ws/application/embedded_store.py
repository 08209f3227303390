"""The embedded API's SQLite database: chats, messages and users. Blocking: for one worker thread."""

from __future__ import annotations

import secrets
import sqlite3
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from eclipse_ws.protocol import Message, Sender, User

AGENTS: Final = (
    User("agent_1", "Ada Okafor", "ada@support.example", "https://support.example/ada.png"),
    User("agent_2", "Bruno Lindqvist", "bruno@support.example", "https://support.example/bruno.png"),
    User("agent_3", "Chiyo Marsh", "chiyo@support.example", "https://support.example/chiyo.png"),
)
"""Fictional agents for development."""

PAGE: Final = 4096
"""Bytes of a database page."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, name TEXT, email TEXT, image TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS messages (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, chat TEXT NOT NULL, user TEXT NOT NULL,
    content TEXT NOT NULL, role TEXT NOT NULL, created_at TEXT NOT NULL, key TEXT);
CREATE INDEX IF NOT EXISTS messages_of_chat ON messages (chat, seq);
CREATE UNIQUE INDEX IF NOT EXISTS messages_once ON messages (chat, key) WHERE key IS NOT NULL;
CREATE TABLE IF NOT EXISTS chats (
    id TEXT PRIMARY KEY, last INTEGER NOT NULL, count INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS chats_by_last ON chats (last);
CREATE INDEX IF NOT EXISTS messages_received ON messages (chat, seq) WHERE role = 'USER';
CREATE INDEX IF NOT EXISTS messages_answers ON messages (chat, seq) WHERE role <> 'USER';
"""
_MESSAGE: Final = """
SELECT m.id, m.content, m.role, m.created_at, u.id, u.name, u.email, u.image
FROM messages m JOIN users u ON u.id = m.user
"""


PREVIEW: Final = 200
"""Characters of a chat's last message in a list of chats."""
# Counted from indexes rather than stored: the counts stay right when an older version writes to the database.
_SUMMARIES: Final = """
SELECT c.id, c.count, c.last,
    (SELECT COUNT(*) FROM messages r WHERE r.chat = c.id AND r.role = 'USER'),
    (SELECT COUNT(*) FROM messages r WHERE r.chat = c.id AND r.role = 'USER' AND r.seq <
        (SELECT MAX(a.seq) FROM messages a WHERE a.chat = c.id AND a.role <> 'USER')),
    m.id, substr(m.content, 1, ?), m.role, m.created_at, u.id, u.name, u.email, u.image
FROM chats c JOIN messages m ON m.seq = c.last JOIN users u ON u.id = m.user
WHERE c.last < ? ORDER BY c.last DESC LIMIT ?
"""
_LATEST: Final = (1 << 63) - 1
"""Larger than every position."""


class ChatSummary(msgspec.Struct):
    """One line of the agents' list."""

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
    """Messages from the customer that came before the latest answer."""


class Store:
    """One connection to one database. A method that raises sqlite3.Error has changed nothing.

    ``path`` is a file or ``:memory:``; ``max_bytes`` bounds it; ``lock_timeout`` is how many seconds a
    method waits for a database that another process has locked.
    """

    def __init__(self, path: str, max_bytes: int, lock_timeout: float) -> None:
        # Transactions begin explicitly: a read must not hold one open, and a write must lock before it reads.
        self._db = sqlite3.connect(path, timeout=lock_timeout, isolation_level=None)
        try:
            self._db.execute(f"PRAGMA page_size = {PAGE}")
            self._db.execute("PRAGMA journal_mode = WAL")
            # A power failure may lose the last messages, never the database: good enough for development.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(f"PRAGMA max_page_count = {max(1, max_bytes // PAGE)}")
            self._db.executescript(_SCHEMA)
            for agent in AGENTS:
                self._db.execute(
                    "INSERT OR IGNORE INTO users VALUES (?, ?, ?, ?)",
                    (agent.id, agent.name, agent.email, agent.image),
                )
            self._file = None if path == ":memory:" else Path(path)
            self._identity = self._identify()
        except BaseException:
            self._db.close()
            raise

    def is_current(self) -> bool:
        """False once the file was deleted or replaced: SQLite would go on writing to the old one."""
        return self._identify() == self._identity

    def _identify(self) -> tuple[int, int] | None:
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def close(self) -> None:
        """Write the log back into the file, and close it."""
        self._db.close()

    def save(self, chat: str, user: str, content: str, role: str, key: str | None) -> Message:
        """Save a message, and its author if unknown; the same ``key`` in the same chat is saved once."""
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            message = self._saved(chat, key) if key else None
            if message is None:
                message = self._insert(chat, user, content, role, key)
            db.execute("COMMIT")
        except BaseException:
            # SQLite rolls back by itself after some errors (a full disk), not after others.
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        return message

    def user(self, user: str) -> User | None:
        """The user, or None."""
        row = self._db.execute("SELECT id, name, email, image FROM users WHERE id = ?", (user,)).fetchone()
        return None if row is None else User(*row)

    def history(self, chat: str, limit: int) -> list[Message]:
        """The chat's last ``limit`` messages, oldest first."""
        rows = self._db.execute(f"{_MESSAGE} WHERE m.chat = ? ORDER BY m.seq DESC LIMIT ?", (chat, limit))
        return [_message(row) for row in rows][::-1]

    def chats(self, limit: int, before: int | None = None) -> list[ChatSummary]:
        """The chats with the latest messages, latest first, with positions below ``before``."""
        rows = self._db.execute(_SUMMARIES, (PREVIEW, _LATEST if before is None else before, limit))
        summaries = []
        for chat, count, position, received, answered, *row in rows:
            message = _message(tuple(row))
            summaries.append(
                ChatSummary(chat, message, message.createdAt, count, position, received, answered)
            )
        return summaries

    def _saved(self, chat: str, key: str) -> Message | None:
        row = self._db.execute(f"{_MESSAGE} WHERE m.chat = ? AND m.key = ?", (chat, key)).fetchone()
        return None if row is None else _message(row)

    def _insert(self, chat: str, user: str, content: str, role: str, key: str | None) -> Message:
        db = self._db
        db.execute("INSERT OR IGNORE INTO users (id) VALUES (?)", (user,))
        ident = f"msg_{time.time_ns() // 1_000_000:x}_{secrets.token_hex(6)}"
        created = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        seq = db.execute(
            "INSERT INTO messages (id, chat, user, content, role, created_at, key) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (ident, chat, user, content, role, created, key),
        ).lastrowid
        db.execute(
            "INSERT INTO chats VALUES (?, ?, 1) "
            "ON CONFLICT (id) DO UPDATE SET last = excluded.last, count = count + 1",
            (chat, seq),
        )
        row = db.execute("SELECT name, email, image FROM users WHERE id = ?", (user,)).fetchone()
        return Message(ident, content, role, created, Sender(user, *row))


def _message(row: tuple[str, ...]) -> Message:
    ident, content, role, created, *sender = row
    return Message(ident, content, role, created, Sender(*sender))
