"""What happens where the machine lacks something: another server, a skip with its reason, a failure in CI."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests import needs
from tests.servers import RedisServer, default_server


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A developer's machine with nothing on its PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(needs, "CHROMIUM_NAMES", ("chromium",))


def test_valkey_replaces_a_missing_redis() -> None:
    """Without redis-server the bundled Valkey is what tests get, and it starts."""
    assert default_server() == "valkey"
    server = RedisServer(needs.server()).start()
    server.stop()


@pytest.mark.parametrize(
    ("need", "says"),
    [
        (needs.headless_chromium, "needs Chromium .*apt-get install chromium"),
        (needs.node, "needs node .*apt-get install nodejs"),
        (lambda: needs.program("promtool", "get it there"), r"needs promtool \(get it there\)"),
        (needs.npm, "needs node "),
        (lambda: needs.server("redis"), "needs redis-server .*apt-get install redis-server"),
    ],
)
def test_a_missing_program_skips_and_fails_in_ci(
    need: object, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason says what is missing and how to get it; in CI nothing is skipped."""
    assert callable(need)
    with pytest.raises(pytest.skip.Exception, match=says):
        need()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=says):
        need()


def test_an_old_node(tmp_path: Path) -> None:
    """A Node that is too old counts as missing."""
    (tmp_path / "node").write_text("#!/bin/sh\necho v18.20.4\n")
    (tmp_path / "node").chmod(0o755)
    assert needs.node(18) == needs.node() == str(tmp_path / "node")
    with pytest.raises(pytest.skip.Exception, match=r"needs Node 20 or later instead of v18\.20\.4"):
        needs.node(20)


def test_npm_without_a_registry(tmp_path: Path) -> None:
    """A package that npm can't install counts as missing, like npm itself."""
    for program, code in (("node", 0), ("npm", 1)):
        (tmp_path / program).write_text(f"#!/bin/sh\necho no way >&2\nexit {code}\n")
        (tmp_path / program).chmod(0o755)
    with pytest.raises(pytest.skip.Exception, match=r"needs axe-core@1 from npm \(npm said: no way\)"):
        needs.npm_packages(tmp_path, "axe-core@1")


def test_a_platform_without_any_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the wheel has no Valkey either, tests that need a server are skipped."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(pytest.skip.Exception, match="apt-get install redis-server"):
        needs.server()
    with pytest.raises(pytest.skip.Exception, match="none for this platform"):
        needs.server("valkey")
