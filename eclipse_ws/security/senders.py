"""Senders: limits that a new token or another session does not reset. Pure; no I/O.

A visitor gets a new user id with each token and may open many sessions. So limits of visitors must not be
keyed by user id or session.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from eclipse_ws.config.settings import Settings
from eclipse_ws.security.limits import Buckets, Rate, Times, burst

MESSAGE_BYTES: Final = 1.6 * 1024
"""Bytes of content per second of a sender, for each message a second that it may send."""
PENALTY: Final = 30.0
"""Seconds that an account closed with 4009, or a chat's visitors from that address, have to wait."""
BYTES_AT_ONCE: Final = 1 << 19
"""Bytes of content that a sender may send at once, unless the longest message has more."""
LONGEST: Final = 4
"""Maximum bytes of a character of content."""
PATIENCE: Final = 10
"""Chats that visitors of one address may flood within a penalty before all of its visitors have to wait."""


class Sender(NamedTuple):
    """The sessions that share a budget in a chat: all of an account, or of the visitors of one address.

    ``name`` is the account's user id or the visitors' address, "" where addresses can't be distinguished.
    """

    chat_id: str
    name: str
    is_account: bool


class Shares:
    """Each sender's budget of messages and bytes in a chat, across all of its sessions."""

    def __init__(self, settings: Settings) -> None:
        self._full = Times(2)
        """When each sender's buckets of messages and of bytes are full again; read for every message."""
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Apply the settings' rates, to known senders too."""
        rate = settings.message_rate
        self._messages = Rate.of(rate, burst(rate))
        self._bytes = Rate.of(MESSAGE_BYTES * rate, max(BYTES_AT_ONCE, LONGEST * settings.max_content))

    def message(self, sender: Sender, content: str, now: float) -> tuple[str, float] | None:
        """Take one message; None if it may pass, else the exceeded limit and the seconds until it may."""
        if not self._messages.interval and not self._bytes.interval:
            return None
        messages, byte_count = self._full.get(sender)
        if wait := self._messages.wait(messages, now):
            return "message_rate", wait
        size = len(content) if content.isascii() else len(content.encode("utf-8", "replace"))
        if wait := self._bytes.wait(byte_count, now, size):
            return "message_bytes", wait
        messages, byte_count = max(messages, now), max(byte_count, now)
        self._full.put(sender, messages + self._messages.interval, byte_count + size * self._bytes.interval)
        return None

    def sweep(self, now: float) -> None:
        """Drop senders whose buckets are full again."""
        self._full.sweep(now)

    def __len__(self) -> int:
        """The number of remembered entries."""
        return len(self._full)


class Penalties:
    """Senders whose session was closed for its rate, and who have to wait before they may reconnect.

    An account is identified by its user id. A visitor is identified by address and chat, so that other
    visitors in the same office, and the agent in the same chat, do not wait. If visitors of an address flood
    one chat after another, all visitors of that address wait.
    """

    def __init__(self) -> None:
        self._until = Times()
        self._addresses = Buckets()
        self._rate = Rate.of(PATIENCE / PENALTY, PATIENCE)

    def punish(self, sender: Sender, now: float) -> None:
        """Penalize a sender whose session was closed for its rate."""
        key = _penalty_key(sender)
        repeated = self._waits(key, now)
        self._until.put(key, now + PENALTY)
        if repeated or sender.is_account or not sender.name:
            return  # many sessions of one sender in a chat count once
        self._addresses.take(sender.name, self._rate, now)
        if self._addresses.wait(sender.name, self._rate, now):
            self._until.put(Sender("", sender.name, is_account=False), now + PENALTY)

    def waits(self, sender: Sender, now: float) -> bool:
        """Whether the sender may not reconnect yet."""
        if not self._until:
            return False
        if self._waits(_penalty_key(sender), now):
            return True
        return not sender.is_account and self._waits(Sender("", sender.name, False), now)

    def _waits(self, key: Sender, now: float) -> bool:
        return self._until.get(key)[0] > now

    def sweep(self, now: float) -> None:
        """Drop expired penalties."""
        self._addresses.sweep(now)
        self._until.sweep(now)

    def __len__(self) -> int:
        """The number of remembered entries."""
        return len(self._until) + len(self._addresses)


def _penalty_key(sender: Sender) -> Sender:
    """The key of a sender's penalty: an account waits in every chat."""
    return Sender("", sender.name, is_account=True) if sender.is_account else sender
