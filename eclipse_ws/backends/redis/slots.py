"""Which primary of a cluster has which slots, as its servers say."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from redis.crc import key_slot
from redis.exceptions import RedisError

from eclipse_ws.backends.redis.address import Address
from eclipse_ws.backends.redis.connection import DisconnectedError, ask
from eclipse_ws.config.redis_url import Server
from eclipse_ws.config.settings import Settings

SLOTS: Final = 16384
SHARE: Final = 0.5
"""How much of Redis's timeout one server has to answer."""
ATTEMPTS: Final = 6
"""Servers that are asked at most for one map."""
_TAGS: Final = 1_000_000


class _Range(NamedTuple):
    first: int
    last: int
    owner: Server


class SlotMap:
    """Which primary has a key, if any. ``servers`` includes replicas, which can be asked, too."""

    def __init__(self, ranges: Iterable[_Range] = (), servers: Iterable[Server] = ()) -> None:
        self._ranges = sorted(ranges)
        self._firsts = [each.first for each in self._ranges]
        self.primaries = {each.owner for each in self._ranges}
        self.servers = {*servers, *self.primaries}
        self.is_complete = sum(each.last - each.first + 1 for each in self._ranges) == SLOTS

    def owner(self, key: str) -> Server | None:
        """The primary that has this key."""
        slot = key_slot(key.encode())
        at = bisect_right(self._firsts, slot) - 1
        return self._ranges[at].owner if at >= 0 and slot <= self._ranges[at].last else None

    def tag(self, server: Server) -> str:
        """A hash tag in a slot of this primary; "" if it has none."""
        if server not in self.primaries:
            return ""
        return next((tag for n in range(_TAGS) if self.owner(tag := f"{{{n}}}") == server), "")


async def fetch(settings: Settings, servers: Iterable[Server]) -> SlotMap:
    """Ask these servers, in a random order, until one that sees a working cluster answers.

    Raises DisconnectedError, or the RedisError of a server that refuses to answer.
    """
    found = list(servers)
    left = random.sample(found, k=min(ATTEMPTS, len(found)))  # nosec B311
    whys, refused = [], None
    for server in left:
        try:
            found_map, state = await _ask(settings, server)
        except DisconnectedError as error:
            whys.append(f"{server}: {error}")
        except RedisError as error:
            refused = error
        else:
            # A server that is cut off from most others knows only what was before.
            if state == "ok":
                return found_map
            whys.append(f"{server}: the state of the cluster is {state}")
    if refused is not None and not whys:
        raise refused
    raise DisconnectedError("; ".join(whys))


async def _ask(settings: Settings, server: Server) -> tuple[SlotMap, str]:
    made = Address(settings, server).make()
    info, slots = await ask(made, settings.redis_timeout * SHARE, ("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))
    try:
        return _parse(slots, server), _state(info.decode())
    except (ValueError, IndexError, TypeError, AttributeError) as error:
        raise DisconnectedError(f"its slots can't be read: {error}") from error


def _state(info: str) -> str:
    lines = dict(line.partition(":")[::2] for line in info.split())
    return lines.get("cluster_state", "unknown")


def _parse(answer: list[Any], asked: Server) -> SlotMap:
    ranges, servers = [], []
    for first, last, *nodes in answer:
        # A server that doesn't know its own host leaves it out.
        places = [Server((node[0] or b"").decode() or asked.host, int(node[1])) for node in nodes]
        ranges.append(_Range(int(first), int(last), places[0]))
        servers += places
    return SlotMap(ranges, servers)
