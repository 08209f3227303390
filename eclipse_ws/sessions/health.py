"""The health document over HTTP, at `/` and `/health` (section 8)."""

from __future__ import annotations

from typing import Final

from tornado.web import RequestHandler

from eclipse_ws.sessions.node import Node

METHODS: Final = "GET, HEAD, OPTIONS"


def answer(handler: RequestHandler, node: Node) -> None:
    """Send the document; 503 while draining, so that a proxy routes elsewhere. Every page may read it."""
    handler.set_status(503 if node.draining else 200)
    handler.set_header("Access-Control-Allow-Origin", "*")
    handler.set_header("Cache-Control", "no-store")
    handler.finish(node.health())


def answer_preflight(handler: RequestHandler) -> None:
    """Answer a browser's CORS preflight with an empty 200."""
    handler.set_header("Access-Control-Allow-Origin", "*")
    handler.set_header("Access-Control-Allow-Methods", METHODS)
    handler.set_header("Access-Control-Allow-Headers", "*")
