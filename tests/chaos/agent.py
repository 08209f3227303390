"""An agent: one socket for many chats, each of which the judge looks at like any other client's.

A `Seat` is the agent's place in a chat. It is a `Client` whose connection is the agent's session: it begins
with ``joined``, and ends with ``left`` or with the session. So it sends, retries, resumes and reloads as one.
"""

from __future__ import annotations

import random
import time
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import jwt

from eclipse_ws.protocol import Cursor
from tests.chaos.client import Client, Visit, Wire
from tests.chaos.cluster import JWT_SECRET
from tests.chaos.judge import Verdict

if TYPE_CHECKING:
    from tests.chaos.cluster import Cluster, NodeProcess

AGAIN = 0.1
"""Seconds until a seat looks again whether its agent is connected."""
PACE = 0.125
"""Seconds between two messages of an agent, in whatever chats: as of the client of the widget."""
READ_EVERY = 1.0
"""Seconds between two reads of a seat."""
SEATS = 5
"""Chats of an agent."""
FIRST_NUMBER = 100_001
"""The first agent's number; no other client has it."""


class Agent(Client):
    """The session of the seats. It is in no chat itself, and asks for presence and reads."""

    def __init__(self, cluster: Cluster, number: int, chance: random.Random) -> None:
        super().__init__(cluster, "", number, 0.0, chance)
        self.seats: dict[str, Seat] = {}
        self.user = f"agent-{number}"
        self.paced = 0.0
        """When it may send a message again."""

    def url(self, node: NodeProcess) -> str:
        """Where to connect, with a token for all of its chats."""
        claims = {
            "userId": self.user,
            "chatIds": list(self.seats),
            "isAuthenticated": True,
            "iat": int(time.time()),
            "exp": int(time.time()) + 7200,
        }
        query = {"token": jwt.encode(claims, JWT_SECRET, algorithm="HS256"), "events": "presence,read"}
        return f"ws://127.0.0.1:{node.port}/ws?{urlencode(query)}"

    @property
    def wire(self) -> Wire | None:
        """Its connection, once the server has greeted it."""
        return self._wire if self._open else None

    @property
    def node(self) -> str:
        """The node that it is connected to, or was."""
        return self.visits[-1].node

    def on_event(self, event: dict[str, Any]) -> None:
        """Join all chats after the greeting, in one frame; hand everything else to the seats."""
        self._heard, self._pinged = time.monotonic(), 0.0
        kind = event["type"]
        if kind == "connected":
            self._open, self._tries = True, 0
            self.visits[-1].greeted = self._heard
            self.join([seat for seat in self.seats.values() if seat.begin()])
        elif (seat := self.seats.get(event.get("chatId", ""))) is not None:
            seat.on_event(event)

    def join(self, seats: list[Seat]) -> None:
        """Join the chats of these seats."""
        if seats and self._wire is not None:
            chats = [{"chatId": seat.chat, "cursor": seat.cursor} for seat in seats]
            self._wire.send({"type": "join", "chats": chats})

    def on_end(self, code: int, retry_after: float) -> None:
        """End with all seats."""
        super().on_end(code, retry_after)
        for seat in self.seats.values():
            seat.end_with_session(code)

    def close(self) -> None:
        """Leave for good, once the last seat does."""
        if all(seat.closing for seat in self.seats.values()):
            super().close()


class SeatWire:
    """What a seat says, with its chat's id, over the agent's connection."""

    transport = None
    """It has none of its own."""

    def __init__(self, seat: Seat, wire: Wire) -> None:
        self._seat = seat
        self._wire = wire

    def send(self, value: dict[str, Any]) -> None:
        """Send one command about the chat."""
        self._wire.send({**value, "chatId": self._seat.chat})


