"""Marks: small values that a chat keeps under names: how far a user has read, who is banned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from eclipse_ws.protocol import Cursor

MAX_MARKS: Final = 1000
"""Marks of a chat with which no new name gets one with a cursor; the others have room for as many again."""


class Mark(msgspec.Struct, frozen=True):
    """A value until ``expires``, in seconds since 1970; one that has expired removes what its name had.

    With a ``cursor`` it only moves forward. Neither names nor values contain NUL.
    """

    value: str
    expires: float
    cursor: Cursor | None = None

    @property
    def room(self) -> int:
        """How many marks a chat may have, if it is to get this one under a new name."""
        return 2 * MAX_MARKS if self.cursor is None else MAX_MARKS

    @property
    def text(self) -> str:
        """Everything of it, as `parse` reads it."""
        epoch, offset = self.cursor or ("-", 0)
        return f"{self.expires!r} {epoch} {offset} {self.value}"

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """Read the text of a mark; None if it is none."""
        try:
            expires, epoch, offset, value = text.split(" ", 3)
            cursor = None if epoch == "-" else Cursor.parse(f"{epoch}.{offset}")
            return None if cursor is None and epoch != "-" else cls(value, float(expires), cursor)
        except ValueError:
            return None

    def follows(self, kept: Mark | None) -> bool:
        """Whether it may replace another one of its name."""
        if self.cursor is None or kept is None or kept.cursor is None:
            return True
        return self.cursor.epoch != kept.cursor.epoch or self.cursor.offset > kept.cursor.offset

    def was_lost(self, found: Mark | None) -> bool:
        """Whether a backend that had kept this one must have lost it if it has that one, or none, now."""
        if self.cursor is None:
            return False
        if found is None:
            return True
        return found.cursor is not None and found.cursor.epoch == self.cursor.epoch and self.follows(found)


def parse_marks(texts: Sequence[bytes]) -> dict[str, Mark]:
    """Read names and the texts of their marks, in turn; what can't be read is left out."""
    pairs = zip(texts[::2], texts[1::2], strict=False)
    found = {name.decode(): Mark.parse(text.decode()) for name, text in pairs}
    return {name: mark for name, mark in found.items() if mark is not None}


def current(marks: Mapping[str, Mark], now: float) -> dict[str, Mark]:
    """The marks that have not expired."""
    return {name: mark for name, mark in marks.items() if mark.expires > now}


def keep(marks: dict[str, Mark], name: str, mark: Mark, epoch: str | None, now: float) -> bool:
    """Do what `Backend.mark` promises with a chat's marks, for a backend that has them in a dict.

    ``epoch`` is the chat's present one. Returns whether the mark is kept.
    """
    if name not in marks and len(marks) >= mark.room:
        for old in marks.keys() - current(marks, now).keys():
            del marks[old]
        if len(marks) >= mark.room:
            return False
    kept = marks.get(name)
    is_old = mark.cursor is not None and mark.cursor.epoch != epoch
    if is_old or not (mark.follows(kept) or (kept and kept.expires <= now)):
        return False
    marks[name] = mark
    if mark.expires <= now:
        del marks[name]
    return True
