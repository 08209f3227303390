"""The backend contract: what carries events between nodes, and keeps the recent ones."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, Protocol

import msgspec

from eclipse_ws.backends.ledger import Ledger
from eclipse_ws.backends.marks import Mark
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Cursor, Event, Receipt

Availability = Literal["connecting", "up", "down"]
MARGIN: Final = 5.0
"""Seconds beyond ``api_timeout`` that an attempt may take, for what surrounds the call."""


def patience(settings: Settings) -> float:
    """Seconds until the outcome of an attempt counts as unknown."""
    return settings.api_timeout + MARGIN


class BackendError(Exception):
    """A backend can't do what it was asked, now or at all; the text says what to do about it."""


class Unavailable(BackendError):  # noqa: N818 - a state, which passes
    """The backend can't do it now: no connection, no answer, or a refusal that may pass.

    ``asked``: it was asked, and may have done it. ``refused``: it has refused only this request and takes
    others, so that trying again may not help.
    """

    def __init__(
        self, text: str = "the backend is unavailable", *, asked: bool = False, refused: bool = False
    ) -> None:
        super().__init__(text)
        self.asked = asked
        self.refused = refused


class Rejected(BackendError):  # noqa: N818 - the fate of one event
    """The backend can never keep this one event."""


class Position(NamedTuple):
    """Where a chat is: the cursor of its last kept event, and that event's identity ("" if not known)."""

    cursor: Cursor
    identity: str = ""


class Subscription(msgspec.Struct):
    """A chat's position at the moment from which its events are heard.

    ``missed`` has the kept events from the known position to this one, all of them, in order; None if none
    was given, or if that can't be proved. ``renewed``: this call has ended an epoch that other nodes may be
    in; a chat that is new is not renewed. ``marks`` has the chat's marks by their names (see `Backend.mark`);
    some may have expired.
    """

    position: Position
    missed: Sequence[Event] | None = None
    renewed: bool = False
    marks: Mapping[str, Mark] = {}


class Key(msgspec.Struct, frozen=True):
    """An idempotency key in a chat, as one attempt at saving a message uses it.

    ``token`` distinguishes this attempt from others, ``fingerprint`` identifies its message ("": any).
    """

    name: str
    token: str
    fingerprint: str = ""

    def differs(self, fingerprint: str) -> bool:
        """Whether the key stands for another message than ``fingerprint``."""
        return bool(self.fingerprint and fingerprint) and self.fingerprint != fingerprint


KeyState = Literal["none", "released", "pending", "unknown", "done", "reused"]
"""What is known about a key, in this order: nothing; an earlier attempt saved nothing; one is in progress;
the outcome of one can't be known; its message is saved; it belongs to another message.
"""
Step = Literal["pending", "released", "unknown", "forgotten", "done"]
"""What an attempt records, in this order: it begins; nothing was saved; the outcome can't be known; it
counts as never begun; its message is saved.
"""


class Record(msgspec.Struct):
    """What a backend knew of a key; the receipt of one that is done."""

    state: KeyState
    receipt: Receipt | None = None


class Health(msgspec.Struct):
    """A backend's state, and how long its last round trip took, in seconds (None where there is none)."""

    name: str
    state: Availability
    latency: float | None = None
    queued: int = 0
    """Events and outcomes that wait for the backend; delivery fills it in."""


class Listener(Protocol):
    """What a backend calls: delivery. Every method is synchronous, must not block, and raises nothing."""

    def deliver(self, chat_id: str, event: Event) -> None:
        """Take an event of a subscribed chat."""

    def receive(self, chat_id: str, raw: bytes) -> None:
        """Take what came over a subscribed chat's channel from any sender, as an event if it is one."""

    def notice(self, note: bytes) -> None:
        """Take what another node, or this one, has sent (see `Backend.send`)."""

    def lost(self, chat_ids: Iterable[str] | None = None) -> None:
        """Note that events may be missed from now on: these chats, or all, have to be subscribed again."""

    def restored(self) -> None:
        """Note that the backend takes commands again, or that chats can be subscribed to again.

        It is called after the start, and after each outage.
        """


class NullListener:
    """A listener that ignores everything, for a backend that is only tested or measured."""

    def deliver(self, chat_id: str, event: Event) -> None:
        """See `Listener`."""

    def receive(self, chat_id: str, raw: bytes) -> None:
        """See `Listener`."""

    def notice(self, note: bytes) -> None:
        """See `Listener`."""

    def lost(self, chat_ids: Iterable[str] | None = None) -> None:
        """See `Listener`."""

    def restored(self) -> None:
        """See `Listener`."""


