"""What our channels and keys are called on a Redis that several environments may share."""

from __future__ import annotations

from typing import Self

from redis.asyncio.connection import parse_url

from eclipse_ws.config.redis_url import RedisUrl, is_sharded, topology
from eclipse_ws.config.settings import Settings

_BRACES = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


class Names:
    """The names of one environment: no other one uses any of them.

    ``prefix`` comes before every name. Keys belong to a database, but channels do not: pub/sub knows no
    databases. So the number of a ``database`` other than 0 is part of the nodes' own channels. It is not part
    of the chats' channels, because the application publishes there as well.
    """

    def __init__(self, prefix: str = "", database: int = 0, *, sharded: bool = False) -> None:
        nodes = f"{prefix}eclipse:{database}:" if database else f"{prefix}eclipse:"
        self._prefix = prefix
        self.sharded = sharded
        """Whether the chats' channels are sharded: each is in the slot of its chat."""
        self.all_nodes = f"{nodes}nodes"
        """The channel that every node hears."""
        self.node = f"{nodes}node:"
        """Prefix of a node's own channel and of its lease; the node's name follows."""
        ledger = f"{prefix}eclipse:ledger:{{0}}:"
        self.ledger = f"{ledger}holder", f"{ledger}records"
        """The keys of the ledger's holder and of its records: both are in one slot of a cluster."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The names that the settings ask for."""
        url = settings.redis_url.get_secret_value()
        return cls(settings.redis_prefix, database(url), sharded=is_sharded(url))

    def channel(self, chat_id: str) -> str:
        """The channel of a chat, which the application and earlier servers use, too, unless it is sharded."""
        return self.key(chat_id, "channel") if self.sharded else f"{self._prefix}chat:{chat_id}"

    @property
    def publish(self) -> str:
        """The command that publishes on a chat's channel."""
        return "SPUBLISH" if self.sharded else "PUBLISH"

    def key(self, chat_id: str, *parts: str) -> str:
        """A key of ours for a chat: all of a chat's keys are in one slot of a cluster.

        Braces in the id are percent-encoded, so that it ends where the hash tag ends, and no other chat's id
        and parts make the same key.
        """
        return ":".join([f"{self._prefix}eclipse:{{{chat_id.translate(_BRACES)}}}", *parts])

    def attempt(self, chat_id: str, name: str) -> str:
        """The key under which Redis keeps what is known of an idempotency key."""
        return self.key(chat_id, "attempt", name)

    def marks(self, chat_id: str) -> str:
        """The key of a chat's marks."""
        return self.key(chat_id, "marks")

    def chat_keys(self, chat_id: str) -> list[str]:
        """The keys of a chat's position and history, in the order that the scripts want them."""
        chat = self.key(chat_id)
        return [f"{chat}:meta", f"{chat}:events", f"{chat}:seen:0", f"{chat}:seen:1"]


def database(url: str) -> int:
    """The number of the database in a URL; 0 if the URL is invalid, which the start reports."""
    try:
        if topology(url):
            return int(RedisUrl.parse(url).database or 0)
        return int(parse_url(url).get("db", 0))
    except ValueError:
        return 0