class Seat(Client):
    """An agent's place in one chat."""

    def __init__(self, agent: Agent, chat: str, rate: float, chance: random.Random) -> None:
        super().__init__(agent.cluster, chat, agent.number, rate, chance)
        self.agent = agent
        self.user = agent.user
        self.told: list[dict[str, list[str]]] = []
        """Which messages each user has read up to, in the order in which each visit was told."""
        self.shown: dict[str, list[str]] = {}
        """The same as this client shows it, over all visits."""
        self._order: dict[str, int] = {}  # the messages that it has, as the client of the widget knows them
        self.present: set[str] = set()
        """Who is in the chat, as far as this session was told."""
        self._read_at = 0.0
        agent.seats[chat] = self

    def tick(self, now: float) -> None:
        """Do what is due; the agent looks for signs of life."""
        if self._wire is not None:
            self._heard = max(self._heard, now)
        super().tick(now)

    def begin(self) -> bool:
        """Note that the chat is about to be joined; False if the seat waits, or is in it."""
        now, wire = time.monotonic(), self.agent.wire
        if self.closing or self._wire is not None or wire is None or now < self._retry_at:
            return False
        self.visits.append(Visit(self.agent.node, now, self.cursor))
        self.told.append({})
        self._wire = SeatWire(self, wire)  # type: ignore[assignment]
        self._heard = now
        return True

    def _pump(self, now: float) -> None:
        if now >= self.agent.paced:
            super()._pump(now)
            if self._head is not None and self._head.last == now:
                self.agent.paced = now + PACE

    async def _connect(self) -> None:
        """Join the chat, if the agent is connected."""
        try:
            if self.begin():
                self.agent.join([self])
            elif self._wire is None:
                self._retry_at = time.monotonic() + AGAIN
        finally:
            self._opening = None

    def on_event(self, event: dict[str, Any]) -> None:
        """Translate what differs for one chat of several; record signals."""
        kind, data = event["type"], event.get("data", {})
        if kind == "joined":
            super().on_event({**event, "type": "connected"})
        elif kind == "left":
            self.on_end(event.get("code", 0), 0.0)
        elif kind == "presence":
            self._on_presence(data)
        elif kind == "read":
            for each in data.get("positions", [data] if "messageId" in data else ()):
                self._on_read(each["userId"], each["messageId"])
        elif kind == "error" and event.get("code") in ("not_joined", "unknown_message"):
            pass  # said while the server took the session out of the chat, or began a new epoch
        else:
            super().on_event(event)
            if kind == "message" and self._wire is not None and self._heard > self._read_at + READ_EVERY:
                self._read_at = self._heard
                read = {"type": "read", "messageId": data["id"], "cursor": event.get("cursor")}
                self._wire.send(read)

    def _on_read(self, user: str, message: str) -> None:
        """Show a position, unless a node that doesn't know yet that it is cut off tells an earlier one."""
        self.told[-1].setdefault(user, []).append(message)
        shown = self.shown.setdefault(user, [])
        at, known = self._order.get(message), self._order.get(shown[-1]) if shown else None
        if at is None or known is None or at > known:
            shown.append(message)

    def _on_kept(self, event: dict[str, Any], visit: Visit, now: float) -> None:
        super()._on_kept(event, visit, now)
        if event["type"] == "message":
            self._order.setdefault(event["data"]["id"], len(self._order))

    def _load(self) -> None:
        super()._load()
        saved = dict.fromkeys(self.cluster.application.saved_in.get(self.chat, []))
        others = [message for message in self._order if message not in saved]
        self._order = {message: number for number, message in enumerate((*others, *saved))}

    def _on_presence(self, data: dict[str, Any]) -> None:
        if "users" in data:
            self.present = {user["userId"] for user in data["users"]}
        elif data.get("online"):
            self.present.add(data["userId"])
        elif "userId" in data:
            self.present.discard(data["userId"])

    def end_with_session(self, code: int) -> None:
        """End, because the session has."""
        if self._wire is not None:
            self.on_end(code, 0.0)
            self._retry_at = 0.0  # the session decides when

    def leave(self, how: str) -> None:
        """Lose the agent's connection."""
        self.agent.leave(how)

    def close(self) -> None:
        """Leave for good."""
        self.closing = True
        self.agent.close()


def seat_agents(
    cluster: Cluster, chats: dict[str, list[Client]], rate: float, chance: random.Random
) -> list[Agent]:
    """Replace the last client of every second chat by an agent's seat. Returns the agents."""
    agents: list[Agent] = []
    for number, (chat, members) in enumerate(list(chats.items())[::2]):
        if number % SEATS == 0:
            agents.append(Agent(cluster, FIRST_NUMBER + 2 * len(agents), chance))
        members[-1] = Seat(agents[-1], chat, rate, chance)
    return agents


def judge_seats(verdict: Verdict, chats: dict[str, list[Client]], *, presence: bool) -> None:
    """Count positions that went backwards, and with ``presence`` those who are wrongly there or not.

    Neither what one visit is told may go back, nor what a seat shows over all of them.
    """
    for chat, members in chats.items():
        offsets = _cursors(members)
        for seat in (member for member in members if isinstance(member, Seat)):
            for user, positions in chain(seat.shown.items(), *(visit.items() for visit in seat.told)):
                for before, after in pairwise(positions):
                    at, to = offsets.get(before), offsets.get(after)
                    if at and to and at.epoch == to.epoch and to.offset < at.offset:
                        verdict.backwards += 1
                        verdict.say(
                            f"backwards: {user} has read {before} ({at}), then {after} ({to}) of {chat}"
                        )
            if presence and (wrong := ghosts(seat, members)):
                verdict.ghosts += len(wrong)
                verdict.say(
                    f"ghosts: {seat.user} is told {sorted(seat.present)} of {chat}: {sorted(wrong)} are wrong"
                )


def _cursors(members: list[Client]) -> dict[str, Cursor]:
    """Where each message of a chat is, by its id."""
    found: dict[str, Cursor] = {}
    for member in members:
        for visit in member.visits:
            for received in visit.received:
                if received.cursor is not None and (cursor := Cursor.parse(received.cursor)) is not None:
                    found[received.name.removeprefix("message:")] = cursor
    return found


def seated(chats: dict[str, list[Client]]) -> list[tuple[Seat, list[Client]]]:
    """All seats, each with the clients of its chat."""
    return [(each, members) for members in chats.values() for each in members if isinstance(each, Seat)]


def ghosts(seat: Seat, members: list[Client]) -> set[str]:
    """Whom a seat takes to be in the chat, and who is not; and whom it misses."""
    return seat.present ^ {member.user for member in members if member.settled}
