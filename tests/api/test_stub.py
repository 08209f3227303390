"""The stand-in for the application, as a process."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from typing import Any


def ask(url: str, body: Any = None, method: str | None = None, **headers: str) -> Any:
    """What a URL answers, as JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {k.replace("_", "-"): v for k, v in headers.items()}, method=method
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as response:
        return json.load(response)


def test_stub_runs_alone() -> None:
    """It says where it listens, saves, is told to fail, and tells what it has."""
    command = [sys.executable, "-m", "tests.api.stub", "--secret", "s", "--honour-keys"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            draft = {"content": "hello", "role": "USER", "userId": "u"}
            given = {"X_Internal_Secret": "s", "Idempotency_Key": "k"}
            first = ask(f"{url}/api/chats/c/messages/send", draft, **given)
            assert first["message"]["sender"]["name"] == "Name of u"
            assert ask(f"{url}/api/chats/c/messages/send", draft, **given) == first
            fault = {"mode": "status", "status": 200, "body": '{"error": "x"}', "times": 1}
            assert ask(f"{url}/control", fault) == {"mode": "status"}
            assert ask(f"{url}/api/chats/c/messages/send", draft, **given) == {"error": "x"}
            assert ask(f"{url}/api/users/u", **given)["email"] == "u@example.org"
            assert ask(f"{url}/saved?count=1") == {"count": 1, "requests": 4}
            assert ask(f"{url}/saved")["messages"][0]["key"] == "k"
            ask(f"{url}/saved", method="DELETE")
            assert ask(f"{url}/saved") == {"messages": [], "requests": 0}
        finally:
            process.terminate()
