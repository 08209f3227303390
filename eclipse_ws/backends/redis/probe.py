"""The rights that this server needs in Redis, checked at the start, before the first message."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import structlog
from redis.exceptions import NoPermissionError, RedisError

from eclipse_ws.backends.base import BackendError
from eclipse_ws.backends.redis import scripts
from eclipse_ws.backends.redis.connection import CommandConnection, DisconnectedError
from eclipse_ws.backends.redis.connections import Connections
from eclipse_ws.backends.redis.names import Names
from eclipse_ws.backends.redis.refusals import Refusal, classify

log = structlog.get_logger("eclipse_ws.redis")

_SECONDS = 60
_POLL = 0.005
_IDS = 1_000_000
"""Ids that are tried until one is in a slot of the server."""


@contextlib.contextmanager
def first_contact() -> Iterator[None]:
    """Raise BackendError where trying again can't help: URL, password, kind of server. Log what may pass."""
    try:
        yield
    except ValueError as error:
        raise BackendError(f"REDIS_URL can't be used: {error}") from None
    except RedisError as error:
        refusal = classify(error)
        if refusal.ends_start:
            raise BackendError(f"Redis refuses this server: {error}; {refusal.value}") from None
        log.warning("Redis refuses connections; delivering locally", why=str(error), fix=refusal.value)
    except DisconnectedError as error:
        log.warning("Redis unavailable; delivering locally", why=str(error))


async def greet(connections: Connections) -> None:
    """Connect once. Raises BackendError as `first_contact` does."""
    with first_contact():
        first = connections.make_commands()
        try:
            await first.connect()
        finally:
            await first.disconnect()


async def probe(connections: Connections, timeout: float, takes: Callable[[str], bool]) -> None:
    """Run every script once, on keys that expire. Raises BackendError, which names a right that is missing.

    The keys are those of a chat that this server takes.

    A Redis that is unavailable, or that refuses for now, only causes a warning.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    while connections.standing is None and loop.time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_POLL)
    if connections.standing is None:
        return
    chat_id = next(each for _ in range(_IDS) if takes(each := f"probe-{secrets.token_hex(6)}"))
    try:
        await _run_scripts(connections.standing, connections.names, chat_id)
    except RedisError as error:
        refusal = classify(error)
        missing = await _missing_rights(connections.standing, connections.names, chat_id)
        if missing or refusal is Refusal.RIGHTS:
            raise _lacks(", ".join(missing) or str(error)) from None
        if refusal.ends_start:
            raise BackendError(f"this Redis can't be used: {error}; {refusal.value}") from None
        if not connections.is_general(error):
            log.warning("Redis takes no events now", why=str(error), fix=refusal.value)
        return
    except DisconnectedError as error:
        if connections.refusal is None:
            log.warning("Redis unavailable; delivering locally", why=str(error))
    while connections.state != "up" and loop.time() < deadline:
        if connections.subscribe_refusal or connections.refusal:
            break
        await asyncio.sleep(_POLL)
    if connections.subscribe_refusal and classify(connections.subscribe_refusal).ends_start:
        raise _lacks(f"SUBSCRIBE ({connections.subscribe_refusal})")


def _lacks(rights: str) -> BackendError:
    return BackendError(f"the Redis account lacks a right: {rights}; grant it, see docs/deploy.md")


async def _run_scripts(connection: CommandConnection, names: Names, chat_id: str) -> None:
    keys, attempt = names.chat_keys(chat_id), names.key(chat_id, "attempt", "probe")
    body = b'{"type":"probe"}'
    marks = names.marks(chat_id)
    settled = [*keys, attempt]
    channel = names.channel(chat_id)
    # Needed when Redis has lost its scripts, which may be much later.
    await connection.call("EVAL", "return 1", 0)
    try:
        kept = (1, _SECONDS, _SECONDS)
        await scripts.PUBLISH(
            connection,
            settled,
            channel,
            body,
            "probe",
            "probe",
            *kept,
            "",
            "",
            len(body),
            "",
            "",
            0,
            names.publish,
            "probe",
            "",
        )
        await scripts.BROADCAST(connection, [])
        await scripts.HISTORY(connection, keys[:2], "probe", 0, 0)
        # Three times, because only a later node asks whether an earlier one listens, and only if the guard is
        # old, whether its lease stands.
        for guard, lease in (("one", 1000), ("other", 1000), ("third", 0)):
            join = (guard, f"{guard}:1", "", "", 0, 0, "probe", _SECONDS, names.node, 1, lease, "")
            await scripts.JOIN(connection, [*keys, marks], *join)
        until = int(time.time()) + _SECONDS
        mark = ("probe", f"{until} - 0 probe", until, "-", 0, 1, names.node + "probe", "")
        await scripts.MARK(connection, [keys[0], marks], *mark)
        await scripts.ATTEMPT(connection, [attempt], "probe", 1, _SECONDS, 0, "")
        await scripts.SETTLE(connection, [attempt], "probe", "release", _SECONDS, "")
    finally:
        connection.call("DEL", *settled, marks).add_done_callback(_ignore)


def _ignore(done: asyncio.Future[Any]) -> None:
    if not done.cancelled():
        done.exception()


async def _missing_rights(connection: CommandConnection | None, names: Names, chat_id: str) -> list[str]:
    """The commands that this account may not send; not every server names what it refuses a script."""
    if connection is None:
        return []
    one, two, three = (names.key(chat_id, part) for part in ("hash", "stream", "string"))
    commands: list[tuple[str | int, ...]] = [
        ("EVALSHA", scripts.PUBLISH.digest, 0),
        ("EVAL", "return 1", 0),
        ("TIME",),
        ("HSET", one, "field", 1),
        ("HGET", one, "field"),
        ("HMGET", one, "field"),
        ("HGETALL", one),
        ("HDEL", one, "field"),
        ("HLEN", one),
        ("TTL", one),
        ("XADD", two, "MAXLEN", 1, "1-0", "e", "e"),
        ("XRANGE", two, "-", "+"),
        ("SET", three, 1, "EX", _SECONDS),
        ("GET", three),
        ("EXISTS", three),
        ("EXPIRE", two, _SECONDS),
        ("EXPIRE", one, _SECONDS),
        ("DEL", one, two, three),
        (names.publish, names.channel(chat_id), "{}"),
        ("PUBSUB", "NUMSUB", names.node + chat_id),
    ]
    missing = []
    for command in commands:
        try:
            await connection.call(*command)
        except NoPermissionError as error:
            missing.append(f"{command[0]} ({error})")
        except (DisconnectedError, RedisError):
            continue
    return missing
