"""What every work needs: put a load on a server, and see whether it was well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.loads import Load, run
from benchmarks.processes import CannotRunError
from benchmarks.servers import Server
from eclipse_ws.config.settings import Settings
from eclipse_ws.server.file_descriptors import allowed, needed

Values = dict[str, float]
Measured = tuple[Values, float]
"""Values by their names, and the share of a core that strangers used meanwhile."""
WARM = "flood:1:2"  # not measured: compilers compile, and connections to the chat API are made


@dataclass(frozen=True)
class Work:
    """Something to measure: `measure(server, seconds)`."""

    name: str
    servers: tuple[Server, ...]
    measure: Callable[[Server, float], Measured]
    measurements: tuple[str, ...]

    def gives(self, measurement: str) -> bool:
        """Whether the measurement comes from here."""
        return measurement in self.measurements


def put(
    server: Server, load: Load, nodes: int = 1, began: Callable[[], object] = bool
) -> list[dict[str, Any]]:
    """Start the server and put the load on it. Raises CannotRunError if a member can't connect.

    `began` is called when a phase begins. See `loads.run` for the answer.
    """
    with server.start(nodes) as running:
        results = run(server, running, load, began)
        said = " ".join(node.said() for node in running.nodes).strip() or "nothing"
    check(results, said)
    return results


def check(results: list[dict[str, Any]], said: str = "nothing") -> None:
    """Raise CannotRunError if a member could not connect."""
    if failed := results[0]["failed"]:
        raise CannotRunError(f"{failed} members could not connect, the server said: {said[-300:]}")


def room_for(sessions: int) -> None:
    """Raise CannotRunError if our server can't have the file descriptors that it wants for the sessions."""
    need, most = needed(Settings(max_sessions=sessions)), allowed()
    if most is not None and most < need:
        raise CannotRunError(
            f"{sessions:,} sessions in one process need {need:,} file descriptors, {most:,} are allowed "
            "(raise `ulimit -Hn`, which needs CAP_SYS_RESOURCE)"
        )


def others(results: list[dict[str, Any]]) -> float:
    """The largest share of a core that strangers used in a phase."""
    return float(max(result["others"] for result in results[1:] or results))
