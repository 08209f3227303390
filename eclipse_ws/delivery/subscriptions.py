"""The chats that this node hears: who wants them, which of them are live, and how long they linger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import structlog

from eclipse_ws.backends.base import Backend, Position, Unavailable
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery.chat import Chat, Loss
from eclipse_ws.delivery.chat_marks import ChatMarks
from eclipse_ws.delivery.cluster import Cluster
from eclipse_ws.delivery.identities import Budget
from eclipse_ws.delivery.subscriber import Subscriber
from eclipse_ws.delivery.tasks import Tasks
from eclipse_ws.protocol import Cursor, Event

log = structlog.get_logger("eclipse_ws.delivery")

BATCH: Final = 500
"""Chats that are subscribed or let go at once where thousands are due."""
RETRY, LONGEST_RETRY, SOON = 1.0, 30.0, 0.1
"""Seconds until a chat is subscribed again: after a refusal, after many, and after any other failure."""
LOOK: Final = 0.005
"""Seconds between looks at a chat that has to catch up with a client."""
ROUNDS: Final = 5
"""How often the backend is asked at most until the waiting events follow its answer."""


class Subscriptions:
    """Keeps every chat that is wanted subscribed, whatever becomes of the backend."""

    def __init__(
        self,
        settings: Settings,
        backend: Backend,
        cluster: Cluster,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._backend = backend
        self._cluster = cluster
        self._limit = settings.history_events
        self._linger = settings.history_seconds
        self._chats: dict[str, Chat] = {}
        self.budget = Budget()
        self._losses = 0  # how often the backend has lost its subscriptions
        self._renewed: set[str] = set()  # chats whose new epoch the other nodes don't know yet
        self._telling = False
        self._tasks = Tasks()
        # If thousands were subscribed at once, the answers to the last ones would come too late.
        self._slots = asyncio.Semaphore(BATCH)
        self._closed = False
        self._subscriber: Subscriber
        self._loop: asyncio.AbstractEventLoop

    def start(self, subscriber: Subscriber) -> None:
        """Begin; the chats' events go to the subscriber."""
        self._subscriber = subscriber
        self._loop = asyncio.get_running_loop()
        self._tasks.start(self._sweep(), name="linger")

    def __len__(self) -> int:
        return len(self._chats)

    def __iter__(self) -> Iterator[str]:
        """The chats that this node hears, including those that linger."""
        return iter(list(self._chats))

    def get(self, chat_id: str) -> Chat | None:
        """The chat, if this node hears it or is about to."""
        return self._chats.get(chat_id)

    @property
    def is_renewing(self) -> bool:
        """Whether a chat has still to begin a new epoch, or other nodes have to hear of one."""
        return self._telling or any(chat.loss is not Loss.NONE for chat in self._chats.values())

    def position(self, chat_id: str) -> Cursor | None:
        """The cursor of the last kept event that was delivered; None where it isn't known."""
        chat = self._chats.get(chat_id)
        return None if chat is None else chat.position

    async def close(self) -> None:
        """Stop looking after the chats."""
        self._closed = True
        await self._tasks.close()
        for chat in self._chats.values():
            chat.is_ready()
        self._chats.clear()

    # -- what the hub and other nodes want ------------------------------------------------------

    async def subscribe(self, chat_id: str) -> None:
        """Hear a chat; waits until it is live, as long as the backend is up."""
        chat = self._chats.get(chat_id) or self._add(chat_id)
        chat.members = True
        if chat.live and not chat.leaving:
            return
        chat.live = False
        if not self._backend.is_shared and self._begin(chat):
            await self._subscribe(chat)  # the backend is in this process: a task would only cost time
        else:
            self.resubscribe(chat)
            if self._backend.health.state == "up":
                await asyncio.wait([self.readiness(chat)], timeout=self._backend.timeout)
        # A session that is greeted without a position can't know what it misses until there is one.
        if chat.position is None:
            chat.unsure = True

    def unsubscribe(self, chat_id: str) -> None:
        """Let a chat linger for the history's lifetime."""
        chat = self._chats.get(chat_id)
        if chat is not None and chat.members:
            self.linger(chat)

    def want(self, chat_id: str) -> Chat:
        """Return the chat, and subscribe to it if it is new."""
        chat = self._chats.get(chat_id)
        if chat is None:
            chat = self._add(chat_id)
            self.resubscribe(chat)
        return chat

    def _add(self, chat_id: str) -> Chat:
        chat = self._chats[chat_id] = Chat(chat_id, self._limit, self._subscriber.deliver, self.budget)
        return chat

    def linger(self, chat: Chat) -> None:
        """Keep a chat without sessions on this node for the history's lifetime."""
        chat.members = False
        chat.expires = self._clock() + self._linger

    def stay(self, chat: Chat) -> None:
        """Subscribe again to a chat that is being unsubscribed."""
        if chat.leaving:
            chat.live = False
            self.resubscribe(chat)

    def readiness(self, chat: Chat) -> asyncio.Future[None]:
        """A future that is done once the chat is live."""
        if chat.ready is None:
            chat.ready = self._loop.create_future()
        return chat.ready

    async def reached(self, chat: Chat, cursor: Cursor) -> bool:
        """Wait until this node has heard a chat up to a cursor; False if that takes too long.

        The cursor is in the backend's epoch, which may be one that this node has not heard of yet.
        """
        deadline = self._loop.time() + self._backend.timeout
        if chat.position is not None and chat.epoch != cursor.epoch:
            self.look_again([chat.chat_id])
        while chat.position is not None and (chat.epoch != cursor.epoch or chat.position < cursor):
            if self._loop.time() > deadline or cursor.epoch in chat.earlier:
                return False
            await asyncio.sleep(LOOK)
        return True

    # -- what the backend tells -----------------------------------------------------------------

    def lost(self, chat_ids: Iterable[str] | None = None) -> None:
        """Events may be missed from now on: none of these chats is live, or none at all."""
        self._losses += 1
        for chat_id in self if chat_ids is None else chat_ids:
            if (chat := self._chats.get(chat_id)) is not None:
                chat.live = False

    def restored(self) -> None:
        """Subscribe to every chat that isn't live."""
        for chat in self._chats.values():
            if not chat.live:
                self.resubscribe(chat)

    def look_again(self, chat_ids: Iterable[str]) -> None:
        """Another node has begun a new epoch of these chats."""
        for chat_id in chat_ids:
            chat = self._chats.get(chat_id)
            if chat is not None and (chat.live or chat.subscribing):
                chat.live, chat.again = False, True
                self.resubscribe(chat)

    def hold(self, chat_id: str) -> None:
        """Deliver nothing more of a chat before it is renewed: members had events that are lost to others.

        If the backend has such an event after all, sessions that had it would get it again, or sessions that
        joined since would not get it at all.
        """
        chat = self._chats.get(chat_id)
        if chat is not None:
            chat.live, chat.held = False, True

    def renew(self, chat_id: str, epoch: str = "") -> None:
        """Begin a new epoch of a chat: an event that all should have had is lost.

        With ``epoch``, only if the chat is still in that one: every node knows of the loss, and the first one
        begins the new epoch.
        """
        known = self._chats.get(chat_id)
        if epoch and (known is None or known.epoch != epoch):
            return
        chat = known or self.want(chat_id)
        if known is None:  # it has no session here: it is subscribed only for this
            self.linger(chat)
        if chat.loss is not Loss.OWN:
            chat.loss = Loss.SHARED if epoch else Loss.OWN
        chat.live, chat.again, chat.held = False, True, False
        self.resubscribe(chat)

    # -- subscribing ----------------------------------------------------------------------------

    def resubscribe(self, chat: Chat) -> None:
        """Find out where a chat is, deliver what was missed, and go live."""
        if self._begin(chat):
            self._tasks.start(self._subscribe(chat))

    def _begin(self, chat: Chat) -> bool:
        """Note that a chat is being subscribed; False if it is already, or has to wait for its renewal."""
        if chat.subscribing or self._closed:
            return False
        chat.subscribing, chat.leaving = not chat.held, False
        return chat.subscribing

    async def _subscribe(self, chat: Chat) -> None:
        live, pause = False, SOON
        try:
            async with self._slots:
                live = await self._catch_up(chat)
        except Unavailable as error:
            log.debug("chat not subscribed; trying again", chat=chat.chat_id, why=str(error))
            if error.refused:
                chat.refusals += 1
                pause = min(LONGEST_RETRY, RETRY * 2 ** min(chat.refusals - 1, 5))
                # The first refusal may be the start of a general one.
                if chat.refusals == 2:
                    log.warning("chat not subscribed; trying again", chat=chat.chat_id, why=str(error))
        except Exception:
            log.exception("chat not subscribed; trying again", chat=chat.chat_id)
            pause = LONGEST_RETRY
        finally:
            chat.subscribing = False
            if not live and not self._closed:
                self._loop.call_later(pause, self._try_again, chat)

    def _try_again(self, chat: Chat) -> None:
        wanted = self._chats.get(chat.chat_id) is chat
        if wanted and not chat.live and self._backend.health.state == "up":
            self.resubscribe(chat)

    async def _catch_up(self, chat: Chat) -> bool:
        """Ask the backend until the chat is live; False if that has to be tried later. Raises Unavailable."""
        back = False
        for _ in range(ROUNDS):
            before = frozenset(chat.waiting or ())
            known, loss, losses = chat.position, chat.loss, self._losses
            chat.again = False
            if chat.marks is not None:
                chat.marks.begin_loading()
            given = None if known is None or loss is Loss.OWN else Position(known, chat.identity)
            answer = await self._backend.subscribe(chat.chat_id, given, renew=loss is not Loss.NONE)
            if answer.renewed:  # also if this node doesn't go live now
                self._tell_renewed(chat.chat_id)
            if self._losses != losses or chat.held:
                return False  # the subscription is lost, or nothing may be delivered yet
            if chat.again:
                continue  # another node's new epoch may be newer than the answer
            if answer.position.cursor.epoch in chat.earlier:
                # That epoch was over: the backend has gone back in time.
                chat.loss, back = Loss.OWN, True
                continue
            chat.loss, chat.refusals = Loss.NONE, 0
            if answer.missed is None:
                chat.forget_copies()  # the sessions that got them are ended below, or there are none
                if chat.unsure or known is not None:
                    # Before any event of the new epoch is delivered: a session that got one would resume
                    # with a cursor that is later than the events it missed.
                    self._subscriber.interrupt(chat.chat_id)
            chat.unsure = False
            left, forged = chat.catch_up(answer.position, answer.missed, before)
            if forged:
                self._drop_forged(chat, forged)
            if answer.marks or chat.marks is not None:
                chat.marks = chat.marks or ChatMarks()
                for name, mark in chat.marks.load(answer.marks, time.time()):
                    self._subscriber.marked(chat.chat_id, name, mark)
            if back and not answer.renewed:
                self._tell_renewed(chat.chat_id)
            if not left:
                chat.is_ready()
                return True
            chat.live = False
            chat.wait_for(left)
        return False

    def _drop_forged(self, chat: Chat, forged: list[Event]) -> None:
        ours = [event for event in forged if event.cursor and event.cursor.epoch == chat.epoch]
        if ours:
            log.warning("events with forged cursors dropped", chat=chat.chat_id, count=len(ours))
        else:  # perhaps of an epoch that has just ended
            log.info("events of another epoch dropped", chat=chat.chat_id, count=len(forged))

    def _tell_renewed(self, chat_id: str) -> None:
        """Tell the other nodes about a new epoch; all that begin in one turn of the loop share a note."""
        self._renewed.add(chat_id)
        if not self._telling:
            self._telling = True
            self._tasks.start(self._tell_all_renewed())

    async def _tell_all_renewed(self) -> None:
        try:
            while due := sorted(self._renewed)[:BATCH]:
                self._renewed.difference_update(due)
                try:
                    await self._cluster.tell_to_look_again(due)
                except Unavailable as error:
                    # Without this note they notice only at the next event that they have missed one.
                    log.debug("new epochs not announced; trying again", why=str(error))
                    self._renewed.update(due)
                    await asyncio.sleep(RETRY)
        finally:
            self._telling = False

    # -- lingering ------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        interval = max(0.05, min(5.0, self._linger / 4))
        while True:
            await asyncio.sleep(interval)
            now = self._clock()
            due = [chat for chat in self._chats.values() if self._is_due(chat, now)]
            for at in range(0, len(due), BATCH):
                # Some that were due may have members again when their batch comes.
                still = [chat for chat in due[at : at + BATCH] if self._is_due(chat, now)]
                if not still:
                    continue
                try:
                    await self._leave(still)
                except Unavailable as error:
                    log.debug("chats not unsubscribed; trying again", why=str(error))
                except Exception:
                    log.exception("chats not unsubscribed")

    @staticmethod
    def _is_due(chat: Chat, now: float) -> bool:
        return not chat.members and chat.expires <= now and not chat.subscribing

    async def _leave(self, due: list[Chat]) -> None:
        """Unsubscribe from chats, except those that a session joins meanwhile. Raises Unavailable."""
        left = False
        for chat in due:
            chat.leaving = True
        try:
            await self._backend.unsubscribe([chat.chat_id for chat in due])
            left = True
        finally:
            for chat in due:
                if chat.leaving and left:
                    del self._chats[chat.chat_id]
                    chat.forget()
                    chat.is_ready()
                elif chat.live:  # despite the failure it may be unsubscribed
                    self.stay(chat)
                chat.leaving = False
