"""The meaning of Redis's errors: the only place that decides which of them may pass."""

from __future__ import annotations

import re
from enum import Enum
from typing import Final

from redis.exceptions import (
    AskError,
    AuthenticationError,
    MovedError,
    RedisError,
    ResponseError,
    TryAgainError,
)

ELSEWHERE: Final = (MovedError, AskError, TryAgainError)
"""A server of a cluster has not done it, because the slot is, or will be, another one's."""


class Refusal(Enum):
    """What a refusal concerns; the value says how to fix it.

    Some of them end a start. While a server runs, every refusal may pass but `REJECTED`, which concerns the
    one event that was refused.
    """

    ADDRESS = "leave out the number of the database in REDIS_URL, or use one that this server has"
    CREDENTIALS = "check the user and password in REDIS_URL"
    RIGHTS = "grant the account what it lacks, see docs/deploy.md"
    UNSUPPORTED = "use a Redis or Valkey that runs Lua"
    CLUSTER = "this server belongs to a cluster: let REDIS_URL begin with redis+cluster://"
    NO_CLUSTER = "this server does not belong to a cluster: let REDIS_URL begin with redis://"
    REJECTED = "publish smaller events, and leave the keys eclipse:* to this server"
    WRONG_SERVER = "wait until a failover is over, or use the address that leads to the primary"
    SERVICE = (
        "write the name that the sentinels' configuration has (sentinel monitor <name> ...) into REDIS_URL"
    )
    SENTINEL = "add ?sentinel_username=...&sentinel_password=... to REDIS_URL, the sentinels' own account"
    NO_SENTINEL = "name the sentinels in REDIS_URL, not Redis itself; their usual port is 26379"
    UNAVAILABLE = "wait, or look at the limits and the state of this database at its provider"

    @property
    def ends_start(self) -> bool:
        """Whether trying again can't help."""
        return self in _END_START


_END_START: Final = (
    Refusal.ADDRESS,
    Refusal.CREDENTIALS,
    Refusal.RIGHTS,
    Refusal.UNSUPPORTED,
    Refusal.CLUSTER,
    Refusal.NO_CLUSTER,
    Refusal.SERVICE,
    Refusal.SENTINEL,
    Refusal.NO_SENTINEL,
)
_CODES: Final = {
    "WRONGPASS": Refusal.CREDENTIALS,
    "NOPERM": Refusal.RIGHTS,
    "MOVED": Refusal.CLUSTER,
    "ASK": Refusal.CLUSTER,
    "CROSSSLOT": Refusal.UNSUPPORTED,
    "WRONGTYPE": Refusal.REJECTED,
    # These concern the server at the other end of this connection. The same name may lead to another server
    # by now, but only a new connection finds it.
    "READONLY": Refusal.WRONG_SERVER,
    "MASTERDOWN": Refusal.WRONG_SERVER,
    "CLUSTERDOWN": Refusal.WRONG_SERVER,
    "NOREPLICAS": Refusal.WRONG_SERVER,
    "LOADING": Refusal.WRONG_SERVER,
}
_WORDS: Final = (
    (re.compile(r"\bDB index\b|database is supported|SELECT is not allowed", re.I), Refusal.ADDRESS),
    (re.compile(r"cluster support disabled", re.I), Refusal.NO_CLUSTER),
    (re.compile(r"user executing the script can't|ACL failure in script", re.I), Refusal.RIGHTS),
    (
        re.compile(r"unknown (sub)?command|command is not available|compiling script", re.I),
        Refusal.UNSUPPORTED,
    ),
    (
        re.compile(r"(request|record|string|value) size exceeded|exceeds maximum allowed", re.I),
        Refusal.REJECTED,
    ),
)
"""Refusals that only the text identifies; providers answer most of theirs with a plain ``ERR``."""
_INSIDE: Final = re.compile(r"@user_script: ?\d+: -([A-Z]+) ")
"""A refusal inside a script, as servers before 7.0 report it."""


class SentinelError(ResponseError):
    """The sentinels have answered, but none of them names a primary."""

    def __init__(self, text: str, refusal: Refusal) -> None:
        super().__init__(text)
        self.refusal = refusal


def is_answer(error: RedisError) -> bool:
    """Whether Redis itself has answered with it, on a connection that still works.

    The client has classes for some answers that don't derive from ResponseError, such as LOADING's.
    """
    return isinstance(error, ResponseError) or error.status_code is not None


def classify(error: RedisError) -> Refusal:
    """What a refusal concerns. An unknown one may pass: quotas, memory, disks, proxies."""
    if isinstance(error, SentinelError):
        return error.refusal
    text = str(error)
    # The client removes the code from the messages of refusals for which it has classes.
    code = error.status_code or text.partition(" ")[0]
    if inside := _INSIDE.search(text):
        code = inside[1]
    if code in _CODES:
        return _CODES[code]
    for words, refusal in _WORDS:
        if words.search(text):
            return refusal
    return Refusal.CREDENTIALS if isinstance(error, AuthenticationError) else Refusal.UNAVAILABLE
