"""`python -m benchmarks.profile`: a flame graph of this server under each load, and where its time goes."""

from __future__ import annotations

import argparse
import collections
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from benchmarks.loads import ARTEFACTS, Load, run
from benchmarks.processes import CannotRunError, NotInstalledError, raise_file_limit
from benchmarks.servers import MESSAGE, OURS, OURS_REDIS, Server

SECONDS = 4
RATE = 500  # samples a second
LOADS: dict[str, tuple[Server, Load]] = {
    "fan-out": (OURS, Load(1, 1000, [f"flood:4:{SECONDS + 2}"])),
    "pairs": (OURS, Load(2500, 2, [f"flood:1:{SECONDS + 2}"])),
    "message-path": (OURS, Load(500, 2, [f"flood:1:{SECONDS + 2}"], MESSAGE)),
    "message-path-redis": (OURS_REDIS, Load(500, 2, [f"flood:1:{SECONDS + 2}"], MESSAGE)),
    "connects": (OURS, Load(9000, 2, [])),
    "connects-redis": (OURS_REDIS, Load(9000, 2, [])),
}


def profile(name: str) -> None:
    """One load's flame graph, and the functions that were running most often."""
    spy = Path(sys.executable).with_name("py-spy")
    if not spy.exists() and shutil.which("py-spy") is None:
        raise NotInstalledError("py-spy is not installed (pip install -r requirements/bench.txt)")
    program = str(spy) if spy.exists() else "py-spy"
    server, load = LOADS[name]
    graph, raw = ARTEFACTS / f"profile-{name}.svg", ARTEFACTS / f"profile-{name}.txt"
    with server.start(1) as running:
        pid = str(running.nodes[0].pids()[0])
        # Connects are over soon: from their beginning. Everything else: once all are connected.
        started = threading.Event()
        if not load.phases:
            started.set()
        loading = threading.Thread(target=lambda: run(server, running, load, started.set))
        loading.start()
        started.wait(60)
        argv = [
            program,
            "record",
            "--pid",
            pid,
            "--duration",
            str(SECONDS),
            "--rate",
            str(RATE),
            "--nonblocking",
        ]
        done = subprocess.run(
            [*argv, "--format", "raw", "--output", str(raw)], capture_output=True, text=True, check=False
        )
        loading.join()
    if done.returncode:
        raise CannotRunError(f"py-spy failed (it may need to be root): {done.stderr.strip()[-300:]}")
    _draw(raw, graph, name)
    print(f"\n{name}: {graph}")
    for line in _busiest(raw):
        print(f"  {line}")


def _busiest(raw: Path, count: int = 12) -> Iterator[str]:
    own: collections.Counter[str] = collections.Counter()
    for stack, samples in _stacks(raw):
        own[stack[-1]] += samples
    total = sum(own.values()) or 1
    for frame, samples in own.most_common(count):
        yield f"{samples / total:5.1%}  {frame}"


def _stacks(raw: Path) -> Iterator[tuple[list[str], int]]:
    for line in raw.read_text(encoding="utf-8").splitlines():
        stack, _, samples = line.rpartition(" ")
        yield stack.split(";"), int(samples)


def _draw(raw: Path, graph: Path, title: str) -> None:
    """A flame graph as SVG: a box for each function, as wide as the time that it and its callees took."""
    from html import escape

    tree: dict[str, list[object]] = {}
    root: list[object] = [0, tree]
    for stack, samples in _stacks(raw):
        node = root
        node[0] += samples  # type: ignore[operator]
        for frame in stack:
            children: dict[str, list[object]] = node[1]  # type: ignore[assignment]
            node = children.setdefault(frame.rpartition(":")[0] or frame, [0, {}])
            node[0] += samples  # type: ignore[operator]
    width, row, boxes, deepest = 1400.0, 17, [], 0

    def put(node: list[object], name: str, x: float, depth: int) -> None:
        nonlocal deepest
        samples: int = node[0]  # type: ignore[assignment]
        wide = width * samples / max(1, root[0])  # type: ignore[call-overload]
        if wide < 1:
            return
        deepest = max(deepest, depth)
        share = f"{samples / max(1, root[0]):.1%}"  # type: ignore[call-overload]
        hue = sum(map(ord, name)) % 50
        shown = escape(name[: int(wide / 6.5)]) if wide > 20 else ""
        boxes.append(
            f"<g><title>{escape(name)} {share}</title>"
            f'<rect x="{x:.1f}" y="{20 + depth * row}" width="{wide:.1f}" '
            f'height="{row - 1}" fill="hsl({hue},80%,68%)" rx="1"/>'
            f'<text x="{x + 2:.1f}" y="{32 + depth * row}">{shown}</text></g>'
        )
        children: dict[str, list[object]] = node[1]  # type: ignore[assignment]
        for child, below in sorted(children.items()):
            put(below, child, x, depth + 1)
            x += width * below[0] / max(1, root[0])  # type: ignore[operator,call-overload]

    put(root, title, 0, 0)
    graph.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {40 + (deepest + 1) * row}" '
        f'font-family="monospace" font-size="11">{"".join(boxes)}</svg>\n',
        encoding="utf-8",
    )


def main() -> int:
    """Profile what was asked for, or everything."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.profile", description=__doc__)
    parser.add_argument("loads", nargs="*", help=f"of: {', '.join(LOADS)}; all without one")
    chosen = parser.parse_args().loads or list(LOADS)
    unknown = [name for name in chosen if name not in LOADS]
    if unknown:
        parser.error(f"there is no load {unknown[0]!r}; there are {', '.join(LOADS)}")
    raise_file_limit()
    ARTEFACTS.mkdir(exist_ok=True)
    try:
        for name in chosen:
            profile(name)
    except CannotRunError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
