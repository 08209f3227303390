"""The Redis backend: what each of the contract's methods does with the links."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Sequence
from typing import Any

import structlog
from redis.exceptions import RedisError

from eclipse_ws.backends.base import Answers, Backend, Health, Key, Listener, Outcome, Record
from eclipse_ws.backends.redis import outage, scripts, subscriptions
from eclipse_ws.backends.redis.channel import Channel, Heard, parse_events
from eclipse_ws.backends.redis.cluster_channel import Nodes
from eclipse_ws.backends.redis.connection import Link, LinkError
from eclipse_ws.backends.redis.connections import Links
from eclipse_ws.backends.redis.keys import Keys, redis_key, whole
from eclipse_ws.backends.redis.names import Names
from eclipse_ws.backends.redis.outage import Owed
from eclipse_ws.backends.redis.payments import Payments
from eclipse_ws.backends.redis.probe import probe
from eclipse_ws.backends.redis.subscriptions import POSITION_SECONDS, Subscriptions
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import (
    Cursor,
    Event,
    MalformedEventError,
    Receipt,
    may_be_kept,
    parse_event,
    saved_id,
    with_origin,
)

log = structlog.get_logger("eclipse_ws.redis")

MAX_SEQUENCED = 128
"""Bytes at the end of an event in which its cursor is, if it has one."""
_SEQUENCED = re.compile(rb',"cursor":"[0-9A-Za-z]+\.[0-9]+"}$')


class RedisBackend(Backend):
    """Carries events through Redis, keeps a stream per chat, and goes on locally while Redis is away."""

    name = "redis"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._max_event = settings.max_event
        self._raw: set[asyncio.Task[Receipt]] = set()
        self._handed_over: set[str] = set()
        self._closed = False
        self._names = Names.of(settings)
        self._chats = self._names.chats.encode()
        self._listener: Listener
        self._links: Links
        self._payments: Payments
        self._keys: Keys
        self._subscriptions: Subscriptions
        self._nodes: Nodes

    async def start(self, listener: Listener) -> None:
        """Connect; see the contract for what is raised."""
        self._listener = listener
        self._links = Links(
            self._settings,
            self._names,
            push=self._push,
            on_commands=self._on_commands,
            on_subscriber=lambda: self._subscriptions.on_subscriber(),
            on_deaf=lambda until: self._subscriptions.on_deaf(until),
            on_refused=lambda error: self._subscriptions.on_refused(error),
            idle=lambda: not self._subscriptions,
        )
        self._payments = Payments(
            self._links,
            outage.MAX_EVENTS,
            self._pay,
            break_off=lambda chat_id, epoch: self._subscriptions.break_off(chat_id, epoch),
            count_lost=self._count_lost,
        )
        self._keys = Keys(self._settings, self._links, self._payments.owe)
        self._nodes = Nodes(
            self._links,
            self._settings.redis_timeout,
            answer=listener.answer,
            look_again=lambda chat_ids: self._subscriptions.look_again(chat_ids),
            take_over=lambda chat_ids: self._subscriptions.take_over(chat_ids),
        )
        self._subscriptions = Subscriptions(
            self._settings, self._links, listener, self._nodes.tell_to_look_again
        )
        try:
            await self._links.start()
            await probe(self._links, self._settings.redis_timeout)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Pay what is owed if Redis is there, and let everything go."""
        if self._closed or not hasattr(self, "_links"):
            return
        self._closed = True
        if self._raw:
            await asyncio.wait(self._raw, timeout=self._settings.redis_timeout)
        for task in self._raw:
            task.cancel()
        await asyncio.gather(*self._raw, return_exceptions=True)
        await self._payments.close(self._settings.redis_timeout)
        await self._nodes.close()
        await self._subscriptions.close()
        await self._links.close()

    # -- subscribing ----------------------------------------------------------------------------

    async def subscribe(self, chat_id: str) -> None:
        """See the contract."""
        await self._subscriptions.subscribe(chat_id)

    def unsubscribe(self, chat_id: str) -> None:
        """See the contract."""
        self._subscriptions.unsubscribe(chat_id)

    def position(self, chat_id: str) -> Cursor | None:
        """See the contract."""
        channel = self._subscriptions.get(chat_id)
        return None if channel is None else channel.position

    async def history(self, chat_id: str, after: Cursor) -> Sequence[Event] | None:
        """Ask Redis, unless this node knows that nothing was missed."""
        position = self.position(chat_id)
        if position == after:
            return []
        link, known = self._links.standing, 0  # what takes no events may still tell of those that it has
        if link is None:
            return None
        if position is not None and position.epoch == after.epoch:
            known = position.offset
        try:
            bodies = await scripts.HISTORY(
                link, self._names.chat_keys(chat_id)[:2], after.epoch, after.offset, known
            )
        except LinkError:
            return None
        except RedisError as error:
            if not self._links.doubt(error):
                log.warning("history not read", chat=chat_id, why=str(error))
            return None
        return parse_events(bodies)

    # -- what comes over the channels -----------------------------------------------------------

    def _push(self, answer: list[Any]) -> None:
        kind, name = answer[0], answer[1]
        if kind == b"message":
            if name.startswith(self._chats):
                chat_id = name[len(self._chats) :].decode(errors="replace")
                try:
                    self._hear(chat_id, answer[2])
                except Exception:
                    log.exception("event could not be delivered, the chat's sessions resume", chat=chat_id)
                    self._listener.interrupt(chat_id)
            else:
                self._nodes.hear(answer[2])
        elif kind == b"subscribe" and name.startswith(self._chats):
            self._subscriptions.confirm(name[len(self._chats) :].decode(errors="replace"))

    def _hear(self, chat_id: str, raw: bytes) -> None:
        channel = self._subscriptions.get(chat_id)
        if channel is None:
            return
        if len(raw) > self._max_event:
            why = f"it has {len(raw)} bytes, at most {self._max_event} are taken"
            self._drop(channel, raw, why, kept=may_be_kept(raw))
            return
        try:
            event = parse_event(raw)
        except MalformedEventError as error:
            self._drop(channel, raw, str(error), kept=error.kept)
            return
        if not event.kept:
            self._listener.deliver(chat_id, event)
        elif event.cursor is not None:
            heard = channel.hear(event)
            if heard is Heard.DUPLICATE:
                self.duplicates_dropped += 1
            elif heard is Heard.GAP:
                self._subscriptions.join(channel)
            elif heard is Heard.BEHIND:
                self.duplicates_dropped += 1
                self._subscriptions.join(channel)
        elif channel.seen is not None and event.identity in channel.seen:
            self.duplicates_dropped += 1
        else:
            self._sequence_raw(channel, event)

    def _sequence_raw(self, channel: Channel, event: Event) -> None:
        """Sequence what the application has published; every node tries, the first one does it."""
        if len(self._raw) >= outage.MAX_EVENTS:
            self._payments.overflow(channel.chat_id, channel.epoch)
            return
        task = asyncio.create_task(self.publish(channel.chat_id, event))
        self._raw.add(task)
        task.add_done_callback(self._raw.discard)

    def _drop(self, channel: Channel, raw: bytes, why: str, *, kept: bool) -> None:
        """Leave out what can't be delivered; an event that the chat keeps is missing then, which is told."""
        chat_id = channel.chat_id
        self.malformed_dropped += 1
        if not kept:
            log.warning("what was published to a chat is no event, it was dropped", chat=chat_id, why=why)
        elif _SEQUENCED.search(raw[-MAX_SEQUENCED:]):
            self._subscriptions.look_again([chat_id])  # the history has it
        else:
            log.warning("event dropped, the chat's sessions have to resume", chat=chat_id, why=why)
            self._payments.lose(chat_id, channel.epoch)

    # -- publishing -----------------------------------------------------------------------------

    async def publish(self, chat_id: str, event: Event, key: Key | None = None) -> Receipt:
        """Sequence, keep and fan out by one script; while that can't be had, deliver here and owe it."""
        commands = self._links.commands
        # Behind what is owed, so that a chat's events keep their order.
        if commands is not None and not self._payments:
            try:
                cursor = await self._call_publish(commands, chat_id, event, key)
            except (LinkError, RedisError) as error:
                if not (self._links.doubt(error) or self._payments):  # one line as it begins
                    log.warning("event not published, it is delivered locally", chat=chat_id, why=str(error))
            else:
                return Receipt(saved_id(event), cursor, "published")
        return self._deliver_locally(chat_id, event, key)

    def _deliver_locally(self, chat_id: str, event: Event, key: Key | None) -> Receipt:
        channel = self._subscriptions.get(chat_id)
        seen = None if channel is None else channel.seen
        cursor = None if seen is None else seen.get(event.identity)
        if channel is not None and (seen is None or event.identity not in seen):
            channel.note(event.identity, None)
            self._listener.deliver(chat_id, event)
        self._payments.owe(Owed(chat_id, event, key))
        return Receipt(saved_id(event), str(cursor) if cursor else None, "published" if cursor else "local")

    async def _call_publish(self, link: Link, chat_id: str, event: Event, key: Key | None) -> str:
        channel = self._subscriptions.get(chat_id)
        heard = channel is not None and channel.confirmed and channel.link == self._links.name
        known = None if channel is None else channel.position
        keys = self._names.chat_keys(chat_id)
        if key is not None:
            keys.append(redis_key(self._names, chat_id, key))
        cursor, fresh = await scripts.PUBLISH(
            link,
            keys,
            self._names.channel(chat_id),
            event.body,
            event.identity,
            secrets.token_hex(6),
            self._settings.history_events,
            whole(self._settings.history_seconds),
            POSITION_SECONDS,
            self._links.name if heard else "",
            saved_id(event),
            self._settings.history_bytes,
            "" if key is None else key.fingerprint,
            "" if known is None else known.epoch,
            0 if known is None else known.offset,
        )
        if fresh:
            self.published += 1
        else:
            self.duplicates_dropped += 1
        return str(cursor.decode())

    def broadcast(self, chat_id: str, event: Event) -> None:
        """Publish as it is, if there is a link."""
        commands = self._links.commands
        if commands is None:
            self.broadcasts_dropped += 1
            return
        body = with_origin(event) if event.origin else event.body
        commands.call("PUBLISH", self._names.channel(chat_id), body).add_done_callback(self._broadcast_done)

    def _broadcast_done(self, done: asyncio.Future[Any]) -> None:
        if done.cancelled() or done.exception() is not None:
            self.broadcasts_dropped += 1
        if not done.cancelled():
            self._links.doubt(done.exception())

    # -- idempotency keys -------------------------------------------------------------------------

    async def reserve(
        self, chat_id: str, key: Key, *, retry_unknown: bool = False, certain: bool = False
    ) -> Record:
        """See the contract."""
        return await self._keys.reserve(chat_id, key, retry_unknown=retry_unknown, certain=certain)

    async def settle(self, chat_id: str, key: Key, outcome: Outcome) -> None:
        """See the contract."""
        await self._keys.settle(chat_id, key, outcome)

    # -- what is owed ---------------------------------------------------------------------------

    def _on_commands(self) -> None:
        # First of all: their senders may be sent away now, and ask again on another node.
        self._listener.restored()
        self._subscriptions.on_commands()
        self._payments.pay_soon()

    def _count_lost(self) -> None:
        self.queue_overflowed += 1

    async def _pay(self, commands: Link, owed: Owed) -> None:
        """Have it done. Raises LinkError or RedisError."""
        if owed.event is None:
            if owed.key is not None and owed.outcome is not None:
                await self._keys.end(commands, owed.chat_id, owed.key, owed.outcome)
        elif (cursor := self._cursor_of(owed.chat_id, owed.event)) is None:
            await self._call_publish(commands, owed.chat_id, owed.event, owed.key)
        elif owed.key is not None:
            receipt = Receipt(saved_id(owed.event), str(cursor), "published")
            await self._keys.note(commands, owed.chat_id, owed.key, receipt)

    def _cursor_of(self, chat_id: str, event: Event) -> Cursor | None:
        """The cursor with which an event has come back: it is published, whatever became of our own call.

        Redis may have forgotten its identity by now, and would sequence it once more.
        """
        channel = self._subscriptions.get(chat_id)
        seen = None if channel is None else channel.seen
        return None if seen is None else seen.get(event.identity)

    # -- nodes and health -----------------------------------------------------------------------

    async def ask(self, question: Any) -> Answers:
        """See the contract."""
        return Answers(*await self._nodes.ask(question))

    async def hand_over(self) -> int | None:
        """Spread the chats over the other nodes, and wait until those hear them."""
        due = [chat_id for chat_id in self._subscriptions.chats() if chat_id not in self._handed_over]
        taken = await self._nodes.hand_over(due, subscriptions.HAND_OVER_TIMEOUT)
        if taken is None and not self._handed_over:
            return None
        self._handed_over |= taken or set()
        return len(self._handed_over)

    def health(self) -> Health:
        """Up while both links stand and nothing is owed."""
        state = self._links.state
        return Health(
            self.name,
            "down" if state == "up" and self._payments else state,
            self._links.latency,
            len(self._payments),
        )
