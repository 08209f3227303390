"""The sessions of one chat on this node, and what each of them gets of an event."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

from eclipse_ws.protocol import CloseCode, Event, PresentRole, with_chat_id
from eclipse_ws.websocket import Audience, Socket, text_frame

OPT_IN: Final = frozenset(("presence", "read"))
"""Types of events that only those sessions get that have asked for them."""


class Member(Protocol):
    """What the hub knows of a session; ``chats`` is set by the hub: the chats that it is in.

    ``has_joined``: it has used `join` or `leave`, so that each event that it gets names its chat, and the
    fate of one chat doesn't end it. ``kinds``: the types in `OPT_IN` that it has asked for.
    """

    id: str
    wire: Socket
    chats: tuple[str, ...]
    has_joined: bool
    kinds: frozenset[str]
    began: float
    """When it began, by the monotonic clock."""
    came: dict[str, float] | None
    """Set by the hub: when it joined those of its chats that it did not begin in, by the same clock."""

    @property
    def user_id(self) -> str:
        """The user that the session belongs to."""

    @property
    def role(self) -> PresentRole:
        """As what others see the user."""

    def retire(self, close: CloseCode) -> None:
        """Close the session's socket once the commands that it has read have their answers."""

    def end(self, close: CloseCode, reason: str | None = None) -> None:
        """Close the session's socket; when that is done it leaves the hub by itself."""

    def left(self, chat_id: str, close: CloseCode, reason: str | None = None) -> None:
        """Tell the client that the server has taken the session out of a chat."""


class Members:
    """A chat's sessions: ``joined`` get what is sent, ``joining`` don't yet.

    ``fan_out`` is the bucket (see `limits`) for the deliveries of ephemeral events.
    """

    __slots__ = ("_audience", "_named", "_opted", "chat_id", "fan_out", "joined", "joining")

    def __init__(self, chat_id: str) -> None:
        self.chat_id = chat_id
        self.joined: set[Member] = set()
        self.joining: set[Member] = set()
        self.fan_out = 0.0
        self._audience = Audience()
        """Gets each event as it is."""
        self._named: Audience | None = None
        """Gets each event with the chat's id."""
        self._opted: dict[str, set[Member]] | None = None
        """Members by the types of events that they have asked for."""

    def __len__(self) -> int:
        return len(self.joined) + len(self.joining)

    def everyone(self) -> list[Member]:
        """Its sessions, also those that are joining."""
        return [*self.joined, *self.joining]

    def add(self, session: Member) -> None:
        """Let a session hear what is sent from now on."""
        if not session.has_joined:
            self._audience.add(session.wire)
        else:
            if self._named is None:
                self._named = Audience(gathers=True)
            self._named.add(session.wire)
        for kind in session.kinds:
            if self._opted is None:
                self._opted = {}
            self._opted.setdefault(kind, set()).add(session)

    def discard(self, session: Member) -> None:
        """Let a session hear nothing more."""
        self._audience.discard(session.wire)
        if self._named is not None:
            self._named.discard(session.wire)
        for sessions in (self._opted or {}).values():
            sessions.discard(session)

    def opted(self, kind: str) -> Collection[Member]:
        """The sessions that have asked for a type of events. The caller must not keep it."""
        return () if self._opted is None else self._opted.get(kind, ())

    def send(self, body: bytes, *, droppable: bool = False, skip: Socket | None = None) -> int:
        """Send an event's JSON text to the joined sessions, except to the socket ``skip``.

        ``droppable`` as in `Socket.send`. Returns the number of joined sessions.
        """
        receivers = self._audience.send(text_frame(body), droppable=droppable, skip=skip)
        if self._named is not None:
            frame = text_frame(with_chat_id(body, self.chat_id))
            receivers += self._named.send(frame, droppable=droppable, skip=skip)
        return receivers


def body_for(session: Member, chat_id: str, event: Event) -> bytes:
    """The event's JSON text as a session gets it."""
    return with_chat_id(event.body, chat_id) if session.has_joined else event.body
