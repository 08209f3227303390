"""Fuzzes tokens: `python -m tests.fuzz.fuzz_tokens --seconds 60`.

The first byte says what the rest is: a whole token, or a header and payload to be signed with the right
secret, or with none. Nothing but a token that a configured key has signed
gives claims, and nothing but TokenError is raised.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Hashable

import jwt
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from eclipse_ws.protocol.commands import MAX_NAME
from eclipse_ws.security.jwt import Claims, TokenError, Verifier
from tests.conftest import SECRET, make_settings
from tests.fuzz.loop import main

KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
VERIFIER = Verifier(make_settings(jwt_public_key=PEM, jwt_previous_secrets="x" * 40))
CLAIMS = {"userId": "u1", "chatId": "c1", "isAuthenticated": True, "roles": ["USER"]}
HEAD = b'{"alg":"HS256","typ":"JWT"}'
SEEDS = [
    b"\x00" + jwt.encode(CLAIMS, SECRET, algorithm="HS256").encode(),
    b"\x00" + jwt.encode(CLAIMS, KEY, algorithm="EdDSA").encode(),
    b"\x00" + jwt.encode(CLAIMS, "y" * 40, algorithm="HS256").encode(),
    b"\x01" + HEAD + b'.{"userId":"u1","chatId":"c1"}',
    b"\x01" + HEAD + b'.{"userId":"u1","chatId":"c1","exp":1,"nbf":2,"iat":3,"roles":"AGENT"}',
    b'\x01{"alg":"HS512","crit":["b64"],"b64":false}.{"userId":"u1","chatId":"c1"}',
    b'\x02{"alg":"none"}.{"userId":"u1","chatId":"c1"}',
    b'\x02{"alg":"EdDSA","kid":"../../key","jku":"http://x","jwk":{}}.{"userId":"u1"}',
]
WORDS = [
    *(
        b'"%b"' % word
        for word in b"alg none HS256 EdDSA RS256 typ kid jwk x5c crit b64 zip exp nbf iat".split()
    ),
    *(b'"%b":' % word for word in b"userId chatId isAuthenticated roles exp nbf iat sub jti aud iss".split()),
    b".",
    b"..",
    b"=",
    b"null",
    b"true",
    b"1e308",
    b"1e999",
    b"-1",
    b"99999999999999999999",
    b"[" * 600,
    b"\\u0000",
    b"\xff",
    b'{"',
    b'"}',
    b"NaN",
    b"Infinity",
    b'["AGENT"]',
]


def encoded(part: bytes) -> bytes:
    """As tokens have it: base64url without its padding."""
    return base64.urlsafe_b64encode(part).rstrip(b"=")


def check(data: bytes) -> Hashable:
    """Check what must hold for every input."""
    kind, rest = (data[0] % 3, data[1:]) if data else (0, data)
    signed = kind == 1
    if kind:
        head, _, payload = rest.partition(b".")
        signing = encoded(head) + b"." + encoded(payload)
        signature = hmac.new(SECRET.encode(), signing, hashlib.sha256).digest() if signed else b""
        rest = signing + b"." + encoded(signature)
    text = rest.decode("utf-8", "replace")
    try:
        claims = VERIFIER.verify(text)
    except TokenError as error:
        detail = str(error)
        assert len(detail) < 200, "the log is told more than it needs"
        assert text not in detail or len(text) < 8
        return kind, error.close.name, detail
    assert isinstance(claims, Claims)
    assert 1 <= len(claims.user_id) <= MAX_NAME
    assert 1 <= len(claims.chat_id) <= MAX_NAME
    assert not any(char < " " for char in claims.user_id + claims.chat_id)
    assert claims.roles is None or set(claims.roles) <= {"USER", "ASSISTANT", "AGENT"}
    if not signed:
        assert genuine(text), f"claims of a token that nobody has signed: {text!r}"
    assert 0 < claims.ends - time.time() + 60 < 86400 + 120, "no session lives forever"
    return kind, claims.is_authenticated, claims.roles


def genuine(text: str) -> bool:
    """Whether one of the seeds' signatures still fits, by a second look that is not the verifier's."""
    signing, _, signature = text.rpartition(".")
    given = base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))
    for secret in (SECRET, "x" * 40):
        for algorithm in ("sha256", "sha384", "sha512"):
            if hmac.compare_digest(hmac.new(secret.encode(), signing.encode(), algorithm).digest(), given):
                return True
    try:
        KEY.public_key().verify(given, signing.encode())
    except Exception:
        return False
    return True


if __name__ == "__main__":
    main(check, SEEDS, WORDS, __doc__)
