"""The stand-in for the application, as a process."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def ask(url: str, body: Any = None, method: str | None = None, **headers: str) -> Any:
    """A URL's answer, as JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {k.replace("_", "-"): v for k, v in headers.items()}, method=method
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as response:
        return json.load(response)


DRAFT = {"content": "hello", "role": "USER", "userId": "u"}


@contextmanager
def running(*arguments: str) -> Iterator[str]:
    """The stand-in as a process; its URL."""
    command = [sys.executable, "-m", "tests.application.stub", "--secret", "s", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def refusal(url: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], str]:
    """The status, headers and body of an answer that is an error to ``urllib``."""
    try:
        ask(url, body, **headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read().decode()
    raise AssertionError("the request succeeded")


def test_the_stub_runs_as_a_program() -> None:
    """It prints where it listens, saves, accepts a fault, and reports what it has saved."""
    with running("--honour-keys") as url:
        given = {"X_Internal_Secret": "s", "Idempotency_Key": "k"}
        first = ask(f"{url}/api/chats/c/messages/send", DRAFT, **given)
        assert first["message"]["sender"]["name"] == "Name of u"
        assert ask(f"{url}/api/chats/c/messages/send", DRAFT, **given) == first
        fault = {"mode": "status", "status": 200, "body": '{"error": "x"}', "times": 1}
        assert ask(f"{url}/control", fault) == {"mode": "status"}
        assert ask(f"{url}/api/chats/c/messages/send", DRAFT, **given) == {"error": "x"}
        assert ask(f"{url}/api/users/u", **given)["email"] == "u@example.org"
        assert ask(f"{url}/saved?count=1") == {"count": 1, "requests": 4}
        assert ask(f"{url}/saved")["messages"][0]["key"] == "k"
        ask(f"{url}/saved", method="DELETE")
        assert ask(f"{url}/saved") == {"messages": [], "requests": 0}


def test_it_answers_as_the_application_does() -> None:
    """A visitor becomes a temporary user, a long message is taken, and the database's refusals are 500."""
    with running("--users", "desk,7") as url:
        send, secret = f"{url}/api/chats/c/messages/send", {"X_Internal_Secret": "s"}
        long = {"content": "x" * 80_000, "role": "USER", "userId": "anon_1_x"}
        message = ask(send, long, **secret)["message"]
        assert (message["content"], message["role"]) == (long["content"], "USER")
        assert message["sender"]["email"] == "anon_1_x@anonymous.temp"
        assert not message["sender"]["id"].startswith("anon_")
        assert ask(send, {**DRAFT, "userId": "desk"}, **secret)["message"]["sender"]["id"] == "desk"
        for fields in ({"userId": "smoke-0"}, {"userId": "deleted_1"}, {"userId": "desk", "content": "a\0b"}):
            status, _, body = refusal(send, {**DRAFT, **fields}, **secret)
            assert status == 500
            assert json.loads(body)["error"] == "Failed to send message"
        assert refusal(f"{url}/api/users/smoke-0", **secret)[0] == 404
        status, headers, _ = refusal(f"{send}/", DRAFT, **secret)
        assert (status, headers["Location"]) == (308, "/api/chats/c/messages/send")


def test_it_answers_as_other_applications_do() -> None:
    """Numbers for ids and times, no sender, slashes, deployment protection and delays are options."""
    options = ["--numbers", "--no-sender", "--trailing-slash", "--bypass", "b", "--delay", "0.001"]
    with running(*options) as url:
        send, secret = f"{url}/api/chats/c/messages/send", {"X_Internal_Secret": "s"}
        status, headers, body = refusal(f"{send}/", DRAFT, **secret)
        assert (status, headers["Content-Type"]) == (401, "text/html; charset=utf-8")
        assert "<html>" in body
        secret["x_vercel_protection_bypass"] = "b"
        status, headers, _ = refusal(send, DRAFT, **secret)
        assert (status, headers["Location"]) == (308, "/api/chats/c/messages/send/")
        message = ask(f"{send}/", DRAFT, **secret)["message"]
        assert (message["id"], message["sender"]) == (1, None)
        assert message["createdAt"] > 1_700_000_000_000
        assert ask(f"{url}/api/users/7/", **secret)["id"] == 7
