"""Client to server: commands, and why one is refused (section 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, get_args

import msgspec

from eclipse_ws.protocol import schema
from eclipse_ws.protocol.depth import TooDeepError, bounded
from eclipse_ws.protocol.events import timestamp

Role = Literal["USER", "ASSISTANT", "AGENT"]
ROLES: Final = ("USER", "ASSISTANT", "AGENT")


class CommandError(Exception):
    """A command that was refused or failed: what the client learns, without internal details.

    ``text`` is the contract's wording, ``code`` is stable and in snake_case, ``retry_after`` is in seconds.
    """

    def __init__(
        self,
        text: str,
        code: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        client_message_id: str | None = None,
    ) -> None:
        super().__init__(f"{text} ({code})")
        self.text = text
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after
        self.client_message_id = client_message_id

    def encode(self) -> bytes:
        """The error event."""
        return schema.Error(
            error=self.text,
            code=self.code,
            retryable=self.retryable,
            retry_after=None if self.retry_after is None else round(self.retry_after, 3),
            client_message_id=self.client_message_id,
            timestamp=timestamp(),
        ).encode()


_Id = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class BaseCommand(msgspec.Struct):
    """What every command has. A new command is added to `Command`, too."""

    @property
    def client_message_id(self) -> str | None:
        """The key that its answers carry."""
        return None

    @property
    def text(self) -> str:
        """Its content, which counts against limits."""
        return ""

    @classmethod
    def refusal(cls, fields: dict[str, Any], key: str | None) -> CommandError | None:
        """The error for ``fields`` that can't be decoded as this command; None to ignore them.

        ``key`` is their clientMessageId, if it is valid.
        """
        return _malformed(key)


class SendMessage(BaseCommand, tag="message", rename="camel"):
    """Send a message: saved by the chat API, then sent as an event to everybody in the chat.

    ``resend``: this ``clientMessageId`` was sent before, perhaps to another node, and not answered.
    """

    content: str
    role: Role
    client_message_id: _Id | None = None
    resend: bool = False

    @property
    def text(self) -> str:
        """The content."""
        return self.content

    @classmethod
    def refusal(cls, fields: dict[str, Any], key: str | None) -> CommandError:
        """The error for the first invalid field."""
        content = fields.get("content")
        if not isinstance(content, str) or not content.strip() or fields.get("role") not in ROLES:
            return _missing(key)
        if key == fields.get("clientMessageId"):
            return CommandError(
                "Invalid resend: expected true or false", "invalid_resend", client_message_id=key
            )
        return CommandError(
            "Invalid clientMessageId: expected a string of 1 to 64 characters", "invalid_client_message_id"
        )


class Typing(BaseCommand, tag="typing", rename="camel"):
    """The user is typing or has stopped."""

    is_typing: bool

    @classmethod
    def refusal(cls, fields: dict[str, Any], key: str | None) -> None:
        """None: it is ignored silently."""


class AgentJoined(BaseCommand, tag="agent_joined"):
    """An agent has joined; what the client says about the agent is ignored."""


class Ping(BaseCommand, tag="ping"):
    """An application-level ping, for clients that can't see WebSocket pings."""


class Refresh(BaseCommand, tag="refresh"):
    """A new token for the same user and chat extends the session."""

    token: str

    @classmethod
    def refusal(cls, fields: dict[str, Any], key: str | None) -> CommandError:
        """The error for a missing token."""
        return CommandError("Missing token", "missing_token")


Command = SendMessage | Typing | AgentJoined | Ping | Refresh
_BY_TYPE: Final[dict[str, type[BaseCommand]]] = {
    struct.__struct_config__.tag: struct for struct in get_args(Command)
}
_decode_command: Callable[[str | bytes], Command] = bounded(msgspec.json.Decoder(Command).decode)
_decode_any = bounded(msgspec.json.Decoder().decode)


def decode_command(text: str | bytes) -> Command | None:
    """Decode one frame from a client; None for what the contract silently ignores.

    Raises CommandError with the contract's wording (section 2) for everything else that is not a command.
    """
    try:
        command = _decode_command(text)
    except TooDeepError:
        raise _malformed() from None
    except (msgspec.MsgspecError, UnicodeError):
        _explain(text)
        return None
    if type(command) is SendMessage:
        if not command.content.strip():
            raise _missing(command.client_message_id)
        if "\0" in command.content:
            raise CommandError(
                "Invalid content: it must not contain NUL (U+0000)",
                "invalid_content",
                client_message_id=command.client_message_id,
            )
    return command


def _explain(text: str | bytes) -> None:
    """Raise the error for a frame that is not a valid command (the slow path)."""
    try:
        fields = _decode_any(text)
    except (msgspec.MsgspecError, UnicodeError):
        raise _malformed() from None
    if not isinstance(fields, dict):
        raise _malformed()
    given = fields.get("clientMessageId")
    key = given if isinstance(given, str) and 1 <= len(given) <= 64 else None
    name = fields.get("type")
    if not isinstance(name, str):
        raise _malformed(key)
    struct = _BY_TYPE.get(name)
    if struct is None:
        raise CommandError("Unknown message type", "unknown_type", client_message_id=key)
    error = struct.refusal(fields, key)
    if error is not None:
        raise error


def _malformed(client_message_id: str | None = None) -> CommandError:
    return CommandError("Failed to process message", "malformed", client_message_id=client_message_id)


def _missing(client_message_id: str | None) -> CommandError:
    return CommandError(
        "Missing content or role", "missing_content_or_role", client_message_id=client_message_id
    )
