"""Permissions: roles, tokens of every kind, and sessions that end with their token."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import ValidationError
from websockets.typing import Subprotocol

from eclipse_ws.config.key_material import MAX_KEY_FILE, KeyMaterialError, public_keys
from eclipse_ws.protocol import CloseCode
from eclipse_ws.security.jwt import MAX_TOKEN, TokenError, Verifier
from eclipse_ws.server import sweeper
from eclipse_ws.server.server import Server
from tests.client import Client, claims, http, running, token, until
from tests.conftest import SECRET, make_settings

OLD, OLDER = "an-earlier-secret-of-the-tests-which-is-long", "the-secret-before-that-one-which-is-long-too"


def pem(key: Any) -> str:
    """A private key's public half, as PEM."""
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()


def refusal(text: str, **given: object) -> TokenError:
    """Why a verifier with these settings refuses the token."""
    with pytest.raises(TokenError) as caught:
        Verifier(make_settings(**given)).verify(text)
    return caught.value


# -- roles --------------------------------------------------------------------------------------


async def visitor(server: Server, **given: object) -> Client:
    """A greeted session of a user without an account."""
    made = token(isAuthenticated=False, **given)
    return await Client.open(server.port, f"token={made}", greet=True)


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "command",
    [
        {"type": "message", "content": "I am an agent", "role": "AGENT", "clientMessageId": "k1"},
        {"type": "message", "content": "I am the assistant", "role": "ASSISTANT", "clientMessageId": "k1"},
        {"type": "agent_joined", "agentId": "a", "agentName": "The boss"},
    ],
)
async def test_a_visitor_cannot_speak_as_an_agent(command: dict[str, object]) -> None:
    """The role is checked against the token: `forbidden`, nothing is saved, the neighbour hears nothing."""
    async with (
        running() as server,
        await Client.join(server.port) as neighbour,
        await visitor(server, user="v") as client,
    ):
        await client.say(**command)
        error = await client.next("error")
        assert error["code"] == "forbidden"
        assert error["retryable"] is False
        assert error.get("clientMessageId") == command.get("clientMessageId")
        await client.quiet()
        await neighbour.quiet()
        assert await server.api.history("c1", 10) == []  # type: ignore[attr-defined]
        assert server.node.limits.refused["forbidden"] == 1


@pytest.mark.gen_test
async def test_a_visitor_may_do_what_visitors_do() -> None:
    """Messages as USER, typing and ping are a visitor's; the userId that is saved is the token's."""
    async with (
        running() as server,
        await Client.join(server.port) as neighbour,
        await visitor(server, user="v") as client,
    ):
        await client.say(type="typing", isTyping=True)
        assert (await neighbour.next("typing"))["data"]["userId"] == "v"
        await client.say(type="message", content="hello", role="USER", userId="somebody else")
        assert (await neighbour.next("message"))["data"]["sender"]["id"] == "v"
        await client.next("message")
        await client.quiet()


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("roles", "permitted"),
    [
        (["USER"], {"USER"}),
        (["AGENT", "unknown", 5], {"AGENT", "agent_joined"}),
        ("AGENT", {"AGENT", "agent_joined"}),
        ([], set()),
        ({"AGENT": True}, set()),
        (None, {"USER", "AGENT", "ASSISTANT", "agent_joined"}),
    ],
)
async def test_roles_restrict_an_account(roles: object, permitted: set[str]) -> None:
    """The claim `roles` leaves an account only those roles; an invalid one leaves none."""
    async with running() as server:
        made = token(user="agent_1", roles=roles)
        async with await Client.open(server.port, f"token={made}", greet=True) as client:
            for role in ("USER", "AGENT", "ASSISTANT"):
                await client.say(type="message", content="hello", role=role)
                event = await client.receive()
                assert (event["type"] == "message") is (role in permitted), (role, event)
            await client.say(type="agent_joined")
            assert (await client.receive())["type"] == (
                "agent_joined" if "agent_joined" in permitted else "error"
            )
            await client.quiet()


