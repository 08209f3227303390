"""The Lua scripts: called by their digest, and sent as a whole if Redis doesn't know them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError

from eclipse_ws.backends.redis.connection import CommandConnection


class Script:
    """A script of this folder, called with its keys and arguments."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = (Path(__file__).parent / f"{name}.lua").read_bytes()
        self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    async def __call__(
        self, connection: CommandConnection, keys: Sequence[str], *arguments: str | bytes | int
    ) -> Any:
        """Run it. Raises DisconnectedError, or the RedisError of the answer."""
        try:
            return await connection.call("EVALSHA", self.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            # A restarted Redis has lost its scripts; EVAL loads this one again for all nodes.
            return await connection.call("EVAL", self.source, len(keys), *keys, *arguments)


PUBLISH = Script("publish")
JOIN = Script("join")
MARK = Script("mark")
BROADCAST = Script("broadcast")
HISTORY = Script("history")
ATTEMPT = Script("attempt")
SETTLE = Script("settle")
HEARTBEAT = Script("heartbeat")
LEDGER_TAKE = Script("ledger_take")
LEDGER_WRITE = Script("ledger_write")
