"""Chats by the number of their sessions, so that the largest are found without looking at all of them."""

from __future__ import annotations


class Sizes:
    """Counts each chat's sessions; a chat without any is not in it."""

    def __init__(self) -> None:
        self._sizes: dict[int, dict[str, None]] = {}
        """The chats of each size."""

    def change(self, chat_id: str, before: int, after: int) -> None:
        """Note that a chat had ``before`` sessions, and has ``after`` now."""
        same = self._sizes.get(before)
        if same is not None:
            same.pop(chat_id, None)
            if not same:
                del self._sizes[before]
        if after:
            self._sizes.setdefault(after, {})[chat_id] = None

    def largest(self, count: int) -> list[tuple[str, int]]:
        """The chats with the most sessions, as (chat id, sessions), largest first."""
        found: list[tuple[str, int]] = []
        for size in sorted(self._sizes, reverse=True):
            for chat_id in self._sizes[size]:
                if len(found) == count:
                    return found
                found.append((chat_id, size))
        return found