@pytest.mark.gen_test
async def test_accounts_without_the_claim_have_the_default_roles() -> None:
    """`default_roles` apply to accounts whose token has no roles; a reload changes them at once."""
    async with running(default_roles="user") as server:
        joined = await Client.join(server.port)
        named = await Client.open(server.port, f"token={token(roles=['AGENT'])}", greet=True)
        async with joined as plain, named as agent:
            for role in ("AGENT", "ASSISTANT"):
                await plain.say(type="message", content="I am an agent", role=role)
                assert (await plain.next("error"))["code"] == "forbidden"
            await plain.say(type="agent_joined")
            assert (await plain.next("error"))["code"] == "forbidden"
            await agent.say(type="message", content="hello", role="AGENT")
            assert (await plain.next("message"))["data"]["content"] == "hello"
            await plain.say(type="message", content="hello", role="USER")
            await plain.next("message")
            server.node.reload(make_settings(default_roles=("USER", "ASSISTANT")))
            await plain.say(type="message", content="hello", role="ASSISTANT")
            await plain.next("message")


def test_default_roles_are_roles() -> None:
    """The list is separated by commas, in any case; an unknown role is a problem."""
    assert make_settings(default_roles=" user, Agent ").default_roles == ("USER", "AGENT")
    assert make_settings().default_roles == ("USER", "ASSISTANT", "AGENT")
    with pytest.raises(ValidationError, match="default_roles"):
        make_settings(default_roles="USER,ADMIN")


def test_roles_never_widen() -> None:
    """A visitor whose token lists AGENT is still a visitor."""
    made = Verifier(make_settings()).verify(token(isAuthenticated=False, roles=["AGENT", "USER"]))
    assert made.permits("USER")
    assert not made.permits("AGENT")
    assert not made.permits("ASSISTANT")


# -- tokens -------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_symmetric_algorithms(algorithm: str) -> None:
    """The secret verifies all three, and its length causes no warning per token."""
    made = jwt.encode(claims(), "k" * 64, algorithm=algorithm)
    assert Verifier(make_settings(jwt_secret="k" * 64)).verify(made).user_id == "u1"
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        short = jwt.encode(claims(), "short", algorithm=algorithm)
    assert Verifier(make_settings(jwt_secret="short")).verify(short).user_id == "u1"


def test_previous_secrets_hold_during_a_rotation() -> None:
    """Tokens of the current and of each listed secret pass, all others do not."""
    verifier = Verifier(make_settings(jwt_previous_secrets=f"{OLD}, {OLDER}"))
    for secret in (SECRET, OLD, OLDER):
        assert verifier.verify(token(secret=secret)).user_id == "u1"
    assert "JWT_SECRET must be the same" in str(refusal(token(secret=OLD)))
    assert "InvalidSignature" in str(
        refusal(token(secret="z" * 40), jwt_previous_secrets=OLD, jwt_public_key=pem(RSA))
    )


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        *((RSA, name) for name in ("RS256", "RS384", "RS512")),
        (EC, "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ec.generate_private_key(ec.SECP521R1()), "ES512"),
        (ED, "EdDSA"),
    ],
    ids=str,
)
def test_public_keys(key: Any, algorithm: str, tmp_path: Path) -> None:
    """RSA, NIST and Edwards keys verify their own algorithms, from a setting, a file, or among others."""
    made = jwt.encode(claims(), key, algorithm=algorithm)
    path = tmp_path / "public.pem"
    path.write_text(pem(key))
    every = "\n".join(pem(each) for each in (RSA, EC, ED, key))
    for source in (pem(key), pem(key).replace("\n", "\\n"), str(path), every):
        assert Verifier(make_settings(jwt_public_key=source)).verify(made).user_id == "u1"
    assert refusal(made).close is CloseCode.INVALID_TOKEN


def unsigned(header: dict[str, object]) -> str:
    """An unsigned token with any header."""
    parts = (json.dumps(part).encode() for part in (header, claims()))
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + "."


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", "", "hs256", None, 5, ["HS256"]])
def test_a_token_without_an_algorithm_is_refused(algorithm: object) -> None:
    """`none` in any spelling, and every unsupported algorithm, is refused."""
    error = refusal(unsigned({"alg": algorithm, "typ": "JWT"}), jwt_public_key=pem(RSA))
    assert error.close is CloseCode.INVALID_TOKEN


