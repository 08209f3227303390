"""`python -m benchmarks.bad_tokens`: 100,000 upgrades with bad tokens, one after the other.

Each is answered with its close code. Printed per tenth: upgrades a second, and the server's memory; the rate
and the memory have to stay flat, so that refusing costs the same for ever.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.attack.sockets import PROFILE, Target, next_frame
from benchmarks.processes import LOAD_CORE, SERVER_CORE, Process, command, raise_file_limit
from eclipse_ws.commands.tokens import mint
from tests.servers import free_port

FLAT = 0.8
"""The slowest tenth has at least this share of the median's rate."""
GROWTH = 8.0
"""MB that memory may grow by after the first tenth."""


def kinds(secret: str) -> list[str]:
    """Tokens that are wrong in different ways."""
    good, other = mint(secret, "c", "u", False), mint("x" * 48, "c", "u", False)
    old = mint(secret, "c", "u", False, seconds=-3600)
    none = "eyJhbGciOiJub25lIn0." + good.split(".")[1] + "."
    return [other, old, none, good[:-4], "", "a.b.c", "x" * 4000, mint(secret, "", "u", False)]


async def one(target: Target, token: str, number: int) -> None:
    """One refusal: up, told why, and gone. Raises RuntimeError if it was let in."""
    reader, writer = await target.session(
        token, f"93.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    )
    opcode, payload = await next_frame(reader)
    if opcode != 8 or payload[:2] not in (b"\x0f\xa1", b"\x0f\xa2"):
        raise RuntimeError(f"a bad token was answered with {opcode} {payload!r}")
    writer.write(b"\x88\x82\0\0\0\0" + payload[:2])
    await reader.read()
    writer.close()


async def tenth(target: Target, tokens: list[str], first: int, count: int) -> float:
    """So many, 32 at once; the rate a second."""
    numbers = iter(range(first, first + count))

    async def worker() -> None:
        for number in numbers:
            await one(target, tokens[number % len(tokens)], number)

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(32)))
    return count / (time.perf_counter() - began)


def main() -> int:
    """Measure; 1 if it is not flat."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=100_000, help="bad tokens (100000)")
    count = parser.parse_args().count
    raise_file_limit()
    secret, port = secrets.token_urlsafe(48), free_port()
    env = {"JWT_SECRET": secret, "INTERNAL_API_SECRET": secrets.token_urlsafe(48), "PORT": str(port)}
    rates, sizes = [], []
    with TemporaryDirectory() as folder:
        profile = Path(folder) / "attacked.toml"
        profile.write_text(PROFILE)
        server = Process([*command(), "run", "--profile", str(profile)], port, SERVER_CORE, env, Path(folder))
        os.sched_setaffinity(0, {LOAD_CORE})
        try:
            for part in range(10):
                rates.append(
                    asyncio.run(tenth(Target(port, secret), kinds(secret), part * count // 10, count // 10))
                )
                sizes.append(server.memory() / 1e6)
                print(f"{(part + 1) * count // 10:8} bad tokens {rates[-1]:8.0f}/s {sizes[-1]:8.1f} MB")
        finally:
            server.stop()
    slowest, median, grown = min(rates), sorted(rates)[5], sizes[-1] - sizes[0]
    print(
        f"slowest tenth {slowest / median:.0%} of the median (target {FLAT:.0%}), {grown:+.1f} MB ({GROWTH})"
    )
    return int(slowest < FLAT * median or grown > GROWTH)


if __name__ == "__main__":
    sys.exit(main())
