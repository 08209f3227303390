"""The load generator: compiled once, run on its own core, watched while it runs."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.processes import (
    LOAD_CORE,
    CannotRunError,
    NotInstalledError,
    cpu_seconds,
    family,
    pinned,
    strangers_seconds,
)
from benchmarks.servers import Running, Server

SOURCE = Path(__file__).parent / "load" / "load.c"
ARTEFACTS = Path(__file__).parent.parent / "artefacts"
LONGEST = 300  # s for one run of the generator


@dataclass(frozen=True)
class Load:
    """Chats, their members, and what is done with them."""

    chats: int
    per_chat: int
    phases: Sequence[str]
    payload: str | None = None
    """What is sent; None for the server's typing command."""
    first: int = 0
    """The number of the first chat."""
    options: Sequence[str] = ()
    """More options of the generator."""


def generator() -> Path:
    """The compiled load generator."""
    program = ARTEFACTS / "load"
    changed = max(part.stat().st_mtime for part in SOURCE.parent.iterdir())
    if not program.exists() or program.stat().st_mtime < changed:
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise NotInstalledError(
                "there is no C compiler for the load generator (apt-get install gcc libc6-dev)"
            )
        program.parent.mkdir(exist_ok=True)
        subprocess.run([compiler, "-O2", "-Wall", "-o", str(program), str(SOURCE)], check=True)
    return program


def run(
    server: Server, running: Running, load: Load, began: Callable[[], object] = bool
) -> list[dict[str, Any]]:
    """Put a load on a server: a dict for the connects and one for each phase, as the generator prints them.

    `began` is called when a phase begins. Added to each: `cpu`, the share of its core that the server used;
    `others`, the share of a core that processes used which have nothing to do with it; `memory_before` and
    `memory_after`, bytes of the server.
    """
    with _command(server, running, load) as argv:
        memory = running.memory()
        process = subprocess.Popen(
            pinned(argv, LOAD_CORE), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        killer = threading.Timer(LONGEST, process.kill)
        killer.start()
        try:
            marks = _watch(process, running, began)
            assert process.stdout is not None
            results: list[dict[str, Any]] = [json.loads(line) for line in process.stdout]
            process.wait()
        finally:
            killer.cancel()
            process.kill()
            process.wait()
    if len(results) != len(load.phases) + 1:
        raise CannotRunError(f"the load generator ended early on {server.name}")
    return [
        {**result, **shares, "memory_before": memory, "memory_after": after}
        for result, (shares, after) in zip(results, marks, strict=True)
    ]


@contextlib.contextmanager
def _command(server: Server, running: Running, load: Load) -> Iterator[list[str]]:
    """The generator's command line; the file of its targets goes with the context."""
    with tempfile.NamedTemporaryFile("w", suffix=".targets") as targets:
        for chat in range(load.first, load.first + load.chats):
            chat_id = f"cmh{chat:05d}vp3xg001hm6flkp49qj6c"
            for member in range(load.per_chat):
                targets.write(server.target(chat_id, f"user_{chat}_{member}") + "\n")
        targets.flush()
        argv = [str(generator()), "--ports", ",".join(map(str, running.ports)), "--targets", targets.name]
        argv += ["--per-chat", str(load.per_chat), "--payload", load.payload or server.typing]
        yield [*argv, *server.options, *load.options, *load.phases]


@contextlib.contextmanager
def idle(server: Server, running: Running, load: Load) -> Iterator[None]:
    """Sessions that stay and say nothing, by a generator of their own. Raises CannotRunError if one fails."""
    held = dataclasses.replace(load, phases=[f"hold:{LONGEST}"])
    with _command(server, running, held) as argv:
        process = subprocess.Popen(
            pinned(argv, LOAD_CORE), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        killer = threading.Timer(LONGEST, process.kill)
        killer.start()
        try:
            assert process.stdout is not None
            connected = json.loads(process.stdout.readline() or '{"ready": 0}')
            if connected["ready"] != load.chats * load.per_chat:
                raise CannotRunError(f"{connected['ready']} of {load.chats * load.per_chat} idle sessions")
            yield
        finally:
            killer.cancel()
            process.kill()
            process.wait()


def _watch(
    process: subprocess.Popen[str], running: Running, tell: Callable[[], object]
) -> list[tuple[dict[str, float], int]]:
    """Look at the processes when the generator says that something begins or ends."""
    marks = []
    began = _look(process.pid, running)
    assert process.stderr is not None
    for line in process.stderr:
        match line.strip():
            case "begin":
                tell()
                began = _look(process.pid, running)
            case "end" | "ready":
                ended = _look(process.pid, running)
                seconds = ended[0] - began[0]
                shares = {
                    "cpu": round((ended[1] - began[1]) / seconds, 3),
                    "others": round(max(0.0, ended[2] - began[2]) / seconds, 3),
                }
                if line.strip() == "ready":
                    time.sleep(0.2)  # what the last handshakes leave behind is let go
                marks.append((shares, running.memory()))
            case other:
                print(other, flush=True)
    return marks


def _look(load_pid: int, running: Running) -> tuple[float, float, float]:
    ours = running.pids()
    # The harness's other children (Redis, the chat API) are its own, not strangers.
    known = [*family(load_pid), *ours, *family(os.getpid())]
    return time.monotonic(), cpu_seconds(ours), strangers_seconds(known)
