"""Many clients of one node: the short form of `python -m tests.js.herd`."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests import needs
from tests.browser.stage import ServerProcess
from tests.js.herd import Herd, restart


@pytest.mark.slow
def test_all_clients_of_a_killed_node_reconnect(tmp_path: Path) -> None:
    """A node is killed and restarted: every client reconnects, without a storm of attempts."""
    node = needs.node()
    server = ServerProcess(tmp_path).start()
    herd = Herd(node, f"{server.url}/api/ws/token", 40)
    try:
        assert herd.report()["back"] == 40
        done = restart(server, herd, signal.SIGKILL)
        assert done["back"] == 40
        assert done["attempts"] < 40 * 20
    finally:
        herd.end()
        server.end()
