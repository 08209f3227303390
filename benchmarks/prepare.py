"""`make bench-peers`: build and install the peers that no package manager has ready, in the user's cache."""

from __future__ import annotations

import sys
from collections.abc import Callable

from benchmarks import centrifugo, uws
from benchmarks.processes import NotInstalledError
from benchmarks.servers import install_peers

STEPS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("Node's peers", install_peers),
    ("Centrifugo", centrifugo.build),
    ("uWebSockets.js", uws.prepare),
)


def main() -> int:
    """Prepare all; 1 if one could not be had."""
    failed = 0
    for name, step in STEPS:
        try:
            print(f"{name}: {step()}", flush=True)
        except NotInstalledError as error:
            failed += 1
            print(f"{name}: left out, {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
