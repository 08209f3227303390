"""100 honest pairs chat while more than 4,000 sockets attack the same node, plain and then over TLS.

1,000 sessions flood as fast as they can and come back as often as they are closed; 1,000 join busy chats and
never read; 1,000 send half of an upgrade and wait; 500 pipeline 200 requests for a file and read no answer;
500 send bodies and messages that never end; 20 pipeline the requests that cost most; 20 flood on after the
server has closed them; 20 send nothing but pings, pongs and empty fragments. With `--kinds herd` it is 1,000
flooders that come back at the same moment, every two seconds. The attack comes from 20 addresses, named in a
header that the server is told to trust; over TLS, where no proxy comes between, they are as many addresses of
loopback as well. The server runs on one core with the limits of production, everything else on another, where
the honest go first. Latency is from a sender's `message` to its partner's, through a chat API that is never
the bottleneck (nginx).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import secrets
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.attack.attackers import KINDS, USUAL, Attackers
from benchmarks.attack.honest import Seen, talk
from benchmarks.attack.sockets import PROFILE, Target, certificate
from benchmarks.processes import (
    LOAD_CORE,
    SERVER_CORE,
    Process,
    command,
    nginx,
    pinned,
    raise_file_limit,
)
from tests.servers import free_port

TIMES, RSS, LOG, ARRIVAL = 10.0, 256.0, 10.0, 1.0
"""Targets: p99 in multiples of that without the attack, MB of memory, KB/s of log, seconds to a greeting."""
API = Path(__file__).parents[1] / "peers" / "api.conf"
ARRIVING = 5.0
"""Seconds that the attackers have to arrive before anything is measured."""


async def _measure(target: Target, server: Process, pairs: int, seconds: float) -> tuple[Seen, float, float]:
    """What the honest see, the most memory that the server had (MB), and its log's KB/s."""
    peak, log, began = 0.0, server.log_bytes(), time.monotonic()

    async def watch() -> None:
        nonlocal peak
        while True:
            peak = max(peak, server.memory() / 1e6)
            await asyncio.sleep(0.5)

    watching = asyncio.create_task(watch())
    seen = await talk(target, pairs, seconds)
    watching.cancel()
    return seen, peak, (server.log_bytes() - log) / 1000 / (time.monotonic() - began)


def _row(name: str, alone: float, attacked: float, target: str = "", digits: int = 2) -> None:
    print(f"{name:26}{alone:12.{digits}f}{attacked:12.{digits}f}{target:>12}", flush=True)


def run(options: argparse.Namespace, tls: bool, api_port: int) -> bool:
    """Measure alone, then under attack, and print both; whether every target was met."""
    secret, port = secrets.token_urlsafe(48), free_port()
    env = {
        "JWT_SECRET": secret,
        "INTERNAL_API_SECRET": secrets.token_urlsafe(48),
        "PORT": str(port),
        "NEXT_API_URL": f"http://127.0.0.1:{api_port}",
    }
    with TemporaryDirectory() as name:
        folder, authority = Path(name), ""
        profile = folder / "attacked.toml"
        profile.write_text(PROFILE)
        if tls:
            chain, key, authority_path = certificate(folder)
            env |= {"ECLIPSE_TLS_CERT": str(chain), "ECLIPSE_TLS_KEY": str(key)}
            authority = str(authority_path)
        target = Target(port, secret, authority)
        server = Process([*command(), "run", "--profile", str(profile)], port, SERVER_CORE, env, folder)
        attackers = None
        try:
            alone = asyncio.run(_measure(target, server, options.pairs, options.seconds))
            argv = [sys.executable, "-m", "benchmarks.attack", "--attack", str(port)]
            argv += ["--scale", str(options.scale), "--authority", authority, "--kinds", *options.kinds]
            attackers = subprocess.Popen(
                pinned(["nice", "-n", "19", *argv], LOAD_CORE),
                env={**os.environ, **env},
                stdout=subprocess.PIPE,
            )
            time.sleep(ARRIVING)
            attacked = asyncio.run(_measure(target, server, options.pairs, options.seconds))
        finally:
            said = b""
            if attackers is not None:
                attackers.kill()
                said = (attackers.communicate()[0].splitlines() or [b""])[-1]
            server.stop()
    return _report(f"{' over TLS' if tls else ''}: {said.decode()}", alone, attacked, options.p99)


def _report(
    title: str,
    alone: tuple[Seen, float, float],
    attacked: tuple[Seen, float, float],
    most: float | None,
) -> bool:
    (before, memory, log), (seen, peak, log_rate) = alone, attacked
    times = seen.percentile(0.99) / before.percentile(0.99)
    print(f"\nattack{title}")
    print(f"{'':26}{'alone':>12}{'attacked':>12}{'target':>12}")
    _row("honest p50, ms", before.percentile(0.5), seen.percentile(0.5))
    bound = "" if most is None else f"<= {most:g}"
    _row("honest p99, ms", before.percentile(0.99), seen.percentile(0.99), bound)
    _row("p99, times", 1, times, f"<= {TIMES:.0f}", 1)
    _row("messages", before.sent, seen.sent, digits=0)
    _row("lost or refused", before.lost, seen.lost, "0", 0)
    _row("slowest new session, s", before.slowest_arrival, seen.slowest_arrival, f"<= {ARRIVAL:.0f}")
    _row("RSS at most, MB", memory, peak, f"< {RSS:.0f}", 0)
    _row("log, KB/s", log, log_rate, f"< {LOG:.0f}", 1)
    met = not seen.lost and times <= TIMES and seen.slowest_arrival <= ARRIVAL
    met = met and (most is None or seen.percentile(0.99) <= most)
    return met and peak < RSS and log_rate < LOG


def main() -> int:
    """Run the attack; 1 if a target was missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="how many attackers, 1 for all (1)")
    parser.add_argument(
        "--kinds", nargs="+", default=USUAL, choices=KINDS, help="of attackers (all but herd)"
    )
    parser.add_argument("--pairs", type=int, default=100, help="honest pairs (100)")
    parser.add_argument("--seconds", type=float, default=30, help="of the attack (30)")
    parser.add_argument("--over", choices=["plain", "tls", "both"], default="both", help="transport (both)")
    parser.add_argument("--p99", type=float, help="ms that the honest p99 may have under attack (no bound)")
    parser.add_argument("--attack", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--authority", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    raise_file_limit(20_000)
    if options.attack:
        logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns whoever writes after a close
        target = Target(options.attack, os.environ["JWT_SECRET"], options.authority)
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(Attackers(target, options.kinds, options.scale).run())
        return 0
    os.sched_setaffinity(0, {LOAD_CORE})
    with nginx(API, LOAD_CORE) as api:
        over = {"plain": [False], "tls": [True], "both": [False, True]}[options.over]
        met = [run(options, tls, api.port) for tls in over]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
