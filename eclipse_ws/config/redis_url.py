"""The parts of a REDIS_URL: one server, sentinels that know where the primary is, or servers of a cluster."""

from __future__ import annotations

import re
from typing import Final, NamedTuple, Self
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from eclipse_ws.config.problems import Problem, is_placeholder

WHERE_REDIS_URL: Final = (
    "set REDIS_URL to the Redis URL of the database (Upstash's console: the database's page, "
    "'Connect', tab 'TCP'; it begins with rediss://)"
)
_FORMS: Final = {
    "": "redis://host:port, rediss://user:password@host:port",
    "sentinel": "redis+sentinel://host:26379,host:26379/<name of the service>",
    "cluster": "redis+cluster://host:6379,host:6379",
}
_DEFAULT_PORTS: Final = {"": 6379, "sentinel": 26379, "cluster": 6379}
_TLS_OPTIONS: Final = {
    "ssl_ca_certs": ".+",
    "ssl_ca_path": ".+",
    "ssl_certfile": ".+",
    "ssl_keyfile": ".+",
    "ssl_cert_reqs": "none|optional|required",
    "ssl_check_hostname": "(?i:true|false)",
}
"""By redis-py's names; it fails on those of other clients (`family=6`)."""
_CLUSTER_OPTIONS: Final = {"pubsub": "classic|sharded"}
_SENTINEL_OPTIONS: Final = {"sentinel_username": ".+", "sentinel_password": ".+"}  # nosec B105
_SERVER: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[^:\[\]\s]+)(?::(?P<port>\d{1,5}))?")


class Server(NamedTuple):
    """Where one server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class RedisUrl(NamedTuple):
    """The parts of ``<scheme>[+<topology>]://[<userinfo>@]<servers>[/<service>][/<database>][?<options>]``.

    ``topology`` is ``sentinel``, ``cluster``, or "" for one server; ``service`` is what sentinels call the
    primary.
    """

    scheme: str
    topology: str
    userinfo: str
    servers: tuple[Server, ...]
    service: str
    database: str
    options: dict[str, str]

    @classmethod
    def parse(cls, url: str) -> Self:
        """Split a URL of TCP servers. Raises ValueError, without the URL, if it is not of this form."""
        full, _, rest = url.partition("://")
        scheme, _, topology = full.partition("+")
        rest, _, query = rest.partition("?")
        place, slash, path = rest.partition("/")
        userinfo, _, hosts = place.rpartition("@")
        if scheme not in ("redis", "rediss") or topology not in _FORMS or (not topology and "+" in full):
            raise ValueError("its scheme is unknown")
        servers = tuple(_server(each, _DEFAULT_PORTS[topology]) for each in hosts.split(","))
        if not topology and len(servers) > 1:
            raise ValueError(
                "it names more than one server, which needs redis+sentinel:// or redis+cluster://"
            )
        service = ""
        if topology == "sentinel":
            service, slash, path = path.partition("/")
            if not service:
                raise ValueError("it lacks the service's name after the servers")
        if slash and not re.fullmatch(r"\d{0,5}", path):
            raise ValueError("it has more after its servers than a database number")
        if topology == "cluster" and int(path or 0):
            raise ValueError("a cluster has only the database 0")
        options = dict(parse_qsl(query, keep_blank_values=True))
        return cls(scheme, topology, userinfo, servers, unquote(service), path, options)

    def to(self, server: Server) -> str:
        """The redis:// or rediss:// URL of one of its Redis servers."""
        own = {*_SENTINEL_OPTIONS, *_CLUSTER_OPTIONS}
        options = {name: value for name, value in self.options.items() if name not in own}
        return self._url(f"{self.userinfo}@" if self.userinfo else "", server, f"/{self.database}", options)

    def to_sentinel(self, server: Server) -> str:
        """The same of one of its sentinels, which have accounts of their own."""
        options = {name: value for name, value in self.options.items() if name in _TLS_OPTIONS}
        account = {
            name.removeprefix("sentinel_"): value
            for name, value in self.options.items()
            if name in _SENTINEL_OPTIONS
        }
        return self._url("", server, "", {**options, **account})

    def _url(self, userinfo: str, server: Server, path: str, options: dict[str, str]) -> str:
        query = f"?{urlencode(options)}" if options else ""
        return f"{self.scheme}://{userinfo}{server}{path}{query}"


