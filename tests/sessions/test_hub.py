"""The hub: what a session gets, whatever happens while it joins, resumes, leaves or is sent away."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eclipse_ws.backends.base import BackendError, Health, Listener, Unavailable
from eclipse_ws.backends.memory import MemoryBackend
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.protocol import CloseCode, Cursor, Event, PresentRole
from eclipse_ws.security.limits import Rate
from eclipse_ws.sessions import hub as hub_module
from eclipse_ws.sessions import replay
from eclipse_ws.sessions.hub import Hub
from eclipse_ws.websocket import text_frame
from eclipse_ws.websocket.params import Params
from tests.backends.harness import event, typing, until
from tests.conftest import make_settings

gen_test = pytest.mark.gen_test(timeout=10)
CHAT = "chat"


class EventPoll:
    """Flushes audiences at the turn's end."""

    def __init__(self) -> None:
        self.audiences: list[Any] = []
        self.scheduled = False
        self.params = Params()

    def schedule(self) -> None:
        """See the real one."""
        if not self.scheduled:
            self.scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self.scheduled = False
        due, self.audiences = self.audiences, []
        for audience in due:
            audience.flush()


class Wire:
    """A socket that keeps what it is sent; frames of its own and of its audiences in their order. Of a client
    that ``reads`` nothing the droppable ones are dropped.

    ``queued`` is what its client has not read: what it is sent if the client ``reads`` nothing, else 0.
    """

    def __init__(self, poll: EventPoll) -> None:
        self.poll = poll
        self.audiences: tuple[Any, ...] = ()
        self.out = None
        self.is_closing = self.is_lost = False
        self.frames: list[bytes] = []
        self.reads = True
        self.queued = self.longest = 0

    def read(self) -> None:
        """What the client does."""
        self.queued = 0

    def send(self, frame: bytes, droppable: bool = False) -> None:
        """One frame of its own."""
        if self.is_closing:
            return
        for audience in self.audiences:
            audience.pull(self)
        self.frames.append(frame)
        if not self.reads:
            self.queued += len(frame)
            self.longest = max(self.longest, self.queued)

    def take(self, frames: Sequence[bytes], soft: int) -> None:
        """Frames of an audience."""
        self.frames.extend(frame for n, frame in enumerate(frames) if self.reads or not soft >> n & 1)

    def put(self, frames: Sequence[bytes], soft: int, data: bytes) -> None:
        """Frames of an audience."""
        self.take(frames, soft)


class Session:
    """A member that remembers what it got and how it was ended."""

    def __init__(self, poll: EventPoll, name: str, user: str = "user") -> None:
        self.id = name
        self.user_id = user
        self.wire: Any = Wire(poll)
        self.chats: tuple[str, ...] = ()
        self.has_joined = False
        self.kinds: frozenset[str] = frozenset()
        self.began = time.monotonic()
        self.came: dict[str, float] | None = None
        self.role: PresentRole = "user"
        self.ended: list[tuple[CloseCode, str | None]] = []
        self.lost: list[tuple[str, CloseCode, str | None]] = []

    def left(self, chat_id: str, close: CloseCode, reason: str | None = None) -> None:
        """See Member."""
        self.lost.append((chat_id, close, reason))

    def end(self, close: CloseCode, reason: str | None = None) -> None:
        """See Member."""
        self.ended.append((close, reason))
        self.wire.is_closing = True

    def retire(self, close: CloseCode) -> None:
        """See Member."""
        self.end(close)

    @property
    def got(self) -> list[Any]:
        """What came over the wire, in order: greetings as they are, of events the id or the type."""
        shown = []
        for frame in self.wire.frames:
            fields = json.loads(frame[{126: 4, 127: 10}.get(frame[1], 2) :])
            shown.append(fields if "greeting" in fields else fields["data"].get("id", fields["type"]))
        return shown

    @property
    def events(self) -> list[str]:
        """What came after the greeting."""
        return [str(each) for each in self.got[1:]]


def greet(cursor: Cursor | None, recovered: bool | None) -> bytes:
    """A greeting that says what it was made of."""
    return text_frame(json.dumps({"greeting": cursor and str(cursor), "recovered": recovered}).encode())


