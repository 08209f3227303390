"""Whether Redis refuses everything that it is asked."""

from __future__ import annotations

import time

import structlog
from redis.exceptions import RedisError

from eclipse_ws.backends.redis.connection import CommandConnection
from eclipse_ws.backends.redis.refusals import Refusal, classify

log = structlog.get_logger("eclipse_ws.redis")


class Refusing:
    """Whether Redis answers, but refuses commands: it is read-only, loading, full, or over a quota.

    ::

        accepting ──a heartbeat is refused, or a command's answer says: wrong server──▶ refusing
            ▲                                                                              │
            └───────────────────────────── a heartbeat is accepted ────────────────────────┘

    This state outlives a connection: the next one may lead to the same server.
    """

    def __init__(self) -> None:
        self.error: RedisError | None = None
        """The error with which it refuses everything; None while it accepts."""
        self.count = 0
        """Commands that were refused since it began."""
        self._began = 0.0
        self._stopped: CommandConnection | None = None  # a command's answer on it has begun a refusal

    def begin(self, error: RedisError) -> None:
        """Send Redis no commands until it accepts a heartbeat."""
        self.count += 1
        if self.error is None:
            self._began = time.monotonic()
            fix = classify(error).value
            log.warning("Redis refuses commands; delivering locally", why=str(error), fix=fix)
        self.error = error

    def end(self) -> None:
        """Redis has accepted a heartbeat."""
        seconds = round(time.monotonic() - self._began, 1)
        log.info("Redis accepts commands again", refused=self.count, seconds=seconds)
        self.error, self.count = None, 0

    def is_general(self, error: RedisError, connection: CommandConnection | None) -> bool:
        """Note a command's refusal. Returns whether Redis is known to refuse everything.

        If the error itself doesn't show that, the next heartbeat does. The heartbeat also decides if an
        answer on this connection began a refusal before: Redis has accepted a heartbeat since, so only some
        keys or commands are refused.
        """
        if self.error is not None:
            self.count += 1
            return True
        if classify(error) is not Refusal.WRONG_SERVER or connection in (None, self._stopped):
            return False
        self._stopped = connection
        self.begin(error)
        return True
