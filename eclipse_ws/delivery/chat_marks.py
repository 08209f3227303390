"""One chat's marks on this node: those that the backend had, and those that nodes have set since."""

from __future__ import annotations

from collections.abc import Mapping

from eclipse_ws.backends.marks import MAX_MARKS, Mark, current


class ChatMarks:
    """The marks by their names."""

    __slots__ = ("_noted", "known", "untold")

    def __init__(self) -> None:
        self.known: dict[str, Mark] = {}
        self.untold = False
        """Whether somebody asked while they were not certain: then all are news once they are."""
        self._noted: dict[str, Mark] = {}

    def begin_loading(self) -> None:
        """Note that the backend is asked for the marks: what comes from now on may be newer."""
        self._noted.clear()

    def load(self, found: Mapping[str, Mark], now: float) -> list[tuple[str, Mark]]:
        """Take the backend's answer. Returns the marks that are news: new, others than before, or untold.

        A backend that has lost its last writes has earlier marks, or none: those that only move forward stay.
        """
        before = {} if self.untold else self.known
        known = {**found, **self._noted}
        for name, mark in current(self.known, now).items():
            if mark.was_lost(known.get(name)) and (name in known or len(known) < MAX_MARKS):
                known[name] = mark
        self.known, self.untold = known, False
        self._noted.clear()
        return [(name, mark) for name, mark in self.known.items() if before.get(name) != mark]

    def note(self, name: str, mark: Mark, now: float, *, loading: bool) -> bool:
        """Take a mark that a node has set, while the backend is asked or not. Returns whether it is news."""
        known = self.known.get(name)
        if known == mark or not mark.follows(known):
            return False
        self.known[name] = mark
        if loading:
            self._noted[name] = mark
        elif mark.expires <= now:
            del self.known[name]
        return True

    def has_room(self, name: str, mark: Mark, now: float) -> bool:
        """Whether the chat would keep such a mark, as far as this node knows."""
        if name in self.known or len(self.known) < mark.room:
            return True
        self.known = current(self.known, now)
        return len(self.known) < mark.room