class Gated(MemoryBackend):
    """A memory backend whose answers and events can be made to wait, or which fails."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.gate = asyncio.Event()
        self.gate.set()
        self.unavailable = False
        self.held: list[tuple[str, Event]] | None = None

    @property
    def health(self) -> Health:
        """Down while it is unavailable."""
        return Health(self.name, "down" if self.unavailable else "up")

    async def start(self, listener: Listener) -> None:
        """Begin."""
        await super().start(listener)
        self.listener, self.node = self, listener

    def deliver(self, chat_id: str, event: Event) -> None:
        """Hand an event on, or hold it."""
        if self.held is None:
            self.node.deliver(chat_id, event)
        else:
            self.held.append((chat_id, event))

    def let_go(self) -> None:
        """Hand on what was held."""
        held, self.held = self.held or [], None
        for chat_id, late in held:
            self.node.deliver(chat_id, late)

    async def append(self, *args: Any, **named: Any) -> tuple[Cursor, bool]:
        """Append, if it is available."""
        if self.unavailable:
            raise Unavailable
        return await super().append(*args, **named)

    async def read(self, *args: Any, **named: Any) -> Sequence[Event] | None:
        """Read the history now, answer it when the gate is open."""
        found = await super().read(*args, **named)
        await self.gate.wait()
        return found


class Stage:
    """A hub on a gated backend, and its sessions. ``limit``: events that a chat's history keeps."""

    def __init__(self, limit: int = 50) -> None:
        settings = make_settings(backend="memory", history_events=limit)
        self.backend = Gated(settings)
        self.delivery = Delivery(settings, self.backend)
        self.hub = Hub(self.delivery)
        self.poll = EventPoll()
        self.unsubscribed: list[str] = []
        self.subscribing = asyncio.Event()
        self.subscribing.set()
        self.failure: Exception | None = None
        subscribe, unsubscribe = self.delivery.subscribe, self.delivery.unsubscribe

        async def enter(chat_id: str) -> None:
            await self.subscribing.wait()
            if self.failure is not None:
                raise self.failure
            await subscribe(chat_id)

        def leave(chat_id: str) -> None:
            self.unsubscribed.append(chat_id)
            unsubscribe(chat_id)

        self.delivery.subscribe = enter  # type: ignore[method-assign]
        self.delivery.unsubscribe = leave  # type: ignore[method-assign]

    def session(self, name: str, user: str = "user") -> Session:
        """A session that hasn't joined."""
        return Session(self.poll, name, user)

    async def join(self, name: str, after: Any = None, chat: str = CHAT) -> Session:
        """A session that has."""
        session = self.session(name)
        assert await self.hub.join(chat, session, None if after is None else str(after), greet)
        return session

    async def publish(self, *numbers: Any, chat: str = CHAT) -> None:
        """Kept events, one after the other."""
        for number in numbers:
            await self.delivery.publish(chat, event(number))

    def start(self) -> Cursor:
        """The position before the first event."""
        at = self.delivery.position(CHAT)
        assert at is not None
        return at._replace(offset=0)

    async def begin_join(self, session: Session, after: Any = None) -> asyncio.Task[bool]:
        """A join that is in progress."""
        joining = asyncio.create_task(self.hub.join(CHAT, session, after and str(after), greet))
        await turn()
        return joining

    def begin_outage(self) -> None:
        """The backend takes nothing from now on."""
        self.backend.unavailable = True

    async def end_outage(self) -> None:
        """The backend takes everything again, and has taken what waited."""
        self.backend.unavailable = False
        self.delivery.restored()
        await until(lambda: not self.delivery.health.queued)


@asynccontextmanager
async def on_stage(limit: int = 50) -> AsyncIterator[Stage]:
    """A stage that is cleared away."""
    stage = Stage(limit)
    await stage.delivery.start(stage.hub)
    yield stage
    await stage.delivery.close()


async def turn() -> None:
    """Let the turn end, at which frames leave, and what it has begun."""
    for _ in range(5):
        await asyncio.sleep(0)


@gen_test
async def test_members_get_what_is_published() -> None:
    """Each member gets its greeting first, then each event once, in order."""
    async with on_stage() as stage:
        one = await stage.join("one")
        await stage.publish("m1")
        other = await stage.join("other")
        await stage.publish("m2", "m3")
        await turn()
        start = stage.start()
        assert one.got == [{"greeting": str(start), "recovered": None}, "m1", "m2", "m3"]
        assert other.got == [{"greeting": f"{start.epoch}.1", "recovered": None}, "m2", "m3"]
        assert (stage.hub.sessions, stage.hub.chats) == (2, 1)


