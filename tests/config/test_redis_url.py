"""The parts of a REDIS_URL, and what is wrong with one."""

from __future__ import annotations

import pytest

from eclipse_ws.config.problems import mask_url
from eclipse_ws.config.redis_url import RedisUrl, Server, check_redis_url


def test_sentinels() -> None:
    """Ports, accounts, the service, the database, and options for TLS are found, the ports by default."""
    url = (
        "rediss+sentinel://app:p%40ss@a.example.com,b.example.com:5000,[::1]:26380/my%20chats/3"
        "?sentinel_username=look&sentinel_password=s%26cret&ssl_check_hostname=false"
    )
    assert check_redis_url(url) == []
    parts = RedisUrl.parse(url)
    a, _, local = servers = parts.servers
    assert servers == (("a.example.com", 26379), ("b.example.com", 5000), ("::1", 26380))
    assert parts.service == "my chats"
    assert parts.to(Server("10.0.0.1", 6379)) == (
        "rediss://app:p%40ss@10.0.0.1:6379/3?ssl_check_hostname=false"
    )
    assert parts.to_sentinel(a) == (
        "rediss://a.example.com:26379?ssl_check_hostname=false&username=look&password=s%26cret"
    )
    assert parts.to_sentinel(local).startswith("rediss://[::1]:26380?")


def test_a_cluster() -> None:
    """Some of its servers, each with the same account."""
    url = "rediss+cluster://u:p@a,b:7001/0?ssl_cert_reqs=none&pubsub=sharded"
    assert check_redis_url(url) == []
    parts = RedisUrl.parse(url)
    assert parts.servers == (("a", 6379), ("b", 7001))
    assert parts.to(Server("c", 7002)) == "rediss://u:p@c:7002/0?ssl_cert_reqs=none"


def test_the_shortest_form() -> None:
    """One sentinel, and nothing that could be left out."""
    parts = RedisUrl.parse("redis+sentinel://a/chats")
    assert (parts.userinfo, parts.database, parts.options) == ("", "", {})
    assert parts.to_sentinel(parts.servers[0]) == "redis://a:26379"
    assert parts.to(parts.servers[0]) == "redis://a:26379/"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+sentinel://a:26379", "lacks the service's name"),
        ("redis+sentinel://a:26379/", "lacks the service's name"),
        ("redis+sentinel://a:26379/chats/x", "more after its servers than a database number"),
        ("redis+sentinel://u:p/w@a:26379/chats", "host:port"),
        ("redis+sentinel://a,,b/chats", "host:port"),
        ("redis+sentinel://a:0/chats", "host:port"),
        ("redis+sentinel://a:70000/chats", "host:port"),
        ("redis+sentinel:///chats", "host:port"),
        ("redis+sentinel://u:your-password@a/chats", "placeholder"),
        ("redis+sentinel://a,your-redis-host/chats", "placeholder"),
        ("redis+sentinel://a/chats#x", "has a # in it"),
        ("redis+sentinel://a/chats?ssl_cert_reqs=none", "an option 'ssl_cert_reqs'"),
        ("redis+sentinel://a/chats?sentinel_password=", "a value for the option 'sentinel_password'"),
        ("rediss+sentinel://a/chats?family=6", "an option 'family'"),
        ("redis://a?sentinel_password=x", "an option 'sentinel_password'"),
        ("redis+://a/0", "is not of the form"),
        ("redis+swarm://a/0", "is not of the form"),
        ("redis-sentinel://a/chats", "redis+sentinel://host"),
        ("redis://a,b/0", "names more than one server"),
        ("redis+cluster://a,b/1", "only the database 0"),
        ("redis+cluster://a/chats", "a database number"),
        ("redis+cluster://", "host:port"),
        ("redis+cluster://a?pubsub=fast", "a value for the option 'pubsub'"),
        ("redis+sentinel://a/chats?pubsub=sharded", "an option 'pubsub'"),
        ("redis+cluster://a?sentinel_password=x", "an option 'sentinel_password'"),
    ],
)
def test_a_wrong_url(url: str, says: str) -> None:
    """Each has a sentence of its own and a fix, without a password."""
    (problem,) = check_redis_url(url)
    assert says in f"{problem.text} {problem.fix}"
    assert problem.fix
    assert "your-password" not in f"{problem.text} {problem.fix}"


@pytest.mark.parametrize("url", ["redis://a,b", "redis+swarm://a", "unix:///a", "redis+sentinel://a"])
def test_only_valid_urls_have_parts(url: str) -> None:
    """Whatever is not a valid URL of TCP servers raises ValueError."""
    with pytest.raises(ValueError, match="it"):
        RedisUrl.parse(url)


def test_no_password_is_shown() -> None:
    """Neither Redis's nor the sentinels' password is in a masked URL; the servers are."""
    shown = mask_url("redis+sentinel://u:hunter2@a:1,b:2/chats?sentinel_password=hunter3")
    assert "hunter" not in shown
    assert "a:1,b:2/chats" in shown
