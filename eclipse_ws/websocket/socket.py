"""One WebSocket on a socket that was taken over from the HTTP server: its life, its end, and its clock."""

import asyncio
import os
import socket as sockets
from typing import Final

from eclipse_ws.websocket import frames
from eclipse_ws.websocket.event_poll import Poll, stats
from eclipse_ws.websocket.reader import MUTED, OPENING, PAUSED, READING, Incoming
from eclipse_ws.websocket.writer import CLOSING, ENDING, GONE, LINGERING, OPEN, Handler

LOOK: Final = 0.01
"""Seconds between looks for a sign of life that somebody waits for."""


class Socket(Incoming):
    """What sessions and audiences hold: something that takes frames. Belongs to the event loop's thread."""

    __slots__ = ("_ended",)

    def __init__(self, handler: Handler, poll: Poll, fd: int) -> None:
        super().__init__(handler, poll, fd)
        self._ended = False
        """Whether the handler was told, or is about to be."""
        poll.add(self, fd)
        stats.sockets += 1

    @property
    def is_lost(self) -> bool:
        """Whether the peer is known to be gone, though what it said before may still be handled."""
        return self._state == GONE or self._intake == MUTED

    @property
    def held(self) -> int:
        """Bytes that the peer has sent and that wait: for the rest of their message, or for the handler."""
        if self._state == GONE:
            return 0
        return self.handler.held + (0 if self._inbound is None else self._inbound.held)

    async def is_alive(self, seconds: float) -> bool:
        """Ask for a sign of life, and tell whether there is one within so many seconds."""
        if self.is_lost or self._intake:
            return not self.is_lost  # who is not read from says a lot
        self.probe()
        deadline = self.poll.loop.time() + seconds
        while not self._heard and not self.is_lost and self.poll.loop.time() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(LOOK)
        return self._heard and not self.is_lost

    def opened(self) -> None:
        """open() is done: the messages that came meanwhile are handled now."""
        if self._ended:
            self._notify()  # it waited for us
        self.go_on()

    # The end

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Start the closing handshake; what was sent before goes out first. Later calls do nothing.

        The handler's on_close() follows, with this code and reason, when the peer has answered or has had
        its time.
        """
        if self._state == OPEN:
            self._say_close(code, reason)

    def _say_close(self, code: int | None, reason: str, keep: bool = False) -> None:
        self._leave()
        if self._state != OPEN:
            return  # its audiences' last frames were too much for its queue
        if not keep:
            self._code, self._reason = frames.NO_CODE if code is None else code, reason
        self._state = CLOSING
        self._full = 0.0  # whoever was closed for its flood may answer, too
        self.poll.close(self)
        self.take((frames.close_frame(code, reason),), 0)

    def _end(self) -> None:
        """Both sides have said what they had to say, once our queue is empty."""
        self._inbound = None
        if self._state < ENDING:
            self._state = ENDING
            if self._intake == PAUSED:
                self._intake = READING
                self._watch()
            if self.out is None:
                self._flushed()

    def _flushed(self) -> None:
        """Everything is out, in a closing handshake."""
        if self._state != ENDING:
            return
        # The peer ends it (and keeps no bytes that a reset could take from it): half close, wait for its end.
        self._state = LINGERING
        self._shut()
        self._ended_now()

    def _shut(self) -> None:
        """Tell the peer that nothing more will come."""
        handle = sockets.socket(fileno=self._fd)
        try:
            handle.shutdown(sockets.SHUT_WR)
        except OSError:
            pass
        finally:
            handle.detach()

    def _close_fd(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def _part(self) -> None:
        """The peer is gone. What it said before is still handled."""
        if self._intake == MUTED:
            return
        if self._state < ENDING and (self._busy is not None or self.handler.under_way is not None):
            self._intake = MUTED
            self.poll.mute(self._fd)
            self._settle()
        else:
            self._lose()

    def abort(self) -> None:
        """End without another word."""
        self._lose()

    def _lose(self) -> None:
        if self._state == GONE:
            return
        self._leave(with_frames=False)
        self._state = GONE
        self.poll.remove(self, self._fd, self._intake < MUTED)
        self._close_fd()
        self.out = self._inbound = None
        self.queued = 0
        self._ended_now()

    def forget(self) -> None:
        """Be gone without a word to anybody: the loop is closed."""
        self._state = GONE
        self._close_fd()
        if not self._ended:
            self._ended = True
            stats.sockets -= 1

    def _ended_now(self) -> None:
        if not self._ended:
            self._ended = True
            stats.sockets -= 1
            if self._busy is not OPENING:
                self.poll.loop.call_soon(self._notify)

    def _notify(self) -> None:
        """Tell the handler, once, and never from within a send."""
        self.handler.closed(self._code, self._reason)

    # The clock

    def ping(self, payload: bytes = b"", droppable: bool = False) -> None:
        """Send a ping of at most 125 bytes."""
        if self._state == OPEN:
            self._pings += 1
            self.send(frames.frame(frames.PING, payload), droppable)

    def probe(self) -> None:
        """Ask for a sign of life; `answered` looks for it later."""
        self._heard = False
        self.ping(droppable=True)

    def answered(self) -> None:
        """The time for an answer to a ping is over: whoever gave none is dead, unless it is us who do not
        read.
        """
        if not self._heard and self._state == OPEN and not self._intake:
            self._part()
