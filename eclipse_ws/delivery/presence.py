"""Presence: who is in a chat, over all nodes, for the chats that somebody watches. Nothing of it is stored.

A node *watches* a chat while sessions of it do. It tells all nodes; each of them answers with its own users
there, and from then on tells all nodes how they change. So two things are known of another node, which begin
when something is heard of it, and end with it: which chats it watches (`Peer`), and which users it has in the
chats that this node watches (`View`). A chat that nobody watches costs nothing.

Another node::

                    ┌────────── any note of it ──────────┐
                    ▼                                    │
    unknown ──▶ heard ──silent for SILENCE──▶ questioned ┴─silent for PATIENCE──▶ gone, with its users
       ▲            │                                                              │
       └────────────┴── it says bye: its users have GRACE to appear elsewhere ─────┴─▶ unknown

- **What a node says is ordered**: its notes count on, and those to all nodes are a stream in which each names
  the one before. A node that misses one, or was without its backend, asks for everything. What it knows stays
  until the answer is there, so that nobody seems to go.
- **It is state, not history**: a change says who is there now; to hear it twice changes nothing.
- **Who moves stays**: a user is there while any node has them, and for `GRACE` after that. So nobody sees
  a reload, a drain, a restart, or a move away from a node that was killed. Users of a node that is gone, and
  who are nowhere else, have been silent for longer than that, and go with it.
- **Silence is only judged while the backend is up**, and not for the time in which this process stood still.
  Nodes that watch, or have users where others do, show themselves by their beacon, which the backend's
  heartbeats carry; the others are of no consequence.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from eclipse_ws.backends.base import Backend, Unavailable
from eclipse_ws.delivery.census import Census
from eclipse_ws.delivery.cluster import Cluster
from eclipse_ws.delivery.presence_here import Audience, UsersHere
from eclipse_ws.delivery.presence_notes import Crowd, PresenceNote
from eclipse_ws.delivery.presence_peer import MAX_WATCHED, Everything, Peer
from eclipse_ws.delivery.presence_sender import Known, Sender
from eclipse_ws.delivery.presence_view import NOBODY, Roster, Sources, View
from eclipse_ws.delivery.tasks import Tasks

log = structlog.get_logger("eclipse_ws.presence")

TICK: Final = 1.0
"""Seconds between two looks at what is due."""
SILENCE: Final = 12.0
"""Seconds after which a silent node is asked whether it lives: more than between two beacons."""
PATIENCE: Final = 3.0
"""Seconds that it has to answer."""
READY: Final = 1.0
"""Seconds that the other nodes have to say who is in a chat."""
MAX_NODES: Final = 1000
"""Other nodes that are known at once."""


class Presence:
    """Which users are in the watched chats."""

    def __init__(
        self, backend: Backend, cluster: Cluster, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.notes_heard = 0
        self.gone: Callable[[str], None] = lambda node: None
        """Hears which node is gone. It must not block."""
        self._backend = backend
        self._clock = clock
        self._known = known = Known()
        self._views, self._peers, self._mine = known.views, known.peers, known.mine
        self._watchers = known.watchers
        self._sender = Sender(backend, cluster, known, self._asked)
        self._here = UsersHere(known, self._sender, clock)
        self._due: set[str] = set()  # views in which something will happen by itself
        self._waiting: dict[
            int, tuple[set[str], list[str]]
        ] = {}  # by note: who has to answer, for which chats
        self._ticked = 0.0
        self._tasks = Tasks()
        self._closed = False
        self._audience: Audience

    def start(self, audience: Audience) -> None:
        """Begin; before the backend does."""
        self._audience = audience
        self._here.start(audience, self._tasks)
        self._ticked = self._clock()
        self._tasks.start(self._tick_forever(), name="presence")
        if self._backend.is_shared:
            self._tasks.start(self._sender.run(), name="presence notes")

    async def close(self) -> None:
        """Say goodbye, if anybody knows this node, and stop. Idempotent."""
        before, self._closed = self._closed, True
        await self._tasks.close()
        self._backend.beacon = b""
        if self._peers and not before and self._backend.health.state == "up":
            try:
                async with asyncio.timeout(self._backend.timeout):
                    await self._sender.goodbye()
            except (Unavailable, TimeoutError) as error:
                log.debug("goodbye not sent", why=str(error))

    # -- what the hub says and asks ---------------------------------------------------------------

    @property
    def chats(self) -> int:
        """How many chats sessions of this node watch."""
        return len(self._views)

    @property
    def users(self) -> int:
        """How many users, of all nodes, are known in these chats."""
        return sum(len(view.users) for view in self._views.values())

    @property
    def notes_sent(self) -> int:
        """How many notes this node has sent."""
        return self._sender.sent

    def watch(self, chat_id: str) -> None:
        """Sessions of this node watch a chat from now on. Idempotent."""
        if chat_id in self._views:
            return
        view = self._views[chat_id] = View(self._clock() + READY)
        self._look(chat_id)
        if self._peers and self._backend.health.state == "up" and len(self._views) <= MAX_WATCHED:
            self._due.add(chat_id)
        else:
            view.begin(self._clock())
        self._rewatch(chat_id)

    def unwatch(self, chat_id: str) -> None:
        """No session of this node watches a chat any more. Idempotent."""
        view = self._views.pop(chat_id, None)
        if view is None:
            return
        if self._known.census is None or chat_id not in self._known.census:
            for peer in filter(None, map(self._peers.get, view.at)):
                peer.there.discard(chat_id)
        self._due.discard(chat_id)
        self._here.forget_if_unneeded(chat_id)
        self._rewatch(chat_id)

    def changed(self, chat_id: str) -> None:
        """The users of a chat on this node may have changed."""
        if self._here.is_needed(chat_id) and not self._here.postpone(chat_id):
            self._look(chat_id)

    def roster(self, chat_id: str) -> Roster | None:
        """Who is in a watched chat; None if that is not known yet: then all its sessions will be told."""
        view = self._views.get(chat_id)
        return view.roster() if view is not None and view.ready else None

    # -- the census -------------------------------------------------------------------------------

    @property
    def node(self) -> str:
        """This process's name."""
        return self._known.node

    def knows(self, node: str) -> bool:
        """Whether a node is known, which may be this one."""
        return node == self._known.node or node in self._peers

    def take_census(self, changed: Callable[[str], None]) -> Census:
        """Hear of the users in all chats on all nodes from now on; see `Census`."""
        census = self._known.census = Census(changed)
        for peer in self._peers.values():
            peer.count_again()
        self._here.survey()
        self._announce_census()
        return census

    def end_census(self) -> None:
        """Hear no more of them. Idempotent."""
        if self._known.census is None:
            return
        self._known.census = None
        for peer in self._peers.values():
            peer.there &= self._views.keys()
        self._here.forget_unneeded()
        self._announce_census()

    @property
    def is_census_complete(self) -> bool:
        """Whether all nodes, as far as they are known, have told the census all of their users."""
        return not self._known.surveying and all(peer.is_counted for peer in self._peers.values())

    def _announce_census(self) -> None:
        if self._backend.is_shared:
            self._sender.census_due = True
            self._sender.wake()

    # -- what delivery says -----------------------------------------------------------------------

    def restored(self) -> None:
        """The backend is back: others may have said anything meanwhile.

        They are asked where their streams are, which shows whether something was missed, and if this node
        watches, for everything: what was meant for it alone is in no stream.
        """
        for peer in self._peers.values():
            peer.silence, peer.questioned = 0.0, None
            if self._known.listens:
                peer.suspect()
        self._sender.hello_due = True
        self._sender.wake()

    def hear(self, note: PresenceNote) -> None:
        """Take another node's note, or this one's own."""
        if note.node == self._known.node or self._closed:
            return
        self.notes_heard += 1
        peer = self._peers.get(note.node)
        if peer is None:
            if note.bye or len(self._peers) >= MAX_NODES:
                return
            # If its stream has not begun, it watches nothing, and there is nothing to be asked.
            peer = Peer(note.node, suspect=self._known.listens or note.last > 0)
            self._peers[note.node] = peer
        if note.bye:
            self._lose(peer)
            return
        peer.hear(note)
        if note.stream:
            if peer.follow(note):
                self._apply(peer, note)
        elif note.parts:
            if (everything := peer.collect(note)) is not None:
                self._replace(peer, everything)
        else:
            self._take(peer, note)
        self._sender.wake()

    def _take(self, peer: Peer, note: PresenceNote) -> None:
        """Take what a node says to this one alone."""
        for chat_id, crowd in note.here.items():
            for known in self._known_of(chat_id):
                if known.at.get(peer.node, 0) > note.at:  # a change was heard before what it changes
                    peer.suspect()
                else:
                    self._put(peer, chat_id, known, crowd, note.at)
        if note.answers:
            self._answered(peer, note.answers)
        peer.answer_due = peer.answer_due or note.hello
        peer.all_due = peer.all_due or note.ask
        if note.fresh:
            peer.count_again()
            if not peer.is_suspect:
                peer.suspect()

    def _apply(self, peer: Peer, note: PresenceNote) -> None:
        """Take what a stream says."""
        for chat_id in note.watch:
            self._watched_by(peer, chat_id)
        if note.watch:
            peer.answers = note.at
        for chat_id in note.unwatch:
            self._unwatched_by(peer, chat_id)
        for chat_id, change in note.changes.items():
            for known in self._known_of(chat_id):
                if known.at.get(peer.node, 0) < note.at:
                    known.change(peer.node, change, note.at)
                    peer.there.add(chat_id)
                    self._updated(chat_id, known)
        if note.census is not None:
            self._here.taken_by(peer, note.census)

    def _known_of(self, chat_id: str) -> list[Sources]:
        """What this node has to know of a chat's users: for sessions that watch it, for the census."""
        view, census = self._views.get(chat_id), self._known.census
        found: list[Sources] = [] if view is None else [view]
        return found if census is None else [*found, census.chat(chat_id, self._clock())]

    def _put(self, peer: Peer, chat_id: str, known: Sources, crowd: Crowd, at: int) -> None:
        """Take a node's users in a chat, whatever was known of them."""
        known.put(peer.node, crowd, at)
        peer.there.add(chat_id)
        self._updated(chat_id, known)

    def _updated(self, chat_id: str, known: Sources, grace: float | None = None) -> None:
        if isinstance(known, View):
            self._update(chat_id, known, grace)
        elif self._known.census is not None:
            self._known.census.update(chat_id, self._clock())

    def _replace(self, peer: Peer, everything: Everything) -> None:
        """Take everything that a node says, instead of what was known of it."""
        for chat_id in peer.watches - everything.watches:
            self._unwatched_by(peer, chat_id)
        for chat_id in everything.watches - peer.watches:
            self._watched_by(peer, chat_id)
        for chat_id in (*everything.here, *(peer.there - everything.here.keys())):
            if chat_id not in everything.here and not (everything.is_complete or chat_id in self._views):
                continue  # the node was not asked for it
            for known in self._known_of(chat_id):
                if known.full_at.get(peer.node, 0) < everything.at:
                    self._put(peer, chat_id, known, everything.here.get(chat_id, NOBODY), everything.at)
        peer.is_counted = everything.is_complete
        if everything.census is not None:
            self._here.taken_by(peer, everything.census)
        for note in everything.later:
            self._apply(peer, note)

    def _asked(self, at: int, chats: list[str]) -> None:
        """All nodes are asked for their users in these chats."""
        nodes = {peer.node for peer in self._peers.values() if peer.questioned is None}
        if nodes:
            self._waiting[at] = nodes, chats
        else:
            self._begin(chats)

    def _answered(self, peer: Peer, newest: int) -> None:
        for at, (nodes, chats) in list(self._waiting.items()):
            if at <= newest:
                nodes.discard(peer.node)
                if not nodes:
                    del self._waiting[at]
                    self._begin(chats)

    def _begin(self, chats: Iterable[str]) -> None:
        """Tell the sessions of these chats who is there, if they are not told yet."""
        for chat_id in chats:
            view = self._views.get(chat_id)
            if view is not None and not view.ready:
                self._audience.present(chat_id, view.begin(self._clock()))
                self._note_due(chat_id, view)

    def _lose(self, peer: Peer, grace: float | None = None) -> None:
        """Forget a node, and after the grace its users that no other node has."""
        del self._peers[peer.node]
        for chat_id in list(peer.watches):
            self._unwatched_by(peer, chat_id)
        self._here.taken_by(peer, False)
        for chat_id in peer.there:
            for known in self._known_of(chat_id):
                known.drop(peer.node)
                self._updated(chat_id, known, grace)
        self._answered(peer, self._sender.at)
        self.gone(peer.node)

    # -- the chats --------------------------------------------------------------------------------

    def _look(self, chat_id: str) -> None:
        """Find out which users of a watched chat are here, and say what is new."""
        crowd = self._here.read(chat_id)
        for known in self._known_of(chat_id):
            known.put(self._known.node, crowd)
            self._updated(chat_id, known)
        if self._here.is_told(chat_id):
            self._sender.changed[chat_id] = None
            self._sender.wake()

    def _update(self, chat_id: str, view: View, grace: float | None = None) -> None:
        for news in view.update(self._clock(), grace):
            self._audience.present(chat_id, news)
        self._note_due(chat_id, view)

    def _note_due(self, chat_id: str, view: View) -> None:
        if view.is_due:
            self._due.add(chat_id)
        else:
            self._due.discard(chat_id)

    def _rewatch(self, chat_id: str) -> None:
        if self._backend.is_shared:
            self._sender.watching[chat_id] = None
            self._sender.wake()

    def _watched_by(self, peer: Peer, chat_id: str) -> None:
        if chat_id not in peer.watches:
            if len(peer.watches) >= MAX_WATCHED:
                return
            peer.watches.add(chat_id)
            self._watchers[chat_id] = self._watchers.get(chat_id, 0) + 1
            if chat_id not in self._known.told:
                counted = self._here.has_takers  # then those who take the census have to hear of it, too
                if counted or chat_id not in self._views:
                    self._look(chat_id)
                self._known.told[chat_id] = NOBODY if counted else self._mine.get(chat_id, NOBODY)
        peer.here_due.add(chat_id)

    def _unwatched_by(self, peer: Peer, chat_id: str) -> None:
        peer.here_due.discard(chat_id)
        if chat_id in peer.watches:
            peer.watches.discard(chat_id)
            self._watchers[chat_id] -= 1
            if not self._watchers[chat_id]:
                del self._watchers[chat_id]
                if not self._here.has_takers or not self._known.told[chat_id].users:
                    del self._known.told[chat_id]
                if not self._here.has_takers:
                    self._sender.changed.pop(chat_id, None)
                self._here.forget_if_unneeded(chat_id)

    # -- what happens by itself -------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            try:
                self.tick()
            except Exception:
                log.exception("presence not updated")

    def tick(self) -> None:
        """Do what is due."""
        now = self._clock()
        passed = min(now - self._ticked, 2 * TICK)  # while this process stood still nobody was silent
        self._ticked = now
        for chat_id in list(self._here.crowds):
            self._look(chat_id)
        for chat_id in list(self._due):
            view = self._views.get(chat_id)
            if view is not None and not view.ready and view.ready_by <= now:
                self._begin([chat_id])
            elif view is not None:
                self._update(chat_id, view)
        if self._known.census is not None:
            for chat_id in set(self._known.census.forget(now)) - self._views.keys():
                for peer in self._peers.values():
                    peer.there.discard(chat_id)
        if self._backend.is_shared and self._backend.health.state == "up":
            self._look_after(passed)
            self._sender.show(now)
            self._sender.wake()

    def _look_after(self, passed: float) -> None:
        """See which nodes live, and whether they hear this one."""
        for at, (nodes, chats) in list(self._waiting.items()):
            if all(view.ready for view in map(self._views.get, chats) if view is not None):
                del self._waiting[at]
                for peer in filter(None, map(self._peers.get, nodes)):  # they had their time
                    peer.suspect()
                    peer.silence = max(peer.silence, SILENCE)
        for peer in list(self._peers.values()):
            peer.tick(passed, counting=self._known.census is not None)
            if peer.questioned is not None and peer.questioned >= PATIENCE:
                log.info("node gone", node=peer.node, chats=len(peer.there))
                self._lose(peer, 0.0)
            elif peer.questioned is None and peer.matters and peer.silence >= SILENCE:
                peer.question_due = True
        if self._sender.address != self._backend.address:  # what was sent to the old one may be lost
            self.restored()
