"""The largest chats, whatever comes and goes."""

from __future__ import annotations

import random
from collections import Counter

from eclipse_ws.sessions.sizes import Sizes


def test_the_largest_chats_are_found() -> None:
    """After any joins and leaves: as many as asked for, the largest first, and none that is empty."""
    chance, sizes, chats = random.Random(1), Sizes(), Counter[str]()
    for step in range(2000):
        chat = f"c{min(chance.randrange(30), chance.randrange(30))}"
        before = chats[chat]
        after = before + 1 if not before or chance.random() < (0.6 if step < 1000 else 0.3) else before - 1
        chats[chat] = after
        sizes.change(chat, before, after)
        found = sizes.largest(5)
        assert all(chats[name] == size for name, size in found)
        assert len(dict(found)) == len(found)
        expected = sorted((size for size in chats.values() if size), reverse=True)[:5]
        assert [size for _, size in found] == expected
    for chat, before in chats.items():
        sizes.change(chat, before, 0)
    assert sizes.largest(5) == []
    assert sizes._sizes == {}
