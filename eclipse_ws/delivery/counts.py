"""What delivery counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class DeliveryCounts:
    """Events of one node; plain counters, read when metrics are scraped."""

    published: int = 0
    duplicates_dropped: int = 0
    malformed_dropped: int = 0
    overflowed: int = 0
    """Events that are lost to the other nodes, because the outbox was full or the backend rejects them."""

    def count(self, new: bool) -> None:
        """Count an event that was appended: a ``new`` one, or one that the backend had already."""
        if new:
            self.published += 1
        else:
            self.duplicates_dropped += 1