@gen_test
async def test_resume_is_complete() -> None:
    """A session with a cursor gets what it missed, then what is live, and is told so."""
    async with on_stage() as stage:
        one = await stage.join("one")
        start = stage.start()
        await stage.publish(*range(5))
        stage.hub.leave(one)
        again = await stage.join("again", Cursor(start.epoch, 2))
        await stage.publish("live")
        await turn()
        assert again.got == [{"greeting": f"{start.epoch}.2", "recovered": True}, "2", "3", "4", "live"]
        assert (stage.hub.resumed, stage.hub.not_resumed) == (1, 0)


@gen_test
@pytest.mark.parametrize(
    "after", ["garbage", "", ".", "another.1", "{epoch}.99", "{epoch}.-1", "{epoch}.01", "x" * 5000]
)
async def test_resume_is_all_or_nothing(after: str) -> None:
    """With a cursor that can't be resumed a session gets none of the history, and the position of now."""
    async with on_stage() as stage:
        await stage.join("one")
        start = stage.start()
        await stage.publish("m1", "m2")
        again = await stage.join("again", after.format(epoch=start.epoch))
        await stage.publish("live")
        await turn()
        assert again.got == [{"greeting": f"{start.epoch}.2", "recovered": False}, "live"]
        assert (stage.hub.resumed, stage.hub.not_resumed) == (0, 1)


@gen_test
async def test_what_comes_while_the_history_is_fetched() -> None:
    """Events that come while the history is fetched follow the replay, once each."""
    async with on_stage() as stage:
        one = await stage.join("one")
        start = stage.start()
        await stage.publish("m1", "m2")
        stage.backend.gate.clear()
        again = stage.session("again")
        joining = await stage.begin_join(again, start)
        await stage.publish("m3", "m4")
        stage.delivery.broadcast(CHAT, typing())
        assert again.got == []
        stage.backend.gate.set()
        assert await joining
        await stage.publish("m5")
        await turn()
        assert again.events == ["m1", "m2", "m3", "m4", "m5"]
        assert one.events == ["m1", "m2", "m3", "m4", "typing", "m5"]


@gen_test
async def test_what_comes_while_a_stranger_joins() -> None:
    """A session without a cursor doesn't get what came before its greeting, whose cursor covers that."""
    async with on_stage() as stage:
        await stage.join("one")
        stage.subscribing.clear()
        fresh = stage.session("fresh")
        joining = await stage.begin_join(fresh)
        await stage.publish("m1")
        stage.subscribing.set()
        assert await joining
        await stage.publish("m2")
        await turn()
        assert fresh.got == [{"greeting": f"{stage.start().epoch}.1", "recovered": None}, "m2"]


@gen_test
async def test_a_history_that_takes_too_long() -> None:
    """Who resumes while more comes than is remembered is told that it was not resumed; the others go on."""
    async with on_stage(limit=3) as stage:
        one = await stage.join("one")
        stage.backend.gate.clear()
        slow = stage.session("slow")
        joining = await stage.begin_join(slow, stage.start())
        await stage.publish("m1")
        other = stage.session("other")
        second = await stage.begin_join(other, stage.start())
        await stage.publish(*range(5))
        stage.backend.gate.set()
        assert await joining
        assert await second
        await stage.publish("live")
        await turn()
        at = f"{stage.start().epoch}.6"
        assert other.got == [{"greeting": at, "recovered": False}, "live"]
        assert one.events == ["m1", *(str(n) for n in range(5)), "live"]


@gen_test
@pytest.mark.parametrize("cursor", [None, "nonsense"])
async def test_a_session_without_a_cursor_stays(cursor: str | None) -> None:
    """However much comes while it joins, a session without a cursor needs none of it, and stays."""
    async with on_stage(limit=3) as stage:
        await stage.join("one")
        stage.subscribing.clear()
        fresh = stage.session("fresh")
        joining = await stage.begin_join(fresh, cursor)
        await stage.publish(*range(5))
        stage.subscribing.set()
        assert await joining
        await stage.publish("live")
        await turn()
        assert fresh.ended == []
        assert (fresh.got[0]["greeting"], fresh.events) == (f"{stage.start().epoch}.5", ["live"])


