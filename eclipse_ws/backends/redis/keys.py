"""Idempotency keys in Redis: what is known of them, and who has reserved them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import structlog
from redis.exceptions import RedisError

from eclipse_ws.backends.base import Key, KeyState, Outcome, Record, Unavailable, patience
from eclipse_ws.backends.redis import scripts
from eclipse_ws.backends.redis.connection import Link, LinkError
from eclipse_ws.backends.redis.connections import LONGEST_PAUSE, Links
from eclipse_ws.backends.redis.names import Names
from eclipse_ws.backends.redis.outage import Owed
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Receipt

log = structlog.get_logger("eclipse_ws.redis")

RECONNECT = 0.5
"""Seconds for which a question waits for the link that follows one that broke under it."""
TRIES = 5
"""Links over which one question is put at the most."""
SETTLING = LONGEST_PAUSE + 0.5
"""Seconds after an outage by which every node has found Redis again, and told it of its attempts."""
_STATES: Final[dict[str, KeyState]] = {
    "new": "none",
    "released": "released",
    "pending": "pending",
    "unknown": "unknown",
    "reused": "reused",
}
"""What was known of a key before, by the answer of the script `attempt`. The first two have reserved it."""
_VERDICTS: Final[dict[Outcome, str]] = {"released": "release", "unknown": "unknown", "forgotten": "forget"}
"""The words of the script `settle`."""


class Keys:
    """Reserves and settles keys in Redis. What Redis can't be told now goes to ``owe``."""

    def __init__(self, settings: Settings, links: Links, owe: Callable[[Owed], None]) -> None:
        self._links = links
        self._owe = owe
        self._patience = patience(settings)
        self._lifetime = whole(settings.history_seconds)

    @property
    def is_uncertain(self) -> bool:
        """Whether this node can't ask Redis, or Redis may not have heard yet what others have to tell."""
        return self._links.commands is None or time.monotonic() < self._links.found_at + SETTLING

    async def reserve(self, chat_id: str, key: Key, *, retry_unknown: bool, certain: bool) -> Record:
        """See the contract."""
        if certain and self.is_uncertain:
            raise Unavailable
        asked, why = False, "Redis is unavailable"
        for _ in range(TRIES):
            link = self._links.commands
            if link is None:
                break
            try:
                return self._record(await self._call(link, chat_id, key, retry_unknown))
            except (LinkError, RedisError) as error:
                if self._links.doubt(error):
                    break  # an outage like any other
                asked, why = True, str(error)
                broken = isinstance(error, LinkError)
                if not (broken and await self._links.commands_after(link, RECONNECT)):
                    break
        raise Unavailable(why, asked=asked)

    async def settle(self, chat_id: str, key: Key, outcome: Outcome) -> None:
        """See the contract."""
        commands = self._links.commands
        if commands is not None:
            try:
                await self.end(commands, chat_id, key, outcome)
                return
            except (LinkError, RedisError) as error:
                if isinstance(error, RedisError) and not self._links.doubt(error):
                    log.warning("attempt not settled, it is tried again", chat=chat_id, why=str(error))
        self._owe(Owed(chat_id, None, key, outcome))

    async def end(self, link: Link, chat_id: str, key: Key, outcome: Outcome) -> None:
        """Tell Redis how an attempt without a message ended. Raises LinkError or RedisError."""
        await scripts.SETTLE(
            link,
            [redis_key(self._links.names, chat_id, key)],
            key.token,
            _VERDICTS[outcome],
            self._lifetime,
            key.fingerprint,
        )

    async def note(self, link: Link, chat_id: str, key: Key, receipt: Receipt) -> None:
        """Tell Redis that an attempt's message was published. Raises LinkError or RedisError."""
        mark = f":{key.fingerprint}" if key.fingerprint else ""
        done = f"done{mark} {receipt.cursor} {receipt.id}"
        await link.call("SET", redis_key(self._links.names, chat_id, key), done, "EX", self._lifetime)

    async def _call(self, link: Link, chat_id: str, key: Key, retry_unknown: bool) -> Any:
        return await scripts.ATTEMPT(
            link,
            [redis_key(self._links.names, chat_id, key)],
            key.token,
            int(self._patience * 1000),
            self._lifetime,
            int(retry_unknown),
            key.fingerprint,
        )

    @staticmethod
    def _record(answer: bytes) -> Record:
        state, *rest = answer.decode().split(" ")
        if state != "done":
            return Record(_STATES[state])
        cursor, _, saved = " ".join(rest).partition(" ")
        return Record("done", Receipt(saved, cursor, "published"))


def redis_key(names: Names, chat_id: str, key: Key) -> str:
    """The key under which Redis keeps what is known of an idempotency key."""
    return names.key(chat_id, "attempt", key.name)


def whole(seconds: float) -> int:
    """Seconds as Redis takes them: whole, and at least one."""
    return max(1, round(seconds))
