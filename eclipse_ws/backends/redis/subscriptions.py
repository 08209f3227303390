"""The chats whose channels this node hears, and the guards that say that it has heard everything."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence

from redis.exceptions import RedisError

from eclipse_ws.backends.base import Listener, Position, Subscription, Unavailable
from eclipse_ws.backends.marks import parse_marks
from eclipse_ws.backends.redis.connections import Connections
from eclipse_ws.backends.redis.own_events import OwnEvents
from eclipse_ws.backends.redis.scripts import JOIN
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Cursor, parse_events

BATCH = 500
"""Channels of one command."""
POSITION_SECONDS = 86400
"""How long an untouched chat's position is kept, in seconds: longer than a silent session lives."""


EARLIEST = "1"
"""A time (ms) that is earlier than every guard's; "0" forces a new epoch in any case."""


class _Chat:
    """What this node has heard of a chat's channel."""

    __slots__ = ("confirmed", "heard_until", "id", "joined", "joining", "leaving")

    def __init__(self, chat_id: str) -> None:
        self.id = chat_id
        self.confirmed = False  # the current connection hears it
        self.joined = ""  # the node's name when it joined: until that changes, there is no gap
        self.heard_until = ""  # until when an earlier connection certainly heard it: ms of Redis's clock
        self.joining = 0  # subscriptions in progress
        self.leaving = False  # its guard is being removed, and there was no subscription since