@gen_test
@pytest.mark.parametrize("gap", [1, 3])
async def test_a_history_that_is_ahead_of_the_node(gap: int) -> None:
    """Events of the history that this node has not heard yet reach a resuming session live."""
    async with on_stage() as stage:
        one = await stage.join("one")
        start = stage.start()
        await stage.publish("m1")
        stage.backend.held = []
        new = [f"x{n}" for n in range(gap)]
        await stage.publish(*new)
        resuming = await stage.join("resuming", start)
        await turn()
        assert resuming.events == ["m1"]
        stage.backend.let_go()
        await stage.publish("m2")
        stage.delivery.broadcast(CHAT, typing())
        await turn()
        assert resuming.events == one.events == ["m1", *new, "m2", "typing"]


@gen_test
async def test_a_client_that_is_ahead_of_the_node() -> None:
    """Who brings a cursor from a node that is ahead of this one waits for this one, and has nothing twice."""
    async with on_stage() as stage:
        await stage.join("one")
        start = stage.start()
        await stage.publish("m1")
        stage.backend.held = []
        await stage.publish("m2", "m3")
        ahead = stage.session("ahead")
        joining = await stage.begin_join(ahead, Cursor(start.epoch, 2))
        assert ahead.got == []
        stage.backend.let_go()
        assert await joining
        await stage.publish("m4")
        await turn()
        assert ahead.got == [{"greeting": f"{start.epoch}.2", "recovered": True}, "m3", "m4"]


@gen_test
async def test_a_node_that_does_not_catch_up() -> None:
    """Who is ahead of a node that hears nothing is told in time that it was not resumed."""
    async with on_stage() as stage:
        await stage.join("one")
        start = stage.start()
        stage.backend.held, stage.backend.timeout = [], 0.02
        await stage.publish("m1", "m2")
        ahead = await stage.join("ahead", Cursor(start.epoch, 2))
        assert ahead.got == [{"greeting": str(start), "recovered": False}]


@gen_test
async def test_local_copies_come_once() -> None:
    """A local copy reaches sessions that join later, and nobody gets the event again once it is sequenced."""
    async with on_stage() as stage:
        before = await stage.join("before")
        stage.begin_outage()
        await stage.publish("m1")
        after = await stage.join("after")
        await stage.publish("m2")
        later = await stage.join("later")
        await turn()
        assert before.events == after.events == later.events == ["m1", "m2"]
        await stage.end_outage()
        fresh = await stage.join("fresh")
        resuming = await stage.join("resuming", stage.start())
        await stage.publish("m3")
        await turn()
        assert before.events == after.events == later.events == ["m1", "m2", "m3"]
        assert fresh.got == [{"greeting": f"{stage.start().epoch}.2", "recovered": None}, "m3"]
        assert resuming.events == ["m1", "m2", "m3"]


@gen_test
async def test_a_local_copy_while_resuming() -> None:
    """A local copy that comes while a session resumes follows the replay, once."""
    async with on_stage() as stage:
        before = await stage.join("before")
        await stage.publish("m1")
        stage.backend.gate.clear()
        resuming, other = stage.session("resuming"), stage.session("other")
        joining = await stage.begin_join(resuming, stage.start())
        stage.begin_outage()
        await stage.publish("m2", "m3")
        stage.backend.gate.set()
        assert await joining
        stage.backend.gate.clear()
        joining = await stage.begin_join(other, stage.start())
        await stage.end_outage()  # they are sequenced while its history is read
        stage.backend.gate.set()
        assert await joining
        await stage.publish("m4")
        await turn()
        for session in (before, resuming, other):
            assert session.events == ["m1", "m2", "m3", "m4"], session.id


@gen_test
async def test_many_local_copies() -> None:
    """However many local copies there are, nobody has one twice or misses one."""
    async with on_stage(limit=5) as stage:
        one = await stage.join("one")
        stage.begin_outage()
        await stage.publish(*range(50))
        other = await stage.join("other")
        await stage.end_outage()
        await turn()
        assert one.events == other.events == [str(n) for n in range(50)]
        assert stage.delivery.local_copies(CHAT) == ()


