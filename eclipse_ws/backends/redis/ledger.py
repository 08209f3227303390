"""The ledger in Redis: a string with the holder's name, and a hash of records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

from eclipse_ws.backends.ledger import LIFETIME, MAX_RECORDS, Ledger, check_count
from eclipse_ws.backends.redis import scripts
from eclipse_ws.backends.redis.connections import Connections

T = TypeVar("T")


class RedisLedger(Ledger):
    """The ledger of one server."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._keys = connections.names.ledger

    async def take(self, holder: str, instead_of: str = "") -> str:
        """Run the script `ledger_take`, which does all of it in one step."""
        with self._connections.asking() as commands:
            answer = await scripts.LEDGER_TAKE(commands, self._keys, holder, instead_of, LIFETIME)
        return str(answer.decode())

    async def write(self, holder: str, records: Mapping[str, bytes]) -> bool:
        """Run the script `ledger_write`, which does all of it in one step."""
        check_count(records)
        pairs = [part for pair in records.items() for part in pair]
        with self._connections.asking() as commands:
            return bool(await scripts.LEDGER_WRITE(commands, self._keys, holder, LIFETIME, *pairs))

    async def read(self) -> dict[str, bytes]:
        """Scan the hash, piece by piece, over one connection: another server's cursors are others."""
        found: dict[str, bytes] = {}
        with self._connections.asking() as commands:
            cursor = b"0"
            while True:
                cursor, pairs = await commands.call("HSCAN", self._keys[1], cursor, "COUNT", MAX_RECORDS)
                chat_ids = (each.decode(errors="replace") for each in pairs[::2])
                found.update(zip(chat_ids, pairs[1::2], strict=True))
                if cursor == b"0":
                    return found


class AskLedger(Protocol):
    """Asks the ledger of the primary that has its keys. Raises as the call does."""

    async def __call__(self, call: Callable[[Ledger], Awaitable[T]]) -> T:
        """Return the answer to this call."""


class ClusterLedger(Ledger):
    """The ledger of a cluster; if its slot moves while it is read, reading begins again."""

    def __init__(self, ask: AskLedger) -> None:
        self._ask = ask

    async def take(self, holder: str, instead_of: str = "") -> str:
        """See the contract."""
        return await self._ask(lambda ledger: ledger.take(holder, instead_of))

    async def write(self, holder: str, records: Mapping[str, bytes]) -> bool:
        """See the contract."""
        return await self._ask(lambda ledger: ledger.write(holder, records))

    async def read(self) -> dict[str, bytes]:
        """See the contract."""
        return await self._ask(lambda ledger: ledger.read())
