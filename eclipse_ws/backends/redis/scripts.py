"""The Lua scripts: loaded into Redis by their digest, and sent whole where Redis has forgotten them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.exceptions import NoScriptError

from eclipse_ws.backends.redis.link import Link


class Script:
    """A script of this folder, called with its keys and arguments."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.source = (Path(__file__).parent / f"{name}.lua").read_bytes()
        self.digest = hashlib.sha1(self.source, usedforsecurity=False).hexdigest()

    async def __call__(self, link: Link, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        """Run it. Raises LinkError or ResponseError."""
        try:
            return await link.call("EVALSHA", self.digest, len(keys), *keys, *arguments)
        except NoScriptError:
            # A restarted Redis has lost its scripts; EVAL brings this one back for everybody.
            return await link.call("EVAL", self.source, len(keys), *keys, *arguments)


PUBLISH = Script("publish")
JOIN = Script("join")
HISTORY = Script("history")
ATTEMPT = Script("attempt")
SETTLE = Script("settle")
HEARTBEAT = Script("heartbeat")


def channel_name(chat_id: str) -> str:
    """The Redis channel of a chat, which the application and the servers of before know too."""
    return f"chat:{chat_id}"


_BRACES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


def key(chat_id: str, *parts: str) -> str:
    """A key of ours for a chat: all of a chat's keys are in one slot of a cluster.

    Braces in the id are percent-encoded, so that it ends where the hash tag ends, and no other chat's id
    and parts make the same key.
    """
    return ":".join([f"eclipse:{{{chat_id.translate(_BRACES)}}}", *parts])


def chat_keys(chat_id: str) -> list[str]:
    """The keys of a chat's position and history, in the order that the scripts want them."""
    return [
        key(chat_id, "meta"),
        key(chat_id, "events"),
        key(chat_id, "seen", "0"),
        key(chat_id, "seen", "1"),
    ]
