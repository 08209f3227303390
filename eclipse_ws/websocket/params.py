"""The bounds of sockets."""

from dataclasses import dataclass, field

from eclipse_ws.websocket.counters import Stats


@dataclass(frozen=True, slots=True)
class Params:
    """The bounds of a handler class's sockets."""

    max_message: int = 65536
    """Bytes; a larger message closes the connection with 1009."""
    queue_bytes: int = 1 << 20
    """Bytes that may be queued for a peer that does not read."""
    read_bytes: int = 65536
    """Bytes that may wait for the handler; beyond that nothing is read from the peer."""
    messages_per_turn: int = 16
    """Frames of one socket that are handled before the others have their turn."""
    frame_rate: float = 50.0
    """Units per second that a peer may cost besides its messages. A control frame costs one unit, and so do a
    fragment that does not end its message and a read below 64 bytes that completes no frame; every 512 bytes
    earn one. After our close, each read, each frame and each 512 bytes cost one."""
    frame_burst: float = 256.0
    """Units that it may cost at once. Beyond that it is closed with `WireHandler.wire_flood_close`."""
    ping_interval: float = 25.0
    """Seconds; 0 sends no pings."""
    ping_timeout: float = 20.0
    """Seconds without a byte after a ping until the peer counts as lost, at most the interval; 0: never."""
    close_timeout: float = 5.0
    """Seconds that a closing handshake may take."""
    stats: Stats = field(default_factory=Stats)
    """What the sockets count."""
