"""Tokens as the application signs them, and as an attacker might."""

from __future__ import annotations

import base64
import hmac
import json
import time
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from eclipse_ws.protocol import CloseCode, check_depth
from eclipse_ws.security import jwt as jwt_module
from eclipse_ws.security.jwt import TokenError, Verifier
from tests.client import claims, token
from tests.conftest import SECRET, make_settings
from tests.nested import DEEPEST, TOO_DEEP, nested

VERIFIER = Verifier(make_settings())
PRIVATE = ed25519.Ed25519PrivateKey.generate()
PUBLIC = PRIVATE.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
NOW = int(time.time())


def refused(text: str) -> CloseCode:
    """The error for a rejected token."""
    with pytest.raises(TokenError) as caught:
        VERIFIER.verify(text)
    assert SECRET not in str(caught.value)
    return caught.value.close


def part(value: object) -> str:
    """One handmade part of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def signed(header: dict[str, object], **given: object) -> str:
    """A token with this header and these claims, signed without checking either."""
    data = f"{part(header)}.{part({**claims(), **given})}"
    return f"{data}.{part(hmac.digest(SECRET.encode(), data.encode(), 'sha256'))}"


def test_claims_of_a_good_token() -> None:
    """A valid token yields its user, chat, authentication and expiry."""
    found = VERIFIER.verify(token("c1", "u1", exp=NOW + 7200))
    assert (found.user_id, found.chat_id, found.is_authenticated) == ("u1", "c1", True)
    assert found.expires_at == datetime.fromtimestamp(NOW + 7200, UTC)


def test_sessions_without_further_chats_share_one_set() -> None:
    """Most sessions are in one chat, and an empty set takes a tenth of an idle session's memory."""
    verify = Verifier(make_settings()).verify
    one, two, three = verify(token("c1")), verify(token("c2")), verify(token("c3", chatIds=[]))
    assert one.chat_ids is two.chat_ids is three.chat_ids
    assert not one.chat_ids


def test_a_secret_is_prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret is checked with the first token, not with each of them."""
    looked: list[object] = []
    tokens = [token(user=user) for user in "ab"]
    prepare = jwt.algorithms.HMACAlgorithm.prepare_key
    monkeypatch.setattr(
        jwt.algorithms.HMACAlgorithm,
        "prepare_key",
        lambda self, key: looked.append(key) or prepare(self, key),
    )
    verifier = Verifier(make_settings())
    assert [verifier.verify(each).user_id for each in tokens] == ["a", "b"]
    assert looked == [SECRET]
    secret = '{"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0"}'
    unfit = Verifier(make_settings(jwt_secret=secret))
    for each in tokens:
        with pytest.raises(TokenError):
            unfit.verify(each)
    assert looked == [SECRET, secret, secret]


@pytest.mark.parametrize("value", [None, False, 1, "true", [], {}])
def test_only_true_authenticates(value: object) -> None:
    """Only JSON's true authenticates a user; absent is false."""
    assert VERIFIER.verify(token(isAuthenticated=value)).is_authenticated is False


def test_a_visitors_token() -> None:
    """A visitor's generated user id is a user id like any other."""
    assert VERIFIER.verify(token(user="anon_1700000000000_k3j9x")).user_id == "anon_1700000000000_k3j9x"


def test_missing_token() -> None:
    """A missing token has its own close code."""
    assert refused("") is CloseCode.MISSING_TOKEN