# -- replays that a queue has no room for ------------------------------------------------------


@asynccontextmanager
async def pacing(
    number: int = 20, limit: int = 50
) -> AsyncIterator[tuple[Stage, Session, asyncio.Task[bool]]]:
    """A session whose client reads nothing joins with so many events to replay, of which eight have room."""
    async with on_stage(limit) as stage:
        await stage.join("one")
        start = stage.start()
        await stage.publish(*range(number))
        size = len((await stage.delivery.resume(CHAT, start) or ())[0].body)
        stage.poll.params = Params(queue_bytes=2 * 10 * size)
        slow = stage.session("slow")
        slow.wire.reads = False
        task = await stage.begin_join(slow, start)
        await turn()
        yield stage, slow, task
        task.cancel()


async def read_on(session: Session, task: asyncio.Task[bool]) -> None:
    """The client reads, until the session has joined."""
    while not task.done():
        session.wire.read()
        await asyncio.sleep(0.001)


@gen_test
async def test_a_long_replay_is_sent_as_the_client_reads() -> None:
    """All of it arrives in order, before live events, and never more at once than the queue has room for."""
    async with pacing() as (stage, slow, task):
        assert slow.got[0]["recovered"] is True
        assert 0 < len(slow.events) < 20
        await stage.publish("live 1")
        stage.delivery.broadcast(CHAT, typing())
        assert not task.done()
        assert stage.hub.size(CHAT) == stage.hub.sessions == 2
        assert slow in stage.hub.members()
        await read_on(slow, task)
        assert task.result()
        await stage.publish("live 2")
        await turn()
        assert slow.events == [*map(str, range(20)), "live 1", "live 2"]
        assert slow.wire.longest <= stage.poll.params.queue_bytes // 2
        assert stage.hub._replaying == 0


@gen_test
async def test_events_during_a_replay_are_paced_too() -> None:
    """Live events that come during a long replay are not sent all at once at its end."""
    async with pacing(limit=30) as (stage, slow, task):
        await stage.publish(*(f"live {n}" for n in range(25)))
        await read_on(slow, task)
        assert task.result()
        assert slow.events == [*map(str, range(20)), *(f"live {n}" for n in range(25))]
        assert slow.wire.longest <= stage.poll.params.queue_bytes // 2


@gen_test
async def test_a_short_replay_does_not_wait() -> None:
    """What the queue has room for is sent at once, also to a client that reads nothing."""
    async with pacing(5) as (_, slow, task):
        assert task.done()
        assert slow.events == ["0", "1", "2", "3", "4"]


@gen_test
async def test_one_event_that_is_larger_than_the_room() -> None:
    """An event that never has room is sent all the same, once the queue is empty."""
    async with on_stage() as stage:
        await stage.join("one")
        await stage.publish(*range(3))
        stage.poll.params = Params(queue_bytes=4)
        slow = stage.session("slow")
        slow.wire.reads = False
        task = await stage.begin_join(slow, stage.start())
        await read_on(slow, task)
        assert slow.events == ["0", "1", "2"]


