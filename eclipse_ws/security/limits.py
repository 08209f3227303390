"""How much: rates of one session, sessions and upgrades per address, guesses at the secret. Pure; no I/O.

Every rate is a bucket that refills steadily, written as one number: the time at which it will be full
again. A bucket that holds ``burst`` and refills at ``rate`` a second lets something pass as long as that
time is at most ``(burst - 1) / rate`` ahead. Times are seconds of a monotonic clock, read by the caller.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Hashable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

from eclipse_ws.config.settings import Settings

FORGIVEN: Final = 1.0
"""Refused commands that a session is forgiven, a second."""
REFUSED_TYPING: Final = 0.05
"""What a refused typing counts as. Nobody misses it, and a page may send one for each keystroke: a key that
is held down repeats 30 times a second, and must not end a session.
"""
PUBLIC_SESSIONS: Final = 200
"""Sessions of one public address where the setting is unset: an office behind one address fits in."""
PUBLIC_UPGRADES: Final = 600
"""Upgrades a minute of one public address where the setting is unset: that office may come back at once."""
PUBLIC_CONNECTIONS: Final = 500
"""HTTP connections of one address at once: the pages of that office, and all of its upgrades."""
PUBLIC_REQUESTS: Final = (20.0, 400)
"""HTTP requests of one address, a second and at once, that show no secret and become no session."""
SHARED_REQUESTS: Final = (200.0, 1000)
"""The same of one connection of a shared address, which may carry the requests of many."""
COMMAND_LENGTH: Final = 65536
"""Characters of a command that count as one more: what it costs to read grows with them."""
NAMES: Final = (
    "command_rate",
    "message_rate",
    "message_bytes",
    "typing_rate",
    "frame_rate",
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
    "draining",
)
"""What something can be refused for; the settings' names where there is one."""


class Rate(NamedTuple):
    """A bucket's size and speed; ``interval`` (seconds for one) 0 is no limit."""

    interval: float
    tolerance: float

    @classmethod
    def of(cls, per_second: float, burst: float) -> Rate:
        """``burst`` at once and ``per_second`` after that; a rate of 0 limits nothing."""
        if not per_second:
            return cls(0.0, math.inf)
        return cls(1 / per_second, (burst - 1) / per_second)

    def wait(self, full: float, now: float, amount: float = 1.0) -> float:
        """Seconds until a bucket that is full at ``full`` lets so much pass, 0 if it does now. A full one
        lets anything pass.
        """
        if full <= now:
            return 0.0
        return max(0.0, full - now + min(0.0, (amount - 1) * self.interval - self.tolerance))

    def take(self, full: float, now: float, amount: float = 1.0) -> float | None:
        """Take so much from a bucket that will be full at ``full``: when it will be then; None if empty."""
        full = max(full, now)
        return None if full - now > self.tolerance else full + amount * self.interval


_REQUESTS: Final = Rate.of(*PUBLIC_REQUESTS)