def _server(text: str, default: int) -> Server:
    found = _SERVER.fullmatch(text)
    if found is None or int(found["port"] or default) not in range(1, 65536):
        raise ValueError("one of its servers is not of the form host or host:port")
    return Server(found["host"].strip("[]"), int(found["port"] or default))


def topology(url: str) -> str:
    """``sentinel``, ``cluster``, or "" for one server."""
    return url.partition("://")[0].partition("+")[2]


def is_sharded(url: str) -> bool:
    """Whether a cluster's events take sharded channels, which only this server publishes to."""
    return topology(url) == "cluster" and "pubsub=sharded" in url.partition("?")[2].split("&")


def check_redis_url(url: str) -> list[Problem]:
    """Problems of a REDIS_URL."""
    scheme = url.partition("://")[0]
    if topology(url) in _FORMS and "+" in scheme:
        return _check_servers(url)
    return _check_server(url)


def _check_servers(url: str) -> list[Problem]:
    name, form = "REDIS_URL", _FORMS[topology(url)]
    try:
        parts = RedisUrl.parse(url)
    except ValueError as error:
        fix = f"write it as {form}; write / @ # ? of a password as %2F %40 %23 %3F"
        return [Problem(name, f"is not of the form {form}: {error}", fix)]
    if any(is_placeholder(parts.to(server)) for server in parts.servers):
        return [Problem(name, "contains a placeholder", f"write it as {form}")]
    if "#" in url:
        fix = "write / @ # ? of a password as %2F %40 %23 %3F"
        return [Problem(name, "has a # in it", fix)]
    permitted = dict(_SENTINEL_OPTIONS if parts.topology == "sentinel" else _CLUSTER_OPTIONS)
    permitted |= _TLS_OPTIONS if parts.scheme == "rediss" else {}
    return _check_options(parts.options, permitted)


def _check_server(url: str) -> list[Problem]:
    name = "REDIS_URL"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return [Problem(name, "is not a valid URL", "write it as rediss://default:<password>@<host>:6379")]
    if parts.scheme in ("http", "https"):
        return [
            Problem(
                name,
                f"begins with {parts.scheme}://: that is the REST API, another protocol",
                WHERE_REDIS_URL,
            )
        ]
    socket = parts.scheme == "unix"
    if not (parts.path if socket else parts.scheme in ("redis", "rediss") and host):
        return [Problem(name, f"is not of the form {' or '.join(_FORMS.values())}", WHERE_REDIS_URL)]
    if "," in parts.netloc.rpartition("@")[2]:
        fix = f"write it as {_FORMS['sentinel']} or {_FORMS['cluster']}"
        return [Problem(name, "names more than one server", fix)]
    if is_placeholder(url):
        return [Problem(name, "contains a placeholder", WHERE_REDIS_URL)]
    if parts.fragment or not (socket or re.fullmatch(r"(/\d{0,5})?", parts.path)):
        problem = "has more after its host and port than a database number"
        fix = "write / @ # ? of a password as %2F %40 %23 %3F, and a database as a number"
        return [Problem(name, problem, fix)]
    permitted = {"db": r"\d{1,5}", **(_TLS_OPTIONS if parts.scheme == "rediss" else {})}
    return _check_options(dict(parse_qsl(parts.query, keep_blank_values=True)), permitted)


def _check_options(options: dict[str, str], permitted: dict[str, str]) -> list[Problem]:
    for option, value in options.items():
        pattern = permitted.get(option)
        if pattern is None or not re.fullmatch(pattern, value):
            what = "an option" if pattern is None else "a value for the option"
            problem = f"has {what} {option[:40]!r} that this server does not support"
            return [Problem("REDIS_URL", problem, "remove it, or the ? and everything after it")]
    return []
