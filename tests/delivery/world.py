"""A backend of several nodes that does all that its contract allows at the worst time, on its own clock."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import TypeVar

from eclipse_ws.backends.base import (
    Backend,
    Health,
    Key,
    Listener,
    Position,
    Rejected,
    Subscription,
    Unavailable,
)
from eclipse_ws.backends.marks import Mark, keep
from eclipse_ws.protocol import Cursor, Event, parse_event

T = TypeVar("T")
KEPT = 12
"""Events of a chat's history."""


class Hurried(asyncio.SelectorEventLoop):
    """A loop on whose clock nothing is waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def time(self) -> float:
        """Seconds that would have passed."""
        return self.now

    def _run_once(self) -> None:
        if not self._ready:  # type: ignore[attr-defined]
            timers = [timer.when() for timer in self._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
            self.now = max(self.now, min(timers, default=0))
        super()._run_once()  # type: ignore[misc]


class Log:
    """A chat in the backend."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.cursors: dict[str, Cursor] = {}
        self.marks: dict[str, Mark] = {}
        self.unheard = False  # the application has published an event that no node has heard
        self.begin("")

    def begin(self, epoch: str) -> None:
        """Begin an epoch."""
        self.epoch, self.offset, self.unheard = epoch, 0, False
        self.events.clear()

    def after(self, cursor: Cursor) -> list[Event] | None:
        """What came after a cursor."""
        missed = self.offset - cursor.offset
        if cursor.epoch != self.epoch or not 0 <= missed <= min(KEPT, len(self.events)):
            return None
        return self.events[len(self.events) - missed :]


