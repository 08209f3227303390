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
RANKED: Final[tuple[Role, ...]] = ("ASSISTANT", "AGENT", "USER")
"""A user who has several roles is shown in the first of these."""


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
        chat_id: str | None = None,
    ) -> None:
        super().__init__(f"{text} ({code})")
        self.text = text
        self.code = code
        self.retryable = retryable
        self.retry_after = retry_after
        self.client_message_id = client_message_id
        self.chat_id = chat_id

    def encode(self, *, names_chat: bool = False) -> bytes:
        """The error event; ``names_chat``: with the id of the chat that it is about, if there is one."""
        return schema.Error(
            error=self.text,
            code=self.code,
            retryable=self.retryable,
            retry_after=None if self.retry_after is None else round(self.retry_after, 3),
            client_message_id=self.client_message_id,
            chat_id=self.chat_id if names_chat else None,
            timestamp=timestamp(),
        ).encode()


MAX_NAME: Final = 256
"""Maximum length of a user or chat id, in characters."""
MAX_CHATS: Final = 500
"""Maximum number of chats that a session may be in, that a token may open, and that one command may name."""

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


class InChat(BaseCommand, kw_only=True, rename="camel"):
    """A command about one chat that the session is in: the one that it names, or the one of the token."""

    chat_id: str | int | None = None


class SendMessage(InChat, tag="message", rename="camel"):
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
        if not isinstance(fields.get("resend", False), bool):
            return CommandError(
                "Invalid resend: expected true or false", "invalid_resend", client_message_id=key
            )
        if key == fields.get("clientMessageId"):
            return _invalid_chat_id(key)
        return CommandError(
            "Invalid clientMessageId: expected a string of 1 to 64 characters", "invalid_client_message_id"
        )


class Typing(InChat, tag="typing", rename="camel"):
    """The user is typing or has stopped."""

    is_typing: bool

    @classmethod
    def refusal(cls, fields: dict[str, Any], key: str | None) -> None:
        """None: it is ignored silently."""


class AgentJoined(InChat, tag="agent_joined", rename="camel"):
    """An agent has joined; what the client says about the agent is ignored."""

    @classmethod
    def refusal(cls, fields: dict[str, Any], key: str | None) -> CommandError:
        """The error for the only field that is read."""
        return _invalid_chat_id(key)


class Read(InChat, tag="read", rename="camel"):
    """The user has read the chat up to a message.

    ``cursor``: the newest one that the client had when it showed the message, for a server that doesn't know
    the message any more.
    """

    message_id: Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)] | int
    cursor: str | None = None

    @classmethod
    def refusal(cls, fields: dict[str, Any], key: str | None) -> CommandError:
        """The error for the first invalid field."""
        message_id = fields.get("messageId")
        if type(message_id) is not int and not (
            isinstance(message_id, str) and 1 <= len(message_id) <= MAX_NAME
        ):
            return _invalid_message_id()
        if not isinstance(fields.get("cursor"), str | None):
            return CommandError("Invalid cursor: expected a string", "invalid_cursor")
        return _invalid_chat_id(key)


class Ping(BaseCommand, tag="ping"):
    """An application-level ping, for clients that can't see WebSocket pings."""


class Refresh(BaseCommand, tag="refresh"):
    """A new token for the same user and chat extends the session."""

    token: str

    @classmethod
    def refusal(cls, fields: dict[str, Any], key: str | None) -> CommandError:
        """The error for a missing token."""
        return CommandError("Missing token", "missing_token")


class ChatToJoin(msgspec.Struct, rename="camel"):
    """A chat to join, and where to resume it; ``token`` opens it if the session's own token doesn't."""

    chat_id: str
    cursor: str | None = None
    token: str | None = None


class ChatToLeave(msgspec.Struct, rename="camel"):
    """A chat to leave."""

    chat_id: str