def test_a_public_key_is_not_a_secret() -> None:
    """A token that HS256 signs with the public key's text is refused: each key has its own algorithms."""
    import hashlib
    import hmac

    head = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(claims()).encode()).rstrip(b"=")
    for text in (pem(RSA), pem(RSA).strip()):
        signature = hmac.new(text.encode(), head + b"." + body, hashlib.sha256).digest()
        forged = b".".join((head, body, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()
        for secret in (SECRET, ""):
            error = refusal(forged, jwt_secret=secret, jwt_public_key=pem(RSA))
            assert error.close is CloseCode.INVALID_TOKEN


def test_without_any_key_every_token_is_refused() -> None:
    """An empty secret verifies nothing, not even a token signed with an empty secret."""
    assert refusal(token(), jwt_secret="").close is CloseCode.INVALID_TOKEN


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("/nonexistent/key.pem", "can't be read"),
        ("\0", "can't be read"),
        ("-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----", "is not a public key"),
        ("-----BEGIN", "no PEM block"),
        (
            RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
            "private key",
        ),
        (pem(rsa.generate_private_key(65537, 1024)), "1024 bits"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "not RSA"),
    ],
    ids=["missing", "nul", "garbage", "cut", "private", "small", "curve"],
)
def test_an_invalid_public_key_is_refused(text: str, problem: str) -> None:
    """An unusable key is refused at the start, with a sentence that does not quote it."""
    with pytest.raises(KeyMaterialError, match=problem):
        public_keys(text)


