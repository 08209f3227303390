"""The hub: this node's chats and their sessions. Nobody else delivers to a session."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from eclipse_ws.backends.base import Backend
from eclipse_ws.observability.histogram import Histogram
from eclipse_ws.protocol import CloseCode, Cursor, Event
from eclipse_ws.security.limits import Rate
from eclipse_ws.sessions.replay import Replay
from eclipse_ws.websocket import Audience, Socket, text_frame

MOST_REPLAYING: Final = 1 << 26
"""Bytes of all replays that wait for their clients to read; with more, a client has to come again."""
Greeting = Callable[[Cursor | None, bool | None], bytes]
"""Makes a session's first event of its cursor and of whether it was recovered."""


class Member(Protocol):
    """What the hub knows of a session; ``chats`` is the hub's own note of where it is."""

    id: str
    wire: Socket
    chats: tuple[str, ...]

    @property
    def user_id(self) -> str:
        """The user that the session belongs to."""

    def retire(self, close: CloseCode) -> None:
        """Close the session's socket once the commands that it has read have their answers."""

    def end(self, close: CloseCode, reason: str | None = None) -> None:
        """Close the session's socket; when that is done it leaves the hub by itself."""


class _Chat:
    """One chat on this node.

    ``members`` maps each greeted session to the number of its joining, which grows. ``joining`` holds what
    came for a session while its history is being fetched; None for one without a cursor, which begins where
    the chat is when it is greeted. A session whose replay went beyond what this
    node has delivered is ``ahead``, not yet in the audience, until the node has caught up.
    ``local`` says of events that were delivered without a cursor up to which joining they were.
    ``fan_out`` is the bucket (see `limits`) of what ephemeral events cost.
    """

    __slots__ = ("ahead", "audience", "fan_out", "joining", "local", "members")

    def __init__(self) -> None:
        self.audience = Audience()
        self.members: dict[Member, int] = {}
        self.joining: dict[Member, list[Event] | None] | None = None
        self.ahead: dict[Member, Cursor] | None = None
        self.local: OrderedDict[str, int] | None = None
        self.fan_out = 0.0

    def everyone(self) -> list[Member]:
        """Its sessions, also those that are joining."""
        return [*self.members, *(self.joining or ())]


