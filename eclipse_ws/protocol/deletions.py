"""Deletions: no history holds the content of a message once the application has deleted it (section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec

from eclipse_ws.protocol.events import Event, identity, saved_id, without_cursor

DELETION: Final = "message_deleted"
_WITH_CONTENT: Final = frozenset({"message", "message_updated"})


class _Data(msgspec.Struct, frozen=True):
    id: str | int = ""


class _About(msgspec.Struct):
    data: _Data = _Data()


_decode_about = msgspec.json.Decoder(_About).decode


def deleted_id(event: Event) -> str:
    """The id of the message that this event deletes; "" if it deletes none."""
    return _message_id(event) if event.type == DELETION else ""


def deletion_of(event: Event) -> str:
    """The identity of the deletion after which this event must not be kept; "" if there is none."""
    if event.type not in _WITH_CONTENT:
        return ""
    about = saved_id(event) or _message_id(event)
    return identity(DELETION, about) if about else ""


def has_content_of(event: Event, message_id: str) -> bool:
    """Whether an event tells the content of this message."""
    return event.type in _WITH_CONTENT and (saved_id(event) or _message_id(event)) == message_id


def replaced(event: Event, deletion: Event) -> Event:
    """What a history has of a sequenced event after its deletion: the deletion, in the event's own place."""
    body = without_cursor(deletion.body, deletion.cursor)
    return Event(DELETION, body, event.identity).sequenced(event.cursor) if event.cursor else event


def without_deleted(events: Sequence[Event]) -> list[Event]:
    """Sequenced events as a history has them after the deletions that are among them."""
    deletions = {each.identity: each for each in events if each.type == DELETION}
    found = list(events)
    for at, event in enumerate(found if deletions else ()):
        deletion = deletions.get(deletion_of(event))
        if deletion is not None:
            found[at] = replaced(event, deletion)
    return found


def _message_id(event: Event) -> str:
    with suppress(msgspec.MsgspecError):
        return str(_decode_about(event.body).data.id)
    return ""
