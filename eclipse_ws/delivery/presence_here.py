"""The users of this node: who is in the chats of which this node or others have to know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final, Protocol

from eclipse_ws.delivery.presence_notes import LISTED, Crowd, Here
from eclipse_ws.delivery.presence_peer import Peer
from eclipse_ws.delivery.presence_sender import Known, Sender
from eclipse_ws.delivery.presence_view import NOBODY, News
from eclipse_ws.delivery.tasks import Tasks

SURVEYED: Final = 200
"""Chats at which a survey looks in one turn of the loop."""


class Audience(Protocol):
    """The sessions of this node. All methods are synchronous, and must not block."""

    def occupied(self) -> list[str]:
        """The chats with sessions on this node."""

    def users(self, chat_id: str) -> Mapping[str, Here]:
        """The users with sessions in a chat on this node."""

    def present(self, chat_id: str, news: News) -> None:
        """Tell the chat's sessions that watch it."""


class UsersHere:
    """Finds out who is here, as far as anybody has to know, and forgets it when nobody has to any more."""

    def __init__(self, known: Known, sender: Sender, clock: Callable[[], float]) -> None:
        self.crowds: set[str] = set()
        """Chats with many users, which are read again later: others hear about them once a second."""
        self._known = known
        self._sender = sender
        self._clock = clock
        self._takers = 0  # how many other nodes take the census
        self._audience: Audience
        self._tasks: Tasks

    def start(self, audience: Audience, tasks: Tasks) -> None:
        """Begin; surveys run among the tasks."""
        self._audience, self._tasks = audience, tasks

    @property
    def has_takers(self) -> bool:
        """Whether another node takes the census."""
        return self._takers > 0

    def is_told(self, chat_id: str) -> bool:
        """Whether other nodes have to know of a chat's users here."""
        return self._takers > 0 or chat_id in self._known.watchers

    def is_needed(self, chat_id: str) -> bool:
        """Whether this node or others have to."""
        return chat_id in self._known.views or self._known.census is not None or self.is_told(chat_id)

    def postpone(self, chat_id: str) -> bool:
        """Whether a chat that has changed is so large that it is read again later."""
        if self._known.mine.get(chat_id, NOBODY).count <= LISTED:
            return False
        self.crowds.add(chat_id)
        return True

    def read(self, chat_id: str) -> Crowd:
        """The users of a chat who are here."""
        self.crowds.discard(chat_id)
        crowd = Crowd.of(self._audience.users(chat_id))
        if crowd.users:
            self._known.mine[chat_id] = crowd
        else:
            self._known.mine.pop(chat_id, None)
        return crowd

    def forget_if_unneeded(self, chat_id: str) -> None:
        """Forget who is in a chat, unless somebody has to know."""
        if not self.is_needed(chat_id):
            self._known.mine.pop(chat_id, None)
            self.crowds.discard(chat_id)

    def forget_unneeded(self) -> None:
        """Forget it for all chats, after a census."""
        if not self._takers and self._known.census is None:
            self._known.surveying.clear()
            for chat_id in list(self._known.mine):
                self.forget_if_unneeded(chat_id)

    # -- for a census -----------------------------------------------------------------------------

    def survey(self) -> None:
        """Find out who is in all chats of this node, soon."""
        before, chats = bool(self._known.surveying), self._audience.occupied()
        self._known.surveying.update(dict.fromkeys(chats))
        if chats and not before:
            self._tasks.start(self._look_at_all(), name="census")

    async def _look_at_all(self) -> None:
        """Look at the surveyed chats, some in each turn of the loop."""
        surveying = self._known.surveying
        while surveying:
            for chat_id in list(islice(surveying, SURVEYED)):
                del surveying[chat_id]
                crowd = self.read(chat_id)
                if crowd.users and self._takers:
                    self._known.told.setdefault(chat_id, crowd)  # they ask until they know all of it
                if crowd.users and (census := self._known.census) is not None:
                    census.chat(chat_id, self._clock()).put(self._known.node, crowd)
                    census.update(chat_id, self._clock())
            await asyncio.sleep(0)

    def taken_by(self, peer: Peer, takes: bool) -> None:
        """Note that another node takes the census, or no longer does."""
        if takes == peer.takes_census:
            return
        peer.takes_census = takes
        self._takers += 1 if takes else -1
        if takes and self._takers == 1:
            self.survey()
        elif not self._takers:
            for told in (self._known.told, self._sender.changed):
                for chat_id in told.keys() - self._known.watchers.keys():
                    told.pop(chat_id)
            self.forget_unneeded()