def test_an_unreadable_public_key_file_is_refused(tmp_path: Path) -> None:
    """A key in DER, a file that is too long, and a folder each get their own sentence."""
    der = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for name, data, problem in (
        ("key.der", der, "no PEM block"),
        ("long.pem", b"x" * MAX_KEY_FILE, "no PEM block"),
        ("longer.pem", b"x" * (MAX_KEY_FILE + 1), f"more than {MAX_KEY_FILE} bytes"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(KeyMaterialError, match=problem):
            public_keys(str(tmp_path / name))
    with pytest.raises(KeyMaterialError, match="can't be read"):
        public_keys(str(tmp_path))


def test_issuer_and_audience() -> None:
    """If they are set, tokens must contain them; if not, they are ignored."""
    given = {"jwt_issuer": "https://app.example", "jwt_audience": "chat"}
    right = token(iss="https://app.example", aud=["other", "chat"])
    assert Verifier(make_settings(**given)).verify(right).user_id == "u1"
    assert Verifier(make_settings()).verify(right).user_id == "u1"
    for wrong in ({"iss": "x", "aud": "chat"}, {"iss": "https://app.example", "aud": "x"}, {}):
        assert refusal(token(**wrong), **given).close is CloseCode.INVALID_TOKEN  # type: ignore[arg-type]


def test_exp_nbf_and_leeway() -> None:
    """`exp` and `nbf` are checked with a leeway in seconds; production requires `exp`."""
    now = time.time()
    assert Verifier(make_settings()).verify(token(exp=int(now) - 1)).user_id == "u1"
    assert refusal(token(exp=int(now) - 10)).close is CloseCode.TOKEN_EXPIRED
    assert Verifier(make_settings()).verify(token(nbf=int(now) + 2)).user_id == "u1"
    assert refusal(token(nbf=int(now) + 10)).close is CloseCode.INVALID_TOKEN
    assert Verifier(make_settings()).verify(token(exp=None)).user_id == "u1"
    assert refusal(token(exp=None), profile="prod").close is CloseCode.INVALID_TOKEN


def test_a_huge_token_is_not_decoded() -> None:
    """A token beyond the maximum length is refused without decoding."""
    assert str(MAX_TOKEN) in str(refusal("e" * (MAX_TOKEN + 1)))


# -- sessions end with their token --------------------------------------------------------------


@pytest.mark.gen_test
@patch("eclipse_ws.security.jwt.LEEWAY", 0)
async def test_a_session_ends_with_its_token() -> None:
    """A session that can resume is closed with 4002 at `exp` plus the grace; a valid neighbour stays."""
    async with running(expiry_grace=25) as server:
        soon = int(time.time()) + 100
        made = token(exp=soon)
        async with (
            await Client.join(server.port, user="u2") as neighbour,
            await Client.open(server.port, f"token={made}&cursor=x", greet=True) as client,
        ):
            await server._sweeper.sweep(soon + 24, 0.0)
            await client.quiet()
            await server._sweeper.sweep(soon + 26, 0.0)
            assert await client.ended() == (4002, "Token expired")
            await neighbour.quiet()
            assert server.node.limits.refused["token_expired"] == 1


@pytest.mark.gen_test
async def test_the_sweeper_runs_by_itself(expect_log: Any) -> None:
    """An expired token ends its session without any request, also after a sweep that failed."""
    async with running(
        expiry_grace=0, expiry_grace_without_resume=0, **{"server.sweeper.INTERVAL": 0.01}
    ) as server:
        seen = server._sweeper._sessions
        calls = []

        def failing() -> Any:
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError("once")
            return seen()

        expect_log("sweep failed")
        server._sweeper._sessions = failing
        made = token(exp=int(time.time()) + 1)
        async with await Client.open(server.port, f"token={made}", greet=True) as client:
            assert await client.ended() == (4002, "Token expired")


@pytest.mark.gen_test
async def test_a_sweep_of_many_sessions_does_not_block_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A sweep of all sessions of a full node takes longer than a message may wait."""
    monkeypatch.setattr("eclipse_ws.server.sweeper.BATCH", 2)
    async with running(**{"server.sweeper.INTERVAL": 60}) as server, contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            await stack.enter_async_context(await Client.join(server.port))
        loop, turns = asyncio.get_running_loop(), list[int]()
        look = asyncio.create_task(server._sweeper.sweep(time.time(), 0.0))

        def turn() -> None:
            if not look.done():
                turns.append(1)
                loop.call_soon(turn)

        loop.call_soon(turn)
        await look
        assert len(turns) == 2


@pytest.mark.gen_test
async def test_a_session_that_ends_during_a_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that ends while the others are being checked doesn't disturb the check."""
    monkeypatch.setattr("eclipse_ws.server.sweeper.BATCH", 1)
    async with running(**{"server.sweeper.INTERVAL": 60}) as server:
        clients = [await Client.join(server.port) for _ in range(5)]
        sessions = server._sessions()
        server._sweeper._sessions = lambda: sessions
        look = asyncio.create_task(server._sweeper.sweep(time.time(), 0.0))
        await asyncio.sleep(0)
        sessions[-1].wire.abort()
        await look
        assert server.hub.sessions == 4
        for client in clients:
            await client.close()


@pytest.mark.gen_test
async def test_a_session_that_is_closing_does_not_expire() -> None:
    """A session that the application has disconnected gets no other close code, and is counted once."""
    async with running(**{"server.sweeper.INTERVAL": 3600}) as server:
        client = await Client.join(server.port)
        (session,) = server.hub.members()
        session.end(CloseCode.KICKED)
        for _ in range(2):
            await server._sweeper.sweep(time.time() + 100_000, 0.0)
        assert server.node.limits.refused["token_expired"] == 0
        assert (await client.ended())[0] == 4003


@pytest.mark.gen_test
async def test_a_refresh_extends_the_session() -> None:
    """A new token for the same user and chat is answered with the new end, and the old one is forgotten."""
    async with running() as server:
        soon = int(time.time()) + 100
        async with await Client.open(server.port, f"token={token(exp=soon)}", greet=True) as client:
            await client.say(type="refresh", token=token(exp=soon + 1000))
            event = await client.next("refreshed")
            assert event["expiresAt"] == time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(soon + 1000))
            await server._sweeper.sweep(soon + 500, 0.0)
            await client.quiet()


@pytest.mark.gen_test
async def test_a_session_without_an_expiry_ends() -> None:
    """A token without `exp`, accepted in development, doesn't open or extend a session forever."""
    async with running(jwt_max_lifetime=3600, expiry_grace_without_resume=0) as server:
        begun = int(time.time())
        made = token(exp=None)
        async with (
            await Client.open(server.port, f"token={made}", greet=True) as one,
            await Client.join(server.port) as other,
        ):
            assert one.connected["expiresAt"] >= time.strftime("%Y-%m-%dT%H", time.gmtime(begun + 3600))
            await other.say(type="refresh", token=token(exp=begun + 10**9))
            await other.next("refreshed")
            await server._sweeper.sweep(begun + 3500, 0.0)
            await one.quiet()
            await server._sweeper.sweep(begun + 3700, 0.0)
            for client in (one, other):
                assert await client.ended() == (4002, "Token expired")


async def page(server: Server, **given: object) -> Client:
    """A greeted session of a page that knows only the previous service."""
    return await Client.open(server.port, f"token={token(**given)}", path="/", greet=True)  # type: ignore[arg-type]


@pytest.mark.gen_test
@patch("eclipse_ws.security.jwt.LEEWAY", 0)
async def test_a_page_that_cannot_resume_stays() -> None:
    """A visitor's page that would lose messages by a reconnect outlives its token, says and hears what it did
    before, and goes at the operator's bound.
    """
    async with running(expiry_grace_without_resume=3600) as server:
        soon = int(time.time()) + 100
        async with (
            await Client.join(server.port, user="u2") as neighbour,
            await page(server, isAuthenticated=False, exp=soon) as visitor,
        ):
            for at in (soon + 26, soon + 3599):
                await server._sweeper.sweep(at, 0.0)
                await visitor.say(type="message", content="hello", role="USER")
                await visitor.next("message")
                await neighbour.next("message")
                await neighbour.say(type="message", content="hello", role="AGENT")
                assert (await visitor.next("message"))["data"]["role"] == "agent"
                await neighbour.next("message")
            await visitor.say(type="message", content="x", role="AGENT")
            assert (await visitor.next("error"))["code"] == "forbidden"
            await server._sweeper.sweep(soon + 3601, 0.0)
            assert await visitor.ended() == (4002, "Token expired")
            await neighbour.quiet()


@pytest.mark.gen_test
async def test_an_agents_page_without_an_expiry_stays() -> None:
    """So does an agent's page whose token has no `exp`, beyond `jwt_max_lifetime`; the application can still
    disconnect it.
    """
    async with running(jwt_max_lifetime=3600) as server:
        begun = int(time.time())
        agent = await page(server, user="agent_1", exp=None)
        await agent.say(type="agent_joined")
        await agent.next("agent_joined")
        await server._sweeper.sweep(begun + 3600 + 80_000, 0.0)
        await agent.say(type="message", content="still here", role="ASSISTANT")
        await agent.next("message")
        headers = {"X-Internal-Secret": SECRET}
        answer = await http(
            server.port, "/api/chats/c1/disconnect", "POST", {"userId": "agent_1"}, headers=headers
        )
        assert answer.json == {"disconnected": 1}
        assert (await agent.ended())[0] == 4003


@pytest.mark.gen_test
@pytest.mark.parametrize(
    "sign", ["cursor", "empty cursor", "events", "subprotocol", "key", "refused key", "refresh", "no grace"]
)
@patch("eclipse_ws.security.jwt.LEEWAY", 0)
async def test_a_client_that_can_resume_ends_with_its_token(sign: str) -> None:
    """One sign that a client can resume or refresh is enough, also one that is not honoured; and nobody stays
    where the operator says so.
    """
    given = {"expiry_grace_without_resume": 0} if sign == "no grace" else {}
    async with running(**given) as server:
        soon = int(time.time()) + 100
        query = f"token={token(exp=soon)}"
        query += {"cursor": "&cursor=nonsense", "empty cursor": "&cursor=", "events": "&events=other"}.get(
            sign, ""
        )
        offered = [Subprotocol("eclipse.v1")] if sign == "subprotocol" else None
        client = await Client.open(server.port, query, greet=True, subprotocols=offered)
        if sign == "key":
            await client.say(type="message", content="x", role="USER", clientMessageId="k1")
            await client.seek("ack")
        elif sign == "refused key":
            await client.say(type="message", content="", role="USER", clientMessageId="k1")
            await client.next("error")
        elif sign == "refresh":
            await client.say(type="refresh", token="nonsense")
            await client.next("error")
        await server._sweeper.sweep(soon + 24, 0.0)
        await client.quiet()
        await server._sweeper.sweep(soon + 26, 0.0)
        assert await client.ended() == (4002, "Token expired")
        assert server.node.limits.refused["token_expired"] == 1


@pytest.mark.gen_test
@patch("eclipse_ws.security.jwt.LEEWAY", 0)
async def test_a_removed_secret_ends_a_page_that_stayed() -> None:
    """A page that outlives its token still ends when the token's key is removed, and at a lower bound of a
    reload.
    """
    async with running(jwt_previous_secrets=OLD, **{"server.sweeper.INTERVAL": 3600}) as server:
        soon = int(time.time()) + 100
        removed, ours = await page(server, secret=OLD, exp=soon), await page(server, exp=soon)
        await server._sweeper.sweep(soon + 50, 0.0)
        server.node.reload(make_settings())
        await server._sweeper.sweep(soon + 51, 0.0)
        assert await removed.ended() == (4002, "Invalid token")
        await ours.quiet()
        server.node.reload(make_settings(expiry_grace_without_resume=40))
        await server._sweeper.sweep(soon + 52, 0.0)
        assert await ours.ended() == (4002, "Token expired")


@pytest.mark.gen_test
@patch("eclipse_ws.security.jwt.LEEWAY", 0)
async def test_messages_before_the_expiry_are_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that expires while its messages are being saved is closed after their acks."""
    async with running() as server:
        gate, send = asyncio.Event(), server.api.send_message

        async def slow(*given: Any, **named: Any) -> Any:
            await gate.wait()
            return await send(*given, **named)

        monkeypatch.setattr(server.api, "send_message", slow)
        soon = int(time.time()) + 100
        client = await Client.open(server.port, f"token={token(exp=soon)}", greet=True)
        for key in ("k1", "k2"):
            await client.say(type="message", content=key, role="USER", clientMessageId=key)
        await until(lambda: server.node.under_way == 2)
        await server._sweeper.sweep(soon + 26, 0.0)
        gate.set()
        for key in ("k1", "k2"):
            assert (await client.seek("ack"))["clientMessageId"] == key
        assert await client.ended() == (4002, "Token expired")


@pytest.mark.gen_test
@pytest.mark.parametrize("exp", [str(int(time.time()) + 3600), True, "9" * 30])
async def test_an_expiry_that_is_not_a_number(exp: object) -> None:
    """A token whose `exp` is not a number neither opens nor extends a session."""
    async with running() as server, await Client.join(server.port) as neighbour:
        client = await Client.open(server.port, f"token={token(exp=exp)}")
        assert await client.ended() == (4002, "Invalid token")
        await neighbour.say(type="refresh", token=token(exp=exp))
        assert (await neighbour.next("error"))["code"] == "invalid_token"


@pytest.mark.gen_test
async def test_a_removed_secret_ends_its_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions of a secret removed by a reload end with 4002, a few per sweep; a refresh keeps the others."""
    monkeypatch.setattr(sweeper, "MAX_REVOKED", 2)
    async with running(jwt_previous_secrets=OLD, **{"server.sweeper.INTERVAL": 3600}) as server:
        made = token(secret=OLD)
        removed = [await Client.open(server.port, f"token={made}", greet=True) for _ in range(3)]
        refreshed = await Client.open(server.port, f"token={made}", greet=True)
        await refreshed.say(type="refresh", token=token())
        await refreshed.next("refreshed")
        back = await Client.join(server.port)
        await back.say(type="refresh", token=made)
        await back.next("refreshed")
        async with refreshed, await Client.join(server.port) as ours:
            server.node.reload(make_settings())
            for ended in (2, 4, 4):
                await server._sweeper.sweep(time.time(), 0.0)
                assert server.node.limits.refused["token_revoked"] == ended
            for client in (*removed, back):
                assert await client.ended() == (4002, "Invalid token")
            await refreshed.quiet()
            await ours.quiet()


@pytest.mark.gen_test
async def test_a_reload_during_a_sweep_ends_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that has refreshed its token with the new secret is not judged by its old token."""
    monkeypatch.setattr(sweeper, "BATCH", 1)
    async with running(jwt_secret=OLD, **{"server.sweeper.INTERVAL": 3600}) as server:
        async with await Client.open(server.port, f"token={token(secret=OLD)}", greet=True) as client:
            look = asyncio.create_task(server._sweeper.sweep(time.time(), 0.0))
            await asyncio.sleep(0)
            server.node.reload(make_settings())
            (session,) = server._sessions()
            session.refresh(token())
            assert not look.done()
            await look
            await client.next("refreshed")
            await client.quiet()
        assert server.node.limits.refused["token_revoked"] == 0


@pytest.mark.gen_test
async def test_a_removed_secret_ends_a_session_that_was_joining(monkeypatch: pytest.MonkeyPatch) -> None:
    """A session that was joining at the reload is checked as soon as it has joined."""
    async with running(jwt_previous_secrets=OLD, **{"server.sweeper.INTERVAL": 3600}) as server:
        gate, subscribe = asyncio.Event(), server.delivery.subscribe

        async def waiting(chat_id: str) -> None:
            await gate.wait()
            await subscribe(chat_id)

        monkeypatch.setattr(server.delivery, "subscribe", waiting)
        client = await Client.open(server.port, f"token={token(secret=OLD)}")
        await until(lambda: server.node.sessions == 1)
        server.node.reload(make_settings())
        await server._sweeper.sweep(time.time(), 0.0)
        gate.set()
        await client.next("connected")
        await server._sweeper.sweep(time.time(), 0.0)
        assert await client.ended() == (4002, "Invalid token")


@pytest.mark.gen_test
@pytest.mark.parametrize(
    ("given", "code", "text"),
    [
        ({"user": "somebody"}, "forbidden", "The token is for another user or chat"),
        ({"chat": "elsewhere"}, "forbidden", "The token is for another user or chat"),
        ({"secret": "not-the-secret-but-long-enough-for-one"}, "invalid_token", "Invalid token"),
        ({"exp": 1}, "token_expired", "Token expired"),
    ],
)
async def test_a_refresh_with_a_wrong_token_changes_nothing(
    given: dict[str, Any], code: str, text: str
) -> None:
    """Another user, chat or signer, or an expired token: an error, and the session continues unchanged."""
    async with running() as server:
        soon = int(time.time()) + 100
        async with await Client.open(server.port, f"token={token(exp=soon)}", greet=True) as client:
            await client.say(type="refresh", token=token(**given))
            error = await client.next("error")
            assert (error["code"], error["error"], error["retryable"]) == (code, text, False)
            await client.quiet()
            await server._sweeper.sweep(soon + 26, 0.0)
            assert await client.ended() == (4002, "Token expired")


@pytest.mark.gen_test
async def test_a_refresh_may_take_rights_away() -> None:
    """The claims of the newest token apply, also if they allow less."""
    async with running() as server, await Client.join(server.port) as client:
        await client.say(type="refresh", token=token(isAuthenticated=False))
        await client.next("refreshed")
        await client.say(type="message", content="x", role="AGENT")
        assert (await client.next("error"))["code"] == "forbidden"


def test_an_encrypted_private_key_is_still_a_private_key() -> None:
    """A private key is refused in every format."""
    wrapped = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode()
    with pytest.raises(KeyMaterialError, match="private"):
        public_keys(wrapped)
