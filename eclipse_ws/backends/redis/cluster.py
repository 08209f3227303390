"""The Redis backend on a cluster: a `ServerBackend` for each primary, and which chat is where."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, TypeVar

import structlog
from redis.exceptions import ClusterDownError, RedisError

from eclipse_ws.backends.base import (
    Backend,
    Health,
    Key,
    Listener,
    Position,
    Record,
    Step,
    Subscription,
    Unavailable,
)
from eclipse_ws.backends.ledger import Ledger
from eclipse_ws.backends.marks import Mark
from eclipse_ws.backends.redis.backend import ServerBackend
from eclipse_ws.backends.redis.connection import DisconnectedError
from eclipse_ws.backends.redis.ledger import ClusterLedger
from eclipse_ws.backends.redis.names import Names
from eclipse_ws.backends.redis.probe import first_contact
from eclipse_ws.backends.redis.refusals import ELSEWHERE
from eclipse_ws.backends.redis.slots import SlotMap, fetch
from eclipse_ws.config.redis_url import RedisUrl, Server
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Cursor, Event, Receipt

log = structlog.get_logger("eclipse_ws.redis")

T = TypeVar("T")
PAUSE: Final = 0.05
"""Seconds until a server is asked again, and between two looks for the slots."""
LOOK: Final = 1.0
"""Seconds between two looks for the slots while something is wrong."""
RETIRE: Final = 30.0
"""Seconds for which a server that is no longer a primary is heard at most."""


class _Primary:
    """A primary, whose listener passes on what it hears."""

    def __init__(self, cluster: ClusterBackend, server: Server) -> None:
        self._cluster = cluster
        self.server = server
        self.tag = ""
        self.retired = 0.0  # since when it is no longer a primary
        self.backend = ServerBackend(cluster.settings, server, self._new_tag)

    def _new_tag(self) -> str:
        self.tag = self._cluster.slots.tag(self.server)
        return self.tag

    def deliver(self, chat_id: str, event: Event) -> None:
        """See `Listener`."""
        self._cluster.listener.deliver(chat_id, event)

    def receive(self, chat_id: str, raw: bytes) -> None:
        """See `Listener`. While a chat moves it is heard twice, and delivery drops second copies."""
        self._cluster.listener.receive(chat_id, raw)

    def notice(self, note: bytes) -> None:
        """See `Listener`. Every primary's connection hears the nodes' common channel: one is enough."""
        if self._cluster.messenger() is self:
            self._cluster.listener.notice(note)

    def lost(self, chat_ids: Iterable[str] | None = None) -> None:
        """See `Listener`."""
        self._cluster.lost(self, chat_ids)

    def restored(self) -> None:
        """See `Listener`."""
        self._cluster.listener.restored()


class ClusterBackend(Backend):
    """Asks the primary that has the chat, and moves chats along with their slots."""

    name = "redis"

    def __init__(self, settings: Settings) -> None:
        self.timeout = settings.redis_timeout
        self.beacon_interval = settings.redis_ping_interval
        self.settings = settings
        self.slots = SlotMap()
        self.ledger = ClusterLedger(self._ask_ledger)
        self._names = Names.of(settings)
        self._primaries: dict[Server, _Primary] = {}
        self._retired: list[_Primary] = []
        self._homes: dict[str, _Primary] = {}  # where each chat was joined
        self._due = asyncio.Event()  # the slots have to be looked for
        self._looking: asyncio.Task[None] | None = None
        self._beacon = b""
        self._unsent = 0  # ephemeral events of chats without a primary

    async def start(self, listener: Listener) -> None:
        """Connect; see the contract for what is raised."""
        self.listener = listener
        with first_contact():
            self._use(await fetch(self.settings, self._servers()))
        self._looking = asyncio.create_task(self._look())
        try:
            probes = [self._probe(each) for each in self._primaries.values()]
            # All of them end before anything is closed: what is closed must not look unavailable.
            for error in await asyncio.gather(*probes, return_exceptions=True):
                if error is not None:
                    raise error
        except BaseException:
            await self.close()
            raise

    async def _probe(self, primary: _Primary) -> None:
        await primary.backend.probe(lambda chat_id: self._has(primary, chat_id))

    def _has(self, primary: _Primary, chat_id: str) -> bool:
        owner = self.slots.owner(self._names.key(chat_id))
        return owner is not None and self._primaries.get(owner) is primary

    async def close(self) -> None:
        """See the contract."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])
        await asyncio.gather(*(each.backend.close() for each in (*self._primaries.values(), *self._retired)))

    @property
    def address(self) -> str:  # type: ignore[override]
        """See the contract."""
        messenger = self.messenger()
        return "" if messenger is None else messenger.backend.address

    @property
    def health(self) -> Health:
        """Up while every slot has a primary, and every primary is up."""
        healths = [each.backend.health for each in self._primaries.values()]
        latencies = [health.latency for health in healths if health.latency is not None]
        latency = max(latencies, default=None)
        if self.slots.is_complete and all(health.state == "up" for health in healths):
            return Health(self.name, "up", latency)
        connecting = all(health.state == "connecting" for health in healths)
        return Health(self.name, "connecting" if connecting else "down", latency)

    @property
    def beacon(self) -> bytes:
        """See the contract. One primary's heartbeats carry it: what one publishes is heard over all."""
        return self._beacon

    @beacon.setter
    def beacon(self, note: bytes) -> None:
        self._beacon = note
        self._hand_beacon_on()

    def _hand_beacon_on(self) -> None:
        messenger = self.messenger()
        for primary in (*self._primaries.values(), *self._retired):
            primary.backend.beacon = self._beacon if primary is messenger else b""

    @property
    def broadcasts_dropped(self) -> int:  # type: ignore[override]
        """See the contract."""
        return self._unsent + sum(each.backend.broadcasts_dropped for each in self._primaries.values())

    # -- the contract, for the primary that has the chat ----------------------------------------

    async def subscribe(
        self, chat_id: str, known: Position | None = None, *, renew: bool = False
    ) -> Subscription:
        """See the contract. A chat that has moved is heard on both primaries until it is joined."""

        async def join(primary: _Primary) -> Subscription:
            home = self._homes.get(chat_id, primary)
            if home is not primary:
                await primary.backend.adopt(chat_id, lambda: home.backend.hears(chat_id))
            answer = await primary.backend.subscribe(chat_id, known, renew=renew)
            self._homes[chat_id] = primary
            if home is not primary:
                # What was published elsewhere before this may still be on its way to the former primary.
                asyncio.get_running_loop().call_later(self.timeout, self._forget, home, chat_id)
            if not self._has(primary, chat_id):
                raise Unavailable("the chat has moved meanwhile")
            return answer

        return await self._ask(chat_id, join)

    def _forget(self, home: _Primary, chat_id: str) -> None:
        if self._homes.get(chat_id) is not home:
            home.backend.forget(chat_id)

    async def unsubscribe(self, chat_ids: Sequence[str]) -> None:
        """See the contract."""
        leaving: dict[_Primary, list[str]] = {}
        for chat_id in chat_ids:
            home = self._homes.get(chat_id)
            if home is not None and self._has(home, chat_id):
                leaving.setdefault(home, []).append(chat_id)
            elif home is not None:  # its guard there counts no longer
                del self._homes[chat_id]
                self._forget(home, chat_id)
        for home, chats in leaving.items():
            await home.backend.unsubscribe(chats)
            for chat_id in chats:
                if self._homes.get(chat_id) is home and not home.backend.hears(chat_id):
                    del self._homes[chat_id]

    async def append(
        self, chat_id: str, event: Event, *, key: Key | None = None, known: Cursor | None = None
    ) -> tuple[Cursor, bool]:
        """See the contract."""
        return await self._ask(
            chat_id, lambda primary: primary.backend.append(chat_id, event, key=key, known=known)
        )

    async def read(self, chat_id: str, after: Cursor, known: Cursor | None = None) -> Sequence[Event] | None:
        """See the contract."""
        return await self._ask(chat_id, lambda primary: primary.backend.read(chat_id, after, known))

    def broadcast(self, chat_id: str, event: Event) -> None:
        """See the contract."""
        try:
            self._primary(self._names.key(chat_id)).backend.broadcast(chat_id, event)
        except Unavailable:
            self._unsent += 1

    async def mark(self, chat_id: str, name: str, mark: Mark, note: bytes) -> bool:
        """See the contract. A note that is published on any primary is heard on all."""
        return await self._ask(chat_id, lambda primary: primary.backend.mark(chat_id, name, mark, note))

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
        return await self._ask(
            chat_id,
            lambda primary: primary.backend.record(
                chat_id, key, step, retry_unknown=retry_unknown, receipt=receipt
            ),
        )

    async def send(self, note: bytes, address: str = "") -> int:
        """See the contract. All notes take one primary, which can count the nodes."""
        return await self._primary(self._names.all_nodes).backend.send(note, address)

    def messenger(self) -> _Primary | None:
        """The primary over which notes between nodes are sent."""
        owner = self.slots.owner(self._names.all_nodes)
        return None if owner is None else self._primaries.get(owner)

    def _primary(self, key: str) -> _Primary:
        owner = self.slots.owner(key)
        if owner is None:
            self._due.set()
            raise Unavailable("no primary of the cluster is known for the slot")
        return self._primaries[owner]

    async def _ask(self, chat_id: str, call: Callable[[_Primary], Awaitable[T]]) -> T:
        return await self._ask_for(self._names.key(chat_id), call)

    async def _ask_ledger(self, call: Callable[[Ledger], Awaitable[T]]) -> T:
        return await self._ask_for(self._names.ledger[0], lambda primary: call(primary.backend.ledger))

    async def _ask_for(self, key: str, call: Callable[[_Primary], Awaitable[T]]) -> T:
        """Ask the primary that has a key; again if the slot is another's by now. Raises as the call does."""
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                return await call(self._primary(key))
            except Unavailable as error:
                cause = error.__cause__
                if isinstance(cause, (ClusterDownError, DisconnectedError)):
                    self._due.set()
                if not isinstance(cause, ELSEWHERE):
                    raise
                if time.monotonic() > deadline:
                    raise Unavailable(str(error), asked=True) from cause
            self._due.set()
            await asyncio.sleep(PAUSE)

    # -- which primary has which chats ----------------------------------------------------------

    def lost(self, primary: _Primary, chat_ids: Iterable[str] | None = None) -> None:
        """A primary's subscriptions to these chats, or to all, are lost."""
        self._due.set()
        chats = self._homes if chat_ids is None else chat_ids
        self.listener.lost([chat_id for chat_id in chats if self._homes.get(chat_id) is primary])

    def _servers(self) -> set[Server]:
        return {*self.slots.servers, *RedisUrl.parse(self.settings.redis_url.get_secret_value()).servers}

    async def _look(self) -> None:
        """Look for the slots forever, more often while something is wrong."""
        while True:
            with contextlib.suppress(TimeoutError):
                well = not self._retired and self.health.state == "up"
                async with asyncio.timeout(self.settings.redis_ping_interval if well else LOOK):
                    await self._due.wait()
            self._due.clear()
            try:
                self._use(await fetch(self.settings, self._servers()))
                await self._close_retired()
            except (DisconnectedError, RedisError) as error:
                log.debug("slots of the cluster not known", why=str(error))
            except Exception:
                log.exception("slots of the cluster not known")
            await asyncio.sleep(PAUSE)

    def _use(self, found: SlotMap) -> None:
        if not found.is_complete and (self.slots.is_complete or not self.slots.servers):
            log.warning("some slots of the cluster have no primary; delivering locally")
        before, self.slots = self.slots, found
        for server in found.primaries - self._primaries.keys():
            primary = self._primaries[server] = _Primary(self, server)
            primary.backend.open(primary)
        for server in self._primaries.keys() - found.primaries:
            gone = self._primaries.pop(server)
            gone.retired = time.monotonic()
            self._retired.append(gone)
        self._hand_beacon_on()
        if found.primaries != before.primaries:
            log.info("primaries of the cluster", servers=sorted(map(str, found.primaries)))
        for primary in self._primaries.values():
            if primary.tag and found.owner(primary.tag) != primary.server:
                primary.backend.rename()
        keys = {chat_id: self._names.key(chat_id) for chat_id in self._homes}
        moved = [each for each, key in keys.items() if found.owner(key) not in (None, before.owner(key))]
        if moved:
            log.info("chats move to another primary", chats=len(moved))
            self.listener.lost(moved)
            self.listener.restored()

    async def _close_retired(self) -> None:
        homes = set(self._homes.values())
        for gone in list(self._retired):
            seconds = time.monotonic() - gone.retired
            if seconds > (self.timeout if gone not in homes else RETIRE):
                self._retired.remove(gone)
                await gone.backend.close()
