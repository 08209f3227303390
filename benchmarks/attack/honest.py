"""The honest: pairs that chat, and visitors who come while the node is under attack."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from dataclasses import dataclass, field

from benchmarks.attack.sockets import Stream, Target, frame, next_frame
from eclipse_ws.commands.tokens import mint

PATIENCE = 30.0
"""Seconds after which a message counts as lost, and a visitor as refused."""
BETWEEN_VISITORS = 0.5
TEXT = 1


@dataclass
class Seen:
    """What the honest have seen; times are in seconds."""

    latencies: list[float] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)
    """How long each visitor took from connecting to the greeting."""
    sent: int = 0
    received: int = 0
    refused: int = 0
    """Messages answered with an error, and sessions that could not be opened or were ended."""

    @property
    def lost(self) -> int:
        """Messages and sessions that did not go well."""
        return self.sent - self.received + self.refused

    def percentile(self, share: float) -> float:
        """A percentile of the latencies, in ms; nan without any."""
        ordered = sorted(self.latencies) or [float("nan")]
        return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def slowest_arrival(self) -> float:
        """Seconds of the slowest visitor; nan without any."""
        return max(self.arrivals, default=float("nan"))


async def talk(target: Target, pairs: int, seconds: float) -> Seen:
    """All pairs at once, and a visitor every `BETWEEN_VISITORS` seconds."""
    seen = Seen()
    works = [_pair(target, number, seconds, seen) for number in range(pairs)]
    results = await asyncio.gather(*works, _visitors(target, seconds, seen), return_exceptions=True)
    seen.refused += sum(isinstance(result, BaseException) for result in results)
    return seen


async def _pair(target: Target, number: int, seconds: float, seen: Seen) -> None:
    """Two who talk in turns, a message a second between them."""
    ends: list[Stream] = []
    for side in (0, 1):
        token = mint(target.secret, f"honest-{number}", f"h{number}-{side}", True)
        ends.append(await target.session(token, f"203.0.113.{number}"))
    for reader, _ in ends:
        await next_frame(reader)  # the greeting
    await asyncio.sleep(secrets.randbelow(1000) / 1000)
    end, turn = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        began = time.perf_counter()
        text = json.dumps({"type": "message", "role": "USER", "content": f"hello {turn}"}).encode()
        ends[turn % 2][1].write(frame(text))
        seen.sent += 1
        for side in (1, 0):  # the partner first: that is what is timed
            event = await _event(ends[(turn + side) % 2][0])
            if event["type"] != "message":
                seen.refused += 1
                break
            if side:
                seen.latencies.append(time.perf_counter() - began)
                seen.received += 1
        turn += 1
        await asyncio.sleep(max(0.0, 1 - (time.perf_counter() - began)))
    for _, writer in ends:
        writer.close()


async def _event(reader: asyncio.StreamReader) -> dict[str, object]:
    while True:
        opcode, payload = await asyncio.wait_for(next_frame(reader), PATIENCE)
        if opcode == TEXT:
            event: dict[str, object] = json.loads(payload)
            return event


async def _visitors(target: Target, seconds: float, seen: Seen) -> None:
    """One visitor after the other, each from an address of its own."""
    end, number = time.monotonic() + seconds, 0
    async with asyncio.TaskGroup() as group:
        while time.monotonic() < end:
            group.create_task(_visit(target, number, seen))
            number += 1
            await asyncio.sleep(BETWEEN_VISITORS)


async def _visit(target: Target, number: int, seen: Seen) -> None:
    token = mint(target.secret, f"visit-{number}", f"v{number}", False)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await target.session(token, f"198.51.100.{number % 250}")
            opcode, _ = await next_frame(reader)
    except (OSError, EOFError, TimeoutError):
        seen.refused += 1
        return
    if opcode == TEXT:
        seen.arrivals.append(time.perf_counter() - began)
    else:
        seen.refused += 1
    writer.close()
