"""Which customers are in their chats, as reports say, and until when the others were.

Blocking, like the store, whose database and transactions it uses.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from eclipse_ws.application.reports import Report

MAX_SEEN: Final = 10_000
"""The latest reports that are recognized when they come again."""
MAX_VISITORS: Final = 10_000
"""Customers who are in a chat; further ones are ignored."""
MAX_LEFT: Final = 10_000
"""Chats of which it is known when the customer left; the oldest are forgotten."""
CUSTOMER: Final = "user"
"""The role of a customer in a chat."""

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS visitors (chat TEXT, user TEXT, PRIMARY KEY (chat, user)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS departures (chat TEXT NOT NULL UNIQUE, at TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS reports (id TEXT NOT NULL UNIQUE);
"""
_REVISE: Final = """
INSERT INTO states (chat, changes) VALUES (?, 1) ON CONFLICT (chat) DO UPDATE SET changes = changes + 1
"""
# Rows are replaced rather than updated: then the oldest have the lowest rowids.
_TRIM: Final = "DELETE FROM {table} WHERE rowid <= (SELECT MAX(rowid) FROM {table}) - ?"


class Visitors:
    """The customers of a database's chats. A method that raises has changed nothing."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def take(self, reports: Iterable[Report]) -> list[str]:
        """Apply the reports that are new, in their order. Returns the chats that have changed."""
        changed: dict[str, None] = {}
        for report in reports:
            is_new = self._db.execute("INSERT OR IGNORE INTO reports VALUES (?)", (report.id,)).rowcount
            if is_new and self._apply(report):
                changed[report.chat_id] = None
        for chat in changed:
            self._db.execute(_REVISE, (chat,))
        self._db.execute(_TRIM.format(table="reports"), (MAX_SEEN,))
        self._db.execute(_TRIM.format(table="departures"), (MAX_LEFT,))
        return list(changed)

    def forget(self) -> None:
        """Nobody is known to be in a chat any more."""
        self._db.execute("DELETE FROM visitors")

    def _apply(self, report: Report) -> bool:
        """Whether the report has changed something that a list shows."""
        chat, before = report.chat_id, self._is_here(report.chat_id)
        if report.type == "user_joined" and report.role == CUSTOMER:
            return self._join(chat, report.user_id) and not before
        if report.type == "user_left":
            self._db.execute("DELETE FROM visitors WHERE chat = ? AND user = ?", (chat, report.user_id))
        elif report.type == "chat_vacated":
            self._db.execute("DELETE FROM visitors WHERE chat = ?", (chat,))
        has_left = before and not self._is_here(chat)
        if has_left:
            self._db.execute("INSERT OR REPLACE INTO departures VALUES (?, ?)", (chat, report.at))
        return has_left

    def _join(self, chat: str, user: str) -> bool:
        if self._db.execute("SELECT COUNT(*) FROM visitors").fetchone()[0] >= MAX_VISITORS:
            return False
        self._db.execute("INSERT OR IGNORE INTO visitors VALUES (?, ?)", (chat, user))
        return True

    def _is_here(self, chat: str) -> bool:
        return (
            self._db.execute("SELECT 1 FROM visitors WHERE chat = ? LIMIT 1", (chat,)).fetchone() is not None
        )
