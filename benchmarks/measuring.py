"""What every work needs: put a load on a server, and see whether it was well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.loads import Load, run
from benchmarks.processes import CannotRunError
from benchmarks.servers import Server

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
        said = " ".join(node.said() for node in running.nodes).strip()
    failed = results[0]["failed"]
    if failed:
        raise CannotRunError(
            f"{failed} members could not connect, the server said: {said[-300:] or 'nothing'}"
        )
    return results


def others(results: list[dict[str, Any]]) -> float:
    """The largest share of a core that strangers used in a phase."""
    return float(max(result["others"] for result in results[1:] or results))
