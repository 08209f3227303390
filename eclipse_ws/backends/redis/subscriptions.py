"""The chats that this node hears: what is wanted, what Redis has confirmed, and who guards."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable

import structlog
from redis.exceptions import RedisError

from eclipse_ws.backends.base import Subscriber
from eclipse_ws.backends.redis.channel import Channel, parse_events
from eclipse_ws.backends.redis.connection import LinkError
from eclipse_ws.backends.redis.connections import Links
from eclipse_ws.backends.redis.scripts import JOIN
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import Cursor, Event

log = structlog.get_logger("eclipse_ws.redis")

BATCH = 500
"""Chats that are subscribed or joined in one piece where thousands are due."""
POSITION_SECONDS = 86400
"""How long an untouched chat's position is kept, in seconds: longer than a silent session lives."""
TAKEN = 2
"""Chats taken over per session that a node may have: a full node's chats, and as many that linger on it."""
RETRY, LONGEST_RETRY, SOON = 1.0, 30.0, 0.1
"""Seconds until a join is tried again: after a refusal, after many, and after its link has gone."""
HAND_OVER_TIMEOUT = 5.0
"""Seconds that other nodes have to take over a stopping node's chats."""
ROUNDS = 5
"""How often a join asks Redis at the most until what came meanwhile follows what it was told."""


