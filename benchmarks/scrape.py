"""How long ``/metrics`` takes, and how large it is, with ten sessions and with ten thousand.

python -m benchmarks.scrape
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import jwt

from benchmarks.drain import SECRET, Node
from benchmarks.drain_parts import Client

SCRAPES = 21


async def scrape(port: int) -> tuple[float, bytes]:
    """Milliseconds and page of one scrape."""
    began = time.monotonic()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = (
        "GET /metrics HTTP/1.1",
        "Host: localhost",
        f"X-Internal-Secret: {SECRET}",
        "Connection: close",
        "",
        "",
    )
    writer.write("\r\n".join(lines).encode())
    page = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    return (time.monotonic() - began) * 1000, page


async def bench(sessions: int) -> int:
    """The number of targets missed."""
    variables = {
        "JWT_SECRET": SECRET,
        "INTERNAL_API_SECRET": SECRET,
        "NEXT_API_URL": "http://127.0.0.1:9",
        "ECLIPSE_ALLOW_MEMORY_BACKEND": "true",
        "ECLIPSE_BACKEND": "memory",
        "ECLIPSE_MAX_SESSIONS": str(sessions + 10),
        "LOG_LEVEL": "warning",
    }
    node = Node("node", Path(tempfile.mkdtemp(prefix="eclipse-scrape-")), variables)
    await node.start()
    fleet = SimpleNamespace(pick=lambda: node, over=False, saved={}, by_key={}, spawn=asyncio.ensure_future)
    clients: list[Client] = []
    lines: dict[int, int] = {}
    missed = 0
    try:
        for wanted in (10, sessions):
            for at in range(len(clients), wanted, 50):
                more = []
                for number in range(at, min(wanted, at + 50)):
                    claims = {
                        "userId": f"u{number}",
                        "chatId": f"c{number // 2}",
                        "exp": int(time.time()) + 7200,
                    }
                    more.append(
                        Client(fleet, f"c{number // 2}", jwt.encode(claims, SECRET, algorithm="HS256"))
                    )
                await asyncio.gather(*(client.connect() for client in more))
                clients += more
            took = [await scrape(node.port) for _ in range(SCRAPES)]
            page = took[-1][1]
            lines[wanted] = page.count(b"\n")
            middle = median(each for each, _ in took)
            missed += middle > 50
            print(
                f"{wanted:>6} sessions: {middle:.1f} ms (median of {SCRAPES}; slowest {max(took)[0]:.1f}), "
                f"{len(page)} bytes, {lines[wanted]} lines; target 50 ms {'' if middle <= 50 else 'MISSED'}"
            )
    finally:
        fleet.over = True
        if node.process is not None:
            node.process.kill()
            node.process.wait()
    missed += len(set(lines.values())) != 1
    return missed


def main() -> None:
    """Read the arguments, and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=10_000)
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sys.exit(bool(asyncio.run(bench(given.sessions))))


if __name__ == "__main__":
    main()
