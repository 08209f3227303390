"""Idempotency keys in Redis: what is known of them, and which steps their attempts take."""

from __future__ import annotations

from typing import Final

from redis.exceptions import RedisError

from eclipse_ws.backends.base import Key, KeyState, Record, Step, Unavailable, patience
from eclipse_ws.backends.redis import scripts
from eclipse_ws.backends.redis.connection import CommandConnection, DisconnectedError
from eclipse_ws.backends.redis.connections import Connections
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Receipt

RECONNECT = 0.5
"""Seconds for which an attempt waits for the connection that follows one that broke under it."""
TRIES = 5
"""Connections over which one attempt is recorded at the most."""
_STATES: Final[dict[str, KeyState]] = {
    "new": "none",
    "released": "released",
    "pending": "pending",
    "unknown": "unknown",
    "reused": "reused",
}
"""What was known of a key before, by the answer of the script `attempt`. The first two have reserved it."""
_VERDICTS: Final[dict[Step, str]] = {"released": "release", "unknown": "unknown", "forgotten": "forget"}
"""The words of the script `settle`."""


class Keys:
    """Reserves and settles keys in Redis."""

    def __init__(self, settings: Settings, connections: Connections) -> None:
        self._connections = connections
        self._patience = int(patience(settings) * 1000)
        self._lifetime = whole(settings.history_seconds)

    async def begin(self, chat_id: str, key: Key, *, retry_unknown: bool) -> Record:
        """Record that an attempt begins, if it may; tell what was known before. Raises Unavailable."""
        failure = Unavailable("Redis is unavailable")
        for _ in range(TRIES):
            commands = self._connections.commands
            if commands is None:
                break
            try:
                answer = await scripts.ATTEMPT(
                    commands,
                    [self._connections.names.attempt(chat_id, key.name)],
                    key.token,
                    self._patience,
                    self._lifetime,
                    int(retry_unknown),
                    key.fingerprint,
                )
                return _record(answer.decode())
            except RedisError as error:
                raise self._connections.failure(error) from error
            except DisconnectedError as error:
                failure = self._connections.failure(error)
                if not await self._connections.commands_after(commands, RECONNECT):
                    break
        raise failure

    async def end(self, chat_id: str, key: Key, step: Step, receipt: Receipt | None) -> None:
        """Record how an attempt has ended. Raises Unavailable."""
        commands = self._connections.require_commands()
        name = self._connections.names.attempt(chat_id, key.name)
        try:
            if receipt is not None:
                await self._done(commands, name, key, receipt)
            else:
                await scripts.SETTLE(
                    commands, [name], key.token, _VERDICTS[step], self._lifetime, key.fingerprint
                )
        except (DisconnectedError, RedisError) as error:
            raise self._connections.failure(error) from error

    async def _done(self, commands: CommandConnection, name: str, key: Key, receipt: Receipt) -> None:
        mark = f":{key.fingerprint}" if key.fingerprint else ""
        done = f"done{mark} {receipt.cursor} {receipt.id}"
        await commands.call("SET", name, done, "EX", self._lifetime)


def _record(answer: str) -> Record:
    state, _, rest = answer.partition(" ")
    if state != "done":
        return Record(_STATES[state])
    cursor, _, saved = rest.partition(" ")
    return Record("done", Receipt(saved, cursor, "published"))


def whole(seconds: float) -> int:
    """Seconds as Redis takes them: whole, and at least one."""
    return max(1, round(seconds))
