"""What a node tells the others about presence: its stream, and what each of them has asked for."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import structlog

from eclipse_ws.backends.base import Backend, Unavailable
from eclipse_ws.delivery.census import Census
from eclipse_ws.delivery.cluster import Cluster, Note
from eclipse_ws.delivery.presence_notes import (
    MAX_BYTES,
    MAX_CHATS,
    Change,
    Crowd,
    PresenceNote,
    batches,
    size,
)
from eclipse_ws.delivery.presence_peer import Peer
from eclipse_ws.delivery.presence_view import NOBODY, View

log = structlog.get_logger("eclipse_ws.presence")

BEACON: Final = 10.0
"""Seconds between two beacons, at most."""
SPACING: Final = 0.02
"""Seconds between two notes to all nodes; what happens meanwhile shares one."""
RETRY: Final = 1.0
"""Seconds until a note that the backend didn't take is sent again."""


@dataclass
class Known:
    """What this node knows. `Presence` changes it, and its sender tells it."""

    node: str = field(default_factory=lambda: secrets.token_hex(8))
    """This process."""
    views: dict[str, View] = field(default_factory=dict)
    """The chats that sessions here watch."""
    peers: dict[str, Peer] = field(default_factory=dict)
    """The other nodes."""
    watchers: dict[str, int] = field(default_factory=dict)
    """How many other nodes watch a chat."""
    mine: dict[str, Crowd] = field(default_factory=dict)
    """The users here, in the chats of which this node or others have to know, if there are any."""
    told: dict[str, Crowd] = field(default_factory=dict)
    """Those that the other nodes were told, in the chats of which they have to know."""
    census: Census | None = None
    """What this node knows of all chats; None: it takes no census."""
    surveying: dict[str, None] = field(default_factory=dict)
    """Chats with users here at which this node has not looked yet since a census is taken."""

    @property
    def listens(self) -> bool:
        """Whether this node has to know of users on others."""
        return bool(self.views) or self.census is not None