class Subscriptions:
    """Reconciles the chats that are wanted with those that are subscribed, whatever becomes of the links."""

    def __init__(
        self,
        settings: Settings,
        links: Links,
        subscriber: Subscriber,
        tell_nodes: Callable[[list[str]], None],
    ) -> None:
        self._settings = settings
        self._links = links
        self._subscriber = subscriber
        self._tell_nodes = tell_nodes
        self._loop = asyncio.get_running_loop()
        self._channels: dict[str, Channel] = {}
        self._taken: set[str] = set()  # chats that were taken over, and that nobody has joined yet
        self._to_subscribe: list[str] = []
        self._to_look_again: list[str] = []
        self._joins: set[asyncio.Task[None]] = set()
        # Thousands of joins at once would outlast the time that the last of them has for its answer.
        self._joining = asyncio.Semaphore(BATCH)
        self._closed = False
        self._sweeper: asyncio.Task[None] | None = asyncio.create_task(self._sweep(), name="redis linger")
        self._again: asyncio.TimerHandle | None = None  # when refused subscriptions are tried again
        self._refusals = 0
        self.forged_dropped = 0

    def __len__(self) -> int:
        return len(self._channels)

    def chats(self) -> list[str]:
        """The chats that this node hears, those that linger among them."""
        return list(self._channels)

    def get(self, chat_id: str) -> Channel | None:
        """The chat's channel, if this node wants it."""
        return self._channels.get(chat_id)

    async def close(self) -> None:
        """Stop looking after the chats."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        tasks = [*self._joins, *([self._sweeper] if self._sweeper else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in self._channels.values():
            self._settle(channel)
        self._channels.clear()

    # -- what the hub wants ---------------------------------------------------------------------

    async def subscribe(self, chat_id: str) -> None:
        """Hear a chat; waits until it is live, as long as Redis is there."""
        channel = self._want(chat_id)
        channel.members = True
        self._taken.discard(chat_id)
        if channel.live:
            return
        if self._links.state == "up":
            if channel.ready is None:
                channel.ready = self._loop.create_future()
            await asyncio.wait([channel.ready], timeout=self._settings.redis_timeout)
        # Whoever is greeted now doesn't know how much has passed when the position becomes known.
        if channel.position is None:
            channel.unsure = True

    async def take_over(self, chat_ids: Iterable[str]) -> list[str]:
        """Hear another node's chats, which linger here until somebody joins; tell which are not heard yet.

        At most `TAKEN` for each session that this node may have linger at once, so that no peer fills it.
        """
        wanted, refused = [], []
        most = TAKEN * self._settings.max_sessions
        for chat_id in chat_ids:
            known = self._channels.get(chat_id)
            if known is None and len(self._taken) >= most:
                refused.append(chat_id)
                continue
            channel = known or self._want(chat_id)
            if known is None:
                channel.members = False
                self._taken.add(chat_id)
            if not channel.members:
                channel.expires = time.monotonic() + self._settings.history_seconds
            if not channel.live and channel.ready is None:
                channel.ready = self._loop.create_future()
            wanted.append(channel)
        waiting = [channel.ready for channel in wanted if channel.ready is not None and not channel.live]
        if waiting:
            # Half of it: the answer has to be there before who asks has waited all of it.
            await asyncio.wait(waiting, timeout=HAND_OVER_TIMEOUT / 2)
        if refused:
            log.warning("chats not taken over, as many linger as may", chats=len(refused), limit=most)
        return refused + [channel.chat_id for channel in wanted if not channel.live]

    def unsubscribe(self, chat_id: str) -> None:
        """Let a chat linger for the history's lifetime."""
        channel = self._channels.get(chat_id)
        if channel is not None and channel.members:
            channel.members = False
            channel.expires = time.monotonic() + self._settings.history_seconds

    def _want(self, chat_id: str) -> Channel:
        channel = self._channels.get(chat_id)
        if channel is None:
            channel = Channel(chat_id, self._settings.history_events, self._subscriber.deliver)
            self._channels[chat_id] = channel
            if len(self._channels) == 1:
                self._links.beat_soon()  # no longer idle
            self._subscribe_soon([chat_id])
        return channel

    # -- what the links tell --------------------------------------------------------------------

    def on_subscriber(self) -> None:
        """Ask for every chat on a new link."""
        self._subscribe_soon(self._channels)

    def on_deaf(self, until: str) -> None:
        """Note for every chat until when it was heard."""
        for channel in self._channels.values():
            if channel.confirmed and channel.link == self._links.name:
                channel.heard_until = until
            channel.confirmed = channel.live = False

    def on_commands(self) -> None:
        """Subscribe and join what couldn't be without commands."""
        self._subscribe_rest()
        for channel in self._channels.values():
            if channel.confirmed and not channel.live:
                self.join(channel)

    def on_refused(self, error: RedisError) -> None:
        """Redis has refused to subscribe to some chats: have them tried again."""
        if not self._links.doubt(error) and self._again is None:
            if self._refusals == 1:  # the first one may be what a refusal of everything begins with
                log.warning("chats not subscribed, it is tried again", why=str(error))
            self._refusals += 1
            self._again = self._loop.call_later(RETRY, self._subscribe_rest)

    def _subscribe_rest(self) -> None:
        """Subscribe to the chats that are wanted and not confirmed."""
        self._again = None
        rest = [chat_id for chat_id, channel in self._channels.items() if not channel.confirmed]
        if rest:
            self._subscribe_soon(rest)
        else:
            self._refusals = 0

    def confirm(self, chat_id: str) -> None:
        """Redis says that the subscription stands."""
        channel = self._channels.get(chat_id)
        if channel is not None and not channel.confirmed:
            channel.confirmed = True
            self.join(channel)

    def look_again(self, chat_ids: Iterable[str]) -> None:
        """Another node has begun a new epoch of these chats."""
        for chat_id in chat_ids:
            channel = self._channels.get(chat_id)
            if channel is not None and channel.live:
                channel.live = False
                self.join(channel)

    def break_off(self, chat_id: str, epoch: str = "") -> None:
        """Begin a new epoch of a chat: something that all should have had is lost.

        With ``epoch`` only if the chat is still in that one: every node knows of the loss, and the first one
        does it.
        """
        known = chat_id in self._channels
        if epoch and (not known or self._channels[chat_id].epoch != epoch):
            return
        channel = self._want(chat_id)
        if not known:  # nobody of this node is in it: it is joined for this alone, and let go again
            channel.members = False
            channel.expires = time.monotonic() + self._settings.history_seconds
        self._break(channel, epoch)
        if channel.confirmed:
            self.join(channel)

    @staticmethod
    def _break(channel: Channel, epoch: str = "") -> None:
        """Have the next join begin a new epoch; with ``epoch`` only if Redis is still in that one."""
        # Heard until 1 ms is before every guard of this epoch, until 0 forces a new one whatever there is.
        if not channel.broken or not epoch:
            channel.heard_until = "1" if epoch else "0"
        channel.link, channel.broken, channel.live = "", True, False

    def _subscribe_soon(self, chat_ids: Iterable[str]) -> None:
        if not self._to_subscribe:
            self._loop.call_soon(self._subscribe_now)
        self._to_subscribe.extend(chat_ids)

    def _subscribe_now(self) -> None:
        due, self._to_subscribe = self._to_subscribe, []
        subscriber = self._links.subscriber
        if subscriber is None or not self._links.hearing:
            return  # on_subscriber asks for all of them
        for at in range(0, len(due), BATCH):
            subscriber.tell("SUBSCRIBE", *map(self._links.names.channel, due[at : at + BATCH]))

    # -- joining --------------------------------------------------------------------------------

    def join(self, channel: Channel) -> None:
        """Find out where a chat is, deliver what was missed, and go live."""
        if channel.joining or self._closed:
            return
        channel.joining = True
        task = asyncio.create_task(self._join(channel))
        self._joins.add(task)
        task.add_done_callback(self._joins.discard)

    async def _join(self, channel: Channel) -> None:
        done, pause = False, SOON
        try:
            async with self._joining:
                done = await self._catch_up(channel)
        except LinkError as error:
            log.debug("chat not joined, it is tried again", chat=channel.chat_id, why=str(error))
        except RedisError as error:
            channel.refusals += 1
            pause = min(LONGEST_RETRY, RETRY * 2 ** min(channel.refusals - 1, 5))
            # If Redis has accepted a heartbeat since the first refusal, the second concerns this chat.
            if not self._links.doubt(error) and channel.refusals == 2:
                log.warning("chat not joined, it is tried again", chat=channel.chat_id, why=str(error))
        finally:
            channel.joining = False
        if not done and not self._closed:
            self._loop.call_later(pause, self._join_again, channel)

    def _join_again(self, channel: Channel) -> None:
        known = self._channels.get(channel.chat_id) is channel
        if known and channel.confirmed and not channel.live and self._links.commands is not None:
            self.join(channel)

    async def _catch_up(self, channel: Channel) -> bool:
        """Ask Redis until the channel is live; False if that has to be tried later."""
        back = False
        for _ in range(ROUNDS):
            before = frozenset(channel.waiting or ())
            commands, link = self._links.commands, self._links.name
            if commands is None:
                return False
            known, broken = channel.position, channel.broken
            answer = await JOIN(
                commands,
                self._links.names.chat_keys(channel.chat_id),
                self._links.node,
                link,
                channel.heard_until,
                known.epoch if known else "",
                known.offset if known else 0,
                int(channel.link == link),
                secrets.token_hex(6),
                POSITION_SECONDS,
                self._links.names.node,
                int(broken or not self._settings.app_publishes_over_http),
                self._links.lease * 1000,
                channel.last,
            )
            if not channel.confirmed or self._links.name != link:
                return False  # the link that it speaks of has gone meanwhile
            if channel.broken and not broken:
                continue  # it was broken off meanwhile
            epoch, offset, bodies, others, last = answer
            position = Cursor(epoch.decode(), offset)
            if position.epoch in channel.left:
                # That one was over: Redis has gone back in time (see join.lua).
                self._break(channel)
                back = True
                continue
            channel.link, channel.heard_until, channel.broken, channel.refusals = link, "", False, 0
            missed = parse_events(bodies)
            if channel.unsure or (known is not None and missed is None):
                # Before anything of the new epoch is delivered: a session that got some of it would
                # come back with a cursor behind what it has missed.
                self._subscriber.interrupt(channel.chat_id)
            channel.unsure = False
            left, forged = channel.catch_up(position, missed, before, last.decode())
            if forged:
                self._drop_forged(channel, forged)
            if others or back:
                self._look_again_soon(channel.chat_id)
            if not left:
                self._settle(channel)
                return True
            channel.live = False
            channel.wait_for(left)
        return False

    def _drop_forged(self, channel: Channel, forged: list[Event]) -> None:
        assert channel.position is not None
        self.forged_dropped += len(forged)
        ours = [e for e in forged if e.cursor and e.cursor.epoch == channel.position.epoch]
        if ours:
            log.warning("events with forged cursors dropped", chat=channel.chat_id, count=len(ours))
        else:  # perhaps of an epoch that has just ended
            log.info("events of another epoch dropped", chat=channel.chat_id, count=len(forged))

    def _look_again_soon(self, chat_id: str) -> None:
        if not self._to_look_again:
            self._loop.call_soon(self._look_again_now)
        self._to_look_again.append(chat_id)

    def _look_again_now(self) -> None:
        due, self._to_look_again = self._to_look_again, []
        for at in range(0, len(due), BATCH):
            self._tell_nodes(due[at : at + BATCH])

    @staticmethod
    def _settle(channel: Channel) -> None:
        ready, channel.ready = channel.ready, None
        if ready is not None and not ready.done():
            ready.set_result(None)

    # -- lingering ------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        interval = max(0.05, min(5.0, self._settings.history_seconds / 4))
        while True:
            await asyncio.sleep(interval)
            now = time.monotonic()
            due = [c for c in self._channels.values() if not c.members and c.expires <= now and not c.joining]
            for at in range(0, len(due), BATCH):
                try:
                    await self._let_go(due[at : at + BATCH])
                except (LinkError, RedisError) as error:
                    if not self._links.doubt(error):
                        log.warning("chats not let go, it is tried again", why=str(error))
                except Exception:
                    log.exception("lingering failed")

    async def _let_go(self, due: list[Channel]) -> None:
        commands, subscriber, link = self._links.commands, self._links.subscriber, self._links.name
        if commands is None or subscriber is None:
            return  # a guard can't be withdrawn now, and it would be believed once the links are back
        key = self._links.names.key
        # First the guard, then the subscription: nobody may rely on who no longer listens.
        gone = [commands.call("HDEL", key(c.chat_id, "meta"), f"guard:{link}") for c in due]
        await asyncio.gather(*gone)
        if self._links.name != link:
            return  # they guard under another name now
        names = []
        for channel in due:
            if channel.members or channel.joining:
                channel.live = False
                self.join(channel)  # somebody has come back meanwhile: guard it again
                continue
            del self._channels[channel.chat_id]
            self._taken.discard(channel.chat_id)
            self._settle(channel)
            names.append(self._links.names.channel(channel.chat_id))
        if names:
            subscriber.tell("UNSUBSCRIBE", *names)
