"""Events that this node has published and may still hear: it need not parse them again."""

from __future__ import annotations

from typing import Final

from eclipse_ws.protocol import Cursor, Event, with_origin

REMEMBERED: Final = 10_000
"""Events at most."""
SMALL: Final = 500
"""Bytes of one of them at most, so that all take 12 MB: the application's may have any size."""
_CURSOR: Final = b',"cursor":"'
"""What the script `publish` adds to a kept event, before its cursor and `"}`."""


class OwnEvents:
    """Remembers events by what is heard. What this node never hears is forgotten with all others, now and
    then.
    """

    def __init__(self) -> None:
        self._events: dict[bytes, Event] = {}

    def __len__(self) -> int:
        return len(self._events)

    def broadcast(self, event: Event) -> bytes:
        """Remember an ephemeral event. Returns what to publish."""
        payload = with_origin(event) if event.origin else event.body
        self._remember(payload, event)
        return payload

    def append(self, event: Event) -> None:
        """Remember an event that Redis is about to sequence."""
        self._remember(event.body[:-1] + _CURSOR, event)

    def take(self, payload: bytes) -> Event | None:
        """The event that was heard, as `parse_event` would return it; None if it isn't remembered."""
        event = self._events.pop(payload, None)
        if event is not None:
            return event
        end = payload.rfind(_CURSOR) + len(_CURSOR)
        event = self._events.pop(payload[:end], None)
        if event is None or (cursor := Cursor.parse(payload[end:-2].decode("latin1"))) is None:
            return None
        return Event(event.type, payload, event.identity, cursor)

    def _remember(self, payload: bytes, event: Event) -> None:
        if len(self._events) == REMEMBERED:
            self._events.clear()
        if len(payload) <= SMALL:
            self._events[payload] = event