class Hub:
    """Knows which sessions are in which chat, and hands them what the backend delivers.

    A session may be in several chats. ``limit`` bounds what is remembered per chat while a session joins
    or the backend is away, in events.
    """

    def __init__(self, backend: Backend, limit: int) -> None:
        self._backend = backend
        self._limit = limit
        self._chats: dict[str, _Chat] = {}
        self._sessions: dict[str, Member] = {}
        self._joinings = 0
        # Plain counters, read when metrics are scraped.
        self.events = 0
        self.deliveries = 0
        self.resumed = 0
        self.not_resumed = 0
        self.interrupted = 0
        self.latency = Histogram()
        self._timing = False
        self._replaying = 0
        """Bytes of replays that their sockets have no room for yet."""
        self.fan_out = Rate.of(0, 1)
        """How many deliveries of ephemeral events one chat may cause here; a reload changes it."""
        self.fan_out_dropped = 0

    @property
    def sessions(self) -> int:
        """How many sessions are in a chat."""
        return len(self._sessions)

    @property
    def chats(self) -> int:
        """How many chats have sessions here."""
        return len(self._chats)

    def size(self, chat_id: str) -> int:
        """How many sessions are in a chat or are joining it."""
        chat = self._chats.get(chat_id)
        return 0 if chat is None else len(chat.members) + len(chat.joining or ())

    def is_loud(self, chat_id: str, now: float) -> bool:
        """Whether an ephemeral event of this chat would be dropped now; counts it as dropped then."""
        chat = self._chats.get(chat_id)
        if chat is None or chat.fan_out - now <= self.fan_out.tolerance:
            return False
        self.fan_out_dropped += 1
        return True

    def largest(self, count: int) -> list[tuple[str, int]]:
        """The chats with the most sessions, as (chat id, sessions), largest first."""
        sizes = ((chat_id, len(chat.members)) for chat_id, chat in self._chats.items())
        return heapq.nlargest(count, sizes, key=lambda item: item[1])

    def members(self, chat_id: str | None = None) -> Iterator[Member]:
        """The greeted sessions of a chat, or of all."""
        if chat_id is None:
            return iter(list(self._sessions.values()))
        chat = self._chats.get(chat_id)
        return iter([] if chat is None else list(chat.members))

    async def join(self, chat_id: str, session: Member, after: str | None, greet: Greeting) -> bool:
        """Bring a session into a chat: greeting, then what it has missed since its cursor, then live events.

        ``after`` is the cursor that the client gave, as it gave it. What its queue has no room for is sent as
        the client reads. False if the session left meanwhile, or was ended. Raises BackendError if the chat
        can't be subscribed.
        """
        chat = self._chats.get(chat_id)
        if chat is None:
            chat = self._chats[chat_id] = _Chat()
        if chat.joining is None:
            chat.joining = {}
        cursor = None if after is None else Cursor.parse(after)
        chat.joining[session] = None if cursor is None else []
        session.chats = (*session.chats, chat_id)
        replay = None
        try:
            await self._backend.subscribe(chat_id)
            if cursor is not None:
                missed = await self._backend.history(chat_id, cursor)
                if missed is not None and chat.joining is not None and session in chat.joining:
                    replay = Replay(session.wire, cursor, missed)
                    await self._begin(chat, session, replay, greet)
        except BaseException:
            self._leave_chat(session, chat_id)
            raise
        if chat.joining is None or session not in chat.joining:
            self._forget_if_empty(chat_id, chat)
            return False
        buffered = chat.joining.pop(session)
        if not chat.joining:
            chat.joining = None
        # From here to the end nothing awaits: no event can come between the replay and what is live.
        self._joinings += 1
        chat.members[session] = self._joinings
        self._sessions[session.id] = session
        position = self._backend.position(chat_id)
        if replay is None:
            if after is not None:
                self.not_resumed += 1
            session.wire.send(greet(position, None if after is None else False))
            chat.audience.add(session.wire)
            return True
        replay.add(buffered or [])
        replay.send()
        cursor = replay.cursor
        if position is not None and position.epoch == cursor.epoch and position.offset < cursor.offset:
            if chat.ahead is None:
                chat.ahead = {}
            chat.ahead[session] = cursor
        else:
            chat.audience.add(session.wire)
        return True

    async def _begin(self, chat: _Chat, session: Member, replay: Replay, greet: Greeting) -> None:
        """Greet, and send of a replay what must be read before the rest has room in the socket's queue.

        Live events are buffered meanwhile. A session that reads too slowly is ended, and joins no more.
        """
        if not replay.fits() and self._replaying + replay.size > MOST_REPLAYING:
            self._end_joining(chat, session, CloseCode.RESUME_NEEDED)
            return
        self.resumed += 1
        session.wire.send(greet(replay.cursor, True))
        self._sessions[session.id] = session  # it may take a while: whoever ends all sessions must find it
        size = replay.size
        self._replaying += size
        try:
            while chat.joining is not None and (buffered := chat.joining.get(session)) is not None:
                if replay.fits(sum(len(event.body) for event in buffered)):
                    return
                if not replay:
                    replay.add(buffered)
                    buffered.clear()
                replay.send_piece()
                if not await replay.drained():
                    self._end_joining(chat, session, CloseCode.TOO_SLOW)
        finally:
            self._replaying -= size

    @staticmethod
    def _end_joining(chat: _Chat, session: Member, close: CloseCode) -> None:
        if chat.joining is not None:
            chat.joining.pop(session, None)
        if not (session.wire.is_closing or session.wire.is_lost):
            session.end(close)

    def leave(self, session: Member) -> None:
        """Take a session out of all its chats, joined or joining. Idempotent."""
        for chat_id in session.chats:
            self._leave_chat(session, chat_id)

    def _leave_chat(self, session: Member, chat_id: str) -> None:
        session.chats = tuple(other for other in session.chats if other != chat_id)
        if not session.chats:
            self._sessions.pop(session.id, None)
        chat = self._chats.get(chat_id)
        if chat is None:
            return
        if chat.joining is not None:
            chat.joining.pop(session, None)
        if chat.ahead is not None:
            chat.ahead.pop(session, None)
        if chat.members.pop(session, None) is not None:
            chat.audience.discard(session.wire)
        self._forget_if_empty(chat_id, chat)

    def _forget_if_empty(self, chat_id: str, chat: _Chat) -> None:
        if not chat.members and not chat.joining and self._chats.get(chat_id) is chat:
            del self._chats[chat_id]
            self._backend.unsubscribe(chat_id)

    # -- what the backend calls -----------------------------------------------------------------

    def deliver(self, chat_id: str, event: Event) -> None:
        """Hand an event to the chat's sessions, once each."""
        chat = self._chats.get(chat_id)
        if chat is None:
            return
        if not event.kept:
            now, full, rate = time.monotonic(), chat.fan_out, self.fan_out
            if full < now:
                full = now
            elif full - now > rate.tolerance:
                self.fan_out_dropped += 1
                return
            chat.fan_out = full + len(chat.audience) * rate.interval
            self.events += 1
            frame = text_frame(event.body)
            origin = self._sessions.get(event.origin) if event.origin else None
            chat.audience.send(frame, droppable=True, skip=None if origin is None else origin.wire)
            if not self._timing:
                self._time()
            self.deliveries += len(chat.audience)
            return
        self.events += 1
        frame = text_frame(event.body)
        if chat.joining is not None:
            self._buffer(chat.joining, event)
        if event.cursor is None:
            self._note_local(chat, event.identity)
        elif chat.local is not None and (upto := chat.local.pop(event.identity, None)) is not None:
            # Whoever was here then has had it, without a cursor.
            for session, joining in chat.members.items():
                if joining > upto and not self._has_had(chat, session, event.cursor):
                    session.wire.send(frame)
            chat.local = chat.local or None
            if chat.ahead is not None:
                self._catch_up(chat, chat.ahead, event.cursor)
            return
        self.deliveries += len(chat.audience)
        chat.audience.send(frame)
        if not self._timing:
            self._time()
        if chat.ahead is not None:
            self._deliver_ahead(chat, chat.ahead, event, frame)

    def _time(self) -> None:
        """Measure, for one event a turn, how long it takes from here to the last socket."""
        self._timing = True
        now = time.monotonic()
        asyncio.get_running_loop().call_soon(self._timed, now)  # after the turn's end, where frames leave

    def _timed(self, began: float) -> None:
        self._timing = False
        self.latency.count(time.monotonic() - began)

    def interrupt(self, chat_id: str) -> None:
        """End the chat's sessions with 4010: they may have missed events, and must resume or reload."""
        chat = self._chats.get(chat_id)
        if chat is None:
            return
        chat.local = None
        for session in chat.everyone():
            self.interrupted += 1
            # It gets no event any more, but the answers to its commands: without, it would ask another node.
            self.leave(session)
            session.retire(CloseCode.RESUME_NEEDED)

    def answer(self, question: Any) -> Any:
        """Answer a node's question: a disconnect tells how many sessions were ended; others get None."""
        match question:
            case {
                "disconnect": {"chatId": str(chat_id), "userId": user_id, "reason": str() | None as reason}
            }:
                ended = 0
                chat = self._chats.get(chat_id)
                for session in [] if chat is None else chat.everyone():
                    if user_id is None or session.user_id == user_id:
                        session.end(CloseCode.KICKED, reason)
                        ended += 1
                return ended
        return None

    def _buffer(self, joining: dict[Member, list[Event] | None], event: Event) -> None:
        for session, buffered in list(joining.items()):
            if buffered is None:
                continue
            if len(buffered) >= self._limit:
                del joining[session]  # its history takes too long; it comes back with the cursor it has
                session.end(CloseCode.RESUME_NEEDED)
            else:
                buffered.append(event)

    def _note_local(self, chat: _Chat, identity: str) -> None:
        if chat.local is None:
            chat.local = OrderedDict()
        chat.local[identity] = self._joinings
        if len(chat.local) > self._limit:
            chat.local.popitem(last=False)

    @staticmethod
    def _has_had(chat: _Chat, session: Member, cursor: Cursor) -> bool:
        upto = None if chat.ahead is None else chat.ahead.get(session)
        return upto is not None and cursor <= upto

    def _deliver_ahead(self, chat: _Chat, ahead: dict[Member, Cursor], event: Event, frame: bytes) -> None:
        for session, upto in ahead.items():
            if event.cursor is None or event.cursor > upto:
                session.wire.send(frame)
        if event.cursor is not None:
            self._catch_up(chat, ahead, event.cursor)

    @staticmethod
    def _catch_up(chat: _Chat, ahead: dict[Member, Cursor], cursor: Cursor) -> None:
        for session, upto in list(ahead.items()):
            if cursor >= upto:
                del ahead[session]
                chat.audience.add(session.wire)
        chat.ahead = ahead or None
