"""The backend contract: what carries events between nodes, and keeps the recent ones."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, Final, Literal, Protocol

import msgspec

from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Cursor, Event, Receipt

State = Literal["connecting", "up", "down"]
MARGIN: Final = 5.0
"""Seconds beyond ``api_timeout`` that an attempt may take, for what surrounds the call."""


def patience(settings: Settings) -> float:
    """Seconds until the outcome of an attempt counts as unknown."""
    return settings.api_timeout + MARGIN


class BackendError(Exception):
    """A backend can't do what it was asked, now or at all; the text says what to do about it."""


class Unavailable(BackendError):  # noqa: N818 - a state, which passes
    """The backend can't do it now. ``asked``: it was asked, and may have done it all the same."""

    def __init__(self, text: str = "the backend is unavailable", *, asked: bool = False) -> None:
        super().__init__(text)
        self.asked = asked


class Subscriber(Protocol):
    """What the hub is to its backend. Every method is synchronous and must not block."""

    def deliver(self, chat_id: str, event: Event) -> None:
        """Hand ``event`` to the chat's sessions on this node."""

    def interrupt(self, chat_id: str) -> None:
        """Tell that the chat's sessions may have missed events, so that they must resume."""

    def answer(self, question: Any) -> Any:
        """Answer another node's question (see `Backend.ask`); both are JSON values."""


class Listener(Subscriber, Protocol):
    """What delivery is to its backend."""

    def restored(self) -> None:
        """Tell that the backend takes commands again, as it does after its start and after an outage."""


class NullListener:
    """A listener that ignores everything, for a backend that is only tried or measured."""

    def deliver(self, chat_id: str, event: Event) -> None:
        """See `Subscriber`."""

    def interrupt(self, chat_id: str) -> None:
        """See `Subscriber`."""

    def answer(self, question: Any) -> Any:
        """See `Subscriber`."""

    def restored(self) -> None:
        """See `Listener`."""


class Key(msgspec.Struct, frozen=True):
    """An idempotency key in a chat, as one attempt at saving a message uses it.

    ``token`` tells this attempt from others, ``fingerprint`` what the key stands for ("": anything).
    """

    name: str
    token: str
    fingerprint: str = ""

    def differs(self, fingerprint: str) -> bool:
        """Whether the key stands for another message than ``fingerprint``."""
        return bool(self.fingerprint and fingerprint) and self.fingerprint != fingerprint


KeyState = Literal["none", "released", "pending", "unknown", "done", "reused"]
"""What is known of a key: nothing; that an earlier attempt saved nothing; that one is under way; that the
outcome of one can't be known; that its message is saved; that the key stands for another message.
"""
Outcome = Literal["released", "unknown", "forgotten"]
"""How an attempt ends without a message: nothing was saved; nobody knows; it counts as never reserved."""


class Record(msgspec.Struct):
    """What a backend knew of a key before it was reserved; the receipt of one that is done."""

    state: KeyState
    receipt: Receipt | None = None


class Answers(msgspec.Struct):
    """The nodes' answers to a question, and whether all nodes have answered."""

    values: list[Any]
    complete: bool


class Health(msgspec.Struct):
    """A backend's state, and how long its last round trip took, in seconds (None where there is none)."""

    name: str
    state: State
    latency: float | None = None
    queued: int = 0


