"""Idempotency keys: which step of an attempt takes effect in which state."""

from __future__ import annotations

import asyncio
from typing import Final
from unittest.mock import patch

import pytest

from eclipse_ws.backends.base import Key, KeyState, Record, Step
from eclipse_ws.protocol import Receipt
from eclipse_ws.testing.harness import WAIT, Contract, Node, Nodes, fresh_chat, message, on_nodes

KEY: Final = Key("k" * 32, "token-1", "f" * 32)
OTHER: Final = Key(KEY.name, "token-2", KEY.fingerprint)
RECEIPT: Final = Receipt("message 1:\u00e9", "abc.1", "published")

EFFECTS: Final[dict[tuple[KeyState, Step], KeyState]] = {
    ("none", "pending"): "pending",
    ("none", "released"): "none",
    ("none", "unknown"): "unknown",
    ("none", "forgotten"): "none",
    ("none", "done"): "done",
    ("released", "pending"): "pending",
    ("released", "released"): "released",
    ("released", "unknown"): "released",
    ("released", "forgotten"): "released",
    ("released", "done"): "done",
    ("pending", "pending"): "pending",
    ("pending", "released"): "pending",
    ("pending", "unknown"): "pending",
    ("pending", "forgotten"): "pending",
    ("pending", "done"): "done",
    ("unknown", "pending"): "unknown",
    ("unknown", "released"): "unknown",
    ("unknown", "unknown"): "unknown",
    ("unknown", "forgotten"): "unknown",
    ("unknown", "done"): "done",
    ("done", "pending"): "done",
    ("done", "released"): "done",
    ("done", "unknown"): "done",
    ("done", "forgotten"): "done",
    ("done", "done"): "done",
}
"""The state of a key after a step of *another* attempt than the one that led to its state."""
ENDS: Final[dict[Step, KeyState]] = {
    "pending": "pending",
    "released": "released",
    "unknown": "unknown",
    "forgotten": "none",
    "done": "done",
}
"""The state of a pending key after a step of its own attempt."""


async def lead_to(node: Node, chat_id: str, state: KeyState) -> None:
    """Bring the key into a state, by the attempt of ``KEY``."""
    steps: dict[KeyState, list[Step]] = {
        "released": ["pending", "released"],
        "pending": ["pending"],
        "unknown": ["pending", "unknown"],
        "done": ["pending", "done"],
    }
    for step in steps.get(state, []):
        await take(node, chat_id, KEY, step)


async def take(node: Node, chat_id: str, key: Key, step: Step) -> Record:
    """Record a step; ``done`` gets `RECEIPT`."""
    return await node.backend.record(chat_id, key, step, receipt=RECEIPT if step == "done" else None)


async def state_of(node: Node, chat_id: str, fingerprint: str = KEY.fingerprint) -> KeyState:
    """The key's state, seen by a third attempt, which begins if it may."""
    return (await node.backend.record(chat_id, Key(KEY.name, "token-3", fingerprint), "pending")).state


async def next_state(node: Node, chat_id: str, state: KeyState) -> KeyState:
    """Wait until the state changes by itself. Returns the next one."""
    async with asyncio.timeout(WAIT):
        while (found := await state_of(node, chat_id)) == state:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0.05)
    return found


