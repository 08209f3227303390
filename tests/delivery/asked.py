"""A backend in memory that does what a test says, and remembers what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from eclipse_ws.backends.base import Health, NullListener, Position, Subscription
from eclipse_ws.backends.memory import MemoryBackend
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery.chat import Chat
from eclipse_ws.delivery.delivery import Delivery
from tests.backends.harness import Recorder, event
from tests.conftest import make_settings

LIFETIME = 100.0
"""Seconds that chats linger, on the stage's clock."""


class Asked(MemoryBackend):
    """``failures`` are raised by the next calls, one each. While the gate is closed subscribing takes long.

    ``answer`` may change what a subscription says.
    """

    is_shared = True

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        super().__init__(settings, clock)
        self.timeout = 5.0
        self.address = "here"
        self.is_up = True
        self.gate = asyncio.Event()
        self.gate.set()
        self.leaving = asyncio.Event()
        self.leaving.set()
        self.failures: list[Exception] = []
        self.answer: Callable[[Subscription], Subscription] = lambda answer: answer
        self.asked: list[tuple[str, Position | None, bool]] = []
        self.left: list[list[str]] = []
        self.sent: list[tuple[bytes, str]] = []
        self.sending: Exception | None = None
        self.bus: dict[str, Asked] = {}
        """Nodes that hear each other's notes, by their addresses."""
        self.deaf = False

    @property
    def health(self) -> Health:
        """As the test says."""
        return Health(self.name, "up" if self.is_up else "down")

    async def subscribe(
        self, chat_id: str, known: Position | None = None, *, renew: bool = False
    ) -> Subscription:
        """Subscribe, as soon as the gate is open."""
        self.asked.append((chat_id, known, renew))
        answer = None if self.failures else await super().subscribe(chat_id, known, renew=renew)
        await self.gate.wait()
        if answer is None:
            raise self.failures.pop(0)
        return self.answer(answer)

    async def unsubscribe(self, chat_ids: Sequence[str]) -> None:
        """Let chats go, as soon as that is allowed."""
        self.left.append(list(chat_ids))
        await self.leaving.wait()
        if self.failures:
            raise self.failures.pop(0)
        await super().unsubscribe(chat_ids)

    def begin_epoch(self, chat_id: str) -> str:
        """Begin a new epoch, which nobody is told; the name of the old one."""
        old = self._channels[chat_id]
        self._channels[chat_id] = type(old)(subscribed=old.subscribed)
        return old.epoch

    async def send(self, note: bytes, address: str = "") -> int:
        """Remember the note; the nodes of the bus hear it soon, unless they are deaf.

        Those about presence, which nodes send by themselves, nobody hears.
        """
        if note.startswith(b'{"presence"'):
            return 0
        self.sent.append((note, address))
        if self.sending is not None:
            raise self.sending
        hearing = [self.bus[address]] if address in self.bus else [] if address else [*self.bus.values()]
        for node in hearing:
            if not node.deaf:
                asyncio.get_running_loop().call_soon(node.listener.notice, note)
        return len(hearing)


class Stage:
    """Delivery over such a backend, on a clock that stands still unless it is told otherwise."""

    def __init__(self, **given: Any) -> None:
        self.now = 1000.0
        settings = make_settings(backend="memory", **{"history_seconds": LIFETIME, **given})
        self.backend = Asked(settings, lambda: self.now)
        self.delivery = Delivery(settings, self.backend, lambda: self.now)
        self.subscriptions = self.delivery._subscriptions
        self.heard = Recorder()

    async def publish(self, chat_id: str, *numbers: Any) -> None:
        """Kept events, one after the other."""
        for number in numbers:
            await self.delivery.publish(chat_id, event(number))

    async def elsewhere(self, chat_id: str, *numbers: Any) -> None:
        """Kept events that this node doesn't hear."""
        listener, self.backend.listener = self.backend.listener, NullListener()
        for number in numbers:
            await self.backend.append(chat_id, event(number))
        self.backend.listener = listener
        self.backend._idle.pop(chat_id, None)


@dataclass
class Timer:
    """What was to be called later."""

    delay: float
    call: Callable[[], Any]


@asynccontextmanager
async def on_stage(**given: Any) -> AsyncIterator[Stage]:
    """A started stage, which is cleared away."""
    stage = Stage(**given)
    await stage.delivery.start(stage.heard)
    try:
        yield stage
    finally:
        vars(stage.backend).pop("append", None)  # whatever a test has put in its place
        stage.backend.gate.set()
        stage.backend.leaving.set()
        await stage.delivery.close()


@asynccontextmanager
async def on_stages(count: int, **given: Any) -> AsyncIterator[list[Stage]]:
    """Started stages that hear each other's notes; their addresses are "0", "1" ..."""
    async with AsyncExitStack() as stack:
        stages = [await stack.enter_async_context(on_stage(**given)) for _ in range(count)]
        bus = {str(number): stage.backend for number, stage in enumerate(stages)}
        for address, backend in bus.items():
            backend.address, backend.bus = address, bus
        yield stages


async def turn() -> None:
    """Let everything that is begun get as far as it can."""
    for _ in range(10):
        await asyncio.sleep(0)


def known(stage: Stage, chat_id: str = "chat") -> Chat:
    """A chat that is wanted."""
    chat = stage.subscriptions.get(chat_id)
    assert chat is not None
    return chat


def told(stage: Stage) -> list[list[str]]:
    """The chats that other nodes were told to look at again, by note."""
    return [json.loads(note)["look_again"] for note, address in stage.backend.sent if address == ""]