def test_expired_token() -> None:
    """An expired token has its own close code, but only if its signature is valid."""
    assert refused(token(exp=NOW - 3600)) is CloseCode.TOKEN_EXPIRED
    assert refused(token(exp=NOW - 3600, secret="y" * 40)) is CloseCode.INVALID_TOKEN


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "a.b.c",
        "..",
        "null",
        "undefined",
        "\x00",
        "é.ü.ß",
        "\ud800",
        " " + token(),
        token() + "x",
        token()[:-4],
        token().replace(".", "/"),
        ".".join([*token().split("."), "x"]),
        token(secret="y" * 40),
        token(nbf=NOW + 3600),
        token(exp="soon"),
        token(exp=[NOW]),
        token(exp=float("nan")),
        "x" * 100_000,
        "." * 10_000,
        jwt.encode(claims(), "", algorithm="none"),
        part({"alg": "none", "typ": "JWT"}) + "." + part(claims()) + ".",
        part({"alg": "HS256"}) + "." + part(claims()) + ".",
        part({"alg": "nonsense"}) + "." + part(claims()) + ".x",
        part({"alg": ["HS256"]}) + "." + part(claims()) + ".x",
        part({"typ": "JWT"}) + "." + part(claims()) + ".x",
        part([]) + "." + part(claims()) + ".x",
        part(b"[" * 10_000) + "." + part(claims()) + ".x",
        part({"alg": "HS256", "crit": ["x"], "x": 1}) + "." + part(claims()) + ".x",
        part({"alg": "HS256", "jwk": {"kty": "oct", "k": "eA"}, "kid": "../../key"})
        + "."
        + part(claims())
        + ".x",
    ],
)
def test_invalid_token(text: str) -> None:
    """Anything that is not signed with our secret, currently valid and HS256, is invalid."""
    assert refused(text) is CloseCode.INVALID_TOKEN


@pytest.mark.parametrize("payload", [b"[]", b'"x"', b"5", b"null", b"", b"\xff", b"{", b"[" * 10_000])
def test_signed_payload_that_is_not_an_object(payload: bytes) -> None:
    """A valid signature over something other than an object of claims is not a token."""
    text = jwt.api_jws.encode(payload, SECRET, algorithm="HS256")
    assert refused(text) is CloseCode.INVALID_TOKEN


@pytest.mark.parametrize("levels", [DEEPEST, *TOO_DEEP, 10_000])
def test_depth_of_a_token(levels: int) -> None:
    """Neither the header, which is read before the signature is checked, nor the claims pass the limit."""
    deep = json.loads(nested(min(levels, 300)))
    for text in (token(x=deep), jwt.encode(claims(), SECRET, headers={"x": deep})):
        if levels == DEEPEST:
            assert VERIFIER.verify(text).user_id == "u1"
        else:
            assert refused(text) is CloseCode.INVALID_TOKEN
    header = f'{{"alg":"HS256","x":{nested(levels)}}}'
    for encoding in ("utf-8", "utf-16", "utf-16-le", "utf-32"):
        assert refused(part(header.encode(encoding)) + "." + part(claims()) + ".x") is CloseCode.INVALID_TOKEN


@pytest.mark.parametrize("header", ["kid", "typ", "cty", "x5t", "jku", "zip"])
@pytest.mark.parametrize("value", [None, 1, True, "", "x", [], {}])
def test_unused_header_fields(header: str, value: object) -> None:
    """Header fields other than `alg` and `crit` are ignored, as in jsonwebtoken and jose."""
    assert VERIFIER.verify(signed({"alg": "HS256", header: value})).user_id == "u1"


@pytest.mark.parametrize("crit", [None, [], ["kid"], ["x"], "x"])
def test_critical_header_fields_are_refused(crit: object) -> None:
    """A header that demands an extension is refused (RFC 7515, 4.1.11), whatever other libraries do."""
    assert refused(signed({"alg": "HS256", "kid": None, "crit": crit})) is CloseCode.INVALID_TOKEN


@pytest.mark.parametrize(
    "audience", ["chat", ["chat"], ["other", "chat"], ["chat", None], [1, "chat", {}], ["chat", "chat"]]
)
def test_audiences_as_the_application_writes_them(audience: object) -> None:
    """One of the audiences has to be ours, whatever stands beside it, as with jsonwebtoken and jose."""
    verifier = Verifier(make_settings(jwt_audience="chat"))
    assert verifier.verify(token(aud=audience)).user_id == "u1"
    assert VERIFIER.verify(signed({"alg": "HS256"}, aud=audience, iss=[None], sub=7, jti=7)).user_id == "u1"


@pytest.mark.parametrize("audience", [None, "", "chat2", [], ["chat2", None], {"chat": 1}, 1, True])
def test_an_audience_that_is_not_ours(audience: object) -> None:
    """Without our audience the token is for somebody else."""
    with pytest.raises(TokenError, match="aud") as caught:
        Verifier(make_settings(jwt_audience="chat")).verify(token(aud=audience))
    assert caught.value.close is CloseCode.INVALID_TOKEN


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_other_algorithms(algorithm: str) -> None:
    """Our secret with another algorithm than the configured one is not a valid signature."""
    assert refused(jwt.encode(claims(), SECRET * 2, algorithm=algorithm)) is CloseCode.INVALID_TOKEN


