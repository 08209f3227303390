"""RFC 6455 on accepted sockets (plain, over TLS, compressed), under any `WebSocketHandler`. It knows nothing
about chats.

`WireHandler` is the base class of handlers, `Socket` is what a handler sends through, `Audience` is a set of
sockets that get the same frames, `text_frame` encodes a frame. `Stats` has the counters of an application,
`queued_bytes` returns the process's total of queued bytes.

`sessions` and above import from here; this package imports nothing else of `eclipse_ws`.
"""

from eclipse_ws.websocket.audience import Audience
from eclipse_ws.websocket.counters import Stats
from eclipse_ws.websocket.event_poll import queued_bytes
from eclipse_ws.websocket.frames import text_frame
from eclipse_ws.websocket.handler import WireHandler
from eclipse_ws.websocket.socket import Socket

__all__ = ["Audience", "Socket", "Stats", "WireHandler", "queued_bytes", "text_frame"]
