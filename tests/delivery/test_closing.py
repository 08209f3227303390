"""A node that closes: what it still tells the others, and what it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from eclipse_ws.backends.base import Rejected, Unavailable
from eclipse_ws.protocol import Cursor
from tests.backends.harness import event
from tests.delivery.asked import known, on_stage, told, turn

gen_test = pytest.mark.gen_test(timeout=20)
Expect = Callable[..., None]
CHAT = "chat"


@gen_test
@pytest.mark.parametrize("trouble", ["slow", "answer", "note"])
async def test_a_node_that_closes_announces_its_losses(trouble: str, expect_log: Expect) -> None:
    """Its chats begin their new epochs, and the other nodes hear about them, before it is gone."""
    expect_log("event dropped")
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        epoch = known(stage).epoch
        if trouble == "slow":
            stage.backend.gate.clear()
        stage.backend.failures = [Unavailable()] if trouble == "answer" else []
        stage.backend.sending = Unavailable() if trouble == "note" else None

        async def append(*_: Any, **__: Any) -> tuple[Cursor, bool]:
            raise Rejected

        def heal() -> None:
            stage.backend.gate.set()
            stage.backend.sending = None
            stage.backend.sent.clear()

        stage.backend.append = append  # type: ignore[method-assign]
        await stage.publish(CHAT, 1)
        asyncio.get_running_loop().call_later(0.05, heal)
        await stage.delivery.close()
        assert stage.backend.sending is None
        assert stage.backend._channels[CHAT].epoch != epoch
        assert told(stage) == [[CHAT]]


@gen_test
async def test_a_node_that_closes_logs_losses_that_it_could_not_announce(expect_log: Expect) -> None:
    """A loss that no other node knows is an error, and closing takes no longer than the backend's timeout."""
    expect_log("not told about lost events")
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.backend.is_up = False
        stage.backend.timeout = 0.05
        stage.delivery._outbox.lose(CHAT)
        async with asyncio.timeout(2):
            await stage.delivery.close()


@gen_test
async def test_what_the_application_publishes_while_the_node_closes() -> None:
    """It is handed over as long as closing takes, and nothing of it is left."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        stage.backend.gate.clear()
        stage.delivery._outbox.lose(CHAT)
        await turn()
        closing = asyncio.ensure_future(stage.delivery.close())
        await turn()
        stage.delivery.deliver(CHAT, event(1))
        await turn()
        assert stage.delivery.counts.published == 1

        async def append(*_: Any, **__: Any) -> Any:
            await asyncio.Event().wait()

        stage.backend.append = append  # type: ignore[method-assign]
        stage.delivery.deliver(CHAT, event(2))
        await turn()
        stage.backend.gate.set()
        await closing
        await turn()
        assert not stage.delivery._raw
