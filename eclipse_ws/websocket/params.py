"""The bounds of sockets."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Params:
    """The bounds of a handler class's sockets."""

    max_message: int = 65536
    """Bytes; a larger message ends the session with 1009."""
    queue_bytes: int = 1 << 20
    """Bytes that may wait for a peer that does not read."""
    read_bytes: int = 65536
    """Bytes that may wait for us; beyond that the peer is not read from."""
    messages_per_turn: int = 16
    """Frames of one socket that are handled before the others have their turn again."""
    frame_rate: float = 50.0
    """What a peer may cost beyond its messages, a second: one for each control frame, each fragment that does
    not end its message, and each read below 64 bytes that completes no frame, less one for each 512 bytes of
    all these. After our close each read, each frame and each 512 bytes cost one."""
    frame_burst: float = 256.0
    """What it may cost at once. Whoever costs more is closed with `WireHandler.wire_flood_close`."""
    ping_interval: float = 25.0
    """Seconds; 0 sends no pings."""
    ping_timeout: float = 20.0
    """Seconds without a byte after a ping until the peer counts as dead; at most the interval, 0 never."""
    close_timeout: float = 5.0
    """Seconds that a closing handshake may take."""
