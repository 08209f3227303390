"""Idempotency keys in Redis: what is known of them, and which steps their attempts take."""

from __future__ import annotations

import asyncio
import time
from typing import Final, cast

from eclipse_ws.backends.base import Key, KeyState, Record, Step, Unavailable, patience
from eclipse_ws.backends.redis import scripts
from eclipse_ws.backends.redis.connection import CommandConnection, DisconnectedError
from eclipse_ws.backends.redis.connections import Connections
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Receipt

RECONNECT = 0.5
"""Seconds that an attempt waits for a new connection after its own broke."""
POLL = 0.01
"""Seconds between checks for it."""
TRIES = 5
"""Maximum number of connections that are tried for one attempt."""
_VERDICTS: Final[dict[Step, str]] = {"released": "release", "unknown": "unknown", "forgotten": "forget"}
"""The words of the script `settle`."""


class Keys:
    """Reserves and settles keys in Redis."""

    def __init__(self, settings: Settings, connections: Connections) -> None:
        self._connections = connections
        self._patience = int(patience(settings) * 1000)
        self._lifetime = whole(settings.history_seconds)

    async def begin(self, chat_id: str, key: Key, *, retry_unknown: bool) -> Record:
        """Record that an attempt begins, if it may. Returns what was known before. Raises Unavailable."""
        name, tries = self._connections.names.attempt(chat_id, key.name), TRIES
        while True:
            tries -= 1
            try:
                with self._connections.asking() as commands:
                    answer = await scripts.ATTEMPT(
                        commands,
                        [name],
                        key.token,
                        self._patience,
                        self._lifetime,
                        int(retry_unknown),
                        key.fingerprint,
                    )
            except Unavailable as error:
                broke = isinstance(error.__cause__, DisconnectedError)
                if not (broke and tries and await self._next(commands)):
                    raise
            else:
                return _record(answer.decode())

    async def end(self, chat_id: str, key: Key, step: Step, receipt: Receipt | None) -> None:
        """Record how an attempt has ended. Raises Unavailable."""
        name = self._connections.names.attempt(chat_id, key.name)
        with self._connections.asking() as commands:
            if receipt is not None:
                mark = f":{key.fingerprint}" if key.fingerprint else ""
                done = f"done{mark} {receipt.cursor} {receipt.id}"
                await commands.call("SET", name, done, "EX", self._lifetime)
            else:
                verdict = _VERDICTS[step]
                await scripts.SETTLE(commands, [name], key.token, verdict, self._lifetime, key.fingerprint)

    async def _next(self, broken: CommandConnection) -> bool:
        """Wait for a new connection after a broken one. Returns whether there is one in time."""
        deadline = time.monotonic() + RECONNECT
        while self._connections.commands in (None, broken):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL)
        return True


def _record(answer: str) -> Record:
    state, _, rest = answer.partition(" ")
    if state != "done":
        return Record("none" if state == "new" else cast(KeyState, state))
    cursor, _, saved = rest.partition(" ")
    return Record("done", Receipt(saved, cursor, "published"))


def whole(seconds: float) -> int:
    """Seconds as Redis takes them: whole, and at least one."""
    return max(1, round(seconds))