class Sender:
    """Sends what is due, one note after the other. What isn't sent stays due.

    Everything that nodes hear of this one's users comes from ``told``, which only its stream changes: so who
    is told everything in between has the same as those who have heard the stream up to there.
    """

    def __init__(
        self, backend: Backend, cluster: Cluster, known: Known, asked: Callable[[int, list[str]], None]
    ) -> None:
        """``asked`` hears of each note that says which chats this node watches now."""
        self.sent = 0
        self.changed: dict[str, None] = {}
        """Chats of which the others may have to be told more."""
        self.watching: dict[str, None] = {}
        """Chats that are watched, or no longer, which the others don't know yet."""
        self.census_due = False
        """Whether the others have to be told that this node takes the census, or no longer."""
        self.hello_due = False
        self.at = 0
        self.address = ""
        """This node's address when it last said hello."""
        self._backend = backend
        self._cluster = cluster
        self._known = known
        self._asked = asked
        self._last = 0
        self._beacon_due = False
        self._beaten = 0.0
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Something is due."""
        self._wake.set()

    async def run(self) -> None:
        """Send what is due, forever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._backend.health.state != "up":
                continue  # until it is restored
            try:
                await self._send_all()
            except Unavailable as error:
                log.debug("presence not told; trying again", why=str(error))
                await self._wait()
            except Exception:
                log.exception("presence not told; trying again")
                await self._wait()

    async def _wait(self) -> None:
        await asyncio.sleep(RETRY)
        self._wake.set()

    async def goodbye(self) -> None:
        """Tell all nodes that this one ends. Raises Unavailable."""
        await self._send(self._note(bye=True))

    def show(self, now: float) -> None:
        """Have the beacon say what is true now, as long as others have to know that this node lives."""
        if not (self._known.listens or self._known.mine):
            self._backend.beacon = b""
        elif 0 < self._backend.beacon_interval <= BEACON:
            self._backend.beacon = self._cluster.encode(Note(presence=self._beacon()))
        elif now - self._beaten >= BEACON:
            self._beaten, self._beacon_due = now, True

    async def _send_all(self) -> None:
        if self.hello_due or self._beacon_due:
            hello, self.hello_due, self._beacon_due = self.hello_due, False, False
            self.address = self._backend.address
            note = self._note(hello=True) if hello else self._beacon()
            try:
                await self._send(note)
            except BaseException:
                self.hello_due = hello
                raise
        for peer in list(self._known.peers.values()):
            await self._send_to(peer)
        while self.watching or self.changed or self.census_due:
            note = self._next_of_stream()
            try:
                await self._send(note)
            except BaseException:
                self.hello_due = True  # it names the note, which others may have missed
                raise
            self.show(self._beaten)
            await asyncio.sleep(SPACING)

    async def _send_to(self, peer: Peer) -> None:
        """Send a node what it has asked for, and what is asked of it."""
        if peer.question_due:
            peer.question_due, peer.questioned = False, 0.0
            if peer.address:
                await self._send(self._note(hello=True), peer.address)
        if peer.address and peer.ask_due:
            fresh, peer.ask_due, peer.is_fresh = peer.is_fresh, False, False
            try:
                await self._send(self._note(ask=True, fresh=fresh), peer.address)
            except BaseException:
                peer.ask_due, peer.is_fresh = True, fresh
                raise
        if peer.address and peer.answer_due:
            peer.answer_due = False
            await self._send(self._note(), peer.address)
        if peer.address and peer.all_due:
            peer.all_due = False
            try:
                for note in self._everything(peer):
                    await self._send(note, peer.address)
            except BaseException:
                peer.all_due = True
                raise
        if peer.address and (peer.here_due or peer.answered < peer.answers):
            due, peer.here_due = peer.here_due, set()
            answered, peer.answered = peer.answered, peer.answers
            heard = False
            try:
                heard = all([await self._send(note, peer.address) for note in self._here(due, peer.answers)])
            finally:
                if not heard:
                    peer.here_due |= due & peer.watches
                    peer.answered = answered
            if not heard:
                peer.address = ""  # it has another one by now, which it will tell

    # -- the notes --------------------------------------------------------------------------------

    def _here(self, chats: set[str], answers: int) -> list[PresenceNote]:
        """The users in these chats, where there are any."""
        told = self._known.told
        found = ((chat_id, told[chat_id]) for chat_id in chats if told.get(chat_id, NOBODY).users)
        notes = [self._note(here=dict(batch)) for batch in batches(found)] or [self._note()]
        notes[-1].answers = answers
        return notes

    def _everything(self, peer: Peer) -> list[PresenceNote]:
        """All that a node may want to know, as of now."""
        told = self._known.told
        chats = told.keys() if peer.takes_census else peer.watches
        users = ((chat_id, told[chat_id]) for chat_id in chats if told.get(chat_id, NOBODY).users)
        notes = [self._note(here=dict(batch)) for batch in batches(users)]
        for batch in batches((chat_id, None) for chat_id in self._told_watches()):
            notes.append(self._note(watch=[chat_id for chat_id, _ in batch]))
        notes = notes or [self._note()]
        for part, note in enumerate(notes):
            note.at, note.part, note.parts = self.at, part, len(notes)
            note.complete = peer.takes_census and not self._known.surveying
            if not self.census_due:
                note.census = self._known.census is not None
        return notes

    def _told_watches(self) -> Iterator[str]:
        """The chats that this node watches, as far as its stream has said so."""
        return (chat_id for chat_id in self._known.views if chat_id not in self.watching)

    def _next_of_stream(self) -> PresenceNote:
        """Take as much of what is to be told as fits into a note."""
        known, room = self._known, MAX_BYTES
        watch: list[str] = []
        unwatch: list[str] = []
        changes: dict[str, Change] = {}
        while self.watching and len(watch) + len(unwatch) < MAX_CHATS and room > 0:
            chat_id = next(iter(self.watching))
            del self.watching[chat_id]
            (watch if chat_id in known.views else unwatch).append(chat_id)
            room -= size(chat_id)
        while self.changed and len(changes) < MAX_CHATS and room > 0:
            chat_id = next(iter(self.changed))
            del self.changed[chat_id]
            crowd = known.mine.get(chat_id, NOBODY)
            change = crowd.changes(known.told.get(chat_id, NOBODY))
            if change is not None:
                changes[chat_id], known.told[chat_id] = change, crowd
                room -= size(chat_id, change)
            if not crowd.users and chat_id not in known.watchers:
                known.told.pop(chat_id, None)
        note = self._note(stream=True, watch=watch, unwatch=unwatch, changes=changes)
        if self.census_due:
            self.census_due, note.census = False, known.census is not None
        self._last = note.at
        if watch:
            self._asked(note.at, watch)
        return note

    def _note(self, **fields: object) -> PresenceNote:
        self.at += 1
        return PresenceNote(self._known.node, self.at, self._last, self._backend.address, **fields)  # type: ignore[arg-type]

    def _beacon(self) -> PresenceNote:
        """A note that says nothing but that this node lives, and where its stream is; sent many times."""
        return PresenceNote(self._known.node, self.at, self._last, self._backend.address)

    async def _send(self, note: PresenceNote, address: str = "") -> int:
        self.sent += 1
        return await self._cluster.tell(Note(presence=note), address)
