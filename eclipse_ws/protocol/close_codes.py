"""Close codes: why a session was ended, and what its client should do (section 1)."""

from enum import Enum


class CloseCode(Enum):
    """Why a session was ended: the code, the reason that it reads, and what it should do (section 1)."""

    NORMAL = (1000, "", "as it likes")
    GOING_AWAY = (1001, "", "as it likes")
    TOO_BIG = (1009, "Message too big", "fix and reconnect")
    RESTARTING = (1012, "Server restarting", "reconnect after a random delay")
    INTERNAL_ERROR = (4000, "Internal server error", "reconnect with backoff")
    MISSING_TOKEN = (4001, "Missing authentication token", "get a token")
    TOKEN_EXPIRED = (4002, "Token expired", "get a new token, reconnect")
    INVALID_TOKEN = (4002, "Invalid token", "get a new token, reconnect")
    INVALID_CLAIMS = (
        4002,
        "Invalid token payload: missing userId or chatId",
        "get a new token, reconnect",
    )
    KICKED = (4003, "Disconnected by the application", "stop")
    TOO_SLOW = (4008, "Too slow: outgoing queue is full", "reconnect with its cursor")
    RATE_LIMITED = (4009, "Rate limit exceeded", "back off, reconnect")
    RESUME_NEEDED = (
        4010,
        "Resume needed: this node missed events of the chat",
        "reconnect with its cursor",
    )

    def __init__(self, code: int, reason: str, advice: str) -> None:
        self.code = code
        self.reason = reason
        self.advice = advice

    def with_detail(self, detail: str) -> str:
        """The reason, and a word that says more, such as the limit that a session ran into."""
        return f"{self.reason}: {detail}"