@pytest.mark.parametrize("claim", ["userId", "chatId"])
@pytest.mark.parametrize(
    "value",
    [
        *(None, "", " ", "\t", 5, 0, True, [], ["c1"], {}, {"a": 1}),
        *("x" * 257, "x" * 4_000, "a\x00b", "a\r\nb", "a\x1bb", "a\x7fb", "a\x85b", "a\ud800b"),
    ],
)
def test_invalid_claims(claim: str, value: object) -> None:
    """A user or chat that is missing, empty, of a wrong type, huge or unprintable gets INVALID_CLAIMS."""
    if isinstance(value, str) and "\ud800" in value:
        body = json.dumps({**claims(), claim: value}).encode()
        text = jwt.api_jws.encode(body, SECRET, algorithm="HS256")
    else:
        text = jwt.encode({**claims(), claim: value}, SECRET, algorithm="HS256")
    assert refused(text) is CloseCode.INVALID_CLAIMS


@pytest.mark.parametrize(
    "name", ["../../users/1", "{}", "{c1}", "a b", "a/b?c=d#e", "x" * 256, "%2e%2e", "ü😀"]
)
def test_odd_names_are_names(name: str) -> None:
    """Odd printable names are only names: nothing takes them for a path or a hash tag."""
    found = VERIFIER.verify(token(name, name))
    assert found.chat_id == found.user_id == name


@pytest.mark.parametrize("exp", [1e15, 10**15, 2**63])
def test_expiry_beyond_the_calendar(exp: float) -> None:
    """A token valid beyond the last date ends with the longest lifetime."""
    assert VERIFIER.verify(token(iat=NOW, exp=exp)).expires_at == datetime.fromtimestamp(NOW + 86400, UTC)


@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
@pytest.mark.parametrize(
    "value",
    [str(NOW + 60), "9" * 20, "", True, False, [NOW], {}, float("nan"), float("inf"), -float("inf"), 10**400],
)
def test_times_are_numbers(claim: str, value: object) -> None:
    """`exp`, `nbf` and `iat` are finite numbers (RFC 7519), or the token is invalid."""
    times: dict[str, Any] = {claim: value}
    assert refused(token(**times)) is CloseCode.INVALID_TOKEN


def test_a_time_that_is_null() -> None:
    """JSON's null is not a number either."""
    for claim in ("exp", "nbf", "iat"):
        text = jwt.api_jws.encode(json.dumps({**claims(), claim: None}).encode(), SECRET, algorithm="HS256")
        assert refused(text) is CloseCode.INVALID_TOKEN


def test_fractions_of_a_second() -> None:
    """A time need not be whole."""
    found = VERIFIER.verify(token(exp=NOW + 6000.5, nbf=NOW - 0.5, iat=NOW - 0.25))
    assert found.expires_at == datetime.fromtimestamp(NOW + 6000.5, UTC)


@pytest.mark.parametrize(
    ("given", "ends"),
    [
        ({"iat": NOW, "exp": NOW + 3600}, NOW + 3600),
        ({"iat": NOW, "exp": NOW + 10**9}, NOW + 7200),
        ({"iat": NOW - 3600, "exp": NOW + 10**9}, NOW + 3600),
        ({"iat": NOW - 3600, "exp": None}, NOW + 3600),
        ({"iat": None, "exp": NOW + 7000}, NOW + 7000),
        ({"iat": NOW + 3600, "exp": NOW + 7000}, NOW + 7000),
    ],
)
def test_the_lifetime_of_a_token(given: dict[str, Any], ends: int) -> None:
    """A token ends with `exp`, at the latest `jwt_max_lifetime` after its `iat`."""
    found = Verifier(make_settings(jwt_max_lifetime=7200)).verify(token(**given))
    assert found.expires_at == datetime.fromtimestamp(ends, UTC)


