"""Where connections to Redis lead: to one server, perhaps of a cluster, or to one that sentinels name."""

from __future__ import annotations

from redis.asyncio.connection import Connection

from eclipse_ws.backends.redis.connection import Find, connection
from eclipse_ws.backends.redis.sentinel import Sentinels
from eclipse_ws.config.redis_url import RedisUrl, Server, topology
from eclipse_ws.config.settings import Settings


class Address:
    """What REDIS_URL says. ``find`` finds the servers to try, for each connection anew; None: only one.

    ``server`` is one of the cluster that REDIS_URL names.
    """

    def __init__(self, settings: Settings, server: Server | None = None) -> None:
        self._settings = settings
        self._url = settings.redis_url.get_secret_value()
        self.sentinels: Sentinels | None = None
        self.find: Find | None = None
        if server is not None:
            self._url = RedisUrl.parse(self._url).to(server)
        elif topology(self._url) == "sentinel":
            url = RedisUrl.parse(self._url)
            self._url = url.to(url.servers[0])  # the server that is found takes this one's place
            self.sentinels = Sentinels(url, settings.redis_timeout, settings.redis_ca)
            self.find = self.sentinels.primaries

    def make(self) -> Connection:
        """Make redis-py's own connection, still closed. Raises ValueError where the URL can't be used."""
        return connection(self._url, self._settings.redis_timeout, self._settings.redis_ca)
