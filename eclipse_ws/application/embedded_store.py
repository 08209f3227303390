"""The embedded API's SQLite database: chats, messages and users. Blocking: for one worker thread."""

from __future__ import annotations

import secrets
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from eclipse_ws.application import embedded_visitors
from eclipse_ws.application.embedded_chats import SCHEMA, Change, ChatList, ChatSummary, message_of
from eclipse_ws.application.reports import Report
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

Tell = Callable[[Change, ChatSummary], None]


class Store:
    """One connection to one database. A method that raises sqlite3.Error has changed nothing.

    ``path`` is a file or ``:memory:``; ``max_bytes`` bounds it; ``lock_timeout`` is how many seconds a
    method waits for a database that another process has locked. ``tell`` is called with every change of a
    chat, in their order, and with the chat after it. It must not raise.
    """

    def __init__(self, path: str, max_bytes: int, lock_timeout: float, tell: Tell | None = None) -> None:
        # Transactions begin explicitly: a read must not hold one open, and a write must lock before it reads.
        self._db = sqlite3.connect(path, timeout=lock_timeout, isolation_level=None)
        try:
            self._db.execute(f"PRAGMA page_size = {PAGE}")
            self._db.execute("PRAGMA journal_mode = WAL")
            # A power failure may lose the last messages, never the database: good enough for development.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(f"PRAGMA max_page_count = {max(1, max_bytes // PAGE)}")
            self._db.executescript(_SCHEMA + SCHEMA + embedded_visitors.SCHEMA)
            for agent in AGENTS:
                self._db.execute(
                    "INSERT OR IGNORE INTO users VALUES (?, ?, ?, ?)",
                    (agent.id, agent.name, agent.email, agent.image),
                )
            self._file = None if path == ":memory:" else Path(path)
            self._identity = self._identify()
            self.chats = ChatList(self._db)
            """The chats as the agents see them."""
            self.visitors = embedded_visitors.Visitors(self._db)
            self._tell = tell
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
        changed: tuple[Change, ChatSummary] | None = None
        with self._transaction():
            message = self._saved(chat, key) if key else None
            if message is None:
                before = self.chats.status(chat)
                message = self._insert(chat, user, content, role, key)
                opens = before is None or (before == "closed" and role == "USER")
                changed = self._after(chat, "chat_opened" if opens else "chat_updated")
        self._announce(changed)
        return message

    def assign(self, chat: str, agent: str | None) -> ChatSummary | None:
        """Give the chat to an agent, or to nobody; the chat after that, or None if it is unknown."""
        return self._apply(chat, lambda found: self.chats.assign(found, agent))

    def close_chat(self, chat: str) -> ChatSummary | None:
        """Close the chat until its customer writes again; the chat after that, or None if it is unknown."""
        return self._apply(chat, lambda found: self.chats.close(found, _now()))

    def take_reports(self, reports: Iterable[Report]) -> None:
        """Remember which customers are in their chats; reports that have come before change nothing."""
        with self._transaction():
            changed = [self._after(chat, "chat_updated") for chat in self.visitors.take(reports)]
        for each in changed:
            self._announce(each)

    def _apply(self, chat: str, work: Callable[[ChatSummary], Change | None]) -> ChatSummary | None:
        changed: tuple[Change, ChatSummary] | None = None
        with self._transaction():
            found = self.chats.find(chat)
            change = None if found is None else work(found)
            if change is not None:
                changed = self._after(chat, change)
        self._announce(changed)
        return found if changed is None else changed[1]

    def _after(self, chat: str, change: Change) -> tuple[Change, ChatSummary] | None:
        found = self.chats.find(chat)
        return None if found is None else (change, found)

    def _announce(self, changed: tuple[Change, ChatSummary] | None) -> None:
        if changed is not None and self._tell is not None:
            self._tell(*changed)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            # SQLite rolls back by itself after some errors (a full disk), not after others.
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise

    def user(self, user: str) -> User | None:
        """The user, or None."""
        row = self._db.execute("SELECT id, name, email, image FROM users WHERE id = ?", (user,)).fetchone()
        return None if row is None else User(*row)

    def history(self, chat: str, limit: int) -> list[Message]:
        """The chat's last ``limit`` messages, oldest first."""
        rows = self._db.execute(f"{_MESSAGE} WHERE m.chat = ? ORDER BY m.seq DESC LIMIT ?", (chat, limit))
        return [message_of(row) for row in rows][::-1]

    def _saved(self, chat: str, key: str) -> Message | None:
        row = self._db.execute(f"{_MESSAGE} WHERE m.chat = ? AND m.key = ?", (chat, key)).fetchone()
        return None if row is None else message_of(row)

    def _insert(self, chat: str, user: str, content: str, role: str, key: str | None) -> Message:
        db = self._db
        db.execute("INSERT OR IGNORE INTO users (id) VALUES (?)", (user,))
        ident = f"msg_{time.time_ns() // 1_000_000:x}_{secrets.token_hex(6)}"
        created = _now()
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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