class _Chats(BaseCommand):
    """A command about one chat or many: its field ``chats`` or, for one of them, ``chatId``."""

    @classmethod
    def refusal(cls, fields: dict[str, Any], key: str | None) -> CommandError:
        """The error for chats that are missing, malformed or too many."""
        chats = fields.get("chats")
        if isinstance(chats, list) and len(chats) > MAX_CHATS:
            return too_many_chats(len(chats))
        return CommandError(
            f"Invalid chats: expected chatId, or chats: a list of at most {MAX_CHATS} objects with a chatId",
            "invalid_chats",
        )


class Join(_Chats, tag="join", rename="camel"):
    """Bring the session into a chat, or into many: each is answered with ``joined``, or with an error.

    ``token``, of the same user, opens chats that the session's own token doesn't open; that of one chat
    comes before that of the command.
    """

    chat_id: str | None = None
    cursor: str | None = None
    token: str | None = None
    chats: Annotated[list[ChatToJoin], msgspec.Meta(max_length=MAX_CHATS)] | None = None

    def wanted(self) -> list[ChatToJoin]:
        """The chats to join, each once. Raises CommandError if there are none."""
        if self.chat_id is None and not self.chats:
            raise self.refusal({}, None)
        wanted = {}
        for chat in self.chats or ():
            token = self.token if chat.token is None else chat.token
            wanted[chat.chat_id] = ChatToJoin(chat.chat_id, chat.cursor, token)
        if self.chat_id is not None:
            wanted[self.chat_id] = ChatToJoin(self.chat_id, self.cursor, self.token)
        return list(wanted.values())


class Leave(_Chats, tag="leave", rename="camel"):
    """Take the session out of a chat, or of many: each is answered with ``left``."""

    chat_id: str | None = None
    chats: Annotated[list[ChatToLeave], msgspec.Meta(max_length=MAX_CHATS)] | None = None

    def wanted(self) -> list[str]:
        """The ids of the chats to leave, each once. Raises CommandError if there are none."""
        if self.chat_id is None and not self.chats:
            raise self.refusal({}, None)
        named = [] if self.chat_id is None else [self.chat_id]
        return list(dict.fromkeys([*named, *(chat.chat_id for chat in self.chats or ())]))


Command = SendMessage | Typing | AgentJoined | Read | Ping | Refresh | Join | Leave
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
    if type(command) is Read and "\0" in str(command.message_id):
        raise _about(command.chat_id, _invalid_message_id())
    if type(command) is SendMessage:
        if not command.content.strip():
            raise _about(command.chat_id, _missing(command.client_message_id))
        if "\0" in command.content:
            error = CommandError(
                "Invalid content: it must not contain NUL (U+0000)",
                "invalid_content",
                client_message_id=command.client_message_id,
            )
            raise _about(command.chat_id, error)
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
        raise _about(fields.get("chatId"), error)


def too_many_chats(count: int, present: int = 0) -> CommandError:
    """The error for ``count`` further chats of a session that is in ``present`` chats."""
    already = f", and this one is in {present}" if present else ""
    return CommandError(
        f"Too many chats: {count} are named{already}; a session may be in {MAX_CHATS}", "too_many_chats"
    )


def _invalid_message_id() -> CommandError:
    return CommandError(
        f"Invalid messageId: expected a string of 1 to {MAX_NAME} characters, without NUL",
        "invalid_message_id",
    )


def _invalid_chat_id(client_message_id: str | None) -> CommandError:
    return CommandError(
        "Invalid chatId: expected a string", "invalid_chat_id", client_message_id=client_message_id
    )


def _about(chat_id: object, error: CommandError) -> CommandError:
    """The error with the chat that its command names, if that can be an id."""
    error.chat_id = chat_id if isinstance(chat_id, str) and len(chat_id) <= MAX_NAME else None
    return error


def _malformed(client_message_id: str | None = None) -> CommandError:
    return CommandError("Failed to process message", "malformed", client_message_id=client_message_id)


def _missing(client_message_id: str | None) -> CommandError:
    return CommandError(
        "Missing content or role", "missing_content_or_role", client_message_id=client_message_id
    )
