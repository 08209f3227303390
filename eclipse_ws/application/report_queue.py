"""The reports that the application has yet to get, and the ledger's records of them."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Final

import msgspec
import structlog

from eclipse_ws.application.reports import MAX_BATCH, Report
from eclipse_ws.protocol import PresentRole

log = structlog.get_logger("eclipse_ws.application")

MAX_WAITING: Final = 50_000
"""Reports that wait at once. Of what happens beyond that only the result is told, once there is room."""
MAX_OF_CHAT: Final = 1000
"""The same for one chat, whose reports are in one record."""


class Record(msgspec.Struct, omit_defaults=True):
    """What the ledger has of a chat: its users once the application has all ``waiting`` reports."""

    users: dict[str, PresentRole] = {}
    waiting: list[Report] = []


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


class ReportQueue:
    """Reports in the order in which they are sent.

    A report::

        ──add──▶ unsafe ──the ledger has it: save──▶ ready ──the application has it: done──▶ gone

    Only what the ledger has is sent: another node that becomes the reporter sends it again under the same id,
    or has nothing to send again.
    """

    def __init__(self) -> None:
        self._chats: dict[str, deque[Report]] = defaultdict(deque)
        self._ready: deque[Report] = deque()
        self._unsafe: deque[Report] = deque()
        self._changed: dict[str, None] = {}  # chats whose records the ledger doesn't have yet

    def __len__(self) -> int:
        return len(self._ready) + len(self._unsafe)

    def chats(self) -> list[str]:
        """The chats with reports that wait."""
        return list(self._chats)

    @property
    def room(self) -> int:
        """How many more may wait."""
        return MAX_WAITING - len(self)

    @property
    def is_ready(self) -> bool:
        """Whether there is something to be sent."""
        return bool(self._ready)

    def is_full(self, chat_id: str) -> bool:
        """Whether a chat has too many reports that wait."""
        return chat_id in self._chats and len(self._chats[chat_id]) >= MAX_OF_CHAT

    def add(self, report: Report) -> None:
        """Take a report, which may be sent once the ledger has it."""
        self._chats[report.chat_id].append(report)
        self._unsafe.append(report)
        self.change([report.chat_id])

    def change(self, chats: Iterable[str]) -> None:
        """Note that the ledger doesn't have the records of these chats."""
        self._changed.update(dict.fromkeys(chats))

    def take_changes(self, count: int) -> list[str]:
        """At most ``count`` chats whose records have to be written; if that fails, give them to `change`."""
        chats = list(islice(self._changed, count))
        for chat_id in chats:
            del self._changed[chat_id]
        return chats

    def record(self, chat_id: str, users: Mapping[str, PresentRole] | None) -> bytes:
        """A chat's record; b"" if nothing has to be kept. ``users``: None for a chat that is not occupied."""
        waiting = self._chats.get(chat_id, ())
        return _encode(Record(dict(users or {}), list(waiting))) if users or waiting else b""

    def save(self) -> None:
        """The ledger has all records of the last `take_changes`, and nothing was added since."""
        self._ready.extend(self._unsafe)
        self._unsafe.clear()

    def batch(self, count: int = MAX_BATCH) -> list[Report]:
        """The next reports to be sent."""
        return [self._ready[at] for at in range(min(count, len(self._ready)))]

    def done(self, batch: Iterable[Report]) -> None:
        """The application has the reports of the last `batch`."""
        for report in batch:
            self._ready.popleft()
            waiting = self._chats[report.chat_id]
            waiting.popleft()
            if not waiting:
                del self._chats[report.chat_id]
            self.change([report.chat_id])

    def load(self, records: Mapping[str, bytes]) -> dict[str, dict[str, PresentRole]]:
        """Take what the ledger has. Returns the occupied chats with their users."""
        occupied: dict[str, dict[str, PresentRole]] = {}
        for chat_id, raw in records.items():
            try:
                record = _decode(raw)
            except msgspec.MsgspecError as error:
                log.warning("malformed record of a chat's reports dropped", chat=chat_id, why=str(error))
                self.change([chat_id])
                continue
            if record.users:
                occupied[chat_id] = record.users
            if record.waiting:
                self._chats[chat_id] = deque(record.waiting)
        for waiting in sorted(self._chats.values(), key=lambda reports: reports[0].at):
            self._ready.extend(waiting)
        return occupied
