"""An echo handler for conformance suites: `python -m tests.websocket.echo --port 9001`."""

import argparse
import asyncio
from typing import Any

from tornado.web import Application

from eclipse_ws.websocket import WireHandler


class Echo(WireHandler):
    """Sends every message back."""

    wire_max_message = 16 << 20
    wire_queue_bytes = 64 << 20
    wire_frame_burst = 1e9  # the suites send messages in a hundred thousand fragments

    def get_compression_options(self) -> dict[str, Any]:
        """Compress if the client offers it."""
        return {}

    def on_message(self, message: str | bytes) -> None:
        """Send it back, a text as a text."""
        self.write_message(message, binary=isinstance(message, bytes))


async def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9001)
    Application([("/.*", Echo)]).listen(parser.parse_args().port, "127.0.0.1")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
