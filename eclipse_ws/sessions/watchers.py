"""Presence and this node's sessions: which users are in their chats, and what those that watch are told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from eclipse_ws import protocol
from eclipse_ws.delivery.presence import Presence
from eclipse_ws.delivery.presence_notes import Here, longest
from eclipse_ws.delivery.presence_view import Came, Count, News, Roster
from eclipse_ws.protocol import Event, moment
from eclipse_ws.protocol.schema import ChatPresence, PresentSessions
from eclipse_ws.sessions.members import Member, Members

PRESENCE: Final = "presence"
"""The type of events that a session that watches has asked for."""


class Watchers:
    """Tells presence who comes and goes, and sessions what presence finds out.

    A session that has asked for presence watches each chat that it is in. Nothing is kept for the others: who
    is in a chat is found out when a node begins to watch it.
    """

    def __init__(
        self,
        presence: Presence,
        chats: Mapping[str, Members],
        signal: Callable[[str, Event, Member | None], None],
    ) -> None:
        self._presence = presence
        self._chats = chats
        self._signal = signal
        self._zero = time.time() - time.monotonic()  # the same for all, so that nobody seems to move in time

    def joined(self, chat: Members, session: Member) -> None:
        """Tell who watches a chat that a session has joined it, and the session who is there.

        It is to hear what is sent from the same turn of the loop on.
        """
        if session.has_joined:
            if session.came is None:
                session.came = {}
            session.came[chat.chat_id] = time.monotonic()
        watches = PRESENCE in session.kinds
        if watches:
            self._presence.watch(chat.chat_id)
        self._presence.changed(chat.chat_id)
        if watches and (roster := self._presence.roster(chat.chat_id)) is not None:
            self._signal(chat.chat_id, _event(roster), session)

    def left(self, chat: Members, session: Member) -> None:
        """Tell who watches a chat that a session, which hears nothing more, has left it."""
        if session.came is not None:
            session.came.pop(chat.chat_id, None)
        if PRESENCE in session.kinds and not chat.opted(PRESENCE):
            self._presence.unwatch(chat.chat_id)
        self._presence.changed(chat.chat_id)

    def changed(self, session: Member) -> None:
        """Tell who watches a session's chats that its user has another role."""
        for chat_id in session.chats:
            self._presence.changed(chat_id)

    def users(self, chat_id: str) -> dict[str, Here]:
        """The users with sessions in a chat on this node."""
        chat = self._chats.get(chat_id)
        found: dict[str, Here] = {}
        for session in () if chat is None else chat.joined:
            began = session.began if session.came is None else session.came.get(chat_id, session.began)
            here = Here(session.role, round(self._zero + began, 3))
            known = found.get(session.user_id)
            found[session.user_id] = here if known is None else here.merged(known)
        return found

    def present(self, chat_id: str, news: News) -> None:
        """Tell the chat's sessions that watch it."""
        self._signal(chat_id, _event(news), None)

    def answer(self, chat_id: str) -> Any:
        """Answer a node's question who is in a chat; see `merged`."""
        chat = self._chats.get(chat_id)
        if chat is None:
            return None
        users, sessions = self.users(chat_id), dict.fromkeys((each.user_id for each in chat.joined), 0)
        for session in chat.joined:
            sessions[session.user_id] += 1
        named = {user_id: [here.role, here.since, sessions[user_id]] for user_id, here in longest(users)}
        return {"users": named, "count": len(users)}


class _Answer(msgspec.Struct):
    users: dict[str, tuple[protocol.PresentRole, float, int]]
    count: int


def merged(answers: Iterable[Any]) -> ChatPresence:
    """Who is in a chat, by the nodes' answers; those that have nobody there, or don't know, say nothing."""
    found: dict[str, tuple[Here, int]] = {}
    count = 0
    for answer in answers:
        try:
            said = msgspec.convert(answer, _Answer)
        except msgspec.ValidationError:
            continue
        count += max(0, said.count - len(said.users))
        for user_id, (role, since, sessions) in said.users.items():
            here = Here(role, since)
            known, before = found.get(user_id, (here, 0))
            found[user_id] = here.merged(known), before + sessions
    order = sorted(found.items(), key=lambda each: (each[1][0].since, each[0]))
    users = [
        PresentSessions(user_id, here.role, moment(here.since), sessions)
        for user_id, (here, sessions) in order
    ]
    return ChatPresence(users, len(found) + count)


def _event(news: News) -> Event:
    """The event for it."""
    if isinstance(news, Roster):
        users = ((user_id, here.role, here.since) for user_id, here in news.users)
        return protocol.presence_list_event(users, news.total)
    if isinstance(news, Count):
        return protocol.presence_count_event(news.total)
    if isinstance(news, Came):
        return protocol.presence_event(news.user_id, news.here.role, news.here.since)
    return protocol.presence_event(news.user_id, news.role, None)
