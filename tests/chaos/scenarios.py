"""Faults on any backend while clients chat. Each runs for its time, and repairs what it broke."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from tests.application.stub import Fault
from tests.chaos.stage import Scenario, Stage


async def calm(stage: Stage) -> None:
    """No faults."""
    await stage.rest()


async def cuts(stage: Stage) -> None:
    """Clients lose their connection: by RST, by FIN, by a black hole, half-open."""
    ways = ("rst", "fin", "black hole", "half-open")
    while stage.left > 0:
        for client in stage.chance.sample(stage.clients, max(1, len(stage.clients) // 40)):
            client.leave(stage.chance.choice(ways))
        await stage.pause(0.25)


async def terminated(stage: Stage) -> None:
    """A node gets SIGTERM, drains, and is started again; then the other one."""
    await _restart(stage, signal.SIGTERM)


async def killed(stage: Stage) -> None:
    """A node gets SIGKILL and is started again; then the other one."""
    await _restart(stage, signal.SIGKILL)


async def _restart(stage: Stage, number: signal.Signals) -> None:
    turn = 0

    async def once() -> None:
        nonlocal turn
        node = stage.cluster.nodes[turn % 2]
        turn += 1
        await node.end(number)
        await asyncio.sleep(0.2)
        await node.start()

    await stage.again_and_again(once)


async def stopped(stage: Stage) -> None:
    """A node gets SIGSTOP, and continues after three seconds; then the other one, for twice as long."""
    turn = 0

    async def once() -> None:
        nonlocal turn
        node = stage.cluster.nodes[turn % 2]
        turn += 1
        node.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(stage.away * (2 - turn % 2))
        finally:
            node.send(signal.SIGCONT)

    await stage.again_and_again(once)


async def restart_backend(stage: Stage, end: Callable[[], None], away: float) -> None:
    """End the backend's server in this way, and start it again after so many seconds, again and again."""

    async def once() -> None:
        await asyncio.to_thread(end)
        await asyncio.sleep(away)
        await asyncio.to_thread(stage.cluster.start_server)

    await stage.again_and_again(once, every=10)


async def frozen(stage: Stage) -> None:
    """The backend's server gets SIGSTOP, and continues after three seconds (PostgreSQL: six)."""

    async def once() -> None:
        await asyncio.to_thread(stage.cluster.freeze)
        try:
            await asyncio.sleep(stage.outage)
        finally:
            stage.cluster.thaw()

    await stage.again_and_again(once, every=max(8.0, 2 * stage.outage))


async def slow(stage: Stage) -> None:
    """The latency between the backend's server and each node is 20 to 200 ms, each way."""
    try:
        while stage.left > 0:
            for proxy in stage.cluster.proxies:
                proxy.delay = stage.chance.uniform(0.02, 0.2)
            await stage.pause(1.0)
    finally:
        for proxy in stage.cluster.proxies:
            proxy.delay = 0.0


async def kick(stage: Stage) -> None:
    """Make the backend's server close connections, in one way after the other."""
    turn = 0

    async def once() -> None:
        nonlocal turn
        await stage.cluster.kick(turn, stage.chance)
        turn += 1

    await stage.again_and_again(once, every=2)


async def black_hole(stage: Stage) -> None:
    """No traffic between one node and the backend; then it arrives late, or the connections are lost."""
    turn = 0

    async def once() -> None:
        nonlocal turn
        proxy = stage.cluster.proxies[turn % 2]
        turn += 1
        proxy.block()
        try:
            await asyncio.sleep(stage.outage * (1.5 if turn % 3 else 0.5))
        finally:
            proxy.unblock(resume=stage.chance.random() < 0.5)

    await stage.again_and_again(once, every=max(8.0, 2 * stage.outage))


async def api_fails(stage: Stage) -> None:
    """The chat API answers 500 and 503, for some requests and for all."""
    faults = [
        Fault("status", times=20),
        Fault("status", status=503, body="busy", headers={"Retry-After": "1"}, times=40),
        Fault("status", status=502, body="<html>", times=10),
        Fault("status"),
    ]
    await _fail(stage, faults)