class Subscriptions:
    """Subscribes to chats' channels, and guards the chats (see the package's docstring)."""

    def __init__(
        self, settings: Settings, connections: Connections, listener: Listener, own: OwnEvents
    ) -> None:
        self._settings = settings
        self._connections = connections
        self._listener = listener
        self._own = own
        self._chats: dict[bytes, _Chat] = {}  # by channel
        self._unconfirmed: dict[bytes, asyncio.Future[Unavailable | None]] = {}
        self._due: list[bytes] = []  # channels to subscribe to at the end of the loop's turn

    def __len__(self) -> int:
        return len(self._chats)

    # -- what the connections call: see `Hearer` ------------------------------------------------

    def hear(self, channel: bytes, payload: bytes) -> None:
        """Hand on what was published in a chat."""
        chat = self._chats.get(channel)
        if chat is None:
            return
        event = self._own.take(payload)
        if event is None:
            self._listener.receive(chat.id, payload)
        else:
            self._listener.deliver(chat.id, event)

    def notice(self, note: bytes) -> None:
        """Hand on what a node has sent."""
        self._listener.notice(note)

    def confirm(self, channel: bytes) -> None:
        """Note that Redis has confirmed a subscription."""
        chat = self._chats.get(channel)
        if chat is not None:
            chat.confirmed = True
            self._answer(channel, None)

    def refused(self, error: RedisError) -> None:
        """Fail all waiting subscriptions: Redis doesn't say which channels it has refused."""
        failure = self._connections.failure(error, for_chat=True)
        failure.__cause__ = error
        self._fail(failure)

    def ended(self, channel: bytes, until: str) -> None:
        """Note that a sharded channel has moved to another server with its slot."""
        chat = self._chats.get(channel)
        if chat is not None and chat.confirmed:
            chat.confirmed, chat.heard_until = False, until
            self._listener.lost([chat.id])
            self._listener.restored()

    def restored(self) -> None:
        """Note that chats can be subscribed to again."""
        self._listener.restored()

    def lost(self, until: str) -> None:
        """Note for every chat until when it was heard."""
        for chat in self._chats.values():
            if chat.confirmed and chat.joined == self._connections.name:
                chat.heard_until = until
            chat.confirmed = False
        self._fail(Unavailable("the subscriber's connection was lost"))
        self._listener.lost()

    def _fail(self, error: Unavailable) -> None:
        for channel in list(self._unconfirmed):
            self._answer(channel, error)

    def _answer(self, channel: bytes, error: Unavailable | None) -> None:
        confirmation = self._unconfirmed.pop(channel, None)
        if confirmation is not None and not confirmation.done():
            confirmation.set_result(error)

    def guard(self, chat_id: str) -> str:
        """The name under which this node guards a chat; "" if it doesn't."""
        chat = self._chats.get(self._connections.names.channel(chat_id).encode())
        name = self._connections.name
        return name if chat is not None and chat.confirmed and chat.joined == name else ""

    # -- subscribing ----------------------------------------------------------------------------

    async def subscribe(self, chat_id: str, known: Position | None, *, renew: bool) -> Subscription:
        """See `Backend.subscribe`. Subscriptions of one turn of the loop share commands."""
        chat = await self._heard(chat_id)
        try:
            return await self._join(chat, known, renew)
        finally:
            chat.joining -= 1

    async def adopt(self, chat_id: str, is_heard: Callable[[], bool]) -> None:
        """Hear a chat's channel that this node has heard over another server, and join it next.

        ``is_heard``: whether it still hears it there, without a gap. It is asked once this server's channel
        is heard, too. Otherwise there is a gap of unknown length.
        """
        chat = await self._heard(chat_id)
        chat.joining -= 1
        chat.heard_until = EARLIEST
        chat.joined = self._connections.name if is_heard() else ""

    def forget(self, chat_id: str) -> None:
        """Stop hearing a chat, whose guard is another server's now."""
        channel = self._connections.names.channel(chat_id).encode()
        if self._chats.pop(channel, None) is not None:
            self._answer(channel, Unavailable("the chat has moved to another server"))
            self._send("UNSUBSCRIBE", [channel])

    async def _heard(self, chat_id: str) -> _Chat:
        """Wait until a chat's channel is heard. The caller has to count ``joining`` down afterwards."""
        channel = self._connections.names.channel(chat_id).encode()
        chat = self._chats.get(channel)
        if chat is None:
            chat = self._chats[channel] = _Chat(chat_id)
            if len(self._chats) == 1:
                self._connections.beat_soon()  # no longer idle
        chat.joining += 1
        chat.leaving = False
        try:
            if not chat.confirmed:
                await self._confirmed(channel)
        except BaseException:
            chat.joining -= 1
            raise
        return chat

    async def _confirmed(self, channel: bytes) -> None:
        if self._connections.state != "up":
            raise Unavailable("Redis is unavailable")
        confirmation = self._unconfirmed.get(channel)
        if confirmation is None:
            confirmation = self._unconfirmed[channel] = asyncio.get_running_loop().create_future()
            if not self._due:
                asyncio.get_running_loop().call_soon(self._subscribe_now)
            self._due.append(channel)
        await asyncio.wait([confirmation], timeout=self._settings.redis_timeout)
        if not confirmation.done():
            self._answer(channel, Unavailable("Redis has not confirmed the subscription in time"))
        if (error := confirmation.result()) is not None:
            raise error

    def _subscribe_now(self) -> None:
        due, self._due = self._due, []
        self._send("SUBSCRIBE", due)

    def _send(self, command: str, channels: Sequence[bytes]) -> None:
        subscriber, batch = self._connections.subscriber, BATCH
        if self._connections.names.sharded:
            command, batch = f"S{command}", 1  # all channels of one command have to be in one slot
        if subscriber is not None:
            for at in range(0, len(channels), batch):
                subscriber.send(command, *channels[at : at + batch])

    async def _join(self, chat: _Chat, known: Position | None, renew: bool) -> Subscription:
        names, name = self._connections.names, self._connections.name
        cursor, last = known or (Cursor("", 0), "")
        heard_until, no_gap = chat.heard_until, chat.joined == name
        if renew:
            heard_until, no_gap = "0" if known is None else EARLIEST, False
        with self._connections.asking(for_chat=True) as commands:
            epoch, offset, bodies, others, identity, marks = await JOIN(
                commands,
                [*names.chat_keys(chat.id), names.marks(chat.id)],
                self._connections.node,
                name,
                heard_until,
                cursor.epoch,
                cursor.offset,
                int(no_gap),
                secrets.token_hex(6),
                POSITION_SECONDS,
                names.node,
                int(renew or not self._settings.app_publishes_over_http),
                self._connections.lease * 1000,
                last,
            )
        if not chat.confirmed or self._connections.name != name:
            raise Unavailable("the connection has changed meanwhile")
        chat.joined, chat.heard_until = name, ""
        return Subscription(
            Position(Cursor(epoch.decode(), offset), identity.decode()),
            parse_events(bodies),
            bool(others),
            parse_marks(marks),
        )

    # -- unsubscribing --------------------------------------------------------------------------

    async def unsubscribe(self, chat_ids: Iterable[str]) -> None:
        """See `Backend.unsubscribe`. The guard is removed before the node stops listening."""
        # Without both connections no guard can be removed, and it would count when they are back.
        names, name = self._connections.names, self._connections.name
        if self._connections.subscriber is None or self._connections.commands is None:
            raise Unavailable("Redis is unavailable")
        leaving: dict[bytes, _Chat] = {}
        for chat_id in chat_ids:
            channel = names.channel(chat_id).encode()
            chat = self._chats.get(channel)
            if chat is not None and not chat.joining:
                chat.leaving = True
                leaving[channel] = chat
        guard = f"guard:{name}"
        with self._connections.asking() as commands:
            await asyncio.gather(
                *(commands.call("HDEL", names.key(chat.id, "meta"), guard) for chat in leaving.values())
            )
        if self._connections.name != name:
            raise Unavailable("the connection has changed meanwhile")  # they may guard under a new name
        gone = [channel for channel, chat in leaving.items() if chat.leaving]
        for channel in gone:
            del self._chats[channel]
            self._answer(channel, None)
        self._send("UNSUBSCRIBE", gone)
