"""Senders: whom a limit means that a new token, or one more session, must not escape. Pure; no I/O.

A visitor gets a new user id with each token and may open as many sessions as they like. So nothing that is
held against a visitor may be kept by user id or by session.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from eclipse_ws.config.settings import Settings
from eclipse_ws.security.limits import Buckets, Rate, Times

PATIENCE: Final = 10
"""Chats that one address's visitors flood, within the time of a penalty, until all of its visitors wait."""


class Sender(NamedTuple):
    """Who shares the budget of a chat: all sessions of an account, or of the visitors of one address.

    ``name`` is the account's user id or the visitors' address, "" where addresses can't be told apart.
    """

    chat_id: str
    name: str
    is_account: bool


class Shares:
    """What each sender may still say in a chat, in messages and in bytes, however many sessions it has."""

    def __init__(self, settings: Settings) -> None:
        self._full = Times(2)
        """When each sender's buckets of messages and of bytes are full again; every message looks here."""
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take the settings' rates, also for those who have said something already."""
        self._messages = Rate.of(settings.message_rate, settings.message_burst)
        self._bytes = Rate.of(settings.message_bytes, settings.message_bytes_burst)
        self._full.most = settings.max_addresses

    def message(self, sender: Sender, content: str, now: float) -> tuple[str, float] | None:
        """Take one message, or name the limit that it ran into and the seconds until it may pass."""
        if not self._messages.interval and not self._bytes.interval:
            return None
        messages, weight = self._full.get(sender)
        if wait := self._messages.wait(messages, now):
            return "message_rate", wait
        size = len(content) if content.isascii() else len(content.encode("utf-8", "replace"))
        if wait := self._bytes.wait(weight, now, size):
            return "message_bytes", wait
        messages, weight = max(messages, now), max(weight, now)
        self._full.put(sender, messages + self._messages.interval, weight + size * self._bytes.interval)
        return None

    def sweep(self, now: float) -> None:
        """Forget those who have been quiet for long enough."""
        self._full.sweep(now)

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._full)


class Penalties:
    """Senders whose session was closed for its rate, and that have to wait before they may come back.

    An account is known by its user id. A visitor is known by address and chat, so that somebody else in the
    same office, or the agent in the same chat, does not wait. If an address's visitors flood one chat after
    the other, all visitors of that address wait.
    """

    def __init__(self, settings: Settings) -> None:
        self._until = Times()
        self._addresses = Buckets()
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Take the settings' penalty; who waits already goes on waiting."""
        self._seconds = settings.rate_penalty
        self._until.most = self._addresses.most = settings.max_addresses
        self._rate = Rate.of(PATIENCE / self._seconds, PATIENCE) if self._seconds else Rate.of(0, 1)

    def punish(self, sender: Sender, now: float) -> None:
        """A session of this sender was closed for its rate."""
        key = _culprit(sender)
        again = self._waits(key, now)
        self._until.put(key, now + self._seconds)
        if again or sender.is_account or not sender.name or not self._seconds:
            return  # one flooder with many sessions in a chat is one flooder
        self._addresses.take(sender.name, self._rate, now)
        if self._addresses.wait(sender.name, self._rate, now):
            self._until.put(Sender("", sender.name, is_account=False), now + self._seconds)

    def waits(self, sender: Sender, now: float) -> bool:
        """Whether the sender may not come back yet."""
        if not self._until:
            return False
        if self._waits(_culprit(sender), now):
            return True
        return not sender.is_account and self._waits(Sender("", sender.name, False), now)

    def _waits(self, key: Sender, now: float) -> bool:
        return self._until.get(key)[0] > now

    def sweep(self, now: float) -> None:
        """Forget those who have waited long enough."""
        self._addresses.sweep(now)
        self._until.sweep(now)

    def __len__(self) -> int:
        """How many are remembered."""
        return len(self._until) + len(self._addresses)


def _culprit(sender: Sender) -> Sender:
    """Whom a penalty is kept by: an account waits in every chat."""
    return Sender("", sender.name, is_account=True) if sender.is_account else sender
