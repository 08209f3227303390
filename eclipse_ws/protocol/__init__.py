"""The wire contract as types: what is sent over a session's socket and over a chat's channel.

Pure: bytes in, values out, no I/O. Section numbers are those of ``docs/protocol.md``.

Everything above `config` may import from here; these import nothing else of the package.
"""

from eclipse_ws.protocol.close_codes import CloseCode
from eclipse_ws.protocol.commands import (
    ROLES,
    AgentJoined,
    Command,
    CommandError,
    Ping,
    Refresh,
    Role,
    SendMessage,
    Typing,
    decode_command,
)
from eclipse_ws.protocol.depth import MAX_DEPTH, TooDeepError, bounded, check_depth, decode_json
from eclipse_ws.protocol.events import (
    EPHEMERAL_TYPES,
    MAX_CURSOR,
    Cursor,
    Event,
    MalformedEventError,
    may_be_kept,
    parse_event,
    parse_events,
    saved_id,
    timestamp,
    untimed,
    with_cursor,
    with_origin,
)
from eclipse_ws.protocol.frames import (
    Message,
    Receipt,
    Sender,
    User,
    ack,
    agent_joined_event,
    connected,
    message_event,
    pong,
    refreshed,
    typing_event,
)

__all__ = [
    "EPHEMERAL_TYPES",
    "MAX_CURSOR",
    "MAX_DEPTH",
    "ROLES",
    "AgentJoined",
    "CloseCode",
    "Command",
    "CommandError",
    "Cursor",
    "Event",
    "MalformedEventError",
    "Message",
    "Ping",
    "Receipt",
    "Refresh",
    "Role",
    "SendMessage",
    "Sender",
    "TooDeepError",
    "Typing",
    "User",
    "ack",
    "agent_joined_event",
    "bounded",
    "check_depth",
    "connected",
    "decode_command",
    "decode_json",
    "may_be_kept",
    "message_event",
    "parse_event",
    "parse_events",
    "pong",
    "refreshed",
    "saved_id",
    "timestamp",
    "typing_event",
    "untimed",
    "with_cursor",
    "with_origin",
]
