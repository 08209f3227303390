"""The hub: this node's chats and their sessions. Nobody else delivers to a session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

from eclipse_ws.backends.marks import Mark
from eclipse_ws.delivery.delivery import Delivery
from eclipse_ws.delivery.marks import Ban, ReadPosition
from eclipse_ws.delivery.presence_notes import Here
from eclipse_ws.delivery.presence_view import News
from eclipse_ws.observability.histogram import Histogram
from eclipse_ws.protocol import CloseCode, Cursor, Event, read_event, read_positions_event
from eclipse_ws.security.limits import Rate
from eclipse_ws.sessions.members import OPT_IN, Member, Members, body_for
from eclipse_ws.sessions.replay import Replay
from eclipse_ws.sessions.sizes import Sizes
from eclipse_ws.sessions.watchers import Watchers
from eclipse_ws.websocket import text_frame

MOST_REPLAYING: Final = 1 << 26
"""Bytes of all replays that wait for their clients to read; beyond that, a client has to reconnect."""
BAN_PAUSE: Final = 1.0
"""Seconds until a banned user's sessions are ended: the disconnect that comes with a ban counts them."""
Greeting = Callable[[Cursor | None, bool | None], bytes]
"""Makes a session's first event from its cursor and from whether it was recovered."""


class BannedError(Exception):
    """The application has banned the user from the chat."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Hub:
    """Knows which sessions are in which chats, and hands them what is delivered."""

    def __init__(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._chats: dict[str, Members] = {}
        self._sessions: dict[str, Member] = {}
        self._sizes = Sizes()
        self._watchers = Watchers(delivery.presence, self._chats, self._present)
        # Plain counters, read when metrics are scraped.
        self.events = 0
        self.deliveries = 0
        self.resumed = 0
        self.not_resumed = 0
        self.interrupted = 0
        self.latency = Histogram()
        self._is_measuring = False
        self._replaying = 0
        """Bytes of replays that their sockets have no room for yet."""
        self.fan_out = Rate.of(0, 1)
        """How many deliveries of ephemeral events one chat may cause here; a reload changes it."""
        self.fan_out_dropped = 0

    @property
    def sessions(self) -> int:
        """How many sessions have been greeted."""
        return len(self._sessions)

    @property
    def chats(self) -> int:
        """How many chats have sessions here."""
        return len(self._chats)

    def size(self, chat_id: str) -> int:
        """How many sessions are in a chat or are joining it."""
        chat = self._chats.get(chat_id)
        return 0 if chat is None else len(chat)

    def is_loud(self, chat_id: str, now: float) -> bool:
        """Whether an ephemeral event of this chat would be dropped now; if so, counts it as dropped."""
        chat = self._chats.get(chat_id)
        if chat is None or chat.fan_out - now <= self.fan_out.tolerance:
            return False
        self.fan_out_dropped += 1
        return True

    def largest(self, count: int) -> list[tuple[str, int]]:
        """The chats with the most sessions, as (chat id, sessions), largest first."""
        return self._sizes.largest(count)

    def members(self, chat_id: str | None = None) -> Iterator[Member]:
        """The greeted sessions of a chat, or of all."""
        if chat_id is None:
            return iter(list(self._sessions.values()))
        chat = self._chats.get(chat_id)
        return iter([] if chat is None else list(chat.joined))

    def opted(self, chat_id: str, kind: str) -> Collection[Member]:
        """The chat's sessions that have asked for a type of events; the caller must not keep it."""
        chat = self._chats.get(chat_id)
        return () if chat is None else chat.opted(kind)

    def add(self, session: Member, frame: bytes) -> None:
        """Take a session that begins in no chat, and greet it with a frame."""
        self._sessions[session.id] = session
        session.wire.send(frame)

    def name_chats(self, session: Member) -> None:
        """Have each further event that a session gets name its chat."""
        session.has_joined = True
        for chat in filter(None, map(self._chats.get, session.chats)):
            if session in chat.joined:
                chat.discard(session)
                chat.add(session)

    async def join(self, chat_id: str, session: Member, after: str | None, greet: Greeting) -> bool:
        """Bring a session into a chat: greeting, then what it has missed since its cursor, then live events.

        ``after`` is the client's cursor, not parsed. What its queue has no room for is sent while the client
        reads. Raises BannedError. False if the session left meanwhile, or was ended.
        """
        chat = self._chats.get(chat_id)
        if chat is None:
            chat = self._chats[chat_id] = Members(chat_id)
        chat.joining.add(session)
        session.chats = (*session.chats, chat_id)
        cursor = None if after is None else Cursor.parse(after)
        try:
            await self._delivery.subscribe(chat_id)
            if (ban := self._delivery.marks.ban_of(chat_id, session.user_id)) is not None:
                raise BannedError(ban.reason)
            replay = None if cursor is None else await self._replay(chat_id, session, cursor)
            if replay is not None:
                replay = await self._pace(chat_id, session, replay, greet)
        except BaseException:
            self.part(session, chat_id)
            raise
        if session not in chat.joining:
            self._forget_if_empty(chat_id, chat)
            return False
        # There was no await since the replay reached the node's position, and there is none below: no event
        # can come between the replay and the live events.
        chat.joining.discard(session)
        chat.joined.add(session)
        self._sizes.change(chat_id, len(chat.joined) - 1, len(chat.joined))
        self._sessions[session.id] = session
        if replay is None:
            if after is not None:
                self.not_resumed += 1
            session.wire.send(greet(self._delivery.position(chat_id), None if after is None else False))
        else:
            replay.send()
        for event in self._delivery.local_copies(chat_id):
            session.wire.send(text_frame(body_for(session, chat_id, event)))
        if "read" in session.kinds:
            positions = read_positions_event(self._delivery.marks.positions(chat_id))
            self.signal(chat_id, positions, session, droppable=False)
        self._watchers.joined(chat, session)
        chat.add(session)
        return True

    async def _replay(self, chat_id: str, session: Member, cursor: Cursor) -> Replay | None:
        missed = await self._delivery.resume(chat_id, cursor)
        if missed is None or not self._is_joining(session, chat_id):
            return None
        bodies = [(body_for(session, chat_id, event), event.cursor) for event in missed]
        return Replay(session.wire, cursor, bodies)

    async def _pace(self, chat_id: str, session: Member, replay: Replay, greet: Greeting) -> Replay | None:
        """Greet, and send pieces of a replay until the rest has room in the socket's queue.

        Returns the rest. A session that reads too slowly is ended, and doesn't join.
        """
        if not self._is_joining(session, chat_id):
            return None
        if not replay.fits() and self._replaying + replay.size > MOST_REPLAYING:
            self._end_joining(session, chat_id, CloseCode.RESUME_NEEDED)
            return None
        self.resumed += 1
        session.wire.send(greet(replay.cursor, True))
        self._sessions[session.id] = session  # this may take a while, and a drain must find it
        size = replay.size
        self._replaying += size
        try:
            while not replay.fits():
                replay.send_piece()
                if not await replay.drained():
                    self._end_joining(session, chat_id, CloseCode.TOO_SLOW)
                elif replay.fits():
                    rest = await self._replay(chat_id, session, replay.cursor)  # more has come meanwhile
                    if rest is None:
                        self._end_joining(session, chat_id, CloseCode.RESUME_NEEDED)
                    else:
                        replay = rest
                if not self._is_joining(session, chat_id):
                    return None
            return replay
        finally:
            self._replaying -= size

    def _is_joining(self, session: Member, chat_id: str) -> bool:
        chat = self._chats.get(chat_id)
        return chat is not None and session in chat.joining

    def _end_joining(self, session: Member, chat_id: str, close: CloseCode) -> None:
        if not self._is_joining(session, chat_id):
            return
        self._chats[chat_id].joining.discard(session)
        if session.wire.is_closing or session.wire.is_lost:
            return
        if session.has_joined and close is not CloseCode.TOO_SLOW:
            self.expel(session, chat_id, close)
        else:
            session.end(close)

    def leave(self, session: Member) -> None:
        """Take a session out of all its chats, joined or joining, and forget it. Idempotent."""
        self._sessions.pop(session.id, None)
        chats, session.chats = session.chats, ()
        for chat_id in reversed(chats):  # the last audience is the cheapest one to leave
            self._leave_chat(session, chat_id)

    def part(self, session: Member, chat_id: str) -> None:
        """Take a session out of one chat. Idempotent."""
        session.chats = tuple(other for other in session.chats if other != chat_id)
        self._leave_chat(session, chat_id)

    def expel(self, session: Member, chat_id: str, close: CloseCode, reason: str | None = None) -> None:
        """Take a session that has used `join` out of one chat, for what would end a session in one chat."""
        self.part(session, chat_id)
        session.left(chat_id, close, reason)

    def _leave_chat(self, session: Member, chat_id: str) -> None:
        chat = self._chats.get(chat_id)
        if chat is None:
            return
        chat.joining.discard(session)
        if session in chat.joined:
            chat.joined.discard(session)
            self._sizes.change(chat_id, len(chat.joined) + 1, len(chat.joined))
            chat.discard(session)
            self._watchers.left(chat, session)
        self._forget_if_empty(chat_id, chat)

    def _forget_if_empty(self, chat_id: str, chat: Members) -> None:
        if not chat and self._chats.get(chat_id) is chat:
            del self._chats[chat_id]
            self._delivery.unsubscribe(chat_id)

    # -- what delivery calls -----------------------------------------------------------------

    def deliver(self, chat_id: str, event: Event) -> None:
        """Hand an event to the chat's sessions, once each."""
        chat = self._chats.get(chat_id)
        if chat is None:
            return
        if event.kept:
            receivers = chat.send(event.body)
        else:
            now, full, rate = time.monotonic(), chat.fan_out, self.fan_out
            if full < now:
                full = now
            elif full - now > rate.tolerance:
                self.fan_out_dropped += 1
                return
            if event.type in OPT_IN:
                chat.fan_out = full + len(chat.opted(event.type)) * rate.interval
                self.signal(chat_id, event)
                return
            origin = self._sessions.get(event.origin) if event.origin else None
            receivers = chat.send(event.body, droppable=True, skip=None if origin is None else origin.wire)
            chat.fan_out = full + receivers * rate.interval
        self.events += 1
        self.deliveries += receivers
        if not self._is_measuring:
            self._measure()

    def signal(
        self, chat_id: str, event: Event, session: Member | None = None, *, droppable: bool = True
    ) -> None:
        """Hand an ephemeral event to the chat's sessions that have asked for its type, or to one of them."""
        sessions = self.opted(chat_id, event.type) if session is None else (session,)
        for each in sessions:
            each.wire.send(text_frame(body_for(each, chat_id, event)), droppable=droppable)
        self.events += 1
        self.deliveries += len(sessions)

    def _present(self, chat_id: str, event: Event, session: Member | None) -> None:
        # A change that is dropped would leave somebody there forever. There are few in any chat.
        self.signal(chat_id, event, session, droppable=False)

    def occupied(self) -> list[str]:
        """The chats with sessions on this node."""
        return list(self._chats)

    def users(self, chat_id: str) -> dict[str, Here]:
        """The users with sessions in a chat on this node."""
        return self._watchers.users(chat_id)

    def present(self, chat_id: str, news: News) -> None:
        """Tell the chat's sessions that watch it who is there."""
        self._watchers.present(chat_id, news)

    def spoke(self, session: Member) -> None:
        """Note that a session's user has another role."""
        self._watchers.changed(session)

    def _measure(self) -> None:
        """Measure, for one event a turn, how long it takes from here to the last socket."""
        self._is_measuring = True
        now = time.monotonic()
        asyncio.get_running_loop().call_soon(self._measured, now)  # after the turn's end, where frames leave

    def _measured(self, began: float) -> None:
        self._is_measuring = False
        self.latency.count(time.monotonic() - began)

    def interrupt(self, chat_id: str) -> None:
        """End the chat's sessions with 4010: they may have missed events, and must resume or reload."""
        chat = self._chats.get(chat_id)
        if chat is None:
            return
        for session in chat.everyone():
            self.interrupted += 1
            if session.has_joined:
                self.expel(session, chat_id, CloseCode.RESUME_NEEDED)
                continue
            # It gets no more events, but the answers to its commands: without them it would resend.
            self.leave(session)
            session.retire(CloseCode.RESUME_NEEDED)

    def marked(self, chat_id: str, name: str, mark: Mark) -> None:
        """Tell who has read how far; end the sessions of a banned user, who may have come just before."""
        if (read := ReadPosition.of(name, mark)) is not None:
            chat, now = self._chats.get(chat_id), time.monotonic()
            receivers = 0 if chat is None else len(chat.opted("read"))
            if chat is not None and receivers and not self.is_loud(chat_id, now):
                chat.fan_out = max(chat.fan_out, now) + receivers * self.fan_out.interval
                self.signal(chat_id, read_event(*read))
        elif (ban := Ban.of(name, mark)) is not None and ban.until > time.time():
            asyncio.get_running_loop().call_later(BAN_PAUSE, self._disconnect, chat_id, *ban[::2])

    def answer(self, question: Any) -> Any:
        """Answer a node's question: a disconnect tells how many sessions were ended, ``presence`` who is in a
        chat (see `watchers.merged`); others get None.
        """
        match question:
            case {
                "disconnect": {"chatId": str(chat_id), "userId": user_id, "reason": str() | None as reason}
            }:
                return self._disconnect(chat_id, user_id, reason)
            case {"presence": str(chat_id)}:
                return self._watchers.answer(chat_id)
        return None

    def _disconnect(self, chat_id: str, user_id: str | None, reason: str | None) -> int:
        """End the sessions of a user in a chat, or of all users. Returns how many."""
        ended = 0
        chat = self._chats.get(chat_id)
        for session in [] if chat is None else chat.everyone():
            if user_id is None or session.user_id == user_id:
                if session.has_joined:
                    self.expel(session, chat_id, CloseCode.KICKED, reason)
                else:
                    session.end(CloseCode.KICKED, reason)
                ended += 1
        return ended
