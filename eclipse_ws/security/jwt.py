"""Verifies tokens, and returns their claims. Pure; no I/O."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard

import jwt
import msgspec
from jwt.algorithms import HMACAlgorithm
from jwt.utils import base64url_decode

from eclipse_ws import protocol
from eclipse_ws.config.key_material import previous_secrets, public_keys
from eclipse_ws.config.settings import Settings
from eclipse_ws.protocol import CloseCode
from eclipse_ws.protocol.commands import MAX_NAME

LEEWAY: Final = 2.0
"""Seconds by which the application's clock may differ; clocks that NTP sets differ by much less."""
MAX_TOKEN: Final = 65536
"""Maximum length of a token, in characters: enough for 500 chats. In an upgrade it is part of the headers."""
NO_CHATS: Final[frozenset[str]] = frozenset()
"""One for all sessions: each empty set of its own would take 216 bytes."""
SYMMETRIC: Final = {
    "HS256": HMACAlgorithm.SHA256,
    "HS384": HMACAlgorithm.SHA384,
    "HS512": HMACAlgorithm.SHA512,
}


class Claims(msgspec.Struct, frozen=True):
    """The claims of a verified token.

    ``chat_id`` is the chat in which its session begins ("" for none), ``chat_ids`` are further chats that it
    opens. ``ends``, in seconds since 1970, is its ``exp``, or the end of the maximum lifetime if that is
    earlier.
    ``roles`` are the roles of its claim ``roles``; None without that claim.
    ``key`` is the fingerprint of the key that verified it, ``issuer`` its ``iss``, ``audience`` its ``aud``.
    """

    user_id: str
    chat_id: str
    is_authenticated: bool = False
    ends: float = math.inf
    roles: tuple[str, ...] | None = None
    key: bytes = b""
    issuer: str | None = None
    audience: tuple[str, ...] = ()
    chat_ids: frozenset[str] = NO_CHATS

    def opens(self, chat_id: str) -> bool:
        """Whether the token gives access to a chat."""
        return bool(chat_id) and (chat_id == self.chat_id or chat_id in self.chat_ids)

    @property
    def expires_at(self) -> datetime | None:
        """``ends`` as a date; None if it never expires."""
        return None if self.ends == math.inf else datetime.fromtimestamp(self.ends, UTC)

    def permits(self, role: protocol.Role, default_roles: Sequence[str] = protocol.ROLES) -> bool:
        """Whether the user may act in a role; a user without an account may only in USER.

        ``default_roles`` are the roles of an account whose token has no claim ``roles``.
        """
        if not self.is_authenticated:
            return role == "USER" and (self.roles is None or role in self.roles)
        return role in (default_roles if self.roles is None else self.roles)

    def shown_as(self, spoken: protocol.Role = "USER") -> protocol.PresentRole:
        """The role in which others see the user: the highest of the claim, or without it, as ``spoken``.

        ``spoken`` is the highest role in which the user has spoken in this session.
        """
        if self.roles is not None:
            spoken = next((role for role in protocol.RANKED if role in self.roles), "USER")
        return protocol.SHOWN[spoken] if self.is_authenticated else "user"


class TokenError(Exception):
    """A rejected token; ``close`` is for the client, the text for the log."""

    def __init__(self, close: CloseCode, detail: str) -> None:
        super().__init__(detail)
        self.close = close


class _Hmac(HMACAlgorithm):
    """HMAC that prepares a key once, not for every token: checking that it is not a public key is slow."""

    def __init__(self, hash_algorithm: Any) -> None:
        super().__init__(hash_algorithm)
        self._prepared: dict[str | bytes, bytes] = {}

    def prepare_key(self, key: str | bytes) -> bytes:
        """The key as bytes. Raises InvalidKeyError if it can't be a secret."""
        prepared = self._prepared.get(key)
        if prepared is None:
            prepared = self._prepared[key] = super().prepare_key(key)
        return prepared

    def check_key_length(self, key: bytes) -> None:
        """Do nothing: the settings' validation checks the length."""


