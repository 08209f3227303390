"""Counters of the sockets that share their bounds: those of one application."""


class Stats:
    """Counters since they were made. Plain integers, because every send updates them."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "closed_slow",
        "dropped",
        "frames_in",
        "frames_out",
        "protocol_errors",
        "sends",
        "sockets",
        "too_big",
    )

    def __init__(self) -> None:
        self.sockets = 0
        """Sockets that are open now."""
        self.frames_in = 0
        """Including fragments and control frames."""
        self.frames_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.sends = 0
        """System calls that wrote frames."""
        self.dropped = 0
        """Droppable frames dropped because a queue was full."""
        self.closed_slow = 0
        """Sockets closed because their queue was full."""
        self.protocol_errors = 0
        """Peers that violated RFC 6455, including `too_big`."""
        self.too_big = 0
        """Sockets closed because a message was too big."""
