"""Load-tests a running server from outside: sessions in chats, a rate of events, and their latency."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from eclipse_ws.commands import bench_report
from eclipse_ws.commands.bench_client import BenchError, Progress, Session, Target
from eclipse_ws.commands.bench_presence import Watching
from eclipse_ws.commands.bench_report import Outcome

DRAIN = 2.0  # seconds to wait for the last events
WAITING = 1000  # awaited events of each session; older ones count as lost
TICK = 0.002  # seconds between checks of the schedule
SENT_AS = re.compile(rb'"content":"bench ([0-9]+)"')


@dataclass(frozen=True)
class Plan:
    """The parameters, each bounded by the command line."""

    url: str
    secret: str
    sessions: int = 100
    per_chat: int = 2
    rate: float = 100
    seconds: float = 10
    mode: str = "typing"
    """typing (nothing is saved) or message (each is saved through the application)."""
    claims: Mapping[str, str] = field(default_factory=dict)
    """Additional claims of the tokens."""
    presence: bool = False
    """Whether each chat has a watcher, and is left in the end."""


class _Client(Session):
    """A session that counts what arrives of what others of its chat send."""

    def __init__(self, outcome: Outcome, chat: _Chat) -> None:
        super().__init__(outcome)
        self.chat = chat
        self.awaited: deque[float] = deque(maxlen=WAITING)
        """Send times of typing events that have not arrived yet, oldest first."""

    def on_event(self, event: bytes) -> None:
        """Note how long it took."""
        outcome, now = self.outcome, time.perf_counter()
        if b'"type":"message"' in event:
            found = SENT_AS.search(event)
            sent = None if found is None else self.chat.sent.get(int(found[1]))
            if sent is not None and self is not self.chat.sender:
                outcome.received += 1
                outcome.latency.add(now - sent)
        elif b'"type":"typing"' in event and self.awaited:
            outcome.received += 1
            outcome.latency.add(now - self.awaited.popleft())


class _Chat:
    """The sessions of one chat; the first one sends."""

    def __init__(self, chat_id: str) -> None:
        self.chat_id = chat_id
        self.sessions: list[_Client] = []
        self.sent: dict[int, float] = {}
        """Send times of the last messages, by number."""

    @property
    def sender(self) -> _Client:
        return self.sessions[0]

    def send(self, outcome: Outcome, mode: str) -> None:
        """Send an event, and let the other sessions await it."""
        if self.sender.transport is None:
            return
        now = time.perf_counter()
        others = [session for session in self.sessions[1:] if session.transport is not None]
        outcome.sent += 1
        outcome.expected += len(others)
        if mode == "typing":
            for session in others:
                session.awaited.append(now)
            self.sender.write(1, b'{"type":"typing","isTyping":true}')
            return
        number = outcome.sent
        self.sent[number] = now
        if len(self.sent) > WAITING:
            del self.sent[next(iter(self.sent))]
        command = {"type": "message", "content": f"bench {number}", "role": "USER"}
        self.sender.write(1, json.dumps(command).encode())


def run(plan: Plan, plot_file: str | None) -> int:
    """Run the plan in the terminal: 0 if everything arrived, else 1. Raises BenchError and OSError."""
    with bench_report.Bar() as bar:
        outcome = asyncio.run(bench(plan, bar.show))
    print(bench_report.summary(outcome))
    if outcome.latency.total:
        print(bench_report.plot(outcome.latency))
    if plot_file is not None:
        title = f"{plan.sessions:,} sessions, {plan.rate:,g} {plan.mode} events/s: latency distribution"
        Path(plot_file).write_text(bench_report.svg(outcome.latency, title), encoding="utf-8")
    return 0 if outcome.good else 1


async def bench(plan: Plan, progress: Progress) -> Outcome:
    """Run the plan. Raises BenchError if no session could connect."""
    outcome = Outcome(planned=plan.sessions)
    run = os.urandom(4).hex()
    chats = [_Chat(f"bench-{run}-{number}") for number in range(math.ceil(plan.sessions / plan.per_chat))]
    target = Target(plan.url, plan.secret, plan.claims, outcome)
    watching = Watching(target) if plan.presence else None
    try:
        if watching is not None:
            await watching.begin([chat.chat_id for chat in chats], progress)
        await _connect(plan, target, chats, watching, progress)
        if not outcome.ready:
            raise target.refusal()
        if watching is not None:
            await watching.came()
        shared = [chat for chat in chats if len(chat.sessions) > 1]
        await _load(plan, shared, outcome, progress)
        if watching is not None:
            await watching.leave(((chat.sender, chat.sessions[-1]) for chat in shared), progress)
    finally:
        if watching is not None:
            watching.end()
        for chat in chats:
            for session in chat.sessions:
                session.end()
    return outcome


async def _connect(
    plan: Plan, target: Target, chats: list[_Chat], watching: Watching | None, progress: Progress
) -> None:
    outcome = target.outcome
    done = 0

    async def connect(number: int) -> None:
        nonlocal done
        chat = chats[number // plan.per_chat]
        session, user_id = _Client(outcome, chat), f"bench_{number}"
        if watching is not None:
            watching.follow(session, user_id)
        if await target.connect(session, chat.chat_id, user_id):
            chat.sessions.append(session)
            outcome.ready += 1
        done += 1
        progress("connecting", done, plan.sessions)

    began = time.perf_counter()
    await asyncio.gather(*(connect(number) for number in range(plan.sessions)))
    outcome.connect_seconds = time.perf_counter() - began


async def _load(plan: Plan, chats: list[_Chat], outcome: Outcome, progress: Progress) -> None:
    if not chats:
        raise BenchError("No chat has two sessions, so nothing can arrive. Fix: use more --sessions.")
    began = time.perf_counter()
    scheduled = 0
    while (elapsed := time.perf_counter() - began) < plan.seconds:
        due = math.ceil(elapsed * plan.rate)
        if due > scheduled:
            outcome.late = max(outcome.late, elapsed - scheduled / plan.rate)
        while scheduled < due:
            chats[scheduled % len(chats)].send(outcome, plan.mode)
            scheduled += 1
        progress("load", int(elapsed * 10), int(plan.seconds * 10))
        await asyncio.sleep(TICK)
    outcome.seconds = time.perf_counter() - began
    deadline = time.perf_counter() + DRAIN
    while outcome.received < outcome.expected and time.perf_counter() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    progress("load", int(plan.seconds * 10), int(plan.seconds * 10))
