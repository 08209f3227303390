"""Sockets that get the same frames: sending a frame costs the same for two as for two thousand sockets; the
end of the turn costs one system call for each.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

from eclipse_ws.websocket.backlog import Backlog
from eclipse_ws.websocket.event_poll import EventPoll

MOST_BYTES: Final = 1 << 18
"""Bytes of a turn's frames after which they are written at once."""

_NOTHING: list[bytes] = []
"""The list of an audience without frames. It is never changed, so idle audiences share it."""


class Member(Protocol):
    """What an audience knows about its sockets; see `Socket`."""

    poll: EventPoll
    audiences: "tuple[Audience, ...]"
    out: list[bytes] | Backlog | None

    @property
    def is_closing(self) -> bool:
        """Whether a frame that is sent now is discarded."""

    def take(self, batch: Sequence[bytes], soft: int) -> None:
        """Append frames to the socket's own; bit n of `soft` says that frame n may be dropped."""

    def put(self, batch: Sequence[bytes], soft: int, data: bytes) -> None:
        """Write frames now, `data` being all of them; only if nothing waits (`out` is None)."""


class Audience:
    """A set of open sockets that get the same frames, each in one system call at the end of the turn.

    Order: a socket gets an audience's frames and its own (`Socket.send`) in the order in which they were
    sent. A socket that joins gets what is sent from then on; one that leaves still gets what was sent before.
    Between two audiences there is no order. A socket that closes leaves by itself.

    ``gathers``: its sockets are in many audiences, and write the frames of all of them in one call.
    """

    __slots__ = (
        "__weakref__",
        "_alone",
        "_bytes",
        "_gathers",
        "_marks",
        "_members",
        "_poll",
        "_soft",
        "frames",
    )

    def __init__(self, gathers: bool = False) -> None:
        self.frames: list[bytes] = _NOTHING
        """What was sent in this turn."""
        self._soft = 0
        """Bit n: frame n may be dropped."""
        self._bytes = 0
        self._members: set[Member] = set()
        self._marks: dict[Member, int] = {}
        """Members that skip the first n frames, because they have them or joined later, with n."""
        self._alone: tuple[Audience, ...] = ()
        """The `audiences` of members that are in no other audience, shared by them. It refers back to this
        object, so it exists only while there are members: an empty audience is freed without the garbage
        collector.
        """
        self._poll: EventPoll | None = None
        self._gathers = gathers

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(tuple(self._members))

    def __contains__(self, socket: object) -> bool:
        return socket in self._members

    def add(self, socket: Member) -> None:
        """Add a socket: it gets what is sent from now on. Nothing changes if it is closing or already a
        member.
        """
        if socket.is_closing or socket in self._members:
            return
        if self.frames:
            self._marks[socket] = len(self.frames)
        if not self._members:
            self._alone = (self,)
        self._members.add(socket)
        self._poll = socket.poll
        socket.audiences = (*socket.audiences, self) if socket.audiences else self._alone

    def discard(self, socket: Member, with_frames: bool = True) -> None:
        """Remove a socket: it gets nothing that is sent from now on and, without `with_frames`, nothing that
        was sent in this turn.
        """
        if socket not in self._members:
            return
        if self.frames and with_frames:
            self.pull(socket)
        self._members.discard(socket)
        if socket.audiences[-1:] == (self,):
            socket.audiences = socket.audiences[:-1]
        else:
            socket.audiences = tuple(audience for audience in socket.audiences if audience is not self)
        if not self._members:
            self._alone = ()

    def send(self, frame: bytes, *, droppable: bool = False, skip: Member | None = None) -> int:
        """Send a frame to all members except `skip` at the end of the turn. `droppable` as in `Socket.send`.
        Returns the number of members. Never raises, never blocks.
        """
        if not self._members:
            return 0
        frames = self.frames
        if not frames:
            frames = self.frames = []
            poll = self._poll
            assert poll is not None  # there was a member
            poll.audiences.append(self)
            if not poll.scheduled:
                poll.schedule()
        elif self._bytes > MOST_BYTES:
            self.flush()
            return self.send(frame, droppable=droppable, skip=skip)
        if skip is not None and skip in self._members:
            if frames:
                self.pull(skip)
            self._marks[skip] = len(frames) + 1
        if droppable:
            self._soft |= 1 << len(frames)
        frames.append(frame)
        self._bytes += len(frame)
        return len(self._members)

    def pull(self, socket: Member) -> None:
        """Move this turn's frames that a member has not received to its own, to keep the order."""
        count = len(self.frames)
        mark = self._marks.get(socket, 0)
        if mark <= count:
            self._marks[socket] = count
            if mark < count:
                socket.take(self.frames[mark:], self._soft >> mark)

    def flush(self) -> None:
        """End of the turn: write all frames to each member in one call."""
        frames = self.frames
        if not frames:
            return
        soft, marks, gathers = self._soft, self._marks, self._gathers
        self.frames = _NOTHING
        self._soft = self._bytes = 0
        if marks:
            self._marks = {}
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        for socket in tuple(self._members):  # a copy, because a lost member leaves
            mark = marks.get(socket, 0) if marks else 0
            if mark:
                if mark < len(frames):
                    socket.take(frames[mark:], soft >> mark)
            elif socket.out is None and not gathers:
                socket.put(frames, soft, data)
            else:
                socket.take(frames, soft)