class Budget:
    """What one session may still do, apart from messages (see `senders`). Made with its first command, so
    that an idle session has none.
    """

    __slots__ = ("_commands", "_limits", "_refusals", "_typing")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._commands = 0.0
        self._typing = 0.0
        self._refusals = 0.0

    def command(self, now: float, length: int = 0) -> float:
        """Take one command of any kind; 0 if it may pass, else the seconds until one may. A long one counts
        as several.
        """
        interval, tolerance = self._limits.commands
        full = self._commands
        if full < now:
            full = now
        elif full - now > tolerance:
            return full - now - tolerance
        self._commands = full + interval * (1 + length // COMMAND_LENGTH)
        return 0.0

    def typing(self, now: float) -> float:
        """Take one typing; as `command`."""
        interval, tolerance = self._limits.typing
        full = self._typing
        if full < now:
            full = now
        elif full - now > tolerance:
            return full - now - tolerance
        self._typing = full + interval
        return 0.0

    def forgives(self, now: float, cost: float = 1.0) -> bool:
        """Take one refusal, or a part of one; False if there were so many that the session has to go."""
        full = self._limits.refusals.take(self._refusals, now, cost)
        if full is None:
            return False
        self._refusals = full
        return True


class Limits:
    """The rates of the settings, and what was refused for them and for every other limit.

    ``refused`` counts by the limit's name (`NAMES`), for metrics.
    """

    def __init__(self, settings: Settings) -> None:
        self.refused = dict.fromkeys(NAMES, 0)
        self.closed = 0
        """Sessions that were ended because a refusal was not enough."""
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take the settings' rates, also for the sessions that are there."""
        self.commands = Rate.of(settings.command_rate, settings.command_burst)
        self.typing = Rate.of(settings.typing_rate, settings.typing_burst)
        self.refusals = Rate.of(FORGIVEN, settings.rate_patience)
        self.rated = any(
            (settings.command_rate, settings.message_rate, settings.message_bytes, settings.typing_rate)
        )
        """Whether any rate of commands is limited at all."""

    def refuse(self, name: str) -> None:
        """Count a refusal."""
        self.refused[name] += 1


class Source(NamedTuple):
    """Where a request comes from. ``address`` is an IPv4 address or an IPv6 network of 64 bits.

    ``shared``: it may be a proxy's, because it is private and no setting says which header to believe. Its
    clients can't be told apart then.
    """

    address: str
    shared: bool


class Sources:
    """Finds out where a request comes from; a header is believed only where a setting names it."""

    def __init__(self, settings: Settings) -> None:
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take the settings' header."""
        self.header = settings.client_address_header or (
            "X-Forwarded-For" if settings.trusted_proxies else ""
        )
        # A header with one address is its proxy's word; X-Forwarded-For grows at its right end.
        self._from_right = settings.trusted_proxies or 1
        name = re.escape(self.header.encode())
        self._line = re.compile(rb"\r?\n" + name + rb":([^\r\n]*)(?=\r?\n)", re.IGNORECASE) if name else None

    def guess(self, peer: str, head: bytes) -> Source:
        """The source of a request of which only the first bytes are known, which nobody has parsed yet: good
        enough to tell whose turn it is.
        """
        lines = [] if self._line is None else self._line.findall(head)
        return self.of(peer, b",".join(lines).decode("latin-1"))

    def of(self, peer: str, header: str | None) -> Source:
        """The source of a request: its socket's address, and the value of ``header`` if there was one."""
        if self.header and header:
            parts = header.split(",")
            found = _network(parts[max(0, len(parts) - self._from_right)].strip())
            if found is not None:
                return Source(found[0], shared=False)
        found = _network(peer)
        if found is None:
            return Source(peer or "unknown", shared=True)
        # With a trusted header set, whoever comes without it has not come through the proxy.
        return Source(found[0], shared=not found[1] and not self.header)


@lru_cache(4096)
def _network(text: str) -> tuple[str, bool] | None:
    """What limits count by, and whether it is public; None if the text (port or not) is no address."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address: IPv4Address | IPv6Address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped), address.ipv4_mapped.is_global
        return f"{IPv6Address(int(address) >> 64 << 64)}/64", address.is_global
    return str(address), address.is_global


class Times:
    """One or more times for each key, at most ``most`` keys: the ones that were set last."""

    def __init__(self, each: int = 1) -> None:
        self.most = 0
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
        """Forget the keys whose times have come, from the one that was set first."""
        while self._times:
            key, times = next(iter(self._times.items()))
            if max(times) > now:
                return
            del self._times[key]

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._times)


class Buckets(Times):
    """A bucket for each key: the time at which it will be full again."""

    def wait(self, key: Hashable, rate: Rate, now: float) -> float:
        """Seconds until one may pass, 0 if it may now."""
        return rate.wait(self.get(key)[0], now)

    def take(self, key: Hashable, rate: Rate, now: float) -> None:
        """Take one, whether or not it is there."""
        if rate.interval:
            self.put(key, max(self.get(key)[0], now) + rate.interval)

    def allows(self, key: Hashable, rate: Rate, now: float) -> bool:
        """Take one; False if it isn't there."""
        if self.wait(key, rate, now):
            return False
        self.take(key, rate, now)
        return True


class Addresses:
    """What each address holds and does: its sessions, upgrades, HTTP requests, and guesses at the secret.

    Bounded: beyond those that have sessions, at most ``max_addresses`` are remembered, the latest ones.
    """

    def __init__(self, settings: Settings) -> None:
        self._sessions: dict[str, int] = {}
        self._upgrades, self._requests, self._guesses = Buckets(), Buckets(), Buckets()
        self._buckets = (self._upgrades, self._requests, self._guesses)
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take the settings' limits; what was counted stays."""
        for buckets in self._buckets:
            buckets.most = settings.max_addresses
        self._max_sessions = settings.max_sessions_per_address
        self._upgrade_rate = None
        if settings.upgrades_per_minute is not None:
            self._upgrade_rate = _a_minute(settings.upgrades_per_minute)
        self._public_rate = _a_minute(PUBLIC_UPGRADES)
        self._guess_rate = _a_minute(settings.guesses_per_minute)

    def upgrade(self, source: Source, now: float) -> str | None:
        """Take one upgrade, and count its session; None if it may go on.

        Else the name of the limit that it ran into; then no session is counted.
        """
        most, rate = self._max_sessions, self._upgrade_rate
        if not source.shared:
            most = PUBLIC_SESSIONS if most is None else most
            rate = rate or self._public_rate
        if most is not None and self._sessions.get(source.address, 0) >= most:
            return "max_sessions_per_address"
        if rate is not None and not self._upgrades.allows(source.address, rate, now):
            return "upgrades_per_minute"
        # Now, not when the session begins: meanwhile others would find the same place free.
        self._sessions[source.address] = self._sessions.get(source.address, 0) + 1
        return None

    def leave(self, address: str) -> None:
        """A session that `upgrade` has counted has ended, or has come to nothing."""
        left = self._sessions.get(address, 0) - 1
        if left > 0:
            self._sessions[address] = left
        else:
            self._sessions.pop(address, None)

    def sessions(self, address: str) -> int:
        """How many sessions the address has."""
        return self._sessions.get(address, 0)

    def may_ask(self, address: str, now: float) -> bool:
        """Take one HTTP request; False if the address has made too many."""
        return self._requests.allows(address, _REQUESTS, now)

    def may_guess(self, source: Source, now: float) -> bool:
        """Whether the address has any wrong secret left to its account; it isn't charged."""
        return not self._guesses.wait(source.address, self._guess_rate, now)

    def guessed(self, source: Source, now: float) -> None:
        """The address has shown a wrong secret."""
        self._guesses.allows(source.address, self._guess_rate, now)

    def sweep(self, now: float) -> None:
        """Forget the addresses whose buckets are full again."""
        for buckets in self._buckets:
            buckets.sweep(now)

    def __len__(self) -> int:
        """How many addresses are remembered."""
        return len(self._sessions) + sum(map(len, self._buckets))


def _a_minute(count: int) -> Rate:
    return Rate.of(count / 60, count)