@gen_test
async def test_a_client_that_reads_too_slowly_while_resuming(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read a piece in time is closed with 4008, and joins no chat."""
    monkeypatch.setattr(replay, "PATIENCE", 0.02)
    async with pacing() as (stage, slow, task):
        assert not await task
        assert slow.ended == [(CloseCode.TOO_SLOW, None)]
        stage.hub.leave(slow)
        assert (stage.hub.sessions, stage.hub.size(CHAT), stage.hub._replaying) == (1, 1, 0)


@gen_test
@pytest.mark.parametrize(
    "end", ["leave", "lost", "closing", "interrupt", "disconnect", "overtaken", "cancel"]
)
async def test_ends_while_resuming(end: str) -> None:
    """However a session ends during a long replay, nothing of it stays, and it gets no more."""
    async with pacing(limit=20) as (stage, slow, task):
        before = len(slow.events)
        if end == "leave":
            stage.hub.leave(slow)
        elif end == "lost":
            slow.wire.is_lost = True
        elif end == "closing":
            slow.end(CloseCode.RESTARTING)
        elif end == "interrupt":
            stage.hub.interrupt(CHAT)
        elif end == "disconnect":
            assert stage.hub.answer({"disconnect": {"chatId": CHAT, "userId": None, "reason": None}}) == 2
            assert slow.ended == [(CloseCode.KICKED, None)]
        elif end == "overtaken":
            await stage.publish(*range(100, 125))
        else:
            task.cancel()
        await read_on(slow, task)
        assert task.cancelled() or not task.result()
        assert len(slow.ended) == (0 if end in ("leave", "lost", "cancel") else 1)
        stage.hub.leave(slow)
        await stage.publish("after")
        await turn()
        if end == "overtaken":  # it goes on as long as it can
            assert slow.events == [str(n) for n in range(len(slow.events))]
            assert slow.ended == [(CloseCode.RESUME_NEEDED, None)]
        else:
            assert len(slow.events) == before
        assert slow.id not in stage.hub._sessions
        chat = stage.hub._chats.get(CHAT)
        assert chat is None or (slow not in chat.everyone() and not chat.joining)
        assert stage.hub._replaying == 0


@gen_test
async def test_leaving_one_chat_while_resuming() -> None:
    """A session that leaves one of its chats while more of a replay is fetched is not told to leave."""
    async with pacing() as (stage, slow, task):
        stage.hub.name_chats(slow)
        await stage.publish("live")
        stage.backend.gate.clear()
        waiting = stage.backend.gate._waiters  # type: ignore[attr-defined]
        while not waiting:
            slow.wire.read()
            await asyncio.sleep(0.001)
        stage.hub.part(slow, CHAT)
        stage.backend.gate.set()
        assert not await task
        assert (slow.lost, slow.ended) == ([], [])
        assert stage.hub._replaying == 0


@gen_test
async def test_all_replays_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the node's bound a session is closed before its greeting, and reconnects later."""
    monkeypatch.setattr(hub_module, "MOST_REPLAYING", 3000)
    async with pacing() as (stage, slow, task):
        other = stage.session("other")
        other.wire.reads = False
        assert not await stage.hub.join(CHAT, other, str(stage.start()), greet)
        assert (other.got, other.ended) == ([], [(CloseCode.RESUME_NEEDED, None)])
        await read_on(slow, task)
        again = stage.session("again")
        again.wire.reads = False
        joining = await stage.begin_join(again, stage.start())
        await read_on(again, joining)
        assert joining.result()


# -- ephemeral events ---------------------------------------------------------------------------


@gen_test
async def test_ephemeral_events_have_a_budget_in_deliveries() -> None:
    """Typing costs its receivers; beyond a chat's budget it is dropped, and nothing else is."""
    async with on_stage() as stage:
        crowd = [await stage.join(f"s{n}") for n in range(10)]
        small = await stage.join("small", chat="small")
        stage.hub.fan_out = Rate.of(0.1, 40)  # whatever the clock's zero is
        for _ in range(20):
            stage.delivery.broadcast(CHAT, typing())
            stage.delivery.broadcast("small", typing())
        await stage.publish("m1")
        await turn()
        assert all(session.events == [*["typing"] * 4, "m1"] for session in crowd)
        assert small.events == ["typing"] * 20
        assert stage.hub.fan_out_dropped == 16
        assert stage.hub.is_loud(CHAT, time.monotonic())
        assert not stage.hub.is_loud("small", time.monotonic())
        assert not stage.hub.is_loud("a chat that nobody is in", time.monotonic())
        assert stage.hub.fan_out_dropped == 17
        stage.hub.fan_out = Rate.of(0, 0)
        assert not stage.hub.is_loud(CHAT, time.monotonic())
        stage.delivery.broadcast(CHAT, typing())
        await turn()
        assert crowd[0].events[-1] == "typing"


@gen_test
async def test_events_that_have_to_be_asked_for_cost_who_asked() -> None:
    """From the same budget as typing: a chat in which nobody has asked pays nothing."""
    async with on_stage() as stage:
        asked, other = stage.session("asked"), await stage.join("other")
        asked.kinds = frozenset(("presence",))
        assert await stage.hub.join(CHAT, asked, None, greet)
        await turn()
        before = len(asked.got)
        stage.hub.fan_out = Rate.of(0.1, 4)
        for kind in ["read"] * 20 + ["presence"] * 20:
            stage.delivery.broadcast(CHAT, Event(kind, b'{"type":"%b","data":{}}' % kind.encode()))
        await turn()
        assert (len(asked.got) - before, other.events) == (4, [])
        assert stage.hub.fan_out_dropped == 16


@gen_test
async def test_typing_skips_its_origin() -> None:
    """An ephemeral event goes to everybody in the chat but the session that it came from."""
    async with on_stage() as stage:
        one, other = await stage.join("one"), await stage.join("other")
        stage.delivery.broadcast(CHAT, typing("one"))
        stage.delivery.broadcast(CHAT, typing("of another node"))
        await turn()
        assert one.events == ["typing"]
        assert other.events == ["typing", "typing"]


@gen_test
async def test_interrupt_ends_all_sessions_of_the_chat() -> None:
    """An interrupt ends the chat's sessions with 4010, also those that are joining, and no other chat's."""
    async with on_stage() as stage:
        one = await stage.join("one")
        elsewhere = await stage.join("elsewhere", chat="other chat")
        stage.backend.gate.clear()
        joining = stage.session("joining")
        task = await stage.begin_join(joining, stage.start())
        stage.hub.interrupt(CHAT)
        stage.hub.interrupt("a chat that nobody is in")
        stage.backend.gate.set()
        await task
        await stage.publish("m1")
        await turn()
        for session in (one, joining):
            assert session.ended == [(CloseCode.RESUME_NEEDED, None)]
            stage.hub.leave(session)
            assert "m1" not in session.got
        assert elsewhere.ended == []
        assert stage.hub.interrupted == 2
        assert [m.id for m in stage.hub.members()] == ["elsewhere"]


@gen_test
@pytest.mark.parametrize("where", ["subscribing", "history"])
async def test_leaving_while_joining(where: str) -> None:
    """A session that leaves while it joins is in no chat, gets nothing, and the chat is let go."""
    async with on_stage() as stage:
        await stage.delivery.subscribe(CHAT)
        start = stage.start()
        await stage.publish("m1")
        gate = stage.subscribing if where == "subscribing" else stage.backend.gate
        gate.clear()
        session = stage.session("one")
        joining = await stage.begin_join(session, start)
        stage.hub.leave(session)
        stage.hub.leave(session)
        gate.set()
        assert not await joining
        assert session.got == []
        assert (stage.hub.sessions, stage.hub.chats, session.chats) == (0, 0, ())
        assert stage.unsubscribed == [CHAT]


@gen_test
async def test_joining_while_the_last_one_leaves() -> None:
    """A chat whose last member leaves while another one joins stays subscribed."""
    async with on_stage() as stage:
        first = await stage.join("first")
        stage.subscribing.clear()
        second = stage.session("second")
        joining = await stage.begin_join(second)
        stage.hub.leave(first)
        assert stage.unsubscribed == []
        stage.subscribing.set()
        assert await joining
        await stage.publish("m1")
        await turn()
        assert second.events == ["m1"]


@gen_test
async def test_joining_again_after_leaving_while_joining() -> None:
    """A session that gave up joining does not end the subscription of one that has joined meanwhile."""
    async with on_stage() as stage:
        stage.subscribing.clear()
        gone = stage.session("gone")
        joining = await stage.begin_join(gone)
        stage.hub.leave(gone)
        stays = stage.session("stays")
        staying = await stage.begin_join(stays)
        stage.subscribing.set()
        assert not await joining
        assert await staying
        await stage.publish("m1")
        await turn()
        assert stays.events == ["m1"]
        assert stage.hub.chats == 1


@gen_test
async def test_a_chat_that_can_not_be_subscribed() -> None:
    """A failure to subscribe is the caller's, undoes the joining, and leaves other chats alone."""
    async with on_stage() as stage:
        session = await stage.join("one")
        stage.failure = BackendError("of the test")
        with pytest.raises(BackendError, match="of the test"):
            await stage.hub.join("other chat", session, None, greet)
        assert session.chats == (CHAT,)
        assert stage.hub.chats == 1
        await stage.publish("m1")
        await turn()
        assert session.events == ["m1"]


@gen_test
async def test_a_session_in_many_chats() -> None:
    """A session may be in many chats, gets what is published to each, and leaves them all at once."""
    async with on_stage() as stage:
        session = stage.session("agent")
        chats = [f"chat {n}" for n in range(5)]
        for chat in chats:
            assert await stage.hub.join(chat, session, None, greet)
        for chat in chats:
            await stage.publish(chat, chat=chat)
        await turn()
        assert [each for each in session.got if isinstance(each, str)] == chats
        assert (stage.hub.sessions, stage.hub.chats) == (1, 5)
        assert [stage.hub.size(chat) for chat in (*chats, "none")] == [1] * 5 + [0]
        stage.hub.leave(session)
        assert (stage.hub.sessions, stage.hub.chats) == (0, 0)
        assert sorted(stage.unsubscribed) == chats


@gen_test
async def test_a_session_that_has_left_gets_nothing() -> None:
    """After leaving a session gets nothing more, and a chat without sessions swallows its events."""
    async with on_stage() as stage:
        one, other = await stage.join("one"), await stage.join("other")
        stage.hub.leave(one)
        await stage.publish("m1")
        await turn()
        assert (one.events, other.events) == ([], ["m1"])
        stage.hub.leave(other)
        stage.hub.deliver(CHAT, event("m2"))
        stage.hub.deliver("a chat that nobody is in", event("m3"))
        await turn()
        assert other.events == ["m1"]
        assert stage.hub.events == 1


@gen_test
async def test_counting() -> None:
    """Events and deliveries are counted, the largest chats and all members can be listed."""
    async with on_stage() as stage:
        for number in range(3):
            await stage.join(f"s{number}")
        await stage.join("s3", chat="small")
        await stage.publish("m1", "m2")
        stage.delivery.broadcast(CHAT, typing())
        await turn()
        assert (stage.hub.events, stage.hub.deliveries) == (3, 9)
        assert stage.hub.largest(1) == [(CHAT, 3)]
        assert stage.hub.largest(9) == [(CHAT, 3), ("small", 1)]
        assert sorted(m.id for m in stage.hub.members()) == ["s0", "s1", "s2", "s3"]
        assert [m.id for m in stage.hub.members("small")] == ["s3"]
        assert list(stage.hub.members("none")) == []
        stage.hub.leave(next(stage.hub.members("small")))
        assert stage.hub.largest(9) == [(CHAT, 3)]
        stage.hub.leave(next(stage.hub.members(CHAT)))
        assert stage.hub.largest(9) == [(CHAT, 2)]


@gen_test
async def test_latency() -> None:
    """How long an event takes to the sockets is measured once a turn, for kept and ephemeral ones alike."""
    async with on_stage() as stage:
        await stage.join("one")

        def measured() -> int:
            return sum(stage.hub.latency.buckets)

        for count, ephemeral in enumerate([True, False, True], 1):
            for number in range(3):
                stage.hub.deliver(CHAT, typing() if ephemeral else event(number))
            await turn()
            assert measured() == count
        assert 0 <= stage.hub.latency.seconds < 60


Ask = Callable[[Hub], Any]


@gen_test
@pytest.mark.parametrize(
    ("user", "reason", "ended"),
    [(None, None, {"a", "b", "c"}), ("u1", "because", {"a", "b"}), ("x", None, set())],
)
async def test_disconnecting(user: str | None, reason: str | None, ended: set[str]) -> None:
    """A disconnect ends a chat's sessions, all or one user's, and answers how many they were."""
    async with on_stage() as stage:
        sessions = [stage.session("a", "u1"), stage.session("b", "u1"), stage.session("c", "u2")]
        for session in sessions:
            await stage.hub.join(CHAT, session, None, greet)
        elsewhere = await stage.join("d", chat="other chat")
        question = {"disconnect": {"chatId": CHAT, "userId": user, "reason": reason}}
        assert (await stage.delivery.ask(question)).values == [len(ended)]
        assert {s.id for s in sessions if s.ended} == ended
        assert all(s.ended == [(CloseCode.KICKED, reason)] for s in sessions if s.ended)
        assert elsewhere.ended == []


@gen_test
@pytest.mark.parametrize(
    "question",
    [None, 7, [], {}, {"disconnect": CHAT}, {"disconnect": {"chatId": CHAT, "userId": None, "reason": 7}}],
)
async def test_unknown_questions(question: Any) -> None:
    """A question that the hub doesn't know is answered with None, and does nothing."""
    async with on_stage() as stage:
        one = await stage.join("one")
        assert stage.hub.answer(question) is None
        assert one.ended == []
