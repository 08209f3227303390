"""Many clients while their server is restarted, politely and not: do they come back, and not all at once?

    python -m tests.js.herd --clients 1000

starts a server, that many clients in one Node process, drains and restarts the server, then kills and
restarts it, and says what the clients did.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.browser.stage import ServerProcess

HERE = Path(__file__).parent


class Herd:
    """The clients' process."""

    def __init__(self, node: str, token_url: str, clients: int) -> None:
        self.clients = clients
        # Node 20 has a WebSocket behind this flag; later ones take it and have it anyway.
        command = [node, "--experimental-websocket", "--no-warnings", str(HERE / "herd.mjs")]
        self._process = subprocess.Popen(
            [*command, token_url, str(clients)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def report(self) -> dict[str, Any]:
        """Wait until all are connected; what happened since the last report."""
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def expect_cut(self) -> None:
        """The next report waits until all have reconnected."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self.clients}\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """End them."""
        self._process.kill()
        self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def restart(server: ServerProcess, herd: Herd, how: signal.Signals) -> dict[str, Any]:
    """End the server and start it again; what the clients did, ``after`` being seconds since it was back."""
    herd.expect_cut()
    server.end(how)
    server.start()
    back = time.time()
    done = herd.report()
    done["after"] = round(done["last"] / 1000 - back, 1)
    done["share"] = done["busiest"] / herd.clients
    return done


def main() -> None:
    """Run it as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    arguments = parser.parse_args()
    node = shutil.which("node")
    if node is None:
        parser.error("Node is not installed (Debian: apt-get install nodejs)")
    with tempfile.TemporaryDirectory() as folder:
        server = ServerProcess(Path(folder)).start()
        herd = Herd(node, f"{server.url}/api/ws/token", arguments.clients)
        try:
            herd.report()
            for how, name in ((signal.SIGTERM, "drained"), (signal.SIGKILL, "killed")):
                done = restart(server, herd, how)
                print(
                    f"{name}: {done['back']} clients back {done['after']} s after the server was, with "
                    f"{done['attempts']} attempts; the busiest second saw {done['share']:.1%} of them"
                )
        finally:
            herd.end()
            server.end()


if __name__ == "__main__":
    main()
