"""Limits: rates of a session, sessions and upgrades per address, guesses at the secret. Pure; no I/O.

Every rate is a token bucket, stored as one number: the time at which it will be full again (the GCRA
algorithm). A bucket of ``burst`` tokens that refills at ``rate`` a second has a token as long as that time is
at most ``(burst - 1) / rate`` ahead. Times are seconds of a monotonic clock, read by the caller.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, NamedTuple

from eclipse_ws.config.settings import Settings
from eclipse_ws.security.client_address import Source

BURST_SECONDS: Final = 2.0
"""A burst is what a rate allows in this many seconds."""
RATE_PATIENCE: Final = 10
"""Refused commands at once until a session is closed with 4009."""
GUESSES_PER_MINUTE: Final = 10
"""Wrong X-Internal-Secrets of one address; a caller that has the secret shows none."""
MAX_ADDRESSES: Final = 100_000
"""Client addresses, or senders, that a table remembers: up to 40 MB."""
FORGIVEN: Final = 1.0
"""Refused commands a second that a session may have before it is closed."""
REFUSED_TYPING: Final = 0.05
"""The weight of a refused typing command. It does no harm, and a page may send one for each keystroke: a key
that is held down repeats 30 times a second, and must not end a session.
"""
PUBLIC_SESSIONS: Final = 200
"""Sessions of one public address if the setting is unset: enough for an office behind one address."""
UPGRADES: Final = 3
"""Upgrades a minute of an address for each session that it may have: that office may reconnect at once."""
PUBLIC_CONNECTIONS: Final = 500
"""Concurrent HTTP connections of one address: the pages of that office, and all of its upgrades."""
PUBLIC_REQUESTS: Final = (20.0, 400)
"""HTTP requests of one address (rate a second, burst) without the secret that do not become sessions."""
SHARED_REQUESTS: Final = (200.0, 1000)
"""The same for one connection of a shared address, which may carry the requests of many clients."""
JOINS: Final = (50.0, 1000)
"""Chats that one session may join (rate a second, burst): all that it may be in, twice at once."""
COMMAND_LENGTH: Final = 65536
"""A command counts once more for each of these characters: the cost of parsing grows with them."""
NAMES: Final = (
    "command_rate",
    "message_rate",
    "message_bytes",
    "frame_rate",
    "join_rate",
    "rate_patience",
    "rate_penalty",
    "max_content",
    "max_sessions",
    "max_sessions_per_chat",
    "max_sessions_per_address",
    "upgrades_per_minute",
    "handshake_timeout",
    "answer_timeout",
    "max_handshakes",
    "connections_per_address",
    "http_rate",
    "file_limit",
    "max_header_bytes",
    "max_body",
    "node_answer_bytes",
    "node_body_bytes",
    "node_input_bytes",
    "node_queue_bytes",
    "guesses_per_minute",
    "allowed_origins",
    "secret",
    "token",
    "token_expired",
    "token_revoked",
    "forbidden",
    "banned",
    "draining",
)
"""Reasons for a refusal; the setting's name if one exists."""


class Rate(NamedTuple):
    """A bucket's rate and size: ``interval`` seconds a token (0: unlimited), ``tolerance`` seconds ahead."""

    interval: float
    tolerance: float

    @classmethod
    def of(cls, per_second: float, burst: float) -> Rate:
        """``burst`` tokens, refilled at ``per_second``; a rate of 0 means no limit."""
        if not per_second:
            return cls(0.0, math.inf)
        return cls(1 / per_second, (burst - 1) / per_second)

    def wait(self, full: float, now: float, amount: float = 1.0) -> float:
        """Seconds until a bucket that is full at ``full`` has ``amount`` tokens, 0 if it has them now. A full
        bucket lets any amount pass.
        """
        if full <= now:
            return 0.0
        return max(0.0, full - now + min(0.0, (amount - 1) * self.interval - self.tolerance))

    def take(self, full: float, now: float, amount: float = 1.0) -> float | None:
        """Take ``amount`` tokens from a bucket that is full at ``full``: its new time, None if empty."""
        full = max(full, now)
        return None if full - now > self.tolerance else full + amount * self.interval


def burst(rate: float) -> float:
    """Returns the burst of a rate per second."""
    return max(1.0, BURST_SECONDS * rate)


_REQUESTS: Final = Rate.of(*PUBLIC_REQUESTS)
_JOINS: Final = Rate.of(*JOINS)