class _Signatures(jwt.PyJWS):
    """PyJWT's signatures, for a server that tries its keys one by one."""

    def __init__(self) -> None:
        super().__init__()
        for name, hash_algorithm in SYMMETRIC.items():
            self.unregister_algorithm(name)
            self.register_algorithm(name, _Hmac(hash_algorithm))

    def _validate_kid(self, kid: Any) -> None:
        """Do nothing: keys are not selected by id, which other libraries write as null or a number."""


class Verifier:
    """Verifies tokens with the settings' secrets and public keys, each for its own algorithms only."""

    def __init__(self, settings: Settings) -> None:
        secret = settings.jwt_secret.get_secret_value()
        earlier = previous_secrets(settings.jwt_previous_secrets.get_secret_value())
        secrets = [value for value in (secret, *earlier) if value]
        self._keys: list[tuple[Any, Sequence[str], bytes]] = [
            (key, algorithms, _fingerprint(key))
            for key, algorithms in (
                *((value, tuple(SYMMETRIC)) for value in secrets),
                *public_keys(settings.jwt_public_key),
            )
        ]
        self._fingerprints = {fingerprint for _, _, fingerprint in self._keys}
        self._issuer = settings.jwt_issuer or None
        self._audience = settings.jwt_audience or None
        self._max_lifetime = settings.jwt_max_lifetime
        self._jwt = jwt.PyJWT(
            {
                "require": ["exp"] if settings.production else [],
                # `accepts` checks them: PyJWT rejects a list that contains anything but strings.
                "verify_iss": False,
                "verify_aud": False,
                # `_end` checks the times: PyJWT accepts a string, or true, as a number.
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                # Claims that the application's own library ignores are no reason to reject its tokens.
                "verify_sub": False,
                "verify_jti": False,
            }
        )
        self._jwt._jws = _Signatures()  # PyJWT has no public way

    def _decode(self, token: str) -> tuple[dict[str, Any], bytes]:
        """The payload, and the fingerprint of the key that verified it. Raises what PyJWT raises."""
        _check_parts(token)
        failure: Exception = jwt.InvalidAlgorithmError("no key is configured")
        for key, algorithms, fingerprint in self._keys:
            try:
                return self._jwt.decode(token, key, algorithms=algorithms), fingerprint
            except jwt.InvalidAlgorithmError as error:
                failure = error if not isinstance(failure, jwt.InvalidSignatureError) else failure
            except (jwt.InvalidSignatureError, jwt.InvalidKeyError) as error:
                failure = error
        raise failure

    def verify(self, token: str) -> Claims:
        """Check a token's signature, times and claims. Raises TokenError."""
        if not token:
            raise TokenError(CloseCode.MISSING_TOKEN, "no token was sent")
        if len(token) > MAX_TOKEN:
            raise TokenError(CloseCode.INVALID_TOKEN, f"the token has more than {MAX_TOKEN} characters")
        try:
            payload, key = self._decode(token)
            ends = self._end(payload, time.time())
        except jwt.PyJWTError as error:
            text = f"the token is invalid: {type(error).__name__}"
            if isinstance(error, jwt.InvalidSignatureError):
                text += "; JWT_SECRET must be the same here and in the application"
            raise TokenError(CloseCode.INVALID_TOKEN, text) from None
        except (protocol.TooDeepError, ValueError, TypeError, OverflowError) as error:
            # Not PyJWT's own errors: hostile headers and payloads cause them in the parts that it uses.
            raise TokenError(
                CloseCode.INVALID_TOKEN, f"the token is malformed: {type(error).__name__}"
            ) from None
        user_id, chat_id, chat_ids = (payload.get(name) for name in ("userId", "chatId", "chatIds"))
        begins_in_none = chat_id is None and chat_ids is not None
        if not is_name(user_id) or not (begins_in_none or is_name(chat_id)):
            raise TokenError(
                CloseCode.INVALID_CLAIMS,
                f"userId and chatId must be strings of 1 to {MAX_NAME} characters without control characters",
            )
        issuer, audience = payload.get("iss"), payload.get("aud")
        claims = Claims(
            user_id,
            "" if begins_in_none else str(chat_id),
            payload.get("isAuthenticated") is True,
            ends,
            _roles(payload.get("roles")),
            key,
            issuer if isinstance(issuer, str) else None,
            tuple(each for each in _listed(audience) if isinstance(each, str)),
            _chat_ids(chat_ids),
        )
        if not self.accepts(claims):
            raise TokenError(
                CloseCode.INVALID_TOKEN,
                "the token's iss or aud does not match the settings (jwt_issuer, jwt_audience)",
            )
        return claims

    def accepts(self, claims: Claims) -> bool:
        """Whether a token that an earlier verifier accepted is still valid: its key is still configured, and
        its issuer and audience match the settings. Its times are not checked.
        """
        return (
            claims.key in self._fingerprints
            and self._issuer in (None, claims.issuer)
            and (self._audience is None or self._audience in claims.audience)
        )

    def _end(self, payload: dict[str, Any], now: float) -> float:
        """When the token expires, in seconds since 1970. Raises TokenError, ValueError."""
        exp, nbf, iat = (_seconds(payload, name) for name in ("exp", "nbf", "iat"))
        if nbf is not None and nbf > now + LEEWAY:
            raise TokenError(CloseCode.INVALID_TOKEN, "the token is not valid yet (nbf)")
        if iat is not None and iat <= now + LEEWAY:
            latest = iat + self._max_lifetime
        else:
            # Without an issue time the lifetime is unknown, so the expiry must be near.
            latest = now + self._max_lifetime
            if exp is not None and exp > latest + LEEWAY:
                raise TokenError(
                    CloseCode.INVALID_TOKEN,
                    f"the token has no valid iat, and its exp is more than {self._max_lifetime:g} s ahead "
                    "(jwt_max_lifetime)",
                )
        ends = latest if exp is None else min(exp, latest)
        if ends <= now - LEEWAY:
            raise TokenError(CloseCode.TOKEN_EXPIRED, "the token has expired")
        return ends