async def api_hangs(stage: Stage) -> None:
    """The chat API doesn't respond, whether it has saved or not; or responds too late."""
    faults = [
        Fault("hang", times=10),
        Fault("hang", saves=True, times=10),
        Fault(delay=1.0, times=100),
        Fault(delay=3.5, times=20),
    ]
    await _fail(stage, faults)


async def api_breaks_off(stage: Stage) -> None:
    """The chat API saves and then resets, closes, truncates its response, fails, or responds twice."""
    faults = [
        Fault("reset", saves=True, times=10),
        Fault("twice", times=40),
        Fault("truncate", saves=True, times=10),
        Fault("close", saves=True, times=10),
        Fault("status", status=502, body="<html>", saves=True, times=10),
        Fault("reset", times=10),
    ]
    await _fail(stage, faults)


async def _fail(stage: Stage, faults: list[Fault]) -> None:
    turn = 0
    try:
        while stage.left > 0:
            fault = faults[turn % len(faults)]
            stage.cluster.application.fault = Fault(**vars(fault))
            turn += 1
            await stage.pause(min(2.0, stage.seconds / 5))
            stage.cluster.application.fault = Fault()
            await stage.pause(min(1.0, stage.seconds / 10))
    finally:
        stage.cluster.application.fault = Fault()
        stage.cluster.application.released.set()


async def api_failure_then_black_hole(stage: Stage) -> None:
    """The chat API fails for two seconds, and soon after that nothing gets through between one node and the
    backend for four seconds, while clients are cut.
    """
    short = min(1.0, stage.seconds / 12)
    turn = 0

    async def faults() -> None:
        nonlocal turn
        while stage.left > 0:
            proxy = stage.cluster.proxies[turn % 2]
            stage.cluster.application.fault = Fault("status", status=(500, 503, 502)[turn % 3])
            turn += 1
            await stage.pause(2.0 * short)
            stage.cluster.application.fault = Fault()
            await stage.pause(3.5 * short)
            proxy.block()
            await stage.pause(4.0 * short)
            proxy.unblock(resume=stage.chance.random() < 0.5)
            await stage.pause(2.5 * short)

    try:
        await asyncio.gather(faults(), cuts(stage))
    finally:
        stage.cluster.application.fault = Fault()
        for proxy in stage.cluster.proxies:
            proxy.unblock(resume=True)


async def application_publishes(stage: Stage) -> None:
    """The application publishes more than ever, while clients are cut."""
    await asyncio.gather(publish(stage, 0.01), cuts(stage))


async def publish(stage: Stage, every: float = 0.05) -> None:
    """Make the application publish saved messages itself, write, and change messages."""
    application = stage.cluster.application
    application.publishes = True
    chats = sorted({client.chat for client in stage.clients})
    number = 0
    try:
        while stage.left > 0:
            await stage.pause(every)
            number += 1
            chat = stage.chance.choice(chats)
            ids = application.saved_in.get(chat)
            if ids and number % 3 == 0:
                await application.update(chat, ids[-1])
            else:
                await application.say(chat, number)
    finally:
        application.publishes = False


async def one_after_the_other(stage: Stage, *own: Scenario) -> None:
    """Run these of a backend and those that any backend has, in a random order, while clients are cut.

    Before the next one, nodes hand over what waited: a node that is killed before that takes it along.
    """

    kinds = [killed, black_hole, terminated, stopped, api_breaks_off, frozen, api_fails, slow, *own]

    async def faults() -> None:
        stage.chance.shuffle(kinds)
        for kind in kinds:
            if stage.left <= 1:
                break
            part = min(stage.left, max(5.0, stage.seconds / len(kinds)))
            await kind(Stage(stage.cluster, stage.clients, part, stage.chance))
            await stage.pause(1.0)  # health may be a second old
            while stage.left > 0 and not await stage.cluster.is_quiet():
                await stage.pause(0.2)
        await stage.rest()

    await asyncio.gather(faults(), cuts(stage))
