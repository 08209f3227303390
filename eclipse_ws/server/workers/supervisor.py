"""The supervisor: starts the workers, watches them, starts again those that end, and drains them.

It holds the listening sockets, so that connections that wait are not lost when a worker ends, but accepts
none itself. If it is killed, its workers notice that, and drain.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec
import structlog

from eclipse_ws import backends
from eclipse_ws.config.loading import Loaded
from eclipse_ws.config.settings import RELOADED, Settings
from eclipse_ws.observability.logging import mask_also
from eclipse_ws.server import file_descriptors
from eclipse_ws.server.ports import Sockets, StartError, close, listen_at_all
from eclipse_ws.server.reloading import read
from eclipse_ws.server.turnstile import AWAY, Table
from eclipse_ws.server.workers import shares
from eclipse_ws.server.workers.process import WorkerProcess, how
from eclipse_ws.server.workers.reports import Reports
from eclipse_ws.server.workers.restarts import Restarts
from eclipse_ws.server.workers.start import HEARTBEAT, Start, plain

log = structlog.get_logger("eclipse_ws.supervisor")

PATIENCE: Final = 10.0
"""Seconds without a sign of life after which a worker counts as stuck, and is killed."""
STOP_TIME: Final = 5.0
"""Seconds that the workers have to stop at once, after a second signal."""
LEAVE_TIME: Final = 1.0
"""Seconds that the workers have to stop taking chats over, before all of them drain."""


class Supervisor:
    """The workers of one machine."""

    def __init__(self, loaded: Loaded, count: int, load: Callable[[], Loaded]) -> None:
        """``load`` reads the settings again."""
        self._settings = loaded.settings
        self._generated = loaded.generated
        self._load = load
        self._count = count
        self._sockets: Sockets = {}
        self._table_descriptor = Table.make(count)
        self._table = Table(self._table_descriptor, count)
        self._workers: dict[int, WorkerProcess] = {}
        self._restarts = Restarts()
        self._ends: Counter[str] = Counter()
        self._stopping = asyncio.Event()
        self._all_ready = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None
        self._code = 0
        self._failure = ""
        self._reports = Reports(self._workers, self._ends)

    async def run(self, started: Callable[[Settings, int], None]) -> int:
        """Run the workers until SIGTERM or SIGINT, then drain them; a second signal stops them at once.

        ``started`` is called with the settings and the public port when all are ready. Returns the exit code:
        that of a start that can't succeed, 1 if a worker had to be killed in the drain. Raises StartError.
        """
        loop = asyncio.get_running_loop()
        _, _, warning = file_descriptors.fit(shares.share(self._settings, 1, self._count))
        if warning:
            log.warning(warning)
        self._sockets = listen_at_all(self._settings)
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, self._on_signal, each.name)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        watching = [asyncio.create_task(self._watch()), asyncio.create_task(self._reports.refresh())]
        greeting = asyncio.create_task(self._greet(started))
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(1, self._count + 1):
                    group.create_task(self._keep(number))
        finally:
            # Workers that are left, after an unexpected error, drain when this process has ended.
            for task in (*watching, greeting):
                task.cancel()
            close(*self._sockets.values())
            self._table.close()
            os.close(self._table_descriptor)
        if self._failure:
            raise GaveUpError(self._failure, self._code)
        log.info("supervisor stopped")
        return self._code

    async def _greet(self, started: Callable[[Settings, int], None]) -> None:
        await self._all_ready.wait()
        port = self._sockets["port"][0].getsockname()[1]
        log.info("supervisor started", host=self._settings.host, port=port, workers=self._count)
        started(self._settings, port)

    # -- each worker ------------------------------------------------------------------------------

    async def _keep(self, number: int) -> None:
        """Run a worker, again and again, until the supervisor stops."""
        while not self._stopping.is_set():
            worker = await WorkerProcess.launch(self._start(number))
            self._workers[number] = worker
            log.info("worker started", worker=number, pid=worker.pid)
            if self._stopping.is_set():  # meanwhile
                worker.say("drain")
            async for message in worker.channel.messages():
                self._take(worker, message)
            code = await worker.end()
            self._table.cells[number - 1] = AWAY
            self._reports.keep(self._workers.pop(number))
            if self._stopping.is_set():
                if worker.hung or code < 0:
                    self._code = self._code or 1
                    log.error("worker did not drain", worker=number, why=how(code))
                return
            reason = "hung" if worker.hung else "exited"
            self._ends[reason] += 1
            wait = self._restarts.wait(number, worker.lived)
            log.error(
                "worker ended",
                worker=number,
                why="it was stuck" if worker.hung else how(code),
                ready=worker.ready,
                seconds=round(worker.lived, 1),
                restart_in=wait,
            )
            if not worker.ready and self._is_hopeless(worker, code):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stopping.wait()

    def _start(self, number: int) -> Start:
        sockets = {name: [each.fileno() for each in some] for name, some in self._sockets.items()}
        values, generated = plain(self._settings), sorted(self._generated)
        return Start(number, self._count, values, generated, sockets, self._table_descriptor)

    def _take(self, worker: WorkerProcess, message: dict[str, object]) -> None:
        worker.silent = 0.0
        match message:
            case {"ready": _}:
                worker.ready = True
                self._restarts.ready()
                if self._stopping.is_set():
                    worker.say("drain")
                elif sum(each.ready for each in self._workers.values()) == self._count:
                    self._all_ready.set()
            case {"left": _}:
                worker.left.set()
            case {"failed": str(sentence), "code": int(code)}:
                worker.failure = sentence, code
            case {"ask": str(what)}:
                self._reports.ask(worker, what)
            case _:
                self._reports.take(worker, message)

    def _is_hopeless(self, worker: WorkerProcess, code: int) -> bool:
        """Whether to give up after a start that failed; then the other workers are stopped.

        The first start of all is not repeated if a worker says why it can't succeed: then nobody has to read
        the same sentence five times.
        """
        any_ready = any(each.ready for each in self._workers.values())
        first = worker.failure is not None and not self._all_ready.is_set()
        if not (self._restarts.hopeless(any_ready=any_ready) or first):
            return False
        sentence, self._code = worker.failure or (f"a worker can't start ({how(code)}); see its log", 1)
        self._failure = sentence if first else f"the workers fail again and again at their start: {sentence}"
        self._stopping.set()
        for each in self._workers.values():
            each.say("drain")
            each.say("stop")
        return True

    async def _watch(self) -> None:
        """Kill workers that are stuck."""
        clock = asyncio.get_running_loop().time
        while True:
            before = clock()
            await asyncio.sleep(HEARTBEAT)
            # If this process was stopped, too, as when a machine is suspended, the workers are not to blame.
            passed = min(clock() - before, 2 * HEARTBEAT)
            for worker in self._workers.values():
                worker.silent += passed
                if worker.silent > PATIENCE and not worker.hung:
                    worker.hung = True
                    log.error("worker is stuck", worker=worker.number, pid=worker.pid, seconds=PATIENCE)
                    worker.kill()

    # -- all of them ------------------------------------------------------------------------------

    def _on_signal(self, name: str) -> None:
        log.info("signal received", name=name)
        if self._stopping.is_set():
            self._say("stop")
            asyncio.get_running_loop().call_later(STOP_TIME, self._kill)
            return
        self._stopping.set()
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        """Drain all workers at once. None may take chats over from another one: all of them will be gone."""
        self._say("leave")
        serving = [worker for worker in self._workers.values() if worker.ready]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_TIME):
                for worker in serving:
                    await worker.left.wait()
        self._say("drain")

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.kill()

    def _say(self, what: str) -> None:
        for worker in self._workers.values():
            worker.say(what)

    def _reload(self) -> None:
        """Read the settings once, for all workers, and for those that are started later."""
        loaded = read(self._load)
        if loaded is None:
            return
        generated = self._generated & loaded.generated
        fresh = {name: getattr(loaded.settings, name) for name in RELOADED - generated}
        self._generated = loaded.generated
        mask_also(loaded.settings)
        for number, worker in self._workers.items():
            # All of them: a worker reports those that need a restart.
            values = loaded.settings.model_copy(update={n: getattr(self._settings, n) for n in generated})
            start = self._start(number)
            worker.say(
                "reload", start=msgspec.to_builtins(msgspec.structs.replace(start, values=plain(values)))
            )
        self._settings = self._settings.model_copy(update=fresh)


class GaveUpError(Exception):
    """No worker can be started; the text says why."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


def check(settings: Settings) -> None:
    """Raises StartError if the backend is one that can't connect several workers."""
    if not backends.create(settings.backend, settings).is_shared:
        raise StartError(
            f"ECLIPSE_WORKERS is {settings.workers}, and the backend {settings.backend} can't connect "
            "several workers. Fix: use redis or postgres, or run one worker"
        )


async def supervise(
    loaded: Loaded, count: int, load: Callable[[], Loaded], started: Callable[[Settings, int], None]
) -> int:
    """Run so many workers; see `Supervisor.run`. Raises StartError, BackendError and GaveUpError."""
    check(loaded.settings)
    for note in loaded.notes:
        log.warning(note)
    return await Supervisor(loaded, count, load).run(started)
