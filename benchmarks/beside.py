"""What HTTP costs those who chat: `/metrics` every second, and 20 clients that fetch `/widget.js`.

The load generator has these clients too: as processes beside it they would take its core's time, which would
show as the server's latency.
"""

from __future__ import annotations

from benchmarks.loads import Load
from benchmarks.measuring import WARM, Measured, others, put
from benchmarks.processes import CannotRunError
from benchmarks.servers import INTERNAL_SECRET, Server

CLIENTS = 20
RATE = 5000


def beside(server: Server, seconds: float) -> Measured:
    """p99 at a fixed rate, with HTTP and without, one after the other on the same sessions."""
    length = max(3.0, seconds)
    options = ["--fetchers", str(CLIENTS), "--fetch", "/widget.js", "--scrape", "/metrics"]
    options += ["--header", f"X-Internal-Secret: {INTERNAL_SECRET}"]
    phases = [WARM, f"rate:{RATE}:{length}", f"beside:{RATE}:{length}"]
    results = put(server, Load(2500, 2, phases, options=options))
    alone, together = results[2:]
    if not together["fetched"] or not together["scraped"] or together["refused"]:
        raise CannotRunError(
            f"of the HTTP requests {together['fetched']} files and {together['scraped']} scrapes came back, "
            f"{together['refused']} were refused"
        )
    return {
        "http times": together["latency_us"]["p99"] / alone["latency_us"]["p99"],
        "http p99": together["latency_us"]["p99"] / 1e3,
        "http p99 alone": alone["latency_us"]["p99"] / 1e3,
        "http p50": together["latency_us"]["p50"] / 1e3,
        "http requests": together["fetched"] / together["seconds"],
    }, others(results)