class Budget:
    """One session's buckets, except for messages (see `senders`). Created with its first command, so that an
    idle session has none.
    """

    __slots__ = ("_commands", "_joins", "_limits", "_refusals")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._commands = 0.0
        self._joins = 0.0
        self._refusals = 0.0

    def command(self, now: float, length: int = 0) -> float:
        """Take one command of any kind; 0 if it may pass, else the seconds until one may. A long command
        counts as several.
        """
        interval, tolerance = self._limits.commands
        full = self._commands
        if full < now:
            full = now
        elif full - now > tolerance:
            return full - now - tolerance
        self._commands = full + interval * (1 + length // COMMAND_LENGTH)
        return 0.0

    def join(self, now: float, count: int) -> float:
        """Take so many chats to join; 0 if they may pass, else the seconds until they may."""
        if wait := _JOINS.wait(self._joins, now, count):
            return wait
        self._joins = max(self._joins, now) + count * _JOINS.interval
        return 0.0

    def forgives(self, now: float, cost: float = 1.0) -> bool:
        """Count one refusal, or part of one; False if there were so many that the session must be closed."""
        full = self._limits.refusals.take(self._refusals, now, cost)
        if full is None:
            return False
        self._refusals = full
        return True


class Limits:
    """The settings' rates, and the refusals by them and by every other limit.

    ``refused`` counts by the limit's name (`NAMES`), for metrics.
    """

    def __init__(self, settings: Settings) -> None:
        self.refused = dict.fromkeys(NAMES, 0)
        self.closed = 0
        """Sessions that were closed for too many refusals."""
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Apply the settings' rates, to open sessions too."""
        self.commands = Rate.of(settings.command_rate, burst(settings.command_rate))
        self.refusals = Rate.of(FORGIVEN, RATE_PATIENCE)
        self.rated = any((settings.command_rate, settings.message_rate))
        """Whether any rate of commands is limited at all."""

    def refuse(self, name: str) -> None:
        """Count a refusal."""
        self.refused[name] += 1


class Times:
    """One or more times for each key, for at most ``most`` keys: the most recently set ones."""

    def __init__(self, each: int = 1) -> None:
        self.most = MAX_ADDRESSES
        self._times: OrderedDict[Hashable, tuple[float, ...]] = OrderedDict()
        self._none = (0.0,) * each

    def get(self, key: Hashable) -> tuple[float, ...]:
        """The key's times, each 0 if it has none."""
        return self._times.get(key, self._none)

    def put(self, key: Hashable, *times: float) -> None:
        """Set the key's times."""
        self._times[key] = times
        self._times.move_to_end(key)
        if len(self._times) > self.most:
            self._times.popitem(last=False)

    def sweep(self, now: float) -> None:
        """Drop keys whose times have passed, oldest first."""
        while self._times:
            key, times = next(iter(self._times.items()))
            if max(times) > now:
                return
            del self._times[key]

    def __len__(self) -> int:
        """The number of keys."""
        return len(self._times)


class Buckets(Times):
    """A bucket for each key: the time at which it will be full again."""

    def wait(self, key: Hashable, rate: Rate, now: float) -> float:
        """Seconds until one may pass, 0 if it may now."""
        return rate.wait(self.get(key)[0], now)

    def take(self, key: Hashable, rate: Rate, now: float) -> None:
        """Take one token even if the bucket is empty."""
        if rate.interval:
            self.put(key, max(self.get(key)[0], now) + rate.interval)

    def allows(self, key: Hashable, rate: Rate, now: float) -> bool:
        """Take one token; False if the bucket is empty."""
        if self.wait(key, rate, now):
            return False
        self.take(key, rate, now)
        return True


class Addresses:
    """Each address's sessions, upgrades, HTTP requests, and guesses at the secret.

    Bounded: besides addresses with sessions, the latest MAX_ADDRESSES are remembered.
    """

    def __init__(self, settings: Settings) -> None:
        self._sessions: dict[str, int] = {}
        self._upgrades, self._requests, self._guesses = Buckets(), Buckets(), Buckets()
        self._buckets = (self._upgrades, self._requests, self._guesses)
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Apply the settings' limits; counts stay."""
        self._max_sessions = settings.max_sessions_per_address
        self._upgrade_rate = None
        if self._max_sessions is not None:
            self._upgrade_rate = _per_minute(UPGRADES * self._max_sessions)
        self._public_rate = _per_minute(UPGRADES * PUBLIC_SESSIONS)
        self._guess_rate = _per_minute(GUESSES_PER_MINUTE)

    def upgrade(self, source: Source, now: float) -> str | None:
        """Take one upgrade, and count its session; None if it may proceed.

        Else the name of the exceeded limit; then no session is counted.
        """
        most, rate = self._max_sessions, self._upgrade_rate
        if not source.shared:
            most = PUBLIC_SESSIONS if most is None else most
            rate = rate or self._public_rate
        if most is not None and self._sessions.get(source.address, 0) >= most:
            return "max_sessions_per_address"
        if rate is not None and not self._upgrades.allows(source.address, rate, now):
            return "upgrades_per_minute"
        # Now, not when the session begins: otherwise concurrent upgrades would take the same place.
        self._sessions[source.address] = self._sessions.get(source.address, 0) + 1
        return None

    def leave(self, address: str) -> None:
        """Uncount a session that `upgrade` counted: it has ended, or was never started."""
        left = self._sessions.get(address, 0) - 1
        if left > 0:
            self._sessions[address] = left
        else:
            self._sessions.pop(address, None)

    def sessions(self, address: str) -> int:
        """The address's number of sessions."""
        return self._sessions.get(address, 0)

    def allow_request(self, address: str, now: float) -> bool:
        """Take one HTTP request; False if the address made too many."""
        return self._requests.allows(address, _REQUESTS, now)

    def may_guess(self, source: Source, now: float) -> bool:
        """Whether the address has a guess left; it is not charged."""
        return not self._guesses.wait(source.address, self._guess_rate, now)

    def guessed(self, source: Source, now: float) -> None:
        """Charge the address for a wrong secret."""
        self._guesses.allows(source.address, self._guess_rate, now)

    def sweep(self, now: float) -> None:
        """Drop addresses whose buckets are full again."""
        for buckets in self._buckets:
            buckets.sweep(now)

    def __len__(self) -> int:
        """The number of remembered entries."""
        return len(self._sessions) + sum(map(len, self._buckets))


def _per_minute(count: float) -> Rate:
    return Rate.of(count / 60, count)
