"""The WebSocket protocol on accepted sockets (plain, over TLS, compressed), under any `WebSocketHandler`. It
knows nothing of chats.

`WireHandler` is the base of a handler, `Socket` what it sends through, `Audience` a set of sockets that get
the same frames, `text_frame` encodes one. `stats` counts, `queued_bytes` looks.
"""

from eclipse_ws.websocket.audience import Audience
from eclipse_ws.websocket.counters import Stats, stats
from eclipse_ws.websocket.event_poll import queued_bytes
from eclipse_ws.websocket.frames import text_frame
from eclipse_ws.websocket.handler import WireHandler
from eclipse_ws.websocket.socket import Socket

__all__ = ["Audience", "Socket", "Stats", "WireHandler", "queued_bytes", "stats", "text_frame"]
