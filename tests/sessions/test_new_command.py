"""A new command touches two files: `protocol/commands.py` and `sessions/commands.py`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
STRUCT = '''
class Praise(BaseCommand, tag="praise", rename="camel"):
    """An agent praises a message."""

    message_id: str


Command = Praise | '''
HANDLER = """
    async def _praise(
        self, session: Speaker, claims: Claims, chat_id: str, command: protocol.commands.Praise
    ) -> None:
        session.send(b'{"type":"praised","messageId":"%b"}' % command.message_id.encode())


ROWS: """
ROW = """    for row in (
        Row(protocol.commands.Praise, lambda command: "AGENT", None, Commands._praise),
"""
PROGRAM = """
import asyncio, json

from eclipse_ws.protocol import documents
from tests.client import Client, http, running, token


async def main():
    async with running() as server:
        agent = await Client.join(server.port)
        query = f"token={token(isAuthenticated=False)}"
        visitor = await Client.open(server.port, query, greet=True)
        heard = []
        for client, said in ((agent, {"messageId": "m1"}), (agent, {}), (visitor, {"messageId": "m1"})):
            await client.say(type="praise", **said)
            heard.append(await client.receive())
        page = (await http(server.port, "/metrics")).body.decode()
        counted = [line for line in page.splitlines() if 'type="praise"' in line]
        await agent.close()
        await visitor.close()
    print(json.dumps({"heard": heard, "counted": counted, "document": documents.asyncapi()}))


asyncio.run(main())
"""


def edit(path: Path, old: str, new: str) -> None:
    """Replace the only occurrence."""
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{path} has not one {old!r}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_new_command_touches_two_files(tmp_path: Path) -> None:
    """Its struct and its row are enough for decoding, permission, errors, metrics and documents."""
    for name in ("eclipse_ws", "conf"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    edit(tmp_path / "eclipse_ws/protocol/commands.py", "\nCommand = ", STRUCT)
    edit(tmp_path / "eclipse_ws/sessions/commands.py", "\nROWS: ", HANDLER)
    edit(tmp_path / "eclipse_ws/sessions/commands.py", "    for row in (\n", ROW)
    # Coverage is of the package itself, not of this copy, which is gone when it is reported.
    env = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**env, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    told = json.loads(run.stdout.splitlines()[-1])
    praised, wrong, refused = told["heard"]
    assert praised == {"type": "praised", "messageId": "m1"}
    assert (wrong["type"], wrong["code"]) == ("error", "malformed")
    assert (refused["type"], refused["code"]) == ("error", "forbidden")
    assert told["counted"] == ['eclipse_commands_total{type="praise"} 1.0']
    payload = told["document"]["components"]["schemas"]["Praise"]
    assert payload["description"] == "An agent praises a message."
    assert payload["properties"]["type"] == {"enum": ["praise"]}
