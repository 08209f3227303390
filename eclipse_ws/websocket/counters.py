"""Counters of all sockets of the process."""


class Stats:
    """Counters since the process began; plain integers, so that a scrape may collect them and a send may
    afford them.
    """

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
        """Open now."""
        self.frames_in = 0
        """Fragments and control frames included."""
        self.frames_out = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.sends = 0
        """System calls that wrote."""
        self.dropped = 0
        """Droppable frames that a full queue cost."""
        self.closed_slow = 0
        """Sockets that were closed because their queue was full."""
        self.protocol_errors = 0
        """Peers that broke RFC 6455, those whose message was too big among them."""
        self.too_big = 0
        """Sockets that were closed because a message was larger than it may be."""


stats = Stats()
