"""The embedded API, for development and tests: SQLite in one worker thread, never on the loop."""

from __future__ import annotations

import asyncio
import math
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, Literal, TypeVar

from eclipse_ws.application.base import ApiError, ChatApi, Share
from eclipse_ws.application.concurrency_limiter import MIN_WAITING, Quotas
from eclipse_ws.application.embedded_chats import Change, ChatSummary, Status
from eclipse_ws.application.embedded_inbox import INBOX, Inbox, Publish
from eclipse_ws.application.embedded_store import Store
from eclipse_ws.application.reports import Report
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Message, User

T = TypeVar("T")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
MAX_BYTES: Final = 1 << 28
"""Bytes of the database; a full one refuses messages, before development fills a disk."""
MAX_ID: Final = 200
"""Characters of a chat's id, and of a user's."""

# The connection stays usable after these; after any other error (a deleted file, a failing disk) it does not.
_TRANSIENT: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL})
_REJECTED: Final = frozenset({sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH})


class EmbeddedApi(ChatApi):
    """Saves messages in ``embedded_db``, a file or ``:memory:``, and honours keys. A chat's first message
    creates it.

    A disk failure is a retryable ApiError: the failed call is rolled back, and the next one tries again, on a
    new connection if that can help. ``publish`` gets an event for the inbox with each change of a chat.
    """

    def __init__(self, settings: Settings, publish: Publish | None = None) -> None:
        super().__init__()
        self.settings = settings
        self._inbox = None if publish is None else Inbox(publish)
        self._path = settings.embedded_db
        self._max_bytes = MAX_BYTES
        # Waiting for another process's lock is part of a call's time, so it must fit into what is left
        # when the call begins.
        self._lock_timeout = min(1.0, settings.api_timeout / 2)
        self._queue_timeout = settings.api_timeout - self._lock_timeout
        self._max_waiting = settings.api_max_waiting
        self._quotas = Quotas(self._max_waiting, MIN_WAITING)
        self._store: Store | None = None  # used by the worker thread only
        self._worker: ThreadPoolExecutor | None = None
        self._failing = False

    @property
    def state(self) -> Literal["up", "down"]:
        """ "down" after a call that the database failed, until one succeeds."""
        return "down" if self._failing else "up"

    def reload(self, settings: Settings) -> None:
        """Sign tokens with, and require, the secrets of these settings from now on."""
        self.settings = settings

    async def start(self) -> None:
        """Open the database. Raises ApiError if that fails."""
        self._loop = asyncio.get_running_loop()
        self._worker = ThreadPoolExecutor(1, "embedded-api")
        try:
            # Without a timeout: no caller waits for a response yet.
            await self._run(self._begin, timeout=math.inf)
        except ApiError:
            await self.close()
            raise

    def _begin(self, store: Store) -> None:
        # The memory backend has forgotten who was in a chat when the server stopped: nobody will report that
        # they have left.
        if self.settings.backend == "memory":
            store.visitors.forget()

    async def close(self) -> None:
        """Finish queued calls, and close the database."""
        worker, self._worker = self._worker, None
        if worker is None:
            return
        await asyncio.wrap_future(worker.submit(self._close_store))
        worker.shutdown(wait=False)
        if self._inbox is not None:
            await self._inbox.close()

    async def send_message(
        self,
        chat_id: str,
        user_id: str,
        content: str,
        role: str,
        key: str | None = None,
        *,
        share: Share | None = None,
    ) -> Message:
        """Save the message, once per ``key`` and chat."""
        if not valid_id(chat_id) or chat_id == INBOX:
            raise ApiError("chat_not_found", f"invalid chat id {chat_id[:MAX_ID]!r}", retryable=False)
        if not valid_id(user_id):
            raise ApiError("api_rejected", f"invalid user id {user_id[:MAX_ID]!r}", retryable=False)
        message = await self._run(
            lambda store: store.save(chat_id, user_id, content, role, key or None), share=share
        )
        if message.content != content:
            raise ApiError("api_rejected", "the key belongs to another message of the chat", retryable=False)
        return message

    async def user(self, user_id: str, *, share: Share | None = None) -> User:
        """The agent, or a visitor who has written before."""

        def find(store: Store) -> User:
            found = store.user(user_id) if valid_id(user_id) else None
            if found is None:
                raise ApiError("user_not_found", f"unknown user {user_id[:MAX_ID]!r}", retryable=False)
            return found

        return await self._run(find, share=share)

    async def history(self, chat_id: str, limit: int) -> list[Message]:
        """The chat's last ``limit`` messages, oldest first; empty for an unknown chat."""
        return await self._run(lambda store: store.history(chat_id, limit))

    async def chats(
        self, limit: int, before: int | None = None, status: Status | None = None, query: str = ""
    ) -> list[ChatSummary]:
        """The chats with the latest messages, latest first, with positions below ``before``.

        Only open or closed ones if ``status`` says so, and only those in which ``query`` is found.
        """
        return await self._run(lambda store: store.chats.page(limit, before, status, query))

    async def assign(self, chat_id: str, agent_id: str | None) -> ChatSummary | None:
        """Give the chat to an agent, or to nobody; the chat after that, or None if it is unknown."""
        return await self._run(lambda store: store.assign(chat_id, agent_id))

    async def close_chat(self, chat_id: str) -> ChatSummary | None:
        """Close the chat until its customer writes again; the chat after that, or None if it is unknown."""
        return await self._run(lambda store: store.close_chat(chat_id))

    async def take_reports(self, reports: Sequence[Report]) -> None:
        """Remember which customers are in their chats; reports that have come before change nothing."""
        await self._run(lambda store: store.take_reports(reports))

    async def _run(
        self, work: Callable[[Store], T], timeout: float | None = None, share: Share | None = None
    ) -> T:
        """Do ``work`` in the worker thread, if it can begin within ``timeout`` seconds. Raises ApiError."""
        if self._worker is None:
            raise ApiError("api_unavailable", "the embedded API is not started, or is stopping")
        if self.stats.active >= self._max_waiting or self._quotas.is_full(share):
            raise ApiError("api_busy", f"{self.stats.active} calls are waiting for the disk", retry_after=1.0)
        started = time.monotonic()
        deadline = started + (self._queue_timeout if timeout is None else timeout)
        future = asyncio.wrap_future(self._worker.submit(self._work, work, deadline))
        self.stats.active += 1
        self._quotas.add(share)
        future.add_done_callback(partial(self._done, share))
        outcome = "cancelled"
        try:
            result = await future
            outcome = "ok"
            self._failing = False
            return result
        except ApiError as exc:
            outcome = exc.code
            self._failing = exc.code == "api_unavailable"
            raise
        finally:
            self.stats.count(outcome, time.monotonic() - started)

    def _done(self, share: Share | None, _: asyncio.Future[T]) -> None:
        self.stats.active -= 1
        self._quotas.remove(share)

    def _work(self, work: Callable[[Store], T], deadline: float) -> T:
        if time.monotonic() > deadline:
            raise ApiError("api_unavailable", "the disk was busy for api_timeout", retry_after=1.0)
        try:
            if self._store is not None and not self._store.is_current():
                self._close_store()
            if self._store is None:
                self._store = Store(self._path, self._max_bytes, self._lock_timeout, self._tell)
            return work(self._store)
        except UnicodeEncodeError:
            raise ApiError("api_rejected", "text with lone surrogates", retryable=False) from None
        except sqlite3.Error as exc:
            raise self._api_error(exc) from None

    def _tell(self, change: Change, chat: ChatSummary) -> None:
        # In the worker thread: one call after the other, in the order of the database.
        if self._inbox is not None:
            self._loop.call_soon_threadsafe(self._inbox.put, change, chat)

    def _api_error(self, error: sqlite3.Error) -> ApiError:
        # The extended code's low byte is the plain one (sqlite.org/rescode.html).
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if isinstance(error, sqlite3.DataError | sqlite3.IntegrityError) or code in _REJECTED:
            return ApiError("api_rejected", f"the database rejected it: {name}", retryable=False)
        if code not in _TRANSIENT and self._path != ":memory:":
            self._close_store()
        return ApiError("api_unavailable", f"{self._path}: {error} ({name})", retry_after=1.0)

    def _close_store(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            # It may be closed because it is broken.
            with suppress(sqlite3.Error):
                store.close()


def valid_id(name: str) -> bool:
    """Whether a chat or user may have this id: 1 to MAX_ID characters, no control characters, no lone
    surrogates.
    """
    return 0 < len(name) <= MAX_ID and not _CONTROL.search(name)
