"""Close codes: why a session was ended, and what its client should do (section 1). The only definition.

Tests compare the documents, the widget and the websocket package's defaults with it.
"""

from enum import Enum


class CloseCode(Enum):
    """Why a session was ended.

    ``code`` and ``reason`` are sent, ``advice`` is what its client should do. ``comes_back``: whether the
    client may connect again; ``needs_token``: only with another token.
    """

    NORMAL = (1000, "", "as it likes")
    GOING_AWAY = (1001, "", "as it likes")
    TOO_BIG = (1009, "Message too big", "fix and reconnect")
    RESTARTING = (1012, "Server restarting", "reconnect after a random delay")
    INTERNAL_ERROR = (4000, "Internal server error", "reconnect with backoff")
    MISSING_TOKEN = (4001, "Missing authentication token", "get a token", True, True)
    TOKEN_EXPIRED = (4002, "Token expired", "get a new token, reconnect", True, True)
    INVALID_TOKEN = (4002, "Invalid token", "get a new token, reconnect", True, True)
    INVALID_CLAIMS = (
        4002,
        "Invalid token payload: missing userId or chatId",
        "get a new token, reconnect",
        True,
        True,
    )
    KICKED = (4003, "Disconnected by the application", "stop", False)
    TOO_SLOW = (4008, "Too slow: outgoing queue is full", "reconnect with its cursor")
    RATE_LIMITED = (4009, "Rate limit exceeded", "back off, reconnect")
    RESUME_NEEDED = (
        4010,
        "Resume needed: this node missed events of the chat",
        "reconnect with its cursor",
    )

    def __init__(
        self, code: int, reason: str, advice: str, comes_back: bool = True, needs_token: bool = False
    ) -> None:
        self.code = code
        self.reason = reason
        self.advice = advice
        self.comes_back = comes_back
        self.needs_token = needs_token

    @property
    def meaning(self) -> str:
        """The reason, or the code's name in words if no reason is sent."""
        return self.reason or self.name.lower().replace("_", " ")

    def with_detail(self, detail: str) -> str:
        """The reason with a detail, such as the limit that was exceeded."""
        return f"{self.reason}: {detail}"
