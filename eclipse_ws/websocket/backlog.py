"""Frames that wait because the kernel's buffer is full: the peer does not read."""

from collections import deque
from collections.abc import Sequence
from typing import Final

CHUNK: Final = 1 << 18
"""Bytes after which no more frames are offered to the kernel in one call."""


Frame = bytes | memoryview


def count_started(frames: Sequence[bytes], size: int) -> int:
    """How many of these frames have been sent, the last one perhaps in part, after `size` bytes."""
    count = 0
    while size > 0:
        size -= len(frames[count])
        count += 1
    return count


class Backlog:
    """A queue of frames, which are shared between sockets. A partly sent frame stays shared while most of it
    waits; then its rest is copied, so that a queue occupies at most twice the bytes that it counts.
    """

    __slots__ = ("_whole", "frames", "pong", "size", "started")

    def __init__(self) -> None:
        self.frames: deque[tuple[Frame, bool]] = deque()
        """Each frame, and whether it may be dropped."""
        self._whole = 0
        """Size of the first frame in memory, if it is partly sent."""
        self.size = 0
        """Waiting bytes."""
        self.started = False
        """Whether the first frame is partly sent, so that its rest must follow in any case."""
        self.pong: bytes | None = None
        """The answer to the peer's last ping, sent after everything else."""

    def push(self, frames: Sequence[bytes], soft: int, room: int) -> int:
        """Queue frames; bit n of `soft` says that frame n may be dropped. Returns the number dropped.

        Droppable frames that would fill the queue beyond `room` bytes are dropped. With `room` well below the
        queue's bound, a queue near its bound need not be searched for droppable frames.
        """
        dropped = 0
        for number, frame in enumerate(frames):
            droppable = bool(soft >> number & 1)
            if droppable and self.size + len(frame) > room:
                dropped += 1
                continue
            self.frames.append((frame, droppable))
            self.size += len(frame)
        return dropped

    def chunk(self) -> Frame:
        """What to offer to the kernel next."""
        first = self.frames[0][0]
        if len(self.frames) == 1 or len(first) >= CHUNK:
            return first
        parts = []
        size = 0
        for frame, _ in self.frames:
            parts.append(frame)
            size += len(frame)
            if size >= CHUNK:
                break
        return b"".join(parts)

    def pin(self) -> int:
        """Join the next chunk's frames into one that is never dropped. Returns by how many the queue shrank.

        For TLS: it may have encrypted a chunk that the kernel did not take, and must get that chunk again.
        """
        chunk, left, before = self.chunk(), 0, len(self.frames)
        while left < len(chunk):
            left += len(self.frames.popleft()[0])
        self.frames.appendleft((chunk, False))
        self.started = True
        return before - len(self.frames)

    def advance(self, size: int) -> int:
        """Remove the `size` bytes that the kernel took. Returns the number of frames completely sent."""
        self.size -= size
        done = 0
        while size:
            frame, _ = self.frames[0]
            if len(frame) > size:
                if isinstance(frame, bytes):
                    self._whole = len(frame)
                rest = memoryview(frame)[size:]
                self.frames[0] = (rest if 2 * len(rest) >= self._whole else bytes(rest), False)
                self.started = True
                break
            size -= len(frame)
            self.frames.popleft()
            self.started = False
            done += 1
        return done

    def drop(self) -> int:
        """Drop all droppable frames. Returns their number."""
        before = len(self.frames)
        self.frames = deque(entry for entry in self.frames if not entry[1])
        self.size = sum(len(frame) for frame, _ in self.frames)
        return before - len(self.frames)

    def clear(self) -> None:
        """Drop everything except the rest of a partly sent frame."""
        while len(self.frames) > self.started:
            self.frames.pop()
        self.size = sum(len(frame) for frame, _ in self.frames)
