"""The members of the chats: new clients (cursor, clientMessageId, resume), and old pages without these."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.chaos.client import Client, Received, Sent, Trouble, Visit
from tests.chaos.cluster import NodeProcess
from tests.fleet.fleet import HISTORY_SECONDS, Fleet

ASKED_FOR = frozenset({"presence", "read", "joined", "left"})
"""Types of events that only clients get that ask for them."""


class Member(Client):
    """A new client on one of the services ``where``; it records when it got what."""

    key_seconds = 0.7 * HISTORY_SECONDS

    account = ""
    """Its ``userId``; "" leaves that to its number."""

    def __init__(
        self, fleet: Fleet, chat: str, number: int, chance: random.Random, where: list[NodeProcess]
    ) -> None:
        super().__init__(fleet, chat, number, 0.0, chance)
        self.where = where
        self.seen: dict[str, float] = {}
        self.typing: Counter[str] = Counter()
        self.last_local = 0.0
        """When it got the last ``ack`` that said ``local``."""
        self.last_published: dict[str, float] = {}
        """When it got the last one that said ``published``, by the node's name."""
        self.away_until = 0.0
        """Until when it stays away of its own will."""
        self.unconfirmed: set[str] = set()
        self.uninvited: list[str] = []
        """Types of events that it got though it has asked for nothing of the kind."""

    def say(self, padding: str = "") -> None:
        """Write a message; it is sent in its turn."""
        self.sent += 1
        key = f"{self.chat}-{self.number}-{self.sent}"
        self.outbox.append(Sent(key, f"message {key} {padding}".rstrip(" ")))

    def _write(self, now: float) -> None:
        self.say()

    def type(self, is_typing: bool) -> None:
        """Begin typing, or stop."""
        if self._wire is not None:
            self._wire.send({"type": "typing", "isTyping": is_typing})

    def next_user(self) -> str:
        """Who it is from now on."""
        return self.account or super().next_user()

    def next_node(self) -> NodeProcess:
        """Where it connects now."""
        return self.chance.choice(self.where) if self.visits else self.where[self.number % len(self.where)]

    def move(self, to: NodeProcess) -> None:
        """Leave, and come back elsewhere."""
        self.where = [to]
        if self._wire is not None:
            self._wire.close()

    def join_as_agent(self) -> None:
        """Say that an agent has joined: it is the application that knows the name."""
        if self._wire is not None:
            self._wire.send({"type": "agent_joined", "agentId": "-", "agentName": "-"})

    def stay_away(self, seconds: float) -> None:
        """Lose the connection, and come back after so many seconds."""
        self.leave("black hole")
        self._retry_at += seconds
        self.away_until = self._retry_at

    @property
    def on_old(self) -> bool:
        """Whether it is on the old service."""
        return self.visits[-1].old

    @property
    def by_echo(self) -> bool:
        """Whether its messages are confirmed by their echo alone: the old service has no ``ack``."""
        return self.on_old

    def on_event(self, event: dict[str, Any]) -> None:
        """Record the event."""
        if event["type"] in ASKED_FOR or ("chatId" in event and event["type"] != "connected"):
            self.uninvited.append(event["type"])
        if event["type"] == "connected":
            self.visits[-1].old = "sessionId" not in event
            self._forget_unconfirmed()
        elif event["type"] == "typing":
            self.typing[event["data"]["userId"]] += event["data"]["isTyping"]
        super().on_event(event)
        if event["type"] == "ack" and event["delivery"] == "local":
            self.last_local = self._heard
        elif event["type"] == "ack":
            self.last_published[self.visits[-1].node] = self._heard

    def _forget_unconfirmed(self) -> None:
        """What was sent and not confirmed is not sent again where that would save it twice."""
        if self.by_echo:
            self.unconfirmed.update(item.key for item in self.outbox if item.again)
            self.outbox = [item for item in self.outbox if not item.again]

    def _on_kept(self, event: dict[str, Any], visit: Visit, now: float) -> None:
        super()._on_kept(event, visit, now)
        self.seen.setdefault(visit.received[-1].name.removeprefix("message:"), now)
        if self.by_echo and self._head is not None and event["data"].get("content") == self._head.content:
            self._done(self._head.key)

    def _on_error(self, event: dict[str, Any], now: float) -> None:
        if not self.by_echo:
            super()._on_error(event, now)
        elif self._head is not None:  # a page knows which message is meant: it sends one at a time
            self.troubles.append(Trouble(self._head.key, event["error"], now))
            self.refused[self._head.key] = event["error"]
            self._done(self._head.key)

    def _load(self) -> None:
        super()._load()
        for name in self.loaded:
            self.seen.setdefault(name, self._heard)

    def received_on_old(self) -> list[Received]:
        """What the old service sent."""
        return [received for visit in self.visits if visit.old for received in visit.received]


class OldPage(Member):
    """An old page: no cursor, no clientMessageId, no load after a reconnect, a new token for each."""

    edge = 1.0
    """What was saved this many seconds before its connection ended may still have been on its way."""

    @property
    def by_echo(self) -> bool:
        """It behaves everywhere as it does on the old service."""
        return True

    def url(self, node: NodeProcess) -> str:
        """Where to connect: the token is all that it hands over."""
        token = parse_qs(urlsplit(super().url(node)).query)["token"][0]
        return f"ws://127.0.0.1:{node.port}/?{urlencode({'token': token})}"

    def command(self, item: Sent) -> dict[str, Any]:
        """What it sends for a message."""
        return {"type": "message", "content": item.content, "role": "USER"}

    def expects(self, at: float) -> bool:
        """Whether it has to get what was saved at that time: it was connected, and stayed a while."""
        return any(
            visit.greeted and visit.greeted <= at and (not visit.ended or at < visit.ended - self.edge)
            for visit in self.visits
        )

    def _load(self) -> None:
        if len(self.visits) == 1:
            super()._load()
