"""Another node, as presence knows it: what it watches, and whether all that it said was heard."""

from __future__ import annotations

from typing import Final

from eclipse_ws.delivery.presence_notes import Crowd, PresenceNote

MAX_WATCHED: Final = 100_000
"""Chats that one node may watch."""
MAX_LATER: Final = 200
"""Notes of a stream that are kept while everything is asked for."""
MAX_PARTS: Final = 2000
"""Notes of one answer to ``ask``."""
MAX_COUNT_ASKED: Final = 30
"""How often a node is asked for all of its users, for a census."""
ASK_AGAIN: Final = 2.0
"""Seconds until everything is asked for once more."""
IN_FLIGHT: Final = 1.0
"""Seconds for which a note may be late."""


class Peer:
    """Another node.

    Its stream::

        known ──a note is missing, or may be (`suspect`)──▶ suspect ──everything was told, and the stream
          ▲                                                    │        goes on from there──┐
          └────────────────────────────────────────────────────┴────────────────────────────┘

    While it is suspect, what is known stays as it is, and what its stream says is applied, and kept: it is
    applied again to what the node told before.
    """

    def __init__(self, node: str, *, suspect: bool) -> None:
        """``suspect``: it may have said something before."""
        self.node = node
        self.address = ""
        self.watches: set[str] = set()
        self.takes_census = False
        """Whether it has to hear of the users in all chats."""
        self.is_counted = False
        """Whether it has told all of its users to this node, which takes the census."""
        self.count_asked = 0
        """How often it was asked for all of its users; an earlier release never tells them."""
        self.there: set[str] = set()
        """Chats that this node has to know of, in which it has said something about its users."""
        self.silence = 0.0
        """Seconds since something was heard of it."""
        self.questioned: float | None = None
        """Seconds since it was asked whether it lives; None: it wasn't."""
        # What it has to be sent.
        self.is_fresh = suspect  # it has to be asked for the first time
        self.question_due = self.ask_due = self.answer_due = self.all_due = False
        self.here_due: set[str] = set()
        self.answers = 0
        """The newest note of its stream whose watched chats are in ``here_due``, or were."""
        self.answered = 0
        self.is_suspect = False
        self._at = 0
        self._last = 0  # the newest note of its stream that was heard
        self._start = 0  # from this one on, its stream was heard without a gap
        self._later: list[PresenceNote] = []
        self._expected = 0  # a note of its stream that should have been heard
        self._waited = 0.0  # seconds for that one, or since it was asked
        self._parts: dict[int, PresenceNote] = {}
        self._parts_at = 0
        if suspect:
            self.suspect()

    @property
    def matters(self) -> bool:
        """Whether it is of any consequence if it is gone."""
        return (
            bool(self.watches or self.there)
            or self.takes_census
            or self.is_suspect
            or self.questioned is not None
        )

    def count_again(self) -> None:
        """What it has told for the census may not be all: it has to tell everything until it is."""
        self.is_counted, self.count_asked = False, 0

    def suspect(self) -> None:
        """Something that it has said may be lost: it has to tell everything."""
        self.is_suspect, self.ask_due = True, True
        self._start = max(self._last, self._expected)
        self._later.clear()
        self._waited = 0.0

    def hear(self, note: PresenceNote) -> None:
        """Note a sign of life, where it comes from, and which note of the stream it follows."""
        self.silence, self.questioned = 0.0, None
        if note.at >= self._at:
            self._at = note.at
            if note.address and note.address != self.address:
                self.address = note.address
        if not note.stream and note.last > max(self._last, self._expected):
            self._expected = note.last
            if not self.is_suspect:
                self._waited = 0.0

    def follow(self, note: PresenceNote) -> bool:
        """Take a note of its stream; False if it is an old one."""
        if note.at <= self._last:
            return False
        gap = note.last != self._last
        self._last = note.at
        if gap:
            if self.is_suspect:  # asked already: what is told has to reach up to here
                self._start = note.last
                self._later.clear()
            else:
                self.suspect()
                self._start = note.last
        if self.is_suspect:
            if len(self._later) >= MAX_LATER:
                self._later.clear()
                self._start = note.last
            self._later.append(note)
        return True

    def tick(self, passed: float, *, counting: bool = False) -> None:
        """Let so many seconds pass. ``counting``: this node takes the census."""
        self.silence += passed
        if self.questioned is not None:
            self.questioned += passed
        self._waited += passed
        if counting and not (self.is_counted or self.is_suspect) and self.count_asked < MAX_COUNT_ASKED:
            self.count_asked += 1
            self.suspect()
        if self.is_suspect and not self.ask_due and self._waited >= ASK_AGAIN:
            self.ask_due, self._waited = True, 0.0
        elif not self.is_suspect and self._expected > self._last and self._waited >= IN_FLIGHT:
            self.suspect()

    def collect(self, note: PresenceNote) -> Everything | None:
        """Take a part of everything that it tells; returns it once it is complete, if it is of any use."""
        if not self.is_suspect or note.at < self._parts_at or not note.part < note.parts <= MAX_PARTS:
            return None
        if note.at > self._parts_at:
            self._parts_at, self._parts = note.at, {}
        self._parts[note.part] = note
        if len(self._parts) < note.parts:
            return None
        found = Everything(note.at, [*self._parts.values()])
        self._parts = {}
        if found.last < self._start:
            return None
        found.later = [each for each in self._later if each.at > found.at]
        self.is_suspect, self.ask_due = False, False
        self._later = []
        self._last = max(self._last, found.last)
        return found


class Everything:
    """All that a node has told at once, and what its stream has said since."""

    def __init__(self, at: int, parts: list[PresenceNote]) -> None:
        self.at = at
        self.last = parts[0].last
        self.watches = {chat_id for part in parts for chat_id in part.watch}
        self.census = parts[0].census
        self.is_complete = all(part.complete for part in parts)
        self.here: dict[str, Crowd] = {
            chat_id: crowd for part in parts for chat_id, crowd in part.here.items()
        }
        self.later: list[PresenceNote] = []
