"""The ledger in PostgreSQL: rows of the chats' table, under a name that no chat has."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any, Final

from eclipse_ws.backends.ledger import LIFETIME, MAX_RECORDS, Ledger, check_count

NAME: Final = uuid.UUID(int=0)
KEPT: Final = timedelta(seconds=LIFETIME)


class PostgresLedger(Ledger):
    """Calls the functions of ``postgres.sql``."""

    def __init__(self, call: Callable[..., Awaitable[Any]]) -> None:
        self._call = call

    async def take(self, holder: str, instead_of: str = "") -> str:
        """See the contract."""
        return str(await self._call("ledger_take", NAME, holder, instead_of, KEPT))

    async def write(self, holder: str, records: Mapping[str, bytes]) -> bool:
        """See the contract."""
        check_count(records)
        names = [chat_id.encode() for chat_id in records]
        return bool(await self._call("ledger_write", NAME, holder, names, list(records.values()), KEPT))

    async def read(self) -> dict[str, bytes]:
        """See the contract. The pieces are in the order of the chats' ids."""
        found: dict[str, bytes] = {}
        last = b""
        while piece := await self._call("ledger_read", NAME, last, MAX_RECORDS):
            names, records = piece[: len(piece) // 2], piece[len(piece) // 2 :]
            found.update(zip((name.decode() for name in names), records, strict=True))
            last = names[-1]
        return found
