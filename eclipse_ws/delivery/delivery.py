"""Delivery: every event once, in order, resumable, over any backend. What sessions save and publish with."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import structlog

from eclipse_ws.backends.base import Backend, Health, Rejected, Unavailable
from eclipse_ws.config.settings import Settings
from eclipse_ws.delivery import outbox
from eclipse_ws.delivery.chat import Chat, Heard
from eclipse_ws.delivery.cluster import Answers, Cluster
from eclipse_ws.delivery.counts import DeliveryCounts
from eclipse_ws.delivery.handover import Handover
from eclipse_ws.delivery.idempotency import Idempotency
from eclipse_ws.delivery.identities import Budget
from eclipse_ws.delivery.marks import Marks
from eclipse_ws.delivery.outbox import Item, Outbox
from eclipse_ws.delivery.presence import Presence
from eclipse_ws.delivery.records import Attempt
from eclipse_ws.delivery.subscriber import Subscriber
from eclipse_ws.delivery.subscriptions import Subscriptions
from eclipse_ws.delivery.tasks import Tasks
from eclipse_ws.protocol import (
    Cursor,
    Event,
    MalformedEventError,
    Receipt,
    may_be_kept,
    parse_event,
    saved_id,
)

log = structlog.get_logger("eclipse_ws.delivery")

MAX_CURSOR_SUFFIX: Final = 128
"""Bytes at the end of an event in which its cursor is, if it has one."""
_SEQUENCED: Final = re.compile(rb',"cursor":"[0-9A-Za-z]+\.[0-9]+"}$')


class Delivery:
    """Stands between the hub and the backend, whose `Listener` it is.

    What the hub and the sessions may rely on, over any backend:

    - **Kept events are delivered in cursor order, once.** All nodes see one order. Whatever paths an event
      took, its identity makes it one event.
    - **Nothing is missed silently.** Where a chat's continuity can't be guaranteed, a new epoch begins and
      `Subscriber.interrupt` is called for the sessions of the old one.
    - **An outage is not an outage of chat.** While the backend is unavailable, `publish` hands a local copy,
      without a cursor, to this node's sessions, answers ``local``, and the event goes to the outbox.
    - **Leaving lingers**: after `unsubscribe` a chat stays subscribed for ``history_seconds``, so that what
      comes in between can be resumed; `subscribe` in between wins.
    - **Ephemeral events may be lost**, are never kept, and have no cursor.

    One record per chat, which only the event loop's thread touches: what is checked is still true when it is
    acted on, because nothing awaits in between.
    """

    def __init__(
        self, settings: Settings, backend: Backend, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._backend = backend
        self._max_event = settings.max_event
        self.counts = DeliveryCounts()
        self._cluster = Cluster(backend)
        self._subscriptions = Subscriptions(settings, backend, self._cluster, clock)
        self._outbox = Outbox(backend, self._subscriptions, self.counts)
        self._handover = Handover(settings, backend, self._cluster, self._subscriptions)
        self._idempotency = Idempotency(settings, backend, self._outbox, self._cluster, clock)
        self.presence = Presence(backend, self._cluster, clock)
        self.marks = Marks(settings, backend, self._subscriptions)
        self._raw = Tasks()
        self._closed = False
        self._subscriber: Subscriber

    async def start(self, subscriber: Subscriber) -> None:
        """Start the backend, whose events go to the subscriber. Raises BackendError if it can never work."""
        self._subscriber = subscriber
        self._subscriptions.start(subscriber)
        self.presence.start(subscriber)
        self.marks.start(subscriber)
        try:
            await self._backend.start(self)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Hand over what waits, as far as the backend takes it, and close the backend. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await self._raw.wait(self._backend.timeout)
        await self._idempotency.close()
        await self._outbox.close(self._backend.timeout)
        await self._raw.close()
        await self._handover.close()
        await self.presence.close()
        await self._subscriptions.close()
        await self._cluster.close()
        await self._backend.close()

    # -- what the hub asks for --------------------------------------------------------------------

    async def subscribe(self, chat_id: str) -> None:
        """Hear the chat's events from now on; returns once that is so. Idempotent.

        While the backend is unavailable it returns at once, and the subscription comes live with the backend.
        """
        await self._subscriptions.subscribe(chat_id)

    def unsubscribe(self, chat_id: str) -> None:
        """Note that no session of this node is in the chat any more. Idempotent."""
        self._subscriptions.unsubscribe(chat_id)

    def position(self, chat_id: str) -> Cursor | None:
        """Return the cursor of the last kept event that was delivered; None if it isn't known (now)."""
        return self._subscriptions.position(chat_id)

    async def resume(self, chat_id: str, after: Cursor) -> Sequence[Event] | None:
        """Fetch the chat's kept events after a cursor, all of them, in order, up to this node's position.

        A caller that takes them and what is delivered from then on, without awaiting in between, gets every
        event once. None if they are not available: the history no longer reaches back, the epoch is another
        one, the cursor lies in the future or belongs to another chat, or the backend is unavailable.
        """
        chat = self._subscriptions.get(chat_id)
        if chat is None or chat.position == after:
            return None if chat is None else []
        chat.begin_resuming()
        missed: Sequence[Event] | None = None
        try:
            missed = await self._backend.read(chat_id, after, chat.position)
            if missed is not None and not await self._subscriptions.reached(chat, after):
                missed = None
        except Unavailable as error:
            if error.refused:
                log.warning("history not read", chat=chat_id, why=str(error))
        finally:
            events = chat.end_resuming(after, missed)
        return events

    def local_copies(self, chat_id: str) -> Sequence[Event]:
        """Local copies whose events are not sequenced yet: a session that joins now has to get them."""
        chat = self._subscriptions.get(chat_id)
        return () if chat is None or chat.local is None else list(chat.local.values())

    # -- what sessions and the application ask for ------------------------------------------------

    async def publish(self, chat_id: str, event: Event, attempt: Attempt | None = None) -> Receipt:
        """Sequence, keep and fan out a kept event, once per identity, and settle the attempt that led to it.

        ``event`` must not have a cursor. If it was published before, its first receipt is returned. While the
        backend is unavailable the receipt says ``local``.
        """
        receipt = await self._publish(chat_id, event, attempt)
        if attempt is not None:
            self._idempotency.done(attempt, receipt)
        return receipt

    async def _publish(self, chat_id: str, event: Event, attempt: Attempt | None) -> Receipt:
        key = None if attempt is None else attempt.key
        if not self._outbox:  # otherwise the event queues up, so that a chat's events stay in order
            try:
                cursor, new = await self._backend.append(
                    chat_id, event, key=key, known=self._subscriptions.position(chat_id)
                )
            except Rejected:
                pass  # the outbox drops it when its turn comes
            except Unavailable as error:
                if error.asked and not self._outbox:  # one line per outage
                    log.warning("event not published; delivering locally", chat=chat_id, why=str(error))
            else:
                self.counts.count(new)
                return Receipt(saved_id(event), str(cursor), "published")
        chat = self._subscriptions.get(chat_id)
        known = None if chat is None else chat.deliver_locally(event)
        if not self._outbox.put(Item(chat_id, event, key)) and chat is not None:
            chat.drop_copy(event.identity)  # who joins from now on loads the chat after the outage
        return Receipt(saved_id(event), str(known) if known else None, "published" if known else "local")

    def broadcast(self, chat_id: str, event: Event) -> None:
        """Fan out an ephemeral event, without waiting. It may be lost. Never raises."""
        self._backend.broadcast(chat_id, event)

    async def attempt(
        self,
        chat_id: str,
        name: str,
        *,
        fingerprint: str = "",
        resent: bool = False,
        retry_unknown: bool = False,
    ) -> Attempt:
        """Ask for the right to save a message under a key's name, on all nodes, for the history's lifetime.

        ``fingerprint``, without spaces, identifies the message that has the key. ``resent``: the client says
        that it sent this message before. ``retry_unknown``: an attempt of unknown outcome may be repeated.
        Waits for an earlier attempt that is in progress, at most ``api_timeout`` and a margin.
        `decisions.decide` has the rules.
        """
        return await self._idempotency.take(
            chat_id, name, fingerprint=fingerprint, resent=resent, retry_unknown=retry_unknown
        )

    async def release(self, attempt: Attempt) -> None:
        """End a new attempt that saved nothing: the next one for the same message is new again."""
        await self._idempotency.release(attempt)

    async def abandon(self, attempt: Attempt) -> None:
        """Settle a new attempt as unknown: it may have been saved."""
        await self._idempotency.abandon(attempt)

    async def ask(self, question: Any) -> Answers:
        """Ask every node, including this one, a JSON question; collect the answers for a bounded time."""
        answers = await self._cluster.question(question)
        return answers if answers.values else Answers([self._answer(question)], answers.complete)

    def leave(self) -> None:
        """Take no other node's chats over from now on, because this node is about to stop."""
        self._handover.leave()

    async def hand_over(self) -> int | None:
        """Have other nodes hear this node's chats, because it is about to stop. Returns how many they hear.

        The chats' continuity then survives this node, and their clients can resume elsewhere. Another call
        hands over the chats that came since. Takes a bounded time, and raises nothing.

        None if no other node takes chats over: the next session begins a new epoch, and nobody is served
        until a node starts. 0 if that isn't known now.
        """
        return await self._handover.hand_over() if self._backend.is_shared else None

    @property
    def remembered(self) -> Budget:
        """What is remembered of delivered events, for metrics."""
        return self._subscriptions.budget

    @property
    def health(self) -> Health:
        """The backend's current state; it doesn't count as up while anything waits in the outbox."""
        health = self._backend.health
        queued = len(self._outbox)
        state = "down" if health.state == "up" and queued else health.state
        return Health(health.name, state, health.latency, queued)

    # -- what the backend calls (see `Listener`) --------------------------------------------------

    def receive(self, chat_id: str, raw: bytes) -> None:
        """Take what came over a chat's channel: parse it, and deliver it if it is an event."""
        chat = self._subscriptions.get(chat_id)
        if chat is None:
            return
        try:
            if len(raw) > self._max_event:
                why = f"it has {len(raw)} bytes, at most {self._max_event} are taken"
                self._drop(chat, raw, why, kept=may_be_kept(raw))
                return
            try:
                event = parse_event(raw)
            except MalformedEventError as error:
                self._drop(chat, raw, str(error), kept=error.kept)
                return
            self._deliver(chat, event)
        except Exception:
            self._not_delivered(chat_id)

    def deliver(self, chat_id: str, event: Event) -> None:
        """Take an event of a chat: deliver it if it is the next one, otherwise find out what is missing."""
        chat = self._subscriptions.get(chat_id)
        if chat is None:
            return
        try:
            self._deliver(chat, event)
        except Exception:
            self._not_delivered(chat_id)

    def _not_delivered(self, chat_id: str) -> None:
        """Log an error. One event that can't be handled must not stop the node from hearing all others."""
        log.exception("event not delivered; the chat's sessions resume", chat=chat_id)
        self._subscriber.interrupt(chat_id)

    def _deliver(self, chat: Chat, event: Event) -> None:
        cursor = event.cursor
        if cursor is not None:
            heard = chat.hear(event, cursor)
            if heard is Heard.DELIVERED:
                return
            if heard is Heard.DUPLICATE or heard is Heard.BEHIND:
                self.counts.duplicates_dropped += 1
            if heard is Heard.GAP or heard is Heard.BEHIND:
                self._subscriptions.resubscribe(chat)
        elif not event.kept:
            self._subscriber.deliver(chat.chat_id, event)
        elif chat.has_seen(event.identity):
            self.counts.duplicates_dropped += 1
        elif len(self._raw) >= outbox.MAX_ITEMS:
            self._outbox.overflow(chat.chat_id, chat.epoch)
        else:  # the application published it on the channel: every node appends it, the first append counts
            self._raw.start(self._publish(chat.chat_id, event, None))

    def _drop(self, chat: Chat, raw: bytes, why: str, *, kept: bool) -> None:
        """Drop what can't be delivered. If it may be a kept event, read it again, or have sessions resume."""
        self.counts.malformed_dropped += 1
        if not kept:
            log.warning("malformed event dropped", chat=chat.chat_id, why=why)
        elif _SEQUENCED.search(raw[-MAX_CURSOR_SUFFIX:]):
            self._subscriptions.look_again([chat.chat_id])  # the history has it
        else:
            log.warning("event dropped; the chat's sessions resume", chat=chat.chat_id, why=why)
            self._outbox.lose(chat.chat_id, chat.epoch)

    def notice(self, raw: bytes) -> None:
        """Take another node's note, or this one's own."""
        note = self._cluster.read(raw)
        if note is None:
            return
        if note.presence is not None:
            self.presence.hear(note.presence)
        elif note.marked:
            self.marks.notice(note.marked)
        elif note.look_again:
            if note.sender != self._backend.address:
                self._subscriptions.look_again(note.look_again)
        elif note.take_over:
            self._handover.take(note, raw)
        elif note.who_takes:
            self._handover.who_takes(note)
        else:
            self._cluster.answer(note, self._answer(note.question))

    def lost(self, chat_ids: Iterable[str] | None = None) -> None:
        """Note that these chats, or all, are not heard any more."""
        self._subscriptions.lost(chat_ids)

    def restored(self) -> None:
        """Record in the backend what began without it, and catch up with its events."""
        # First, because their senders may be disconnected now, and resend on another node.
        self._idempotency.restored()
        self._subscriptions.restored()
        self.presence.restored()
        self._outbox.flush()

    def _answer(self, question: Any) -> Any:
        """Answer a node's question: on a key, or else on what the hub knows."""
        return self._idempotency.answer(question) or self._subscriber.answer(question)