def _check_parts(token: str) -> None:
    """Bound what PyJWT parses before it checks the signature. Raises TooDeepError or ValueError."""
    for part in token.rpartition(".")[0].split(".", 1):
        text = base64url_decode(part)
        if b"\0" in text:  # JSON in UTF-8 never contains one: it would be read as UTF-16
            raise ValueError("not UTF-8")
        protocol.check_depth(text)


def is_name(value: object) -> TypeGuard[str]:
    """Whether a claim is a valid user or chat id: in URLs, in Redis, in logs."""
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_NAME or value.isspace():
        return False
    return not any(char < " " or "\x7f" <= char <= "\x9f" or "\ud800" <= char <= "\udfff" for char in value)


def _chat_ids(value: object) -> frozenset[str]:
    """The chats of a claim ``chatIds``. Raises TokenError."""
    if value is None:
        return NO_CHATS
    if not isinstance(value, list) or len(value) > protocol.MAX_CHATS or not all(map(is_name, value)):
        raise TokenError(
            CloseCode.INVALID_CLAIMS,
            f"chatIds must be a list of at most {protocol.MAX_CHATS} strings of 1 to {MAX_NAME} characters "
            "without control characters",
        )
    return frozenset(value) or NO_CHATS


def _roles(value: object) -> tuple[str, ...] | None:
    """The known roles of a claim: empty if it can't be parsed, None without the claim."""
    if value is None:
        return None
    named = _listed(value)
    return tuple(role for role in protocol.ROLES if role in named)


def _listed(value: object) -> list[object]:
    """A claim that may be a string or a list, as a list; empty for anything else."""
    return [value] if isinstance(value, str) else value if isinstance(value, list) else []


def _seconds(payload: dict[str, Any], name: str) -> float | None:
    """A claim that is a time, in seconds since 1970; None if it is missing. Raises ValueError."""
    if name not in payload:
        return None
    value = payload[name]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} is not a number")
    return value


def _fingerprint(key: Any) -> bytes:
    """Eight bytes that identify a key."""
    if not isinstance(key, str):
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        data: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:
        data = key.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=8).digest()


def required(issuer: str, audience: str) -> dict[str, str]:
    """The claims that a server with these settings requires of tokens; an empty setting requires none."""
    claims = {"iss": issuer, "aud": audience}
    return {name: value for name, value in claims.items() if value}
