"""The ledger: what a backend keeps for the reporter, the one node that reports to the application."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Final

MAX_RECORDS: Final = 500
"""Records of one write."""
LIFETIME: Final = 7 * 24 * 3600
"""Seconds for which a ledger is kept after its holder's last `Ledger.write` or `Ledger.take`."""


class Ledger(abc.ABC):
    """One record for each chat, which all nodes can read, and only its holder can write.

    All nodes of a backend share one ledger. Another node becomes the holder only in place of one that it
    names: of several that want to replace the same holder, one does. From then on nothing that the former
    holder writes is kept, whenever it was sent.

    A holder's name is short ASCII text, such as a node's id. A chat's id is 1 to 256 characters, a record any
    bytes; a write of more than a few megabytes may be refused. What was kept is lost where the backend loses
    its data: then nobody is the holder, and there are no records. Calls that failed may be repeated.
    """

    @abc.abstractmethod
    async def take(self, holder: str, instead_of: str = "") -> str:
        """Become its holder if nobody is, or if ``instead_of`` is. Returns the name of the present holder.

        The holder itself stays the holder, whatever ``instead_of`` is. Records remain. Raises Unavailable.
        """

    @abc.abstractmethod
    async def write(self, holder: str, records: Mapping[str, bytes]) -> bool:
        """Keep these records by chat id, and remove those that are b"", if ``holder`` is the holder.

        All of it is done in one step, or nothing, and the answer is False. Other chats' records remain.
        Raises Unavailable, or ValueError for more than `MAX_RECORDS`.
        """

    @abc.abstractmethod
    async def read(self) -> dict[str, bytes]:
        """All records by chat id, read in pieces, so that it holds up no other command for long.

        What is written meanwhile may be among them or not. Raises Unavailable.
        """


def check_count(records: Mapping[str, bytes]) -> None:
    """Raise ValueError if these are too many for one write."""
    if len(records) > MAX_RECORDS:
        raise ValueError(f"{len(records)} records in one write, at most {MAX_RECORDS}: write them in pieces")


class MemoryLedger(Ledger):
    """A ledger that ends with its process."""

    def __init__(self) -> None:
        self._holder: str | None = None
        self._records: dict[str, bytes] = {}

    async def take(self, holder: str, instead_of: str = "") -> str:
        """See the contract."""
        if self._holder in (None, instead_of):
            self._holder = holder
        return self._holder

    async def write(self, holder: str, records: Mapping[str, bytes]) -> bool:
        """See the contract."""
        check_count(records)
        if holder != self._holder:
            return False
        self._records.update(records)
        for chat_id in [chat_id for chat_id, record in records.items() if not record]:
            del self._records[chat_id]
        return True

    async def read(self) -> dict[str, bytes]:
        """See the contract."""
        return dict(self._records)