class Server:
    """What the nodes share."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.logs: dict[str, Log] = {}
        self.nodes: dict[str, Flaky] = {}
        self.places: dict[tuple[str, Cursor], str] = {}
        """The identity of every event that was ever at a place of a chat."""
        self._epochs = 0

    def log(self, chat_id: str) -> Log:
        """A chat, which begins if it is new."""
        if chat_id not in self.logs:
            self.logs[chat_id] = Log()
            self.renew(self.logs[chat_id])
        return self.logs[chat_id]

    def renew(self, log: Log) -> None:
        """Begin a new epoch."""
        self._epochs += 1
        log.begin(f"e{self._epochs}")

    def flush(self) -> None:
        """Forget everything."""
        self.logs.clear()

    def append(self, chat_id: str, event: Event, known: Cursor | None) -> tuple[Cursor, bool]:
        """See `Backend.append`."""
        log = self.log(chat_id)
        if event.identity in log.cursors:
            return log.cursors[event.identity], False
        if known is not None and known.epoch == log.epoch and log.offset < known.offset:
            self.renew(log)
        log.offset += 1
        cursor = log.cursors[event.identity] = Cursor(log.epoch, log.offset)
        log.events.append(event.sequenced(cursor))
        self.places[chat_id, cursor] = event.identity
        self.fan_out(chat_id, log.events[-1].body)
        return cursor, True

    def fan_out(self, chat_id: str, body: bytes) -> bool:
        """Send to all nodes that hear the chat; whether there is one."""
        hearing = [node for node in self.nodes.values() if chat_id in node.hears]
        for node in hearing:
            node.hear(chat_id, body)
        return bool(hearing)

    def raw(self, chat_id: str, event: Event) -> None:
        """The application publishes."""
        if not self.fan_out(chat_id, event.body):
            self.log(chat_id).unheard = True


class Flaky(Backend):
    """One node's backend: slow, and unavailable as it is told, or now and then by itself."""

    name = "flaky"

    def __init__(self, server: Server, address: str, trouble: float) -> None:
        self.address, self.timeout = address, 2.0
        self.trouble = trouble
        """How often a command fails by itself."""
        self.hears: set[str] = set()
        self.commands = self.subscriber = self.writes = True
        self._server, self._chance = server, server.chance
        self._coming: deque[tuple[str, bytes]] = deque()
        self._arriving: asyncio.TimerHandle | None = None
        self._listener: Listener
        self._left: dict[str, int] = defaultdict(int)  # how often a chat was subscribed
        server.nodes[address] = self

    @property
    def health(self) -> Health:
        """Up if everything works."""
        return Health(self.name, "up" if self.commands and self.subscriber and self.writes else "down")

    async def start(self, listener: Listener) -> None:
        """Begin."""
        self._listener = listener
        listener.restored()

    async def close(self) -> None:
        """End."""
        self._server.nodes.pop(self.address, None)
        if self._arriving is not None:
            self._arriving.cancel()

    # -- what comes ---------------------------------------------------------------------------

    def hear(self, chat_id: str, body: bytes) -> None:
        """Have something arrive, after what came before."""
        self._coming.append((chat_id, body))
        self._arrive_later()

    def _arrive_later(self) -> None:
        if self._arriving is None and self._coming:
            pause = self._chance.choice([0, 0, 0.001, 0.01, 0.05])
            self._arriving = asyncio.get_running_loop().call_later(pause, self._arrive)

    def _arrive(self) -> None:
        self._arriving = None
        for _ in range(self._chance.choice([1, 1, 3])):
            if self._coming:
                self._hand_on(*self._coming.popleft())
        self._arrive_later()

    def _hand_on(self, chat_id: str, body: bytes) -> None:
        if not chat_id:
            self._listener.notice(body)
        elif chat_id in self.hears:
            self._listener.receive(chat_id, body)

    def _drop(self, chat_ids: set[str]) -> None:
        """Lose what is on its way of these chats, but for what the application has published."""
        for chat_id, body in list(self._coming):
            if chat_id in chat_ids and b'"cursor"' not in body:
                self._hand_on(chat_id, body)
        self._coming = deque(each for each in self._coming if each[0] not in chat_ids)
        self.hears -= chat_ids

    # -- what goes wrong ----------------------------------------------------------------------

    def deafen(self) -> None:
        """The subscriber's connection is lost."""
        self.subscriber = False
        self._drop(self.hears | {""})
        self._listener.lost()

    def heal(self) -> None:
        """Everything works again."""
        self.commands = self.subscriber = self.writes = True
        self._listener.restored()
        if self._chance.random() < 0.3:
            self._listener.restored()

    async def _do(self, effect: Callable[[], T], *, writes: bool = False, late: bool = False) -> T:
        await self._pause()
        if not self.commands or (writes and not self.writes):
            raise Unavailable(refused=self.commands and self._chance.random() < 0.2)
        if self._chance.random() < self.trouble:
            raise Unavailable
        if late and self._chance.random() < self.trouble:
            asyncio.get_running_loop().call_later(self._chance.random(), effect)
            raise Unavailable(asked=True)
        found = effect()
        await self._pause()
        if not self.commands or self._chance.random() < self.trouble:
            raise Unavailable(asked=True)
        return found

    async def _pause(self) -> None:
        if pause := self._chance.choice([-1, -1, 0, 0.001, 0.01, 0.1]) + 1:
            await asyncio.sleep(pause - 1)

    # -- the contract -------------------------------------------------------------------------

    async def subscribe(
        self, chat_id: str, known: Position | None = None, *, renew: bool = False
    ) -> Subscription:
        """See the contract."""
        self._left[chat_id] += 1

        def effect() -> Subscription:
            if not self.subscriber:
                raise Unavailable
            log = self._server.log(chat_id)
            at = None if known is None else known.cursor
            back = at is not None and at.epoch == log.epoch and at.offset > log.offset
            ends = log.unheard or back or (renew and (at is None or at.epoch == log.epoch))
            others = any(chat_id in node.hears for node in self._server.nodes.values() if node is not self)
            if ends:
                self._server.renew(log)
            self.hears.add(chat_id)
            missed = None if at is None else log.after(at)
            last = log.events[-1].identity if log.events else ""
            at_last = Position(Cursor(log.epoch, log.offset), last)
            return Subscription(at_last, missed, ends and others, dict(log.marks))

        return await self._do(effect)

    async def unsubscribe(self, chat_ids: Sequence[str]) -> None:
        """See the contract."""
        before = {chat_id: self._left[chat_id] for chat_id in chat_ids}
        await self._do(lambda: self._drop({each for each in chat_ids if self._left[each] == before[each]}))

    async def append(
        self, chat_id: str, event: Event, *, key: Key | None = None, known: Cursor | None = None
    ) -> tuple[Cursor, bool]:
        """See the contract."""
        if b'"poison"' in event.body:
            raise Rejected
        return await self._do(lambda: self._server.append(chat_id, event, known), writes=True, late=True)

    async def read(self, chat_id: str, after: Cursor, known: Cursor | None = None) -> Sequence[Event] | None:
        """See the contract."""
        return await self._do(lambda: self._server.log(chat_id).after(after))

    def broadcast(self, chat_id: str, event: Event) -> None:
        """See the contract."""
        self._server.fan_out(chat_id, event.body)

    async def mark(self, chat_id: str, name: str, mark: Mark, note: bytes) -> bool:
        """See the contract."""

        def effect() -> bool:
            log = self._server.log(chat_id)
            kept = keep(log.marks, name, mark, log.epoch, time.time())
            for node in self._server.nodes.values() if kept else ():
                if node.subscriber:
                    node.hear("", note)
            return kept

        return await self._do(effect, writes=True, late=True)

    async def send(self, note: bytes, address: str = "") -> int:
        """See the contract."""

        def effect() -> int:
            nodes = [n for n in self._server.nodes.values() if n.subscriber and address in ("", n.address)]
            for node in nodes:
                node.hear("", note)
            return len(nodes)

        return await self._do(effect)


def message(number: int, kind: str = "") -> Event:
    """An event that no other is like."""
    return parse_event(json.dumps({"type": "message", "data": {"id": str(number), "kind": kind}}).encode())
