"""What HTTP costs those who chat: `/metrics` every second, and 20 clients that fetch `/widget.js`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator

from benchmarks.loads import Load, run
from benchmarks.measuring import WARM, Measured, check, others
from benchmarks.processes import LOAD_CORE, CannotRunError, pinned
from benchmarks.servers import INTERNAL_SECRET, Server

CLIENTS = 20
RATE = 5000
SCRAPES = 1.0
"""Seconds from one scrape to the next."""


def beside(server: Server, seconds: float) -> Measured:
    """p99 at a fixed rate, with HTTP and without, one after the other on the same sessions."""
    phase = f"rate:{RATE}:{max(3.0, seconds)}"
    with server.start(1) as running, contextlib.ExitStack() as stack:
        begun = 0

        def began() -> None:
            nonlocal begun
            begun += 1
            if begun == 3:  # after the warm-up, and the phase without HTTP
                stack.enter_context(_requests(running.ports[0]))

        results = run(server, running, Load(2500, 2, [WARM, phase, phase]), began)
    check(results)
    alone, together = (result["latency_us"] for result in results[2:])
    if not alone["count"] or not together["count"]:
        raise CannotRunError("nothing arrived")
    return {
        "http times": together["p99"] / alone["p99"],
        "http p99": together["p99"] / 1e3,
        "http p99 alone": alone["p99"] / 1e3,
        "http p50": together["p50"] / 1e3,
    }, others(results)


@contextlib.contextmanager
def _requests(port: int) -> Iterator[None]:
    """The clients, in a process that lets the load generator go first."""
    argv = ["nice", "-n", "19", sys.executable, "-m", "benchmarks.beside", str(port)]
    process = subprocess.Popen(
        pinned(argv, LOAD_CORE), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin is not None
        process.stdin.write(INTERNAL_SECRET + "\n")
        process.stdin.flush()
        yield
        process.terminate()
        said = json.loads((process.communicate(timeout=10)[0].splitlines() or ["{}"])[-1])
        if not said.get("fetched") or not said.get("scraped") or said.get("failed"):
            raise CannotRunError(f"the clients beside the load did not get their answers: {said}")
    finally:
        process.kill()
        process.wait()


async def _get(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, secret: str) -> bool:
    """Ask on a kept connection, and read the whole answer; whether it was 200."""
    lines = [f"GET {path} HTTP/1.1", "Host: localhost", "Accept-Encoding: gzip"]
    lines += [f"X-Internal-Secret: {secret}"] if secret else []
    writer.write("\r\n".join([*lines, "", ""]).encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(size or 0))
    return head.startswith(b"http/1.1 200")


async def _ask(port: int, secret: str) -> None:
    """Fetch and scrape until killed; every half second a line with how often."""
    counts = {"fetched": 0, "scraped": 0, "failed": 0}

    async def repeat(path: str, name: str, given: str, pause: float) -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                while True:
                    began = time.monotonic()
                    counts[name if await _get(reader, writer, path, given) else "failed"] += 1
                    await asyncio.sleep(max(0.0, pause - (time.monotonic() - began)))
            except (OSError, EOFError):
                await asyncio.sleep(0.1)  # the server ends a kept connection now and then

    async with asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(repeat("/widget.js", "fetched", "", 0))
        group.create_task(repeat("/metrics", "scraped", secret, SCRAPES))
        while True:
            await asyncio.sleep(0.5)
            print(json.dumps(counts), flush=True)


if __name__ == "__main__":
    asyncio.run(_ask(int(sys.argv[1]), sys.stdin.readline().strip()))