@pytest.mark.parametrize(
    ("given", "close"),
    [
        ({"iat": NOW - 7300, "exp": NOW + 10**9}, CloseCode.TOKEN_EXPIRED),
        ({"iat": NOW - 7300, "exp": None}, CloseCode.TOKEN_EXPIRED),
        ({"iat": None, "exp": NOW + 14400}, CloseCode.INVALID_TOKEN),
        ({"iat": NOW + 10**8, "exp": NOW + 10**8 + 60}, CloseCode.INVALID_TOKEN),
    ],
)
def test_a_token_with_too_long_a_lifetime(given: dict[str, Any], close: CloseCode) -> None:
    """A token older than the longest lifetime is expired; without a usable `iat`, `exp` must be within it."""
    with pytest.raises(TokenError) as caught:
        Verifier(make_settings(jwt_max_lifetime=7200)).verify(token(**given))
    assert caught.value.close is close


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"nbf": NOW + 3600}, r"not valid yet \(nbf\)"),
        ({"exp": NOW - 3600}, "has expired"),
        ({"iat": None, "exp": NOW + 10**6}, "jwt_max_lifetime"),
        ({"exp": "soon"}, "malformed"),
        ({"secret": "y" * 40}, "JWT_SECRET"),
    ],
)
def test_the_error_names_the_problem_of_a_token(given: dict[str, Any], says: str) -> None:
    """The reason is in the error's text, for the operator's log."""
    with pytest.raises(TokenError, match=says):
        VERIFIER.verify(token(**given))


@pytest.mark.parametrize("leeway", [0, 30])
def test_the_leeway_is_exact(leeway: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token is valid from its beginning until its end, both extended by the leeway and no more."""
    monkeypatch.setattr(jwt_module.time, "time", lambda: float(NOW))
    monkeypatch.setattr(jwt_module, "LEEWAY", leeway)
    verifier = Verifier(make_settings())
    for good, bad in (
        ({"exp": NOW - leeway + 1}, {"exp": NOW - leeway}),
        ({"nbf": NOW + leeway}, {"nbf": NOW + leeway + 1}),
    ):
        assert verifier.verify(token(**good)).user_id == "u1"
        with pytest.raises(TokenError):
            verifier.verify(token(**bad))


def test_a_token_without_an_end() -> None:
    """In development a token may have neither `exp` nor `iat`: it opens sessions of the longest lifetime."""
    before = time.time()
    ends = VERIFIER.verify(token(iat=None, exp=None)).expires_at
    assert ends is not None
    assert before + 86400 <= ends.timestamp() <= time.time() + 86401


def test_claims_after_a_reload() -> None:
    """A verifier with new settings knows whether earlier claims are still valid."""
    earlier = Verifier(make_settings(jwt_previous_secrets="x" * 40, jwt_public_key=PUBLIC))
    ours, old, named = (
        earlier.verify(each)
        for each in (token(), token(secret="x" * 40), token(iss="https://app.example", aud=["chat", "x"]))
    )
    public = earlier.verify(jwt.encode(claims(), PRIVATE, algorithm="EdDSA"))
    now = Verifier(make_settings())
    assert [now.accepts(each) for each in (ours, old, named, public)] == [True, False, True, False]
    named_only = Verifier(make_settings(jwt_issuer="https://app.example", jwt_audience="chat"))
    assert [named_only.accepts(each) for each in (ours, named)] == [False, True]
    assert not Verifier(make_settings(jwt_issuer="https://other.example")).accepts(named)
    assert not Verifier(make_settings(jwt_audience="other")).accepts(named)
    assert Verifier(make_settings(jwt_public_key=PUBLIC)).accepts(public)


@given(st.text())
def test_any_text_is_refused(text: str) -> None:
    """No text that wasn't signed gets in, and none raises anything but TokenError."""
    assert refused(text) in (CloseCode.MISSING_TOKEN, CloseCode.INVALID_TOKEN)


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_any_parts_are_refused(header: bytes, payload: bytes, signature: bytes) -> None:
    """The same for texts that have a token's shape."""
    text = ".".join(
        base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in (header, payload, signature)
    )
    assert refused(text) is CloseCode.INVALID_TOKEN


def test_brackets_hidden_by_another_encoding() -> None:
    """In UTF-16 this letter has a byte that is a quotation mark in UTF-8: behind it brackets would hide."""
    hidden = ('{"alg":"HS256","x":["\u0122",' + "[" * 2000).encode("utf-16-le")
    text = part(hidden) + "." + part(claims()) + ".x"
    assert len(text) < jwt_module.MAX_TOKEN
    check_depth(hidden)  # does not see them
    assert refused(text) is CloseCode.INVALID_TOKEN
    with pytest.raises(ValueError, match="not UTF-8"):
        jwt_module._check_parts(text)