class Backend(abc.ABC):
    """Carries events between nodes, keeps the recent ones, and knows which keys are taken.

    What everything above may rely on, and every backend is held to by ``tests/backends/contract.py``:

    - **A publisher hears itself**: what is published comes back through `Subscriber.deliver`, which
      is called for the chats that are subscribed, and for those alone.
    - **Kept events are delivered in cursor order, once.** All nodes see one order. Whatever paths an
      event took, its identity makes it one event. Offsets are without gaps: after ``e.4`` comes ``e.5``.
    - **Nothing is missed silently.** Where a chat's continuity can't be guaranteed, a new epoch starts
      and `Subscriber.interrupt` is called for the sessions of the old one.
    - **Ephemeral events may be lost**, are never kept, and have no cursor.
    - **An outage is not an outage of chat.** While the backend can't reach the other nodes, `publish`
      hands the local copy, without a cursor, to `Subscriber.deliver`, answers ``local``, and sequences the
      event when it can. `broadcast` drops what it can't carry. Of all methods `reserve` alone raises on
      account of an outage.
    - **Leaving lingers**: after `unsubscribe` a chat stays subscribed for ``history_seconds``, so that what
      comes in between can be resumed; `subscribe` in between wins.
    - **Everything is bounded**: histories, queues, waits and lifetimes, each by a setting.

    ``subscribe`` and ``unsubscribe`` belong to the hub alone. A backend keeps one record per chat, which
    only the event loop's thread touches: what it checks is still true when it acts, because it doesn't await
    in between.
    """

    name: str = ""
    is_shared: bool = True
    """Whether other nodes share it, so that it remembers keys for this node, too."""

    # Plain counters, read when metrics are scraped.
    published = 0
    duplicates_dropped = 0
    malformed_dropped = 0
    broadcasts_dropped = 0
    queue_overflowed = 0

    @abc.abstractmethod
    async def start(self, listener: Listener) -> None:
        """Begin to carry events.

        Raises BackendError if the backend can never work (wrong address, password or rights); one that
        is merely away is retried for ever.
        """

    @abc.abstractmethod
    async def close(self) -> None:
        """Stop: hand over what is queued if possible, let every task and socket go. Idempotent."""

    @abc.abstractmethod
    async def subscribe(self, chat_id: str) -> None:
        """Hear the chat's events from now on; returns once that is so. Idempotent.

        While the backend is away it returns at once, and the subscription comes live with the backend.
        """

    @abc.abstractmethod
    def unsubscribe(self, chat_id: str) -> None:
        """Note that no session of this node is in the chat any more. Idempotent."""

    @abc.abstractmethod
    def position(self, chat_id: str) -> Cursor | None:
        """Tell the cursor of the last kept event that was delivered; None where it isn't known (now)."""

    @abc.abstractmethod
    async def history(self, chat_id: str, after: Cursor) -> Sequence[Event] | None:
        """Fetch the chat's kept events after a cursor, all of them, in order.

        None if that can't be had: the history no longer reaches back, the epoch is another one, the cursor
        lies in the future or belongs to another chat, or the backend is away.
        """

    @abc.abstractmethod
    async def publish(self, chat_id: str, event: Event, key: Key | None = None) -> Receipt:
        """Sequence, keep and fan out a kept event, once per identity, and settle ``key`` as done.

        ``event`` without a cursor. An event that was published before answers with its first receipt.
        """

    @abc.abstractmethod
    def broadcast(self, chat_id: str, event: Event) -> None:
        """Fan out an ephemeral event, without waiting. Never raises."""

    @abc.abstractmethod
    async def reserve(
        self, chat_id: str, key: Key, *, retry_unknown: bool = False, certain: bool = False
    ) -> Record:
        """Reserve a key for an attempt at saving a message, unless it is taken; tell what was known of it.

        It is reserved if that is ``none``, ``released``, or ``unknown`` and ``retry_unknown``; by the same
        token again and again. Records last as long as the history. Raises Unavailable; ``certain`` also while
        other nodes may not have told yet what they did in an outage.
        """

    @abc.abstractmethod
    async def settle(self, chat_id: str, key: Key, outcome: Outcome) -> None:
        """End an attempt that led to no event; its owner alone can. Raises nothing: what can't be done now is
        done after the outage.
        """

    @abc.abstractmethod
    async def ask(self, question: Any) -> Answers:
        """Put a JSON question to every node, this one included, and gather their answers within a bound."""

    async def hand_over(self) -> int | None:
        """Have other nodes hear this node's chats, because it is about to stop; tell how many are heard.

        Their continuity then holds when this node has gone, and their clients can resume elsewhere. Called
        again, it hands over what has come since. Bounded, and raises nothing.

        None if no other node takes chats over: whoever joins later begins a new epoch, and nobody is served
        until a node starts. 0 if that can't be known now.
        """
        return None

    @abc.abstractmethod
    def health(self) -> Health:
        """Tell the state of now, without waiting."""