class KeysContract(Contract):
    """`record`, and what `append` records. Skipped for a backend that isn't shared."""

    @pytest.mark.parametrize(("state", "step"), EFFECTS)
    @on_nodes
    async def test_another_attempts_step(self, nodes: Nodes, state: KeyState, step: Step) -> None:
        """A step of another attempt has the effect in the table; one that would begin gets the state."""
        one, other = await nodes.shared()
        chat = fresh_chat()
        await lead_to(one, chat, state)
        found = await take(other, chat, OTHER, step)
        if step == "pending":
            assert found.state == state
            assert state != "done" or found.receipt == RECEIPT
        assert await state_of(one, chat) == EFFECTS[state, step]

    @pytest.mark.parametrize("step", ENDS)
    @on_nodes
    async def test_the_attempts_own_step(self, nodes: Nodes, step: Step) -> None:
        """The pending attempt may begin again, and may end; any node can record that."""
        one, other = await nodes.shared()
        chat = fresh_chat()
        await lead_to(one, chat, "pending")
        found = await take(other, chat, KEY, step)
        assert step != "pending" or found.state == "none"
        assert await state_of(one, chat) == ENDS[step]

    @on_nodes
    async def test_an_attempt_that_ended_can_not_end_again(self, nodes: Nodes) -> None:
        """Once another attempt is pending, the first one can no longer end it."""
        one, other = await nodes.shared()
        chat = fresh_chat()
        await lead_to(one, chat, "released")
        await take(other, chat, OTHER, "pending")
        for step in ("released", "unknown", "forgotten"):
            await take(one, chat, KEY, step)
            assert await state_of(one, chat) == "pending"
        await take(other, chat, OTHER, "forgotten")
        assert await state_of(one, chat) == "none"

    @on_nodes
    async def test_one_of_many_begins(self, nodes: Nodes) -> None:
        """If several attempts begin at the same time, one finds nothing, and the others find that one."""
        one, other = await nodes.shared()
        chat = fresh_chat()
        found = await asyncio.gather(
            *(
                node.backend.record(chat, Key(KEY.name, f"token-{number}", KEY.fingerprint), "pending")
                for number, node in enumerate((one, other) * 5)
            )
        )
        assert sorted(each.state for each in found) == ["none"] + ["pending"] * 9

    @on_nodes
    async def test_unknown_may_be_tried_again(self, nodes: Nodes) -> None:
        """With ``retry_unknown`` an attempt begins even if the outcome of an earlier one is unknown."""
        one, other = await nodes.shared()
        chat = fresh_chat()
        await lead_to(one, chat, "unknown")
        found = await other.backend.record(chat, OTHER, "pending", retry_unknown=True)
        assert found.state in ("unknown", "none")
        assert await state_of(one, chat) == "pending"
        await take(other, chat, OTHER, "forgotten")
        assert await state_of(one, chat) == "none"

    @on_nodes
    async def test_a_pending_attempt_expires(self, nodes: Nodes) -> None:
        """An attempt that is pending for longer than `patience` is unknown."""
        with patch("eclipse_ws.backends.base.MARGIN", 0.0):
            one, other = await nodes.shared(api_timeout=0.3)
            chat = fresh_chat()
            await lead_to(one, chat, "pending")
            assert await next_state(other, chat, "pending") == "unknown"
            await other.backend.record(chat, OTHER, "pending", retry_unknown=True)
            assert await state_of(one, chat) == "pending"

    @on_nodes
    async def test_records_expire(self, nodes: Nodes) -> None:
        """A record is forgotten when it expires."""
        one, other = await nodes.shared(history_seconds=1)
        chat = fresh_chat()
        await lead_to(one, chat, "done")
        assert await next_state(other, chat, "done") == "none"

    @on_nodes
    async def test_keys_belong_to_their_chat(self, nodes: Nodes) -> None:
        """The same key in another chat, and another key in the same chat, are other keys."""
        node, _ = await nodes.shared()
        chat = fresh_chat()
        await lead_to(node, chat, "done")
        for chat_id, name in ((fresh_chat(), KEY.name), (chat, KEY.name.upper()), (chat, KEY.name + " ")):
            assert (await take(node, chat_id, Key(name, "token", ""), "pending")).state == "none"

    # -- fingerprints ---------------------------------------------------------------------------

    @pytest.mark.parametrize("state", ["released", "pending", "unknown", "done"])
    @on_nodes
    async def test_a_key_of_another_message_is_reused(self, nodes: Nodes, state: KeyState) -> None:
        """A key belongs to its first message: an attempt at another gets ``reused``, and changes nothing."""
        one, other = await nodes.shared()
        chat = fresh_chat()
        await lead_to(one, chat, state)
        another = Key(KEY.name, "token-2", "0" * 32)
        found = await other.backend.record(chat, another, "pending", retry_unknown=True)
        assert found.state == "reused"
        assert await state_of(one, chat, "") == state

    @on_nodes
    async def test_no_fingerprint_stands_for_anything(self, nodes: Nodes) -> None:
        """A key without a fingerprint, or one that is forgotten, differs from no message."""
        one, other = await nodes.shared()
        first, second = fresh_chat(), fresh_chat()
        await take(one, first, Key(KEY.name, "token-1"), "pending")
        assert await state_of(other, first) == "pending"
        await lead_to(one, second, "pending")
        await take(one, second, KEY, "forgotten")
        assert await state_of(other, second, "0" * 32) == "none"

    # -- appends --------------------------------------------------------------------------------

    @on_nodes
    async def test_an_append_is_done(self, nodes: Nodes) -> None:
        """The key of an appended event is done, with the receipt of that event, on both nodes."""
        one, other = await nodes.shared()
        chat = fresh_chat()
        await lead_to(one, chat, "pending")
        cursor, new = await one.backend.append(chat, message("m1"), key=KEY)
        assert new
        for node in (one, other):
            found = await node.backend.record(chat, OTHER, "pending")
            assert found == Record("done", Receipt("m1", str(cursor), "published"))
            assert await state_of(node, chat, "0" * 32) == "reused"

    @pytest.mark.parametrize("state", ["none", "released", "pending", "unknown"])
    @on_nodes
    async def test_any_append_is_done(self, nodes: Nodes, state: KeyState) -> None:
        """Whatever was known about the key, or another attempt: once the event is appended, it is done."""
        one, other = await nodes.shared()
        chat = fresh_chat()
        await lead_to(one, chat, state)
        cursor, _ = await other.backend.append(chat, message("m1"), key=OTHER)
        found = await one.backend.record(chat, OTHER, "pending")
        assert found == Record("done", Receipt("m1", str(cursor), "published"))

    @on_nodes
    async def test_an_append_of_before_is_done(self, nodes: Nodes) -> None:
        """Appending an event again makes the key done, too, with the cursor of the first time."""
        one, other = await nodes.shared()
        chat = fresh_chat()
        first = await one.append(chat, "m1")
        await one.append(chat, "m2")
        assert await other.backend.append(chat, message("m1"), key=KEY) == (first, False)
        found = await one.backend.record(chat, OTHER, "pending")
        assert found.receipt == Receipt("m1", str(first), "published")
