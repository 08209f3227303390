"""The Redis backend: many nodes, one order.

**Epoch and cursor, by an example.** The chat "c" has never been heard of. A visitor joins on node A: A
subscribes to the channel ``chat:c``, then runs the script `join`, which finds no epoch and begins one, say
"7f". The chat's position is ``7f.0``. A message is published: the script `publish` counts the offset up, adds
``"cursor":"7f.1"`` to the event, appends it to the chat's stream, and publishes it, all in one step, so that
the order of offsets is the order on the channel. Two more follow; an agent on node B has seen ``7f.3``.

The agent's train enters a tunnel, two more events are published, the agent comes back with ``cursor=7f.3``:
the stream still has 4 and 5, which are replayed, ``recovered: true``. Had there been 150 events meanwhile, of
which the stream keeps 100, the first 50 could not be had: ``recovered: false`` and none of them.

The application publishes on ``chat:c`` itself, without a cursor. Each node that hears that calls `publish`
with it; the first call sequences it, the others find its identity and change nothing. But Redis keeps nothing
of a PUBLISH that nobody heard. So while no node listens, the history may get a hole that nobody can see, and
a client that joins then must not trust it: `join` begins a new epoch, "a2". A client that hands back ``7f.5``
gets ``recovered: false``, which is the truth. For the same reason a node keeps listening for a while after
its last session has left.

**Back in time.** A Redis that was restored from a snapshot knows the earlier epoch and fewer events, and
would give the offsets of the lost events to new ones. So each node says what it has delivered: `publish` and
`join` begin a new epoch where that is beyond Redis's own position, `join` also where another event is in
that place. A client's cursor proves nothing, because a client can invent one.

**Who guards.** Each node that hears a chat is noted in the chat's hash by the name of its connection,
``<node>:<number>``. A guard counts while that connection's own channel has a subscriber, which ends in the
moment when the connection does, and while its lease, renewed by each heartbeat, lives, which ends soon after
its machine does.

**A cluster** is several servers, each of which has some of the chats, with all of their keys. A node has a
`ServerBackend` for each primary, and hears a chat's channel on the primary that has the chat: what a script
publishes there is heard as on a single server. So all of the above holds for each primary and its chats. What
the application publishes on any server is heard on all of them. `ClusterBackend` knows which chat is where.
"""

from __future__ import annotations

from typing import Any

from eclipse_ws.backends.redis.backend import ServerBackend
from eclipse_ws.backends.redis.cluster import ClusterBackend
from eclipse_ws.config.redis_url import topology
from eclipse_ws.config.settings import Settings


class RedisBackend(ServerBackend):
    """The backend for a REDIS_URL: of one server, also if sentinels name it, or of a cluster."""

    def __new__(cls, settings: Settings) -> Any:
        """Make the one that fits."""
        if topology(settings.redis_url.get_secret_value()) == "cluster":
            return ClusterBackend(settings)
        return super().__new__(cls)


__all__ = ["RedisBackend"]