class Backend(abc.ABC):
    """Carries events between nodes, keeps the recent ones, and knows which keys are taken.

    Delivery makes of any backend what sessions rely on: each event once, in order, resumable, and chats that
    go on during an outage. For that it relies on these promises (`eclipse_ws.testing` tests them):

    - **One order.** `append` gives a chat's kept events offsets without gaps: after ``e.4`` comes ``e.5``. An
      identity is appended once as long as its event is kept, also by several nodes.
    - **A publisher hears itself.** What is appended or broadcast comes to the listeners of all nodes that
      are subscribed to the chat, this one included, and to no others. If a node misses some of it,
      `Listener.lost` is called there, or its listener hears a later offset.
    - **Deleted is deleted.** After a ``message_deleted`` no history holds the content of that message: the
      body of each event that has it becomes the deletion's, under the event's own cursor. If such an event is
      appended later than its deletion, it counts as appended with the deletion's cursor, which is not new.
    - **All or nothing.** `read` and `subscribe` return all kept events of a range, or None. If a node knows a
      later position than the backend, the backend has gone back in time, and a new epoch begins.
    - **Two errors.** `Unavailable` is every error that may pass, or that is unknown: delivery tries again.
      `Rejected` means that this one event can never be kept.
    - **Everything is bounded**: histories by ``history_events``, ``history_bytes`` and ``history_seconds``,
      each command by a timeout.
    """

    name: str = ""
    is_shared: bool = True
    """Whether other nodes share it. If not, `record` and `send` need not be overridden."""
    timeout: float = 5.0
    """Seconds that one command may take."""
    address: str = ""
    """Where other nodes can send notes to this one; it may change after an outage."""
    beacon: bytes = b""
    """A note that goes to all nodes with each heartbeat, if there are any (``beacon_interval``); b"": none.

    Delivery sets it, at any time. It shows the others that this node lives, and costs no command.
    """
    beacon_interval: float = 0.0
    """Seconds between two heartbeats of a node with chats; 0: it has none that carry the beacon, and delivery
    sends it.
    """
    ledger: Ledger | None = None
    """Where the node that reports to the application keeps what it has reported and has yet to report.

    None: this backend keeps nothing of that kind, and no node can report.
    """
    broadcasts_dropped: int = 0
    """Ephemeral events that it couldn't carry; a plain counter, read when metrics are scraped."""
    listener: Listener = NullListener()
    """Gets events and notes, between the start and the close."""
    state: Availability = "up"
    latency: float | None = None

    @property
    def health(self) -> Health:
        """The current state."""
        return Health(self.name, self.state, self.latency)

    async def start(self, listener: Listener) -> None:
        """Connect. Raises BackendError if it can never work (wrong address, password or rights); one that is
        merely unavailable is connected to in the background, forever.

        A backend that has nothing to connect to needs no other implementation.
        """
        self.listener = listener
        listener.restored()

    async def close(self) -> None:
        """End every task and close every socket. Idempotent."""
        self.listener = NullListener()

    @abc.abstractmethod
    async def subscribe(
        self, chat_id: str, known: Position | None = None, *, renew: bool = False
    ) -> Subscription:
        """Hear the chat's events from now on. Returns its position, and the events since ``known``.

        Idempotent. ``renew`` begins a new epoch, because an event is lost; with ``known`` only if the chat is
        still in that epoch, so that only the first of several nodes does it. Raises Unavailable.
        """

    @abc.abstractmethod
    async def unsubscribe(self, chat_ids: Sequence[str]) -> None:
        """Stop hearing chats, except those that are subscribed to again meanwhile. Raises Unavailable."""

    @abc.abstractmethod
    async def append(
        self, chat_id: str, event: Event, *, key: Key | None = None, known: Cursor | None = None
    ) -> tuple[Cursor, bool]:
        """Sequence, keep and fan out a kept event in one step, and record ``key`` as done.

        ``known`` is this node's position in the chat. Returns the event's cursor, and whether it is new; an
        identity that was appended before keeps its cursor. Raises Unavailable or Rejected.
        """

    @abc.abstractmethod
    async def read(self, chat_id: str, after: Cursor, known: Cursor | None = None) -> Sequence[Event] | None:
        """Fetch the kept events after a cursor that a client gave, all of them, in order.

        None if they are not available: they are no longer kept, the epoch is another one, or the cursor lies
        in the future. ``known`` is this node's position in the chat. Raises Unavailable.
        """

    @abc.abstractmethod
    def broadcast(self, chat_id: str, event: Event) -> None:
        """Fan out an ephemeral event, without waiting. It may be lost, which is counted. Raises nothing."""

    @abc.abstractmethod
    async def mark(self, chat_id: str, name: str, mark: Mark, note: bytes) -> bool:
        """Keep a chat's mark under a name until it expires, and send a note to all nodes, in one step.

        Neither is done, and the answer is False, if the mark's cursor isn't of the chat's present epoch, if
        it isn't later than the one that the name's mark has in this epoch, or if the name is new and the chat
        has ``mark.room`` marks already. A mark without a cursor replaces any; an expired one removes it.
        Marks outlive epochs, and times are by the backend's clock or this node's. Raises Unavailable.
        """

    async def record(
        self,
        chat_id: str,
        key: Key,
        step: Step,
        *,
        retry_unknown: bool = False,
        receipt: Receipt | None = None,
    ) -> Record:
        """Record a step of an attempt under a key, if the attempt may take it.

        For ``pending``, returns what was known before this attempt; for other steps the result means nothing.

        An attempt may begin if that is ``none``, ``released``, ``pending`` by its own token, or ``unknown``
        and ``retry_unknown``; one that is pending for longer than `patience` is ``unknown``. Only the attempt
        that is pending can end, but any node may record that a message is saved (``done``, with its receipt),
        or, if nothing is known, that an outcome is ``unknown``. Records last for ``history_seconds``.
        Raises Unavailable.
        """
        return Record("none")

    async def send(self, note: bytes, address: str = "") -> int:
        """Send a note to the node at an address, or to all nodes, this one included.

        Returns how many nodes hear it. Raises Unavailable.
        """
        return 0
