"""The health document over HTTP, at `/` and `/health` (section 8)."""

from __future__ import annotations

from typing import Final

from tornado.web import RequestHandler

from eclipse_ws.sessions.node import Node

METHODS: Final = "GET, HEAD, OPTIONS"


async def answer(handler: RequestHandler, node: Node) -> None:
    """Send the document; 503 while draining, so that a proxy routes elsewhere. Every page may read it.

    A worker sends its machine's; its own if that can't be had.
    """
    whole = None if node.machine is None else await node.machine.health()
    document = node.health() if whole is None else whole
    draining = node.draining if whole is None else whole["status"] == "draining"
    handler.set_status(503 if draining else 200)
    handler.set_header("Access-Control-Allow-Origin", "*")
    handler.set_header("Cache-Control", "no-store")
    handler.finish(document)


def answer_preflight(handler: RequestHandler) -> None:
    """Answer a browser's CORS preflight with an empty 200."""
    handler.set_header("Access-Control-Allow-Origin", "*")
    handler.set_header("Access-Control-Allow-Methods", METHODS)
    handler.set_header("Access-Control-Allow-Headers", "*")
