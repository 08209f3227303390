"""One worker: a whole server on listening sockets that it inherits, in a process that a supervisor started.

``python -m eclipse_ws.server.workers.worker N`` is started with the worker's end of a `Channel` as file
descriptor N. The first message says everything that it starts with (`Start`); it reads no configuration of
its own. Later messages say when to drain, stop, reload and report.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec
import structlog

from eclipse_ws.backends.base import BackendError
from eclipse_ws.config.loading import Loaded
from eclipse_ws.observability.logging import configure_logging
from eclipse_ws.server import event_loop, file_descriptors
from eclipse_ws.server.ports import StartError
from eclipse_ws.server.server import Server, unless
from eclipse_ws.server.turnstile import Table, Turnstile
from eclipse_ws.server.workers import totals
from eclipse_ws.server.workers.channel import Channel, Message, first_message
from eclipse_ws.server.workers.start import HEARTBEAT, Start
from eclipse_ws.sessions.node import LARGEST_CHATS

log = structlog.get_logger("eclipse_ws.worker")

ANSWER_TIME: Final = 1.0
"""Seconds that the supervisor has to answer a question."""


class Worker:
    """A server and its supervisor's other end."""

    def __init__(self, start: Start, channel: Channel) -> None:
        settings, http_connections, _ = file_descriptors.fit(start.settings())
        self._start = start
        self._channel = channel
        self._server = server = Server(settings, http_connections)
        server.generated = frozenset(start.generated)
        self._turnstile = Turnstile(
            Table(start.table, start.of), start.number - 1, lambda: server.connections
        )
        server.share(self._turnstile)
        server.node.machine = self
        self.stopping, self.aborting = asyncio.Event(), asyncio.Event()
        self._answers: dict[str, asyncio.Future[Any]] = {}

    async def run(self) -> None:
        """Serve until the supervisor says otherwise, or has ended. Raises StartError, BackendError."""
        tasks = [asyncio.create_task(work) for work in (self._listen(), self._beat())]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            # A service manager may signal all processes at once: only the supervisor can say "at once".
            loop.add_signal_handler(number, self._drain, number.name)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)
        server = self._server
        inherited = {
            name: [socket.socket(fileno=number) for number in numbers]
            for name, numbers in self._start.sockets.items()
        }
        try:
            if await unless(self.stopping, server.start(inherited)):
                self._turnstile.publish()
                self._channel.send({"ready": True})
                await self.stopping.wait()
                self._turnstile.leaving = True
                self._turnstile.publish()
                await unless(self.aborting, server.drain())
        finally:
            self._turnstile.leaving = True
            self._turnstile.publish()
            await server.stop()  # which may take longer than the supervisor's patience with a silent worker
            for task in tasks:
                task.cancel()
            self._channel.send({"metrics": self._metrics()})
            await self._channel.flush()

    def _drain(self, why: str) -> None:
        if not self.stopping.is_set():
            log.info("worker stops", why=why)
        self.stopping.set()

    async def _beat(self) -> None:
        while True:
            self._channel.send({"beat": True})
            self._turnstile.publish()
            await asyncio.sleep(HEARTBEAT)

    # -- what the supervisor says -----------------------------------------------------------------

    async def _listen(self) -> None:
        actions: dict[str, Callable[[Message], None]] = {
            "leave": self._leave,
            "drain": lambda _: self._drain("the supervisor stops"),
            "stop": lambda _: self.aborting.set(),
            "reload": self._reload,
            "report": self._report,
            "answer": self._take_answer,
        }
        async for message in self._channel.messages():
            try:
                actions[message["do"]](message)
            except Exception:
                log.exception("message failed", message=message["do"])
        # A new supervisor can't start until the ports are free.
        self._server.stop_listening()
        self._drain("the supervisor has ended")

    def _leave(self, _: Message) -> None:
        """Before any worker of the machine hands its chats over, all of them stop to take any."""
        log.debug("no more chats are taken over")
        self._server.delivery.leave()
        self._channel.send({"left": True})

    def _reload(self, message: Message) -> None:
        settings = msgspec.convert(message["start"], Start).settings()
        sources = dict.fromkeys(message["start"]["generated"], "generated")
        self._server.reload(Loaded(file_descriptors.fit(settings)[0], sources))

    def _report(self, message: Message) -> None:
        what = {"health": self._health, "metrics": self._metrics}[message["what"]]
        self._channel.send({message["what"]: what()})

    def _health(self) -> Message:
        node = self._server.node
        return {"document": node.health(), "largest": list(node.hub.largest(LARGEST_CHATS))}

    def _metrics(self) -> totals.Report:
        from eclipse_ws.server.metrics import NodeCollector

        return totals.report(NodeCollector(self._server.node).collect())

    # -- what the machine reports (see `Machine`) -------------------------------------------------

    async def health(self) -> dict[str, Any] | None:
        """The health document of all workers together; None if the supervisor doesn't answer in time."""
        document: dict[str, Any] | None = await self._ask("health")
        return document

    async def metrics(self) -> bytes | None:
        """Likewise their metrics."""
        page: str | None = await self._ask("metrics")
        return None if page is None else page.encode()

    async def _ask(self, what: str) -> Any:
        """The supervisor's answer, which everyone gets who waits for one."""
        answer = self._answers.get(what)
        if answer is None:
            answer = self._answers[what] = asyncio.get_running_loop().create_future()
            self._channel.send({"ask": what})
        try:
            return await asyncio.wait_for(asyncio.shield(answer), ANSWER_TIME)
        except TimeoutError:
            if self._answers.get(what) is answer:
                del self._answers[what]
            return None

    def _take_answer(self, message: Message) -> None:
        answer = self._answers.pop(message["what"], None)
        if answer is not None and not answer.done():
            answer.set_result(message["value"])


async def work(start: Start, end: socket.socket) -> int:
    """Run a worker. Returns the exit code; the supervisor is told why a start has failed."""
    channel = await Channel.open(end)
    try:
        await Worker(start, channel).run()
    except (StartError, BackendError) as error:
        code = 2 if isinstance(error, StartError) else 1
        channel.send({"failed": str(error), "code": code})
        await channel.flush()
        return code
    finally:
        channel.close()
    return 0


def main() -> None:
    """Run the worker whose supervisor holds the other end of this file descriptor."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    end = socket.socket(fileno=int(sys.argv[1]))
    message = first_message(end)
    if message is None:
        sys.exit(0)  # the supervisor has ended
    start = msgspec.convert(message, Start)
    settings = start.settings()
    configure_logging(settings, worker=start.number)
    sys.exit(event_loop.run(settings, work(start, end)))


if __name__ == "__main__":
    main()
