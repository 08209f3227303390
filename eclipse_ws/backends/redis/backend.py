"""The Redis backend on one server: what each of the contract's methods does with the connections."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence

from redis.exceptions import RedisError

from eclipse_ws.backends.base import (
    Backend,
    Health,
    Key,
    Listener,
    Position,
    Record,
    Rejected,
    Step,
    Subscription,
)
from eclipse_ws.backends.marks import Mark
from eclipse_ws.backends.redis import scripts
from eclipse_ws.backends.redis.address import Address
from eclipse_ws.backends.redis.broadcasts import Broadcasts
from eclipse_ws.backends.redis.connections import Connections
from eclipse_ws.backends.redis.heartbeat import Heartbeat
from eclipse_ws.backends.redis.keys import Keys, whole
from eclipse_ws.backends.redis.ledger import RedisLedger
from eclipse_ws.backends.redis.names import Names
from eclipse_ws.backends.redis.own_events import OwnEvents
from eclipse_ws.backends.redis.probe import greet, probe
from eclipse_ws.backends.redis.refusals import Refusal, classify
from eclipse_ws.backends.redis.subscriptions import POSITION_SECONDS, Subscriptions
from eclipse_ws.config.redis_url import Server
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Cursor, Event, Receipt, deleted_id, deletion_of, parse_events, saved_id


class ServerBackend(Backend):
    """Carries events through one server's channels, and keeps a stream for each chat.

    Of a cluster, ``server`` is one of its primaries; ``tag`` gives a hash tag in a slot that it has, for
    this node's name there, which is also the key of its lease.
    """

    name = "redis"
    ledger: RedisLedger

    def __init__(
        self, settings: Settings, server: Server | None = None, tag: Callable[[], str] | None = None
    ) -> None:
        self.timeout = settings.redis_timeout
        self.beacon_interval = settings.redis_ping_interval
        self._settings = settings
        self._names = Names.of(settings)
        self._lifetime = whole(settings.history_seconds)
        self._connections = Connections(settings, self._names, Address(settings, server), tag)
        self._keys = Keys(settings, self._connections)
        self.ledger = RedisLedger(self._connections)
        self._own = OwnEvents()
        self._broadcasts = Broadcasts(self._names.publish, self._own, self._not_broadcast)
        self._subscriptions: Subscriptions
        self._beating: asyncio.Task[None] | None = None

    async def start(self, listener: Listener) -> None:
        """Connect; see the contract for what is raised."""
        await greet(self._connections)
        self.open(listener)
        try:
            await self.probe()
        except BaseException:
            await self.close()
            raise

    def open(self, listener: Listener) -> None:
        """Begin to connect."""
        self._subscriptions = Subscriptions(self._settings, self._connections, listener, self._own)
        self._connections.start(self._subscriptions)
        heartbeat = Heartbeat(self._settings, self._connections, self._subscriptions, lambda: self.beacon)
        self._beating = asyncio.create_task(heartbeat.run())

    async def probe(self, takes: Callable[[str], bool] = lambda _: True) -> None:
        """Run every script once, in a chat that this server takes. Raises BackendError."""
        await probe(self._connections, self.timeout, takes)

    # -- what a cluster asks of one of its primaries --------------------------------------------

    async def adopt(self, chat_id: str, is_heard: Callable[[], bool]) -> None:
        """See `Subscriptions.adopt`."""
        await self._subscriptions.adopt(chat_id, is_heard)

    def hears(self, chat_id: str) -> bool:
        """Whether this node has heard the chat here since it joined it, without a gap."""
        return self._connections.subscriber is not None and self._subscriptions.guard(chat_id) != ""

    def forget(self, chat_id: str) -> None:
        """Stop hearing a chat that another server has now."""
        self._subscriptions.forget(chat_id)

    def rename(self) -> None:
        """Take a new name: the tag of the present one has moved to another server."""
        self._connections.rename()

    # -- the contract ---------------------------------------------------------------------------

    async def close(self) -> None:
        """See the contract."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])
        await self._connections.close()

    @property
    def address(self) -> str:  # type: ignore[override]
        """See the contract."""
        return self._connections.name

    @property
    def health(self) -> Health:
        """Up while both connections stand and nothing is refused."""
        return Health(self.name, self._connections.state, self._connections.latency)

    async def subscribe(
        self, chat_id: str, known: Position | None = None, *, renew: bool = False
    ) -> Subscription:
        """See the contract."""
        return await self._subscriptions.subscribe(chat_id, known, renew=renew)

    async def unsubscribe(self, chat_ids: Sequence[str]) -> None:
        """See the contract."""
        await self._subscriptions.unsubscribe(chat_ids)

    async def append(
        self, chat_id: str, event: Event, *, key: Key | None = None, known: Cursor | None = None
    ) -> tuple[Cursor, bool]:
        """Run the script `publish`, which does all of it in one step."""
        keys = self._names.chat_keys(chat_id)
        if key is not None:
            keys.append(self._names.attempt(chat_id, key.name))
        self._own.append(event)
        with self._connections.asking() as commands:
            try:
                cursor, fresh = await scripts.PUBLISH(
                    commands,
                    keys,
                    self._names.channel(chat_id),
                    event.body,
                    event.identity,
                    secrets.token_hex(6),
                    self._settings.history_events,
                    self._lifetime,
                    POSITION_SECONDS,
                    self._subscriptions.guard(chat_id),
                    saved_id(event),
                    self._settings.history_bytes,
                    "" if key is None else key.fingerprint,
                    "" if known is None else known.epoch,
                    0 if known is None else known.offset,
                    self._names.publish,
                    deleted_id(event),
                    deletion_of(event),
                )
            except RedisError as error:
                if classify(error) is Refusal.REJECTED:
                    raise Rejected(f"{error}; {Refusal.REJECTED.value}") from error
                raise
        epoch, _, offset = cursor.decode().rpartition(".")
        return Cursor(epoch, int(offset)), fresh == 1

    async def read(self, chat_id: str, after: Cursor, known: Cursor | None = None) -> Sequence[Event] | None:
        """See the contract."""
        offset = known.offset if known is not None and known.epoch == after.epoch else 0
        keys = self._names.chat_keys(chat_id)[:2]
        with self._connections.asking(reading=True) as connection:
            return parse_events(await scripts.HISTORY(connection, keys, after.epoch, after.offset, offset))

    def broadcast(self, chat_id: str, event: Event) -> None:
        """Publish the event if there is a connection; count it as dropped if not."""
        commands = self._connections.commands
        if commands is None:
            self.broadcasts_dropped += 1
            return
        self._broadcasts.add(commands, self._names.channel(chat_id), event)

    def _not_broadcast(self, count: int, error: BaseException | None) -> None:
        self.broadcasts_dropped += count
        if isinstance(error, RedisError):
            self._connections.is_general(error)

    async def mark(self, chat_id: str, name: str, mark: Mark, note: bytes) -> bool:
        """Run the script `mark`, which does all of it in one step."""
        keys = [self._names.key(chat_id, "meta"), self._names.marks(chat_id)]
        with self._connections.asking() as commands:
            kept = await scripts.MARK(
                commands,
                keys,
                *(name, mark.text, repr(mark.expires)),
                *(mark.cursor or ("-", 0)),
                *(mark.room, self._names.all_nodes, note),
            )
        return bool(kept)

    async def record(
        self,
        chat_id: str,
        key: Key,
        step: Step,
        *,
        retry_unknown: bool = False,
        receipt: Receipt | None = None,
    ) -> Record:
        """See the contract."""
        if step == "pending":
            return await self._keys.begin(chat_id, key, retry_unknown=retry_unknown)
        await self._keys.end(chat_id, key, step, receipt)
        return Record("none")

    async def send(self, note: bytes, address: str = "") -> int:
        """Publish on the node's own channel, or on the one that all nodes hear."""
        channel = self._names.node + address if address else self._names.all_nodes
        with self._connections.asking() as commands:
            return int(await commands.call("PUBLISH", channel, note))
